//go:build go1.25

package tiered

import (
	"bytes"
	"context"
	"crypto/sha256"
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

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

// A cache and a backup in memory, whose calls a test may hold, fail, count and
// time; and requests that make them. A session is a list of words: "a=1 b=2".

const timeout = 30 * time.Minute // of the sessions

var (
	errDown = errors.New("service is down")
	errDied = errors.New("the request has died")
	errLost = errors.New("the answer is lost")
)

// A step is a call, told to a test before it is made, and again after it, with
// done set. An error then is the call's answer; before, the call is not made.
type step struct {
	who  string // the request's name
	op   string // cache.get, backup.commit, ...
	id   string // of the session; of several the first
	done bool
	ctx  context.Context
}

// is reports whether the step is one of a call: "cache.get" of any session,
// "cache.get id" of that one.
func (c step) is(call string) bool {
	op, of, named := strings.Cut(call, " ")
	return c.op == op && (!named || c.id == of)
}

type hook func(c step) error

// A cached is what the cache has under an id.
type cached struct {
	tier.Item // Token: version
	ends      time.Time
}

type services struct {
	mu      sync.Mutex
	version int
	items   map[string]*cached
	records map[string]*tier.Record
	changes map[string]int // of each record
	calls   []step
	guesses []*tier.Guess // of the updates
	hooks   []hook
	reports []error
	ends    map[string]chan struct{} // of the instances of requests

	versions bool // the backup has them, and conditional inserts
	patient  bool // the stores wait for an hour
	deaf     bool // a service answers what it has done, though the context has ended
	fits     int  // bytes of an item; 0: any
	large    int  // bytes of a record; 0: any
	latency  map[string]time.Duration
}

func newServices() *services {
	return &services{items: map[string]*cached{}, records: map[string]*tier.Record{}, changes: map[string]int{}, ends: map[string]chan struct{}{}}
}

type whoKey struct{}

// call makes a call.
func (s *services) call(ctx context.Context, op, id string, f func() error) error {
	who, _ := ctx.Value(whoKey{}).(string)
	s.mu.Lock()
	s.calls = append(s.calls, step{who: who, op: op, id: id})
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	d := s.latency[op]
	s.mu.Unlock()
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	if err := s.tell(step{who, op, id, false, ctx}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if derr := s.tell(step{who, op, id, true, ctx}); derr != nil {
		return derr
	}
	if cerr := ctx.Err(); cerr != nil && !s.deaf {
		return cerr
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
	s.atStep(who, op, done, func(step) error { return f() })
}

func (s *services) atStep(who, op string, done bool, f hook) {
	var met atomic.Bool
	s.hook(func(c step) error {
		if c.is(op) && c.who == who && c.done == done && !met.Swap(true) {
			return f(c)
		}
		return nil
	})
}

func before(f func()) func() error { return func() error { f(); return nil } }

// lose makes the next call of that name succeed and report a failure.
func (s *services) lose(who, op string) {
	s.at(who, op, true, func() error { return errLost })
}

// hold holds a request at its next call of that name until release is called, or
// the call's context ends.
func (s *services) hold(who, op string, done bool) (release func()) {
	goOn := make(chan bool)
	s.atStep(who, op, done, func(c step) error { return c.wait(goOn) })
	return func() { close(goOn); synctest.Wait() }
}

func (c step) wait(goOn <-chan bool) error {
	select {
	case <-goOn:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// silence makes the calls of a request (empty: of all) hang whose names begin so,
// until their contexts end.
func (s *services) silence(who string, ops ...string) {
	s.hook(func(c step) error {
		if !c.done && (who == "" || c.who == who) && slices.ContainsFunc(ops, func(op string) bool { return strings.HasPrefix(c.op, op) }) {
			return c.wait(nil)
		}
		return nil
	})
}

// over is closed when the request's instance has died.
func (s *services) over(who string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends[who] == nil {
		s.ends[who] = make(chan struct{})
	}
	return s.ends[who]
}

// die ends a request at its next call of that name: it makes no call any more,
// not in the background either.
func (s *services) die(who, op string, done bool) {
	var dead sync.Map
	s.hook(func(c step) error {
		if c.who != who {
			return nil
		}
		if c.is(op) && c.done == done {
			if _, was := dead.Swap(who, true); !was {
				close(s.over(who))
			}
		}
		if _, ok := dead.Load(who); ok {
			return errDied
		}
		return nil
	})
}

// kill ends the instance of a request that has no call under way.
func (s *services) kill(who string) {
	close(s.over(who))
	s.hook(func(c step) error {
		if c.who == who {
			return errDied
		}
		return nil
	})
}

// count is how many calls there were whose names begin so.
func (s *services) count(prefix string) int { return s.countOf("", prefix) }

// countOf is how many of them a request has made (empty: all).
func (s *services) countOf(who, prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if strings.HasPrefix(c.op, prefix) && (who == "" || c.who == who) {
			n++
		}
	}
	return n
}

// takes says how long calls take.
func (s *services) takes(latency map[string]time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency = latency
}

func (s *services) forgetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.guesses = nil, nil
}

// flush has the cache lose everything.
func (s *services) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.items)
}

// purge deletes the record.
func (s *services) purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, id)
	s.changes[id]++
}

// keepItem puts an item.
func (s *services) keepItem(id string, it tier.Item, ttl time.Duration) {
	s.version++
	it.Value, it.Token = bytes.Clone(it.Value), s.version
	if s.items[id] = (&cached{it, time.Now().Add(ttl)}); ttl <= 0 {
		delete(s.items, id)
	}
}

// current is the item that has not expired.
func (s *services) current(id string) *cached {
	if it := s.items[id]; it != nil && !time.Now().Before(it.ends) {
		delete(s.items, id)
	}
	return s.items[id]
}

type cache struct{ *services }

func (c cache) Get(ctx context.Context, id string) (it *tier.Item, err error) {
	err = c.call(ctx, "cache.get", id, func() error {
		if now := c.current(id); now != nil {
			it = &tier.Item{Flags: now.Flags, Value: bytes.Clone(now.Value), Token: now.Token}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return it, nil
}

func (c cache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	return c.call(ctx, "cache.set", id, func() error { c.keepItem(id, it, ttl); return nil })
}

func (c cache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (added bool, err error) {
	err = c.call(ctx, "cache.add", id, func() error {
		if added = c.current(id) == nil; added {
			c.keepItem(id, it, ttl)
		}
		return nil
	})
	return added && err == nil, err
}

func (c cache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (out tier.Outcome, err error) {
	err = c.call(ctx, "cache.swap", id, func() error {
		switch now := c.current(id); {
		case now == nil:
			out = tier.Absent
		case now.Token != old.Token:
			out = tier.Conflict
		default:
			c.keepItem(id, it, ttl)
		}
		return nil
	})
	return out, err
}

func (c cache) Fits(_ string, size int) bool { return c.fits == 0 || size <= c.fits }
func (c cache) ValidID(string) bool          { return true }

// The backup keeps and hands on copies. With versions a record's token is its
// version, as in the Cloud Datastore API; without it stands for the content, as
// in App Engine's.
type backup struct{ *services }

func (b backup) now(id string) *tier.Record {
	r := b.records[id]
	if r == nil {
		return nil
	}
	return &tier.Record{Value: bytes.Clone(r.Value), Expires: r.Expires, Token: bytes.Clone(r.Token)}
}

func (b backup) put(id string, r *tier.Record) {
	b.changes[id]++
	kept := &tier.Record{Value: bytes.Clone(r.Value), Expires: r.Expires.Truncate(time.Microsecond)}
	if b.versions {
		kept.Token = []byte("v" + strconv.Itoa(b.changes[id]))
	} else {
		sum := sha256.Sum256(append([]byte(kept.Expires.UTC().String()), kept.Value...))
		kept.Token = sum[:]
	}
	b.records[id] = kept
	r.Token = bytes.Clone(kept.Token)
}

func (b backup) Get(ctx context.Context, id string) (r *tier.Record, err error) {
	err = b.call(ctx, "backup.get", id, func() error { r = b.now(id); return nil })
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (b backup) Put(ctx context.Context, id string, r tier.Record) error {
	return b.call(ctx, "backup.put", id, func() error { b.put(id, &r); return nil })
}

func (b backup) Insert(ctx context.Context, id string, r tier.Record) error {
	return b.call(ctx, "backup.put", id, func() error {
		if b.versions && b.records[id] != nil {
			return tier.ErrExists
		}
		b.put(id, &r)
		return nil
	})
}

func (s *services) backup() backup { return backup{s} }

func notWritten(err error) error { return fmt.Errorf("%w: %w", tier.ErrNotWritten, err) }

type updateFunc = func([]*tier.Record) ([]*tier.Record, error)

func (b backup) Update(ctx context.Context, ids []string, guess *tier.Guess, f updateFunc) error {
	b.mu.Lock()
	b.guesses = append(b.guesses, guess)
	b.mu.Unlock()
	if b.versions {
		return b.compareAndPut(ctx, ids, guess, f)
	}
	return b.transact(ctx, ids, guess, f)
}

// transact is an update as App Engine's Datastore makes it: with a guess there is
// a put beside the read. Of several puts the last one counts.
func (b backup) transact(ctx context.Context, ids []string, guess *tier.Guess, f updateFunc) error {
	seen := map[string]int{}
	err := b.call(ctx, "backup.begin", ids[0], func() error {
		for _, id := range ids {
			seen[id] = b.changes[id]
		}
		return nil
	})
	if err != nil {
		return notWritten(err)
	}
	put := func() error { return b.call(ctx, "backup.txput", ids[0], func() error { return nil }) }
	current := make([]*tier.Record, len(ids))
	perr, err := both(
		func() error {
			if guess == nil {
				return nil
			}
			return put()
		},
		func() error {
			return b.call(ctx, "backup.txget", ids[0], func() error {
				for i, id := range ids {
					current[i] = b.now(id)
				}
				return nil
			})
		})
	if err = errors.Join(perr, err); err != nil {
		return notWritten(err)
	}
	var next []*tier.Record
	if guess != nil && isVersion(current[0], guess.Token) {
		next = []*tier.Record{guess.Next}
	} else {
		if next, err = f(current); err != nil {
			return err
		}
		if !slices.ContainsFunc(next, func(r *tier.Record) bool { return r != nil }) {
			return nil
		}
		if err := put(); err != nil {
			return notWritten(err)
		}
	}
	return b.call(ctx, "backup.commit", ids[0], func() error {
		for _, id := range ids {
			if b.changes[id] != seen[id] {
				return tier.ErrContention
			}
		}
		b.putAll(ids, next)
		return nil
	})
}

func (b backup) putAll(ids []string, next []*tier.Record) {
	for i, r := range next {
		if r != nil {
			b.put(ids[i], r)
		}
	}
}

func isVersion(r *tier.Record, token []byte) bool {
	if r == nil {
		return len(token) == 0
	}
	return bytes.Equal(r.Token, token)
}

// compareAndPut is an update as a service with versions makes it.
func (b backup) compareAndPut(ctx context.Context, ids []string, guess *tier.Guess, f updateFunc) error {
	commit := func(tokens [][]byte, next []*tier.Record) (stored bool, err error) {
		err = b.call(ctx, "backup.commit", ids[0], func() error {
			for i, r := range next {
				if r != nil && !isVersion(b.records[ids[i]], tokens[i]) {
					return nil
				}
			}
			stored = true
			b.putAll(ids, next)
			return nil
		})
		return stored, err
	}
	if guess != nil {
		if stored, err := commit([][]byte{guess.Token}, []*tier.Record{guess.Next}); stored || err != nil {
			return err
		}
	}
	for range 8 {
		current, tokens := make([]*tier.Record, len(ids)), make([][]byte, len(ids))
		err := b.call(ctx, "backup.get", ids[0], func() error {
			for i, id := range ids {
				if current[i] = b.now(id); current[i] != nil {
					tokens[i] = bytes.Clone(current[i].Token)
				}
			}
			return nil
		})
		if err != nil {
			return notWritten(err)
		}
		next, err := f(current)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(next, func(r *tier.Record) bool { return r != nil }) {
			return nil
		}
		if stored, err := commit(tokens, next); stored || err != nil {
			return err
		}
	}
	return tier.ErrContention
}

func (b backup) MaxValue(string) int {
	if b.large == 0 {
		return 1 << 20
	}
	return b.large
}
func (b backup) ValidID(string) bool { return true }

// The session's format. "@=" says when the session was last used; only sessions
// without a trailer have it here. "#=" is the session's id, where its bytes hold
// it.

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

// wordForm is the Form of such sessions.
type wordForm struct{}

func (wordForm) Merge(into, from []byte, take func(string) bool) ([]byte, error) {
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

func (wordForm) Rename(v []byte, id string) ([]byte, error) {
	m := words(v)
	if _, ok := m["#"]; !ok {
		return v, nil
	}
	m["#"] = id
	return text(m), nil
}

func (wordForm) Inspect(v []byte) (Info, error) {
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
	s.keepItem(id, tier.Item{Value: v}, timeout)
}

func (s *services) putOldRecord(v []byte, ends time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backup().put(id, &tier.Record{Value: v, Expires: ends})
}

// Requests.

// A request has a store of its own, and the session as it has loaded it.
type request struct {
	t   *testing.T
	s   *services
	st  *Store
	ctx context.Context
	id  string
	l   *Loaded
	m   *Move // to the id that the request has drawn
}

func (s *services) store() *Store {
	st := &Store{Form: wordForm{}, Options: Options{
		Cache: cache{s}, Backup: backup{s}, Retries: 2,
		Report: func(_ string, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reports = append(s.reports, err)
		},
	}}
	if s.patient {
		st.CacheTimeout, st.BackupTimeout = time.Hour, time.Hour
	}
	return st
}

func (s *services) request(t *testing.T, who string) *request {
	ctx := context.WithValue(context.Background(), whoKey{}, who)
	return (&request{t: t, s: s, st: s.store(), id: id, ctx: ctx}).on(instance.Instance{Over: s.over(who)})
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
	l, err := r.st.Load(r.ctx, r.id)
	if err != nil || l == nil {
		r.t.Fatalf("Load: got %v, %v; want a session", l, err)
	}
	r.l = l
	return r
}

// see is what a load finds; "-": nothing.
func (r *request) see() string {
	r.t.Helper()
	l, err := r.st.Load(r.ctx, r.id)
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
	delete(m, "#")
	return strings.TrimSpace(string(text(m)))
}

// on makes the request one of that instance.
func (r *request) on(i instance.Instance) *request {
	r.ctx = instance.With(r.ctx, i)
	return r
}

// change is the request's session with "a=1" set and "-b" deleted.
func (r *request) change(edits string) *Change {
	m := map[string]string{}
	if r.l != nil {
		m = words(r.l.Value())
	}
	c := &Change{Used: time.Now(), Ends: time.Now().Add(timeout)}
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
	l, err := r.st.Create(r.ctx, r.id, r.change(edits))
	return r.became(l, err)
}

func (r *request) update(edits string) error {
	l, err := r.st.Update(r.ctx, r.id, r.l, r.change(edits))
	return r.became(l, err)
}

func (r *request) updateAsync(edits string) error {
	l, err := r.st.UpdateAsync(r.ctx, r.id, r.l, r.change(edits))
	return r.became(l, err)
}

// became is what the request goes on from.
func (r *request) became(l *Loaded, err error) error {
	if l != nil {
		r.l = l
	}
	return err
}

func (r *request) settle() error { return r.st.Settle(r.ctx, r.id, r.l) }
func (r *request) remove() error { return r.st.Remove(r.ctx, r.id, r.l) }

// to is the id that the request moves the session to.
func (r *request) to() string {
	who, _ := r.ctx.Value(whoKey{}).(string)
	return "of-" + who
}

// move moves the session with a change, and returns what has moved; "-": nothing.
func (r *request) move(edits string) (string, error) {
	if r.m == nil {
		r.m = r.st.NewMove(r.id, r.to(), r.l)
	}
	moved, err := r.m.Run(r.ctx, r.l, r.change(edits))
	if moved == nil {
		return "-", err
	}
	r.l, r.id, r.m = moved.Loaded, r.m.To(), nil
	return shown(moved.Value), err
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
	return newServices().with(t, ws)
}

func createdWithVersions(t *testing.T, ws string) *services {
	t.Helper()
	s := newServices()
	s.versions = true
	return s.with(t, ws)
}

func (s *services) with(t *testing.T, ws string) *services {
	t.Helper()
	must(t, s.request(t, "creator").create(ws))
	s.forgetCalls()
	return s
}

// What tests look at.

// cached says what the cache has: the session, in front of it its marks.
func (s *services) cached() string { return s.cachedAs(id) }

func (s *services) cachedAs(id string) string {
	it := s.item(id)
	if it == nil {
		return "-"
	}
	switch it.kind {
	case lease:
		return "lease"
	case removed:
		return "removed"
	case damaged:
		return "damaged"
	case undecodable:
		return "undecodable"
	}
	mark := ""
	if it.state.unsavedAll {
		mark += "all "
	}
	if it.state.unsaved() {
		mark += "unsaved "
	}
	if it.state.seal != (nonce{}) {
		mark += "sealed "
	}
	return mark + shown(it.state.value)
}

// item is the cache's item; nil: there is none.
func (s *services) item(id string) *item {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw := s.current(id)
	if raw == nil {
		return nil
	}
	return s.store().decodeItem(id, &raw.Item)
}

// state is the state of the cache's item.
func (s *services) state(t *testing.T) *state {
	t.Helper()
	it := s.item(id)
	if !it.is(value) {
		t.Fatalf("the cache has no value: %v", it)
	}
	return it.state
}

// backedUp says what the backup has.
func (s *services) backedUp() string { return s.backedUpAs(id) }

func (s *services) backedUpAs(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[id]
	switch {
	case r == nil:
		return "-"
	case len(r.Value) == 0:
		return "removed"
	}
	st, hasTrailer, err := decode(id, r.Value)
	if err != nil {
		return err.Error()
	}
	if !hasTrailer {
		return shown(r.Value)
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
	s.expectKeptAs(t, id, want)
}

func (s *services) expectKeptAs(t *testing.T, id, want string) {
	t.Helper()
	drain(t)
	r := s.request(t, "judge")
	r.id = id
	expect(t, "now", r.see(), want)
	expect(t, "in the backup", s.backedUpAs(id), want)
	s.flush()
	expect(t, "after a flush", r.see(), want)
}

// expectRemoved expects that the session is gone, now and after a flush.
// expectNone expects that there is no session under an id: no record, or one that
// was emptied so that nothing comes late.
func (s *services) expectNone(t *testing.T, id string) {
	t.Helper()
	synctest.Wait()
	if got := s.backedUpAs(id); got != "-" && got != "removed" {
		t.Errorf("under %s: got %s, want nothing", id, got)
	}
}

func (s *services) expectRemoved(t *testing.T) {
	t.Helper()
	s.expectRemovedAs(t, id)
}

func (s *services) expectRemovedAs(t *testing.T, id string) {
	t.Helper()
	drain(t)
	r := s.request(t, "judge")
	r.id = id
	expect(t, "now", r.see(), "-")
	expect(t, "in the backup", s.backedUpAs(id), "removed")
	s.flush()
	expect(t, "after a flush", r.see(), "-")
}

// expectMoved expects the session under the id that the request has given it,
// and none under the old one.
func (s *services) expectMoved(t *testing.T, by *request, want string) {
	t.Helper()
	drain(t)
	r := s.request(t, "judge")
	expect(t, "under the old id", r.see(), "-")
	r.id = by.to()
	expect(t, "under the new id", r.see(), want)
	s.flush()
	expect(t, "in the backup, the old id", s.backedUp(), "removed")
	s.expectKeptAs(t, by.to(), want)
}

// bubble runs a test in simulated time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t)
		drain(t)
		time.Sleep(probeIdle + 2*(probeEvery+DefaultCacheTimeout)) // the last probe
	})
}

// onBoth runs a test with a backup that has transactions, and with one that has
// versions.
func onBoth(t *testing.T, f func(t *testing.T, created func(t *testing.T, ws string) *services)) {
	t.Run("transactions", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, created) }) })
	t.Run("versions", func(t *testing.T) { bubble(t, func(t *testing.T) { f(t, createdWithVersions) }) })
}

func (s *services) String() string {
	return fmt.Sprintf("cache %q, backup %q", s.cached(), s.backedUp())
}

// loadedAnyhow is a request that could load the session from the backup alone.
func (s *services) loadedAnyhow(t *testing.T, who string) *request {
	t.Helper()
	r := s.request(t, who)
	l, _ := r.st.Load(r.ctx, r.id)
	if l == nil {
		t.Fatal("no session")
	}
	r.l = l
	return r
}

// purgeExpired deletes the record if a purge may.
func (s *services) purgeExpired() {
	s.mu.Lock()
	due := s.records[id] != nil && time.Since(s.records[id].Expires) > tier.PurgeGrace
	s.mu.Unlock()
	if due {
		s.purge()
	}
}
