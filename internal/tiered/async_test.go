//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnAsynchronousChangeIsSeenBeforeItIsBackedUp(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		release := s.hold("A", "backup.commit", false)
		must(t, s.opened(t, "A").updateAsync("a=2"))
		expect(t, "cached", s.cached(), "unsaved a=2")
		expect(t, "in the backup", s.backedUp(), "a=1")
		release()
		drain(t)
		expect(t, "then cached", s.cached(), "a=2")
		s.expectKept(t, "a=2")
	})
}

func TestAReadDuringABackgroundSaveMakesOneCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		release := s.hold("A", "backup.commit", false)
		must(t, s.opened(t, "A").updateAsync("a=2"))
		s.forgetCalls()
		r := s.opened(t, "B")
		must(t, r.settle())
		expect(t, "calls", s.count(""), 1)
		release()
	})
}

func TestAsynchronousChangesInQuickSuccessionAreAllAsynchronous(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		goOn := make(chan bool)
		s.hook(func(c step) error {
			if c.op == "backup.commit" && !c.done {
				<-goOn // all of their saves
			}
			return nil
		})
		for _, edits := range []string{"a=2", "b=1", "-b", "a=1", "c=1"} {
			r := s.opened(t, "A")
			swaps := s.count("cache.swap")
			begin := time.Now()
			must(t, r.updateAsync(edits))
			expect(t, edits+": swaps", s.count("cache.swap")-swaps, 1)
			expect(t, edits+": waited", time.Since(begin), 0)
		}
		expect(t, "in the cache", s.cached(), "unsaved a=1 c=1")
		close(goOn)
		s.expectKept(t, "a=1 c=1")
	})
}

func TestWithoutAnItemAnAsynchronousChangeIsSynchronous(t *testing.T) {
	for name, there := range map[string]func(s *services){
		"nothing": func(s *services) { s.flush() },
		"a lease": func(s *services) { s.keepItem(newItem(lease), leaseTTL) },
	} {
		for _, when := range []string{"before the load", "after the load"} {
			t.Run(name+" "+when, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					r := s.request(t, "A")
					if when == "before the load" {
						there(s)
						r.load()
					} else {
						r.load()
						there(s)
					}
					must(t, r.updateAsync("a=2"))
					expect(t, "in the backup", s.backedUp(), "a=2")
					s.expectKept(t, "a=2")
				})
			})
		}
	}
}

func TestACacheThatFailsMakesAnAsynchronousChangeSynchronous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.fail("A", "cache.swap")
		expectErr(t, "its publish fails", r.updateAsync("a=2"), errDown)
		expect(t, "in the backup", s.backedUp(), "a=2")
		s.well()
		s.expectKept(t, "a=2")
	})
}

// What the request has loaded unsaved may be in no service any more.
func TestAChangeSavesWhatItsRequestHasLoadedUnsaved(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1 b=1")
				s.die("A", "backup.begin", false)
				must(t, s.opened(t, "A").updateAsync("a=2"))
				drain(t)
				b := s.opened(t, "B") // sees it
				s.flush()
				must(t, s.opened(t, "C").settle())
				expect(t, "cached", s.cached(), "a=1 b=1")
				must(t, change(b, "b=2"))
				s.expectKept(t, "a=2 b=2")
			})
		})
	}
}

func TestABackgroundSaveThatFailsIsTriedOutsideOfItsRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		r.st.Background = func(context.Context) context.Context {
			return context.WithValue(context.Background(), whoKey{}, "nobody")
		}
		s.fail("A", "backup")
		must(t, r.updateAsync("a=2"))
		drain(t)
		expect(t, "reports", len(s.reports), 0)
		s.expectKept(t, "a=2")
	})
}

func TestABackgroundSaveThatFailsIsReported(t *testing.T) {
	for name, background := range map[string]func(context.Context) context.Context{
		"no other context": nil,
		"none now":         func(context.Context) context.Context { return nil },
		"fails, too":       func(context.Context) context.Context { return context.WithValue(context.Background(), whoKey{}, "A") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				r.st.Background = background
				s.fail("A", "backup")
				must(t, r.updateAsync("a=2"))
				drain(t)
				if len(s.reports) != 1 || !errors.Is(s.reports[0], errDown) {
					t.Errorf("reported was %v", s.reports)
				}
				expect(t, "cached", s.cached(), "unsaved a=2")
			})
		})
	}
}

func TestABackgroundSaveGoesOnWhenItsRequestHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		ctx, cancel := context.WithCancel(r.ctx)
		r.ctx = ctx
		release := s.hold("A", "backup.begin", false)
		must(t, r.updateAsync("a=2"))
		cancel()
		release()
		s.expectKept(t, "a=2")
	})
}

func TestABackgroundSaveAfterALogoutSavesNothingAndReportsIt(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.txget", "backup.commit", "cache.get", "cache.swap"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r, leaver := s.opened(t, "A"), s.opened(t, "B")
				var release func()
				if op == "cache.swap" {
					must(t, r.updateAsync("a=2"))
					release = s.hold("A", op, false)
				} else {
					release = s.hold("A", op, false)
					must(t, r.updateAsync("a=2"))
				}
				synctest.Wait() // it is held
				must(t, leaver.remove())
				release()
				s.expectRemoved(t)
				if strings.HasPrefix(op, "cache") { // it was saved before the logout
					expect(t, "reports", len(s.reports), 0)
				} else if len(s.reports) != 1 || !errors.Is(s.reports[0], ErrRemoved) {
					t.Errorf("reported was %v, want ErrRemoved", s.reports)
				}
			})
		})
	}
}

func TestDrainWaitsForWhatStartsMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		first := s.hold("A", "backup.commit", false)
		second := s.hold("B", "backup.commit", false)
		must(t, s.opened(t, "A").updateAsync("a=2"))
		drained := make(chan bool)
		go func() { drain(t); close(drained) }()
		must(t, s.opened(t, "B").updateAsync("b=2"))
		first()
		select {
		case <-drained:
			t.Error("Drain ended before the second save")
		default:
		}
		second()
		<-drained
		expect(t, "in the backup", s.backedUp(), "a=2 b=2")
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		must(t, Drain(ended)) // nothing to wait for
	})
}
