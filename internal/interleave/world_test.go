//go:build go1.25

package interleave

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/gaesession/gaesession"
)

// A world is one schedule of a scenario: the services, the requests and what has
// happened so far. It is used in a bubble of testing/synctest, by the explorer's
// goroutine; the requests' goroutines touch it only through their calls.
type world struct {
	service
	scenario scenario
	store    store
	breach   breach // how the protocol is broken; nil: not at all
	id       string
	born     time.Time // when the session was created
	began    time.Time // when the requests began
	actors   []*actor

	mu      sync.Mutex // guards what follows against the requests' goroutines
	pending []*call
	stopped bool

	// What has happened.
	trace   []choice
	events  int
	lossy   bool // what Memcache alone had may be lost, or out of sight
	forgot  bool // Memcache has lost the session
	deleted bool // a request has deleted it from Memcache, could not ask for it, or has waited too long for a lock
	expired bool // the session has expired, whoever used it
	lapsed  bool // it has expired, unless a request has saved it
	jumped  bool // more time has passed than a background save may take
	closed  mask // requests that have returned
	ended   mask // those whose background save has ended, too, or that crashed
	acked   mask // those that ended and reported no error
	stale   bool // an item was put again that should have expired meanwhile
	moved   mask // those that have given the session a new id
	version int  // of the entity
	ttl     uint32
	noisy   *actor // whose last call was answered in a way after which it may be tried again

	violation error

	// Remembered, as they are needed at every step.
	texts  map[string]string // of values
	text   string            // of the entity, at the version textOf
	textOf int
}

// A mask is a set of requests.
type mask uint

func (m mask) has(i int) bool { return m>>i&1 == 1 }

func bit(i int) mask { return 1 << i }

// What a request is doing.
type phase int

const (
	waiting phase = iota
	loading
	saving
	returned
)

// known is what is known at an instant about what has been saved.
type known struct {
	begun                 bool
	closed, ended, acked  mask
	moved                 mask
	expired, lossy, event bool
}

// An actor is a request.
type actor struct {
	w     *world
	index int
	op    op
	gate  chan struct{} // nil: it may begin
	over  chan struct{} // closed when its goroutine has ended

	// Written by its goroutines, read when all of them wait.
	phase phase
	saw   *view // by its load
	newID string
	mu    sync.Mutex
	errs  []error
	logs  []error // that were no more than logged

	// The explorer's.
	at       [returned]known // when the first call of a phase was made
	crashed  bool
	failed   bool // it has reported an error
	judged   bool // its load
	saved    bool // it has begun a transaction
	hits     int  // calls that were made to fail
	outage   outage
	noises   int
	txn      []byte
	txnBegan time.Time
	txnRead  int        // version of the entity it read; 0: not yet
	answers  [2][]token // of Memcache and of Datastore
	attempt  [2]int     // how many there were when the transaction began
	polls    int        // transactions that its background save has put off
	breached breachState
}

// A call is a request's call that is held.
type call struct {
	actor           *actor
	ctx             context.Context
	service, method string
	request         []byte
	item            *item // of a memcache Set
	name            string
	answered        chan struct{}
	late            bool // it is a Set that was to be made before the session expired
	response        []byte
	err             error
}

func (a *actor) report(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errs = append(a.errs, err)
}

func (a *actor) log(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.logs = append(a.logs, err)
}

var errStopped = errors.New("the request was stopped")

// call holds a call until the explorer has answered it.
func (a *actor) call(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	request, err := proto.Marshal(protoadapt.MessageV2Of(in))
	if err != nil {
		return err
	}
	c := &call{actor: a, ctx: ctx, service: service, method: method, request: request, answered: make(chan struct{})}
	a.w.mu.Lock()
	stopped := a.w.stopped
	if !stopped {
		a.w.pending = append(a.w.pending, c)
	}
	a.w.mu.Unlock()
	if stopped {
		return errStopped
	}
	<-c.answered
	if c.err != nil {
		return c.err
	}
	return proto.Unmarshal(c.response, protoadapt.MessageV2Of(out))
}

// begin holds a request before it does anything, as if at a call: what a purge
// deletes depends on when it begins.
func (a *actor) begin() error {
	return a.call(context.Background(), "", "start", &emptypb.Empty{}, &emptypb.Empty{})
}

// run is the goroutine of a request.
func (a *actor) run() {
	defer close(a.over)
	if a.gate != nil {
		<-a.gate
		if a.w.isStopped() {
			return
		}
	}
	ctx := appengine.WithAPICallFunc(context.Background(), a.call)
	if a.op.purge {
		a.phase = saving
		if a.begin() != nil {
			return
		}
		if err := a.w.store.purge(ctx); err != nil {
			a.report(err)
		}
		a.phase = returned
		return
	}
	v := a.w.store.visit(ctx, a.w.scenario, a.op, a.report, a.log)
	if a.op.login {
		a.w.id = v.create()
	} else {
		a.phase = loading
		a.saw = v.load(a.w.id)
	}
	a.phase = saving
	v.act(a.op, a.op.value(a.index))
	a.newID = v.moved()
	v.close()
	a.phase = returned
}

// A request that is not held.
type request struct {
	visit
	errs []error
}

func (w *world) newRequest(fail func(service, method string) bool, o op) *request {
	r := &request{}
	add := func(err error) { r.errs = append(r.errs, err) }
	r.visit = w.store.visit(w.context(fail), w.scenario, o, add, func(err error) {
		if fail == nil {
			add(err)
		}
	})
	return r
}

func (w *world) isStopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}

// newWorld brings the session into the scenario's first state and begins the
// requests.
func newWorld(s service, sc scenario, b breach) (*world, error) {
	w := &world{service: s, scenario: sc, store: sc.store(), breach: b, born: time.Now(), texts: map[string]string{}}
	if sc.start != created {
		login := w.newRequest(func(service, _ string) bool { return sc.start == unsaved && service == "datastore_v3" }, op{})
		w.id = login.create()
		login.close()
		if err := errors.Join(login.errs...); (err != nil) != (sc.start == unsaved) {
			return nil, fmt.Errorf("login: %w", err)
		}
	}
	switch sc.start {
	case evicted:
		w.FlushMemcache()
	case ahead, outlived:
		change := w.newRequest(func(service, _ string) bool { return service == "datastore_v3" }, op{async: sc.async()})
		change.load(w.id)
		change.act(op{attr: "c"}, "c1")
		change.close()
		if err := w.drain(); err != nil {
			return nil, fmt.Errorf("background save: %w", err)
		}
		if len(change.errs) != 1 {
			return nil, fmt.Errorf("save with Datastore failing: got errors %v, want one", change.errs)
		}
	}
	switch sc.start {
	case created:
	case idle:
		time.Sleep(idleAge)
	case outlived:
		if err := w.forget(); err != nil {
			return nil, err
		}
		fallthrough
	default:
		time.Sleep(age)
	}
	w.began = time.Now()
	w.version = 1
	for i, o := range sc.ops {
		a := &actor{w: w, index: i, op: o, over: make(chan struct{})}
		if sc.start == created && i > 0 {
			a.gate = make(chan struct{})
		}
		w.actors = append(w.actors, a)
		go a.run()
	}
	w.settle()
	return w, nil
}

// settle waits until nothing goes on any more without the explorer.
func (w *world) settle() {
	synctest.Wait()
	if a := w.noisy; a != nil {
		w.noisy = nil
		w.awaitRetry(a)
	}
	for patience := 0; w.idle() && w.asleep(); patience++ {
		if patience > 10000 {
			w.fail("a request neither ends nor makes a call")
			return
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	for _, a := range w.actors {
		i := a.index
		if a.saw != nil && !a.judged {
			a.judged = true
			w.judgeLoad(a)
		}
		if a.phase == returned && !a.crashed {
			w.closed |= bit(i)
		}
		if a.newID != "" && a.err() == nil {
			w.moved |= bit(i)
		}
		if a.crashed || a.phase == returned && !w.hasCall(a) {
			if !w.ended.has(i) && !a.crashed {
				w.judgeErrors(a)
			}
			if a.failed = a.err() != nil; !a.failed && !a.crashed {
				w.acked |= bit(i)
			}
			w.ended |= bit(i)
		}
	}
	if first := w.actors[0]; w.scenario.start == created && first.phase == returned {
		for _, a := range w.actors {
			if a.gate != nil && a.phase == waiting && !isClosed(a.gate) {
				close(a.gate)
				defer w.settle()
			}
		}
	}
}

// canceled is a context that is done.
var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// awaitRetry lets time pass until a request that may try again has done so.
func (w *world) awaitRetry(a *actor) {
	// Longer than the store waits before its next retry. A request whose
	// goroutines run side by side may have another call to make meanwhile.
	time.Sleep(a.patience())
	synctest.Wait()
	for waited := time.Duration(0); a.phase == returned && waited < 4*time.Second; waited += 50 * time.Millisecond {
		if w.hasCall(a) || !w.scenario.async() || gaesession.Drain(canceled) == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (a *actor) hasLogged() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.logs) > 0
}

func (a *actor) err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.errs...)
}

// idle tells that no call can be made.
func (w *world) idle() bool { return len(w.calls()) == 0 }

// asleep tells that a request has begun and not returned, or that a background
// save goes on.
func (w *world) asleep() bool {
	if w.scenario.async() && gaesession.Drain(canceled) != nil && !slices.ContainsFunc(w.actors, func(a *actor) bool { return a.crashed }) {
		return true
	}
	return slices.ContainsFunc(w.actors, func(a *actor) bool {
		return !a.crashed && (a.phase == loading || a.phase == saving)
	})
}

func (w *world) hasCall(a *actor) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.pending, func(c *call) bool { return c.actor == a })
}

// calls returns the calls that can be made, named and in order.
func (w *world) calls() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*call
	for _, c := range w.pending {
		if !c.actor.crashed {
			if c.name == "" {
				c.describe()
			}
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.actor.index, b.actor.index), cmp.Compare(a.name, b.name), bytes.Compare(a.request, b.request))
	})
	return all
}

var kinds = []string{"value", "lock", "removed", "ahead", "settled"}

func kindName(flags uint32) string {
	if int(flags) < len(kinds) {
		return kinds[flags]
	}
	return fmt.Sprint("flags", flags)
}

// describe gives a call the name it has in a trace.
func (c *call) describe() {
	switch c.service + "." + c.method {
	case "memcache.Get":
		c.name = "get"
	case "memcache.Set":
		c.item = setItem(c.request)
		policy := map[uint64]string{policySet: "set", policyAdd: "add", policyCAS: "cas"}[c.item.policy]
		c.name = policy + ":" + kindName(c.item.flags)
	case "memcache.Delete":
		c.name = "delete"
	case "datastore_v3.BeginTransaction":
		c.name = "begin"
	case "datastore_v3.Commit":
		c.name = "commit"
	case "datastore_v3.Rollback":
		c.name = "rollback"
	case "datastore_v3.RunQuery":
		c.name = "query"
	case "datastore_v3.Next":
		c.name = "next"
	case "datastore_v3.Get", "datastore_v3.Put", "datastore_v3.Delete":
		c.name = map[string]string{"Get": "ds-get", "Put": "ds-put", "Delete": "ds-delete"}[c.method]
		if c.actor.txn != nil {
			c.name = "txn" + c.name[2:]
		}
	case ".start":
		c.name = "start"
	default:
		c.name = c.service + "." + c.method
	}
}

// hidden tells that nobody else can notice when the call is made.
func (c *call) hidden() bool {
	switch c.name {
	case "begin", "txn-put", "rollback":
		return true
	}
	return false
}

// writes tells that a call whose answer is lost is another thing than one that
// was not made.
func (c *call) writes() bool {
	switch c.name {
	case "delete", "ds-put", "ds-delete", "commit":
		return true
	}
	return c.item != nil
}

// peek returns the item in Memcache; nil: none.
func (w *world) peek() *item {
	return w.peekAt(w.id)
}

func (w *world) peekAt(id string) *item {
	response, err := w.call("memcache", "Get", peekRequest(w.store.kept().prefix+id))
	if err != nil {
		panic(err)
	}
	return gotItem(response)
}

// apply makes a choice come true.
func (w *world) apply(ch choice) error {
	w.trace = append(w.trace, ch)
	if ch.kind != makeCall {
		w.events++
	}
	switch ch.kind {
	case flush:
		w.lossy, w.forgot = true, true
		w.FlushMemcache()
	case evict:
		w.lossy, w.forgot = true, true
		w.EvictMemcache("", w.store.kept().prefix+w.id)
	case expireLock:
		w.lossy, w.jumped = true, true
		time.Sleep(time.Minute + time.Second)
	case expireSession:
		for _, c := range w.calls() {
			c.late = c.item != nil
		}
		w.lossy, w.forgot, w.jumped = true, true, true
		if w.scenario.start == idle {
			w.lapsed = true
			time.Sleep(lapse)
		} else {
			w.expired = true
			time.Sleep(gone)
		}
	case crash:
		w.lossy = true
		w.actors[ch.actor].crashed = true
	default:
		calls := w.calls()
		i := slices.IndexFunc(calls, func(c *call) bool { return c.actor.index == ch.actor && c.name == ch.call })
		if i < 0 {
			return fmt.Errorf("no such call to be made: %v", ch)
		}
		w.make(calls[i], ch.kind)
	}
	w.settle()
	return nil
}

// make makes a call and gives its answer to the request that waits for it.
func (w *world) make(c *call, how kind) {
	a := c.actor
	w.mu.Lock()
	w.pending = slices.DeleteFunc(w.pending, func(p *call) bool { return p == c })
	w.mu.Unlock()
	if a.phase < returned && !a.at[a.phase].begun {
		now := w.known()
		a.at[a.phase] = now
	}
	how = a.outage.next(c, how)
	switch {
	case c.ctx.Err() != nil:
		c.err = c.ctx.Err()
	case how == failCall:
		a.hits++
		w.deleted = w.deleted || c.service == "memcache"
		c.err = failure(c.service)
	default:
		c.response, c.err = w.perform(c)
		if how == loseAnswer {
			a.hits++
			c.response, c.err = nil, failure(c.service)
		}
	}
	w.stale = w.stale || c.late && c.err != nil
	if c.name == "commit" {
		a.txn = nil // however it has ended
	}
	// A rollback is made after an attempt that was given up.
	if c.err != nil || c.name == "rollback" || c.service == "memcache" && c.method == "Set" && setStatus(c.response) != 1 {
		w.noisy = a
	}
	a.remember(c)
	close(c.answered)
}

func (w *world) known() known {
	return known{
		begun: true, closed: w.closed, ended: w.ended, acked: w.acked, moved: w.moved,
		expired: w.expired, lossy: w.lossy, event: w.events > 0,
	}
}

// perform makes a call on the service.
func (w *world) perform(c *call) ([]byte, error) {
	a, request := c.actor, c.request
	if c.name == "start" {
		return nil, nil
	}
	if w.breach != nil {
		if response, err, done := w.breach(w, c); done {
			return response, err
		}
	}
	switch c.name {
	case "txn-get", "txn-put", "commit":
		if time.Since(a.txnBegan) > transactionTime {
			return nil, w.expireTransaction(c)
		}
	}
	switch c.name {
	case "txn-get", "txn-put":
		request = withTransaction(request, a.txn)
		if c.name == "txn-get" && a.txnRead == 0 {
			a.txnRead = w.version
		}
	}
	response, err := w.call(c.service, c.method, request)
	switch c.name {
	case "begin":
		a.txn, a.txnBegan, a.txnRead, a.saved = response, time.Now(), 0, true
	case "rollback":
		a.txn = nil
	}
	w.note(c, err)
	return response, err
}

// transactionTime is how long a transaction of Datastore may take.
// https://cloud.google.com/datastore/docs/concepts/cloud-datastore-transactions
const transactionTime = 270 * time.Second

// expireTransaction is the answer of a call in a transaction that has taken too
// long, which is not tried again.
func (w *world) expireTransaction(c *call) error {
	a := c.actor
	a.hits = w.scenario.retries
	if c.name == "commit" { // no rollback follows
		a.txn = nil
		if _, err := w.call("datastore_v3", "Rollback", c.request); err != nil {
			return err
		}
	}
	return newAPIError("datastore_v3", 1, "the transaction has expired")
}

// note keeps in mind what a call has changed.
func (w *world) note(c *call, err error) {
	switch c.name {
	case "commit", "ds-put", "ds-delete":
		if err == nil && !c.actor.isMoving(c) {
			w.version++
		}
	}
	if c.item != nil {
		w.ttl = c.item.expiration
	}
	w.deleted = w.deleted || c.name == "delete"
}

func (w *world) fail(format string, args ...any) {
	if w.violation == nil {
		w.violation = fmt.Errorf(format, args...)
	}
}

// stop ends the requests' goroutines, and forgets the session.
func (w *world) stop() error {
	w.mu.Lock()
	w.stopped = true
	pending := w.pending
	w.pending = nil
	w.mu.Unlock()
	for _, c := range pending {
		c.err = errStopped
		close(c.answered)
	}
	for _, a := range w.actors {
		if a.gate != nil && !isClosed(a.gate) {
			close(a.gate)
		}
	}
	for _, a := range w.actors {
		<-a.over
	}
	if err := w.drain(); err != nil {
		return err
	}
	for _, id := range w.ids() {
		w.EvictMemcache("", w.store.kept().prefix+id)
	}
	return w.forget()
}

// drain waits for background saves, of which only scenarios with some may ask.
func (w *world) drain() error {
	if !w.scenario.async() {
		return nil
	}
	return gaesession.Drain(context.Background())
}
