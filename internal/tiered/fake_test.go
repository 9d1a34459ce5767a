//go:build go1.25

package tiered

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A cache and a backup in memory, whose calls a test may hold, fail, count and
// time; and requests that make them. A session is a list of words: "a=1 b=2".

const (
	id      = "id"
	timeout = 30 * time.Minute // of the sessions
)

var (
	errDown = errors.New("service is down")
	errDied = errors.New("the request has died")
	errLost = errors.New("the answer is lost")
)

// A call is told to a test before it is made, and again after it, with done
// set. An error then is the call's answer; before, the call is not made.
type step struct {
	who  string // the request's name
	op   string // cache.get, backup.commit, ...
	done bool
}

type hook func(c step) error

type services struct {
	mu       sync.Mutex
	version  int
	item     *tier.Item // Token: version
	itemEnds time.Time
	record   *tier.Record // Token: version, where the backup has tokens
	changes  int          // of the record
	calls    []string
	hooks    []hook
	reports  []error

	tokens  bool // the backup has them, and conditional inserts
	fits    int  // bytes of an item; 0: any
	large   int  // bytes of a record; 0: any
	latency map[string]time.Duration
}

type whoKey struct{}

// call makes a call.
func (s *services) call(ctx context.Context, op string, f func() error) error {
	who, _ := ctx.Value(whoKey{}).(string)
	s.mu.Lock()
	s.calls = append(s.calls, op)
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if d := s.latency[op]; d > 0 {
		time.Sleep(d)
	}
	if err := s.tell(step{who, op, false}); err != nil {
		return err
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if derr := s.tell(step{who, op, true}); derr != nil {
		return derr
	}
	return err
}

func (s *services) tell(c step) error {
	s.mu.Lock()
	hooks := slices.Clone(s.hooks)
	s.mu.Unlock()
	var err error
	for _, h := range hooks {
		if herr := h(c); err == nil {
			err = herr
		}
	}
	return err
}

func (s *services) hook(h hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(s.hooks, h)
}

// well makes everything answer again.
func (s *services) well() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = nil
}

// fail makes the calls of a request (empty: of all) fail whose names begin so.
func (s *services) fail(who string, ops ...string) {
	s.hook(func(c step) error {
		if !c.done && (who == "" || c.who == who) && slices.ContainsFunc(ops, func(op string) bool { return strings.HasPrefix(c.op, op) }) {
			return errDown
		}
		return nil
	})
}

// at runs f at the next call of that name by a request, before or after it.
func (s *services) at(who, op string, done bool, f func() error) {
	var met atomic.Bool
	s.hook(func(c step) error {
		if c.op == op && c.who == who && c.done == done && !met.Swap(true) {
			return f()
		}
		return nil
	})
}

func before(f func()) func() error { return func() error { f(); return nil } }

// lose makes the next call of that name succeed and report a failure.
func (s *services) lose(who, op string) {
	s.at(who, op, true, func() error { return errLost })
}

// hold holds a request at its next call of that name. The function that it
// returns waits until it is held; the one that returns lets it go on.
func (s *services) hold(who, op string, done bool) (release func()) {
	goOn := make(chan bool)
	s.at(who, op, done, before(func() { <-goOn }))
	return func() { close(goOn); synctest.Wait() }
}

// die ends a request at its next call of that name: it makes no call any more,
// not in the background either.
func (s *services) die(who, op string, done bool) {
	var dead sync.Map
	s.hook(func(c step) error {
		if c.who != who {
			return nil
		}
		if c.op == op && c.done == done {
			dead.Store(who, true)
		}
		if _, ok := dead.Load(who); ok {
			return errDied
		}
		return nil
	})
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

func (s *services) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.item = nil
}

// purge deletes the record.
func (s *services) purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = nil
	s.changes++
}

func (s *services) keepItem(it tier.Item, ttl time.Duration) {
	s.version++
	s.item = &tier.Item{Flags: it.Flags, Value: bytes.Clone(it.Value), Token: s.version}
	if s.itemEnds = time.Now().Add(ttl); ttl <= 0 {
		s.item = nil
	}
}

// current is the item that has not expired.
func (s *services) current() *tier.Item {
	if s.item != nil && !time.Now().Before(s.itemEnds) {
		s.item = nil
	}
	return s.item
}

type cache struct{ *services }

func (c cache) Get(ctx context.Context, _ string) (it *tier.Item, err error) {
	err = c.call(ctx, "cache.get", func() error {
		if now := c.current(); now != nil {
			it = &tier.Item{Flags: now.Flags, Value: bytes.Clone(now.Value), Token: now.Token}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return it, nil
}

func (c cache) Set(ctx context.Context, _ string, it tier.Item, ttl time.Duration) error {
	return c.call(ctx, "cache.set", func() error { c.keepItem(it, ttl); return nil })
}

func (c cache) Add(ctx context.Context, _ string, it tier.Item, ttl time.Duration) (added bool, err error) {
	err = c.call(ctx, "cache.add", func() error {
		if added = c.current() == nil; added {
			c.keepItem(it, ttl)
		}
		return nil
	})
	return added && err == nil, err
}

func (c cache) CompareAndSwap(ctx context.Context, _ string, old *tier.Item, it tier.Item, ttl time.Duration) (out tier.Outcome, err error) {
	err = c.call(ctx, "cache.swap", func() error {
		switch now := c.current(); {
		case now == nil:
			out = tier.Absent
		case now.Token != old.Token:
			out = tier.Conflict
		default:
			c.keepItem(it, ttl)
		}
		return nil
	})
	return out, err
}

func (c cache) Fits(_ string, size int) bool { return c.fits == 0 || size <= c.fits }
func (c cache) ValidID(string) bool          { return true }

type backup struct{ *services }

func (b backup) now() *tier.Record {
	if b.record == nil {
		return nil
	}
	r := *b.record
	r.Value = bytes.Clone(r.Value)
	return &r
}

func (b backup) put(r *tier.Record) {
	b.changes++
	b.record = &tier.Record{Value: bytes.Clone(r.Value), Expires: r.Expires.Truncate(time.Microsecond)}
	if b.tokens {
		b.record.Token = []byte(strconv.Itoa(b.changes))
		r.Token = b.record.Token
	}
}

func (b backup) Get(ctx context.Context, _ string) (r *tier.Record, err error) {
	err = b.call(ctx, "backup.get", func() error { r = b.now(); return nil })
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (b backup) Put(ctx context.Context, _ string, r tier.Record) error {
	return b.call(ctx, "backup.put", func() error { b.services.backup().put(&r); return nil })
}

func (b backup) Insert(ctx context.Context, _ string, r tier.Record) error {
	return b.call(ctx, "backup.put", func() error {
		if b.tokens && b.record != nil {
			return tier.ErrExists
		}
		b.put(&r)
		return nil
	})
}

func (s *services) backup() backup { return backup{s} }

func (b backup) Update(ctx context.Context, _ string, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	if b.tokens {
		return b.compareAndPut(ctx, known, f)
	}
	return b.transact(ctx, known, f)
}

// transact is an update as App Engine's Datastore makes it: a put beside the
// read, of which the last one counts.
func (b backup) transact(ctx context.Context, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	var seen int
	if err := b.call(ctx, "backup.begin", func() error { seen = b.changes; return nil }); err != nil {
		return err
	}
	put := func() error { return b.call(ctx, "backup.txput", func() error { return nil }) }
	var next *tier.Record
	if known != nil {
		var err error
		if next, err = f(known); err != nil {
			next, known = nil, nil
		}
	}
	early := next
	var current *tier.Record
	perr, err := both(
		func() error {
			if early == nil {
				return nil
			}
			return put()
		},
		func() error {
			return b.call(ctx, "backup.txget", func() error { current = b.now(); return nil })
		})
	if err = errors.Join(perr, err); err != nil {
		return err
	}
	if known == nil || current == nil || !bytes.Equal(current.Value, known.Value) || !current.Expires.Equal(known.Expires) {
		if next, err = f(current); err != nil || next == nil {
			return err
		}
		if err := put(); err != nil {
			return err
		}
	}
	if next == nil {
		return nil
	}
	return b.call(ctx, "backup.commit", func() error {
		if b.changes != seen {
			return tier.ErrContention
		}
		b.put(next)
		return nil
	})
}

// compareAndPut is an update as a service with versions makes it.
func (b backup) compareAndPut(ctx context.Context, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	current := known
	if known == nil || len(known.Token) == 0 {
		var err error
		if current, err = b.Get(ctx, id); err != nil {
			return err
		}
	}
	for range 8 {
		next, err := f(current)
		if err != nil && current == known && known != nil {
			next = nil // what is there decides
		} else if err != nil {
			return err
		}
		if next == nil {
			// Nothing to write, if that is what is there.
			there, gerr := b.Get(ctx, id)
			switch {
			case gerr != nil:
				return gerr
			case err == nil && sameVersion(there, current):
				return nil
			}
			current = there
			if next, err = f(current); err != nil || next == nil {
				return err
			}
		}
		stored := false
		err = b.call(ctx, "backup.commit", func() error {
			if stored = sameVersion(b.record, current); stored {
				b.put(next)
			}
			return nil
		})
		if err != nil || stored {
			return err
		}
		if current, err = b.Get(ctx, id); err != nil {
			return err
		}
	}
	return tier.ErrContention
}

func sameVersion(a, b *tier.Record) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return bytes.Equal(a.Token, b.Token)
}

func (b backup) Fits(_ string, size int) bool { return b.large == 0 || size <= b.large }
func (b backup) ValidID(string) bool          { return true }

// The session's format. "@=" says when the session was last used; only sessions
// without a trailer have it here.

func words(v []byte) map[string]string {
	m := make(map[string]string)
	for _, w := range strings.Fields(string(v)) {
		name, val, _ := strings.Cut(w, "=")
		m[name] = val
	}
	return m
}

func text(m map[string]string) []byte {
	var ws []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		ws = append(ws, name+"="+m[name])
	}
	if len(ws) == 0 {
		return []byte(" ") // a session without attributes is not an empty record
	}
	return []byte(strings.Join(ws, " "))
}

var errUnreadable = errors.New("a session that nobody can read")

func mergeWords(into, from []byte, take func(string) bool) ([]byte, error) {
	if bytes.Contains(into, []byte("!")) || bytes.Contains(from, []byte("!")) {
		return nil, errUnreadable
	}
	m, other := words(into), words(from)
	used := max(m["@"], other["@"])
	maps.DeleteFunc(m, func(name, _ string) bool { return take(name) })
	for name, val := range other {
		if take(name) {
			m[name] = val
		}
	}
	if delete(m, "@"); used != "" {
		m["@"] = used
	}
	return text(m), nil
}

func inspectWords(v []byte) (Info, error) {
	if bytes.Contains(v, []byte("!")) {
		return Info{}, errUnreadable
	}
	var info Info
	for name, val := range words(v) {
		if name != "@" {
			info.Names = append(info.Names, name)
			continue
		}
		us, err := strconv.ParseInt(val, 10, 64)
		if err != nil {
			return Info{}, err
		}
		info.Used = time.UnixMicro(us)
		info.Ends = info.Used.Add(timeout)
	}
	return info, nil
}

// old is a session as icza/gaesession writes it.
func old(ws string, used time.Time) []byte {
	m := words([]byte(ws))
	m["@"] = strconv.FormatInt(used.UnixMicro(), 10)
	return text(m)
}

// putOldItem puts an item as a library without trailers does.
func (s *services) putOldItem(v []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepItem(tier.Item{Value: v}, timeout)
}

func (s *services) putOldRecord(v []byte, ends time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backup().put(&tier.Record{Value: v, Expires: ends})
}

// Requests.

// A request has a store of its own, and the session as it has loaded it.
type request struct {
	t   *testing.T
	s   *services
	st  *Store
	ctx context.Context
	l   *Loaded
}

func (s *services) store() *Store {
	return &Store{
		Cache: cache{s}, Backup: backup{s}, Retries: 2,
		Inspect: inspectWords, Merge: mergeWords,
		Report: func(_ string, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reports = append(s.reports, err)
		},
	}
}

func (s *services) request(t *testing.T, who string) *request {
	return &request{t: t, s: s, st: s.store(), ctx: context.WithValue(context.Background(), whoKey{}, who)}
}

// opened is a request that has loaded the session.
func (s *services) opened(t *testing.T, who string) *request {
	t.Helper()
	r := s.request(t, who)
	r.load()
	return r
}

func (r *request) load() *request {
	r.t.Helper()
	l, err := r.st.Load(r.ctx, id)
	if err != nil || l == nil {
		r.t.Fatalf("Load: got %v, %v; want a session", l, err)
	}
	r.l = l
	return r
}

// see is what a load finds; "-": nothing.
func (r *request) see() string {
	r.t.Helper()
	l, err := r.st.Load(r.ctx, id)
	if err != nil {
		r.t.Errorf("Load: %v", err)
	}
	if l == nil {
		return "-"
	}
	return shown(l.Value())
}

func shown(v []byte) string {
	m := words(v)
	delete(m, "@")
	return strings.TrimSpace(string(text(m)))
}

// change is the request's session with "a=1" set and "-b" deleted.
func (r *request) change(edits string) Change {
	m := map[string]string{}
	if r.l != nil {
		m = words(r.l.Value())
	}
	c := Change{Used: time.Now(), Ends: time.Now().Add(timeout)}
	for _, e := range strings.Fields(edits) {
		if name, ok := strings.CutPrefix(e, "-"); ok {
			delete(m, name)
			c.Deleted = append(c.Deleted, name)
			continue
		}
		name, val, _ := strings.Cut(e, "=")
		m[name] = val
		c.Set = append(c.Set, name)
	}
	if _, ok := m["@"]; ok {
		m["@"] = strconv.FormatInt(c.Used.UnixMicro(), 10)
	}
	c.Value = text(m)
	return c
}

func (r *request) create(edits string) error {
	l, err := r.st.Create(r.ctx, id, r.change(edits))
	if err == nil {
		r.l = l
	}
	return err
}

func (r *request) update(edits string) error {
	l, err := r.st.Update(r.ctx, id, r.l, r.change(edits))
	if err == nil {
		r.l = l
	}
	return err
}

func (r *request) updateAsync(edits string) error {
	l, err := r.st.UpdateAsync(r.ctx, id, r.l, r.change(edits))
	if err == nil {
		r.l = l
	}
	return err
}

func (r *request) settle() error { return r.st.Settle(r.ctx, id, r.l) }
func (r *request) remove() error { return r.st.Remove(r.ctx, id, r.l) }

func (r *request) take(edits string) (string, error) {
	v, err := r.st.Take(r.ctx, id, r.l, r.change(edits))
	if v == nil {
		return "-", err
	}
	return shown(v), err
}

// started runs f beside the test and returns a function that waits for it.
func started(f func() error) (ended func() error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	synctest.Wait()
	return func() error { return <-done }
}

// created is a session that a request has created.
func created(t *testing.T, ws string) *services {
	t.Helper()
	s := &services{}
	must(t, s.request(t, "creator").create(ws))
	s.forgetCalls()
	return s
}

func createdWithTokens(t *testing.T, ws string) *services {
	t.Helper()
	s := &services{tokens: true}
	must(t, s.request(t, "creator").create(ws))
	s.forgetCalls()
	return s
}

// What tests look at.

// cached says what the cache has: the session, in front of it its marks.
func (s *services) cached() string {
	s.mu.Lock()
	raw := s.current()
	s.mu.Unlock()
	if raw == nil {
		return "-"
	}
	it := s.store().decodeItem(raw)
	switch it.kind {
	case lease:
		return "lease"
	case removed:
		return "removed"
	case damaged:
		return "damaged"
	}
	mark := ""
	if it.state.whole {
		mark += "whole "
	}
	if it.state.unsaved() {
		mark += "unsaved "
	}
	if time.Now().Before(it.state.sealed) {
		mark += "sealed "
	}
	return mark + shown(it.state.value)
}

// state is the state of the cache's item.
func (s *services) state(t *testing.T) *state {
	t.Helper()
	s.mu.Lock()
	raw := s.current()
	s.mu.Unlock()
	if raw == nil {
		t.Fatal("the cache has no item")
	}
	it := s.store().decodeItem(raw)
	if it.kind != value {
		t.Fatalf("the cache has no value: kind %d", it.kind)
	}
	return it.state
}

// backedUp says what the backup has.
func (s *services) backedUp() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.record == nil:
		return "-"
	case len(s.record.Value) == 0:
		return "removed"
	}
	st, hasTrailer, err := decode(s.record.Value)
	if err != nil {
		return err.Error()
	}
	if !hasTrailer {
		return shown(s.record.Value)
	}
	return shown(st.value)
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

// drain waits for all background work.
func drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	must(t, Drain(ctx))
}

// expectKept expects the session now, in the backup, and after a flush.
func (s *services) expectKept(t *testing.T, want string) {
	t.Helper()
	drain(t)
	r := s.request(t, "judge")
	expect(t, "now", r.see(), want)
	expect(t, "in the backup", s.backedUp(), want)
	s.flush()
	expect(t, "after a flush", r.see(), want)
}

// expectRemoved expects that the session is gone, now and after a flush.
func (s *services) expectRemoved(t *testing.T) {
	t.Helper()
	drain(t)
	r := s.request(t, "judge")
	expect(t, "now", r.see(), "-")
	expect(t, "in the backup", s.backedUp(), "removed")
	s.flush()
	expect(t, "after a flush", r.see(), "-")
}

// bubble runs a test in simulated time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t)
		drain(t)
	})
}

// onBoth runs a test with a backup that has transactions, and with one that has
// versions.
func onBoth(t *testing.T, f func(t *testing.T, created func(t *testing.T, ws string) *services)) {
	t.Run("transactions", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, created) }) })
	t.Run("versions", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, createdWithTokens) }) })
}

func (s *services) String() string {
	return fmt.Sprintf("cache %q, backup %q", s.cached(), s.backedUp())
}

// loadedAnyhow is a request that could load the session from the backup alone.
func (s *services) loadedAnyhow(t *testing.T, who string) *request {
	t.Helper()
	r := s.request(t, who)
	l, _ := r.st.Load(r.ctx, id)
	if l == nil {
		t.Fatal("no session")
	}
	r.l = l
	return r
}

// purgeExpired deletes the record if a purge may.
func (s *services) purgeExpired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.record != nil && time.Since(s.record.Expires) > tier.PurgeGrace {
		s.record = nil
		s.changes++
	}
}
