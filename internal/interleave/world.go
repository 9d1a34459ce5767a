//go:build go1.25

package interleave

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/judge"
	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

// A world is one schedule of a scenario: the services, the requests and what has
// happened so far. It is used in a bubble of testing/synctest, by the explorer's
// goroutine; the requests' goroutines touch it only through their calls.
type world struct {
	*bubble
	appEngine appEngine
	cache     cacheService
	backup    backupService
	scenario  scenario
	store     store
	breach    breach // how the protocol is broken
	id        string
	born      time.Time // when the session was created
	began     time.Time // when the requests began
	actors    []*actor
	session   judge.Session // what the judge knows

	mu      sync.Mutex // guards what follows against the requests' goroutines
	pending []*call
	stopped bool

	// What has happened.
	trace   []choice
	clock   judge.Time
	events  int
	expired bool // time has passed after which the session may have ended
	jumped  bool // more time has passed than a background save may take
	hurt    bool // the cache may show what is behind the backup until the next change
	down    map[string]bool
	version int // of the entity
	ttl     time.Duration

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
	crashed      bool
	issued       judge.Time // when it had loaded, and issued its first call to save
	since        time.Time  // when it began to load
	judged       bool       // its load
	fromCache    bool       // its load found a value there
	foundUnsaved bool       // of which the backup lacks something
	hits         int        // calls that were made to fail
	hurt         bool       // one of them in the cache
	down         map[string]bool
	txn          transaction
	answers      [2][]token // of the cache and of the backup
	attempt      int        // how many of the backup's there were when the transaction began
	breached     breachState
}

// A call is a request's call that is held.
type call struct {
	actor   *actor // nil: it is made at once
	ctx     context.Context
	service string // inCache or inBackup
	name    string
	prepare func()       // finds out what is not known when the call is issued
	perform func() error // makes it
	failure error        // what it answers when it is made to fail

	item      *item          // that it writes
	value     []byte         // that it writes to the backup
	got       *item          // that it read
	answer    func() []token // what else it was answered; nil: that is plain
	elsewhere bool           // it is for the session under another id
	to        *Call          // of a Database

	// App Engine's.
	method            string
	request, response []byte

	answered chan struct{}
	err      error
}

// An item is one in the cache.
type item struct {
	value []byte
	flags uint32
	cas   uint64 // which version it is
	ttl   time.Duration
}

// A record is a session's record in the backup.
type record struct {
	value   []byte
	expires time.Time
	version []byte // where the service has versions
}

// A cacheService and a backupService are the services as the explorer sees them,
// not noticed by anybody.
type cacheService interface {
	peek(id string) *item // nil: there is none
	set(id string, value []byte)
	evict(id string)
	flush()
}

type backupService interface {
	record(id string) *record // nil: there is none
	put(id string, r *record) // nil: delete it
}

// A holder is whose call it is: a request whose calls are held, or one whose
// calls are made at once.
type holder interface{ hold(*call) error }

type holderKey struct{}

func holderOf(ctx context.Context) holder { return ctx.Value(holderKey{}).(holder) }

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

// hold holds a call until the explorer has answered it.
func (a *actor) hold(c *call) error {
	c.actor, c.answered = a, make(chan struct{})
	a.worksIn(c.ctx)
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
	return c.err
}

// worksIn notes that something goes on in the background until the context ends.
func (a *actor) worksIn(ctx context.Context) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if _, isBackground := ctx.Deadline(); isBackground && !slices.Contains(a.works, ctx) {
		a.works = append(a.works, ctx)
	}
}

// pause holds a request as if at a call: a purge before it begins, since what it
// deletes depends on when that is; and one whose first call to save has the time
// of the change in it, since the app may have taken its time.
func (a *actor) pause(name string) error {
	return a.hold(&call{ctx: context.Background(), name: name, perform: func() error { return nil }})
}

// isPause reports whether it is no call.
func (c *call) isPause() bool { return c.name == "start" || c.name == "save" }

// context is that of the request, on an instance of its own as a rule.
func (a *actor) context() context.Context {
	ctx := retry.Steady(a.w.withCalls(context.WithValue(context.Background(), holderKey{}, a), a))
	if a.op.skew != 0 {
		ctx = tiered.WithClock(ctx, a.op.skew)
	}
	return tiered.OnInstance(ctx, a.instance())
}

// instance is the request whose instance this one is on.
func (a *actor) instance() *actor {
	if a.op.shared {
		return a.w.actors[slices.IndexFunc(a.w.actors, func(b *actor) bool { return b.op.shared })]
	}
	return a
}

// tiers are what a store of the request is given.
func (a *actor) tiers() tiers { return a.w.tiersOf(1+a.instance().index, a.instance()) }

// tiersOf returns the tiers on an instance, which are the same for all requests
// on it; none where they are App Engine's.
func (w *world) tiersOf(instance int, of *actor) (t tiers) {
	k := w.store.kept()
	if w.scenario.redis {
		t.cache = fencedTier{w.cache.(*fencedCache), k.Prefix}
	}
	if w.database != nil {
		t.backup = watched{w.instances[instance], of}
	}
	if t.backup == nil && t.cache != nil {
		t.backup = gae.Datastore{Kind: k.Kind, Prefix: k.Prefix, Value: k.Value, Expires: k.Expires}
	}
	if t.cache == nil && t.backup != nil {
		t.cache = gae.Memcache{Prefix: k.Prefix}
	}
	return t
}

// watched is a backup of an instance, which notes the contexts of what goes on
// in the background: those of the calls end with each call.
type watched struct {
	Instance
	of *actor // nil: nobody looks at it
}

func (b watched) watch(ctx context.Context) {
	if b.of != nil {
		b.of.worksIn(ctx)
	}
}

func (b watched) Get(ctx context.Context, id string) (*tier.Record, error) {
	b.watch(ctx)
	return b.Instance.Get(ctx, id)
}

func (b watched) Update(ctx context.Context, id string, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	b.watch(ctx)
	return b.Instance.Update(ctx, id, known, f)
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
		if a.pause("start") != nil {
			return
		}
		purge := a.w.store.purge
		if a.w.database != nil {
			purge = a.w.instances[1+a.index].Purge
		}
		if err := purge(ctx); err != nil {
			a.report(err)
		}
		a.phase = returned
		return
	}
	v := a.w.store.visit(ctx, a.tiers(), a.w.scenario, a.op, a.report, a.log)
	if a.op.login {
		a.w.id = v.create()
	} else {
		a.phase = loading
		a.saw = v.load(a.w.id)
	}
	a.phase, a.used = saving, time.Now()
	if a.w.database != nil && a.op.saves() && a.pause("save") != nil {
		return
	}
	v.act(a.op, a.op.value(a.index))
	a.newID = v.moved()
	v.close()
	a.phase = returned
}

// A request that is not held.
type request struct {
	visit
	w    *world
	down string // a service that fails
	errs []error

	mu sync.Mutex // for one call at a time
}

// hold makes the call.
func (r *request) hold(c *call) error {
	for r.w.isLocked(c) {
		time.Sleep(time.Second)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.prepare != nil {
		c.prepare()
	}
	if c.service == r.down {
		return c.failure
	}
	err := c.perform()
	r.w.changed(c, err)
	return err
}

func (w *world) newRequest(down string, o op) *request {
	r := &request{w: w, down: down}
	add := func(err error) { r.errs = append(r.errs, err) }
	ctx := w.withCalls(context.WithValue(context.Background(), holderKey{}, r), r)
	r.visit = w.store.visit(tiered.OnInstance(ctx, r), w.tiersOf(0, nil), w.scenario, o, add, func(err error) {
		if down == "" {
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
func newWorld(b *bubble, sc scenario, br breach) (*world, error) {
	w := &world{bubble: b, scenario: sc, store: sc.store(), breach: br, born: time.Now(),
		texts: map[string]string{}, down: map[string]bool{}, clock: 1}
	w.appEngine = appEngine{b.server, w.store.kept()}
	w.cache, w.backup = w.appEngine, w.appEngine
	if sc.redis {
		w.cache = &fencedCache{items: map[string]fencedItem{}, prefix: w.store.kept().Prefix, unfenced: br.unfenced}
	}
	if b.database != nil {
		w.backup = records{b.database, w.store.kept()}
		if err := b.open(2+len(sc.ops), w.store.kept()); err != nil {
			return nil, err
		}
	}
	w.session = judge.Session{Timeout: timeout, Slack: 5 * time.Minute, OnlyCache: sc.only, Timeless: sc.cascade}
	if err := w.prepare(); err != nil {
		return nil, err
	}
	if c, ok := w.cache.(*fencedCache); ok {
		c.save()
	}
	w.clock = 10
	w.began = time.Now()
	w.version = 1
	for i, o := range sc.ops {
		a := &actor{w: w, index: i, op: o, over: make(chan struct{}), down: map[string]bool{}}
		a.judge = &judge.Request{
			Creates: o.login, Removes: o.logout || o.regenerate, Async: o.async, Old: o.old, Skew: o.skew, Gone: o.purge, CacheOK: true,
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
	before := func(r judge.Request) {
		r.Began, r.Saving, r.Closed, r.Ended, r.Saves, r.Used = w.clock, w.clock, w.clock, w.clock, true, time.Now()
		r.Latest = r.Used
		w.session.Requests = append(w.session.Requests, &r)
		w.clock++
	}
	down := ""
	if start == newUnsaved {
		down = inBackup
	}
	login := w.newRequest(down, op{})
	w.id = login.create()
	login.close()
	if err := errors.Join(login.errs...); (err != nil) != (start == newUnsaved) {
		return fmt.Errorf("login: %w", err)
	}
	// What is in the cache alone, or will be, is not saved, whoever says so.
	alone := start == newUnsaved || start == oldAlone || start == outlived
	before(judge.Request{Creates: true, Sets: initial, Failed: alone, Kept: alone})
	switch start {
	case evicted:
		w.cache.evict(w.id)
	case unsaved, outlived:
		change := w.newRequest(inBackup, op{})
		change.load(w.id)
		change.act(op{attr: "c"}, "c1")
		change.close()
		if len(change.errs) == 0 {
			return errors.New("a save with the backup failing reports no error")
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
		w.backup.put(w.id, nil)
		fallthrough
	default:
		time.Sleep(age)
	}
	return nil
}

// makeOld makes the session one that the library before this one has written:
// without a trailer.
func (w *world) makeOld() error {
	tr, err := parseTrailer(w.cache.peek(w.id).value)
	if err != nil {
		return err
	}
	w.backup.put(w.id, &record{value: tr.value, expires: time.Now().Add(timeout)})
	w.cache.set(w.id, tr.value)
	return nil
}

// settle waits until nothing goes on any more without the explorer: until every
// request that goes on has a call to make.
func (w *world) settle() {
	synctest.Wait()
	for patience := 0; ; patience++ {
		if slices.ContainsFunc(w.actors, (*actor).asleep) {
			time.Sleep(5 * time.Millisecond)
		} else if w.isStuck() {
			time.Sleep(time.Second)
		} else {
			break
		}
		if patience > 20000 {
			w.fail("a request neither ends nor makes a call")
			return
		}
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

// isKept reports whether the backup alone has refused the request's change, so
// that it has to be in the cache.
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
	live := w.live()
	all := slices.DeleteFunc(slices.Clone(live), w.isLocked)
	slices.SortFunc(all, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.actor.index, b.actor.index), cmp.Compare(a.name, b.name), slices.Compare(a.request, b.request))
	})
	return all
}

// live returns the calls of the requests that have not crashed.
func (w *world) live() (all []*call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.pending {
		if c.actor.crashed {
			continue
		}
		if c.prepare != nil {
			c.prepare()
			c.prepare = nil
		}
		all = append(all, c)
	}
	return all
}

// isStuck reports whether all calls wait for a lock.
func (w *world) isStuck() bool {
	return w.database != nil && len(w.live()) > 0 && len(w.calls()) == 0
}

// hidden reports whether nobody else can notice when the call is made.
func (c *call) hidden() bool {
	switch c.name {
	case "begin":
		// The first call of a save tells when that began.
		return c.actor.judge.Saving != 0
	case "txn-put":
		return true
	case "rollback":
		return c.to == nil || !c.to.Unlocks
	}
	return c.isDown()
}

// isDown reports whether the call fails anyway.
func (c *call) isDown() bool { return c.actor.down[c.service] || c.actor.w.down[c.service] }

// writes reports whether a call whose answer is lost is another thing than one
// that was not made.
func (c *call) writes() bool {
	switch c.name {
	case "ds-put", "ds-swap", "ds-delete", "commit":
		return true
	}
	return c.item != nil
}

// peek returns the item in the cache; nil: none.
func (w *world) peek() *item { return w.cache.peek(w.id) }

// lose notes that the cache has lost the session.
func (w *world) lose() { w.session.Losses = append(w.session.Losses, w.clock) }

// apply makes a choice come true.
func (w *world) apply(ch choice) error {
	w.trace = append(w.trace, ch)
	w.clock++
	// No two changes are made at the same time, even if one of them is made a few
	// microseconds later than those that it has seen.
	time.Sleep(20 * time.Microsecond)
	if ch.kind != makeCall {
		w.events++
	}
	switch ch.kind {
	case flush:
		w.lose()
		w.cache.flush()
	case goBack:
		w.lose()
		w.cache.(*fencedCache).goBack()
	case evict:
		w.lose()
		w.cache.evict(w.id)
	case outage:
		w.down[ch.call] = true
	case minute:
		w.jumped = true
		time.Sleep(time.Minute + time.Second)
	case expireSession:
		w.jumped, w.expired = true, true
		if w.hasUnsaved() && slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.purge || a.op.old }) {
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
				a.crashed, a.judge.Died = true, w.clock
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

// hasUnsaved reports whether the cache has something that the backup lacks, or a
// request has found it there and goes on.
func (w *world) hasUnsaved() bool {
	it := w.peek()
	return it != nil && kindName(it) == "unsaved" ||
		slices.ContainsFunc(w.actors, func(a *actor) bool { return a.foundUnsaved && a.judge.Ended == 0 })
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
	if c.name == "save" {
		a.issued, a.judge.Latest = w.clock, time.Now() // a store may use it once more
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
		if c.to != nil {
			a.hits++ // each of its calls has a time of its own
		}
	case how == failCall || how == failAll:
		a.hits++
		a.hurt = a.hurt || c.service == inCache
		c.err = c.failure
	default:
		if c.name == "begin" || c.name == "ds-put" || c.name == "ds-swap" {
			a.judge.Saves = a.judge.Saves || a.phase >= saving
		}
		c.err = c.perform()
		w.changed(c, c.err)
		if c.name == "get" && a.phase == loading {
			a.fromCache = c.got != nil && c.got.flags == 0
			a.foundUnsaved = a.fromCache && kindName(c.got) == "unsaved"
		}
		if how == loseAnswer || how == loseAll {
			a.hits++
			a.hurt = a.hurt || c.service == inCache
			w.hurt = true // nobody knows that the backup has it
			c.err = c.failure
		}
	}
	if c.name == "commit" {
		a.txn.handle = nil // however it has ended
	}
	if how != makeCall && c.service == inCache && a.phase >= saving {
		// The change keeps the time that it had when the call was issued.
		a.judge.Saving = a.issued
	}
	if how != makeCall && a.phase >= saving {
		for _, b := range w.actors {
			b.judge.Retried = b.judge.Retried || b == a || a.op.shared && b.op.shared
		}
	}
	if c.err != nil && c.service == inCache {
		for _, b := range w.actors {
			b.judge.CacheOK = b.judge.CacheOK && b != a && !(a.op.shared && b.op.shared)
		}
	}
	a.remember(c)
	close(c.answered)
	if c.err != nil && w.hasCall(a) {
		// It is tried again beside another call.
		synctest.Wait()
		time.Sleep(50 * time.Millisecond)
	}
}

// changed keeps in mind what a call has changed.
func (w *world) changed(c *call, err error) {
	switch c.name {
	case "commit", "ds-put", "ds-swap", "ds-delete":
		if err == nil && !c.elsewhere {
			w.version++
		}
	}
	if c.item != nil {
		w.ttl = c.item.ttl
	}
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
		w.cache.evict(id)
		w.backup.put(id, nil)
	}
	if w.database != nil {
		w.database.Reset()
	}
	return nil
}
