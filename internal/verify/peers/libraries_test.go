package peers

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/boj/redistore"
	"github.com/gorilla/sessions"
	"github.com/icza/session"
	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// The names of the libraries, as the tables show them.
const (
	gaesessionName = "gaesession"
	redisAloneName = "gaesession, Redis alone"
	cascadeName    = "cascadestore"
	scsstoreName   = "scsstore"
	redistoreName  = "gorilla, redistore"
	goredisName    = "scs, goredisstore"
	iczaName       = "icza/gaesession v2"
	cookieName     = "session"
	redistorePool  = 16
)

// hashKey signs the cookies of gorilla/sessions.
var hashKey = []byte("a hash key of thirty-two bytes..")

// newApps returns an app on each store, on one Redis server. Ours have a backup in
// memory behind it, where an app has a database. If timeout is not zero, that is how
// long ours wait for Redis: a busy machine is no silent server.
func newApps(tb testing.TB, addr string, timeout time.Duration) []*app {
	tb.Helper()
	o := rediscache.ClientOptions(addr)
	if timeout > 0 {
		o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = timeout, timeout, timeout
	}
	ourClient := redis.NewClient(o)
	theirClient := redis.NewClient(&redis.Options{Addr: addr})
	tb.Cleanup(func() { _, _ = ourClient.Close(), theirClient.Close() })
	cache, err := rediscache.New(context.Background(), ourClient, nil)
	if err != nil {
		tb.Fatal(err)
	}
	theirs, err := redistore.NewRediStore(redistorePool, "tcp", addr, "", "", hashKey)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = theirs.Close() })

	apps := ourApps(cache, tiertest.NewBackup(), timeout)
	alone := newApp(redisAloneName, newIcza(gaesession.MemcacheStoreOptions{Cache: cache, OnlyMemcache: true, CacheTimeout: timeout}))
	alone.ours = true
	apps[0].beside = []string{goredisName, redistoreName}
	alone.beside = apps[0].beside
	apps[1].beside = []string{redistoreName}
	apps[2].beside = []string{goredisName}
	return append(apps, alone,
		newApp(goredisName, newSCS(goredisstore.New(theirClient))),
		newApp(redistoreName, gorillaLibrary{theirs}))
}

// ourApps returns an app on each of our stores; nil and nil are App Engine's
// services.
func ourApps(cache tier.Cache, backup tier.Backup, timeout time.Duration) []*app {
	cascade := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, hashKey)
	if cache != nil {
		cascade = cascadestore.NewTieredStore(cache, backup, hashKey)
	}
	cascade.CacheTimeout = timeout
	store := scsstore.New(cache, backup, &scsstore.Options{CacheTimeout: timeout, OnError: unreported})
	ours := newSCS(store)
	ours.handler = store.Handler
	apps := []*app{
		newApp(gaesessionName, newIcza(gaesession.MemcacheStoreOptions{Cache: cache, Backup: backup, CacheTimeout: timeout})),
		newApp(cascadeName, gorillaLibrary{cascade}),
		newApp(scsstoreName, ours),
	}
	for _, a := range apps {
		a.ours = true
	}
	return apps
}

// unpublished is how many errors of ours have said that the cache may show an older
// session until it is told.
var unpublished atomic.Int64

// unreported is for the errors that cost a visitor nothing.
func unreported(_ context.Context, err error) {
	if errors.Is(err, tier.ErrNotPublished) {
		unpublished.Add(1)
	}
}

// icza/session, with Sessions.

type iczaLibrary struct{ sessions *gaesession.Sessions }

func newIcza(o gaesession.MemcacheStoreOptions) iczaLibrary {
	o.OnError = unreported
	return iczaLibrary{&gaesession.Sessions{Options: o}}
}

func (l iczaLibrary) around(next http.Handler) http.Handler { return l.sessions.Handler(next) }

func (l iczaLibrary) login(_ http.ResponseWriter, r *http.Request, attrs map[string]any) error {
	return l.sessions.Add(r, session.NewSessionOptions(&session.SessOptions{Attrs: attrs}))
}

func (l iczaLibrary) open(r *http.Request) (values, error) {
	sess, err := l.sessions.Get(r)
	if err != nil || sess == nil {
		return nil, err
	}
	return iczaValues{l.sessions, sess}, nil
}

type iczaValues struct {
	sessions *gaesession.Sessions
	sess     session.Session
}

func (v iczaValues) get(name string) any                           { return v.sess.Attr(name) }
func (v iczaValues) set(name string, value any)                    { v.sess.SetAttr(name, value) }
func (v iczaValues) save(http.ResponseWriter, *http.Request) error { return nil } // Handler does
func (v iczaValues) remove(_ http.ResponseWriter, r *http.Request) error {
	return v.sessions.Remove(r, v.sess)
}

// gorilla/sessions, with any store.

type gorillaLibrary struct{ store sessions.Store }

func (gorillaLibrary) around(next http.Handler) http.Handler { return next }

func (l gorillaLibrary) login(w http.ResponseWriter, r *http.Request, attrs map[string]any) error {
	sess, err := l.store.Get(r, cookieName)
	if err != nil {
		return err
	}
	for name, v := range attrs {
		sess.Values[name] = v
	}
	return sess.Save(r, w)
}

func (l gorillaLibrary) open(r *http.Request) (values, error) {
	sess, err := l.store.Get(r, cookieName)
	if err != nil || sess.IsNew {
		return nil, err
	}
	return gorillaValues{sess}, nil
}

type gorillaValues struct{ sess *sessions.Session }

func (v gorillaValues) get(name string) any                               { return v.sess.Values[name] }
func (v gorillaValues) set(name string, value any)                        { v.sess.Values[name] = value }
func (v gorillaValues) save(w http.ResponseWriter, r *http.Request) error { return v.sess.Save(r, w) }
func (v gorillaValues) remove(w http.ResponseWriter, r *http.Request) error {
	v.sess.Options.MaxAge = -1
	return v.sess.Save(r, w)
}

// scs, with any store.

type scsLibrary struct {
	manager *scs.SessionManager
	handler func(*scs.SessionManager, http.Handler) http.Handler
}

func newSCS(store scs.Store) *scsLibrary {
	l := &scsLibrary{manager: scs.New(), handler: (*scs.SessionManager).LoadAndSave}
	l.manager.Store = store
	l.manager.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, _ error) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return l
}

func (l *scsLibrary) around(next http.Handler) http.Handler { return l.handler(l.manager, next) }

func (l *scsLibrary) login(_ http.ResponseWriter, r *http.Request, attrs map[string]any) error {
	for name, v := range attrs {
		l.manager.Put(r.Context(), name, v)
	}
	return nil
}

func (l *scsLibrary) open(r *http.Request) (values, error) {
	if l.manager.Token(r.Context()) == "" {
		return nil, nil
	}
	return scsValues{l.manager, r.Context()}, nil
}

type scsValues struct {
	manager *scs.SessionManager
	ctx     context.Context
}

func (v scsValues) get(name string) any                             { return v.manager.Get(v.ctx, name) }
func (v scsValues) set(name string, value any)                      { v.manager.Put(v.ctx, name, value) }
func (v scsValues) save(http.ResponseWriter, *http.Request) error   { return nil } // its handler does
func (v scsValues) remove(http.ResponseWriter, *http.Request) error { return v.manager.Destroy(v.ctx) }

// icza/session, with the calls of icza/gaesession v2.

type oldLibrary struct{}

func (oldLibrary) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		store := oldlib.New(r.Context(), oldlib.Options{})
		defer store.Close()
		manager := session.NewCookieManagerOptions(store, &session.CookieMngrOptions{AllowHTTP: true})
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), oldLibrary{}, manager)))
	})
}

func (oldLibrary) login(w http.ResponseWriter, r *http.Request, attrs map[string]any) error {
	oldManager(r).Add(session.NewSessionOptions(&session.SessOptions{Attrs: attrs}), w)
	return nil
}

func (oldLibrary) open(r *http.Request) (values, error) {
	sess := oldManager(r).Get(r)
	if sess == nil {
		return nil, nil
	}
	return oldValues{sess}, nil
}

func oldManager(r *http.Request) session.Manager {
	return r.Context().Value(oldLibrary{}).(session.Manager)
}

type oldValues struct{ session.Session }

func (v oldValues) get(name string) any                           { return v.Attr(name) }
func (v oldValues) set(name string, value any)                    { v.SetAttr(name, value) }
func (v oldValues) save(http.ResponseWriter, *http.Request) error { return nil } // Close does
func (v oldValues) remove(w http.ResponseWriter, r *http.Request) error {
	oldManager(r).Remove(v.Session, w)
	return nil
}
