package scsstore_test

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

// newManager is copied: scs.New begins a goroutine, which must be in no bubble of
// simulated time.
var newManager = scs.New()

type values = map[string]any

// An app is a web app on a service, with a store and scs's manager.
type app struct {
	*gaetest.Site
	t       testing.TB
	store   *scsstore.Store
	manager *scs.SessionManager
	plain   bool // scs's own LoadAndSave in place of Handler

	mu       sync.Mutex
	reported []error // to OnError
}

// newApp starts an app on App Engine's services, or on Datastore alone.
func newApp(t testing.TB, s *gaetest.Service, cache tier.Cache) *app {
	t.Helper()
	return newAppOn(t, gaetest.NewSite(t, s), cache)
}

// newSimulatedApp starts an app in simulated time.
func newSimulatedApp(t testing.TB, s *gaetest.Service, cache tier.Cache) *app {
	return newAppOn(t, gaetest.NewSimulatedSite(t, s), cache)
}

func newAppOn(t testing.TB, site *gaetest.Site, cache tier.Cache) *app {
	a := &app{Site: site, t: t}
	a.use(scsstore.New(cache, nil, &scsstore.Options{
		// A busy machine may take longer than the default.
		CacheTimeout: time.Minute, BackupTimeout: time.Minute,
		OnError: a.onError,
	}))
	return a
}

// use has the app use a store.
func (a *app) use(store *scsstore.Store) {
	manager := *newManager
	a.store, a.manager = store, &manager
	a.manager.Store = store
	a.manager.ErrorFunc = func(w http.ResponseWriter, r *http.Request, err error) {
		v := r.Context().Value(visitKey{}).(*visit)
		v.err = errors.Join(v.err, err)
		http.Error(w, "error", http.StatusInternalServerError)
	}
}

func (a *app) onError(ctx context.Context, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reported = append(a.reported, err)
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		v.reported = append(v.reported, err)
	}
}

// hasReported reports whether OnError got such an error since it was asked last.
func (a *app) hasReported(target error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := errors.Join(a.reported...)
	a.reported = nil
	return errors.Is(err, target)
}

// A visit is one request of a browser.
type visit struct {
	*gaetest.Visit
	err      error   // that scs handed to the app
	reported []error // to OnError; the app's mu guards it
	app      *app
}

// allReported is what OnError got of the visit until now.
func (v *visit) allReported() error {
	v.app.mu.Lock()
	defer v.app.mu.Unlock()
	return errors.Join(v.reported...)
}

type visitKey struct{}

// answer has the app answer a request.
func (a *app) answer(v *visit, handler http.HandlerFunc, w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
	if a.plain {
		a.manager.LoadAndSave(handler).ServeHTTP(w, r)
		return
	}
	a.store.Handler(a.manager, handler).ServeHTTP(w, r)
}

// A browser keeps cookies.
type browser struct {
	*gaetest.Browser
	app *app
}

func (a *app) newBrowser() *browser { return &browser{a.NewBrowser(), a} }

// clone returns a browser with the same cookies.
func (b *browser) clone() *browser { return &browser{b.Clone(), b.app} }

// token is the value of the session's cookie, empty when there is none.
func (b *browser) token() string { return b.Cookie(b.app.manager.Cookie.Name) }

func (b *browser) setToken(value string) { b.SetCookie(b.app.manager.Cookie.Name, value) }

// visit makes a request that handler answers, and returns when it is answered.
func (b *browser) visit(handler http.HandlerFunc, hooks ...gaetest.Hook) *visit {
	return b.visitOn(b.app.NewRequest(hooks...), handler)
}

func (b *browser) visitOn(request *gaetest.Request, handler http.HandlerFunc) *visit {
	v := &visit{app: b.app}
	v.Visit = b.VisitOn(request, func(w http.ResponseWriter, r *http.Request) { b.app.answer(v, handler, w, r) })
	return v
}

// use makes a request that does f with its session, and returns it.
func (b *browser) use(f func(ctx context.Context), hooks ...gaetest.Hook) *visit {
	return b.visit(func(_ http.ResponseWriter, r *http.Request) { f(r.Context()) }, hooks...)
}

// change sets values in a request of its own; nil deletes.
func (b *browser) change(v values, hooks ...gaetest.Hook) error {
	return b.use(func(ctx context.Context) { b.app.set(ctx, v) }, hooks...).err
}

func (a *app) set(ctx context.Context, v values) {
	for k, v := range v {
		if v == nil {
			a.manager.Remove(ctx, k)
		} else {
			a.manager.Put(ctx, k, v)
		}
	}
}

// logout destroys the session in a request of its own.
func (b *browser) logout(hooks ...gaetest.Hook) (err error) {
	v := b.use(func(ctx context.Context) { err = b.app.manager.Destroy(ctx) }, hooks...)
	return errors.Join(err, v.err)
}

// read returns the values a new request sees; nil: no session.
func (b *browser) read(hooks ...gaetest.Hook) (got values, err error) {
	v := b.use(func(ctx context.Context) { got = b.app.seen(ctx) }, hooks...)
	return got, v.err
}

// seen are the values of a request's session; nil: there is none.
func (a *app) seen(ctx context.Context) values {
	if a.manager.Token(ctx) == "" {
		return nil
	}
	all := values{}
	for _, k := range a.manager.Keys(ctx) {
		all[k] = a.manager.Get(ctx, k)
	}
	return all
}

// mustChange is change in a test that needs it to succeed.
func (b *browser) mustChange(t testing.TB, v values) {
	t.Helper()
	if err := b.change(v); err != nil {
		t.Fatalf("change: %v", err)
	}
}

func (b *browser) mustLogout(t testing.TB) {
	t.Helper()
	if err := b.logout(); err != nil {
		t.Fatalf("logout: %v", err)
	}
}

// login returns a browser with a session of these values.
func (a *app) login(t testing.TB, v values) *browser {
	t.Helper()
	b := a.newBrowser()
	b.mustChange(t, v)
	return b
}

// expect reads the session of b as it is now, and after a flush.
func (b *browser) expect(t testing.TB, want values) {
	t.Helper()
	b.expectNow(t, "now", want)
	b.app.Flush()
	b.expectNow(t, "after flush", want)
	b.expectNow(t, "after refill", want)
}

func (b *browser) expectNow(t testing.TB, when string, want values) {
	t.Helper()
	got, err := b.clone().read()
	if err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", when, got, want)
	}
}

// onEach runs f with an app on both of App Engine's services, and on Datastore
// alone, on gaelocal and on Google's server.
func onEach(t *testing.T, f func(t *testing.T, a *app)) {
	for name, cache := range map[string]tier.Cache{"both": nil, "Datastore": tier.None} {
		t.Run(name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) { f(t, newApp(t, s, cache)) })
		})
	}
}

// onBoth runs f with an app on both of App Engine's services.
func onBoth(t *testing.T, f func(t *testing.T, a *app)) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) { f(t, newApp(t, s, nil)) })
}

// withAndWithoutHandler runs f as onEach does, in Handler and in scs's LoadAndSave.
func withAndWithoutHandler(t *testing.T, f func(t *testing.T, a *app)) {
	for name, plain := range map[string]bool{"Handler": false, "LoadAndSave": true} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, a *app) {
				a.plain = plain
				f(t, a)
			})
		})
	}
}

// drain waits until nothing is done in the background any more.
func drain(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := scsstore.Drain(ctx); err != nil {
		t.Error(err)
	}
}
