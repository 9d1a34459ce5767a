package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/sessions"
	"github.com/icza/session"
	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/verify/judge"
	"github.com/gaesession/gaesession/tier"
)

// A process is an instance of the app that can be killed.
type process struct {
	name string
	over chan struct{} // closed: it was killed
}

func newProcess(number, generation int) *process {
	return &process{name: fmt.Sprintf("i%d.%d", number, generation), over: make(chan struct{})}
}

func (i *process) instance() instance.Instance { return instance.Instance{Name: i, Over: i.over} }

func (i *process) dead() bool { return i.instance().IsOver() }

// die ends the goroutine for good if the instance was killed.
func (i *process) die() {
	if i.dead() {
		runtime.Goexit()
	}
}

// An ecosystem is a session store for one request.
type ecosystem interface {
	// load returns the session's attributes; nil: there is none, or the request
	// cannot tell.
	load(id string) map[string]any
	// create begins a new session.
	create()
	set(name string, value any)
	// close saves what has changed, and returns the id of a new session.
	close() (id string)
	remove()
}

// An exchange is one request and what it has reported.
type exchange struct {
	ecosystem
	ctx      context.Context
	cancel   context.CancelFunc
	began    time.Time
	until    time.Time // by when it has to end
	stalled  int64     // the soak's, when it began
	instance *process
	who      string
	on       *record
	async    bool

	judge *judge.Request // guarded by on.mu

	mu      sync.Mutex
	errs    []error
	noCache bool // a call of the cache failed, or was skipped
}

func (x *exchange) failed() bool { return x.err() != nil }

func (x *exchange) err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(x.errs...)
}

// missedTheCache reports whether a call of the cache failed or was skipped.
func (x *exchange) missedTheCache() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.noCache
}

func (x *exchange) onError(_ context.Context, err error) {
	if err == nil {
		return
	}
	x.mu.Lock()
	x.errs = append(x.errs, err)
	x.mu.Unlock()
	x.on.mu.Lock()
	if x.judge.Closed != 0 {
		// What other requests of the instance had in the cache was to be saved
		// along.
		x.judge.Late = true
		for _, other := range x.on.unsaved {
			if other.instance == x.instance && other.judge.Closed != 0 && other.judge.Ended == 0 {
				other.judge.Late = true
			}
		}
	}
	x.on.mu.Unlock()
	x.on.note(x.who, "error: %v", err)
}

type exchangeKey struct{}

// trace learns from the stores what a request has met.
var trace = &tier.Trace{
	Call: func(ctx context.Context, c tier.Call) {
		if x, _ := ctx.Value(exchangeKey{}).(*exchange); x != nil && c.Service == "cache" && (c.Outcome == "error" || c.Outcome == "skipped") {
			x.mu.Lock()
			x.noCache = true
			x.mu.Unlock()
			x.on.note(x.who, "cache %s: %s", c.Operation, c.Outcome)
		}
	},
	Saved: func(ctx context.Context, s tier.Save) {
		x, _ := ctx.Value(exchangeKey{}).(*exchange)
		if x == nil || s.Err != nil || s.Bytes == 0 {
			return
		}
		if work := instance.Background(ctx); work != nil {
			context.AfterFunc(work, x.saved) // the cache is still to be told
		} else {
			x.saved()
		}
	},
}

// saved notes that an asynchronous save has ended.
func (x *exchange) saved() {
	if x.instance.dead() {
		return
	}
	x.on.mu.Lock()
	defer x.on.mu.Unlock()
	if x.async && x.judge.Saving != 0 && x.judge.Ended == 0 {
		x.judge.Ended = now()
	}
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

// An icza is a request with gaesession's store.
type icza struct {
	session.Store
	sess session.Session
}

// newIcza opens a store whose calls have patience, or the default time.
func newIcza(x *exchange, refresh, patience time.Duration) *icza {
	return &icza{Store: gaesession.NewMemcacheStoreOptions(x.ctx, &gaesession.MemcacheStoreOptions{
		AsyncDatastoreSave: x.async, OnError: x.onError, RefreshInterval: refresh, Trace: trace,
		CacheTimeout: patience, BackupTimeout: patience,
	})}
}

func (s *icza) load(id string) map[string]any {
	if s.sess = s.Get(id); s.sess == nil {
		return nil
	}
	return s.sess.Attrs()
}

func (s *icza) create() {
	s.sess = session.NewSession()
	s.Add(s.sess)
}

func (s *icza) set(name string, v any) { s.sess.SetAttr(name, v) }

func (s *icza) close() string {
	s.Close()
	if s.sess == nil {
		return ""
	}
	return s.sess.ID()
}

func (s *icza) remove() { s.Remove(s.sess) }

// A gorilla is a request with cascadestore. The id of its sessions is the cookie.
type gorilla struct {
	store   *cascadestore.CascadeStore
	x       *exchange
	r       *http.Request
	sess    *sessions.Session
	unknown bool // the store could not tell whether there is a session
}

func newCascadeStore(patience time.Duration) *cascadestore.CascadeStore {
	store := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, []byte("0123456789abcdef0123456789abcdef"))
	store.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	store.Trace = trace
	store.SetMaxLength(0)
	store.CacheTimeout, store.BackupTimeout = patience, patience
	return store
}

func (s *gorilla) request(cookie string) {
	s.r = httptest.NewRequest(http.MethodGet, "/", nil).WithContext(s.x.ctx)
	if cookie != "" {
		s.r.Header.Set("Cookie", cookie)
	}
}

func (s *gorilla) load(cookie string) map[string]any {
	s.request(cookie)
	var err error
	s.sess, err = s.store.New(s.r, "s")
	s.x.onError(s.x.ctx, err)
	if err != nil {
		s.unknown = true
		return nil
	}
	if s.sess.IsNew {
		s.sess = nil
		return nil
	}
	attrs := map[string]any{}
	for name, v := range s.sess.Values {
		attrs[fmt.Sprint(name)] = v
	}
	return attrs
}

func (s *gorilla) create() {
	s.request("")
	var err error
	s.sess, err = s.store.New(s.r, "s")
	s.x.onError(s.x.ctx, err)
}

func (s *gorilla) set(name string, v any) {
	if v == nil {
		delete(s.sess.Values, name)
		return
	}
	s.sess.Values[name] = v
}

func (s *gorilla) close() string {
	if s.sess == nil {
		return ""
	}
	w := httptest.NewRecorder()
	err := s.store.Save(s.r, w, s.sess)
	if !s.unknown { // else it is the error of New again
		s.x.onError(s.x.ctx, err)
	}
	cookies := w.Result().Cookies()
	if len(cookies) == 0 {
		return ""
	}
	if s.unknown {
		s.x.onError(s.x.ctx, errReplaced)
	}
	return cookies[0].Name + "=" + cookies[0].Value
}

var errReplaced = errors.New("the cookie was replaced, though nobody can tell whether there is a session")

func (s *gorilla) remove() {
	s.sess.Options.MaxAge = -1
	s.close()
	s.sess = nil
}

// A client makes one request after another.
type client struct {
	*soak
	name     string
	rnd      *rand.Rand
	instance *process
	patience time.Duration // of its calls, and its requests have no deadlines; 0: the default
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
	mean := thinkTime
	if *silences { // times are measured
		mean = 4 * thinkTime
	}
	t := time.NewTimer(time.Duration(c.rnd.Int64N(int64(2 * mean))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}

func (c *client) request() {
	slot := c.rnd.IntN(len(c.pool))
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

// open begins a request.
func (c *client) open(r *record, refresh time.Duration) *exchange {
	c.requests++
	c.count(func(n *counts) { n.requests++ })
	x := &exchange{instance: c.instance, who: fmt.Sprintf("%s.%d", c.name, c.requests), on: r, began: time.Now(), stalled: c.stalled.Load()}
	x.async = !r.gorilla && (c.mode == "async" || c.mode == "mixed" && c.rnd.IntN(2) == 0)
	x.judge = &judge.Request{Async: x.async, Began: now()}
	x.limit(c.rnd, c.patience > 0)
	ctx := context.WithValue(x.ctx, exchangeKey{}, x)
	x.ctx = instance.With(appengine.WithAPICallFunc(ctx, x.call), c.instance.instance())
	if r.gorilla {
		x.ecosystem = &gorilla{store: c.cascade, x: x}
	} else {
		x.ecosystem = newIcza(x, refresh, c.patience)
	}
	return x
}

const (
	// overrun is by how much a request may miss its deadline.
	overrun = time.Second
	// longest is what a request may take that has no deadline: a cache that does
	// not answer, and three attempts each to load and to save at a backup that
	// fails late.
	longest = tiered.DefaultCacheTimeout + 6*tiered.DefaultBackupTimeout
	// slack is for a machine that has other work.
	slack = time.Second
)

// limit gives the request a deadline, or a client that goes away, or neither.
func (x *exchange) limit(rnd *rand.Rand, patient bool) {
	x.ctx, x.cancel = context.WithCancel(context.Background())
	if !*silences || patient {
		x.until = x.began.Add(time.Hour)
		return
	}
	switch k := rnd.IntN(10); {
	case k < 3:
		d := time.Duration(rnd.Int64N(int64(3 * time.Second)))
		x.ctx, x.cancel = context.WithTimeout(context.Background(), d)
		x.until = x.began.Add(d + overrun)
	case k < 5:
		d := time.Duration(rnd.Int64N(int64(time.Second)))
		// App Engine's client goes by the deadline alone: a call under way does
		// not end with the request.
		time.AfterFunc(d, x.cancel)
		x.until = x.began.Add(longest)
	default:
		x.until = x.began.Add(longest)
	}
}

// load gets the session and judges what is seen.
func (c *client) load(x *exchange, r *record) (found bool) {
	since := now()
	seen := x.ecosystem.load(r.id)
	c.instance.die()
	c.count(func(n *counts) { n.reads++ })
	if seen == nil && errors.Is(x.err(), gaesession.ErrUnavailable) {
		return false // it cannot be told
	}
	if err := r.check(c.lost(), since, seen, x.failed() || x.missedTheCache()); err != nil {
		c.violation(r, fmt.Sprintf("%s: a load: %v", x.who, err))
	}
	return seen != nil
}

// end closes the store and returns what was reported.
func (c *client) end(x *exchange) (id string, err error) {
	id = x.close()
	c.instance.die()
	x.cancel()
	if err = x.err(); err != nil {
		c.count(func(n *counts) { n.errors++ })
	}
	if errors.Is(err, errReplaced) {
		c.violation(x.on, fmt.Sprintf("%s: P9: %v", x.who, err))
	}
	late := time.Since(x.until) - time.Duration(c.stalled.Load()-x.stalled)
	c.count(func(n *counts) { n.latest = max(n.latest, late); n.slowest = max(n.slowest, time.Since(x.began)) })
	if late > slack {
		c.violation(x.on, fmt.Sprintf("%s: P8: it took %v, %v longer than it may", x.who, time.Since(x.began), late))
	}
	c.closed(x, err)
	return id, err
}

// closed notes that the request has returned, and judges what it reported.
func (c *client) closed(x *exchange, err error) {
	r, q := x.on, x.judge
	noCache := x.missedTheCache()
	r.mu.Lock()
	q.Closed, q.Failed, q.CacheOK = now(), err != nil, !noCache
	q.Kept = errors.Is(err, gaesession.ErrNotBackedUp) && !q.Removes
	if !x.async {
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
	c.count(func(n *counts) {
		if errors.Is(err, gaesession.ErrRemoved) {
			n.refused++
		}
		if errors.Is(err, gaesession.ErrUnavailable) {
			n.unavailable++
		}
		if q.Kept {
			n.kept++
		}
		if errors.Is(err, gaesession.ErrNotPublished) {
			n.unpublished++
		}
	})
}

func (c *client) login(slot int, old *record) {
	r := &record{gorilla: slot%2 == 1, session: judge.Session{Timeout: 30 * time.Minute, Slack: time.Minute}}
	if r.gorilla {
		r.session.Timeout = cascadestore.DefaultExpireSeconds * time.Second
	}
	x := c.open(r, 0)
	x.create()
	x.judge.Creates, x.judge.Saves = true, true
	x.does()
	id, err := c.end(x)
	if err != nil || id == "" {
		return // nobody learns of it
	}
	r.id = id
	r.note(x.who, "logged in")
	c.count(func(n *counts) { n.logins++ })
	if c.pool[slot].CompareAndSwap(old, r) {
		c.mu.Lock()
		c.all = append(c.all, r)
		c.mu.Unlock()
	}
}

func (c *client) read(r *record, refresh time.Duration) {
	x := c.open(r, refresh)
	x.on.note(x.who, "reads, refresh interval %v", refresh)
	c.load(x, r)
	_, _ = c.end(x) // it has noted the error
}

// attributesOfEach is how many attributes a client has in a session.
const attributesOfEach = 3

// change sets an attribute of the client's own, deletes it, or sets it back to
// what it was first.
func (c *client) change(r *record) {
	x := c.open(r, 0)
	name := fmt.Sprintf("%s-%d", c.name, c.rnd.IntN(attributesOfEach))
	if !c.load(x, r) {
		_, _ = c.end(x) // it has noted the error
		return
	}
	was := x.get(name)
	to := ""
	switch {
	case was != nil && c.rnd.IntN(4) == 0:
		x.set(name, nil)
	case was != nil && was != first && c.rnd.IntN(4) == 0, was == nil && c.rnd.IntN(2) == 0:
		to = first
		x.set(name, to)
	default:
		r.mu.Lock()
		r.values++
		to = fmt.Sprint(r.values)
		r.mu.Unlock()
		x.set(name, to)
	}
	x.judge.Sets, x.judge.Saves = map[string]string{name: to}, true
	x.does()
	r.note(x.who, "changes %s from %v to %q, async %v", name, was, to, x.async)
	_, err := c.end(x)
	r.note(x.who, "closed: %v", err)
	if err == nil {
		c.count(func(n *counts) { n.changes++ })
	}
}

// get returns an attribute of the session that was loaded.
func (x *exchange) get(name string) any {
	switch l := x.ecosystem.(type) {
	case *icza:
		return l.sess.Attr(name)
	case *gorilla:
		return l.sess.Values[name]
	}
	return nil
}

// first is the first value of an attribute.
const first = "first"

func (c *client) logout(r *record) {
	x := c.open(r, 0)
	if !c.load(x, r) {
		_, _ = c.end(x) // it has noted the error
		return
	}
	r.mu.Lock()
	r.logout = max(r.logout, removing)
	r.mu.Unlock()
	x.judge.Removes = true
	x.does()
	r.note(x.who, "logs out")
	x.remove()
	c.instance.die()
	if !x.failed() {
		r.note(x.who, "logged out")
		r.mu.Lock()
		r.logout = isRemoved
		r.mu.Unlock()
		c.count(func(n *counts) { n.logouts++ })
	}
	_, _ = c.end(x) // it has noted the error
}
