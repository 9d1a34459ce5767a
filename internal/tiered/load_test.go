//go:build go1.25

package tiered

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// What a load finds, and what it puts right.

func TestWhatTheCacheHasIsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		l := s.opened(t, "A").l
		expect(t, "session", shown(l.Value()), "a=1")
		expect(t, "from the cache", l.FromCache(), true)
		expect(t, "ends", l.Ends(), time.Now().Add(timeout))
		s.flush()
		l = s.opened(t, "A").l
		expect(t, "session", shown(l.Value()), "a=1")
		expect(t, "from the cache", l.FromCache(), false)
	})
}

func TestASessionIsThereUntilItEnds(t *testing.T) {
	for name, lose := range map[string]func(*services){"cached": func(*services) {}, "evicted": (*services).flush} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				lose(s)
				time.Sleep(timeout - time.Microsecond)
				expect(t, "just before its end", s.request(t, "A").see(), "a=1")
				time.Sleep(time.Microsecond)
				expect(t, "at its end", s.request(t, "A").see(), "-")
			})
		})
	}
}

func TestACacheThatKeepsAnItemTooLongShowsNoSessionPastItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.itemEnds = s.itemEnds.Add(time.Hour)
		time.Sleep(timeout)
		expect(t, "at its end", s.request(t, "A").see(), "-")
	})
}

func TestACacheThatFailsIsMadeUpForByTheBackup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("A", "cache")
		r := s.request(t, "A")
		l, err := r.st.Load(r.ctx, id)
		expectErr(t, "load", err, errDown)
		if l == nil || shown(l.Value()) != "a=1" || errors.Is(err, ErrUnavailable) {
			t.Fatalf("got %v, %v; want the session", l, err)
		}
		// Its item may be what is cached.
		r.l = l
		must(t, r.settle())
		expect(t, "adds", s.count("cache.add"), 0)
	})
}

func TestWithoutBothServicesItCannotBeToldWhetherThereIsASession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("A", "cache", "backup")
		r := s.request(t, "A")
		l, err := r.st.Load(r.ctx, id)
		expectErr(t, "load", err, ErrUnavailable)
		expectErr(t, "load", err, errDown)
		if l != nil {
			t.Errorf("got %v", l)
		}
		s.well()
		s.fail("A", "backup")
		s.flush()
		_, err = r.st.Load(r.ctx, id)
		expectErr(t, "load of what was evicted", err, ErrUnavailable)
		_, err = r.st.LoadBackup(r.ctx, id)
		expectErr(t, "load from the backup", err, ErrUnavailable)
	})
}

func TestADamagedItemIsReportedAndReplaced(t *testing.T) {
	for name, damage := range map[string]func(*tier.Item){
		"a byte":        func(it *tier.Item) { it.Value[1] ^= 1 },
		"unknown flags": func(it *tier.Item) { it.Flags = 7 },
		"unreadable":    func(it *tier.Item) { it.Value = []byte("!") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				damage(s.item)
				r := s.request(t, "A")
				l, err := r.st.Load(r.ctx, id)
				if l == nil || err == nil || errors.Is(err, ErrUnavailable) || shown(l.Value()) != "a=1" {
					t.Fatalf("got %v, %v; want the backup's session and why it was asked", l, err)
				}
				r.l = l
				must(t, r.settle())
				expect(t, "then cached", s.cached(), "a=1")
			})
		})
	}
}

func TestADamagedItemWithoutABackupIsNoSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.item.Flags = 7
		r := s.request(t, "A")
		r.st.Backup = nil
		if l, err := r.st.Load(r.ctx, id); l != nil || err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v, %v; want no session, and why", l, err)
		}
	})
}

func TestADamagedRecordIsNotCachedAndCanBeRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.flush()
		s.record.Value[0] ^= 1
		r := s.opened(t, "A")
		expect(t, "the bytes as they are", string(r.l.Value()), string(s.record.Value))
		expectErr(t, "refill", r.settle(), errDamaged)
		expect(t, "cached", s.cached(), "lease")
		must(t, r.remove())
		s.expectRemoved(t)
	})
}

func TestLoadBackupDoesNotAskTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		must(t, s.opened(t, "A").update("a=2"))
		r := s.request(t, "B")
		s.forgetCalls()
		l, err := r.st.LoadBackup(r.ctx, id)
		if err != nil || l == nil || shown(l.Value()) != "a=2" || s.count("cache") != 0 {
			t.Errorf("got %v, %v, %v", l, err, s.calls)
		}
		r.st.Backup = nil
		if l, err := r.st.LoadBackup(r.ctx, id); l != nil || err != nil {
			t.Errorf("without a backup: got %v, %v", l, err)
		}
	})
}

// Refill.

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

// Unsaved changes of requests that have died.

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
		time.Sleep(time.Until(s.state(t).unsavedSince().Add(saveAfter - time.Millisecond)))
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

// A deletion is forgotten after an hour, also one that was unsaved for longer.
func TestADeletionThatWasUnsavedForLongIsSavedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		s.fail("", "backup")
		must(t, s.opened(t, "A").updateAsync("-b"))
		drain(t)
		for range 5 {
			time.Sleep(20 * time.Minute)
			if err := s.opened(t, "A").update("a=2"); !errors.Is(err, errDown) {
				t.Fatalf("got %v, want %v", err, errDown)
			}
		}
		s.well()
		must(t, s.opened(t, "A").update("a=3"))
		expect(t, "cached", s.cached(), "a=3")
		s.expectKept(t, "a=3")
	})
}

func TestAnOldDeletionAloneIsNotUnsavedForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		l := s.opened(t, "A").l
		item, committed := l.state.clone(), l.state.clone()
		committed.before = l.state
		item.set(cell{name: hashOf("b"), at: stampOf(time.Now().Add(-2*time.Hour)) | deletedBit, unsaved: true})
		n, changed, err := s.store().published(item, committed)
		must(t, err)
		expect(t, "changed", changed, true)
		expect(t, "unsaved", n.unsaved(), false)
	})
}

func TestADeletionThatTheRecordForgetsDoesNotLeaveAnythingUnsaved(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0 x=0")
		must(t, s.opened(t, "A").update("-x"))
		for range 4 {
			time.Sleep(20 * time.Minute)
			must(t, s.opened(t, "A").updateAsync("a=1"))
			drain(t)
			expect(t, "cached", s.cached(), "a=1")
		}
	})
}

// Else a session that changes all the time would look as if nobody saved it.
func TestWhatIsSavedIsNotMarkedThoughOthersHaveChangedMoreSince(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0 b=0")
		publish := s.hold("A", "backup.commit", true)
		must(t, s.opened(t, "A").updateAsync("a=1"))
		time.Sleep(time.Second)
		save := s.hold("B", "backup.commit", false)
		must(t, s.opened(t, "B").updateAsync("b=1"))
		changed := time.Now()
		publish()
		expect(t, "cached", s.cached(), "unsaved a=1 b=1")
		expect(t, "unsaved since", s.state(t).unsavedSince(), changed)
		save()
		s.expectKept(t, "a=1 b=1")
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
		time.Sleep(saveAfter)
		expectErr(t, "settle", s.opened(t, "reader").settle(), ErrRemoved)
		expect(t, "cached", s.cached(), "removed")
		synctest.Wait()
		s.expectRemoved(t)
	})
}
