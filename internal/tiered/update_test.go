//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Changes that overlap.

var changes = map[string]func(r *request, edits string) error{
	"synchronous":  (*request).update,
	"asynchronous": (*request).updateAsync,
}

func TestOverlappingChangesOfDifferentAttributesAllSurvive(t *testing.T) {
	for first, changeFirst := range changes {
		for second, changeSecond := range changes {
			t.Run(first+" and "+second, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1 b=1 c=1")
					a, b := s.opened(t, "A"), s.opened(t, "B")
					must(t, changeFirst(a, "a=2"))
					must(t, changeSecond(b, "b=2 -c"))
					expect(t, "before the background saves", s.request(t, "judge").see(), "a=2 b=2")
					s.expectKept(t, "a=2 b=2")
				})
			})
		}
	}
}

// A is held at each of its calls while B changes something.
func TestAChangeHeldAtAnyCallLosesNothing(t *testing.T) {
	for _, op := range []string{"cache.swap", "backup.begin", "backup.txget", "backup.txput", "backup.commit"} {
		for _, done := range []bool{false, true} {
			for first, changeFirst := range changes {
				for second, changeSecond := range changes {
					t.Run(op+" "+first+" and "+second, func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							s := created(t, "a=1 b=1")
							a, b := s.opened(t, "A"), s.opened(t, "B")
							release := s.hold("A", op, done)
							ended := started(func() error { return changeFirst(a, "a=2 x=1") })
							must(t, changeSecond(b, "b=2 -x"))
							must(t, changeSecond(s.opened(t, "C"), "c=1"))
							release()
							must(t, ended())
							drain(t)
							l := words(s.opened(t, "judge").l.Value())
							if l["a"] != "2" || l["b"] != "2" || l["c"] != "1" {
								t.Errorf("got %v", l)
							}
							s.expectKept(t, shown(text(l)))
						})
					})
				}
			}
		}
	}
}

func TestTheLastSavedOfOneAttributeWins(t *testing.T) {
	for name, edits := range map[string][2]string{
		"set":      {"a=3", "a=3"},
		"set back": {"a=1", "a=1"},
		"deleted":  {"-a", ""},
	} {
		for first, changeFirst := range changes {
			for second, changeSecond := range changes {
				t.Run(name+" "+first+" then "+second, func(t *testing.T) {
					onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
						s := created(t, "a=1")
						b := s.opened(t, "B")
						must(t, changeFirst(s.opened(t, "A"), "a=2"))
						time.Sleep(time.Millisecond) // what lies between two requests
						must(t, changeSecond(b, edits[0]))
						expect(t, "at once", s.request(t, "judge").see(), edits[1])
						s.expectKept(t, edits[1])
					})
				})
			}
		}
	}
}

// A change's time is later than what it was made from, whatever the clock says.
func TestAnInstanceWhoseClockIsBehindChangesWhatItHasSeen(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				ahead := s.opened(t, "ahead")
				ahead.ctx = WithClock(ahead.ctx, time.Hour)
				must(t, change(ahead, "a=2"))
				drain(t)
				must(t, change(s.opened(t, "B"), "a=3"))
				s.expectKept(t, "a=3")
			})
		})
	}
}

func TestARequestMayChangeASessionAgain(t *testing.T) {
	for first, changeFirst := range changes {
		for second, changeSecond := range changes {
			t.Run(first+" then "+second, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1 b=1")
					r := s.opened(t, "A")
					must(t, changeFirst(r, "a=2"))
					must(t, s.opened(t, "B").update("b=2"))
					must(t, changeSecond(r, "a=3"))
					must(t, changeSecond(r, "c=1"))
					s.expectKept(t, "a=3 b=2 c=1")
				})
			})
		}
	}
}

func TestAChangeOfARemovedSessionIsRefused(t *testing.T) {
	for name, change := range changes {
		for gone, lose := range map[string]func(*services){"": func(*services) {}, " whose marker is gone": (*services).flush} {
			t.Run(name+gone, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					r := s.opened(t, "A")
					must(t, s.opened(t, "B").remove())
					lose(s)
					expectErr(t, "change", change(r, "a=2"), ErrRemoved)
					s.expectRemoved(t)
				})
			})
		}
	}
}

// A record that is missing says less than one that is emptied.
func TestAMissingRecordRefusesAChangeButLeavesNoMarker(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.purge()
		expectErr(t, "change", r.update("a=2"), ErrRemoved)
		if got := s.cached(); got == "removed" {
			t.Error("the cache says that the session was removed")
		}
		expect(t, "in the backup", s.backedUp(), "-")
	})
}

// A purge deletes without looking again, what expired five minutes ago.
func TestAChangeOfWhatAPurgeMayBeDeletingIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		late time.Duration
		want error
	}{
		"in time":  {overdue - time.Second, nil},
		"too late": {overdue + time.Second, ErrRemoved},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				time.Sleep(timeout + test.late)
				expectErr(t, "change", r.update("a=2"), test.want)
				want := "a=1"
				if test.want == nil {
					want = "a=2"
				}
				expect(t, "in the backup", s.backedUp(), want)
			})
		})
	}
}

func TestWhatWasUnsavedUntilItsRecordWasPurgedIsSavedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("A", "backup")
		for range 4 { // used all the time, by one whom the backup fails
			time.Sleep(timeout - time.Minute)
			expectErr(t, "change", s.opened(t, "A").update("a=2"), errDown)
		}
		s.purge()
		must(t, s.opened(t, "B").update("b=1"))
		s.expectKept(t, "a=2 b=1")
	})
}

// The backup fails.

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
		"a lease": func(s *services) { s.keepItem(newItem(lease), leaseTTL) },
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
		expectErr(t, "change", err, ErrRemoved)
		s.expectRemoved(t)
	})
}

// The cache fails.

func TestAFailedPublishIsReportedAndGoesOnInTheBackground(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.fail("A", "cache")
		expectErr(t, "change", r.update("a=2"), errDown)
		expect(t, "in the backup", s.backedUp(), "a=2")
		expect(t, "cached", s.cached(), "a=1")
		short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		expectErr(t, "a short drain", Drain(short), context.DeadlineExceeded)
		s.well()
		drain(t)
		expect(t, "after Drain", s.cached(), "a=2")
		expect(t, "reports", len(s.reports), 0)
		s.expectKept(t, "a=2")
	})
}

func TestAPublishThatFailsForGoodIsGivenUpAndReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.fail("A", "cache")
		expectErr(t, "change", r.update("a=2"), errDown)
		s.forgetCalls()
		begin := time.Now()
		drain(t)
		expect(t, "attempts", s.count("cache.get"), publishAttempts)
		if took := time.Since(begin); took < time.Second || took > 10*time.Second {
			t.Errorf("it was tried for %v", took)
		}
		expect(t, "reports", len(s.reports), 1)
		// The next change brings the cache up to date.
		must(t, s.opened(t, "B").update("b=1"))
		s.expectKept(t, "a=2 b=1")
	})
}

func TestAFailedPublishOverwritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		r := s.opened(t, "A")
		s.fail("A", "cache")
		expectErr(t, "change", r.update("a=2"), errDown)
		s.fail("D", "backup")
		must(t, s.opened(t, "D").updateAsync("b=2")) // in the cache alone
		s.well()
		s.fail("D", "backup")
		drain(t)
		expect(t, "cached", s.cached(), "unsaved a=2 b=2")
	})
}

func TestAPublishReplacesALeaseByALeaseAndNeverByAValue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.flush()
		filler := s.opened(t, "filler")
		release := s.hold("filler", "backup.get", true) // it has read a=1
		ended := started(filler.settle)
		must(t, r.update("a=2"))
		expect(t, "cached", s.cached(), "lease")
		release()
		must(t, ended())
		expect(t, "after the refill", s.cached(), "lease")
		s.expectKept(t, "a=2")
	})
}

// Sizes.

func TestWhatIsTooLargeForTheCacheIsInTheBackup(t *testing.T) {
	big := "a=" + strings.Repeat("x", 400)
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				s.fits = 300
				must(t, change(s.opened(t, "A"), big))
				expect(t, "cached", s.cached(), "lease")
				expect(t, "now", s.request(t, "judge").see(), big)
				// It fits again.
				must(t, change(s.opened(t, "B"), "a=2"))
				time.Sleep(leaseTTL)
				must(t, s.opened(t, "C").settle())
				expect(t, "cached", s.cached(), "a=2")
				s.expectKept(t, "a=2")
			})
		})
	}
}

func TestWhatIsTooLargeForTheBackupIsRefusedAndChangesNothing(t *testing.T) {
	for name, change := range changes {
		// With its trailer it is 48 bytes longer at least.
		for _, size := range []int{170, 400} {
			t.Run(name, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					s.large = 200
					r := s.opened(t, "A")
					expectErr(t, "change", change(r, "a="+strings.Repeat("x", size)), tier.ErrTooLarge)
					drain(t)
					expect(t, "cached", s.cached(), "a=1")
					// The session is what it was, and may be changed.
					must(t, change(r, "a=2"))
					s.expectKept(t, "a=2")
				})
			})
		}
	}
}

func TestWhatCannotBeMergedIsRefusedAndChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		must(t, s.opened(t, "B").update("b=1"))
		expectErr(t, "change", r.update("a=!"), errUnreadable)
		expect(t, "attempts", s.count("backup.begin"), 2)
		s.expectKept(t, "a=1 b=1")
	})
}

// Times that merge by maximum.

func TestARequestAnHourOldDoesNotEndASessionThatWasUsedSince(t *testing.T) {
	type method func(st *Store, ctx context.Context, id string, l *Loaded, c Change) (*Loaded, error)
	for name, change := range map[string]method{"synchronous": (*Store).Update, "asynchronous": (*Store).UpdateAsync} {
		for when, reload := range map[string]bool{"loaded then": false, "loaded now": true} {
			t.Run(name+" "+when, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					slow := s.opened(t, "slow")
					c := slow.change("s=1") // it would end half an hour from now
					for range 3 {
						time.Sleep(20 * time.Minute)
						must(t, s.opened(t, "A").update(""))
					}
					used := time.Now()
					if time.Sleep(time.Minute); reload {
						slow.load()
					}
					_, err := change(slow.st, slow.ctx, id, slow.l, c)
					must(t, err)
					drain(t)
					expect(t, "ends", s.opened(t, "judge").l.Ends(), used.Add(timeout))
					expect(t, "is used", s.state(t).used, used)
					s.expectKept(t, "a=1 s=1")
					expect(t, "record's end", s.record.Expires, used.Add(timeout))
				})
			})
		}
	}
}

func TestAnAccessSavedUnderAShorterIntervalIsNotTakenBack(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		slow := s.opened(t, "slow")
		time.Sleep(20 * time.Minute)
		must(t, s.opened(t, "A").updateAsync("")) // an access, and nothing else
		ends := time.Now().Add(timeout)
		expect(t, "ends, in the cache", s.state(t).ends, ends)
		drain(t)
		c := slow.change("s=1")
		c.Used, c.Ends = c.Used.Add(-20*time.Minute), c.Ends.Add(-20*time.Minute)
		_, err := slow.st.Update(slow.ctx, id, slow.l, c)
		must(t, err)
		expect(t, "ends, in the cache", s.state(t).ends, ends)
		s.flush()
		expect(t, "ends, in the backup", s.opened(t, "B").l.Ends(), ends)
		s.expectKept(t, "a=1 s=1")
	})
}

func TestAnAccessThatTheBackupFailsIsSavedLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		time.Sleep(10 * time.Minute)
		s.fail("A", "backup")
		r := s.opened(t, "A")
		r.st.Retries = 1
		expectErr(t, "access", r.update(""), errDown)
		ends := time.Now().Add(timeout).Truncate(time.Microsecond)
		expect(t, "cached", s.cached(), "unsaved a=1")
		time.Sleep(saveAfter)
		must(t, s.opened(t, "reader").settle())
		expect(t, "cached", s.cached(), "a=1")
		expect(t, "record's end", s.record.Expires, ends)
	})
}

// One of the services is missing.

func TestWithoutACacheSessionsLiveInTheBackup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		s.flush()
		s.forgetCalls()
		without := func(who string) *request {
			r := s.request(t, who)
			r.st.Cache = nil
			return r.load()
		}
		b := without("B")
		must(t, without("A").update("a=2"))
		must(t, b.updateAsync("b=2"))
		must(t, b.settle())
		expect(t, "in the backup", s.backedUp(), "a=2 b=2")
		must(t, without("C").remove())
		expectErr(t, "change", b.update("b=3"), ErrRemoved)
		expect(t, "calls of the cache", s.count("cache"), 0)
	})
}

func TestWithoutABackupSessionsLiveInTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
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
		expectErr(t, "change", slow.update("b=3"), ErrRemoved)
		expect(t, "removed", without("C").see(), "-")
		expect(t, "calls of the backup", s.count("backup"), 0)
	})
}

func TestWithoutABackupAChangeOfWhatWasEvictedPutsTheSessionBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
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
				s.keepItem(*s.item, time.Hour)
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

// A session that every request changes is cached again after an eviction, and is
// no older than what overlapping requests commit.
func TestAChangeOfWhatTheCacheHadLostPutsItBack(t *testing.T) {
	for name, meanwhile := range map[string]struct {
		do     func(t *testing.T, s *services)
		cached string
		backup string
	}{
		"nothing":          {func(*testing.T, *services) {}, "a=2", "a=2"},
		"another change":   {func(t *testing.T, s *services) { must(t, s.opened(t, "B").update("b=1")) }, "lease", "a=2 b=1"},
		"a removal":        {func(t *testing.T, s *services) { must(t, s.opened(t, "B").remove()) }, "removed", ""},
		"another eviction": {func(_ *testing.T, s *services) { s.flush() }, "-", "a=2"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				s.flush()
				r := s.opened(t, "A")
				s.at("A", "backup.commit", false, func() error { meanwhile.do(t, s); return nil })
				err := r.update("a=2")
				if name == "a removal" {
					expectErr(t, "change", err, ErrRemoved)
				} else {
					must(t, err)
					expect(t, "backup", s.backedUp(), meanwhile.backup)
				}
				expect(t, "cached", s.cached(), meanwhile.cached)
			})
		})
	}
}
