package cascadestore_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// Sessions on other services than App Engine's.

// memory is a cache, and memoryBackup a backup, in the memory of this process.
type memory struct {
	mu    sync.Mutex
	items map[string]memoryItem
	calls int
	down  bool
	next  int // the next version
}

var errDown = errors.New("the service is down")

type memoryItem struct {
	tier.Item
	until time.Time
}

// enter begins a call, which leave ends.
func (m *memory) enter(ctx context.Context) (leave func(), err error) {
	m.mu.Lock()
	m.calls++
	if err = ctx.Err(); err == nil && m.down {
		err = errDown
	}
	return m.mu.Unlock, err
}

func (m *memory) store(id string, it tier.Item, ttl time.Duration) {
	if m.items == nil {
		m.items = map[string]memoryItem{}
	}
	m.next++
	it = tier.Item{Flags: it.Flags, Value: slices.Clone(it.Value), Token: m.next}
	m.items[id] = memoryItem{it, time.Now().Add(ttl)}
}

// at returns what is there, with bytes of its own.
func (m *memory) at(id string) (it tier.Item, ok bool) {
	kept, ok := m.items[id]
	if !ok || !time.Now().Before(kept.until) {
		return it, false
	}
	it = kept.Item
	it.Value = slices.Clone(it.Value)
	return it, true
}

func (m *memory) Get(ctx context.Context, id string) (*tier.Item, error) {
	leave, err := m.enter(ctx)
	defer leave()
	it, ok := m.at(id)
	if err != nil || !ok {
		return nil, err
	}
	return &it, nil
}

func (m *memory) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	leave, err := m.enter(ctx)
	defer leave()
	if err == nil {
		m.store(id, it, ttl)
	}
	return err
}

func (m *memory) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if _, ok := m.at(id); err != nil || ok {
		return false, err
	}
	m.store(id, it, ttl)
	return true, nil
}

func (m *memory) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	leave, err := m.enter(ctx)
	defer leave()
	now, ok := m.at(id)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return tier.Absent, nil
	case now.Token != old.Token:
		return tier.Conflict, nil
	}
	m.store(id, it, ttl)
	return tier.Stored, nil
}

func (m *memory) Fits(string, int) bool  { return true }
func (m *memory) ValidID(id string) bool { return id != "" && id != "no id for a cache" }

type memoryBackup struct {
	mu      sync.Mutex
	records map[string]tier.Record
	calls   int
	down    bool
}

func (m *memoryBackup) enter(ctx context.Context) (leave func(), err error) {
	m.mu.Lock()
	m.calls++
	if err = ctx.Err(); err == nil && m.down {
		err = errDown
	}
	return m.mu.Unlock, err
}

func (m *memoryBackup) store(id string, r tier.Record) {
	if m.records == nil {
		m.records = map[string]tier.Record{}
	}
	m.records[id] = tier.Record{Value: slices.Clone(r.Value), Expires: r.Expires.Truncate(time.Microsecond)}
}

func (m *memoryBackup) get(id string) *tier.Record {
	r, ok := m.records[id]
	if !ok {
		return nil
	}
	r.Value = slices.Clone(r.Value)
	return &r
}

func (m *memoryBackup) Get(ctx context.Context, id string) (*tier.Record, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return nil, err
	}
	return m.get(id), nil
}

func (m *memoryBackup) Put(ctx context.Context, id string, r tier.Record) error {
	leave, err := m.enter(ctx)
	defer leave()
	if err == nil {
		m.store(id, r)
	}
	return err
}

func (m *memoryBackup) Insert(ctx context.Context, id string, r tier.Record) error {
	leave, err := m.enter(ctx)
	defer leave()
	if err == nil && m.get(id) != nil {
		err = tier.ErrExists
	}
	if err == nil {
		m.store(id, r)
	}
	return err
}

func (m *memoryBackup) Update(ctx context.Context, id string, _ *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return err
	}
	next, err := f(m.get(id))
	if err == nil && next != nil {
		m.store(id, *next)
	}
	return err
}

func (m *memoryBackup) Fits(string, int) bool  { return true }
func (m *memoryBackup) ValidID(id string) bool { return id != "" && id != "no id for a backup" }

func TestTheServicesInMemoryKeepTheContract(t *testing.T) {
	t.Run("cache", func(t *testing.T) {
		t.Parallel()
		tiertest.TestCache(t, func(*testing.T) tier.Cache { return &memory{} })
	})
	t.Run("backup", func(t *testing.T) {
		t.Parallel()
		tiertest.TestBackup(t, func(*testing.T) tier.Backup { return &memoryBackup{} })
	})
}

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
			fast, durable := &memory{}, &memoryBackup{}
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
			fast.items = nil
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
			fast.items = nil
			old.expect(t, nil)
		})
	}
}

func TestOtherServicesRejectIDsOfTheirOwn(t *testing.T) {
	fast, durable := &memory{}, &memoryBackup{}
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
	expectUnusable(t, cascadestore.NewTieredStore(nil, &memoryBackup{}, hashKey), "no cache")
	expectUnusable(t, cascadestore.NewTieredStore(tier.None, nil, hashKey), "no backup")
	// All that is wrong is told.
	expectUnusable(t, cascadestore.NewTieredStore(nil, nil), "no cache", "no authentication key")
}
