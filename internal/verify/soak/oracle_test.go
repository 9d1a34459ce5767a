package soak

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaesession/gaesession/internal/verify/judge"
)

// clock puts everything in order: every reading is later than those before.
var clock atomic.Int64

func now() judge.Time { return judge.Time(clock.Add(1)) }

// A record is what is known of a session, and what happened to it.
type record struct {
	id      string
	gorilla bool // it is one of cascadestore's, and id is its cookie

	mu      sync.Mutex
	session judge.Session
	unsaved []*exchange // that have saved asynchronously
	values  int         // given to its attributes
	logout  removal
	events  []event
}

type removal int

const (
	notRemoved removal = iota
	removing           // begun; it may have failed
	isRemoved          // acknowledged
)

// does notes that a request begins to do something with the session. What it did
// is known to the judge from then on.
func (x *exchange) does() {
	r, q := x.on, x.judge
	r.mu.Lock()
	defer r.mu.Unlock()
	q.Saving, q.Used, q.Latest = now(), time.Now(), time.Now()
	r.session.Requests = append(r.session.Requests, q)
	if x.async {
		r.unsaved = append(r.unsaved, x)
	}
}

// drained notes that the background saves of all instances have ended that were
// not killed.
func (r *record) drained() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.unsaved {
		if x.judge.Ended == 0 && x.judge.Closed != 0 && !x.instance.dead() {
			x.judge.Ended = now()
		}
	}
}

// An event is something that happened to a session, for the trace.
type event struct {
	at   time.Duration
	who  string
	what string
}

func (r *record) note(who, format string, args ...any) {
	e := event{time.Since(began), who, fmt.Sprintf(format, args...)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// began is the origin of the times in traces.
var began = time.Now()

// trace returns what happened to the session. Ids do not appear in it.
func (r *record) trace() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, e := range r.events {
		fmt.Fprintf(&b, "%10.3f ms  %-14s %s\n", float64(e.at.Microseconds())/1000, e.who, e.what)
	}
	return b.String()
}

// check returns what is wrong with what a load has seen that began at some time
// and ends now; nil attributes stand for no session.
func (r *record) check(losses []judge.Loss, since judge.Time, attrs map[string]any, blind bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session.Losses = losses
	l := judge.Load{Began: since, Ended: now(), Since: time.Now(), Wall: time.Now(), None: attrs == nil, Attrs: map[string]string{}, Blind: blind}
	for name, v := range attrs {
		l.Attrs[name] = fmt.Sprint(v)
	}
	return r.session.Check(l)
}

// counts is what a soak has counted.
type counts struct {
	requests     int
	logins       int
	changes      int // acknowledged
	logouts      int // acknowledged
	reads        int
	errors       int // requests with one or more reported errors
	refused      int // changes that met a removal
	killed       int // requests under way when their instance was killed
	kills        int // instances
	flushes      int
	wrong        int // loads and answers that break a promise
	sessions     int
	checked      int // sessions that had to be there in the end
	gone         int // sessions that had to be gone in the end
	faults, lies int // calls that failed, and answers that were lost
	silences     int
	held         int // calls that were held during them
	unavailable  int // requests that could not tell whether there is a session
	kept         int // changes that the cache had alone
	unpublished  int // changes and logouts that the cache did not learn of at once

	slowest time.Duration // of the requests
	latest  time.Duration // end of a request after the time by which it had to
}

// haveAll reports whether something of all that is tested has happened.
func (c *counts) haveAll() bool {
	return c.changes > 0 && c.kills > 0 && c.flushes > 0 && c.faults > 0 && c.lies > 0 && (!*silences || c.silences > 0 && c.held > 0)
}

// tally is counts for concurrent use.
type tally struct {
	mu sync.Mutex
	counts
}

func (t *tally) add(f func(c *counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.counts)
}
