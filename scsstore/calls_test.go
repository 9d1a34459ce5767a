package scsstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

// P7, and how many calls to App Engine's services a request makes.
func TestRequestsKeepTheirNumberOfCalls(t *testing.T) {
	change := func(a *app) func(ctx context.Context) {
		return func(ctx context.Context) { a.manager.Put(ctx, "n", 1) }
	}
	type counts struct{ both, datastore, plain int }
	requests := []struct {
		name   string
		evict  bool
		browse func(a *app, b *browser) *visit
		want   counts
	}{
		{"no cookie", false, func(a *app, _ *browser) *visit { return a.newBrowser().use(func(context.Context) {}) }, counts{0, 0, 0}},
		{"no token at all", false, func(a *app, b *browser) *visit {
			b.setToken("h:x")
			return b.use(func(context.Context) {})
		}, counts{0, 0, 0}},
		{"login", false, func(a *app, _ *browser) *visit { return a.newBrowser().use(change(a)) }, counts{2, 1, 7}},
		{"read", false, func(_ *app, b *browser) *visit { return b.use(func(context.Context) {}) }, counts{1, 1, 1}},
		{"set to what it was", false, func(a *app, b *browser) *visit {
			return b.use(func(ctx context.Context) { a.manager.Put(ctx, "n", 0) })
		}, counts{1, 1, 2}},
		{"change", false, func(a *app, b *browser) *visit { return b.use(change(a)) }, counts{6, 5, 7}},
		{"read, evicted", true, func(_ *app, b *browser) *visit { return b.use(func(context.Context) {}) }, counts{6, 1, 6}},
		{"change, evicted", true, func(a *app, b *browser) *visit { return b.use(change(a)) }, counts{12, 5, 12}},
		{"removed elsewhere", false, func(a *app, b *browser) *visit {
			b.clone().mustLogout(a.t)
			return b.use(func(context.Context) {})
		}, counts{1, 1, 1}},
		{"unknown token", false, func(a *app, b *browser) *visit {
			b.setToken("unknown")
			return b.use(func(context.Context) {})
		}, counts{2, 1, 2}},
		{"logout", false, func(a *app, b *browser) *visit {
			return b.use(func(ctx context.Context) {
				if err := a.manager.Destroy(ctx); err != nil {
					a.t.Error(err)
				}
			})
		}, counts{4, 2, 5}},
		{"new token at login", false, func(a *app, b *browser) *visit {
			return b.use(func(ctx context.Context) {
				if err := a.manager.RenewToken(ctx); err != nil {
					a.t.Error(err)
				}
				a.manager.Put(ctx, "user", "ann")
			})
		}, counts{6, 3, 12}},
	}
	choices := []struct {
		name  string
		cache tier.Cache
		plain bool
		want  func(counts) int
	}{
		{"both", nil, false, func(c counts) int { return c.both }},
		{"Datastore", tier.None, false, func(c counts) int { return c.datastore }},
		{"without Handler", nil, true, func(c counts) int { return c.plain }},
	}
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, choice := range choices {
			for _, req := range requests {
				t.Run(choice.name+"/"+req.name, func(t *testing.T) {
					a := newApp(t, s, choice.cache)
					b := a.login(t, values{"n": 0})
					a.plain = choice.plain
					if req.evict {
						s.Flush()
					}
					v := req.browse(a, b)
					if got, want := v.Request.Calls(), choice.want(req.want); len(got) != want || v.err != nil {
						t.Errorf("got %d calls and %v, want %d: %v", len(got), v.err, want, got)
					}
				})
			}
		}
	})
}

// With an IdleTimeout scs commits at every request.
func TestAReadWithAnIdleTimeoutIsOneCall(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, nil)
		a.manager.IdleTimeout = time.Hour
		b := a.login(t, values{"n": 0})
		for range 3 {
			v := b.use(func(context.Context) {})
			if n := len(v.Request.Calls()); n != 1 || v.err != nil {
				t.Errorf("got %d calls and %v, want one", n, v.err)
			}
			if c := v.Response.Cookies(); len(c) != 1 || c[0].Value != b.token() {
				t.Error("scs did not renew the cookie")
			}
		}
	})
}
