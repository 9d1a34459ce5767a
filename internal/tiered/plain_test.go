//go:build go1.25

package tiered

import (
	"testing"
	"time"
)

// Sessions without a trailer, which other libraries have written.

func minutesAgo(n int) time.Time { return time.Now().Add(-time.Duration(n) * time.Minute) }

// icza/gaesession's background saves do not arrive: the session is in Memcache
// alone.
func TestAnOldSessionThatIsInTheCacheAloneIsSavedWithItsFirstChange(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &services{}
				s.putOldItem(old("a=1 b=1", minutesAgo(1)))
				expect(t, "before", s.request(t, "judge").see(), "a=1 b=1")
				must(t, change(s.opened(t, "A"), "b=2"))
				s.expectKept(t, "a=1 b=2")
			})
		})
	}
}

func TestAReadSavesAnOldSessionThatIsInTheCacheAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		s.putOldItem(old("a=1", minutesAgo(1)))
		ends := minutesAgo(1).Add(timeout)
		must(t, s.opened(t, "reader").settle())
		expect(t, "cached", s.cached(), "a=1")
		expect(t, "record's end", s.record.Expires, ends)
		s.expectKept(t, "a=1")
	})
}

// dsoprea's sessions do not say when they were used, or end.
func TestAReadDoesNotLoseASessionOfWhichNobodyKnowsWhenItEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		s.putOldItem([]byte("a=1 b=1"))
		must(t, s.opened(t, "reader").settle())
		expect(t, "now", s.request(t, "judge").see(), "a=1 b=1")
		must(t, s.opened(t, "A").update("b=2"))
		s.expectKept(t, "a=1 b=2")
	})
}

func TestASessionOfWhichNobodyKnowsWhenItEndsIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		s.putOldItem([]byte("a=1 b=1"))
		r := s.opened(t, "A")
		s.fail("A", "backup")
		_, err := r.take("a=2")
		expectErr(t, "take", err, errDown)
		s.well()
		expect(t, "after a take that failed", s.request(t, "judge").see(), "a=1 b=1")
		v, err := s.opened(t, "A").take("a=2")
		must(t, err)
		expect(t, "taken", v, "a=2 b=1")
		s.expectRemoved(t)
	})
}

func TestWhereBothServicesHaveASessionOfUnknownTimeTheRecordDecides(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		s.putOldItem([]byte("a=1 b=1"))
		s.putOldRecord([]byte("a=0 c=0"), time.Now().Add(timeout))
		must(t, s.opened(t, "A").update("x=1"))
		m := words(s.opened(t, "judge").l.Value())
		expect(t, "a", m["a"], "0")
		expect(t, "x", m["x"], "1")
		expect(t, "in the backup as in the cache", s.backedUp(), s.request(t, "judge").see())
	})
}

func TestAnOldItemThatIsNewerThanItsRecordWins(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &services{}
				s.putOldRecord(old("a=0 b=0 d=0", minutesAgo(2)), time.Now().Add(timeout))
				s.putOldItem(old("a=1 b=0", minutesAgo(1))) // its save did not arrive
				must(t, change(s.opened(t, "A"), "b=1"))
				s.expectKept(t, "a=1 b=1")
			})
		})
	}
}

func TestAnOldItemThatIsOlderThanItsRecordGivesWay(t *testing.T) {
	for name, record := range map[string]func(s *services){
		"an old record": func(s *services) {
			s.putOldRecord(old("a=1 b=0", minutesAgo(1)), time.Now().Add(timeout))
		},
		"a new record": func(s *services) {
			s.putOldRecord(old("a=0 b=0 d=0", minutesAgo(3)), time.Now().Add(timeout))
			r := s.request(nil, "N")
			r.l, _ = r.st.LoadBackup(r.ctx, id)
			c := r.change("a=1 -d")
			c.Value = old("a=1 b=0", time.Now())
			_, _ = r.st.Update(r.ctx, id, r.l, c)
			s.flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := &services{}
				record(s)
				s.putOldItem(old("a=0 b=0 d=0", minutesAgo(2)))
				must(t, s.opened(t, "A").update("b=1"))
				s.expectKept(t, "a=1 b=1")
			})
		})
	}
}

func TestAnOldRecordIsRefilledAndChangedInSixCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		s.putOldRecord(old("a=1 b=1", minutesAgo(1)), time.Now().Add(timeout))
		must(t, s.opened(t, "A").settle())
		expect(t, "cached", s.cached(), "a=1 b=1")
		s.forgetCalls()
		must(t, s.opened(t, "A").update("b=2"))
		s.expectKept(t, "a=1 b=2")
	})
}

// A client goes to and fro between an old instance and a new one. The old one
// saves what it has loaded whole, in Memcache and later in Datastore.
func TestAClientMayGoToAndFroBetweenOldAndNewInstances(t *testing.T) {
	for name, change := range changes {
		for kept, inBackup := range map[string]bool{"both saved": true, "the old in the cache alone": false} {
			t.Run(name+", "+kept, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := &services{}
					s.putOldItem(old("a=0 b=0", time.Now()))
					for _, turn := range []struct{ mine, theirs, want string }{
						{"a=1", "b=1", "a=1 b=1"},
						{"-b", "a=2", "a=2"},
						{"b=3", "-a", "b=3"},
						{"a=4", "b=4", "a=4 b=4"},
					} {
						time.Sleep(time.Second)
						must(t, change(s.opened(t, "A"), turn.mine))
						time.Sleep(time.Second)
						drain(t)
						other := s.opened(t, "old")
						v := old(shown(other.change(turn.theirs).Value), time.Now())
						s.putOldItem(v)
						if inBackup {
							s.putOldRecord(v, time.Now().Add(timeout))
						}
						expect(t, "now", s.request(t, "judge").see(), turn.want)
					}
					time.Sleep(time.Second)
					must(t, change(s.opened(t, "A"), "z=1"))
					s.expectKept(t, "a=4 b=4 z=1")
				})
			})
		}
	}
}

func TestABackgroundSaveGivesWayToAnOldInstanceThatHasSeenItsChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0 b=0")
		save := s.hold("A", "backup.begin", false)
		must(t, s.opened(t, "A").updateAsync("a=1 b=1"))
		time.Sleep(time.Second)
		v := old("a=2 b=1", time.Now()) // it has loaded a=1 b=1
		s.putOldItem(v)
		s.putOldRecord(v, time.Now().Add(timeout))
		save()
		s.expectKept(t, "a=2 b=1")
	})
}

// What A has committed is not in the record any more when A publishes it: an old
// instance has overwritten it there, and then C has changed the record.
func TestALatePublishDoesNotHideWhatAnOldInstanceHasOverwrittenInTheRecord(t *testing.T) {
	for name, inCache := range map[string]bool{"that was in the cache before": true, "that was not": false} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "b=0")
				time.Sleep(time.Second)
				v := old("b=1", time.Now())
				s.putOldItem(v)
				time.Sleep(time.Second)
				a, c := s.opened(t, "A"), s.opened(t, "C")
				publish := s.hold("A", "backup.commit", true)
				change := a.update
				if inCache {
					change = a.updateAsync
				}
				ended := started(func() error { return change("a=1") })
				s.putOldRecord(v, time.Now().Add(timeout))
				must(t, c.update("c=1"))
				publish()
				must(t, ended())
				drain(t)
				expect(t, "cached", s.cached(), "unsaved a=1 b=1 c=1")
				must(t, s.opened(t, "D").update("d=1"))
				s.expectKept(t, "a=1 b=1 c=1 d=1")
			})
		})
	}
}

// C's publish is not late because the item has what the record does not have any
// more. Were it taken for late, it would leave nothing that shows A's to be.
func TestWhatAnOldInstanceHasOverwrittenDoesNotMakeAPublishLate(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "b=0")
		time.Sleep(time.Second)
		v := old("b=0", time.Now())
		s.putOldItem(v)
		s.putOldRecord(v, time.Now().Add(timeout))
		publish := s.hold("A", "backup.commit", true)
		a, b := s.opened(t, "A"), s.opened(t, "B")
		time.Sleep(time.Second)
		v = old("b=1", time.Now())
		s.putOldItem(v)
		time.Sleep(time.Second)
		c := s.opened(t, "C")
		ended := started(func() error { return a.update("a=1") })
		must(t, b.update("x=1"))
		expect(t, "cached", s.cached(), "unsaved a=1 b=1 x=1")
		s.putOldRecord(v, time.Now().Add(timeout))
		must(t, c.update("c=1"))
		publish()
		must(t, ended())
		must(t, s.opened(t, "D").update("d=1"))
		s.expectKept(t, "a=1 b=1 c=1 d=1 x=1")
	})
}
