package blackbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
)

const (
	clients        = 5  // of a session
	changesOfEach  = 10 // client, in a session
	sessionsAtOnce = 12
	flushInterval  = 3 * time.Millisecond
)

// An app serves requests on a store.
type app interface {
	// login makes a session with these attributes and returns what its clients
	// need to come back to it.
	login(ctx context.Context, attrs map[string]int) (key string, err error)

	// request loads the session with a fresh store, lets the client use it, and
	// saves it. It returns what was reported until then; errNoSession when there
	// is none.
	request(ctx context.Context, key string, async bool, use func(attributes)) error

	// mode says whether the next request is an asynchronous one.
	mode(rnd *rand.Rand) (async bool)

	// finish waits until nothing goes on in the background, and returns the
	// errors that came from there since it was called last.
	finish(ctx context.Context) []error
}

// attributes are those of a session in a request. Nil: there is none.
type attributes interface {
	get(name string) any
	set(name string, v any)
}

var errNoSession = errors.New("no session")

// result is what a run has found.
type result struct {
	seed                                        uint64
	changes, overlapping                        int
	wrong, stale, unseen, refused, gone, failed int
	examples                                    []string
}

func (r *result) String() string {
	return fmt.Sprintf("seed %d: %d changes, %d of them overlapping: %d wrong, %d stale, %d unseen, %d refused, %d gone, %d failed",
		r.seed, r.changes, r.overlapping, r.wrong, r.stale, r.unseen, r.refused, r.gone, r.failed)
}

func (r *result) expectNothingLost(t *testing.T) {
	t.Helper()
	if r.wrong+r.stale+r.refused+r.gone+r.failed > 0 {
		t.Errorf("%v", r)
		for _, e := range r.examples {
			t.Log(e)
		}
	}
}

// A run is what clients do to the sessions of an app.
type run struct {
	app     app
	flushes bool
	number  atomic.Int64 // of the values

	mu sync.Mutex
	result
}

// count adds to one of the result's counters, and keeps a few examples.
func (r *run) count(counter *int, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*counter++
	if len(r.examples) < 20 {
		r.examples = append(r.examples, fmt.Sprintf(format, args...))
	}
}

// measure has the clients make that many changes, rounded up to whole sessions.
func measure(t *testing.T, a app, flushes bool, changes int) *result {
	t.Helper()
	r := &run{app: a, flushes: flushes, result: result{seed: *seed}}
	for wave := uint64(0); r.changes < changes; wave++ {
		missing := (changes - r.changes + clients*changesOfEach - 1) / (clients * changesOfEach)
		r.wave(t, wave, min(missing, sessionsAtOnce))
		if t.Failed() {
			return &r.result
		}
	}
	t.Log(&r.result)
	if r.overlapping < r.changes/2 {
		t.Errorf("only %d of %d changes overlapped with another one of their session", r.overlapping, r.changes)
	}
	return &r.result
}

// wave has clients change some sessions, and judges these when all are done.
func (r *run) wave(t *testing.T, wave uint64, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	sessions := make([]*sharedSession, n)
	for i := range sessions {
		attrs := map[string]int{}
		for c := range clients {
			attrs[nameOf(c)] = 0
		}
		key, err := r.app.login(ctx, attrs)
		if err != nil {
			t.Fatalf("login: %v", err)
		}
		sessions[i] = &sharedSession{run: r, key: key}
	}
	stop := r.flush()
	var all sync.WaitGroup
	for i, s := range sessions {
		for c := range clients {
			s.clients[c] = &client{
				sharedSession: s, name: nameOf(c), last: 0,
				rnd: rand.New(rand.NewPCG(r.seed, wave<<32|uint64(i)<<16|uint64(c)+1)),
			}
			all.Add(1)
			go func() {
				defer all.Done()
				s.clients[c].work()
			}()
		}
	}
	all.Wait()
	late := r.app.finish(ctx)
	stop()
	if ctx.Err() != nil {
		t.Fatal("the background saves do not end")
	}
	for _, err := range late {
		r.count(&r.refused, "in the background: %v", err)
	}
	for _, s := range sessions {
		s.judge(ctx)
	}
}

// flush empties Memcache all the time, until stop is called.
func (r *run) flush() (stop func()) {
	if !r.flushes {
		return func() {}
	}
	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(flushInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				server.FlushMemcache()
			case <-stopping:
				return
			}
		}
	}()
	return func() {
		close(stopping)
		<-stopped
	}
}

func nameOf(client int) string { return string(rune('a' + client)) }

// A sharedSession is one that five clients change.
type sharedSession struct {
	*run
	key      string
	clients  [clients]*client
	inFlight atomic.Int64 // requests
}

// A client changes an attribute that belongs to it.
type client struct {
	*sharedSession
	name string
	rnd  *rand.Rand

	last   any  // what the last acknowledged change made of the attribute
	async  bool // it was an asynchronous one
	unsure bool // a change since has reported an error: it may be there or not
}

func (c *client) work() {
	for range changesOfEach {
		c.change()
	}
}

// change is one request.
func (c *client) change() {
	async := c.app.mode(c.rnd)
	overlaps := c.inFlight.Add(1) > 1
	defer c.inFlight.Add(-1)
	// Requests of one instance share their updates, so two clients are on one
	// instance, and the others on one each.
	name := c.name
	if name == "b" {
		name = "a"
	}
	// App Engine cancels a request's context when it has ended.
	ctx, cancel := context.WithCancel(instance.With(context.Background(), instance.Instance{Name: name}))
	defer cancel()
	var next any
	err := c.app.request(ctx, c.key, async, func(s attributes) {
		seen := s.get(c.name)
		if seen != c.last && !c.unsure {
			what := &c.stale
			if c.async && c.flushes {
				what = &c.unseen
			}
			c.count(what, "attribute %s: loaded %v, and %v was acknowledged", c.name, seen, c.last)
		}
		next = c.choose(seen)
		s.set(c.name, next)
	})
	overlaps = overlaps || c.inFlight.Load() > 1
	c.mu.Lock()
	c.changes++
	if overlaps {
		c.overlapping++
	}
	c.mu.Unlock()
	switch {
	case errors.Is(err, errNoSession):
		c.count(&c.gone, "attribute %s: no session", c.name)
	case err != nil:
		c.unsure = true
		c.count(&c.refused, "attribute %s: %v", c.name, err)
	default:
		c.last, c.async, c.unsure = next, async, false
	}
}

// choose returns what the attribute is set to: a new number, nothing or 0, but
// what it was loaded as would be no change.
func (c *client) choose(seen any) any {
	choices := []any{int(c.number.Add(1))}
	for _, v := range []any{nil, 0} {
		if v != seen && v != c.last {
			choices = append(choices, v)
		}
	}
	return choices[c.rnd.IntN(len(choices))]
}

// judge compares what the session is with what was acknowledged, as Memcache has
// it, or Datastore if that has lost it, and from Datastore alone.
func (s *sharedSession) judge(ctx context.Context) {
	var found [2]map[string]any
	for i := range found {
		found[i] = map[string]any{}
		err := s.app.request(ctx, s.key, false, func(a attributes) {
			for _, c := range s.clients {
				found[i][c.name] = a.get(c.name)
			}
		})
		if errors.Is(err, errNoSession) {
			s.count(&s.gone, "in the end: no session")
		} else if err != nil {
			s.count(&s.failed, "in the end: %v", err)
		}
		server.FlushMemcache()
	}
	for _, c := range s.clients {
		if !c.unsure && (found[0][c.name] != c.last || found[1][c.name] != c.last) {
			s.count(&s.wrong, "attribute %s: in the end %v, after a flush %v, and %v was acknowledged",
				c.name, found[0][c.name], found[1][c.name], c.last)
		}
	}
}
