package cascadestore_test

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/gorilla/sessions"

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

// An app is a web app on a service, with a store.
type app struct {
	*gaetest.Site
	t     testing.TB
	store *cascadestore.CascadeStore
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
	return &app{gaetest.NewSite(t, s), t, store}
}

// newSimulatedApp starts an app in simulated time.
func newSimulatedApp(t testing.TB, s *gaetest.Service, store *cascadestore.CascadeStore) *app {
	return &app{gaetest.NewSimulatedSite(t, s), t, store}
}

type visit = gaetest.Visit

// A browser keeps cookies.
type browser struct {
	*gaetest.Browser
	app *app
}

func (a *app) newBrowser() *browser { return &browser{a.NewBrowser(), a} }

// clone returns a browser with the same cookies.
func (b *browser) clone() *browser { return &browser{b.Clone(), b.app} }

// cookie is the value of the session's cookie, empty when there is none.
func (b *browser) cookie() string { return b.Cookie(sessionName) }

func (b *browser) setCookie(value string) { b.SetCookie(sessionName, value) }

// use makes a request that gets the session, changes it with f and saves it. It
// returns the error of Get or else that of Save.
func (b *browser) use(f func(r *http.Request, s *sessions.Session), hooks ...gaetest.Hook) (err error) {
	b.Visit(func(w http.ResponseWriter, r *http.Request) {
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
	b.Visit(func(_ http.ResponseWriter, r *http.Request) {
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
	b.app.Flush()
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
