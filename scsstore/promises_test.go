package scsstore_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/gaetest/promises"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

// The promises that every adapter keeps, and what they say of this one.

func TestPromises(t *testing.T) { promises.Test(t, adapters()...) }

// adapters are the store on both services and on Datastore alone, in Handler and in
// scs's LoadAndSave.
func adapters() (all []promises.Adapter) {
	for _, cache := range []tier.Cache{nil, tier.None} {
		for _, plain := range []bool{false, true} {
			all = append(all, promises.Adapter{
				Name:  map[tier.Cache]string{nil: "both", tier.None: "Datastore"}[cache] + map[bool]string{false: " Handler", true: " LoadAndSave"}[plain],
				Drain: scsstore.Drain, KeyPrefix: scsstore.DefaultKeyPrefix,
				Memcache: cache == nil, Datastore: true, Overwrites: plain,
				New: func(tb testing.TB, s *gaetest.Service, simulated, inTime bool) promises.App {
					start := newApp
					if simulated {
						start = newSimulatedApp
					}
					a := start(tb, s, cache)
					a.plain = plain
					if inTime {
						a.use(scsstore.New(cache, nil, &scsstore.Options{OnError: a.onError}))
					}
					return promising{a}
				},
			})
		}
	}
	return all
}

type promising struct{ *app }

func (a promising) NewVisitor() promises.Visitor { return guest{a.newBrowser()} }

type guest struct{ *browser }

func (g guest) Clone() promises.Visitor { return guest{g.clone()} }
func (g guest) Cookie() string          { return g.token() }
func (g guest) Name(id string)          { g.setToken(id) }

func (g guest) Request(on *gaetest.Request, use func(promises.Session)) promises.Answer {
	s := session{app: g.app}
	v := g.visitOn(on, func(_ http.ResponseWriter, r *http.Request) {
		s.ctx = r.Context()
		use(&s)
	})
	return promises.Answer{Err: errors.Join(v.err, s.err), Reported: v.allReported, Cookies: v.Response.Cookies()}
}

type session struct {
	app *app
	ctx context.Context
	err error // of Destroy
}

func (s *session) Values() map[string]any { return s.app.seen(s.ctx) }
func (s *session) Set(key string, v any)  { s.app.set(s.ctx, values{key: v}) }
func (s *session) Save()                  {}
func (s *session) Remove()                { s.err = s.app.manager.Destroy(s.ctx) }

func TestKeysOfAnyNameAreMerged(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		for _, key := range []string{"", "deadline", "key deadline", "key ", "\x00", "\xff\xfe", "h:", "ключ"} {
			b := a.login(t, values{"n": 0, key: "x"})
			err := b.use(func(ctx context.Context) {
				b.clone().mustChange(t, values{key: "theirs"})
				a.manager.Put(ctx, "mine", 1)
			}).err
			if err != nil {
				t.Error(err)
			}
			b.expect(t, values{"n": 0, key: "theirs", "mine": 1})
		}
	})
}

func TestWithoutHandlerTheLastOneToCommitWins(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		a.plain = true
		b := a.login(t, values{"n": 0, "gone": 1})
		err := b.use(func(ctx context.Context) {
			b.clone().mustChange(t, values{"n": 1, "theirs": 1})
			a.set(ctx, values{"mine": 1, "gone": nil})
		}).err
		if err != nil {
			t.Error(err)
		}
		b.expect(t, values{"n": 0, "mine": 1})
	})
}

func TestACommitOfADeletedTokenIsErrRemovedWhoeverDeletedIt(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		for who, isOther := range map[string]bool{"another request": true, "this request": false} {
			b := a.login(t, values{"n": 0})
			token := b.token()
			b.use(func(ctx context.Context) {
				data, found, err := a.store.FindCtx(ctx, token)
				if err != nil || !found {
					t.Fatalf("got %v, %v", found, err)
				}
				if isOther {
					err = b.clone().logout()
				} else {
					err = a.store.DeleteCtx(ctx, token)
				}
				if err != nil {
					t.Errorf("%s: %v", who, err)
				}
				for range 2 {
					if err := a.store.CommitCtx(ctx, token, changed(t, data), later()); !errors.Is(err, scsstore.ErrRemoved) {
						t.Errorf("deleted by %s: got %v, want ErrRemoved", who, err)
					}
				}
				if err := a.store.DeleteCtx(ctx, token); err != nil {
					t.Errorf("deleted by %s, and again: %v", who, err)
				}
			})
			b.expect(t, nil)
		}
	})
}

func TestALogoutIsFinalWhileTheTokenIsRenewed(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
			b := a.login(t, values{"n": 0})
			old := b.clone()
			reached, hook := gaetest.Interpose(k, func() {
				if err := old.clone().logout(); err != nil {
					t.Errorf("logout: %v", err)
				}
			})
			var rerr error
			v := b.use(func(ctx context.Context) { rerr = a.manager.RenewToken(ctx) }, hook)
			if err := errors.Join(rerr, v.err); err != nil && !errors.Is(err, scsstore.ErrRemoved) {
				t.Error(err)
			}
			old.expect(t, nil)
			return reached.Load()
		})
	})
}

// The change is seen by every load, so the app's answer goes out, with the cookie.
func TestAChangeThatOneServiceTookIsReportedAndNoError(t *testing.T) {
	onBoth(t, func(t *testing.T, a *app) {
		for name, test := range map[string]struct {
			down func(gaetest.Call) bool
			want error
		}{
			"Datastore": {gaetest.Datastore, scsstore.ErrNotBackedUp},
			"Memcache":  {func(c gaetest.Call) bool { return gaetest.Memcache(c) && c.Index > 1 }, scsstore.ErrNotPublished},
		} {
			b := a.login(t, values{"n": 0})
			v := b.use(func(ctx context.Context) { a.manager.Put(ctx, "n", 1) }, gaetest.Fail(test.down))
			if v.err != nil || !a.hasReported(test.want) {
				t.Errorf("%s is down: got %v, and OnError not %v", name, v.err, test.want)
			}
			if c := v.Response.Cookies(); len(c) != 1 {
				t.Errorf("%s is down: got cookies %v, want that of the session", name, c)
			}
		}
		drain(t)
	})
}

func TestAChangeThatNoServiceTookIsErrNotSavedAndSetsNoCookie(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		down := gaetest.Fail(func(c gaetest.Call) bool { return c.Method != "Get" })
		b := a.newBrowser()
		v := b.use(func(ctx context.Context) { a.manager.Put(ctx, "n", 1) }, down)
		if !errors.Is(v.err, scsstore.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", v.err)
		}
		if v.Response.StatusCode != http.StatusInternalServerError || b.token() != "" {
			t.Errorf("got status %d and a cookie: %v; want ErrorFunc's answer, and none", v.Response.StatusCode, b.token() != "")
		}
	})
}

func TestALogoutThatNoServiceTookIsErrNotSaved(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		down := func(c gaetest.Call) bool { return c.Method != "Get" }
		up := a.Service.Break(down) // in the background as well
		err := b.logout(gaetest.Fail(down))
		up()
		if !errors.Is(err, scsstore.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", err)
		}
		if b.token() == "" {
			t.Error("scs ended the cookie of a session that it could not destroy")
		}
		drain(t)
	})
}

// P9: unknown is not none.

func TestWhenNobodyCanTellTheSessionIsNeitherReplacedNorLost(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		token := b.token()
		down := gaetest.Fail(func(gaetest.Call) bool { return true })
		served := false
		v := b.use(func(context.Context) { served = true }, down)
		if !errors.Is(v.err, scsstore.ErrUnavailable) || !errors.Is(v.err, gaetest.ErrFailed) {
			t.Errorf("got %v, want ErrUnavailable and the services' error", v.err)
		}
		if served {
			t.Error("the app served a request whose session is not known")
		}
		if c := v.Response.Cookies(); len(c) > 0 || b.token() != token {
			t.Errorf("the browser got another cookie: %v", c)
		}
		b.expect(t, values{"n": 0})
	})
}

func TestAServiceThatAnotherOneMakesUpForIsReportedAndNoError(t *testing.T) {
	onBoth(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		if got, err := b.read(gaetest.Fail(gaetest.Memcache)); err != nil || got["n"] != 0 {
			t.Errorf("got %v, %v", got, err)
		}
		if !a.hasReported(gaetest.ErrFailed) {
			t.Error("OnError did not get the error of Memcache")
		}
		drain(t)
	})
}

// P11: nobody else's things.

func TestWhatIsNoTokenIsNoSession(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		for _, token := range []string{"h:x", "owner:x", text(300), "a b", "__x__", "..", "h.x"} {
			b := a.newBrowser()
			b.setToken(token)
			if got, err := b.read(); err != nil || got != nil {
				t.Errorf("%q: got %v, %v; want no session", token, got, err)
			}
			b.mustChange(t, values{"n": 1})
			if b.token() == token {
				t.Errorf("%q: a session was saved under it", token)
			}
			b.expectNow(t, "now", values{"n": 1})
		}
		ctx := a.Service.NewRequest().Context()
		for _, token := range []string{"", "h:x", "owner:x", text(2000), "x\x00", "\xff"} {
			if b, found, err := a.store.FindCtx(ctx, token); b != nil || found || err != nil {
				t.Errorf("%q: FindCtx got %q, %v, %v", token, b, found, err)
			}
			if err := a.store.CommitCtx(ctx, token, []byte("x"), later()); !errors.Is(err, scsstore.ErrInvalidID) {
				t.Errorf("%q: CommitCtx got %v, want ErrInvalidID", token, err)
			}
			if err := a.store.DeleteCtx(ctx, token); err != nil {
				t.Errorf("%q: DeleteCtx got %v", token, err)
			}
		}
	})
}

func TestAVisitorReadsAndChangesNothingButSessions(t *testing.T) {
	onBoth(t, func(t *testing.T, a *app) {
		for name, prefix := range map[string]string{"another prefix": "", "the same prefix": scsstore.DefaultKeyPrefix} {
			a.putItem(t, prefix+"greeting", "hello")
			b := a.newBrowser()
			b.setToken("greeting")
			if got, err := b.read(); err != nil || got != nil {
				t.Errorf("%s: got %v, %v; want no session", name, got, err)
			}
			if err := b.logout(); err != nil {
				t.Errorf("%s: logout: %v", name, err)
			}
			ctx := a.Service.NewRequest().Context()
			if err := a.store.DeleteCtx(ctx, "greeting"); err != nil {
				t.Errorf("%s: DeleteCtx: %v", name, err)
			}
			if got := a.item(t, prefix+"greeting"); got != "hello" {
				t.Errorf("%s: the app's item is %q", name, got)
			}
		}
	})
}
