package scsstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

// newManager is copied: scs.New begins a goroutine, which must be in no bubble of
// simulated time.
var newManager = scs.New()

type values = map[string]any

// An app is a web app on a service, with a store and scs's manager. Its server runs
// whatever handler a browser brings.
type app struct {
	t       testing.TB
	service *gaetest.Service
	store   *scsstore.Store
	manager *scs.SessionManager
	server  *httptest.Server // nil in simulated time, which no network knows
	plain   bool             // scs's own LoadAndSave in place of Handler

	mu       sync.Mutex
	visits   map[string]*visit
	reported []error // to OnError
}

// newApp starts an app on App Engine's services, or on Datastore alone.
func newApp(t testing.TB, s *gaetest.Service, cache tier.Cache) *app {
	t.Helper()
	a := newSimulatedApp(t, s, cache)
	a.server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.server.Close)
	return a
}

// newSimulatedApp starts an app in simulated time.
func newSimulatedApp(t testing.TB, s *gaetest.Service, cache tier.Cache) *app {
	a := &app{t: t, service: s, visits: map[string]*visit{}}
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

func (a *app) onError(_ context.Context, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reported = append(a.reported, err)
}

// hasReported reports whether OnError got such an error since it was asked last.
func (a *app) hasReported(target error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := errors.Join(a.reported...)
	a.reported = nil
	return errors.Is(err, target)
}

// flush empties Memcache.
func (a *app) flush() {
	a.t.Helper()
	if err := memcache.Flush(a.context()); err != nil {
		a.t.Fatalf("flush Memcache: %v", err)
	}
}

// context is that of a request whose calls are not watched.
func (a *app) context() context.Context {
	if a.server != nil {
		return a.service.Context()
	}
	return a.service.NewSimulatedRequest(func(gaetest.Call) time.Duration { return 0 }).Context()
}

// A visit is one request of a browser.
type visit struct {
	handler  http.HandlerFunc
	request  *gaetest.Request // watches the calls
	response *http.Response
	err      error // that scs handed to the app
}

type visitKey struct{}

const visitHeader = "X-Visit"

func (a *app) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	v := a.visits[r.Header.Get(visitHeader)]
	a.mu.Unlock()
	a.answer(v, w, r)
}

func (a *app) answer(v *visit, w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(context.WithValue(v.request.Context(), visitKey{}, v))
	if a.plain {
		a.manager.LoadAndSave(v.handler).ServeHTTP(w, r)
		return
	}
	a.store.Handler(a.manager, v.handler).ServeHTTP(w, r)
}

// A browser keeps cookies.
type browser struct {
	app    *app
	client *http.Client
}

func (a *app) newBrowser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return &browser{a, &http.Client{Jar: jar}}
}

// clone returns a browser with the same cookies.
func (b *browser) clone() *browser {
	c := b.app.newBrowser()
	u := b.url()
	c.client.Jar.SetCookies(u, b.client.Jar.Cookies(u))
	return c
}

func (b *browser) url() *url.URL {
	address := "http://localhost"
	if b.app.server != nil {
		address = b.app.server.URL
	}
	u, err := url.Parse(address)
	if err != nil {
		b.app.t.Fatal(err)
	}
	return u
}

// token is the value of the session's cookie, empty when there is none.
func (b *browser) token() string {
	for _, c := range b.client.Jar.Cookies(b.url()) {
		if c.Name == b.app.manager.Cookie.Name {
			return c.Value
		}
	}
	return ""
}

func (b *browser) setToken(value string) {
	b.client.Jar.SetCookies(b.url(), []*http.Cookie{{Name: b.app.manager.Cookie.Name, Value: value, Path: "/"}})
}

// visit makes a request that handler answers, and returns when it is answered.
func (b *browser) visit(handler http.HandlerFunc, hooks ...gaetest.Hook) *visit {
	if b.app.server == nil {
		return b.simulate(handler, hooks)
	}
	v := &visit{handler: handler, request: b.app.service.NewRequest(hooks...)}
	id := fmt.Sprintf("%p", v)
	b.app.mu.Lock()
	b.app.visits[id] = v
	b.app.mu.Unlock()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, b.app.server.URL+"/", nil)
	if err != nil {
		b.app.t.Error(err)
		return v
	}
	req.Header.Set(visitHeader, id)
	res, err := b.client.Do(req)
	if err != nil {
		b.app.t.Error(err)
		return v
	}
	if err := res.Body.Close(); err != nil {
		b.app.t.Error(err)
	}
	v.response = res
	return v
}

func (b *browser) simulate(handler http.HandlerFunc, hooks []gaetest.Hook) *visit {
	v := &visit{handler: handler, request: b.app.service.NewSimulatedRequest(gaetest.AppEngineLatency, hooks...)}
	w, r := newExchange(b)
	b.app.answer(v, w, r)
	v.response = w.Result()
	b.client.Jar.SetCookies(b.url(), v.response.Cookies())
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
	b.app.flush()
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

// atEachCall calls try with 1, 2, … until it says that the request has no such
// call.
func atEachCall(t *testing.T, try func(t *testing.T, k int) (reached bool)) {
	t.Helper()
	for k := 1; ; k++ {
		if k > 100 { // as when -failfast skips the subtests
			t.Fatal("the request does not end")
		}
		reached := true
		t.Run(fmt.Sprintf("call %d", k), func(t *testing.T) { reached = try(t, k) })
		if !reached {
			if k < 2 {
				t.Error("the request made no call")
			}
			return
		}
	}
}

// newExchange returns what a browser sends without a network, and where the answer
// goes.
func newExchange(b *browser) (*httptest.ResponseRecorder, *http.Request) {
	r := httptest.NewRequest(http.MethodGet, b.url().String(), nil)
	for _, c := range b.client.Jar.Cookies(b.url()) {
		r.AddCookie(c)
	}
	return httptest.NewRecorder(), r
}
