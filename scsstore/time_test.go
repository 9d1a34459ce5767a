//go:build go1.25

package scsstore_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

// What depends on time, tested in simulated time.

// inSimulatedTime runs f in a bubble whose clock goes on from now: it would
// start in 2000, before the times that the services have.
func inSimulatedTime(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	// The application's name, but not in GAE_APPLICATION: with it, background
	// work would be tried again with a context that leads out of the bubble.
	for name, value := range map[string]string{"GAE_APPLICATION": "", "GAE_LONG_APP_ID": "local", "GAE_PARTITION": "dev"} {
		t.Setenv(name, value)
	}
	begin := time.Now().Add(time.Second)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(begin))
		f(t)
		time.Sleep(2 * time.Second) // what is left in the background has ended by then
	})
}

// inTime runs f with an app in simulated time, on each choice of services.
func inTime(t *testing.T, f func(t *testing.T, a *app)) {
	for name, cache := range map[string]tier.Cache{"both": nil, "Datastore": tier.None} {
		for how, plain := range map[string]bool{"Handler": false, "LoadAndSave": true} {
			t.Run(name+"/"+how, func(t *testing.T) {
				s := gaetest.Local(t)
				inSimulatedTime(t, func(t *testing.T) {
					a := newSimulatedApp(t, s, cache)
					a.plain = plain
					f(t, a)
				})
			})
		}
	}
}

// commits counts the transactions that a request wrote with.
func (v *visit) commits() (n int) {
	for _, c := range v.request.Calls() {
		if c.Method == "Commit" {
			n++
		}
	}
	return n
}

func nothing(context.Context) {}

func TestASessionEndsAtItsDeadlineHoweverOftenItIsUsed(t *testing.T) {
	inTime(t, func(t *testing.T, a *app) {
		a.manager.Lifetime = time.Hour
		a.manager.IdleTimeout = 40 * time.Minute
		b := a.login(t, values{"n": 0})
		for n := range 5 {
			time.Sleep(10 * time.Minute)
			b.mustChange(t, values{"n": n})
		}
		time.Sleep(9 * time.Minute)
		b.expectNow(t, "a minute before", values{"n": 4})
		time.Sleep(time.Minute)
		b.expect(t, nil)
	})
}

func TestASessionEndsThatIsNotUsed(t *testing.T) {
	inTime(t, func(t *testing.T, a *app) {
		a.manager.IdleTimeout = 20 * time.Minute
		b := a.login(t, values{"n": 0})
		for range 10 {
			time.Sleep(20*time.Minute - time.Second)
			if got, err := b.read(); err != nil || got["n"] != 0 {
				t.Errorf("in use: got %v, %v", got, err)
			}
		}
		time.Sleep(22*time.Minute + time.Second) // a tenth later at the latest
		b.expect(t, nil)
	})
}

// A request that changes nothing does not write before a tenth of the time has
// passed, though scs commits at every request.
func TestUnchangedDataIsWrittenOncePerTenthOfItsTime(t *testing.T) {
	inTime(t, func(t *testing.T, a *app) {
		a.manager.IdleTimeout = 20 * time.Minute
		b := a.login(t, values{"n": 0})
		for range 3 {
			for _, test := range []struct {
				after   time.Duration
				commits int
			}{{time.Minute, 0}, {50 * time.Second, 0}, {20 * time.Second, 1}} {
				time.Sleep(test.after)
				if n := b.use(nothing).commits(); n != test.commits {
					t.Errorf("committed %d times after %v more, want %d", n, test.after, test.commits)
				}
			}
		}
		// Without one what is set to what it was is no change, however late.
		a.manager.IdleTimeout = 0
		b = a.login(t, values{"n": 0})
		for range 5 {
			time.Sleep(4 * time.Hour)
			if n := b.use(func(ctx context.Context) { a.manager.Put(ctx, "n", 0) }).commits(); n != 0 {
				t.Errorf("a change of nothing was committed %d times", n)
			}
		}
	})
}

func TestADeadlineThatBecomesEarlierOrLaterCounts(t *testing.T) {
	inTime(t, func(t *testing.T, a *app) {
		a.manager.Lifetime = time.Hour
		for _, lifetime := range []time.Duration{time.Minute, 3 * time.Hour, -time.Hour} {
			b := a.login(t, values{"n": 0})
			other := b.clone()
			v := b.use(func(ctx context.Context) {
				a.manager.SetDeadline(ctx, time.Now().Add(lifetime))
			})
			if v.err != nil {
				t.Error(v.err)
			}
			if lifetime > 0 {
				time.Sleep(lifetime - time.Second)
				other.expect(t, values{"n": 0})
				time.Sleep(2 * time.Second)
			}
			other.expect(t, nil)
		}
	})
}

// A request that knows of no other deadline leaves it as it is.
func TestADeadlineIsMergedAsAKeyIs(t *testing.T) {
	s := gaetest.Local(t)
	inSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		b := a.login(t, values{"n": 0})
		err := b.use(func(ctx context.Context) {
			b.clone().use(func(ctx context.Context) { a.manager.SetDeadline(ctx, time.Now().Add(time.Minute)) })
			a.manager.Put(ctx, "n", 1)
		}).err
		if err != nil {
			t.Error(err)
		}
		b.expect(t, values{"n": 1})
		time.Sleep(2 * time.Minute)
		b.expect(t, nil)
	})
}

func TestACommitOfAnEndedSessionIsErrRemoved(t *testing.T) {
	s := gaetest.Local(t)
	inSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		a.manager.IdleTimeout = time.Minute
		b := a.login(t, values{"n": 0})
		err := b.use(func(ctx context.Context) {
			time.Sleep(time.Hour)
			if _, err := scsstore.PurgeExpired(a.context(), ""); err != nil {
				t.Error(err)
			}
			a.manager.Put(ctx, "n", 1)
		}).err
		if !errors.Is(err, scsstore.ErrRemoved) {
			t.Errorf("got %v, want ErrRemoved", err)
		}
		b.expect(t, nil)
	})
}

func TestExpiredSessionsArePurged(t *testing.T) {
	s := gaetest.Local(t)
	inSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		a.login(t, values{"n": 0}).mustLogout(t)
		a.login(t, values{"n": 0})
		living := a.login(t, values{"n": 0})
		time.Sleep(25 * time.Hour)
		living.mustChange(t, values{"n": 1}) // another one
		time.Sleep(4 * time.Hour)
		got, err := scsstore.PurgeExpired(a.context(), scsstore.DefaultDSEntityName)
		if err != nil || !got.Completed || got.Deleted != 3 {
			t.Errorf("got %+v, %v; want 3 deleted", got, err)
		}
		living.expect(t, values{"n": 1})
	})
}

// P5: what Memcache alone has is saved by a read three seconds later.
func TestAReadBringsDatastoreUpToDateThreeSecondsLater(t *testing.T) {
	s := gaetest.Local(t)
	inSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		b := a.login(t, values{"n": 0})
		if err := b.change(values{"n": 1}, gaetest.Fail(gaetest.Datastore)); err != nil || !a.hasReported(scsstore.ErrNotBackedUp) {
			t.Errorf("got %v, and no ErrNotBackedUp in OnError", err)
		}
		for _, test := range []struct {
			after   time.Duration
			commits int
		}{{time.Second, 0}, {time.Second, 0}, {2 * time.Second, 1}, {time.Minute, 0}} {
			time.Sleep(test.after)
			if n := b.use(nothing).commits(); n != test.commits {
				t.Errorf("a read committed %d times, want %d", n, test.commits)
			}
		}
		b.expect(t, values{"n": 1})
	})
}

// P6: a request may die between any two calls.
func TestNothingIsLostWhenARequestDiesAtAnyCall(t *testing.T) {
	requests := []struct {
		name    string
		evicted bool
		do      func(b *browser, hook gaetest.Hook)
	}{
		{"change", false, func(b *browser, hook gaetest.Hook) { _ = b.change(values{"mine": 1}, hook) }},
		{"change, evicted", true, func(b *browser, hook gaetest.Hook) { _ = b.change(values{"mine": 1}, hook) }},
		{"read, evicted", true, func(b *browser, hook gaetest.Hook) { _, _ = b.read(hook) }},
		{"logout", false, func(b *browser, hook gaetest.Hook) { _ = b.logout(hook) }},
	}
	for _, req := range requests {
		t.Run(req.name, func(t *testing.T) {
			s := gaetest.Local(t)
			atEachCall(t, func(t *testing.T, k int) (crashed bool) {
				inSimulatedTime(t, func(t *testing.T) {
					a := newSimulatedApp(t, s, nil)
					crashing := a.login(t, values{"n": 0})
					crashing.mustChange(t, values{"saved": "before"})
					b := crashing.clone() // knows nothing of the crashing request's answer
					if req.evicted {
						a.flush()
					}
					crash, hook := gaetest.CrashAt(k)
					done := make(chan struct{})
					go func() {
						defer close(done)
						req.do(crashing, hook)
					}()
					select {
					case <-crash.Crashed():
						crashed = true
					case <-done:
					}
					now, err := b.read()
					switch {
					case err != nil:
						t.Errorf("after the crash: %v", err)
					case now == nil && req.name == "logout":
					case now == nil || now["saved"] != "before" || now["n"] != 0:
						t.Errorf("after the crash: got %v, want what was saved before", now)
					case req.name == "logout": // others may go on, or find it removed
					default:
						// Others go on, and what they save is there.
						b.mustChange(t, values{"saved": "after"})
						for range 2 {
							got, err := b.read()
							if err != nil || got["saved"] != "after" || got["n"] != 0 {
								t.Errorf("got %v, %v; want saved: after", got, err)
							}
							a.flush()
						}
					}
					old := b.clone()
					if now != nil {
						b.mustLogout(t)
						old.expect(t, nil)
					}
					crash.Release()
					<-done
					drain(t)
					if now != nil {
						old.expect(t, nil)
					}
				})
				return crashed
			})
		})
	}
}

// P8: it answers in time.
func TestARequestAnswersInTimeWhileAServiceIsSilent(t *testing.T) {
	for _, test := range []struct {
		name   string
		silent func(gaetest.Call) bool
		do     func(a *app, b *browser, silent gaetest.Hook) error
		want   error
		within time.Duration
	}{
		{"read, Memcache", gaetest.Memcache, func(_ *app, b *browser, silent gaetest.Hook) error {
			got, err := b.read(silent)
			if got["n"] != 0 {
				err = errors.Join(err, errors.New("the session was not found"))
			}
			return err
		}, nil, 520 * time.Millisecond},
		{"change, Memcache", gaetest.Memcache, func(_ *app, b *browser, silent gaetest.Hook) error {
			return b.change(values{"n": 1}, silent)
		}, nil, 550 * time.Millisecond},
		{"logout, Memcache", gaetest.Memcache, func(_ *app, b *browser, silent gaetest.Hook) error {
			return b.logout(silent)
		}, scsstore.ErrNotPublished, 550 * time.Millisecond},
		{"read, Datastore", gaetest.Datastore, func(_ *app, b *browser, silent gaetest.Hook) error {
			_, err := b.read(silent)
			return err
		}, nil, 10 * time.Millisecond},
		{"change, Datastore", gaetest.Datastore, func(_ *app, b *browser, silent gaetest.Hook) error {
			return b.change(values{"n": 1}, silent)
		}, nil, 5100 * time.Millisecond},
		{"read, both", func(gaetest.Call) bool { return true }, func(_ *app, b *browser, silent gaetest.Hook) error {
			_, err := b.read(silent)
			return err
		}, scsstore.ErrUnavailable, 5600 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := gaetest.Local(t)
			inSimulatedTime(t, func(t *testing.T) {
				a := newSimulatedApp(t, s, nil)
				a.use(scsstore.New(nil, nil, &scsstore.Options{OnError: a.onError}))
				b := a.login(t, values{"n": 0})
				var over atomic.Bool
				silent := gaetest.Hook{Before: func(ctx context.Context, c gaetest.Call) error {
					if over.Load() || !test.silent(c) {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				}}
				begin := time.Now()
				err := test.do(a, b, silent)
				if took := time.Since(begin); took > test.within {
					t.Errorf("took %v, want %v at most", took, test.within)
				}
				if test.want == nil && err != nil || test.want != nil && !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				over.Store(true)
				time.Sleep(2 * time.Minute)
				drain(t)
			})
		})
	}
}

func TestDrainTellsMemcacheWhatItWasNotTold(t *testing.T) {
	s := gaetest.Local(t)
	inSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		b := a.login(t, values{"n": 0})
		var up atomic.Bool
		down := gaetest.Fail(func(c gaetest.Call) bool { return gaetest.Memcache(c) && c.Index > 1 && !up.Load() })
		v := b.use(func(ctx context.Context) { a.manager.Put(ctx, "n", 1) }, down)
		if v.err != nil || !a.hasReported(scsstore.ErrNotPublished) {
			t.Errorf("got %v, and no ErrNotPublished in OnError", v.err)
		}
		if c := v.response.Cookies(); len(c) != 1 {
			t.Errorf("got cookies %v, want that of the session", c)
		}
		b.expectNow(t, "before", values{"n": 0})
		up.Store(true)
		// Drain is called on the instance that has saved the session.
		if err := scsstore.Drain(v.request.Context()); err != nil {
			t.Error(err)
		}
		b.expectNow(t, "after", values{"n": 1})
	})
}
