package tiered_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

// A cache and a backup in memory, whose calls a test may hold, fail and count.
// A value is a list of words, each with a first letter that names what it is of:
// "a1 b2"; so it is plain in a test what a merge does.

const id = "id"

// A call is told to a test before it is made, and again after it, with done set.
// An error then is the call's answer; before, the call is not made.
type call struct {
	op   string // cache.get, cache.set, cache.add, cache.swap, cache.delete, backup.get, backup.put, backup.begin, backup.commit
	done bool
}

type services struct {
	mu      sync.Mutex
	version int
	item    *tiered.Item // Token: version
	record  *tiered.Record
	changes int // of the record
	calls   []string
	ttl     time.Duration // of the item
	limit   int           // bytes of an item; 0: none
	large   int           // bytes of a record; 0: none

	on func(ctx context.Context, c call) error
}

var errDown = errors.New("service is down")

// call makes a call.
func (s *services) call(ctx context.Context, op string, f func() error) error {
	s.mu.Lock()
	s.calls = append(s.calls, op)
	on := s.on
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if on != nil {
		if err := on(ctx, call{op, false}); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if on != nil {
		if derr := on(ctx, call{op, true}); derr != nil {
			return derr
		}
	}
	return err
}

func (s *services) set(it tiered.Item, ttl time.Duration) error {
	if s.limit > 0 && len(it.Value) > s.limit {
		return tiered.ErrTooLarge
	}
	s.version++
	s.item, s.ttl = &tiered.Item{Flags: it.Flags, Value: append([]byte(nil), it.Value...), Token: s.version}, ttl
	return nil
}

func (s *services) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.item = nil
}

// backedUp is what the backup holds; "-": nothing.
func (s *services) backedUp() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record == nil {
		return "-"
	}
	return string(s.record.Value)
}

func (s *services) hook(on func(ctx context.Context, c call) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on, s.calls = on, nil
}

func (s *services) count(op string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if strings.HasPrefix(c, op) {
			n++
		}
	}
	return n
}

type cache struct{ *services }

func (c cache) Get(ctx context.Context, _ string) (it *tiered.Item, err error) {
	err = c.call(ctx, "cache.get", func() error {
		if c.item != nil {
			copied := *c.item
			it = &copied
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return it, nil
}

func (c cache) Set(ctx context.Context, _ string, it tiered.Item, ttl time.Duration) error {
	return c.call(ctx, "cache.set", func() error { return c.set(it, ttl) })
}

func (c cache) Add(ctx context.Context, _ string, it tiered.Item, ttl time.Duration) (added bool, err error) {
	err = c.call(ctx, "cache.add", func() error {
		if c.item != nil {
			return nil
		}
		added = true
		return c.set(it, ttl)
	})
	return added && err == nil, err
}

func (c cache) CompareAndSwap(ctx context.Context, _ string, old *tiered.Item, it tiered.Item, ttl time.Duration) (out tiered.Outcome, err error) {
	err = c.call(ctx, "cache.swap", func() error {
		switch {
		case c.item == nil:
			out = tiered.Absent
		case c.item.Token != old.Token:
			out = tiered.Conflict
		default:
			return c.set(it, ttl)
		}
		return nil
	})
	return out, err
}

func (c cache) Delete(ctx context.Context, _ string) error {
	return c.call(ctx, "cache.delete", func() error { c.item = nil; return nil })
}

func (c cache) Fits(_ string, size int) bool { return c.limit == 0 || size <= c.limit }

type backup struct{ *services }

func (b backup) Get(ctx context.Context, _ string) (r *tiered.Record, err error) {
	err = b.call(ctx, "backup.get", func() error { r = b.current(); return nil })
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (b backup) current() *tiered.Record {
	if b.record == nil {
		return nil
	}
	copied := *b.record
	return &copied
}

func (b backup) put(r tiered.Record) error {
	if !b.Fits("", len(r.Value)) {
		return tiered.ErrTooLarge
	}
	b.record = &r
	b.changes++
	return nil
}

func (b backup) Put(ctx context.Context, _ string, r tiered.Record) error {
	return b.call(ctx, "backup.put", func() error { return b.put(r) })
}

func (b backup) Transact(ctx context.Context, _ string, f func(*tiered.Record) (*tiered.Record, error)) error {
	var current *tiered.Record
	var seen int
	if err := b.call(ctx, "backup.begin", func() error { current, seen = b.current(), b.changes; return nil }); err != nil {
		return err
	}
	next, err := f(current)
	if err != nil || next == nil {
		return err
	}
	return b.call(ctx, "backup.commit", func() error {
		if b.changes != seen {
			return tiered.ErrContention
		}
		return b.put(*next)
	})
}

func (b backup) Fits(_ string, size int) bool { return b.large == 0 || size <= b.large }

// newStore returns a store on services of its own.
func newStore() (*tiered.Store, *services) {
	s := &services{}
	return &tiered.Store{Cache: cache{s}, Backup: backup{s}, Merge: merge, Retries: 2}, s
}

func words(v []byte) map[string]string {
	m := map[string]string{}
	for _, w := range strings.Fields(string(v)) {
		m[w[:1]] = w[1:]
	}
	return m
}

var errNoMerge = errors.New("values that do not merge")

func merge(base, mine, theirs []byte) (tiered.Record, error) {
	if strings.Contains(string(mine), "!") || strings.Contains(string(theirs), "!") {
		return tiered.Record{}, errNoMerge
	}
	was, m, merged := words(base), words(mine), words(theirs)
	for k, v := range m {
		if old, ok := was[k]; !ok || old != v {
			merged[k] = v
		}
	}
	for k := range was {
		if _, ok := m[k]; !ok {
			delete(merged, k)
		}
	}
	return record(text(merged)), nil
}

// text is the value with these words.
func text(m map[string]string) string {
	var b []string
	for _, k := range sorted(m) {
		b = append(b, k+m[k])
	}
	return strings.Join(b, " ")
}

func sorted(m map[string]string) (keys []string) {
	for c := 'a'; c <= 'z'; c++ {
		if _, ok := m[string(c)]; ok {
			keys = append(keys, string(c))
		}
	}
	return keys
}

func record(value string) tiered.Record {
	return tiered.Record{Value: []byte(value), Expires: time.Now().Add(time.Hour)}
}

func ctx() context.Context { return context.Background() }

// created returns a store in which a session was saved.
func created(t *testing.T, value string) (*tiered.Store, *services) {
	t.Helper()
	st, s := newStore()
	if err := st.Create(ctx(), id, record(value)); err != nil {
		t.Fatal(err)
	}
	return st, s
}

// load is Load in a test that needs a session.
func load(t *testing.T, st *tiered.Store) *tiered.Loaded {
	t.Helper()
	l, err := st.Load(ctx(), id)
	if err != nil || l == nil {
		t.Fatalf("Load: got %v, %v", l, err)
	}
	return l
}

// see is what Load finds; "-": nothing.
func see(t *testing.T, st *tiered.Store) string {
	t.Helper()
	l, err := st.Load(ctx(), id)
	if err != nil {
		t.Errorf("Load: %v", err)
	}
	if l == nil {
		return "-"
	}
	return string(l.Value)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// expectKept expects the session now, in the backup, and after a flush.
func expectKept(t *testing.T, st *tiered.Store, s *services, want string) {
	t.Helper()
	expect(t, "now", see(t, st), want)
	expect(t, "in the backup", s.backedUp(), want)
	s.flush()
	expect(t, "after a flush", see(t, st), want)
}

// down makes the calls fail whose names begin so.
func down(ops ...string) func(context.Context, call) error {
	return func(_ context.Context, c call) error {
		for _, op := range ops {
			if strings.HasPrefix(c.op, op) && !c.done {
				return errDown
			}
		}
		return nil
	}
}

// at runs f once, before the n-th call of that name or, with done, after it.
func at(op string, done bool, n int, f func()) func(context.Context, call) error {
	var mu sync.Mutex
	return func(_ context.Context, c call) error {
		mu.Lock()
		hit := c.op == op && c.done == done
		if hit {
			n--
		}
		run := hit && n == 0
		mu.Unlock()
		if run {
			f()
		}
		return nil
	}
}

// locked starts a change and holds it when its lock is put and the backup has
// been read, before the commit; release lets it go on and returns its error.
func locked(t *testing.T, st *tiered.Store, s *services, mine string) (release func() error) {
	t.Helper()
	arrived, goOn := make(chan bool), make(chan bool)
	l := load(t, st)
	s.hook(at("backup.commit", false, 1, func() { close(arrived); <-goOn }))
	ended := make(chan error, 1)
	go func() { ended <- st.Update(ctx(), id, l, record(mine)) }()
	<-arrived
	s.hook(nil)
	return func() error { close(goOn); return <-ended }
}

// dead leaves what a change leaves whose process died after its commit: its lock.
func dead(t *testing.T, st *tiered.Store, s *services, mine string) {
	t.Helper()
	l := load(t, st)
	dying, die := context.WithCancel(ctx())
	s.hook(func(_ context.Context, c call) error {
		if c.op == "backup.commit" && c.done {
			die()
			s.hook(down("cache", "backup"))
		}
		return nil
	})
	if err := st.Update(dying, id, l, record(mine)); err == nil {
		t.Fatal("the change ended")
	}
	s.hook(nil)
}
