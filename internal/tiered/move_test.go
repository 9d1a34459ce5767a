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

// The session gets another id.

// moveCalls are the calls of a move, in their order.
var moveCalls = []string{
	"cache.swap id", "cache.add of-A", "cache.get of-A", "backup.begin", "backup.txget", "backup.txput", "backup.commit",
	"cache.swap of-A", "cache.set id",
}

func TestAMoveTakesAlongWhatOthersHaveSaved(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1 b=1 c=1")
		r := s.opened(t, "A")
		must(t, s.opened(t, "B").update("b=2"))
		save := s.hold("C", "backup.commit", false)
		must(t, s.opened(t, "C").updateAsync("-c x=1"))
		v, err := r.move("a=2")
		must(t, err)
		expect(t, "moved", v, "a=2 b=2 x=1")
		expect(t, "cached under the new id", s.cachedAs(r.id), "a=2 b=2 x=1")
		expect(t, "cached under the old id", s.cached(), "removed")
		save()
		s.expectMoved(t, s.request(t, "A"), "a=2 b=2 x=1")
	})
}

func TestAMoveTakesAlongWhatTheBackupFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		r := s.opened(t, "A")
		s.fail("B", "backup")
		expectErr(t, "change", s.opened(t, "B").update("b=2"), errDown)
		_, err := r.move("a=2")
		must(t, err)
		s.expectMoved(t, s.request(t, "A"), "a=2 b=2")
	})
}

func TestASessionThatWasEvictedMoves(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		s.flush()
		_, err := s.opened(t, "A").move("a=2")
		must(t, err)
		s.expectMoved(t, s.request(t, "A"), "a=2")
	})
}

func TestASessionThatWasNeverBackedUpMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fail("creator", "backup")
		expectErr(t, "create", s.request(t, "creator").create("a=1"), errDown)
		_, err := s.opened(t, "A").move("b=1")
		must(t, err)
		s.expectMoved(t, s.request(t, "A"), "a=1 b=1")
	})
}

func TestASessionOfWhichNobodyKnowsWhenItEndsMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.putOldItem([]byte("a=1 b=1"))
		_, err := s.opened(t, "A").move("a=2")
		must(t, err)
		s.expectMoved(t, s.request(t, "A"), "a=2 b=1")
	})
}

func TestASessionMovesWithoutACache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.flush()
		r := s.request(t, "A")
		r.st.Cache = nil
		s.forgetCalls()
		_, err := r.load().move("b=1")
		must(t, err)
		expect(t, "calls of the cache", s.count("cache"), 0)
		s.expectMoved(t, s.request(t, "A"), "a=1 b=1")
	})
}

func TestASessionMovesThatIsNearlyTooLargeForTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.fits = 10 // the seal does not fit
		v, err := r.move("b=1")
		must(t, err)
		expect(t, "moved", v, "a=1 b=1")
		expect(t, "cached under the new id", s.cachedAs(r.id), "lease")
		s.fits = 0
		s.expectMoved(t, s.request(t, "A"), "a=1 b=1")
	})
}

func TestBytesThatHoldTheIDAreRenamed(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "#=id a=1")
		must(t, s.opened(t, "B").update("b=1"))
		r := s.opened(t, "A")
		m := r.st.NewMove(id, r.to(), r.l)
		moved, err := m.Run(r.ctx, r.l, r.change("a=2"))
		must(t, err)
		expect(t, "moved", words(moved.Value)["#"], r.to())
		r.l, r.id = moved.Loaded, m.To()
		expect(t, "what the request goes on from", words(r.l.Value())["#"], r.to())
		must(t, r.update("c=1"))
		expect(t, "after a change", words(r.load().l.Value())["#"], r.to())
	})
}

// The new item has the new record's token, and the request's next change is not
// made over what others have saved.
func TestAChangeAfterAMoveMakesTheCallsOfAnyOther(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		must(t, s.opened(t, "B").update("b=1"))
		r := s.opened(t, "A")
		_, err := r.move("a=2")
		must(t, err)
		other := s.request(t, "C")
		other.id = r.id
		other.load()
		s.forgetCalls()
		must(t, other.update("c=1"))
		want := 5
		if s.versions {
			want = 2
		}
		expect(t, "calls", s.count(""), want)
		must(t, r.update("d=1"))
		s.expectMoved(t, s.request(t, "A"), "a=2 b=1 c=1 d=1")
	})
}

// Another copy of the request's session has moved it. Records of two ids may have
// one token.
func TestNothingIsGuessedOfASessionThatIsElsewhere(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		must(t, s.opened(t, "B").update("x=1"))
		must(t, s.opened(t, "B").update("x=2"))
		r, other := s.opened(t, "A"), s.opened(t, "B")
		_, err := r.move("a=2")
		must(t, err)
		must(t, r.update("c=1"))
		must(t, r.update("d=1"))
		other.l, other.id = other.l.Elsewhere(), r.id
		s.forgetCalls()
		must(t, other.update("b=1"))
		s.guessed(t, false)
		s.expectMoved(t, s.request(t, "A"), "a=2 b=1 c=1 d=1 x=2")
	})
}

func TestTheRequestThatMovesASessionGoesOnUnderTheNewID(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				must(t, s.opened(t, "B").update("b=1"))
				_, err := r.move("a=2")
				must(t, err)
				if name == "synchronous" {
					must(t, change(r, "a=3 c=1"))
					expect(t, "in the cache", s.cachedAs(r.to()), "a=3 b=1 c=1")
				} else {
					save := s.hold("A", "backup.commit", false)
					must(t, change(r, "a=3 c=1"))
					expect(t, "in the cache", s.cachedAs(r.to()), "unsaved a=3 b=1 c=1")
					save()
				}
				s.expectMoved(t, s.request(t, "A"), "a=3 b=1 c=1")
			})
		})
	}
}

// A change is begun while the session moves, at each of its mover's calls. It is
// taken along or refused, and nothing between.
func TestAChangeWhileASessionMovesIsTakenAlongOrRefused(t *testing.T) {
	for name, change := range changes {
		for when, loadedBefore := range map[string]bool{"loaded before": true, "loaded then": false} {
			for cached, evicted := range map[string]bool{"cached": false, "evicted": true} {
				for _, op := range moveCalls {
					for _, done := range []bool{false, true} {
						t.Run(strings.Join([]string{name, when, cached, op}, " "), func(t *testing.T) {
							bubble(t, func(t *testing.T) {
								s := created(t, "a=1 b=1")
								r, b := s.request(t, "A"), s.opened(t, "B")
								if evicted {
									s.flush()
								}
								r.load()
								release := s.hold("A", op, done)
								var v string
								ended := started(func() (err error) { v, err = r.move("a=2"); return err })
								changed := errors.New("no session")
								if l, _ := b.st.Load(b.ctx, id); loadedBefore || l != nil {
									if !loadedBefore {
										b.l = l
									}
									held := started(func() error { return change(b, "b=2") })
									release()
									changed = held()
								} else {
									release()
								}
								must(t, ended())
								want := "a=2 b=2"
								if changed != nil {
									want = "a=2 b=1"
								}
								if v != want {
									t.Errorf("the change says %v, and moved was %q", changed, v)
								}
								s.expectMoved(t, s.request(t, "A"), want)
							})
						})
					}
				}
			}
		}
	}
}

// A removal is begun while the session moves, at each of its mover's calls, or a
// move while it is removed. It is gone under both ids, or it had moved before.
func TestARemovalWhileASessionMoves(t *testing.T) {
	for _, op := range moveCalls {
		for _, done := range []bool{false, true} {
			t.Run(op, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=1")
					r, leaver := s.opened(t, "A"), s.opened(t, "B")
					release := s.hold("A", op, done)
					var v string
					ended := started(func() (err error) { v, err = r.move("a=2"); return err })
					must(t, leaver.remove())
					release()
					if err := ended(); err != nil {
						expectErr(t, "move", err, tier.ErrRemoved)
						expect(t, "moved", v, "-")
						expect(t, "in the backup, the new id", s.backedUpAs(r.to()), "-")
					}
					s.expectRemoved(t)
				})
			})
		}
	}
}

// The seal: an asynchronous change between the commit and the marker would be
// acknowledged, and be in no session.
func TestNoAsynchronousChangeFallsBetweenTheCommitAndTheMarker(t *testing.T) {
	for when, loadedBefore := range map[string]bool{"loaded before": true, "loaded then": false} {
		t.Run(when, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1 b=1")
				r, b := s.opened(t, "A"), s.opened(t, "B")
				mark := s.hold("A", "cache.set", false)
				ended := started(func() error { _, err := r.move("a=2"); return err })
				expect(t, "cached", s.cached(), "sealed a=1 b=1")
				if !loadedBefore {
					b.load()
				}
				expectErr(t, "change", b.updateAsync("b=2"), tier.ErrRemoved)
				mark()
				must(t, ended())
				s.expectMoved(t, s.request(t, "A"), "a=2 b=1")
			})
		})
	}
}

func TestAPublishKeepsTheSeal(t *testing.T) {
	for when, loadedBefore := range map[string]bool{"loaded before": true, "loaded then": false} {
		t.Run(when, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				must(t, s.opened(t, "C").update("b=1")) // the item has the record's token
				r, b := s.opened(t, "A"), s.opened(t, "B")
				begin := s.hold("A", "backup.begin", false)
				ended := started(func() error { _, err := r.move("a=2"); return err })
				if !loadedBefore {
					b.load()
				}
				must(t, b.update("b=2"))
				expect(t, "cached", s.cached(), "sealed a=1 b=2")
				begin()
				must(t, ended())
				s.expectMoved(t, s.request(t, "A"), "a=2 b=2")
			})
		})
	}
}

// An orphan lease of a minute would let a refill put a session there whose
// asynchronous changes nobody takes along.
func TestAPublishLeavesTheLeaseOfASessionThatMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.patient = true
		writer, mover := s.opened(t, "W"), s.opened(t, "A")
		s.flush()
		commit := s.hold("A", "backup.commit", false)
		swap := s.hold("W", "cache.swap", false)
		written := started(func() error { return writer.update("w=1") })
		moved := started(func() error { _, err := mover.move("a=1"); return err })
		synctest.Wait()
		swap()
		must(t, written())
		time.Sleep(20 * time.Second) // as long as a move may take
		must(t, s.opened(t, "R").settle())
		x := s.opened(t, "X")
		changed := started(func() error { return x.updateAsync("x=1") })
		commit()
		must(t, moved())
		want := "a=1 w=1"
		if changed() == nil {
			want = "a=1 w=1 x=1"
		}
		s.expectMoved(t, s.request(t, "A"), want)
	})
}

func TestASealedItemLivesNoLongerThanItsSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		ends := s.items[id].ends
		r := s.opened(t, "A")
		time.Sleep(time.Minute)
		s.fail("A", "backup")
		_, err := r.move("a=1")
		expectErr(t, "move", err, errDown)
		expect(t, "the item expires", s.items[id].ends, ends)
	})
}

func TestOnlyOneOfTwoMovesASession(t *testing.T) {
	for _, op := range []string{"cache.swap id", "cache.add", "backup.begin", "backup.commit", "cache.set"} {
		t.Run(op, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				a, b := s.opened(t, "A"), s.opened(t, "B")
				if s.versions && op == "backup.begin" {
					t.Skip("no such call")
				}
				release := s.hold("A", op, false)
				var v string
				ended := started(func() (err error) { v, err = a.move("a=2"); return err })
				w, err := b.move("a=3")
				release()
				aerr := ended()
				if (err == nil) == (aerr == nil) || (v == "-") == (w == "-") {
					t.Fatalf("got %q, %v and %q, %v; want one of them", v, aerr, w, err)
				}
				expectErr(t, "the slower", errors.Join(err, aerr), tier.ErrRemoved)
				faster, slower, want := s.request(t, "A"), s.request(t, "B"), "a=2"
				if err == nil {
					faster, slower, want = slower, faster, "a=3"
				}
				expect(t, "under the slower's id", s.backedUpAs(slower.to()), "-")
				s.expectMoved(t, faster, want)
			})
		})
	}
}

func TestAMoveOfARemovedSessionIsRefused(t *testing.T) {
	for name, lose := range map[string]func(*services){"": func(*services) {}, "its marker is gone": (*services).flush} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				must(t, s.opened(t, "B").remove())
				lose(s)
				v, err := r.move("a=2")
				expectErr(t, "move", err, tier.ErrRemoved)
				expect(t, "moved", v, "-")
				expect(t, "cached", s.cached(), "removed")
				expect(t, "under the new id", s.backedUpAs(r.to()), "-")
				s.expectRemoved(t)
			})
		})
	}
}

func TestAMoveThatIsTooLargeIsRefusedAndChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.large = 1000
		r := s.opened(t, "A")
		_, err := r.move("a=" + strings.Repeat("x", 900))
		expectErr(t, "move", err, tier.ErrTooLarge)
		expect(t, "cached", s.cached(), "a=1")
		expect(t, "under the new id", s.backedUpAs(r.to()), "-")
		s.expectKept(t, "a=1")
	})
}

func TestTheRecordOfAMovedSessionStaysAsLongAsThatOfALogout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		_, err := s.opened(t, "A").move("")
		must(t, err)
		if stays := time.Until(s.records[id].Expires); stays < 24*time.Hour-time.Second || stays > 25*time.Hour {
			t.Errorf("it stays for %v", stays)
		}
	})
}

// The backup fails.

func TestAMoveThatTheBackupFailsLeavesTheSessionAsItWas(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.txget", "backup.txput", "backup.commit"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				s.fail("A", op)
				v, err := r.move("a=2")
				expectErr(t, "move", err, errDown)
				expectErr(t, "move", err, tier.ErrNotSaved)
				expect(t, "moved", v, "-")
				s.well()
				if op != "backup.commit" {
					expect(t, "cached under the new id", s.cachedAs(r.to()), "lease")
				} else { // it may still have its effect
					expect(t, "cached", s.cached(), "sealed a=1")
					time.Sleep(watchAfter)
					synctest.Wait()
					expect(t, "in the backup under the new id", s.backedUpAs(r.to()), "removed")
				}
				expect(t, "cached, and not sealed", s.cached(), "a=1")
				save := s.hold("B", "backup.commit", false)
				must(t, s.opened(t, "B").updateAsync("b=1"))
				expect(t, "an asynchronous change", s.cached(), "unsaved a=1 b=1")
				save()
				s.expectKept(t, "a=1 b=1")
			})
		})
	}
}

// A has sealed the session, B has sealed it after that and gives up: without any
// seal the asynchronous change would be lost when A commits.
func TestAMoveThatIsGivenUpLeavesTheSessionSealedForAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		a, b, c := s.opened(t, "A"), s.opened(t, "B"), s.opened(t, "C")
		commit := s.hold("A", "backup.commit", false)
		ended := started(func() error { _, err := a.move("a=2"); return err })
		s.fail("B", "backup")
		_, err := b.move("a=3")
		expectErr(t, "B", err, tier.ErrNotSaved)
		expect(t, "cached", s.cached(), "sealed a=1")
		changed := started(func() error { return c.updateAsync("c=1") })
		commit()
		must(t, ended())
		want := "a=2"
		if changed() == nil {
			want += " c=1"
		}
		s.expectMoved(t, s.request(t, "A"), want)
	})
}

func TestASealThatIsLeftBehindMakesAsynchronousChangesSynchronous(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.die("A", "backup.begin", false)
		_, err := s.opened(t, "A").move("a=2")
		expectErr(t, "move", err, errDied)
		expect(t, "cached", s.cached(), "sealed a=1")
		must(t, s.opened(t, "B").updateAsync("b=1"))
		expect(t, "in the backup", s.backedUp(), "a=1 b=1")
		expect(t, "cached", s.cached(), "sealed a=1 b=1")
		s.expectKept(t, "a=1 b=1")
	})
}

func TestAMoveIsTriedAgainByAnotherRun(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.commit"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				s.fail("A", op)
				_, err := r.move("a=2")
				expectErr(t, "move", err, errDown)
				must(t, s.opened(t, "B").update("b=1"))
				s.well()
				v, err := r.move("a=3 c=1")
				must(t, err)
				expect(t, "moved", v, "a=3 b=1 c=1")
				s.expectMoved(t, s.request(t, "A"), "a=3 b=1 c=1")
			})
		})
	}
}

// The retry of a move whose commit seemed to fail must not go back to what was
// known before the change of another request.
func TestAMoveTriedAgainKeepsWhatOthersHaveChangedSince(t *testing.T) {
	for name, edits := range map[string]string{"another attribute": "b=1", "the same attribute": "a=2"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				r := s.opened(t, "A")
				s.at("A", "backup.commit", false, func() error {
					time.Sleep(time.Millisecond)
					must(t, s.opened(t, "B").update(edits))
					return errDown
				})
				_, err := r.move("a=1")
				must(t, err)
				want := map[string]string{"another attribute": "a=1 b=1", "the same attribute": "a=2"}[name]
				s.expectMoved(t, s.request(t, "A"), want)
			})
		})
	}
}

// The answer is lost.

func TestAMoveWhoseAnswerIsLostIsRecognised(t *testing.T) {
	for name, retries := range map[string]int{"by the next attempt": 2, "by asking": 1} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				must(t, s.opened(t, "B").update("b=1"))
				r := s.opened(t, "A")
				r.st.Retries = retries
				s.lose("A", "backup.commit")
				v, err := r.move("a=2")
				must(t, err)
				expect(t, "moved", v, "a=2 b=1")
				expect(t, "cached under the new id", s.cachedAs(r.to()), "a=2 b=1")
				s.expectMoved(t, s.request(t, "A"), "a=2 b=1")
			})
		})
	}
}

// unknownMove is a session whose mover does not know whether it has moved.
func unknownMove(t *testing.T, s *services) *request {
	t.Helper()
	r := s.opened(t, "A")
	s.at("A", "backup.commit", true, func() error { s.fail("A", "backup"); return errLost })
	v, err := r.move("a=2")
	expectErr(t, "move", err, tier.ErrNotSaved)
	expect(t, "moved", v, "-")
	expect(t, "may be moved", r.m.MayBeMoved(), true)
	expect(t, "under the old id, in the backup", s.backedUp(), "removed")
	return r
}

func TestAnotherRunFindsOutThatTheSessionHasMoved(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		r := unknownMove(t, s)
		s.well()
		moved, err := r.m.Run(r.ctx, r.l, r.change("a=3 b=1"))
		must(t, err)
		expect(t, "by the attempt", moved.Run, 0)
		expect(t, "as that has changed it", shown(moved.Value), "a=2")
		expect(t, "may be moved", r.m.MayBeMoved(), false)
		expect(t, "cached under the old id", s.cached(), "removed")
		r.l, r.id = moved.Loaded, r.m.To()
		must(t, r.update("a=3 b=1"))
		s.expectMoved(t, s.request(t, "A"), "a=3 b=1")
	})
}

func TestAnotherRunThatCannotFindOutSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := unknownMove(t, s)
		_, err := r.move("a=3")
		expectErr(t, "another run", err, tier.ErrNotSaved)
		expectErr(t, "another run", err, errDown)
		expect(t, "may be moved", r.m.MayBeMoved(), true)
		s.well()
		_, err = r.move("a=3")
		must(t, err)
		s.expectMoved(t, s.request(t, "A"), "a=2")
	})
}

func TestTheBackgroundRemovesWhatHasMovedUnderAnIDThatNobodyKnows(t *testing.T) {
	for name, ended := range map[string]bool{"when the request has ended": true, "after half a minute": false} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				r := s.request(t, "A")
				ctx, cancel := context.WithCancel(r.ctx)
				defer cancel()
				r.ctx = ctx
				s.hook(func(c step) error { return nil })
				r.load()
				s.at("A", "backup.commit", true, func() error { s.fail("A", "backup"); return errLost })
				_, err := r.move("a=2")
				expectErr(t, "move", err, tier.ErrNotSaved)
				s.well()
				if ended {
					cancel()
				} else {
					time.Sleep(watchAfter)
				}
				synctest.Wait()
				expect(t, "the old item", s.cached(), "removed")
				expect(t, "the new item", s.cachedAs(r.to()), "removed")
				v, err := r.move("a=3")
				expect(t, "another run", v, "-")
				if !ended {
					expectErr(t, "another run", err, tier.ErrRemoved)
				}
				s.expectRemoved(t)
				s.expectRemovedAs(t, r.to())
			})
		})
	}
}

func TestALateCommitOfAMoveThatWasGivenUpHasNoEffect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.at("A", "backup.commit", false, func() error { s.fail("A", "backup"); return errDown })
		_, err := r.move("a=2")
		expectErr(t, "move", err, tier.ErrNotSaved)
		s.well()
		time.Sleep(watchAfter)
		synctest.Wait()
		// It would be refused: a record is under the new id.
		s.expectRemovedAs(t, r.to())
		_, err = r.move("a=3")
		expectErr(t, "another run", err, tier.ErrRemoved)
		expect(t, "loaded", s.opened(t, "B").see(), "a=1")
		must(t, s.opened(t, "B").update("b=1"))
		expect(t, "loaded", s.opened(t, "C").see(), "a=1 b=1")
	})
}

func TestTheBackgroundGoesOnUntilNoCommitOfAMoveCanHaveAnEffect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := unknownMove(t, s)
		drain(t)
		time.Sleep(time.Hour)
		s.well()
		time.Sleep(time.Minute)
		synctest.Wait()
		s.expectRemovedAs(t, r.to())
		expect(t, "reports", len(s.reports), 0)
	})
}

// The session under the new id has been removed since, by this request, which
// alone knows that id.
func TestAMoveOfWhatWasRemovedUnderItsNewIDIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := unknownMove(t, s)
		s.well()
		must(t, r.st.Remove(r.ctx, r.to(), nil))
		for range 2 {
			v, err := r.move("a=3")
			expectErr(t, "another run", err, tier.ErrRemoved)
			if errors.Is(err, tier.ErrNotSaved) {
				t.Errorf("another run: %v", err)
			}
			expect(t, "moved", v, "-")
		}
		s.expectRemovedAs(t, r.to())
	})
}

// Contexts that end.

func TestAMoveWhoseContextEndsDuringACommitThatWasAppliedHasMoved(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		ctx, cancel := context.WithCancel(r.ctx)
		r.ctx = ctx
		s.at("A", "backup.commit", true, before(cancel))
		v, err := r.move("a=2")
		must(t, err)
		expect(t, "moved", v, "a=2")
		s.expectMoved(t, s.request(t, "A"), "a=2")
	})
}

func TestAMoveIsNotBegunOnceTheContextHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		ctx, cancel := context.WithCancel(r.ctx)
		r.ctx = ctx
		cancel()
		s.forgetCalls()
		_, err := r.move("a=2")
		expectErr(t, "move", err, context.Canceled)
		expectErr(t, "move", err, tier.ErrNotSaved)
		expect(t, "calls", s.count(""), 0)
		s.expectKept(t, "a=1")
	})
}

func TestAMoveWhoseContextEndsBeforeItsCommitLeavesTheSessionAsItWas(t *testing.T) {
	for _, op := range []string{"cache.swap id", "cache.add", "backup.begin", "backup.txget", "backup.txput", "backup.commit"} {
		for _, done := range []bool{false, true} {
			if op == "backup.commit" && done {
				continue
			}
			t.Run(op, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=1")
					r := s.opened(t, "A")
					ctx, cancel := context.WithCancel(r.ctx)
					r.ctx = ctx
					s.at("A", op, done, before(cancel))
					_, err := r.move("a=2")
					expectErr(t, "move", err, context.Canceled)
					expectErr(t, "move", err, tier.ErrNotSaved)
					s.expectNone(t, r.to())
					expect(t, "cached, and not sealed", s.cached(), "a=1")
					s.expectKept(t, "a=1")
				})
			})
		}
	}
}

// The cache fails.

func TestAMoveThatTheCacheFailsGoesOn(t *testing.T) {
	for _, silent := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s := created(t, "a=1")
			r := s.opened(t, "A")
			if silent {
				s.silence("A", "cache")
			} else {
				s.fail("A", "cache")
			}
			begin := time.Now()
			v, err := r.move("a=2")
			expectErr(t, "move", err, tier.ErrNotPublished)
			if took := time.Since(begin); took > DefaultCacheTimeout+100*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			expect(t, "moved", v, "a=2")
			expectErr(t, "a change under the old id", s.opened(t, "B").update("b=1"), tier.ErrRemoved)
			s.well()
			drain(t)
			expect(t, "the old item", s.cached(), "removed")
			s.expectMoved(t, s.request(t, "A"), "a=2")
		})
	}
}

func TestOnlyAMarkerThatFailedIsReportedOfAMove(t *testing.T) {
	for op, want := range map[string]error{
		"cache.swap id": nil, "cache.add of-A": nil, "cache.get of-A": nil, "cache.swap of-A": nil, "cache.set id": tier.ErrNotPublished,
	} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				r := s.opened(t, "A")
				s.hook(func(c step) error {
					if c.who == "A" && c.is(op) {
						return errDown
					}
					return nil
				})
				v, err := r.move("a=1")
				expectErr(t, "move", err, want)
				expect(t, "moved", v, "a=1")
				s.well()
				s.expectMoved(t, s.request(t, "A"), "a=1")
			})
		})
	}
}

// A swap that failed may arrive later. So the cache is told again.
func TestALeaseThatCouldNotBeSwappedIsEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		s.hook(func(c step) error {
			if c.who == "A" && c.is("cache.swap of-A") && !c.done {
				return errDown
			}
			return nil
		})
		_, err := r.move("a=1")
		must(t, err)
		expect(t, "under the new id", s.cachedAs(r.to()), "lease")
		s.well()
		drain(t)
		time.Sleep(leaseTTL)
		expect(t, "under the new id", s.cachedAs(r.to()), "-")
		s.expectMoved(t, s.request(t, "A"), "a=1")
	})
}

// A request dies.

// Before its commit it has changed nothing. After it there is an orphan, and the
// old item is read until its next change.
func TestARequestThatDiesInAMoveHasChangedNothingOrMovedTheSession(t *testing.T) {
	for cached, evicted := range map[string]bool{"cached": false, "evicted": true} {
		for _, op := range append([]string{"cache.get id"}, moveCalls...) {
			for _, done := range []bool{false, true} {
				for how, change := range changes {
					t.Run(cached+" at "+op+" then "+how, func(t *testing.T) {
						onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
							s := created(t, "a=1 b=1")
							if evicted {
								s.flush()
							}
							r := s.opened(t, "A")
							s.die("A", op, done)
							_, _ = r.move("a=2")
							drain(t)
							if s.backedUp() == "removed" {
								expect(t, "under the new id", s.backedUpAs(r.to()), "a=2 b=1")
								if s.cached() != "removed" && !evicted {
									expectErr(t, "a change under the old id", change(s.opened(t, "B"), "b=2"), tier.ErrRemoved)
								}
								s.expectRemoved(t)
								return
							}
							expect(t, "under the new id", s.backedUpAs(r.to()), "-")
							must(t, change(s.opened(t, "B"), "b=2"))
							s.expectKept(t, "a=1 b=2")
						})
					})
				}
			}
		}
	}
}

// Without a backup.

func (s *services) withoutBackup(t *testing.T, who string) *request {
	t.Helper()
	r := s.request(t, who)
	r.st.Backup = nil
	return r
}

func TestWithoutABackupASessionMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		must(t, s.withoutBackup(t, "creator").create("#=id a=1"))
		a, b := s.withoutBackup(t, "A").load(), s.withoutBackup(t, "B").load()
		must(t, s.withoutBackup(t, "C").load().update("c=1"))
		v, err := a.move("b=1")
		must(t, err)
		expect(t, "moved", v, "a=1 b=1 c=1")
		expect(t, "now", a.see(), "a=1 b=1 c=1")
		expect(t, "its id", words(a.load().l.Value())["#"], a.to())
		must(t, a.update("d=1"))
		expect(t, "after a change", a.see(), "a=1 b=1 c=1 d=1")
		_, err = b.move("b=2")
		expectErr(t, "the slower", err, tier.ErrRemoved)
		expectErr(t, "a change", b.update("b=2"), tier.ErrRemoved)
		expect(t, "cached", s.cached(), "removed")
		expect(t, "under the slower's id", s.cachedAs(b.to()), "removed")
	})
}

func TestWithoutABackupAMoveThatTheCacheFailsLeavesTheSession(t *testing.T) {
	for _, op := range []string{"cache", "cache.add", "cache.swap"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				r := s.withoutBackup(t, "A").load()
				s.fail("A", op)
				v, err := r.move("a=1")
				expectErr(t, "move", err, errDown)
				expectErr(t, "move", err, tier.ErrNotSaved)
				expect(t, "moved", v, "-")
				s.well()
				drain(t)
				expect(t, "now", r.see(), "a=0")
				if got := s.cachedAs(r.to()); got != "removed" && got != "-" {
					t.Errorf("under the new id there is %s", got)
				}
			})
		})
	}
}

func TestWithoutABackupASessionMovesOnceAlthoughTheAnswerIsLost(t *testing.T) {
	for _, op := range []string{"cache.add", "cache.swap"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				must(t, s.withoutBackup(t, "creator").create("a=1"))
				r := s.withoutBackup(t, "A").load()
				s.lose("A", op)
				v, err := r.move("b=2")
				must(t, err)
				expect(t, "moved", v, "a=1 b=2")
				expect(t, "cached", s.cached(), "removed")
				expect(t, "now", r.see(), "a=1 b=2")
			})
		})
	}
}

func TestWithoutABackupAMoveTakesAlongWhatOverlapsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		must(t, s.withoutBackup(t, "creator").create("a=1"))
		a, b := s.withoutBackup(t, "A").load(), s.withoutBackup(t, "B").load()
		add := s.hold("A", "cache.add", true)
		ended := started(func() error { _, err := a.move("a=2"); return err })
		must(t, b.update("b=1"))
		add()
		must(t, ended())
		expect(t, "now", a.see(), "a=2 b=1")
		expectErr(t, "a later change", b.update("b=2"), tier.ErrRemoved)
	})
}

func TestWithoutABackupWhatWasEvictedDoesNotMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		must(t, s.withoutBackup(t, "creator").create("a=1"))
		r := s.withoutBackup(t, "A").load()
		s.flush()
		_, err := r.move("a=2")
		expectErr(t, "move", err, tier.ErrRemoved)
		expect(t, "under the new id", s.cachedAs(r.to()), "removed")
	})
}
