package blackbox

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

// sessionAttributes are those of a session of icza/session.
type sessionAttributes struct{ session.Session }

func (a sessionAttributes) get(name string) any    { return a.Attr(name) }
func (a sessionAttributes) set(name string, v any) { a.SetAttr(name, v) }

func newSession(attrs map[string]int) session.Session {
	sess := session.NewSession()
	for name, v := range attrs {
		sess.SetAttr(name, v)
	}
	return sess
}

// use loads the session, lets the client use it, and closes the store.
func use(store session.Store, key string, f func(attributes)) error {
	defer store.Close()
	sess := store.Get(key)
	if sess == nil {
		return errNoSession
	}
	f(sessionAttributes{sess})
	return nil
}

// gaesessionApp is an app on this package's store for icza/session.
type gaesessionApp struct {
	asynchronous int // requests of a hundred

	mu   sync.Mutex
	late []error
}

// A report collects what a store reports: to the request until it has ended, and
// then to the app.
type report struct {
	app   *gaesessionApp
	errs  []error
	ended bool
}

func (r *report) add(_ context.Context, err error) {
	r.app.mu.Lock()
	defer r.app.mu.Unlock()
	if r.ended {
		r.app.late = append(r.app.late, err)
	} else {
		r.errs = append(r.errs, err)
	}
}

func (r *report) end() error {
	r.app.mu.Lock()
	defer r.app.mu.Unlock()
	r.ended = true
	return errors.Join(r.errs...)
}

func (a *gaesessionApp) open(ctx context.Context, async bool) (session.Store, *report) {
	r := &report{app: a}
	return gaesession.NewMemcacheStoreOptions(ctx, &gaesession.MemcacheStoreOptions{
		AsyncDatastoreSave: async, OnError: r.add, CacheTimeout: patience, BackupTimeout: patience,
	}), r
}

func (a *gaesessionApp) login(ctx context.Context, attrs map[string]int) (string, error) {
	store, r := a.open(ctx, false)
	sess := newSession(attrs)
	store.Add(sess)
	store.Close()
	return sess.ID(), r.end()
}

func (a *gaesessionApp) request(ctx context.Context, key string, async bool, f func(attributes)) error {
	store, r := a.open(ctx, async)
	err := use(store, key, f)
	return errors.Join(err, r.end())
}

func (a *gaesessionApp) mode(rnd *rand.Rand) bool { return rnd.IntN(100) < a.asynchronous }

func (a *gaesessionApp) finish(ctx context.Context) []error {
	err := gaesession.Drain(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	late := a.late
	a.late = nil
	if err != nil {
		late = append(late, err)
	}
	return late
}

// blindApp is an app on a store that saves without regard to what others saved.
type blindApp struct{ synchronous }

func (blindApp) login(ctx context.Context, attrs map[string]int) (string, error) {
	store := oldlib.New(ctx, oldlib.Options{})
	sess := newSession(attrs)
	store.Add(sess)
	store.Close()
	return sess.ID(), store.Err()
}

func (blindApp) request(ctx context.Context, key string, _ bool, f func(attributes)) error {
	store := oldlib.New(ctx, oldlib.Options{})
	err := use(store, key, f)
	return errors.Join(err, store.Err())
}

// synchronous is an app that does nothing in the background.
type synchronous struct{}

func (synchronous) mode(*rand.Rand) bool           { return false }
func (synchronous) finish(context.Context) []error { return nil }

// cascadeApp is an app on the store for gorilla/sessions. The key of a session is
// the value of its cookie.
type cascadeApp struct {
	synchronous
	store *cascadestore.CascadeStore
}

const cookieName = "session"

// patience is how long the services may take: a busy machine is no silent service.
const patience = time.Minute

func newCascadeApp(t *testing.T) cascadeApp {
	t.Helper()
	store := cascadestore.NewCascadeStore(cascadestore.DistributedBackends,
		[]byte("a hash key of thirty-two bytes.."), []byte("an aes-256 key, thirty-two bytes"))
	store.CacheTimeout, store.BackupTimeout = patience, patience
	if err := store.Err(); err != nil {
		t.Fatal(err)
	}
	return cascadeApp{store: store}
}

// valuesAttributes are those of a gorilla session.
type valuesAttributes struct{ *sessions.Session }

func (a valuesAttributes) get(name string) any { return a.Values[name] }

func (a valuesAttributes) set(name string, v any) {
	if v == nil {
		delete(a.Values, name)
	} else {
		a.Values[name] = v
	}
}

// serve answers a request with that cookie, and returns the one it sets.
func (a cascadeApp) serve(ctx context.Context, cookie string, f func(*sessions.Session) error) (string, error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
	if cookie != "" {
		r.AddCookie(&http.Cookie{Name: cookieName, Value: cookie})
	}
	w := httptest.NewRecorder()
	sess, err := a.store.Get(r, cookieName)
	if err != nil {
		return "", err
	}
	if err := f(sess); err != nil {
		return "", err
	}
	if err := sess.Save(r, w); err != nil {
		return "", err
	}
	for _, c := range w.Result().Cookies() {
		if c.Name == cookieName {
			return c.Value, nil
		}
	}
	return "", errors.New("no cookie was set")
}

func (a cascadeApp) login(ctx context.Context, attrs map[string]int) (string, error) {
	return a.serve(ctx, "", func(s *sessions.Session) error {
		for name, v := range attrs {
			s.Values[name] = v
		}
		return nil
	})
}

func (a cascadeApp) request(ctx context.Context, key string, _ bool, f func(attributes)) error {
	_, err := a.serve(ctx, key, func(s *sessions.Session) error {
		if s.IsNew {
			return errNoSession
		}
		f(valuesAttributes{s})
		return nil
	})
	return err
}
