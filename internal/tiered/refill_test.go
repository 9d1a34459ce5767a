//go:build go1.25

package tiered

import (
	"testing"
	"time"
)

func TestARefillKeepsTheTokenAndTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		s.flush()
		must(t, s.opened(t, "A").settle())
		expect(t, "the item expires", s.items[id].ends, s.records[id].Expires)
		r := s.opened(t, "B")
		s.forgetCalls()
		must(t, r.update("a=1"))
		want := 5
		if s.versions {
			want = 2
		}
		expect(t, "calls", s.count(""), want)
	})
}

func TestARefillGivesUpWhenItsLeaseIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.flush()
		r := s.opened(t, "A")
		get := s.hold("A", "cache.get", false)
		ended := started(r.settle)
		s.flush()
		get()
		must(t, ended())
		expect(t, "cached", s.cached(), "-")
	})
}

func TestARefillOfADamagedItemGivesWayToOthers(t *testing.T) {
	for name, test := range map[string]struct {
		f    func(s *services)
		want error
	}{
		"replaced": {func(s *services) { s.keepItem(id, newEntry(lease, leaseTTL).Item, leaseTTL) }, nil},
		"failing":  {func(s *services) { s.fail("A", "cache.swap") }, errDown},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				s.items[id].Flags = 7
				r := s.loadedAnyhow(t, "A")
				test.f(s)
				s.forgetCalls()
				expectErr(t, "settle", r.settle(), test.want)
				expect(t, "reads", s.count("backup.get"), 0)
			})
		})
	}
}

func TestWhatIsTooLargeForTheCacheIsNotRefilled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.flush()
		s.fits = 20
		must(t, s.opened(t, "A").settle())
		expect(t, "cached", s.cached(), "lease")
	})
}

func TestASessionThatWasEvictedIsCachedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1 b=1")
		must(t, s.opened(t, "A").update("-b"))
		s.flush()
		must(t, s.opened(t, "A").settle())
		expect(t, "cached", s.cached(), "a=1")
		must(t, s.opened(t, "A").update("a=2"))
		s.expectKept(t, "a=2")
	})
}

func TestNoRefillCachesWhatWasChangedMeanwhile(t *testing.T) {
	for _, op := range []string{"cache.add", "backup.get", "cache.get", "cache.swap"} {
		for _, done := range []bool{false, true} {
			for name, change := range map[string]func(r *request) error{
				"update":       func(r *request) error { return r.load().update("a=2") },
				"asynchronous": func(r *request) error { return r.load().updateAsync("a=2") },
			} {
				t.Run(op+" "+name, func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						s := created(t, "a=1")
						s.flush()
						filler := s.opened(t, "filler")
						release := s.hold("filler", op, done)
						ended := started(filler.settle)
						must(t, change(s.request(t, "A")))
						drain(t)
						expect(t, "while it is held", s.request(t, "judge").see(), "a=2")
						release()
						must(t, ended())
						s.expectKept(t, "a=2")
					})
				})
			}
			t.Run(op+" remove", func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=1")
					s.flush()
					filler := s.opened(t, "filler")
					release := s.hold("filler", op, done)
					ended := started(filler.settle)
					must(t, s.opened(t, "A").remove())
					release()
					must(t, ended())
					s.expectRemoved(t)
				})
			})
		}
	}
}

// The removal's first marker may be gone when the refill begins, and what the
// refill has read is from before the record was emptied: so there is a second.
func TestARefillThatReadBeforeALogoutDoesNotOutliveIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		leaver := s.opened(t, "leaver")
		release := s.hold("leaver", "backup.put", false)
		ended := started(leaver.remove)
		s.flush() // the first marker
		must(t, s.opened(t, "filler").settle())
		expect(t, "before the record is emptied", s.cached(), "a=1")
		release()
		must(t, ended())
		s.expectRemoved(t)
	})
}

func TestARefillOfWhatWasRemovedLeavesTheMarker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.flush()
		filler := s.opened(t, "filler")
		must(t, s.opened(t, "A").remove())
		s.flush()
		must(t, filler.settle())
		expect(t, "cached", s.cached(), "removed")
	})
}

func TestARefillOfAMissingRecordLeavesNoMarker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.flush()
		filler := s.opened(t, "filler")
		s.purge()
		must(t, filler.settle())
		expect(t, "cached", s.cached(), "lease")
		time.Sleep(leaseTTL)
		expect(t, "later", s.cached(), "-")
	})
}

func TestOnlyOneOfManyRefillsAtATime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.flush()
		first, second := s.opened(t, "first"), s.opened(t, "second")
		release := s.hold("first", "backup.get", false)
		ended := started(first.settle)
		s.forgetCalls()
		must(t, second.settle())
		expect(t, "calls of the second", s.count(""), 1)
		release()
		must(t, ended())
		expect(t, "cached", s.cached(), "a=1")
	})
}
