//go:build go1.25

package promises

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

var inTime = []promise{
	{"P5 P7 a read brings Datastore up to date three seconds later", inBoth, upToDateLater},
	{"P6 a crash at any call loses nothing that was saved", durable, crashAtAnyCall},
	{"P8 a request answers in time while a service is silent", func(a Adapter) bool { return merges(a) && inBoth(a) }, silence},
	{"P8 Drain tells Memcache what it was not told", inBoth, drainTells},
}

// TestInTime runs the tests of the promises that depend on time, in simulated time.
func TestInTime(t *testing.T, adapters ...Adapter) {
	testAll(t, inTime, adapters, func(t *testing.T, s *gaetest.Service, a Adapter) *run {
		return &run{T: t, Adapter: a, service: s, simulated: true}
	})
}

// simulate runs f with an app in a bubble of its own.
func (r *run) simulate(inTime bool, f func(r *run)) {
	gaetest.InSimulatedTime(r.T, func(t *testing.T) {
		c := *r
		c.T, c.app = t, r.New(t, r.service, true, inTime)
		f(&c)
	})
}

func upToDateLater(r *run) {
	r.simulate(false, func(r *run) {
		v := r.loginCached(values{"n": 0})
		a := r.change(v, values{"n": 1}, gaetest.Fail(gaetest.Datastore))
		r.drain()
		if err := a.all(); !errors.Is(err, tier.ErrNotBackedUp) {
			r.Errorf("got %v, want ErrNotBackedUp", err)
		}
		for _, test := range []struct {
			after   time.Duration
			commits int
		}{{time.Second, 0}, {time.Second, 0}, {2 * time.Second, 1}, {time.Minute, 0}} {
			time.Sleep(test.after)
			on := r.request()
			if got, a := r.readOn(v, on); a.all() != nil || got["n"] != 1 {
				r.Errorf("read %v, %v", got, a.all())
			}
			r.drain()
			calls := on.Calls()
			if n := gaetest.Commits(calls); n != test.commits {
				r.Errorf("a read committed %d times, want %d", n, test.commits)
			}
			if test.commits == 0 && len(calls) != 1 {
				r.Errorf("a read made the calls %v, want one", calls)
			}
		}
		r.expect(v, values{"n": 1})
	})
}

func crashAtAnyCall(r *run) {
	for _, request := range []struct {
		name    string
		evicted bool
		do      func(r *run, v Visitor, hook gaetest.Hook)
	}{
		{"change", false, func(r *run, v Visitor, hook gaetest.Hook) { r.change(v, values{"mine": 1}, hook) }},
		{"change, evicted", true, func(r *run, v Visitor, hook gaetest.Hook) { r.change(v, values{"mine": 1}, hook) }},
		{"read, evicted", true, func(r *run, v Visitor, hook gaetest.Hook) { r.read(v, hook) }},
		{"logout", false, func(r *run, v Visitor, hook gaetest.Hook) { r.logout(v, hook) }},
		{"new id", false, func(r *run, v Visitor, hook gaetest.Hook) {
			v.Request(r.request(hook), func(s Session) {
				s.(Mover).Move()
				s.Set("mine", 1)
			})
		}},
	} {
		if request.name == "new id" && !r.Moves {
			continue
		}
		r.sub(request.name, func(r *run) {
			r.atEachCall(func(r *run, k int) (crashed bool) {
				r.simulate(false, func(r *run) {
					crashing := r.login(values{"n": 0})
					r.must("change", r.change(crashing, values{"saved": "before"}))
					r.drain()
					v := crashing.Clone() // knows nothing of the crashing request's answer
					if request.evicted {
						r.flush()
					}
					crash, hook := gaetest.CrashAt(k)
					done := make(chan struct{})
					go func() {
						defer close(done)
						request.do(r, crashing, hook)
						r.drain()
					}()
					select {
					case <-crash.Crashed():
						crashed = true
					case <-done:
					}
					now, a := r.read(v)
					r.must("after the crash", a)
					isThere := now["saved"] == "before" && now["n"] == 0
					switch removes := request.name == "logout" || request.name == "new id"; {
					case now == nil && removes: // others may go on, or find it removed
					case !isThere:
						r.Errorf("after the crash: got %v, want what was saved before", now)
					case !removes:
						// Others go on, and what they save is there.
						r.must("change", r.change(v, values{"saved": "after"}))
						for range 2 {
							if got, a := r.read(v); a.all() != nil || got["saved"] != "after" || got["n"] != 0 {
								r.Errorf("got %v, %v; want saved: after", got, a.all())
							}
							if !r.Async { // else what is saved in the background may be lost
								r.flush()
							}
						}
					}
					old := v.Clone()
					if now != nil {
						r.must("logout", r.logout(v))
						r.expectGone(old)
					}
					crash.Release()
					<-done
					r.drain()
					if now != nil {
						r.expectGone(old)
					}
				})
				return crashed
			})
		})
	}
}

// expectGone is expect without a session, while something may be left in the
// background for ever.
func (r *run) expectGone(v Visitor) {
	r.Helper()
	r.expectNow("after the logout", v, nil)
	r.flush()
	r.expectNow("after the logout and a flush", v, nil)
}

func silence(r *run) {
	for _, test := range []struct {
		name   string
		silent func(gaetest.Call) bool
		do     func(r *run, v Visitor, silent gaetest.Hook) error
		want   error
		within time.Duration
	}{
		{"read, Memcache", gaetest.Memcache, func(r *run, v Visitor, silent gaetest.Hook) error {
			got, a := r.read(v, silent)
			if got["n"] != 0 {
				return errors.Join(a.all(), errors.New("the session was not found"))
			}
			return nil
		}, nil, 520 * time.Millisecond},
		{"change, Memcache", gaetest.Memcache, func(r *run, v Visitor, silent gaetest.Hook) error {
			return r.change(v, values{"n": 1}, silent).all()
		}, tier.ErrNotPublished, 550 * time.Millisecond},
		{"logout, Memcache", gaetest.Memcache, func(r *run, v Visitor, silent gaetest.Hook) error {
			return r.logout(v, silent).all()
		}, tier.ErrNotPublished, 550 * time.Millisecond},
		{"read, Datastore", gaetest.Datastore, func(r *run, v Visitor, silent gaetest.Hook) error {
			_, a := r.read(v, silent)
			return a.all()
		}, nil, 10 * time.Millisecond},
		{"change, Datastore", gaetest.Datastore, func(r *run, v Visitor, silent gaetest.Hook) error {
			return r.change(v, values{"n": 1}, silent).all()
		}, tier.ErrNotBackedUp, 5100 * time.Millisecond},
		{"read, both", func(gaetest.Call) bool { return true }, func(r *run, v Visitor, silent gaetest.Hook) error {
			_, a := r.read(v, silent)
			return a.all()
		}, tier.ErrUnavailable, 5600 * time.Millisecond},
	} {
		r.sub(test.name, func(r *run) {
			r.simulate(true, func(r *run) {
				v := r.loginCached(values{"n": 0})
				var over atomic.Bool
				silent := gaetest.Hook{Before: func(ctx context.Context, c gaetest.Call) error {
					if over.Load() || !test.silent(c) {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				}}
				begin := time.Now()
				err := test.do(r, v, silent)
				if took := time.Since(begin); took > test.within {
					r.Errorf("took %v, want %v at most", took, test.within)
				}
				want := test.want
				if want == tier.ErrNotBackedUp && r.Async {
					want = nil // it is not known yet
				}
				if want == nil && err != nil || want != nil && !errors.Is(err, want) {
					r.Errorf("got %v, want %v", err, want)
				}
				over.Store(true)
				time.Sleep(2 * time.Minute)
				r.drain()
			})
		})
	}
}

func drainTells(r *run) {
	r.simulate(false, func(r *run) {
		v := r.loginCached(values{"n": 0})
		var up atomic.Bool
		down := gaetest.Fail(func(c gaetest.Call) bool { return gaetest.Memcache(c) && c.Index > 1 && !up.Load() })
		gate, hold := gaetest.Hold(func(c gaetest.Call) bool { return gaetest.Memcache(c) && up.Load() })
		on := r.request(down, hold)
		a := v.Request(on, func(s Session) {
			s.Values()
			s.Set("n", 1)
		})
		if err := a.all(); !errors.Is(err, tier.ErrNotPublished) || !errors.Is(err, gaetest.ErrFailed) {
			r.Errorf("got %v, want ErrNotPublished and the error of Memcache", err)
		}
		r.expectNow("before", v, values{"n": 0})
		up.Store(true)
		// Drain is called on the instance that has saved the session.
		short, cancel := context.WithTimeout(on.Context(), 10*time.Millisecond)
		defer cancel()
		if err := r.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
			r.Errorf("Drain: got %v, want the context's error", err)
		}
		gate.Open()
		if err := r.Drain(on.Context()); err != nil {
			r.Error(err)
		}
		r.expectNow("after", v, values{"n": 1})
	})
}
