package scsstore_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// Sessions on other services than App Engine's.

var errDown = errors.New("the service is down")

// A memory is a cache that takes no id with "cache" in it.
type memory struct{ *tiertest.MemoryCache }

func (m memory) ValidID(id string) bool {
	return m.MemoryCache.ValidID(id) && !strings.Contains(id, "cache")
}

// A memoryBackup is a backup that may be down, and takes no id with "backup" in it.
type memoryBackup struct {
	*tiertest.MemoryBackup
	gets int
	down bool
}

func (m *memoryBackup) ValidID(id string) bool {
	return m.MemoryBackup.ValidID(id) && !strings.Contains(id, "backup")
}

func (m *memoryBackup) Get(ctx context.Context, id string) (*tier.Record, error) {
	if m.gets++; m.down {
		return nil, errDown
	}
	return m.MemoryBackup.Get(ctx, id)
}

func (m *memoryBackup) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	if m.down {
		return errDown
	}
	return m.MemoryBackup.Update(ctx, ids, guess, f)
}

// A visitor makes requests that belong to no App Engine.
type visitor struct {
	t       testing.TB
	store   *scsstore.Store
	manager *scs.SessionManager
	token   string
}

func newVisitor(t testing.TB, store *scsstore.Store) *visitor {
	manager := *newManager
	manager.Store = store
	return &visitor{t: t, store: store, manager: &manager}
}

func (v *visitor) clone() *visitor {
	c := *v
	return &c
}

// use is browser.use.
func (v *visitor) use(f func(ctx context.Context)) (err error) {
	v.manager.ErrorFunc = func(_ http.ResponseWriter, _ *http.Request, e error) { err = errors.Join(err, e) }
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(&http.Cookie{Name: v.manager.Cookie.Name, Value: v.token})
	w := httptest.NewRecorder()
	v.store.Handler(v.manager, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { f(r.Context()) })).ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		v.token = c.Value
	}
	return err
}

func (v *visitor) mustChange(change values) {
	v.t.Helper()
	if err := v.use(func(ctx context.Context) { (&app{manager: v.manager}).set(ctx, change) }); err != nil {
		v.t.Error(err)
	}
}

func (v *visitor) expect(want values) {
	v.t.Helper()
	var got values
	err := v.use(func(ctx context.Context) { got = (&app{manager: v.manager}).seen(ctx) })
	if err != nil || len(got) != len(want) || (got == nil) != (want == nil) {
		v.t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for name, value := range want {
		if got[name] != value {
			v.t.Errorf("%s: got %v, want %v", name, got[name], value)
		}
	}
}

func TestSessionsLiveOnOtherServices(t *testing.T) {
	for name, withCache := range map[string]bool{"with a cache": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			fast, durable := memory{tiertest.NewCache()}, &memoryBackup{MemoryBackup: tiertest.NewBackup()}
			var cache tier.Cache = tier.None
			if withCache {
				cache = fast
			}
			var reported []error
			v := newVisitor(t, scsstore.New(cache, durable, &scsstore.Options{
				OnError: func(_ context.Context, err error) { reported = append(reported, err) },
			}))
			v.mustChange(values{"n": 0})
			v.expect(values{"n": 0})
			other := v.clone()
			err := v.use(func(ctx context.Context) {
				other.mustChange(values{"theirs": 1})
				v.manager.Put(ctx, "mine", 1)
			})
			if err != nil {
				t.Error(err)
			}
			want := values{"n": 0, "theirs": 1, "mine": 1}
			v.expect(want)
			fast.Flush()
			v.expect(want)

			durable.gets = 0
			v.expect(want)
			if want := map[bool]int{true: 0, false: 1}[withCache]; durable.gets != want {
				t.Errorf("a read asked the backup %d times, want %d", durable.gets, want)
			}

			err = v.use(func(ctx context.Context) {
				durable.down = true
				v.manager.Put(ctx, "down", 1)
			})
			durable.down = false
			if withCache {
				if err != nil || !errors.Is(errors.Join(reported...), scsstore.ErrNotBackedUp) {
					t.Errorf("backup down: got %v, and reported %v", err, reported)
				}
				v.mustChange(values{"up": 1})
				v.expect(values{"n": 0, "theirs": 1, "mine": 1, "down": 1, "up": 1})
			} else if !errors.Is(err, scsstore.ErrNotSaved) || !errors.Is(err, errDown) {
				t.Errorf("backup down: got %v, want ErrNotSaved", err)
			}

			old := v.clone()
			if err := v.use(func(ctx context.Context) {
				if err := v.manager.Destroy(ctx); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Error(err)
			}
			old.clone().expect(nil)
			fast.Flush()
			old.expect(nil)
		})
	}
}

func TestOtherServicesRejectIDsOfTheirOwn(t *testing.T) {
	fast, durable := memory{tiertest.NewCache()}, &memoryBackup{MemoryBackup: tiertest.NewBackup()}
	for token, stores := range map[string]map[tier.Cache]bool{ // whether the token is valid
		"no id for a cache":                  {fast: false, tier.None: true},
		"no id for a backup":                 {fast: false, tier.None: false},
		"a long id of 300 bytes" + text(300): {fast: true, tier.None: true}, // Memcache's limit is not for them
	} {
		for cache, valid := range stores {
			store := scsstore.New(cache, durable, nil)
			err := store.CommitCtx(context.Background(), token, encoded(t, later(), values{"n": 1}), later())
			if valid != (err == nil) || !valid && !errors.Is(err, scsstore.ErrInvalidID) {
				t.Errorf("%.20s, cache %v: got %v, want valid: %v", token, cache == tier.None, err, valid)
			}
			if _, found, err := store.FindCtx(context.Background(), token); err != nil || found != valid {
				t.Errorf("%.20s, cache %v: found %v, %v", token, cache == tier.None, found, err)
			}
		}
	}
}
