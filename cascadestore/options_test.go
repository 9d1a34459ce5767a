//go:build go1.25

package cascadestore_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

// What the store's fields say.

// The time budget: the critical path where every call takes as long as the model
// of App Engine says.
func TestRequestsKeepTheirBudget(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		for name, test := range map[string]struct {
			do    func(a *app, b *browser) *visit
			calls int
			ms    float64
		}{
			"login":  {func(a *app, _ *browser) *visit { return a.newBrowser().save(values{"n": 1}) }, 2, 20},
			"read":   {func(_ *app, b *browser) *visit { return b.get() }, 1, 1.5},
			"change": {func(_ *app, b *browser) *visit { return b.save(values{"n": 1}) }, 6, 36},
			"new id": {func(a *app, b *browser) *visit {
				return b.Visit(func(w http.ResponseWriter, r *http.Request) {
					b.with(r, func(s *sessions.Session) error {
						if err := a.store.RegenerateID(r, s); err != nil {
							return err
						}
						return s.Save(r, w)
					})
				})
			}, 10, 42.5},
			"logout": {func(_ *app, b *browser) *visit {
				return b.Visit(func(w http.ResponseWriter, r *http.Request) {
					b.with(r, func(s *sessions.Session) error {
						s.Options.MaxAge = -1
						return s.Save(r, w)
					})
				})
			}, 4, 23},
		} {
			t.Run(name, func(t *testing.T) {
				gaetest.InSimulatedTime(t, func(t *testing.T) {
					a := newSimulatedApp(t, s, a.store)
					b := a.login(t, values{"n": 0})
					begin := time.Now()
					v := test.do(a, b)
					took := time.Since(begin)
					if calls := v.Request.Calls(); len(calls) != test.calls {
						t.Errorf("got %d calls, want %d: %v", len(calls), test.calls, calls)
					}
					if ms := took.Seconds() * 1000; ms < test.ms*0.95 || ms > test.ms*1.05 {
						t.Errorf("critical path: got %.1f ms, want %.1f", ms, test.ms)
					}
				})
			})
		}
	})
}

func TestTheMaxAgeOfASessionCountsAndNotTheStores(t *testing.T) {
	onEachInSimulatedTime(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, test := range []struct {
			store, own int
			lives      time.Duration
		}{{1, 30 * 86400, 30 * 24 * time.Hour}, {30 * 86400, 60, time.Minute}} {
			a.store.SetMaxAge(test.store)
			b := a.newBrowser()
			if err := b.use(func(_ *http.Request, s *sessions.Session) { s.Options.MaxAge, s.Values["n"] = test.own, 0 }); err != nil {
				t.Error(err)
			}
			copied := b.cookie()
			time.Sleep(test.lives - time.Second)
			b.expectNow(t, fmt.Sprint("before ", test.lives), values{"n": 0})
			time.Sleep(test.lives/10 + 2*time.Second)
			if b.cookie() != "" {
				t.Errorf("after %v the browser still has the cookie", test.lives)
			}
			b.setCookie(copied)
			b.expectNow(t, fmt.Sprint("after ", test.lives), nil)
		}
	})
}

func TestNoSessionOutlivesMaxLifetime(t *testing.T) {
	onEachInSimulatedTime(t, anyBackend, func(t *testing.T, a *app, backends int) {
		a.store.SetMaxAge(1000)
		a.store.MaxLifetime = time.Hour
		b := a.login(t, values{"n": 0})
		for i := 1; i < 6; i++ {
			time.Sleep(10 * time.Minute)
			if i == 3 {
				if err := b.regenerate(values{"n": i}); err != nil {
					t.Error(err)
				}
				continue
			}
			b.mustChange(t, values{"n": i})
		}
		time.Sleep(9 * time.Minute)
		b.expectNow(t, "59 minutes old", values{"n": 5})
		time.Sleep(2 * time.Minute)
		b.expectNow(t, "61 minutes old", nil)
		a.store.MaxLifetime = 0
	})
}

// silent makes the calls of a service wait until their context ends.
func silent(match func(gaetest.Call) bool) gaetest.Hook {
	return gaetest.Hook{Before: func(ctx context.Context, c gaetest.Call) error {
		if !match(c) {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}
}

func TestAServiceThatDoesNotAnswerHasTheTimeThatTheStoreSays(t *testing.T) {
	onEachInSimulatedTime(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		a.store.Logger = new(logBuffer).logger()
		for _, test := range []struct{ cache, backup, wantCache, wantBackup time.Duration }{
			{0, 0, 500 * time.Millisecond, 5 * time.Second},
			{100 * time.Millisecond, time.Second, 100 * time.Millisecond, time.Second},
		} {
			a.store.CacheTimeout, a.store.BackupTimeout = test.cache, test.backup
			b := a.login(t, values{"n": 0})
			begin := time.Now()
			if got, err := b.read(silent(gaetest.Memcache)); err != nil || got["n"] != 0 {
				t.Errorf("Memcache is silent: got %v, %v; want the session", got, err)
			}
			if took := time.Since(begin); took < test.wantCache || took > test.wantCache+20*time.Millisecond {
				t.Errorf("Memcache is silent: a read took %v, want hardly more than %v", took, test.wantCache)
			}
			begin = time.Now()
			if err := b.change(values{"n": 1}, silent(gaetest.Datastore)); !errors.Is(err, cascadestore.ErrNotBackedUp) {
				t.Errorf("Datastore is silent: got %v, want ErrNotBackedUp", err)
			}
			if took := time.Since(begin); took < test.wantBackup || took > test.wantBackup+20*time.Millisecond {
				t.Errorf("Datastore is silent: a change took %v, want hardly more than %v", took, test.wantBackup)
			}
			b.expectNow(t, "afterwards", values{"n": 1})
		}
	})
}

func TestTraceIsToldWhatTheStoreDoes(t *testing.T) {
	for _, steps := range []string{"false", "true"} {
		t.Setenv(cascadestore.CkDoDisplayLogging, steps)
		a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
		a.store.Logger = new(logBuffer).logger()
		b := a.login(t, values{"n": 0})
		id := idIn(t, a, b.cookie())
		var mu sync.Mutex
		var told []string
		tell := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprintf(format, args...))
		}
		sessions := map[string]bool{}
		a.store.Trace = &tier.Trace{
			Call: func(_ context.Context, c tier.Call) {
				tell("%s %s: %s, %v", c.Service, c.Operation, c.Outcome, c.Err)
				sessions[c.Session] = true
			},
			Loaded: func(_ context.Context, l tier.Load) { tell("from %s", l.From); sessions[l.Session] = true },
			Saved: func(_ context.Context, s tier.Save) {
				tell("saved %d, %t, %v", s.Changes, s.Bytes > 0, s.Err)
				sessions[s.Session] = true
			},
		}
		b.mustChange(t, values{"n": 1})
		want := []string{"cache get: found, <nil>", "from cache", "backup update: stored, <nil>", "saved 1, true, <nil>", "cache compare-and-swap: stored, <nil>"}
		if strings.Join(told, "; ") != strings.Join(want, "; ") {
			t.Errorf("steps %s: told %q, want %q", steps, told, want)
		}
		if len(sessions) != 1 || sessions[id] || sessions[""] {
			t.Errorf("steps %s: told of sessions %v, want one, by a hash of its id", steps, sessions)
		}
	}
}
