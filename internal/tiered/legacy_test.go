//go:build go1.25

package tiered

import (
	"testing"
	"time"
)

func TestWhatAnOldInstanceLetExpireIsLiveIfItWasUsedSince(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.putOldRecord(old("a=0", minutesAgo(40)), minutesAgo(10))
		must(t, s.opened(t, "A").update("a=1"))
		s.expectKept(t, "a=1")
	})
}

func TestAnOldRecordEndsWhenTheRecordSays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		ends := time.Now().Add(time.Hour)
		s.putOldRecord(old("a=1", time.Now()), ends)
		expect(t, "ends", s.opened(t, "A").l.Ends(), ends)
		must(t, s.opened(t, "A").settle())
		must(t, s.opened(t, "A").update("a=2"))
		expect(t, "nothing is unsaved", s.cached(), "a=2")
	})
}

// An old instance has read the session, and writes it back over a change: the
// record lacks the change then, while the item has it.
func TestWhatAnOldInstanceOverwroteInTheBackupIsSavedAgain(t *testing.T) {
	for name, next := range map[string]func(r *request) error{
		"by a change":               func(r *request) error { return r.load().update("z=1") },
		"by an asynchronous change": func(r *request) error { return r.load().updateAsync("z=1") },
		"after a change made from the record": func(r *request) error {
			l, err := r.st.LoadBackup(r.ctx, id) // as when the cache fails its get
			if err != nil {
				return err
			}
			r.l = l
			return r.update("z=1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0 b=0")
				time.Sleep(time.Minute)
				overwriting := old("a=0 b=0", time.Now()) // it has read this
				time.Sleep(time.Second)
				must(t, s.opened(t, "A").update("a=1 n=1 -b"))
				s.putOldRecord(overwriting, time.Now().Add(timeout))
				time.Sleep(time.Second)
				must(t, next(s.request(t, "B")))
				drain(t)
				expect(t, "now", s.request(t, "judge").see(), "a=1 n=1 z=1")
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				s.expectKept(t, "a=1 n=1 z=1")
			})
		})
	}
}

// The item is gone, and somebody has read it before.
func TestWhatAnOldInstanceOverwroteIsSavedByWhoHasSeenIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		overwriting := old("a=0", time.Now())
		time.Sleep(time.Second)
		must(t, s.opened(t, "A").update("a=1 n=1"))
		r := s.opened(t, "B")
		s.putOldRecord(overwriting, time.Now().Add(timeout))
		s.flush()
		must(t, r.update("z=1"))
		s.expectKept(t, "a=1 n=1 z=1")
	})
}

func minutesAgo(n int) time.Time { return time.Now().Add(-time.Duration(n) * time.Minute) }

// icza/gaesession's background saves do not arrive: the session is in Memcache
// alone.
func TestAnOldSessionThatIsInTheCacheAloneIsSavedWithItsFirstChange(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				s.putOldItem(old("a=1 b=1", minutesAgo(1)))
				expect(t, "before", s.request(t, "judge").see(), "a=1 b=1")
				must(t, change(s.opened(t, "A"), "b=2"))
				s.expectKept(t, "a=1 b=2")
			})
		})
	}
}

// Without a prefix, bytes of the app may lie under an id.
func TestAReadDoesNotSaveBytesThatTheBackupDoesNotKnow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.putOldItem(old("a=1", minutesAgo(1)))
		time.Sleep(saveAfter)
		must(t, s.opened(t, "reader").settle())
		expect(t, "in the backup", s.backedUp(), "-")
		expect(t, "cached", s.cached(), "all unsaved a=1")
	})
}

func TestAReadSavesAnOldItemThatIsNewerThanItsRecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.putOldRecord(old("a=0 b=0", minutesAgo(2)), time.Now().Add(timeout))
		s.putOldItem(old("a=1", minutesAgo(1)))
		must(t, s.opened(t, "reader").settle())
		expect(t, "cached", s.cached(), "a=1")
		expect(t, "record's end", s.records[id].Expires, time.Now().Add(timeout))
		s.expectKept(t, "a=1")
	})
}

// dsoprea's sessions do not say when they were used, or end.
func TestAReadDoesNotLoseASessionOfWhichNobodyKnowsWhenItEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.putOldItem([]byte("a=1 b=1"))
		must(t, s.opened(t, "reader").settle())
		expect(t, "now", s.request(t, "judge").see(), "a=1 b=1")
		must(t, s.opened(t, "A").update("b=2"))
		s.expectKept(t, "a=1 b=2")
	})
}

func TestWhereBothServicesHaveASessionOfUnknownTimeTheRecordDecides(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
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
				s := newServices()
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
				s := newServices()
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
		s := newServices()
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
					s := newServices()
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
