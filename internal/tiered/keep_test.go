//go:build go1.25

package tiered

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestWhatHasItsEffectIsNotSwappedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.lose("A", "cache.swap")
		s.fail("A", "backup")
		s.forgetCalls()
		must(t, r.updateAsync("a=1"))
		drain(t)
		// The first, its repetition; two of the failed background save see that
		// nothing has to be done.
		expect(t, "swaps", s.count("cache.swap"), 2)
	})
}

func TestWithoutABackupWhatIsTooLargeWithItsTrailerIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.fits = 110
		r := s.opened(t, "A")
		r.st.Backup = nil
		expectErr(t, "change", r.update("a="+strings.Repeat("x", 80)), tier.ErrTooLarge)
		expect(t, "now", r.see(), "a=0")
	})
}

func TestWithoutABackupTwoWhoPutBackWhatWasEvictedLoseNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0 b=0")
		a, b := s.opened(t, "A"), s.opened(t, "B")
		a.st.Backup, b.st.Backup = nil, nil
		s.flush()
		add := s.hold("A", "cache.add", false)
		ended := started(func() error { return a.update("a=1") })
		must(t, b.update("b=1"))
		add()
		must(t, ended())
		expect(t, "now", s.request(t, "judge").see(), "a=1 b=1")
	})
}

func TestAChangeThatTheBackupFailedComesBackWithoutTakingOthersAway(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "w=0 x=0 z=0")
		b := s.opened(t, "B")
		time.Sleep(2 * time.Minute)
		s.fail("A", "backup")
		expectErr(t, "A's change", s.opened(t, "A").update("x=1"), errDown)
		c := s.opened(t, "C")
		s.flush()
		must(t, b.update("w=1"))
		must(t, c.update("z=1"))
		s.expectKept(t, "w=1 x=1 z=1")
	})
}

func TestALostAnswerToASwapMakesNobodyWait(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0 b=0")
				r := s.opened(t, "A")
				s.lose("A", "cache.swap")
				begin := time.Now()
				must(t, change(r, "a=1"))
				if took := time.Since(begin); took > 100*time.Millisecond {
					t.Errorf("it took %v", took)
				}
				s.expectKept(t, "a=1 b=0")
			})
		})
	}
}

// What was tried twice applies once: not over what others changed since.
func TestASwapWhoseAnswerIsLostIsNotAppliedOverWhatOthersChangedSince(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.at("A", "cache.swap", true, func() error {
			time.Sleep(time.Millisecond)
			must(t, s.opened(t, "B").updateAsync("a=2"))
			return errLost
		})
		must(t, r.updateAsync("a=1"))
		s.expectKept(t, "a=2")
	})
}

// It was applied, and the cache fails then: the change is made synchronously.
func TestASwapThatWasAppliedAndReportedAsFailedForGoodKeepsItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.at("A", "cache.swap", true, func() error {
			time.Sleep(time.Millisecond)
			must(t, s.opened(t, "B").updateAsync("a=2"))
			s.fail("A", "cache")
			return errLost
		})
		expectErr(t, "change", r.updateAsync("a=1"), errDown)
		s.well()
		s.expectKept(t, "a=2")
	})
}

func TestAChangeThatTheBackupFailsLivesOnInTheCache(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.txget", "backup.txput", "backup.commit"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1 b=1")
				s.fail("A", op)
				expectErr(t, "change", s.opened(t, "A").update("a=2"), errDown)
				expect(t, "cached", s.cached(), "unsaved a=2 b=1")
				expect(t, "in the backup", s.backedUp(), "a=1 b=1")
				must(t, s.opened(t, "B").update("b=2"))
				expect(t, "then cached", s.cached(), "a=2 b=2")
				s.expectKept(t, "a=2 b=2")
			})
		})
	}
}

func TestAChangeThatTheBackupFailsWithoutAnItemIsReportedOnly(t *testing.T) {
	for name, there := range map[string]func(s *services){
		"nothing": func(s *services) {},
		"a lease": func(s *services) { s.keepItem(id, newEntry(lease, leaseTTL).Item, leaseTTL) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				s.flush()
				r := s.opened(t, "A")
				there(s)
				s.fail("A", "backup")
				expectErr(t, "change", r.update("a=2"), errDown)
				expect(t, "cached", s.cached(), "lease")
				s.flush()
				s.expectKept(t, "a=1")
			})
		})
	}
}

func TestAChangeThatTheBackupFailsAfterALogoutIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		must(t, s.opened(t, "B").remove())
		s.fail("A", "backup")
		err := r.update("a=2")
		expectErr(t, "change", err, errDown)
		expectErr(t, "change", err, tier.ErrRemoved)
		s.expectRemoved(t)
	})
}

func TestWithoutABackupSessionsLiveInTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		without := func(who string) *request {
			r := s.request(t, who)
			r.st.Backup = nil
			return r
		}
		must(t, without("creator").create("a=1 b=1"))
		a, b := without("A").load(), without("B").load()
		must(t, a.update("a=2"))
		must(t, b.updateAsync("b=2"))
		must(t, b.settle())
		expect(t, "now", without("C").see(), "a=2 b=2")
		slow := without("slow").load()
		must(t, without("C").load().remove())
		expect(t, "removed", without("C").see(), "-")
		expectErr(t, "change", slow.update("b=3"), tier.ErrRemoved)
		expect(t, "removed", without("C").see(), "-")
		expect(t, "calls of the backup", s.count("backup"), 0)
	})
}

func TestWithoutABackupAChangeOfWhatWasEvictedPutsTheSessionBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.request(t, "A")
		r.st.Backup = nil
		must(t, r.create("a=1 b=1"))
		r.load()
		s.flush()
		must(t, r.update("a=2"))
		expect(t, "now", r.see(), "a=2 b=1")
		s.fits = 100
		expectErr(t, "too large", r.update("a="+strings.Repeat("x", 100)), tier.ErrTooLarge)
		expect(t, "now", r.see(), "a=2 b=1")
		time.Sleep(timeout)
		expect(t, "later", r.see(), "-")
	})
}

func TestAnItemThatOthersKeepReplacingIsContention(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		r.st.Backup = nil
		s.hook(func(c step) error {
			if c.op == "cache.swap" && c.who == "A" && !c.done {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.keepItem(id, s.items[id].Item, time.Hour)
			}
			return nil
		})
		expectErr(t, "change", r.update("a=2"), tier.ErrContention)
		expect(t, "swaps", s.count("cache.swap"), swapAttempts)
		if err := r.update("a=2"); !errors.Is(err, tier.ErrContention) {
			t.Errorf("got %v", err)
		}
	})
}
