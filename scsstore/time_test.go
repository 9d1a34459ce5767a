//go:build go1.25

package scsstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/gaetest/promises"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

// What depends on time, tested in simulated time.

func TestPromisesInTime(t *testing.T) { promises.TestInTime(t, adapters()...) }

// inTime runs f with an app in simulated time, on each choice of services.
func inTime(t *testing.T, f func(t *testing.T, a *app)) {
	for name, cache := range map[string]tier.Cache{"both": nil, "Datastore": tier.None} {
		for how, plain := range map[string]bool{"Handler": false, "LoadAndSave": true} {
			t.Run(name+"/"+how, func(t *testing.T) {
				s := gaetest.Local(t)
				gaetest.InSimulatedTime(t, func(t *testing.T) {
					a := newSimulatedApp(t, s, cache)
					a.plain = plain
					f(t, a)
				})
			})
		}
	}
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
				if n := b.use(nothing).Commits(); n != test.commits {
					t.Errorf("committed %d times after %v more, want %d", n, test.after, test.commits)
				}
			}
		}
		// Without one what is set to what it was is no change, however late.
		a.manager.IdleTimeout = 0
		b = a.login(t, values{"n": 0})
		for range 5 {
			time.Sleep(4 * time.Hour)
			if n := b.use(func(ctx context.Context) { a.manager.Put(ctx, "n", 0) }).Commits(); n != 0 {
				t.Errorf("a change of nothing was committed %d times", n)
			}
		}
	})
}

// A request that has changed nothing is answered though its time cannot be saved.
func TestALaterExpiryThatCannotBeSavedIsReportedAndNoError(t *testing.T) {
	inTime(t, func(t *testing.T, a *app) {
		a.manager.IdleTimeout = 20 * time.Minute
		b := a.login(t, values{"n": 0})
		time.Sleep(5 * time.Minute)
		down := gaetest.Fail(func(c gaetest.Call) bool { return c.Method != "Get" })
		v := b.use(nothing, down)
		if v.err != nil || !a.hasReported(scsstore.ErrNotSaved) {
			t.Errorf("got %v, and no ErrNotSaved in OnError", v.err)
		}
		b.expect(t, values{"n": 0})
		drain(t)
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
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		b := a.login(t, values{"n": 0})
		deadline := time.Now().Add(time.Minute)
		err := b.use(func(ctx context.Context) {
			b.clone().use(func(ctx context.Context) { a.manager.SetDeadline(ctx, deadline) })
			a.manager.Put(ctx, "n", 1)
		}).err
		if err != nil {
			t.Error(err)
		}
		b.use(func(ctx context.Context) {
			if got := a.manager.Deadline(ctx); !got.Equal(deadline) {
				t.Errorf("got deadline %v, want %v", got, deadline)
			}
		})
		b.expect(t, values{"n": 1})
		time.Sleep(2 * time.Minute)
		b.expect(t, nil)
	})
}

func TestACommitOfAnEndedSessionIsErrRemoved(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		a.manager.IdleTimeout = time.Minute
		b := a.login(t, values{"n": 0})
		err := b.use(func(ctx context.Context) {
			time.Sleep(time.Hour)
			if _, err := scsstore.PurgeExpired(a.Context(), ""); err != nil {
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
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, nil)
		a.login(t, values{"n": 0}).mustLogout(t)
		a.login(t, values{"n": 0})
		living := a.login(t, values{"n": 0})
		time.Sleep(25 * time.Hour)
		living.mustChange(t, values{"n": 1}) // another one
		time.Sleep(4 * time.Hour)
		got, err := scsstore.PurgeExpired(a.Context(), scsstore.DefaultDSEntityName)
		if err != nil || !got.Completed || got.Deleted != 3 {
			t.Errorf("got %+v, %v; want 3 deleted", got, err)
		}
		living.expect(t, values{"n": 1})
	})
}
