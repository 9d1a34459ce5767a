package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/judge"
)

// A process is an instance of the app that can be killed.
type process struct {
	name string
	gone atomic.Bool
}

func (i *process) dead() bool { return i.gone.Load() }

// die ends the goroutine for good if the instance was killed.
func (i *process) die() {
	if i.dead() {
		runtime.Goexit()
	}
}

// An exchange is one request and what it has reported.
type exchange struct {
	session.Store
	instance *process
	who      string
	on       *record
	async    bool

	judge *judge.Request // guarded by on.mu

	mu         sync.Mutex
	errs       []error
	background int  // calls whose work in the background goes on
	committed  bool // a transaction
}

func (x *exchange) failed() bool { return x.err() != nil }

func (x *exchange) err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(x.errs...)
}

func (x *exchange) onError(_ context.Context, err error) {
	x.mu.Lock()
	x.errs = append(x.errs, err)
	x.mu.Unlock()
	x.on.mu.Lock()
	x.judge.Late = x.judge.Closed != 0
	x.on.mu.Unlock()
	x.on.note(x.who, "error: %v", err)
}

// call is every call of the request and of its background save.
func (x *exchange) call(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	if x.instance.dead() {
		if method == "Rollback" {
			return errors.New("killed") // in a deferred call
		}
		x.on.note(x.who, "killed before %s", method)
		runtime.Goexit()
	}
	if work := instance.Background(ctx); work != nil {
		x.mu.Lock()
		x.background++
		x.mu.Unlock()
		context.AfterFunc(work, func() { time.AfterFunc(grace, x.ended) })
	}
	err := appengine.APICall(ctx, service, method, in, out)
	if x.instance.dead() {
		if method == "Rollback" {
			return errors.New("killed")
		}
		x.on.note(x.who, "killed after %s: %v", method, err)
		runtime.Goexit()
	}
	x.on.note(x.who, "%s %s%v", method, ofItem(in, out), err)
	if method == "Commit" && err == nil {
		x.mu.Lock()
		x.committed = true
		x.mu.Unlock()
	}
	return err
}

// grace is longer than it takes to report an error of background work after its
// context has ended.
const grace = 50 * time.Millisecond

// ended notes that the work of a call in the background has ended.
func (x *exchange) ended() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.background--; x.background > 0 || x.instance.dead() {
		return
	}
	x.on.mu.Lock()
	defer x.on.mu.Unlock()
	if x.judge.Closed != 0 {
		x.judge.Ended = now()
	}
}

// ofItem is what the trace tells of a Memcache item: its flags.
func ofItem(in, out protoadapt.MessageV1) string {
	var b strings.Builder
	for _, m := range []protoadapt.MessageV1{in, out} {
		if m == nil {
			continue
		}
		for _, f := range strings.Fields(m.String()) {
			if strings.HasPrefix(f, "flags:") || strings.HasPrefix(f, "set_policy:") || strings.HasPrefix(f, "set_status:") || strings.HasPrefix(f, "cas_id:") {
				b.WriteString(f + " ")
			}
		}
	}
	return b.String()
}

// A client makes one request after another.
type client struct {
	*soak
	name     string
	rnd      *rand.Rand
	instance *process
	requests int
}

// run goes on until the soak ends or the instance is killed.
func (c *client) run() {
	for c.ctx.Err() == nil {
		c.think()
		c.instance.die()
		c.request()
	}
}

func (c *client) think() {
	t := time.NewTimer(time.Duration(c.rnd.Int64N(int64(2 * thinkTime))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}

func (c *client) request() {
	slot := c.rnd.IntN(sessions)
	if c.rnd.IntN(8) == 0 {
		slot = c.rnd.IntN(hotSessions)
	}
	r := c.pool[slot].Load()
	switch {
	case r == nil, r.isGone() && c.rnd.IntN(3) == 0, c.rnd.IntN(50) == 0 && r.isLarge():
		c.login(slot, r)
		return
	}
	defer func() {
		if c.instance.dead() {
			c.count(func(n *counts) { n.killed++ })
		}
	}()
	switch k := c.rnd.IntN(100); {
	case k < 50:
		c.change(r)
	case k < 90:
		c.read(r, 0)
	case k < 97:
		c.read(r, -1)
	default:
		c.logout(r)
	}
}

func (r *record) isGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logout != notRemoved
}

// isLarge tells that a session is to make way for a new one.
func (r *record) isLarge() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.session.Requests) > 150
}

// open opens the store for a request.
func (c *client) open(r *record, o gaesession.MemcacheStoreOptions) *exchange {
	c.requests++
	c.count(func(n *counts) { n.requests++ })
	x := &exchange{instance: c.instance, who: fmt.Sprintf("%s.%d", c.name, c.requests), on: r}
	x.async = c.mode == "async" || c.mode == "mixed" && c.rnd.IntN(2) == 0
	o.AsyncDatastoreSave = x.async
	o.OnError = x.onError
	x.judge = &judge.Request{Async: x.async, Began: now()}
	ctx := instance.With(appengine.WithAPICallFunc(context.Background(), x.call), instance.Instance{Name: c.instance})
	x.Store = gaesession.NewMemcacheStoreOptions(ctx, &o)
	return x
}

// load gets the session and judges what is seen.
func (c *client) load(x *exchange, r *record) session.Session {
	since := now()
	sess := x.Get(r.id)
	c.instance.die()
	c.count(func(n *counts) { n.reads++ })
	var seen map[string]any
	if sess != nil {
		seen = sess.Attrs()
	}
	if x.failed() && seen == nil {
		return nil // it cannot be told
	}
	if err := r.check(c.lost(), since, seen, x.failed()); err != nil {
		c.violation(r, fmt.Sprintf("%s: a load: %v", x.who, err))
	}
	return sess
}

// end closes the store and returns what was reported.
func (c *client) end(x *exchange) error {
	x.Close()
	c.instance.die()
	err := x.err()
	if err != nil {
		c.count(func(n *counts) { n.errors++ })
	}
	c.closed(x, err)
	return err
}

// closed notes that the request has returned, and judges what it reported.
func (c *client) closed(x *exchange, err error) {
	x.mu.Lock()
	// Background work may not have made its first call yet.
	isOver := x.background == 0 && (!x.async || x.committed)
	x.mu.Unlock()
	r, q := x.on, x.judge
	r.mu.Lock()
	q.Closed, q.Failed = now(), err != nil
	if isOver {
		q.Ended = q.Closed
	}
	wrong := r.session.CheckSuccess(q)
	if errors.Is(err, gaesession.ErrRemoved) {
		wrong = r.session.CheckRefusal(q, time.Now())
	}
	r.mu.Unlock()
	if wrong != nil {
		c.violation(r, fmt.Sprintf("%s: %v", x.who, wrong))
	}
	if errors.Is(err, gaesession.ErrRemoved) {
		c.count(func(n *counts) { n.refused++ })
	}
}

func (c *client) login(slot int, old *record) {
	sess := session.NewSession()
	r := &record{id: sess.ID(), session: judge.Session{Timeout: sess.Timeout(), Slack: time.Minute}}
	x := c.open(r, gaesession.MemcacheStoreOptions{})
	x.judge.Creates, x.judge.Saves = true, true
	r.does(x.judge)
	x.Add(sess)
	if c.end(x) != nil {
		return // nobody learns of it
	}
	r.note(x.who, "logged in")
	c.count(func(n *counts) { n.logins++ })
	if c.pool[slot].CompareAndSwap(old, r) {
		c.mu.Lock()
		c.all = append(c.all, r)
		c.mu.Unlock()
	}
}

func (c *client) read(r *record, refresh time.Duration) {
	x := c.open(r, gaesession.MemcacheStoreOptions{RefreshInterval: refresh})
	x.on.note(x.who, "reads, refresh interval %v", refresh)
	c.load(x, r)
	c.end(x)
}

// attributesOfEach is how many attributes a client has in a session.
const attributesOfEach = 3

// change sets an attribute of the client's own, deletes it, or sets it back to
// what it was first.
func (c *client) change(r *record) {
	x := c.open(r, gaesession.MemcacheStoreOptions{})
	sess := c.load(x, r)
	if sess == nil {
		c.end(x)
		return
	}
	name := fmt.Sprintf("%s-%d", c.name, c.rnd.IntN(attributesOfEach))
	was := sess.Attr(name)
	to := ""
	switch {
	case was != nil && c.rnd.IntN(4) == 0:
		sess.SetAttr(name, nil)
	case was != nil && was != first && c.rnd.IntN(4) == 0, was == nil && c.rnd.IntN(2) == 0:
		to = first
		sess.SetAttr(name, to)
	default:
		r.mu.Lock()
		r.values++
		to = fmt.Sprint(r.values)
		r.mu.Unlock()
		sess.SetAttr(name, to)
	}
	x.judge.Sets, x.judge.Saves = map[string]string{name: to}, true
	r.does(x.judge)
	r.note(x.who, "changes %s from %v to %q, async %v", name, was, to, x.async)
	err := c.end(x)
	r.note(x.who, "closed: %v", err)
	if err == nil {
		c.count(func(n *counts) { n.changes++ })
	}
}

// first is the first value of an attribute.
const first = "first"

func (c *client) logout(r *record) {
	x := c.open(r, gaesession.MemcacheStoreOptions{})
	sess := c.load(x, r)
	if sess == nil {
		c.end(x)
		return
	}
	r.mu.Lock()
	r.logout = max(r.logout, removing)
	r.mu.Unlock()
	x.judge.Removes = true
	r.does(x.judge)
	r.note(x.who, "logs out")
	x.Remove(sess)
	c.instance.die()
	ok := !x.failed()
	if ok {
		r.note(x.who, "logged out")
		r.mu.Lock()
		r.logout = isRemoved
		r.mu.Unlock()
		c.count(func(n *counts) { n.logouts++ })
	}
	c.end(x)
}
