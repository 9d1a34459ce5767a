//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestARequestSavesAgainWhatItChangedAsynchronously(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		save := s.hold("A", "backup.begin", false)
		must(t, r.updateAsync("a=1"))
		synctest.Wait() // its save is held
		s.flush()
		must(t, r.update("b=1"))
		expect(t, "in the backup", s.backedUp(), "a=1 b=1")
		save()
	})
}

func TestAnAsynchronousChangeThatCannotBeMergedIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		must(t, s.opened(t, "B").update("b=1"))
		expectErr(t, "change", r.updateAsync("a=!"), errUnreadable)
		s.expectKept(t, "a=0 b=1")
	})
}

func TestAnAsynchronousChangeWithoutAnItemAsksTheCacheOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.flush()
		r := s.opened(t, "A")
		s.forgetCalls()
		must(t, r.updateAsync("a=1"))
		expect(t, "calls", s.count(""), 7)
		expect(t, "cached again", s.cached(), "a=1")
	})
}

func TestARefusedBackgroundSaveIsNotTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		again := 0
		r.st.Background = func(context.Context) context.Context { again++; return context.Background() }
		save := s.hold("A", "backup.begin", false)
		must(t, r.updateAsync("a=1"))
		must(t, s.opened(t, "B").remove())
		save()
		drain(t)
		expect(t, "attempts", again, 0)
		// Nor one that succeeded.
		s = created(t, "a=0")
		r.s, r.st.Cache, r.st.Backup = s, cache{s}, backup{s}
		must(t, r.load().updateAsync("a=1"))
		drain(t)
		expect(t, "attempts", again, 0)
	})
}

func TestWhatFailsTwiceIsReportedWithBothReasons(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		r.st.Background = func(context.Context) context.Context {
			return context.WithValue(context.Background(), whoKey{}, "nobody")
		}
		other := errors.New("down for another reason")
		s.fail("A", "backup")
		s.hook(func(c step) error {
			if c.who == "nobody" && !c.done && c.op == "backup.begin" {
				return other
			}
			return nil
		})
		must(t, r.updateAsync("a=1"))
		drain(t)
		if len(s.reports) != 1 || !errors.Is(s.reports[0], errDown) || !errors.Is(s.reports[0], other) {
			t.Errorf("reported was %v", s.reports)
		}
	})
}

func TestWhatAnAsynchronousRequestGoesOnFromIsNoLaterThanItsChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a := s.opened(t, "A")
		s.at("A", "cache.swap", true, func() error {
			time.Sleep(time.Millisecond)
			must(t, s.opened(t, "B").update("a=2"))
			time.Sleep(time.Millisecond)
			return nil
		})
		must(t, a.updateAsync("a=1"))
		must(t, a.update("c=1"))
		s.expectKept(t, "a=2 c=1")
	})
}

func TestAnAsynchronousChangeThatTheMarkerRefusesAsksNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		must(t, s.opened(t, "B").remove())
		s.forgetCalls()
		expectErr(t, "change", r.updateAsync("a=1"), tier.ErrRemoved)
		expect(t, "calls", s.count(""), 2)
	})
}

func TestWhatWasSetBackWhileItsBackgroundSaveWasUnderWayStaysBack(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.commit"} {
		for name, flush := range map[string]bool{"with a flush": true, "without": false} {
			t.Run(op+" "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=0 c=0")
					s.patient = true
					saveA := s.hold("A", op, false)
					must(t, s.opened(t, "A").updateAsync("a=1"))
					b := s.opened(t, "B")
					commitB := s.hold("B", "backup.commit", false)
					ended := started(func() error { return b.update("a=0") })
					c := s.opened(t, "C")
					time.Sleep(5 * time.Second) // longer than anybody waits
					commitB()
					must(t, ended())
					saveA()
					drain(t)
					if flush {
						s.flush()
					}
					must(t, c.update("c=1"))
					s.expectKept(t, "a=0 c=1")
				})
			})
		}
	}
}

func TestABackgroundSaveThatStallsDoesNotUndoWhatManyChangesFollowed(t *testing.T) {
	for name, flush := range map[string]bool{"with a flush": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0 b=0")
				stalled := s.hold("A", "backup.commit", false)
				must(t, s.opened(t, "A").updateAsync("a=1"))
				time.Sleep(time.Millisecond)
				must(t, s.opened(t, "B").updateAsync("a=0"))
				for range 17 {
					time.Sleep(time.Millisecond)
					r := s.opened(t, "B")
					must(t, r.updateAsync("b="+words(r.l.Value())["b"]+"1"))
				}
				synctest.Wait() // their saves have ended
				if flush {
					s.flush()
				}
				stalled()
				s.expectKept(t, "a=0 b=011111111111111111")
			})
		})
	}
}

func TestParallelReadsAfterAnAsynchronousChangeMakeOneCallEach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		save := s.hold("A", "backup.commit", false)
		must(t, s.opened(t, "A").updateAsync("a=1"))
		synctest.Wait()
		s.takes(latency)
		s.forgetCalls()
		begin := time.Now()
		var ended []func() error
		for range 6 {
			r := s.request(t, "reader")
			done := make(chan error, 1)
			go func() { done <- r.load().settle() }()
			ended = append(ended, func() error { return <-done })
		}
		for _, e := range ended {
			must(t, e())
		}
		expect(t, "took", time.Since(begin), latency["cache.get"])
		expect(t, "calls", s.count(""), 6)
		save()
	})
}

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
		synctest.Wait() // for the background save to be held
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
		"a lease": func(s *services) { s.keepItem(id, newEntry(lease, leaseTTL).Item, leaseTTL) },
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
				} else if len(s.reports) != 1 || !errors.Is(s.reports[0], tier.ErrRemoved) {
					t.Errorf("reported was %v, want tier.ErrRemoved", s.reports)
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
