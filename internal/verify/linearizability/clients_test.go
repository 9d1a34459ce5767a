package linearizability

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/icza/session"
	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// A run is what clients do to sessions, and what is made to happen meanwhile.
type run struct {
	service    *gaetest.Service
	seed       uint64
	operations int           // at least
	async      float64       // how many of the changes are asynchronous
	evicting   bool          // Memcache is emptied, or forgets one session, now and then
	delay      time.Duration // of a call, at most
	call       callFunc      // nil: appengine.APICall

	clock   atomic.Int64
	number  atomic.Int64 // of the values
	made    atomic.Int64 // operations
	mu      sync.Mutex
	history []porcupine.Operation
	saves   []*saving
	born    int
	live    [sessions]*record
	errs    map[string]int // reported errors
	losses  []loss
}

// A loss is a time in which Memcache lost a session, or all.
type loss struct {
	session    int // 0: all
	begin, end int64
}

type callFunc = func(s *gaetest.Service, ctx context.Context, service, method string, in, out protoadapt.MessageV1) error

const (
	clients  = 8
	sessions = 4  // at a time
	lifetime = 60 // operations on a session, and some more until all are done
)

// A record is a session that requests are made on.
type record struct {
	session    int
	id         string
	first      values
	operations atomic.Int64
	removed    atomic.Bool
}

// now is a clock whose every reading is later than those before.
func (r *run) now() int64 { return r.clock.Add(1) }

// never is the end of an operation that may still take effect after all others.
const never = math.MaxInt64

func (r *run) add(client int, op operation, begin int64, out found, end int64) {
	r.made.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, porcupine.Operation{ClientId: client, Input: op, Call: begin, Output: out, Return: end})
}

// do runs the clients until enough operations have been made and returns their
// history.
func (r *run) do(t *testing.T) []porcupine.Operation {
	t.Helper()
	r.errs = map[string]int{}
	var running sync.WaitGroup
	for i := range clients {
		running.Add(1)
		go func() {
			defer running.Done()
			c := &client{run: r, number: i, rnd: rand.New(rand.NewPCG(r.seed, uint64(i)))}
			for r.made.Load() < int64(r.operations) {
				c.request()
			}
		}()
	}
	running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := gaesession.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.saves {
		for w.request.began.Load() && w.request.saved.Load() == 0 {
			if ctx.Err() != nil {
				t.Fatal("a background save does not end")
			}
			time.Sleep(time.Millisecond) // its end is noted in a goroutine
		}
		r.history = append(r.history, r.finish(w))
	}
	return r.history
}

// A client makes one request after another.
type client struct {
	*run
	number   int
	rnd      *rand.Rand
	requests int
}

// A request is a store, as every request has its own, and what it reported.
type request struct {
	session.Store
	mu    sync.Mutex
	errs  []error
	began atomic.Bool  // the background save has
	saved atomic.Int64 // when the background save ended
}

func (q *request) err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return errors.Join(q.errs...)
}

func (c *client) open(o gaesession.MemcacheStoreOptions) *request {
	c.requests++
	q := &request{}
	o.CacheTimeout, o.BackupTimeout = time.Minute, time.Minute // a busy machine is no silent service
	delays := rand.New(rand.NewPCG(c.seed, uint64(c.number)<<32|uint64(c.requests)))
	var mu sync.Mutex
	pause := func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if c.delay == 0 || delays.IntN(3) > 0 {
			return 0
		}
		return time.Duration(delays.Int64N(int64(c.delay)))
	}
	o.OnError = func(_ context.Context, err error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.errs = append(q.errs, err)
	}
	call := c.call
	if call == nil {
		call = func(_ *gaetest.Service, ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
			return appengine.APICall(ctx, service, method, in, out)
		}
	}
	alone := instance.With(c.service.Context(), instance.Instance{Name: q})
	ctx := appengine.WithAPICallFunc(alone, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		if work := instance.Background(ctx); work != nil && q.began.CompareAndSwap(false, true) {
			context.AfterFunc(work, func() { q.saved.Store(c.now()) })
		}
		time.Sleep(pause())
		return call(c.service, ctx, service, method, in, out)
	})
	q.Store = gaesession.NewMemcacheStoreOptions(ctx, &o)
	return q
}

func (c *client) request() {
	if c.evicting && c.rnd.IntN(20) == 0 {
		c.evict()
	}
	slot := c.rnd.IntN(sessions)
	c.mu.Lock()
	r := c.live[slot]
	c.mu.Unlock()
	switch {
	case r == nil, r.operations.Load() >= lifetime, r.removed.Load() && c.rnd.IntN(10) == 0:
		c.login(slot, r)
		return
	}
	r.operations.Add(1)
	switch k := c.rnd.IntN(100); {
	case k < 45:
		c.change(r, gaesession.MemcacheStoreOptions{AsyncDatastoreSave: c.rnd.Float64() < c.async}, true)
	case k < 55:
		// Only the access time is written.
		c.change(r, gaesession.MemcacheStoreOptions{AsyncDatastoreSave: c.rnd.Float64() < c.async, RefreshInterval: -1}, false)
	case k < 97:
		q := c.open(gaesession.MemcacheStoreOptions{})
		c.load(q, r)
		q.Close()
	default:
		c.logout(r)
	}
}

// evict makes Memcache forget one session, or all.
func (c *client) evict() {
	c.mu.Lock()
	r := c.live[c.rnd.IntN(sessions)]
	c.mu.Unlock()
	l := loss{begin: c.now()}
	defer func() {
		l.end = c.now()
		c.mu.Lock()
		c.losses = append(c.losses, l)
		c.mu.Unlock()
	}()
	if r == nil || c.rnd.IntN(4) == 0 {
		c.service.Flush()
		return
	}
	l.session = r.session
	err := memcache.Delete(c.service.Context(), r.id)
	if err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
		c.note(err)
	}
}

// note counts an error that is no part of the history.
func (c *client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs[err.Error()]++
}

func (c *client) login(slot int, old *record) {
	q := c.open(gaesession.MemcacheStoreOptions{})
	sess := session.NewSession()
	ch := c.newChange(&record{}, values{})
	for i, set := range ch.set {
		if set {
			sess.SetAttr(names[i], ch.to[i])
		}
	}
	begin := c.now()
	q.Add(sess)
	q.Close()
	end := c.now()
	if err := q.err(); err != nil {
		c.note(err)
		return // nobody gets to know the session
	}
	c.mu.Lock()
	if c.live[slot] != old {
		c.mu.Unlock()
		return
	}
	c.born++
	r := &record{session: c.born, id: sess.ID(), first: ch.to}
	c.live[slot] = r
	c.mu.Unlock()
	c.add(c.number, operation{session: r.session, kind: login, change: ch}, begin, found{}, end)
}

// newChange changes at least one attribute of v.
func (c *client) newChange(r *record, v values) (ch change) {
	for ch == (change{}) {
		for i := range attributes {
			switch c.rnd.IntN(4) {
			case 0:
				ch.set[i], ch.to[i] = true, int(c.run.number.Add(1))
			case 1:
				if v[i] != 0 && c.rnd.IntN(3) == 0 {
					ch.set[i] = true // deleted
				}
			case 2:
				if first := r.first[i]; first != v[i] && c.rnd.IntN(3) == 0 {
					ch.set[i], ch.to[i] = true, first // set back
				}
			}
		}
	}
	return ch
}

// load gets the session, which is a read. It returns false when there is none,
// or nobody knows.
func (c *client) load(q *request, r *record) (session.Session, values, bool) {
	begin := c.now()
	sess := q.Get(r.id)
	end := c.now()
	if err := q.err(); err != nil {
		c.note(err)
		return nil, values{}, false
	}
	var out found
	if sess != nil {
		out.exists = true
		for i, name := range names {
			out.values[i], _ = sess.Attr(name).(int)
		}
	}
	c.add(c.number, operation{session: r.session, kind: read}, begin, out, end)
	return sess, out.values, sess != nil
}

func (c *client) change(r *record, o gaesession.MemcacheStoreOptions, attrs bool) {
	q := c.open(o)
	began := c.now()
	sess, v, ok := c.load(q, r)
	if !ok {
		q.Close()
		return
	}
	op := operation{session: r.session, kind: write, began: began}
	if attrs {
		op.change = c.newChange(r, v)
		for i, set := range op.change.set {
			switch {
			case set && op.change.to[i] == 0:
				sess.SetAttr(names[i], nil)
			case set:
				sess.SetAttr(names[i], op.change.to[i])
			}
		}
	}
	w := &saving{client: c.number, op: op, request: q}
	w.begin = c.now()
	q.Close()
	w.closed = c.now()
	w.err = q.err()
	c.made.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saves = append(c.saves, w)
}

// A saving is a write whose background save may go on.
type saving struct {
	client        int
	op            operation
	request       *request
	begin, closed int64
	err           error // when Close returned
}

// finish makes an operation of w, when all background saves have ended.
func (r *run) finish(w *saving) porcupine.Operation {
	end, err := w.closed, w.request.err()
	w.op.ended = max(w.closed, w.request.saved.Load())
	w.op.shown = w.closed
	switch {
	case err == nil:
		// Until then a change may be in Memcache alone, and out of sight when
		// that loses the session.
		for _, l := range r.losses {
			if (l.session == 0 || l.session == w.op.session) && l.begin <= w.op.ended && w.begin <= l.end {
				w.op.shown = w.op.ended
			}
		}
	case errors.Is(w.err, gaesession.ErrRemoved) && !w.request.began.Load():
		w.op.kind = refused
	case errors.Is(err, gaesession.ErrRemoved):
		// It was in Memcache, and the session was removed before it was saved. The
		// background may say so before Close has returned.
		w.op.kind, end, w.op.shown = unsure, w.op.ended, w.op.ended
	default:
		r.errs[err.Error()]++
		w.op.kind, end, w.op.shown = unsure, never, never
	}
	return porcupine.Operation{ClientId: w.client, Input: w.op, Call: w.begin, Output: found{}, Return: end}
}

func (c *client) logout(r *record) {
	q := c.open(gaesession.MemcacheStoreOptions{})
	sess, _, ok := c.load(q, r)
	if !ok {
		q.Close()
		return
	}
	op := operation{session: r.session, kind: logout}
	begin := c.now()
	q.Remove(sess)
	end := c.now()
	r.removed.Store(true)
	if err := q.err(); err != nil {
		c.note(err)
		op.kind, end = unsureLogout, never
	}
	c.add(c.number, op, begin, found{}, end)
	q.Close()
}
