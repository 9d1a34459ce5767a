//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// The session moves to another id.

func TestWhatIsTakenIsWhatTheSessionWasLast(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1 b=1 c=1")
		r := s.opened(t, "A")
		must(t, s.opened(t, "B").update("b=2"))
		save := s.hold("C", "backup.commit", false)
		must(t, s.opened(t, "C").updateAsync("-c x=1"))
		v, err := r.take("a=2")
		must(t, err)
		expect(t, "taken", v, "a=2 b=2 x=1")
		save()
		s.expectRemoved(t)
	})
}

func TestWhatTheBackupFailedIsTakenAlong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		r := s.opened(t, "A")
		s.fail("B", "backup")
		expectErr(t, "change", s.opened(t, "B").update("b=2"), errDown)
		v, err := r.take("a=2")
		must(t, err)
		expect(t, "taken", v, "a=2 b=2")
		s.expectRemoved(t)
	})
}

func TestASessionThatWasEvictedIsTaken(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		s.flush()
		r := s.opened(t, "A")
		v, err := r.take("a=2")
		must(t, err)
		expect(t, "taken", v, "a=2")
		s.expectRemoved(t)
	})
}

// A change is begun while the session moves, at each of its mover's calls. It is
// taken along or refused, and nothing between.
func TestAChangeWhileASessionMovesIsTakenAlongOrRefused(t *testing.T) {
	for name, change := range changes {
		for when, loadedBefore := range map[string]bool{"loaded before": true, "loaded then": false} {
			for cached, evicted := range map[string]bool{"cached": false, "evicted": true} {
				for _, op := range []string{"cache.get", "cache.add", "cache.swap", "backup.begin", "backup.txget", "backup.txput", "backup.commit", "cache.set"} {
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
								ended := started(func() (err error) { v, err = r.take("a=2"); return err })
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
								if changed == nil && v != "a=2 b=2" || changed != nil && v != "a=2 b=1" {
									t.Errorf("the change says %v, and taken was %q", changed, v)
								}
								s.expectRemoved(t)
							})
						})
					}
				}
			}
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
				ended := started(func() error { _, err := r.take("a=2"); return err })
				expect(t, "cached", s.cached(), "sealed a=1 b=1")
				if !loadedBefore {
					b.load()
				}
				expectErr(t, "change", b.updateAsync("b=2"), ErrRemoved)
				mark()
				must(t, ended())
				s.expectRemoved(t)
			})
		})
	}
}

func TestAPublishKeepsTheSeal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		r, b := s.opened(t, "A"), s.opened(t, "B")
		begin := s.hold("A", "backup.begin", false)
		var v string
		ended := started(func() (err error) { v, err = r.take("a=2"); return err })
		must(t, b.update("b=2"))
		expect(t, "cached", s.cached(), "sealed a=1 b=2")
		begin()
		must(t, ended())
		expect(t, "taken", v, "a=2 b=2")
		s.expectRemoved(t)
	})
}

func TestOnlyOneOfTwoTakesASession(t *testing.T) {
	for _, op := range []string{"cache.swap", "backup.begin", "backup.commit", "cache.set"} {
		t.Run(op, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				a, b := s.opened(t, "A"), s.opened(t, "B")
				if s.tokens && op == "backup.begin" {
					t.Skip("no such call")
				}
				release := s.hold("A", op, false)
				var v string
				ended := started(func() (err error) { v, err = a.take("a=2"); return err })
				w, err := b.take("a=3")
				release()
				aerr := ended()
				if (err == nil) == (aerr == nil) || (v == "-") == (w == "-") {
					t.Errorf("got %q, %v and %q, %v; want one of them", v, aerr, w, err)
				}
				expectErr(t, "the slower", errors.Join(err, aerr), ErrRemoved)
				s.expectRemoved(t)
			})
		})
	}
}

func TestATakeOfARemovedSessionIsRefused(t *testing.T) {
	for name, lose := range map[string]func(*services){"": func(*services) {}, "its marker is gone": (*services).flush} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				must(t, s.opened(t, "B").remove())
				lose(s)
				v, err := r.take("a=2")
				expectErr(t, "take", err, ErrRemoved)
				expect(t, "taken", v, "-")
				s.expectRemoved(t)
			})
		})
	}
}

// After an error the session is what it was.

func TestATakeThatTheBackupFailsLeavesTheSessionAsItWas(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.txget", "backup.txput"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				s.fail("A", op)
				v, err := r.take("a=2")
				expectErr(t, "take", err, errDown)
				expect(t, "taken", v, "-")
				expect(t, "now", s.request(t, "judge").see(), "a=1")
				s.well()
				must(t, s.opened(t, "B").updateAsync("b=1"))
				expect(t, "a change of a sealed session is saved", s.backedUp(), "a=1 b=1")
				time.Sleep(sealTime)
				must(t, s.opened(t, "C").updateAsync("c=1"))
				s.expectKept(t, "a=1 b=1 c=1")
			})
		})
	}
}

func TestATakeWhoseContextEndsDuringACommitThatWasAppliedHasTakenIt(t *testing.T) {
	for _, answer := range []error{nil, context.Canceled} {
		onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
			s := created(t, "a=1")
			r := s.opened(t, "A")
			ctx, cancel := context.WithCancel(r.ctx)
			r.ctx = ctx
			s.at("A", "backup.commit", true, func() error { cancel(); return answer })
			v, err := r.take("a=2")
			must(t, err)
			expect(t, "taken", v, "a=2")
			s.expectRemoved(t)
		})
	}
}

func TestATakeWhoseContextEndsBeforeItBeganLeavesTheSessionAsItWas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		ctx, cancel := context.WithCancel(r.ctx)
		r.ctx = ctx
		s.at("A", "backup.begin", false, func() error { cancel(); return ctx.Err() })
		_, err := r.take("a=2")
		expectErr(t, "take", err, context.Canceled)
		expect(t, "the attempts", s.count("backup.commit"), 0)
		s.expectKept(t, "a=1")
	})
}

func TestATakeWhoseContextEndsDuringACommitThatWasNotAppliedIsFinished(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		ctx, cancel := context.WithCancel(r.ctx)
		r.ctx = ctx
		s.at("A", "backup.commit", false, func() error { cancel(); return ctx.Err() })
		v, err := r.take("a=2")
		must(t, err)
		expect(t, "taken", v, "a=2")
		s.expectRemoved(t)
	})
}

func TestATakeWhoseAnswerIsLostIsTriedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.lose("A", "backup.commit")
		v, err := r.take("a=2")
		must(t, err)
		expect(t, "taken", v, "a=2")
		s.expectRemoved(t)
	})
}

func TestATakeOfWhichNobodyKnowsWhetherItWasCommittedSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.at("A", "backup.commit", true, func() error { s.fail("A", "backup"); return errLost })
		v, err := r.take("a=2")
		expectErr(t, "take", err, ErrUnavailable)
		expect(t, "taken", v, "-")
		s.well()
		expectErr(t, "a change", s.opened(t, "B").update("b=1"), ErrRemoved)
		s.expectRemoved(t)
	})
}

func TestATakeThatTheCacheFailsIsReportedBesideItsValue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.fail("A", "cache")
		v, err := r.take("a=2")
		expectErr(t, "take", err, errDown)
		expect(t, "taken", v, "a=2")
		expectErr(t, "a change", s.opened(t, "B").update("b=1"), ErrRemoved)
		s.expectRemoved(t)
	})
}

func TestARequestThatDiesAfterItsCommitHasEndedTheSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.die("A", "backup.commit", true)
		_, err := r.take("a=2")
		expectErr(t, "take", err, errDied)
		expectErr(t, "a change", s.opened(t, "B").updateAsync("b=1"), ErrRemoved)
		s.expectRemoved(t)
	})
}

func TestTheRecordOfATakenSessionStaysAsLongAsThatOfALogout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		_, err := s.opened(t, "A").take("")
		must(t, err)
		if stays := time.Until(s.record.Expires); stays < 24*time.Hour-time.Second || stays > 25*time.Hour {
			t.Errorf("it stays for %v", stays)
		}
	})
}

func TestASessionThatWasNeverBackedUpIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		s.fail("creator", "backup")
		expectErr(t, "create", s.request(t, "creator").create("a=1"), errDown)
		v, err := s.opened(t, "A").take("b=1")
		must(t, err)
		expect(t, "taken", v, "a=1 b=1")
		s.expectRemoved(t)
	})
}

func TestASessionThatIsNearlyTooLargeForTheCacheIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.fits = 10 // the seal does not fit
		v, err := r.take("b=1")
		must(t, err)
		expect(t, "taken", v, "a=1 b=1")
		s.fits = 0
		s.expectRemoved(t)
	})
}

func TestWithoutACacheASessionIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.flush()
		r := s.request(t, "A")
		r.st.Cache = nil
		v, err := r.load().take("b=1")
		must(t, err)
		expect(t, "taken", v, "a=1 b=1")
		s.expectRemoved(t)
	})
}

func TestWithoutABackupASessionIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &services{}
		without := func(who string) *request {
			r := s.request(t, who)
			r.st.Backup = nil
			return r
		}
		must(t, without("creator").create("a=1"))
		a, b := without("A").load(), without("B").load()
		must(t, without("C").load().update("c=1"))
		v, err := a.take("b=1")
		must(t, err)
		expect(t, "taken", v, "a=1 b=1 c=1")
		_, err = b.take("b=2")
		expectErr(t, "the slower", err, ErrRemoved)
		expectErr(t, "a change", b.update("b=2"), ErrRemoved)
		expect(t, "cached", s.cached(), "removed")
		s.fail("C", "cache")
		c := without("C")
		c.l = b.l
		_, err = c.take("c=1")
		expectErr(t, "a take that the cache fails", err, errDown)
	})
}
