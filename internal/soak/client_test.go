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
)

// An instance is a process of the app that can be killed.
type instance struct {
	name string
	gone atomic.Bool
}

func (i *instance) dead() bool { return i.gone.Load() }

// die ends the goroutine for good if the instance was killed.
func (i *instance) die() {
	if i.dead() {
		runtime.Goexit()
	}
}

// An exchange is one request and what it has reported.
type exchange struct {
	session.Store
	instance *instance
	who      string
	on       *record
	async    bool

	mu     sync.Mutex
	errs   []error
	saved  bool // a transaction was committed
	closed bool // Close has returned, and no error was reported before
}

func (x *exchange) failed() bool    { return x.err() != nil }
func (x *exchange) committed() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.saved }
func (x *exchange) published() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.closed }

func (x *exchange) err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(x.errs...)
}

func (x *exchange) onError(_ context.Context, err error) {
	x.mu.Lock()
	x.errs = append(x.errs, err)
	x.mu.Unlock()
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
		x.saved = true
		x.mu.Unlock()
	}
	return err
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
	instance *instance
	requests int
	number   int // of its changes
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
	return len(r.attrs) > 60
}

// open opens the store for a request.
func (c *client) open(r *record, o gaesession.MemcacheStoreOptions) *exchange {
	c.requests++
	c.count(func(n *counts) { n.requests++ })
	x := &exchange{instance: c.instance, who: fmt.Sprintf("%s.%d", c.name, c.requests), on: r}
	x.async = c.mode == "async" || c.mode == "mixed" && c.rnd.IntN(2) == 0
	o.AsyncDatastoreSave = x.async
	o.OnError = x.onError
	x.Store = gaesession.NewMemcacheStoreOptions(appengine.WithAPICallFunc(context.Background(), x.call), &o)
	return x
}

// load gets the session and judges what is seen.
func (c *client) load(x *exchange, r *record) session.Session {
	e := r.expect()
	sess := x.Get(r.id)
	c.instance.die()
	c.count(func(n *counts) { n.reads++ })
	if x.failed() {
		return sess
	}
	var seen map[string]any
	if sess != nil {
		seen = sess.Attrs()
	}
	for _, wrong := range r.check(e, seen) {
		r.note(x.who, "STALE: %s", wrong)
		c.violation(r, fmt.Sprintf("%s: a read saw %s", x.who, wrong), func(n *counts) { n.stale++ })
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
	x.mu.Lock()
	x.closed = len(x.errs) == 0
	x.mu.Unlock()
	return err
}

func (c *client) login(slot int, old *record) {
	sess := session.NewSession()
	r := &record{id: sess.ID(), attrs: map[string]*attr{}}
	x := c.open(r, gaesession.MemcacheStoreOptions{})
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
	sess := c.load(x, r)
	err := c.end(x)
	c.judgeRefusal(x, r, sess, err)
}

// judgeRefusal looks for changes refused though nobody removed the session.
func (c *client) judgeRefusal(x *exchange, r *record, sess session.Session, err error) {
	if !errors.Is(err, gaesession.ErrRemoved) {
		return
	}
	c.count(func(n *counts) { n.refused++ })
	if !r.isGone() {
		c.violation(r, x.who+": a change met a removal, and nobody has removed the session", func(n *counts) { n.lost++ })
	}
}

func (c *client) change(r *record) {
	x := c.open(r, gaesession.MemcacheStoreOptions{})
	sess := c.load(x, r)
	if sess == nil {
		c.end(x)
		return
	}
	name, a := c.choose(r, x)
	if a.maybe == 0 {
		sess.SetAttr(name, nil)
	} else {
		sess.SetAttr(name, a.maybe)
	}
	r.note(x.who, "changes %s from %d to %d, async %v", name, a.value, a.maybe, x.async)
	err := c.end(x)
	r.note(x.who, "closed: %v", err)
	c.judgeRefusal(x, r, sess, err)
	if err == nil && !x.async {
		r.mu.Lock()
		a.value, a.settled, a.final = a.maybe, true, true
		r.mu.Unlock()
		c.count(func(n *counts) { n.changes++ })
	}
}

// choose takes an attribute of the client's own that is settled, or a new one,
// and notes the change that is to be made to it.
func (c *client) choose(r *record, x *exchange) (string, *attr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.number++
	next := c.number
	var a *attr
	var name string
	if c.rnd.IntN(3) > 0 {
		for n, known := range r.attrs {
			if known.owner != c {
				continue
			}
			if known.resolve(false) {
				c.count(func(n *counts) { n.changes++ })
			}
			if known.settled {
				name, a = n, known
				break
			}
		}
	}
	switch {
	case a == nil:
		name = fmt.Sprintf("%s-%d", c.name, next)
		a = &attr{owner: c}
		r.attrs[name] = a
	case a.value != 0 && c.rnd.IntN(4) == 0:
		next = 0
	}
	a.maybe, a.settled, a.final, a.by = next, false, false, x
	a.version++
	return name, a
}

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
