package cascadestore_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// Sessions on other services than App Engine's.

// A service is one in the memory of this process, whose calls are counted.
type service struct {
	calls int
	down  bool
}

var errDown = errors.New("the service is down")

func (s *service) call() error {
	if s.calls++; s.down {
		return errDown
	}
	return nil
}

// memory is a cache.
type memory struct {
	service
	*tiertest.MemoryCache
}

func newMemory() *memory { return &memory{MemoryCache: tiertest.NewCache()} }

func (m *memory) Get(ctx context.Context, id string) (*tier.Item, error) {
	if err := m.call(); err != nil {
		return nil, err
	}
	return m.MemoryCache.Get(ctx, id)
}

func (m *memory) ValidID(id string) bool { return id != "" && id != "no id for a cache" }

// memoryBackup is a backup.
type memoryBackup struct {
	service
	*tiertest.MemoryBackup
}

func newMemoryBackup() *memoryBackup { return &memoryBackup{MemoryBackup: tiertest.NewBackup()} }

func (m *memoryBackup) Get(ctx context.Context, id string) (*tier.Record, error) {
	if err := m.call(); err != nil {
		return nil, err
	}
	return m.MemoryBackup.Get(ctx, id)
}

func (m *memoryBackup) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	if err := m.call(); err != nil {
		return err
	}
	return m.MemoryBackup.Update(ctx, ids, guess, f)
}

func (m *memoryBackup) ValidID(id string) bool { return id != "" && id != "no id for a backup" }

// A visitor makes requests that belong to no App Engine.
type visitor struct {
	store   *cascadestore.CascadeStore
	cookies []*http.Cookie
}

// use is browser.use.
func (v *visitor) use(f func(r *http.Request, s *sessions.Session)) error {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, c := range v.cookies {
		r.AddCookie(c)
	}
	s, err := v.store.Get(r, sessionName)
	if err != nil {
		return err
	}
	f(r, s)
	w := httptest.NewRecorder()
	err = s.Save(r, w)
	if c := w.Result().Cookies(); len(c) > 0 {
		v.cookies = c
	}
	return err
}

func (v *visitor) mustChange(t testing.TB, change values) {
	t.Helper()
	if err := v.use(func(_ *http.Request, s *sessions.Session) { set(s, change) }); err != nil {
		t.Error(err)
	}
}

func (v *visitor) expect(t testing.TB, want values) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, c := range v.cookies {
		r.AddCookie(c)
	}
	s, err := v.store.Get(r, sessionName)
	if err != nil || s.IsNew != (want == nil) || len(s.Values) != len(want) {
		t.Errorf("got %v, new=%v, %v; want %v", s.Values, s.IsNew, err, want)
	}
	for k, v := range want {
		if s.Values[k] != v {
			t.Errorf("%v: got %v, want %v", k, s.Values[k], v)
		}
	}
}

func TestSessionsLiveOnOtherServices(t *testing.T) {
	for name, withCache := range map[string]bool{"with a cache": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			fast, durable := newMemory(), newMemoryBackup()
			var cache tier.Cache = tier.None
			if withCache {
				cache = fast
			}
			store := cascadestore.NewTieredStore(cache, durable, hashKey, blockKey)
			store.Logger = new(logBuffer).logger()
			v := &visitor{store: store}
			v.mustChange(t, values{"n": 0})
			v.expect(t, values{"n": 0})
			other := &visitor{store, v.cookies}
			err := v.use(func(_ *http.Request, s *sessions.Session) {
				other.mustChange(t, values{"theirs": 1})
				s.Values["mine"] = 1
			})
			if err != nil {
				t.Error(err)
			}
			want := values{"n": 0, "theirs": 1, "mine": 1}
			v.expect(t, want)
			fast.Flush()
			v.expect(t, want)

			durable.calls = 0
			v.expect(t, want)
			reads := map[bool]int{true: 0, false: 1}[withCache]
			if durable.calls != reads {
				t.Errorf("a read asked the backup %d times, want %d", durable.calls, reads)
			}
			if !withCache && fast.calls > 0 {
				t.Errorf("%d calls of a cache that the store does not have", fast.calls)
			}

			durable.down = true
			err = v.use(func(_ *http.Request, s *sessions.Session) { s.Values["down"] = 1 })
			if !errors.Is(err, errDown) {
				t.Errorf("backup down: got %v, want its error", err)
			}
			durable.down = false
			if withCache {
				v.mustChange(t, values{"up": 1})
				v.expect(t, values{"n": 0, "theirs": 1, "mine": 1, "down": 1, "up": 1})
			}

			old := &visitor{store, v.cookies}
			if err := v.use(func(r *http.Request, s *sessions.Session) {
				if err := store.RegenerateID(r, s); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Error(err)
			}
			old.expect(t, nil)
			old = &visitor{store, v.cookies}
			if err := v.use(func(_ *http.Request, s *sessions.Session) { s.Options.MaxAge = -1 }); err != nil {
				t.Error(err)
			}
			old.expect(t, nil)
			fast.Flush()
			old.expect(t, nil)
		})
	}
}

func TestOtherServicesRejectIDsOfTheirOwn(t *testing.T) {
	fast, durable := newMemory(), newMemoryBackup()
	for id, stores := range map[string]map[tier.Cache]bool{ // whether the id is valid
		"no id for a cache":                  {fast: false, tier.None: true},
		"no id for a backup":                 {fast: false, tier.None: false},
		"a long id of 300 bytes" + text(300): {fast: true, tier.None: true}, // SetKeyPrefix and Memcache's limit are not for them
	} {
		for cache, valid := range stores {
			v := &visitor{store: cascadestore.NewTieredStore(cache, durable, hashKey)}
			v.store.Logger = new(logBuffer).logger()
			err := v.use(func(_ *http.Request, s *sessions.Session) { s.ID, s.Values["n"] = id, 1 })
			if (err == nil) != valid {
				t.Errorf("%.20s, cache %v: got %v, want valid: %v", id, cache == tier.None, err, valid)
			}
		}
	}
}

func TestAStoreNeedsItsServices(t *testing.T) {
	captureDefaultLog(t)
	expectUnusable(t, cascadestore.NewTieredStore(nil, newMemoryBackup(), hashKey), "no cache")
	expectUnusable(t, cascadestore.NewTieredStore(tier.None, nil, hashKey), "no backup")
	// All that is wrong is told.
	expectUnusable(t, cascadestore.NewTieredStore(nil, nil), "no cache", "no authentication key")
}
