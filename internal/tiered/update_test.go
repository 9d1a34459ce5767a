//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

// A change's time is drawn where it meets what others changed, not before.
func TestAChangeIsLaterThanEverythingItMeets(t *testing.T) {
	for name, change := range changes {
		onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
			s := created(t, "a=1")
			r := s.opened(t, "A")
			ahead := s.opened(t, "ahead")
			ahead.on(instance.Instance{Ahead: time.Hour})
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
		expectErr(t, "change", r.update("a=2"), tier.ErrRemoved)
		expect(t, "in the backup", s.backedUp(), "-")
	})
}

func TestAChangeThatChangesNothingWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.forgetCalls()
		l := r.l
		_, err := r.st.Update(r.ctx, id, l, &Change{Value: l.Value()})
		must(t, err)
		expect(t, "commits", s.count("backup.commit"), 0)
		expect(t, "swaps", s.count("cache.swap"), 0)
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
				for range 9 {
					time.Sleep(20 * time.Minute)
					must(t, open().update("a=2"))
				}
				expect(t, "remembered in the cache", len(s.state(t).cells), 1)
				if backup {
					st, _, err := decode(id, s.records[id].Value)
					must(t, err)
					expect(t, "remembered in the backup", len(st.cells), 1)
				}
			})
		})
	}
}

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
		if s.versions {
			want = 2
		}
		expect(t, "calls", s.count(""), want)
		s.expectKept(t, "a=1 b=1 c=1")
	})
}

func TestARequestOlderThanAnHourBringsBackNothingThatWasDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		a := s.opened(t, "A")
		s.fail("A", "backup")
		must(t, a.updateAsync("a=2"))
		drain(t)
		old := s.opened(t, "B")
		s.well()
		must(t, s.opened(t, "D").update("-a"))
		for i := range 7 {
			time.Sleep(10 * time.Minute)
			must(t, s.opened(t, "E").update(fmt.Sprintf("e=%d", i)))
		}
		must(t, old.update("z=1"))
		drain(t)
		s.expectKept(t, "b=1 e=6 z=1")
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

// The deletion is forgotten by the time the request saves what it had loaded.
func TestWhatWasUnsavedLongAgoDoesNotComeBack(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		s.fail("B", "backup")
		expectErr(t, "change", s.opened(t, "B").update("x=1"), tier.ErrNotBackedUp)
		slow := s.opened(t, "slow")
		expect(t, "loaded", shown(slow.l.Value()), "a=1 x=1")
		s.well()
		must(t, s.opened(t, "C").update("-x"))
		for range 8 {
			time.Sleep(20 * time.Minute)
			must(t, s.opened(t, "C").update(""))
		}
		must(t, slow.update("s=1"))
		s.expectKept(t, "a=1 s=1")
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
				ahead.on(instance.Instance{Ahead: time.Hour})
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
					expectErr(t, "change", change(r, "a=2"), tier.ErrRemoved)
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
		expectErr(t, "change", r.update("a=2"), tier.ErrRemoved)
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
		"too late": {overdue + time.Second, tier.ErrRemoved},
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

func TestARequestAnHourOldDoesNotEndASessionThatWasUsedSince(t *testing.T) {
	type method func(st *Store, ctx context.Context, id string, l *Loaded, c *Change) (*Loaded, error)
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
					expect(t, "is used", s.state(t).used, microsOf(used))
					s.expectKept(t, "a=1 s=1")
					expect(t, "record's end", s.records[id].Expires, used.Add(timeout))
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
		expect(t, "ends, in the cache", s.state(t).ends, microsOf(ends))
		drain(t)
		c := slow.change("s=1")
		c.Used, c.Ends = c.Used.Add(-20*time.Minute), c.Ends.Add(-20*time.Minute)
		_, err := slow.st.Update(slow.ctx, id, slow.l, c)
		must(t, err)
		expect(t, "ends, in the cache", s.state(t).ends, microsOf(ends))
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
		expect(t, "record's end", s.records[id].Expires, ends)
	})
}

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
		expectErr(t, "change", b.update("b=3"), tier.ErrRemoved)
		expect(t, "calls of the cache", s.count("cache"), 0)
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
					expectErr(t, "change", err, tier.ErrRemoved)
				} else {
					must(t, err)
					expect(t, "backup", s.backedUp(), meanwhile.backup)
				}
				expect(t, "cached", s.cached(), meanwhile.cached)
			})
		})
	}
}

// These names have one hash in FNV-1a of 64 bits, by which attributes were told
// apart once.
func TestAttributesAreToldApartByTheirNames(t *testing.T) {
	const one, other = "8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, one+"=1 "+other+"=1")
				a, b := s.opened(t, "A"), s.opened(t, "B")
				must(t, change(a, "-"+one))
				must(t, change(b, other+"=2"))
				s.expectKept(t, other+"=2")
			})
		})
	}
}

// Guesses.

// guessed expects the updates with and without a guess.
func (s *services) guessed(t *testing.T, want ...bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []bool
	for _, g := range s.guesses {
		got = append(got, g != nil)
	}
	if !slices.Equal(got, want) {
		t.Errorf("updates with a guess: got %v, want %v", got, want)
	}
}

func TestAGuessThatIsWrongOverwritesNothing(t *testing.T) {
	for name, other := range map[string]func(t *testing.T, s *services) string{
		"another change": func(t *testing.T, s *services) string {
			must(t, s.opened(t, "B").update("b=1"))
			return "a=2 b=1"
		},
		"a change and the same again": func(t *testing.T, s *services) string {
			must(t, s.opened(t, "B").update("b=1"))
			must(t, s.opened(t, "B").update("-b"))
			return "a=2"
		},
		"a removal": func(t *testing.T, s *services) string { must(t, s.opened(t, "B").remove()); return "" },
		"a purge":   func(_ *testing.T, s *services) string { s.purge(); return "-" },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=0")
				must(t, s.opened(t, "A").update("a=1")) // the item knows the record then
				r := s.opened(t, "A")
				want := other(t, s)
				s.forgetCalls()
				err := r.update("a=2")
				s.guessed(t, true)
				switch want {
				case "":
					expectErr(t, "change", err, tier.ErrRemoved)
					s.expectRemoved(t)
				case "-":
					expectErr(t, "change", err, tier.ErrRemoved)
					expect(t, "in the backup", s.backedUp(), "-")
				default:
					must(t, err)
					s.expectKept(t, want)
				}
			})
		})
	}
}

func TestOnlyTheFirstAttemptGuesses(t *testing.T) {
	for name, answer := range map[string]error{"contention": tier.ErrContention, "a failure": errDown} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=0")
				must(t, s.opened(t, "A").update("a=1"))
				r := s.opened(t, "A")
				r.st.Retries = 3
				s.forgetCalls()
				failed := 0
				s.hook(func(c step) error {
					if c.is("backup.commit") && !c.done && failed < 2 {
						failed++
						return answer
					}
					return nil
				})
				must(t, r.update("a=2"))
				s.guessed(t, true, false, false)
				s.expectKept(t, "a=2")
			})
		})
	}
}

// A lost answer is no reason to write what was guessed over what came since.
func TestARetryDoesNotWriteItsGuessOverWhatOthersChangedSince(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		must(t, s.opened(t, "A").update("a=1"))
		r := s.opened(t, "A")
		s.at("A", "backup.commit", true, func() error {
			time.Sleep(time.Millisecond)
			other := s.request(t, "B")
			other.l, _ = other.st.LoadBackup(other.ctx, id)
			must(t, other.update("a=3 b=1"))
			return errLost
		})
		must(t, r.update("a=2"))
		s.expectKept(t, "a=3 b=1")
	})
}

func TestNothingIsGuessedThatWouldBeRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		must(t, s.opened(t, "A").update("a=1"))
		s.large = recordLimit
		r := s.opened(t, "A")
		s.forgetCalls()
		expectErr(t, "too large", r.update(xs("a", free+1)), tier.ErrTooLarge)
		s.guessed(t, false)
		s.forgetCalls()
		time.Sleep(timeout + overdue + time.Second)
		expectErr(t, "too late", r.update("a=2"), tier.ErrRemoved)
		s.guessed(t, false)
	})
}

func TestNothingIsGuessedWithoutAnythingToChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		must(t, s.opened(t, "A").update("a=1"))
		r := s.opened(t, "A")
		s.forgetCalls()
		_, err := r.st.Update(r.ctx, id, r.l, &Change{Value: r.l.Value()})
		must(t, err)
		s.guessed(t, false)
		expect(t, "commits", s.count("backup.commit"), 0)
	})
}

func TestNothingIsGuessedOfASessionWhoseRecordIsNotKnown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.request(t, "A")
		r.l = Unknown()
		must(t, r.update("b=1"))
		s.guessed(t, false)
		s.expectKept(t, "a=0 b=1")
	})
}
