//go:build go1.25

package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// Services in memory whose calls a test may fail, count and wait for; and
// requests with a session each, which is JSON.

const (
	id      = "id"
	timeout = 30 * time.Minute
)

var errDown = errors.New("service is down")

type services struct {
	cache  *tiertest.MemoryCache
	backup *tiertest.MemoryBackup

	mu    sync.Mutex
	hooks []func(op, id string, done bool) error
	calls []string
}

func newServices() *services {
	return &services{cache: tiertest.NewCache(), backup: tiertest.NewBackup()}
}

func (s *services) hook(h func(op, id string, done bool) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(s.hooks, h)
}

// fail makes calls fail whose names begin so.
func (s *services) fail(ops ...string) {
	s.hook(func(op, _ string, done bool) error {
		if !done && slices.ContainsFunc(ops, func(o string) bool { return strings.HasPrefix(op, o) }) {
			return errDown
		}
		return nil
	})
}

// lose makes the next call of that name succeed and report a failure, and all
// calls of the service fail from then on.
func (s *services) lose(lost string) {
	met := false
	s.hook(func(op, _ string, done bool) error {
		if s.mu.Lock(); op == lost && done {
			met = true
		}
		down := met && strings.HasPrefix(op, strings.Split(lost, ".")[0])
		if s.mu.Unlock(); down {
			return errDown
		}
		return nil
	})
}

// well makes everything answer again.
func (s *services) well() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = nil
}

func (s *services) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (s *services) forgetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

func (s *services) tell(op, id string, done bool) error {
	s.mu.Lock()
	if !done {
		s.calls = append(s.calls, op)
	}
	hooks := slices.Clone(s.hooks)
	s.mu.Unlock()
	for _, h := range hooks {
		if err := h(op, id, done); err != nil {
			return err
		}
	}
	return nil
}

func call[T any](s *services, op, id string, f func() (T, error)) (v T, err error) {
	if err = s.tell(op, id, false); err != nil {
		return v, err
	}
	if v, err = f(); err != nil {
		return v, err
	}
	if err = s.tell(op, id, true); err != nil {
		var none T
		return none, err
	}
	return v, nil
}

type cache struct {
	*tiertest.MemoryCache
	s *services
}

func (c cache) Get(ctx context.Context, id string) (*tier.Item, error) {
	return call(c.s, "cache.get", id, func() (*tier.Item, error) { return c.MemoryCache.Get(ctx, id) })
}

func (c cache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	_, err := call(c.s, "cache.set", id, func() (struct{}, error) { return struct{}{}, c.MemoryCache.Set(ctx, id, it, ttl) })
	return err
}

func (c cache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	return call(c.s, "cache.add", id, func() (bool, error) { return c.MemoryCache.Add(ctx, id, it, ttl) })
}

func (c cache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	return call(c.s, "cache.swap", id, func() (tier.Outcome, error) { return c.MemoryCache.CompareAndSwap(ctx, id, old, it, ttl) })
}

type backup struct {
	*tiertest.MemoryBackup
	s *services
}

func (b backup) Get(ctx context.Context, id string) (*tier.Record, error) {
	return call(b.s, "backup.get", id, func() (*tier.Record, error) { return b.MemoryBackup.Get(ctx, id) })
}

func (b backup) Put(ctx context.Context, id string, r tier.Record) error {
	_, err := call(b.s, "backup.put", id, func() (struct{}, error) { return struct{}{}, b.MemoryBackup.Put(ctx, id, r) })
	return err
}

func (b backup) Insert(ctx context.Context, id string, r tier.Record) error {
	_, err := call(b.s, "backup.insert", id, func() (struct{}, error) { return struct{}{}, b.MemoryBackup.Insert(ctx, id, r) })
	return err
}

func (b backup) Update(ctx context.Context, ids []string, g *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	_, err := call(b.s, "backup.update", ids[0], func() (struct{}, error) {
		return struct{}{}, b.MemoryBackup.Update(ctx, ids, g, f)
	})
	return err
}

// The form of a session: its id and its attributes.

type session struct {
	ID    string
	Attrs map[string]any
}

var errUnreadable = errors.New("nobody can read this")

func parse(value []byte) (s session, err error) {
	if strings.Contains(string(value), "unreadable") {
		return s, errUnreadable
	}
	err = json.Unmarshal(value, &s)
	return s, err
}

type jsonForm struct{}

func (jsonForm) Inspect(value []byte) (Info, error) {
	s, err := parse(value)
	return Info{Names: slices.Collect(maps.Keys(s.Attrs))}, err
}

func (jsonForm) Merge(into, from []byte, take func(string) bool) ([]byte, error) {
	a, aerr := parse(into)
	b, berr := parse(from)
	if err := errors.Join(aerr, berr); err != nil {
		return nil, err
	}
	maps.DeleteFunc(a.Attrs, func(name string, _ any) bool { return take(name) })
	for name, v := range b.Attrs {
		if take(name) {
			a.Attrs[name] = v
		}
	}
	return json.Marshal(a)
}

func (jsonForm) Rename(value []byte, id string) ([]byte, error) {
	s, err := parse(value)
	if err != nil {
		return nil, err
	}
	s.ID = id
	return json.Marshal(s)
}

func (jsonForm) Attributes(value []byte) (map[string]any, error) {
	s, err := parse(value)
	return s.Attrs, err
}

// Requests.

// A user is a request that uses a session.
type user struct {
	t     *testing.T
	s     *services
	store *Store
	ctx   context.Context
	copy  *Copy
	attrs map[string]any
	idle  time.Duration
	born  time.Time
	max   *int32
	ahead time.Duration // of the clock
}

// options are all that a Store has.
type options struct {
	Tiers
	Options
}

func (s *services) options() options {
	return options{Tiers{
		Cache: cache{s.cache, s}, Backup: backup{s.backup, s}, Retries: 1,
		Report: func(string, error) {}, Shared: func(context.Context, tier.Cache, tier.Backup) any { return s },
	}, Options{Form: jsonForm{}}}
}

// request is a request with a copy of the session of that id.
func (s *services) request(t *testing.T, edit func(o *options)) *user {
	t.Helper()
	o := s.options()
	if edit != nil {
		edit(&o)
	}
	u := &user{t: t, s: s, store: New(o.Tiers, o.Options), ctx: context.Background(), idle: timeout, attrs: map[string]any{}}
	u.copy = u.store.Copy(id)
	return u
}

// with is the same request with another copy.
func (u *user) with(c *Copy) *user {
	n := *u
	n.copy, n.attrs = c, maps.Clone(u.attrs)
	return &n
}

func (u *user) open() error {
	return u.copy.Open(u.ctx, func(value []byte) (map[string]any, error) {
		s, err := parse(value)
		if err != nil {
			return nil, err
		}
		u.attrs = s.Attrs
		if exact(s.Attrs) {
			return maps.Clone(s.Attrs), nil
		}
		return nil, nil
	})
}

// exact reports whether no attribute can be changed in place.
func exact(attrs map[string]any) bool {
	for _, v := range attrs {
		switch v.(type) {
		case string, float64, bool, nil:
		default:
			return false
		}
	}
	return true
}

func (u *user) draft() Draft {
	return Draft{
		Encode: func(id string, worth func(map[string]any) bool) ([]byte, map[string]any, error) {
			attrs := maps.Clone(u.attrs)
			if !worth(attrs) {
				return nil, nil, nil
			}
			value, err := json.Marshal(session{id, attrs})
			if err == nil && !exact(attrs) {
				attrs = nil
			}
			return value, attrs, err
		},
		Lifetime: Lifetime{Used: time.Now().Add(u.ahead), Idle: u.idle, Refresh: u.idle / 10, Born: u.born},
		MaxAge:   u.max,
		Adopt: func(value []byte) error {
			s, err := parse(value)
			u.attrs = s.Attrs
			return err
		},
	}
}

// close saves as a Close does, which does not try again what has failed.
func (u *user) close() error { return u.copy.Save(u.ctx, u.draft()) }

// save saves as the app's Save does, which tries again.
func (u *user) save() error {
	d := u.draft()
	d.Again = true
	return u.copy.Save(u.ctx, d)
}

// set changes "a=1", and deletes "-b".
func (u *user) set(edits string) *user {
	for _, e := range strings.Fields(edits) {
		if name, ok := strings.CutPrefix(e, "-"); ok {
			delete(u.attrs, name)
			continue
		}
		name, v, _ := strings.Cut(e, "=")
		u.attrs[name] = v
	}
	return u
}

// opened is a request that has opened the session.
func (s *services) opened(t *testing.T) *user {
	t.Helper()
	u := s.request(t, nil)
	must(t, u.open())
	if !u.copy.Exists() {
		t.Fatal("there is no session")
	}
	return u
}

// created is a session.
func created(t *testing.T, edits string) *services {
	t.Helper()
	s := newServices()
	u := s.request(t, nil)
	must(t, u.copy.Add(true))
	must(t, u.set(edits).close())
	s.forgetCalls()
	return s
}

// What tests look at.

// kept is what the backup has; "-": nothing.
func (s *services) kept(id string) string {
	r, err := s.backup.Get(context.Background(), id)
	switch {
	case err != nil:
		return err.Error()
	case r == nil:
		return "-"
	case len(r.Value) == 0:
		return "removed"
	}
	var v session
	if err := json.NewDecoder(strings.NewReader(string(r.Value))).Decode(&v); err != nil {
		return err.Error()
	}
	return shown(v.Attrs)
}

func shown(attrs map[string]any) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		all = append(all, fmt.Sprintf("%s=%v", name, attrs[name]))
	}
	return strings.Join(all, " ")
}

// seen is what another request sees.
func (s *services) seen(t *testing.T, id string) string {
	t.Helper()
	u := s.request(t, nil)
	u.copy = u.store.Copy(id)
	if err := u.open(); err != nil {
		t.Errorf("open: %v", err)
	}
	if !u.copy.Exists() {
		return "-"
	}
	return shown(u.attrs)
}

// expectKept expects the session now, in the backup, and after a flush.
func (s *services) expectKept(t *testing.T, id, want string) {
	t.Helper()
	drain(t)
	expect(t, "now", s.seen(t, id), want)
	s.cache.Flush()
	expect(t, "after a flush", s.seen(t, id), want)
}

// about says what the request knows.
func (u *user) about() string {
	var all []string
	for name, is := range map[string]bool{
		"exists": u.copy.Exists(), "is removed": u.copy.IsRemoved(), "is stored": u.copy.IsStored(), "error": u.copy.Err() != nil,
	} {
		if is {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func expectErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	must(t, Drain(ctx))
}

// bubble runs a test in simulated time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t)
		drain(t)
	})
}
