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
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/judge"
	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/internal/tiered"
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
	session  judge.Session // what the judge knows

	mu      sync.Mutex // guards what follows against the requests' goroutines
	pending []*call
	stopped bool

	// What has happened.
	trace   []choice
	clock   judge.Time
	events  int
	expired bool // time has passed after which the session may have ended
	jumped  bool // more time has passed than a background save may take
	hurt    bool // Memcache may show what is behind Datastore until the next change
	down    map[string]bool
	version int // of the entity
	ttl     uint32

	violation error

	// Remembered, as they are needed at every step.
	texts  map[string]string // of values
	text   []token           // of the entity, at the version textOf
	textOf int
}

// What a request is doing.
type phase int

const (
	waiting phase = iota
	loading
	saving
	returned
)

// An actor is a request.
type actor struct {
	w     *world
	index int
	op    op
	judge *judge.Request
	gate  chan struct{} // nil: it may begin
	over  chan struct{} // closed when its goroutine has ended

	// Written by its goroutines, read when all of them wait.
	phase phase
	saw   *view // by its load
	newID string
	used  time.Time
	mu    sync.Mutex
	errs  []error
	logs  []error           // that were no more than logged
	works []context.Context // of what goes on in the background; guarded by w.mu

	// The explorer's.
	crashed   bool
	issued    judge.Time // when it had loaded, and issued its first call to save
	since     time.Time  // when it began to load
	judged    bool       // its load
	fromCache bool       // its load found a value there
	hits      int        // calls that were made to fail
	hurt      bool       // one of them in Memcache
	down      map[string]bool
	txn       []byte
	txnBegan  time.Time
	txnRead   int        // version of the entity it read; 0: not yet
	answers   [2][]token // of Memcache and of Datastore
	attempt   int        // how many of Datastore's there were when the transaction began
	breached  breachState
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
	if _, isBackground := ctx.Deadline(); isBackground && !slices.Contains(a.works, ctx) {
		a.works = append(a.works, ctx)
	}
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

// context is that of the request, on an instance of its own as a rule.
func (a *actor) context() context.Context {
	ctx := retry.Steady(appengine.WithAPICallFunc(context.Background(), a.call))
	if a.op.skew != 0 {
		ctx = tiered.WithClock(ctx, a.op.skew)
	}
	if a.op.shared {
		return tiered.OnInstance(ctx, a.w)
	}
	return tiered.OnInstance(ctx, a)
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
	ctx := a.context()
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
	a.phase, a.used = saving, time.Now()
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
	w := &world{service: s, scenario: sc, store: sc.store(), breach: b, born: time.Now(),
		texts: map[string]string{}, down: map[string]bool{}, clock: 1}
	w.session = judge.Session{Timeout: timeout, Slack: 5 * time.Minute, OnlyCache: sc.only, Timeless: sc.cascade}
	if err := w.prepare(); err != nil {
		return nil, err
	}
	w.clock = 10
	w.began = time.Now()
	w.version = 1
	for i, o := range sc.ops {
		a := &actor{w: w, index: i, op: o, over: make(chan struct{}), down: map[string]bool{}}
		a.judge = &judge.Request{
			Creates: o.login, Removes: o.logout || o.regenerate, Async: o.async, Old: o.old, Skew: o.skew, Gone: o.purge,
		}
		w.session.Requests = append(w.session.Requests, a.judge)
		if sc.start == created && i > 0 {
			a.gate = make(chan struct{})
		}
		w.actors = append(w.actors, a)
		go a.run()
	}
	w.settle()
	return w, nil
}

// prepare brings the session into its first state.
func (w *world) prepare() error {
	start := w.scenario.start
	if start == created {
		return nil
	}
	datastoreDown := func(service, _ string) bool { return service == "datastore_v3" }
	before := func(r judge.Request) {
		r.Began, r.Saving, r.Closed, r.Ended, r.Saves, r.Used = w.clock, w.clock, w.clock, w.clock, true, time.Now()
		r.Latest = r.Used
		w.session.Requests = append(w.session.Requests, &r)
		w.clock++
	}
	var fail func(service, method string) bool
	if start == newUnsaved {
		fail = datastoreDown
	}
	login := w.newRequest(fail, op{})
	w.id = login.create()
	login.close()
	if err := errors.Join(login.errs...); (err != nil) != (start == newUnsaved) {
		return fmt.Errorf("login: %w", err)
	}
	// What is in Memcache alone, or will be, is not saved, whoever says so.
	alone := start == newUnsaved || start == oldAlone || start == outlived
	before(judge.Request{Creates: true, Sets: initial, Failed: alone, Kept: alone})
	switch start {
	case evicted:
		w.EvictMemcache("", w.store.kept().prefix+w.id)
	case unsaved, outlived:
		change := w.newRequest(datastoreDown, op{})
		change.load(w.id)
		change.act(op{attr: "c"}, "c1")
		change.close()
		if len(change.errs) == 0 {
			return errors.New("a save with Datastore failing reports no error")
		}
		before(judge.Request{Sets: map[string]string{"c": "c1"}, Failed: true, Kept: true})
	case old, oldAlone:
		if err := w.makeOld(); err != nil {
			return err
		}
	}
	switch start {
	case idle:
		time.Sleep(idleAge)
	case outlived, oldAlone:
		if err := w.forget(); err != nil {
			return err
		}
		fallthrough
	default:
		time.Sleep(age)
	}
	return nil
}

// makeOld makes the session one that the library before this one has written:
// without a trailer.
func (w *world) makeOld() error {
	ctx := w.context(nil)
	it, err := memcache.Get(ctx, w.store.kept().prefix+w.id)
	if err != nil {
		return err
	}
	tr, err := parseTrailer(it.Value)
	if err != nil {
		return err
	}
	it.Value = tr.value
	it.Expiration = timeout
	e := datastore.PropertyList{
		{Name: w.store.kept().value, Value: tr.value, NoIndex: true},
		{Name: w.store.kept().expires, Value: time.Now().Add(timeout)},
	}
	_, err = datastore.Put(ctx, w.key(ctx, w.id), &e)
	return errors.Join(err, memcache.Set(ctx, it))
}

// settle waits until nothing goes on any more without the explorer: until every
// request that goes on has a call to make.
func (w *world) settle() {
	synctest.Wait()
	for patience := 0; slices.ContainsFunc(w.actors, (*actor).asleep); patience++ {
		if patience > 20000 {
			w.fail("a request neither ends nor makes a call")
			return
		}
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
	}
	for _, a := range w.actors {
		w.note(a)
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

// note keeps in mind for the judge what a request has done.
func (w *world) note(a *actor) {
	r := a.judge
	if a.phase >= saving && a.issued == 0 {
		a.issued = w.clock
		if a.op.shared {
			a.startsSaving() // others may make its calls
		}
	}
	if a.saw != nil && !a.judged {
		a.judged = true
		r.Gone = a.saw.none
		w.judgeLoad(a)
	}
	if r.Used = a.used; r.Latest.Before(a.used) {
		r.Latest = a.used
	}
	if a.phase == returned && r.Closed == 0 && !a.crashed {
		if r.Saving == 0 {
			r.Saving = w.clock // it had nothing to save
		}
		r.Closed, r.Failed = w.clock, a.err() != nil
		r.Kept = r.Failed && a.isKept()
	}
	if (a.op.again || a.op.old) && a.phase == saving {
		r.Latest = time.Now() // it saves when it was used once more
	}
	if r.Closed != 0 && r.Ended == 0 && !a.crashed && !slices.ContainsFunc(w.actors, func(b *actor) bool {
		return (a == b || a.op.shared && b.op.shared) && b.isWorking()
	}) {
		r.Ended, r.Late = w.clock, !r.Failed && a.err() != nil
		w.judgeEnded(a)
	}
	w.hurt = w.hurt || a.crashed || a.hurt
}

// isKept reports whether Datastore alone has refused the request's change, so
// that it has to be in Memcache.
func (a *actor) isKept() bool {
	return a.fromCache && !a.hurt && !a.w.jumped && !a.op.logout && !a.op.regenerate && !a.op.old && !a.op.shared && !a.w.isSkewed() &&
		!errors.Is(a.err(), gaesession.ErrRemoved)
}

// isSkewed reports whether the clocks of the instances differ.
func (w *world) isSkewed() bool {
	return slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.skew != 0 })
}

// startsSaving notes what the request is going to save, when it begins to.
func (a *actor) startsSaving() {
	r := a.judge
	r.Saving = a.w.clock
	switch {
	case a.op.login:
		r.Sets = initial
	case a.op.attr != "" && !a.saw.none && a.saw.attrs[a.op.attr] != a.op.value(a.index):
		r.Sets = map[string]string{a.op.attr: a.op.value(a.index)}
	}
}

// isWorking reports whether the request has begun, and it or its background work
// has not ended.
func (a *actor) isWorking() bool {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.works = slices.DeleteFunc(a.works, func(ctx context.Context) bool { return ctx.Err() != nil })
	return a.phase == loading || a.phase == saving || len(a.works) > 0 ||
		slices.ContainsFunc(a.w.pending, func(c *call) bool { return c.actor == a })
}

// asleep reports whether the request goes on when time passes.
func (a *actor) asleep() bool {
	if a.crashed || !a.isWorking() {
		return false
	}
	return !slices.ContainsFunc(a.w.actors, func(b *actor) bool {
		return (a == b || a.op.shared && b.op.shared) && a.w.hasCall(b)
	})
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
			c.describe()
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.actor.index, b.actor.index), cmp.Compare(a.name, b.name), bytes.Compare(a.request, b.request))
	})
	return all
}

// describe gives a call the name it has in a trace.
func (c *call) describe() {
	if c.name != "" {
		return
	}
	switch c.service + "." + c.method {
	case "memcache.Get":
		c.name = "get"
	case "memcache.Set":
		c.item = setItem(c.request)
		policy := map[uint64]string{policySet: "set", policyAdd: "add", policyCAS: "cas"}[c.item.policy]
		c.name = policy + ":" + kindName(c.item)
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

// hidden reports whether nobody else can notice when the call is made.
func (c *call) hidden() bool {
	switch c.name {
	case "begin", "txn-put", "rollback":
		return true
	}
	return c.isDown()
}

// isDown reports whether the call fails anyway.
func (c *call) isDown() bool { return c.actor.down[c.service] || c.actor.w.down[c.service] }

// writes reports whether a call whose answer is lost is another thing than one
// that was not made.
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

// lose notes that Memcache has lost the session.
func (w *world) lose() { w.session.Losses = append(w.session.Losses, w.clock) }

// apply makes a choice come true.
func (w *world) apply(ch choice) error {
	w.trace = append(w.trace, ch)
	w.clock++
	time.Sleep(time.Microsecond) // no two changes are made at the same time
	if ch.kind != makeCall {
		w.events++
	}
	switch ch.kind {
	case flush:
		w.lose()
		w.FlushMemcache()
	case evict:
		w.lose()
		w.EvictMemcache("", w.store.kept().prefix+w.id)
	case outage:
		w.down[ch.call] = true
	case minute:
		w.jumped = true
		time.Sleep(time.Minute + time.Second)
	case expireSession:
		w.jumped, w.expired = true, true
		if it := w.peek(); it != nil && kindName(it) == "unsaved" {
			w.session.Overdue = true
		}
		w.lose()
		if w.scenario.start == idle {
			time.Sleep(lapse)
		} else {
			time.Sleep(gone)
		}
	case crash:
		for _, a := range w.actors {
			if a.index == ch.actor || a.op.shared && w.actors[ch.actor].op.shared {
				a.crashed = true
			}
		}
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
	if a.judge.Began == 0 {
		a.judge.Began, a.since = w.clock, time.Now()
	}
	if a.phase == saving && a.judge.Saving == 0 {
		a.startsSaving()
	}
	if c.isDown() && how == makeCall {
		how = failCall
	}
	if how == failAll || how == loseAll {
		a.down[c.service] = true
	}
	switch {
	case c.ctx.Err() != nil:
		c.err = c.ctx.Err()
	case how == failCall || how == failAll:
		a.hits++
		a.hurt = a.hurt || c.service == "memcache"
		c.err = failure(c.service)
	default:
		if c.name == "begin" || c.name == "ds-put" {
			a.judge.Saves = a.judge.Saves || a.phase >= saving
		}
		c.response, c.err = w.perform(c)
		if c.name == "get" && a.phase == loading {
			it := gotItem(c.response)
			a.fromCache = it != nil && it.flags == 0
		}
		if how == loseAnswer || how == loseAll {
			a.hits++
			a.hurt = a.hurt || c.service == "memcache"
			w.hurt = true // nobody knows that Datastore has it
			c.response, c.err = nil, failure(c.service)
		}
	}
	if c.name == "commit" {
		a.txn = nil // however it has ended
	}
	if how != makeCall && c.service == "memcache" && a.phase >= saving {
		// The change keeps the time that it had when the call was issued.
		a.judge.Saving = a.issued
	}
	a.remember(c)
	close(c.answered)
	if c.err != nil && w.hasCall(a) {
		// It is tried again beside another call.
		synctest.Wait()
		time.Sleep(50 * time.Millisecond)
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
		a.txn, a.txnBegan, a.txnRead = response, time.Now(), 0
	case "rollback":
		a.txn = nil
	}
	w.changed(c, err)
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

// changed keeps in mind what a call has changed.
func (w *world) changed(c *call, err error) {
	switch c.name {
	case "commit", "ds-put", "ds-delete":
		if err == nil && !c.actor.isMoving(c) {
			w.version++
		}
	}
	if c.item != nil {
		w.ttl = c.item.expiration
	}
}

// isMoving reports whether a call is for the session under the request's new id.
func (a *actor) isMoving(c *call) bool {
	return a.newID != "" && bytes.Contains(c.request, []byte(a.newID))
}

// ids are all that the session has had.
func (w *world) ids() []string {
	ids := []string{w.id}
	for _, a := range w.actors {
		if a.newID != "" {
			ids = append(ids, a.newID)
		}
	}
	return ids
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
	// Background work ends by itself when its calls fail.
	if err := gaesession.Drain(context.Background()); err != nil || w.id == "" {
		return err
	}
	for _, id := range w.ids() {
		w.EvictMemcache("", w.store.kept().prefix+id)
	}
	return w.forget()
}
