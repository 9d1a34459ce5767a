package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/gorilla/sessions"
	"github.com/icza/session"
	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

// The promises, on each of Google's emulators with Redis before it, and without.

// A client is a store with a session in it, whichever library it is for.
type client interface {
	// visit makes one request, on an instance of its own: use gets the session's
	// values, or nil when there is none.
	visit(use func(get func(string) any, set func(string, any))) error
	logout() error
}

type services struct {
	cache  tier.Cache
	backup tier.Backup
	redis  *redis.Client // nil: no cache
}

func onEachService(t *testing.T, f func(t *testing.T, s services)) {
	for _, d := range emulators.All {
		for _, cached := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, cached=%t", d.Name, cached), func(t *testing.T) {
				ctx := context.Background()
				t.Setenv("DATASTORE_EMULATOR_HOST", emulators.Start(t, d))
				backup, err := clouddatastore.New(ctx, "cloud-demo", &clouddatastore.Options{Namespace: "promises"})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = backup.Close() })
				s := services{cache: tier.None, backup: backup}
				if cached {
					s.redis = startRedis(t)
					if s.cache, err = rediscache.New(ctx, s.redis, nil); err != nil {
						t.Fatal(err)
					}
				}
				f(t, s)
			})
		}
	}
}

// flush empties the cache.
func (s services) flush(t *testing.T) {
	t.Helper()
	if err := gaesession.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s.redis != nil {
		if err := s.redis.FlushAll(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func anInstance() context.Context {
	return instance.With(context.Background(), instance.Instance{Name: new(int)})
}

// An iczaClient has a session of icza/session.
type iczaClient struct {
	services
	async bool
	id    string
}

func (c *iczaClient) store() (session.Store, func() error) {
	var mu sync.Mutex
	var errs []error
	return gaesession.NewMemcacheStoreOptions(anInstance(), &gaesession.MemcacheStoreOptions{
			Cache: c.cache, Backup: c.backup, AsyncDatastoreSave: c.async,
			CacheTimeout: time.Minute, BackupTimeout: time.Minute, // a busy machine is no silent service
			OnError: func(_ context.Context, err error) { mu.Lock(); defer mu.Unlock(); errs = append(errs, err) },
		}), func() error {
			mu.Lock()
			defer mu.Unlock()
			return errors.Join(errs...)
		}
}

func (c *iczaClient) visit(use func(func(string) any, func(string, any))) error {
	store, failed := c.store()
	sess := session.Session(nil)
	if c.id == "" {
		sess = session.NewSession()
		c.id = sess.ID()
		store.Add(sess)
	} else if sess = store.Get(c.id); sess == nil {
		use(nil, nil)
		return failed()
	}
	use(sess.Attr, sess.SetAttr)
	store.Close()
	return failed()
}

func (c *iczaClient) logout() error {
	store, failed := c.store()
	store.Remove(store.Get(c.id))
	return failed()
}

// A gorillaClient has a session of gorilla/sessions.
type gorillaClient struct {
	store *cascadestore.CascadeStore

	mu     sync.Mutex
	cookie string
}

func (c *gorillaClient) do(f func(s *sessions.Session)) error {
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(anInstance())
	c.mu.Lock()
	if c.cookie != "" {
		r.Header.Set("Cookie", c.cookie)
	}
	c.mu.Unlock()
	s, err := c.store.New(r, "s")
	if err != nil {
		return err
	}
	f(s)
	if s.IsNew && c.cookie != "" {
		return nil // it is gone
	}
	w := httptest.NewRecorder()
	if err := c.store.Save(r, w, s); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cookie == "" {
		set := w.Result().Cookies()[0]
		c.cookie = set.Name + "=" + set.Value
	}
	return nil
}

func (c *gorillaClient) visit(use func(func(string) any, func(string, any))) error {
	return c.do(func(s *sessions.Session) {
		if s.IsNew && c.cookie != "" {
			use(nil, nil)
			return
		}
		use(func(name string) any { return s.Values[name] }, func(name string, v any) { s.Values[name] = v })
	})
}

func (c *gorillaClient) logout() error {
	return c.do(func(s *sessions.Session) { s.Options.MaxAge = -1 })
}

// An scsClient has a session of scs.
type scsClient struct {
	store   *scsstore.Store
	manager *scs.SessionManager

	mu    sync.Mutex
	token string
}

func newSCSClient(s services) *scsClient {
	c := &scsClient{store: scsstore.New(s.cache, s.backup, nil), manager: scs.New()}
	c.manager.Store = c.store
	return c
}

func (c *scsClient) do(f func(ctx context.Context)) error {
	var told error
	manager := *c.manager
	manager.ErrorFunc = func(_ http.ResponseWriter, _ *http.Request, err error) { told = err }
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(anInstance())
	c.mu.Lock()
	r.AddCookie(&http.Cookie{Name: manager.Cookie.Name, Value: c.token})
	c.mu.Unlock()
	w := httptest.NewRecorder()
	c.store.Handler(&manager, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { f(r.Context()) })).ServeHTTP(w, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if set := w.Result().Cookies(); len(set) > 0 && c.token == "" {
		c.token = set[0].Value
	}
	return told
}

func (c *scsClient) visit(use func(func(string) any, func(string, any))) error {
	return c.do(func(ctx context.Context) {
		if c.manager.Token(ctx) == "" && c.token != "" {
			use(nil, nil)
			return
		}
		use(func(name string) any { return c.manager.Get(ctx, name) }, func(name string, v any) { c.manager.Put(ctx, name, v) })
	})
}

func (c *scsClient) logout() (err error) {
	return errors.Join(c.do(func(ctx context.Context) { err = c.manager.Destroy(ctx) }), err)
}

func clients(s services) map[string]client {
	key := []byte("0123456789abcdef0123456789abcdef")
	return map[string]client{
		"icza/session":               &iczaClient{services: s},
		"icza/session, asynchronous": &iczaClient{services: s, async: true},
		"gorilla/sessions":           &gorillaClient{store: cascadestore.NewTieredStore(s.cache, s.backup, key)},
		"scs":                        newSCSClient(s),
	}
}

func TestThePromisesHoldOnTheCloudDatastoreAPI(t *testing.T) {
	onEachService(t, func(t *testing.T, s services) {
		for name, c := range clients(s) {
			t.Run(name, func(t *testing.T) {
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				must(c.visit(func(_ func(string) any, set func(string, any)) { set("n", 0) }))

				// No lost update: all have loaded the session before one saves.
				const requests = 8
				var loaded, ended sync.WaitGroup
				loaded.Add(requests)
				for i := range requests {
					ended.Add(1)
					go func() {
						defer ended.Done()
						if err := c.visit(func(get func(string) any, set func(string, any)) {
							loaded.Done()
							loaded.Wait()
							set(fmt.Sprint("a", i), i)
						}); err != nil {
							t.Errorf("request %d: %v", i, err)
						}
					}()
				}
				ended.Wait()
				for _, flushed := range []bool{false, true} {
					if flushed {
						s.flush(t)
					}
					must(c.visit(func(get func(string) any, _ func(string, any)) {
						for i := range requests {
							if get == nil || get(fmt.Sprint("a", i)) != i {
								t.Errorf("flushed=%t: the change of request %d is lost", flushed, i)
							}
						}
					}))
				}

				// No resurrection: the session is removed under a request in flight.
				err := c.visit(func(_ func(string) any, set func(string, any)) {
					must(c.logout())
					set("n", 1)
				})
				if !errors.Is(err, tier.ErrRemoved) {
					t.Errorf("a change of the removed session: got %v, want ErrRemoved", err)
				}
				for _, flushed := range []bool{false, true} {
					if flushed {
						s.flush(t)
					}
					must(c.visit(func(get func(string) any, _ func(string, any)) {
						if get != nil {
							t.Errorf("flushed=%t: the removed session is back", flushed)
						}
					}))
				}
			})
		}
	})
}
