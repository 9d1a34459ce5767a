package soak

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// A record is what is known of a session, and what happened to it.
type record struct {
	id string

	mu     sync.Mutex
	attrs  map[string]*attr
	logout removal
	events []event
}

type removal int

const (
	notRemoved removal = iota
	removing           // begun; it may have failed
	isRemoved          // acknowledged
)

// An attr is what is known of an attribute. Zero stands for no value.
type attr struct {
	owner   *client
	value   int       // of the last acknowledged change
	maybe   int       // of a change after that one, if not settled
	settled bool      // no change is under way, nor is it unknown what became of one
	by      *exchange // the change that maybe is of
	version int
	final   bool // value was acknowledged by a synchronous request
}

// resolve finds out what became of a change in the background, and tells
// whether it is acknowledged since. When all background saves have ended, ended
// is true.
func (a *attr) resolve(ended bool) bool {
	if a.settled || a.by == nil || !a.by.published() || a.by.failed() {
		return false
	}
	if !a.by.committed() && (!ended || a.by.instance.dead()) {
		return false
	}
	a.value, a.settled, a.final = a.maybe, true, false
	return true
}

// allows tells whether a session that is read after everything has ended may
// have this value.
func (a *attr) allows(v int) bool { return v == a.value || !a.settled && v == a.maybe }

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

// expectation is what a read has to see that begins now.
type expectation struct {
	logout removal
	attrs  map[string]int // by name, with version
	values map[string]int
}

func (r *record) expect() expectation {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := expectation{r.logout, map[string]int{}, map[string]int{}}
	for name, a := range r.attrs {
		if a.settled && a.final {
			e.attrs[name], e.values[name] = a.version, a.value
		}
	}
	return e
}

// check returns what is wrong with what a read has seen that began at e; nil
// stands for no session.
func (r *record) check(e expectation, seen map[string]any) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seen == nil {
		if r.logout == notRemoved {
			return []string{"no session, and nobody has removed it"}
		}
		return nil
	}
	if e.logout == isRemoved {
		return []string{"a session that was removed before"}
	}
	var wrong []string
	for name, version := range e.attrs {
		if a := r.attrs[name]; a.version != version {
			continue // being changed since
		}
		if got, _ := seen[name].(int); got != e.values[name] {
			wrong = append(wrong, fmt.Sprintf("attribute %s is %d, and %d was saved before", name, got, e.values[name]))
		}
	}
	return wrong
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
	unsettled    int // changes that may be there or not
	resurrected  int
	lost         int
	stale        int
	sessions     int
	checked      int // sessions that had to be there in the end
	gone         int // sessions that had to be gone in the end
	faults, lies int // calls that failed, and answers that were lost
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
