package cascadestore_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

const sessionName = "MainSession"

var (
	hashKey  = []byte("a hash key of thirty-two bytes..")
	blockKey = []byte("an aes-256 key, thirty-two bytes")
)

type values = map[any]any

// An app is a web app on a service, with a store. Its server runs whatever
// handler a browser brings.
type app struct {
	t       testing.TB
	service *gaetest.Service
	store   *cascadestore.CascadeStore
	server  *httptest.Server // nil in simulated time, which no network knows

	mu     sync.Mutex
	visits map[string]*visit
}

// newApp starts an app with a store on these backends.
func newApp(t testing.TB, s *gaetest.Service, backends int) *app {
	t.Helper()
	store := cascadestore.NewCascadeStore(backends, hashKey, blockKey)
	if err := store.Err(); err != nil {
		t.Fatal(err)
	}
	// A busy machine may take longer than the default.
	store.CacheTimeout, store.BackupTimeout = time.Minute, time.Minute
	return newAppWith(t, s, store)
}

func newAppWith(t testing.TB, s *gaetest.Service, store *cascadestore.CascadeStore) *app {
	t.Helper()
	a := newSimulatedApp(t, s, store)
	a.server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.server.Close)
	return a
}

// newSimulatedApp starts an app in simulated time.
func newSimulatedApp(t testing.TB, s *gaetest.Service, store *cascadestore.CascadeStore) *app {
	return &app{t: t, service: s, store: store, visits: map[string]*visit{}}
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
}

const visitHeader = "X-Visit"

func (a *app) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	v := a.visits[r.Header.Get(visitHeader)]
	a.mu.Unlock()
	v.handler(w, r.WithContext(v.request.Context()))
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

// cookie is the value of the session's cookie, empty when there is none.
func (b *browser) cookie() string {
	for _, c := range b.client.Jar.Cookies(b.url()) {
		if c.Name == sessionName {
			return c.Value
		}
	}
	return ""
}

func (b *browser) setCookie(value string) {
	b.client.Jar.SetCookies(b.url(), []*http.Cookie{{Name: sessionName, Value: value, Path: "/"}})
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
	r := httptest.NewRequest(http.MethodGet, b.url().String(), nil).WithContext(v.request.Context())
	for _, c := range b.client.Jar.Cookies(b.url()) {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	handler(w, r)
	v.response = w.Result()
	b.client.Jar.SetCookies(b.url(), v.response.Cookies())
	return v
}

// use makes a request that gets the session, changes it with f and saves it. It
// returns the error of Get or else that of Save.
func (b *browser) use(f func(r *http.Request, s *sessions.Session), hooks ...gaetest.Hook) (err error) {
	b.visit(func(w http.ResponseWriter, r *http.Request) {
		var s *sessions.Session
		if s, err = b.app.store.Get(r, sessionName); err != nil {
			return
		}
		f(r, s)
		err = s.Save(r, w)
	}, hooks...)
	return err
}

// change sets values in a request of its own; nil deletes.
func (b *browser) change(v values, hooks ...gaetest.Hook) error {
	return b.use(func(_ *http.Request, s *sessions.Session) { set(s, v) }, hooks...)
}

func set(s *sessions.Session, v values) {
	for k, v := range v {
		if v == nil {
			delete(s.Values, k)
		} else {
			s.Values[k] = v
		}
	}
}

// logout removes the session in a request of its own.
func (b *browser) logout(hooks ...gaetest.Hook) error {
	return b.use(func(_ *http.Request, s *sessions.Session) { s.Options.MaxAge = -1 }, hooks...)
}

// read returns the values a new request sees; nil: no session.
func (b *browser) read(hooks ...gaetest.Hook) (v values, err error) {
	b.visit(func(_ http.ResponseWriter, r *http.Request) {
		var s *sessions.Session
		if s, err = b.app.store.Get(r, sessionName); s != nil && !s.IsNew {
			v = maps.Clone(s.Values)
		}
	}, hooks...)
	return v, err
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

// expect reads the session of b as it is now, and after a flush if Datastore
// has it.
func (b *browser) expect(t testing.TB, backends int, want values) {
	t.Helper()
	b.expectNow(t, "now", want)
	if backends&cascadestore.DatastoreBackend == 0 {
		return
	}
	b.app.flush()
	b.expectNow(t, "after flush", want)
	b.expectNow(t, "after refill", want)
}

func (b *browser) expectNow(t testing.TB, when string, want values) {
	t.Helper()
	got, err := b.read()
	if err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", when, got, want)
	}
}

var backendChoices = []struct {
	name     string
	backends int
}{
	{"both", cascadestore.DistributedBackends},
	{"all", cascadestore.AllBackends},
	{"Memcache", cascadestore.MemcacheBackend},
	{"Datastore", cascadestore.DatastoreBackend},
}

// onEach runs f with every choice of backends that has one of need, on every
// service.
func onEach(t *testing.T, need int, f func(t *testing.T, a *app, backends int)) {
	for _, choice := range backendChoices {
		if choice.backends&need != need {
			continue
		}
		t.Run(choice.name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
				f(t, newApp(t, s, choice.backends), choice.backends)
			})
		})
	}
}

// drain waits until nothing is done in the background any more.
func drain(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := cascadestore.Drain(ctx); err != nil {
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
