//go:build go1.25

package tiered

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

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
					s.kill("leaver")
					begin := time.Now()
					for lifetime-time.Since(begin) > time.Minute {
						time.Sleep(min(lifetime-time.Since(begin)-time.Second, 24*time.Hour))
						s.purgeExpired()
						expect(t, "in the backup", s.backedUp(), "removed")
					}
					expect(t, "still cached", s.cached(), "a=1")
					err = change(s.opened(t, "B"), "a=2")
					if drain(t); how == "synchronous" {
						expectErr(t, "change", err, tier.ErrRemoved)
					}
					s.expectRemoved(t)
				})
			})
		}
	}
}

func TestARemovedSessionStaysRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		must(t, s.opened(t, "A").remove())
		expect(t, "cached", s.cached(), "removed")
		s.expectRemoved(t)
	})
}

// A change is held at each of its calls while the session is removed, and a
// removal while it is changed.
func TestARequestInFlightBringsNoRemovedSessionBack(t *testing.T) {
	for name, change := range changes {
		for _, op := range []string{"cache.swap", "cache.get", "backup.begin", "backup.txget", "backup.txput", "backup.commit"} {
			for _, done := range []bool{false, true} {
				for lost, lose := range map[string]func(s *services){"": func(*services) {}, ", flushed": (*services).flush} {
					t.Run(name+" at "+op+lost, func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							s := created(t, "a=1")
							r, leaver := s.opened(t, "A"), s.opened(t, "B")
							release := s.hold("A", op, done)
							ended := started(func() error { return change(r, "a=2") })
							must(t, leaver.remove())
							lose(s)
							release()
							_ = ended()
							s.expectRemoved(t)
						})
					})
				}
			}
		}
	}
}

func TestARemovalHeldAtAnyCallIsFinal(t *testing.T) {
	for name, change := range changes {
		for _, op := range []string{"cache.set", "backup.put"} {
			for _, done := range []bool{false, true} {
				t.Run(name+" at "+op, func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						s := created(t, "a=1")
						r, late, leaver := s.opened(t, "A"), s.opened(t, "C"), s.opened(t, "B")
						release := s.hold("B", op, done)
						ended := started(leaver.remove)
						_ = change(r, "a=2")
						drain(t)
						s.flush()
						if r := s.request(t, "filler"); r.see() != "-" {
							must(t, r.load().settle())
						}
						release()
						must(t, ended())
						expectErr(t, "change", late.update("c=1"), tier.ErrRemoved)
						s.expectRemoved(t)
					})
				})
			}
		}
	}
}

func TestTheEmptiedRecordStaysForADayOrAsLongAsTheSessionAndAnHour(t *testing.T) {
	for name, test := range map[string]struct {
		lifetime, want time.Duration
	}{
		"half an hour": {30 * time.Minute, 24 * time.Hour},
		"22 hours":     {22 * time.Hour, 24 * time.Hour},
		"a day":        {24 * time.Hour, 25 * time.Hour},
		"a month":      {720 * time.Hour, 721 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				c := r.change("")
				c.Ends = time.Now().Add(test.lifetime)
				_, err := r.st.Update(r.ctx, id, r.l, c)
				must(t, err)
				must(t, s.opened(t, "B").remove())
				expect(t, "it stays", time.Until(s.records[id].Expires), test.want)
				expect(t, "the marker stays", time.Until(s.items[id].ends), 24*time.Hour)
			})
		})
	}
}

func TestASessionThatNobodyHasLoadedCanBeRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.request(t, "A")
		must(t, r.remove())
		expect(t, "the record stays", time.Until(s.records[id].Expires), 24*time.Hour)
		s.expectRemoved(t)
	})
}

func TestAFailedRemovalIsReported(t *testing.T) {
	for _, failing := range []string{"backup", "cache"} {
		t.Run(failing, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				s.fail("A", failing)
				expectErr(t, "removal", r.remove(), errDown)
				s.well()
				must(t, r.remove())
				s.expectRemoved(t)
			})
		})
	}
}

func TestAServiceThatEndsTheGoroutineOfARemovalLeavesItsRequestNotWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a := s.opened(t, "A")
		ctx, cancel := context.WithCancel(a.ctx)
		defer cancel()
		a.ctx = ctx
		s.at("A", "backup.put", false, func() error { runtime.Goexit(); return nil })
		expectErr(t, "removal", a.remove(), errPanic)
	})
}
