//go:build go1.25

package tiered

import (
	"errors"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestSettleDoesNothingWhereThereIsNothingToDo(t *testing.T) {
	for name, f := range map[string]func(r *request){
		"saved":            func(r *request) {},
		"without a backup": func(r *request) { r.st.Backup = nil; must(r.t, r.update("a=1")); r.load() },
		"without a cache":  func(r *request) { r.st.Cache = nil; r.load() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				r := s.opened(t, "A")
				f(r)
				time.Sleep(10 * time.Minute)
				s.forgetCalls()
				must(t, r.settle())
				expect(t, "calls", s.count(""), 0)
			})
		})
	}
}

func TestASettleThatTheCacheFailsSavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := leftUnsaved(t)
		s.well()
		time.Sleep(saveAfter)
		r := s.opened(t, "reader")
		s.fail("reader", "cache.swap")
		expectErr(t, "settle", r.settle(), errDown)
		expect(t, "transactions", s.count("backup.begin"), 2) // the dead one's
	})
}

// leftUnsaved is a session with a change in the cache whose request has died.
func leftUnsaved(t *testing.T) *services {
	t.Helper()
	s := created(t, "a=1 b=1")
	s.fail("dead", "backup")
	must(t, s.opened(t, "dead").updateAsync("a=2"))
	drain(t)
	expect(t, "cached", s.cached(), "unsaved a=2 b=1")
	expect(t, "in the backup", s.backedUp(), "a=1 b=1")
	return s
}

func TestWhoFindsSomethingUnsavedForThreeSecondsSavesIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		s.die("dead", "cache.swap", true)
		_ = s.opened(t, "dead").updateAsync("a=2")
		drain(t)
		expect(t, "cached", s.cached(), "unsaved a=2 b=1")
		time.Sleep(time.Until(s.state(t).next.time()) - time.Millisecond)
		r := s.opened(t, "reader")
		s.forgetCalls()
		must(t, r.settle())
		expect(t, "calls before three seconds", s.count(""), 0)
		time.Sleep(time.Millisecond)
		must(t, s.opened(t, "reader").settle())
		expect(t, "cached", s.cached(), "a=2 b=1")
		s.expectKept(t, "a=2 b=1")
	})
}

// While the backup is down only one read in a growing interval tries to save.
func TestReadsByTheDozenDuringAnOutageAreNotAllFailingTransactions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := leftUnsaved(t)
		s.fail("reader", "backup")
		var attempts []time.Duration
		begin := time.Now()
		s.hook(func(c step) error {
			if c.op == "backup.begin" && !c.done {
				attempts = append(attempts, time.Since(begin))
			}
			return nil
		})
		for time.Since(begin) < 10*time.Minute {
			var ended []func() error
			for range 12 {
				r := s.opened(t, "reader")
				r.st.Retries = 1
				ended = append(ended, started(r.settle))
			}
			failed := 0
			for _, e := range ended {
				if e() != nil {
					failed++
				}
			}
			if failed > 1 {
				t.Fatalf("%d reads of a dozen failed", failed)
			}
			time.Sleep(time.Second)
		}
		for i := 1; i < len(attempts); i++ {
			gap, before := attempts[i]-attempts[i-1], attempts[i-1]
			if want := min(max(before, saveAfter), time.Minute); gap < want || gap > want+4*time.Second {
				t.Errorf("attempt %d comes %v after the one before, at %v; want about %v", i, gap, before, want)
			}
		}
		if n := len(attempts); n < 10 || n > 20 {
			t.Errorf("%d attempts in ten minutes: %v", n, attempts)
		}
		expect(t, "cached", s.cached(), "unsaved a=2 b=1")
		s.well()
		time.Sleep(time.Minute)
		must(t, s.opened(t, "reader").settle())
		s.expectKept(t, "a=2 b=1")
	})
}

func TestOnlyWhoWinsTheSwapOfTheNextAttemptSaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := leftUnsaved(t)
		s.well()
		time.Sleep(saveAfter)
		first, second := s.opened(t, "first"), s.opened(t, "second")
		release := s.hold("first", "backup.begin", false)
		ended := started(first.settle)
		s.forgetCalls()
		must(t, second.settle())
		expect(t, "calls of the second", s.count(""), 1)
		release()
		must(t, ended())
		s.expectKept(t, "a=2 b=1")
	})
}

func TestAfterASaveTheNextAttemptIsNotPutOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := leftUnsaved(t)
		s.well()
		time.Sleep(40 * time.Second)
		must(t, s.opened(t, "reader").settle())
		expect(t, "saved", s.backedUp(), "a=2 b=1")
		s.die("dead again", "cache.swap", true)
		_ = s.opened(t, "dead again").updateAsync("b=2")
		drain(t)
		time.Sleep(saveAfter)
		must(t, s.opened(t, "reader").settle())
		s.expectKept(t, "a=2 b=2")
	})
}

func TestASessionThatWasRemovedInTheBackupIsNotSavedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := leftUnsaved(t)
		s.well()
		s.fail("leaver", "cache")
		if err := s.loadedAnyhow(t, "leaver").remove(); !errors.Is(err, errDown) {
			t.Fatalf("got %v", err)
		}
		s.kill("leaver")
		time.Sleep(saveAfter)
		expectErr(t, "settle", s.opened(t, "reader").settle(), tier.ErrRemoved)
		expect(t, "cached", s.cached(), "removed")
		s.expectRemoved(t)
	})
}
