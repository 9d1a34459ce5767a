//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A request's context ends inside a call: of any operation, in each of its calls.
// The service has made the call or not, and its answer arrives or not.

// An ending says when a context ends.
type ending struct {
	call    int  // which of the request's calls
	done    bool // after the service has made it
	answers bool // and the service answers all the same
}

// in makes the request's context end so. met reports whether it has.
func (e ending) in(r *request) (met func() bool) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.ctx = ctx
	r.s.deaf = e.answers
	n := 0
	r.s.hook(func(c step) error {
		if c.who != "A" || c.done != e.done {
			return nil
		}
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		if n++; n == e.call+1 {
			cancel()
		}
		return nil
	})
	return func() bool { defer cancel(); return ctx.Err() != nil }
}

// inEachCall runs a test of an operation with each of its endings. The test
// prepares the request, has end called, and makes the operation's calls.
func inEachCall(t *testing.T, f func(t *testing.T, created func(*testing.T, string) *services, end func(*request))) {
	for _, how := range []ending{{done: false}, {done: true}, {done: true, answers: true}} {
		for over := false; !over; how.call++ {
			over = true
			t.Run(fmt.Sprintf("call %d, made %v, answered %v", how.call+1, how.done, how.answers), func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					var met func() bool
					f(t, created, func(r *request) { met = how.in(r) })
					if met() {
						over = false
					}
				})
			})
		}
		if how.call == 1 {
			t.Error("the operation has made no call")
		}
	}
}

// finished has what goes on in the background end, and what is left unsaved saved
// by a reader.
func (s *services) finished(t *testing.T) {
	t.Helper()
	s.well()
	s.deaf = false
	drain(t)
	time.Sleep(saveAfter)
	if r := s.request(t, "reader"); r.see() != "-" {
		must(t, r.load().settle())
	}
	drain(t)
}

// expectOutcome expects the session to be what an operation has answered that
// makes "a=0 b=1" want. It reports whether it may be tried again.
func (s *services) expectOutcome(t *testing.T, err error, want string) (again bool) {
	t.Helper()
	sentinels := 0
	for _, sentinel := range []error{tier.ErrNotBackedUp, tier.ErrNotPublished, tier.ErrNotSaved, tier.ErrRemoved, tier.ErrUnavailable} {
		if errors.Is(err, sentinel) {
			sentinels++
		}
	}
	seen := s.request(t, "judge").see()
	switch {
	case err == nil, errors.Is(err, tier.ErrNotBackedUp):
		expect(t, "at once", seen, want)
	case errors.Is(err, tier.ErrNotPublished):
		expect(t, "in the backup", s.backedUp(), want)
	case errors.Is(err, tier.ErrNotSaved):
		again = true
	default:
		t.Errorf("got %v", err)
	}
	if err != nil && sentinels != 1 {
		t.Errorf("%d sentinels: %v", sentinels, err)
	}
	return again
}

func TestALoadWhoseContextEndsSaysThatItCannotBeTold(t *testing.T) {
	for name, there := range map[string]func(s *services){
		"cached":  func(*services) {},
		"evicted": (*services).flush,
		"damaged": func(s *services) { s.items[id].Flags = 7 },
		"leased":  func(s *services) { s.keepItem(id, newEntry(lease, leaseTTL).Item, leaseTTL) },
	} {
		t.Run(name, func(t *testing.T) {
			inEachCall(t, func(t *testing.T, created func(*testing.T, string) *services, end func(*request)) {
				s := created(t, "a=1")
				there(s)
				r := s.request(t, "A")
				end(r)
				l, err := r.st.Load(r.ctx, id)
				if l == nil {
					expectErr(t, "load", err, tier.ErrUnavailable)
					expectErr(t, "load", err, context.Canceled)
				} else {
					expect(t, "load", shown(l.Value()), "a=1")
				}
			})
		})
	}
}

func TestARefillWhoseContextEndsLosesNothing(t *testing.T) {
	inEachCall(t, func(t *testing.T, created func(*testing.T, string) *services, end func(*request)) {
		s := created(t, "a=0 b=0")
		s.flush()
		r := s.opened(t, "A")
		b := s.opened(t, "B")
		end(r)
		_ = r.settle()
		must(t, b.update("b=1"))
		expect(t, "now", s.request(t, "judge").see(), "a=0 b=1")
		time.Sleep(leaseTTL)
		s.finished(t)
		expect(t, "cached", s.cached(), "a=0 b=1")
		s.expectKept(t, "a=0 b=1")
	})
}

func TestASettleWhoseContextEndsLosesNothing(t *testing.T) {
	inEachCall(t, func(t *testing.T, created func(*testing.T, string) *services, end func(*request)) {
		s := created(t, "a=0 b=1")
		s.fail("dead", "backup")
		must(t, s.opened(t, "dead").updateAsync("a=1"))
		drain(t)
		s.well()
		time.Sleep(saveAfter)
		r := s.opened(t, "A")
		end(r)
		_ = r.settle()
		expect(t, "now", s.request(t, "judge").see(), "a=1 b=1")
		s.well()
		time.Sleep(saveAtLeast)
		s.finished(t)
		s.expectKept(t, "a=1 b=1")
	})
}

func TestACreationWhoseContextEnds(t *testing.T) {
	inEachCall(t, func(t *testing.T, created func(*testing.T, string) *services, end func(*request)) {
		s := created(t, "a=0")
		s.purge()
		s.flush()
		r := s.request(t, "A")
		free := r.ctx
		end(r)
		again := s.expectOutcome(t, r.create("a=1"), "a=1")
		s.finished(t)
		if again {
			r.ctx = free
			must(t, r.update("a=1"))
		}
		s.expectKept(t, "a=1")
	})
}

// A change that may have been made is made once, however often it is tried: not
// over what others have changed since.
func TestAChangeWhoseContextEnds(t *testing.T) {
	for name, change := range changes {
		for cached, evicted := range map[string]bool{"cached": false, "evicted": true} {
			for other, edits := range map[string]string{"nobody else": "", "another one": "a=5"} {
				t.Run(name+" "+cached+", then "+other, func(t *testing.T) {
					inEachCall(t, func(t *testing.T, created func(*testing.T, string) *services, end func(*request)) {
						s := created(t, "a=0 b=0")
						must(t, s.opened(t, "B").update("x=1"))
						if evicted {
							s.flush()
						}
						r := s.opened(t, "A")
						must(t, s.opened(t, "B").update("b=1 -x"))
						free := r.ctx
						end(r)
						again := s.expectOutcome(t, change(r, "a=1"), "a=1 b=1")
						seen := s.request(t, "judge").see()
						s.finished(t)
						want := "a=1 b=1"
						if other == "another one" {
							time.Sleep(time.Millisecond)
							must(t, s.opened(t, "C").update(edits))
							want = "a=5 b=1"
						}
						if again {
							if !evicted {
								t.Error("it does not even live in the cache")
							}
							if seen != "a=0 b=1" && seen != "a=1 b=1" {
								t.Errorf("got %q", seen)
							}
							if r.ctx = free; words(r.l.Value())["a"] == "1" {
								must(t, r.update("")) // what may have been made
							} else if other == "nobody else" {
								must(t, r.update("a=1")) // it was surely not made
							}
						}
						s.expectKept(t, want)
					})
				})
			}
		}
	}
}

func TestARemovalWhoseContextEndsIsFinished(t *testing.T) {
	for cached, evicted := range map[string]bool{"cached": false, "evicted": true} {
		t.Run(cached, func(t *testing.T) {
			inEachCall(t, func(t *testing.T, created func(*testing.T, string) *services, end func(*request)) {
				s := created(t, "a=1")
				if evicted {
					s.flush()
				}
				r := s.opened(t, "A")
				end(r)
				must(t, r.remove())
				expect(t, "now", s.request(t, "judge").see(), "-")
				s.expectRemoved(t)
			})
		})
	}
}

// It is under one of the ids. Only what has moved, and nobody could be told, is
// removed.
func TestAMoveWhoseContextEnds(t *testing.T) {
	for cached, evicted := range map[string]bool{"cached": false, "evicted": true} {
		t.Run(cached, func(t *testing.T) {
			inEachCall(t, func(t *testing.T, created func(*testing.T, string) *services, end func(*request)) {
				s := created(t, "a=0 b=0")
				if evicted {
					s.flush()
				}
				r := s.opened(t, "A")
				must(t, s.opened(t, "B").update("b=1"))
				end(r)
				_, err := r.move("a=1")
				committed := s.backedUp() == "removed"
				s.well()
				s.deaf = false
				switch {
				case err == nil, errors.Is(err, tier.ErrNotPublished):
					s.expectMoved(t, s.request(t, "A"), "a=1 b=1")
				case committed:
					t.Errorf("it has moved, and the request was told %v", err)
				default:
					expectErr(t, "move", err, tier.ErrNotSaved)
					s.expectNone(t, r.to())
					s.expectKept(t, "a=0 b=1")
				}
			})
		})
	}
}
