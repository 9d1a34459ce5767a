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

// Rules that no larger story needs.

// A change's time is drawn where it meets what others changed, not before.
func TestAChangeIsLaterThanEverythingItMeets(t *testing.T) {
	for name, change := range changes {
		onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
			s := created(t, "a=1")
			r := s.opened(t, "A")
			ahead := s.opened(t, "ahead")
			ahead.ctx = WithClock(ahead.ctx, time.Hour)
			must(t, change(ahead, "a=2"))
			drain(t)
			must(t, change(r, "a=3"))
			expect(t, name, s.request(t, "judge").see(), "a=3")
			s.expectKept(t, "a=3")
		})
	}
}

func TestWhatARequestGoesOnFromIsNoLaterThanItsChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a, b := s.opened(t, "A"), s.opened(t, "B")
		publish := s.hold("A", "cache.swap", false)
		ended := started(func() error { return a.update("a=1") })
		time.Sleep(time.Millisecond)
		must(t, b.update("a=2"))
		time.Sleep(time.Millisecond)
		publish()
		must(t, ended())
		must(t, a.update("c=1"))
		s.expectKept(t, "a=2 c=1")
	})
}

func TestWhatWasSavedDoesNotCreateAMissingRecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		must(t, r.update("a=1"))
		s.purge()
		expectErr(t, "change", r.update("a=2"), ErrRemoved)
		expect(t, "in the backup", s.backedUp(), "-")
	})
}

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

func TestAChangeThatChangesNothingWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.forgetCalls()
		l := r.l
		_, err := r.st.Update(r.ctx, id, l, Change{Value: l.Value()})
		must(t, err)
		expect(t, "commits", s.count("backup.commit"), 0)
		expect(t, "swaps", s.count("cache.swap"), 0)
	})
}

func TestABatchIsWrittenWhoeverInItChangesSomething(t *testing.T) {
	for _, edits := range [][]string{{"b=1", ""}, {"", "b=1"}} {
		bubble(t, func(t *testing.T) {
			s := created(t, "a=0")
			for _, err := range batch(t, s, edits...) {
				must(t, err)
			}
			s.expectKept(t, "a=0 b=1 z=1")
		})
	}
}

func TestWhatAnOldInstanceLetExpireIsLiveIfItWasUsedSince(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.putOldRecord(old("a=0", minutesAgo(40)), minutesAgo(10))
		must(t, s.opened(t, "A").update("a=1"))
		s.expectKept(t, "a=1")
	})
}

func TestWhatIsUnsavedIsSavedHoweverLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.fail("A", "backup")
		expectErr(t, "change", s.opened(t, "A").update("a=1"), errDown)
		r := s.opened(t, "B")
		time.Sleep(timeout + overdue + time.Minute)
		must(t, r.update("b=1"))
		s.expectKept(t, "a=1 b=1")
	})
}

func TestDeletionsAreForgottenInBothServices(t *testing.T) {
	for name, backup := range map[string]bool{"with a backup": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1 b=1")
				open := func() *request {
					r := s.opened(t, "A")
					if !backup {
						r.st.Backup = nil
					}
					return r
				}
				must(t, open().update("-b"))
				expect(t, "remembered", len(s.state(t).cells), 2)
				for range 5 {
					time.Sleep(20 * time.Minute)
					must(t, open().update("a=2"))
				}
				expect(t, "remembered in the cache", len(s.state(t).cells), 1)
				if backup {
					st, _, err := decode(s.record.Value)
					must(t, err)
					expect(t, "remembered in the backup", len(st.cells), 1)
				}
			})
		})
	}
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

func TestAPublishThatCannotBeMergedIsNotTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		st := s.state(t).clone()
		st.value = []byte("a=!")
		st.set(cell{name: hashOf("b"), at: stampOf(time.Now()), unsaved: true})
		s.keepItem(tier.Item{Value: st.encode(true)}, timeout)
		expectErr(t, "change", r.update("a=1"), errUnreadable)
		s.forgetCalls()
		drain(t)
		expect(t, "calls", s.count(""), 0)
	})
}

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

func TestAPublishThatOthersHaveMadeSwapsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0 c=0")
		a, c := s.opened(t, "A"), s.opened(t, "C")
		publish := s.hold("A", "cache.swap", false)
		ended := started(func() error { return a.update("a=1") })
		must(t, c.update("c=1")) // has A's change in it
		s.forgetCalls()
		publish()
		must(t, ended())
		expect(t, "swaps", s.count("cache.swap"), 0)
		expect(t, "gets", s.count("cache.get"), 1)
		expect(t, "cached", s.cached(), "a=1 c=1")
	})
}

func TestAPublishAfterALogoutLeavesItsMarker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		publish := s.hold("A", "cache.swap", false)
		ended := started(func() error { return r.update("a=1") })
		must(t, s.opened(t, "B").remove())
		publish()
		must(t, ended())
		expect(t, "cached", s.cached(), "removed")
	})
}

func TestALaterAccessStaysUnsavedInAPublish(t *testing.T) {
	for name, access := range map[string]func(c *Change){
		"use and end": func(*Change) {},
		"use":         func(c *Change) { c.Ends = time.Time{} },
		"end":         func(c *Change) { c.Used = time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				a, b := s.opened(t, "A"), s.opened(t, "B")
				publish := s.hold("A", "cache.swap", false)
				ended := started(func() error { return a.update("a=1") })
				time.Sleep(time.Minute)
				c := b.change("")
				access(&c)
				s.fail("B", "backup")
				_, err := b.st.Update(b.ctx, id, b.l, c)
				expectErr(t, "access", err, errDown)
				expect(t, "cached", s.cached(), "unsaved a=0")
				publish()
				must(t, ended())
				expect(t, "after the publish", s.cached(), "unsaved a=1")
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				expect(t, "after a save", s.cached(), "a=1")
			})
		})
	}
}

// Calls that nobody needs.

func TestASecondChangeOfARequestMakesOneCallMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		must(t, r.update("a=1"))
		s.forgetCalls()
		must(t, r.update("a=2"))
		expect(t, "calls", s.count(""), 6)
	})
}

func TestAChangeOverAnUnsavedItemMakesNoMoreCalls(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		must(t, s.opened(t, "B").update("b=1"))
		s.fail("A", "backup")
		must(t, s.opened(t, "A").updateAsync("a=1"))
		drain(t)
		r := s.opened(t, "C")
		s.forgetCalls()
		must(t, r.update("c=1"))
		want := 5
		if s.tokens {
			want = 2
		}
		expect(t, "calls", s.count(""), want)
		s.expectKept(t, "a=1 b=1 c=1")
	})
}

func TestARefillKeepsTheTokenAndTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		s.flush()
		must(t, s.opened(t, "A").settle())
		expect(t, "the item expires", s.itemEnds, s.record.Expires)
		r := s.opened(t, "B")
		s.forgetCalls()
		must(t, r.update("a=1"))
		want := 5
		if s.tokens {
			want = 2
		}
		expect(t, "calls", s.count(""), want)
	})
}

func TestAnOldRecordEndsWhenTheRecordSays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		ends := time.Now().Add(time.Hour)
		s.putOldRecord(old("a=1", time.Now()), ends)
		expect(t, "ends", s.opened(t, "A").l.Ends(), ends)
		must(t, s.opened(t, "A").settle())
		must(t, s.opened(t, "A").update("a=2"))
		expect(t, "nothing is unsaved", s.cached(), "a=2")
	})
}

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
		"replaced": {func(s *services) { s.keepItem(newItem(lease), leaseTTL) }, nil},
		"failing":  {func(s *services) { s.fail("A", "cache.swap") }, errDown},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				s.item.Flags = 7
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

func TestWhatIsUnsavedIsAsOldAsItsOldestChange(t *testing.T) {
	now := time.Now().Truncate(time.Microsecond)
	st := &state{used: now, unsavedUse: true}
	expect(t, "an access", st.unsavedSince(), now)
	st.set(cell{name: 1, at: stampOf(now.Add(-time.Minute)), unsaved: true})
	st.set(cell{name: 2, at: stampOf(now.Add(-2 * time.Minute)), unsaved: true})
	st.set(cell{name: 3, at: stampOf(now.Add(-3 * time.Minute))})
	expect(t, "two changes", st.unsavedSince(), now.Add(-2*time.Minute))
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

// Moves.

func TestATakeWithoutABackupThatTheCacheFailsLeavesTheSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		r.st.Backup = nil
		s.fail("A", "cache")
		v, err := r.take("a=1")
		expectErr(t, "take", err, errDown)
		expect(t, "taken", v, "-")
		s.well()
		expect(t, "now", r.see(), "a=0")
	})
}

func TestATakeThatCannotSealSaysSo(t *testing.T) {
	for _, op := range []string{"cache.swap", "cache.set"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				r := s.opened(t, "A")
				s.fail("A", op)
				v, err := r.take("a=1")
				expectErr(t, "take", err, errDown)
				expect(t, "taken", v, "a=1")
				expect(t, "in the backup", s.backedUp(), "removed")
			})
		})
	}
}

func TestATakeOfWhatWasRemovedLeavesTheMarker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.fail("B", "cache")
		expectErr(t, "logout", s.loadedAnyhow(t, "B").remove(), errDown)
		_, err := r.take("a=1")
		expectErr(t, "take", err, ErrRemoved)
		expect(t, "cached", s.cached(), "removed")
	})
}

func TestATakeTriedAgainDoesNotOverwriteWhatOthersChangedSince(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.at("A", "backup.commit", false, func() error {
			time.Sleep(time.Millisecond)
			must(t, s.opened(t, "B").update("b=1"))
			return errDown
		})
		v, err := r.take("a=1")
		must(t, err)
		expect(t, "taken", v, "a=1 b=1")
		s.expectRemoved(t)
	})
}

func TestASealedItemLivesNoLongerThanItsSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		ends := s.itemEnds
		r := s.opened(t, "A")
		time.Sleep(time.Minute)
		s.fail("A", "backup")
		_, err := r.take("a=1")
		expectErr(t, "take", err, errDown)
		expect(t, "the item expires", s.itemEnds, ends)
	})
}

// Asynchronous changes.

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

func TestAnAsynchronousChangeThatTheMarkerRefusesAsksNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		must(t, s.opened(t, "B").remove())
		s.forgetCalls()
		expectErr(t, "change", r.updateAsync("a=1"), ErrRemoved)
		expect(t, "calls", s.count(""), 2)
	})
}
