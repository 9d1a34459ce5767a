//go:build go1.25

package tiered

import (
	"testing"
	"testing/synctest"
	"time"
)

// Schedules that the protocol before this one lost something in, and schedules
// that one of today's rules is there for.

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

func TestWhatWasSetBackWhileItsBackgroundSaveWasUnderWayStaysBack(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.commit"} {
		for name, flush := range map[string]bool{"with a flush": true, "without": false} {
			t.Run(op+" "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=0 c=0")
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

// There is no blind delete: it would take others' unsaved changes.
func TestALatePublishTakesNobodysUnsavedChange(t *testing.T) {
	for name, dies := range map[string]bool{"whose request dies": true, "whose request lives": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0 c=0 d=0")
				a, c := s.opened(t, "A"), s.opened(t, "C")
				publish := s.hold("A", "cache.swap", false)
				ended := started(func() error { return a.update("a=1") })
				must(t, c.update("c=1"))
				if dies {
					s.die("D", "backup.begin", false)
				}
				must(t, s.opened(t, "D").updateAsync("d=1"))
				publish()
				must(t, ended())
				expect(t, "D's change is seen", s.request(t, "judge").see(), "a=1 c=1 d=1")
				drain(t)
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				s.expectKept(t, "a=1 c=1 d=1")
			})
		})
	}
}

func TestAChangeThatTheBackupFailedIsNotOverwrittenByTheSaveOfWhatItStoodOn(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.commit", "cache.get", "cache.swap"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				r := s.opened(t, "A")
				var release func()
				if op == "cache.swap" {
					must(t, r.updateAsync("a=1"))
					release = s.hold("A", op, false) // that of its publish
				} else {
					release = s.hold("A", op, false)
					must(t, r.updateAsync("a=1"))
				}
				synctest.Wait() // it is held
				s.fail("B", "backup")
				time.Sleep(time.Millisecond)
				expectErr(t, "B's change", s.opened(t, "B").update("a=2"), errDown)
				release()
				drain(t)
				expect(t, "cached", s.cached(), "unsaved a=2")
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				s.expectKept(t, "a=2")
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
		s.latency = latency
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

func TestADeletionThatTheBackupHasNotHeardOfIsNotForgottenByAPublish(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		publish := s.hold("A", "cache.swap", false)
		ended := started(func() error { return r.update("a=1") })
		save := s.hold("B", "backup.begin", false)
		must(t, s.opened(t, "B").updateAsync("x=1"))
		time.Sleep(time.Millisecond)
		s.die("C", "backup.begin", false)
		must(t, s.opened(t, "C").updateAsync("-x"))
		publish()
		must(t, ended())
		save()
		drain(t)
		expect(t, "now", s.request(t, "judge").see(), "a=1")
		time.Sleep(saveAfter)
		must(t, s.opened(t, "reader").settle())
		s.expectKept(t, "a=1")
	})
}

func TestACommitWhoseAnswerIsLostIsNotAppliedOverWhatOthersChangedSince(t *testing.T) {
	for name, edits := range map[string]string{"set": "a=2", "set back": "a=0", "deleted": "-a"} {
		for how, change := range changes {
			t.Run(name+" "+how, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=0 b=0")
					r := s.opened(t, "A")
					s.at("A", "backup.commit", true, func() error {
						time.Sleep(time.Millisecond)
						b := s.request(t, "B")
						b.l, _ = b.st.LoadBackup(b.ctx, id)
						expect(t, "B sees", shown(b.l.Value()), "a=1 b=0")
						must(t, b.update(edits))
						return errLost
					})
					must(t, change(r, "a=1"))
					drain(t)
					want := map[string]string{"set": "a=2 b=0", "set back": "a=0 b=0", "deleted": "b=0"}[name]
					s.expectKept(t, want)
				})
			})
		}
	}
}

func TestACommitThatWasAppliedAndReportedAsFailedForGoodIsKept(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0 b=0")
		r := s.opened(t, "A")
		s.at("A", "backup.commit", true, func() error {
			s.fail("A", "backup")
			return errLost
		})
		expectErr(t, "change", r.update("a=1"), errDown)
		expect(t, "in the backup", s.backedUp(), "a=1 b=0")
		must(t, s.opened(t, "B").update("a=2"))
		s.expectKept(t, "a=2 b=0")
	})
}

// The emptied record outlives the item that a logout could not replace.
func TestALogoutThatTheCacheFailedIsFinalForWhoeverSavesAgain(t *testing.T) {
	for name, lifetime := range map[string]time.Duration{"half an hour": timeout, "a month": 30 * 24 * time.Hour} {
		for how, change := range changes {
			t.Run(name+" "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=0")
					long := s.opened(t, "A")
					c := long.change("a=1")
					c.Ends = time.Now().Add(lifetime)
					_, err := long.st.Update(long.ctx, id, long.l, c)
					must(t, err)
					leaver := s.opened(t, "leaver")
					s.fail("leaver", "cache")
					expectErr(t, "logout", leaver.remove(), errDown)
					begin := time.Now()
					for lifetime-time.Since(begin) > time.Minute {
						time.Sleep(min(lifetime-time.Since(begin)-time.Second, 24*time.Hour))
						s.purgeExpired()
						expect(t, "in the backup", s.backedUp(), "removed")
					}
					expect(t, "still cached", s.cached(), "a=1")
					err = change(s.opened(t, "B"), "a=2")
					if drain(t); how == "synchronous" {
						expectErr(t, "change", err, ErrRemoved)
					}
					s.expectRemoved(t)
				})
			})
		}
	}
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
