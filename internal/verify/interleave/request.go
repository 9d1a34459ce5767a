//go:build go1.25

package interleave

import (
	"context"
	"errors"
	"iter"

	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/judge"
	"github.com/gaesession/gaesession/tier"
)

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
	phase     phase
	saw       *view  // by its load
	sawSecond *view  // of the other session
	newID     string // that the app has been told
	used      time.Time
	mu        sync.Mutex
	errs      []error
	logs      []error           // that were no more than logged
	works     []context.Context // of what goes on in the background; guarded by w.mu

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
	txns         map[uint64]*transaction
	answers      map[string][]token // in the order in which they came, by what they are about
	attempts     map[string]int     // how many there were when the last transaction began
	breached     breachState
	ended        context.Context // the request's
	cancel       func()
	largest      int    // bytes of the session that the backup has had since it began
	target       string // the id that it moves the session to, or begins one under
	isAlices     bool   // the session under that
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

// hold holds a call until the explorer has answered it.
func (a *actor) hold(c *call) error {
	c.actor, c.answered, c.work = a, make(chan struct{}), workOf(c.ctx)
	a.notes(c.work)
	w := a.w
	w.mu.Lock()
	isProbe := slices.Contains(c.ids, probeID)
	stopped, free := w.stopped && !isProbe, w.free && !a.crashed || isProbe
	if !stopped && !free {
		w.pending = append(w.pending, c)
		w.moves++
	}
	w.mu.Unlock()
	switch {
	case stopped:
		return errStopped
	case free:
		return w.makeAtOnce(c, "")
	}
	<-c.answered
	return c.err
}

// worksIn notes that something goes on in the background until the context ends.
func (a *actor) worksIn(ctx context.Context) { a.notes(workOf(ctx)) }

// notes is worksIn of background work; nil: there is none.
func (a *actor) notes(work context.Context) {
	if work == nil {
		return
	}
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if !slices.Contains(a.works, work) {
		a.works = append(a.works, work)
	}
}

// workOf returns the context that ends with the background work which a call is
// part of: the outermost with a deadline that does not end with the request. Nil:
// the call is the request's.
func workOf(ctx context.Context) (work context.Context) {
	for ctx, kind := range ancestors(ctx) {
		switch kind {
		case "timerCtx":
			work = ctx
		case "withoutCancelCtx":
			return work
		}
	}
	return nil
}

// isDetached reports whether a call goes on when the request has ended.
func isDetached(ctx context.Context) bool {
	for _, kind := range ancestors(ctx) {
		if kind == "withoutCancelCtx" {
			return true
		}
	}
	return false
}

// ancestors are a context and those that it was made from, with the names of
// their types, as far as they can be told.
func ancestors(ctx context.Context) iter.Seq2[context.Context, string] {
	return func(yield func(context.Context, string) bool) {
		for {
			v := reflect.Indirect(reflect.ValueOf(ctx))
			form := formOf(v.Type())
			if !yield(ctx, form.name) || form.parent == nil {
				return
			}
			parent := v.FieldByIndex(form.parent)
			if parent.IsNil() {
				return
			}
			ctx = parent.Interface().(context.Context)
		}
	}
}

// A contextForm is what of a type of contexts is asked for: its name, and where its
// fields are, nil: it has no such field. To look for them each time takes longer than
// all else that is done about a call.
type contextForm struct {
	name          string
	parent, value []int
}

var contextForms sync.Map // of *contextForm, by type

func formOf(t reflect.Type) *contextForm {
	if known, ok := contextForms.Load(t); ok {
		return known.(*contextForm)
	}
	form := &contextForm{name: t.Name()}
	if t.Kind() == reflect.Struct {
		if f, ok := t.FieldByName("Context"); ok && f.Type == reflect.TypeFor[context.Context]() {
			form.parent = f.Index
		}
		if f, ok := t.FieldByName("val"); ok && f.Type.Kind() == reflect.Interface {
			form.value = f.Index
		}
	}
	contextForms.Store(t, form)
	return form
}

// pause holds a request as if at a call: a purge before it begins, since what it
// deletes depends on when that is; and one whose first call to save has the time
// of the change in it, since the app may have taken its time.
func (a *actor) pause(name string) error {
	return a.hold(&call{ctx: context.Background(), name: name, perform: func() error { return nil }})
}

// context is that of the request, on an instance of its own as a rule.
func (a *actor) context() context.Context {
	ctx := a.w.withCalls(context.WithValue(a.ended, holderKey{}, a), a)
	return instance.With(ctx, instance.Instance{Name: instanceName{"request", a.instance().index, generation.Load()}, Ahead: a.op.skew, Steady: true, Over: a.w.over})
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
	small := w.scenario.small
	if t.backup == nil && (t.cache != nil || small) {
		t.backup = gae.Datastore{Kind: k.Kind, Prefix: k.Prefix, Value: k.Value, Expires: k.Expires}
	}
	if t.cache == nil && t.backup != nil {
		t.cache = gae.Memcache{Prefix: k.Prefix}
	}
	if small {
		t.cache, t.backup = smallCache{t.cache, w}, smallBackup{t.backup, w}
	}
	return t
}

// watched is a backup of an instance, which notes the contexts of what goes on
// in the background: those of the calls end with each call. It copies whatever
// it is given and hands on, so that nobody can tell a record by its address.
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
	r, err := b.Instance.Get(ctx, id)
	return copied(r), err
}

func (b watched) Put(ctx context.Context, id string, r tier.Record) error {
	b.watch(ctx)
	return b.Instance.Put(ctx, id, *copied(&r))
}

func (b watched) Insert(ctx context.Context, id string, r tier.Record) error {
	b.watch(ctx)
	return b.Instance.Insert(ctx, id, *copied(&r))
}

func (b watched) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	b.watch(ctx)
	var next, given []*tier.Record // what replaces the records, and its copies
	if guess != nil {
		next = []*tier.Record{guess.Next}
		given = allCopied(next)
		guess = &tier.Guess{Token: slices.Clone(guess.Token), Next: given[0]}
	}
	err := b.Instance.Update(ctx, slices.Clone(ids), guess, func(current []*tier.Record) (_ []*tier.Record, err error) {
		if next, err = f(allCopied(current)); err != nil {
			return nil, err
		}
		given = allCopied(next)
		return given, nil
	})
	for i, r := range next {
		if r != nil && err == nil {
			r.Token = slices.Clone(given[i].Token)
		}
	}
	return err
}

func copied(r *tier.Record) *tier.Record {
	if r == nil {
		return nil
	}
	return &tier.Record{Value: slices.Clone(r.Value), Expires: r.Expires, Token: slices.Clone(r.Token)}
}

func allCopied(all []*tier.Record) []*tier.Record {
	copies := make([]*tier.Record, len(all))
	for i, r := range all {
		copies[i] = copied(r)
	}
	return copies
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
	switch {
	case a.op.login:
		a.w.id = v.create()
	case a.op.enter:
	case !a.op.loads():
		a.phase = saving
		v.close()
		a.phase = returned
		return
	default:
		a.phase = loading
		a.saw = v.load(a.w.id)
		if a.w.second != "" {
			a.sawSecond = v.(*gaesessionVisit).loadSecond(a.w.second, a.index)
		}
	}
	a.phase, a.used = saving, time.Now()
	if a.op.saves() && a.pause("save") != nil {
		return
	}
	v.act(a.op, a.op.value(a.index))
	v.close()
	if a.op.makes() {
		a.newID = v.moved()
	}
	a.phase = returned
}

// A request that is not held.
type request struct {
	visit
	w    *world
	down string // a service that fails
	errs []error
}

// hold makes the call.
func (r *request) hold(c *call) error {
	for r.w.isLocked(c) {
		time.Sleep(time.Second)
	}
	return r.w.makeAtOnce(c, r.down)
}

// probeID is that with which a breaker asks the cache whether it answers.
const probeID = "h:probe"

// makeAtOnce makes a call that is not held, or has it fail as a service is down.
func (w *world) makeAtOnce(c *call, down string) error {
	w.making.Lock()
	defer w.making.Unlock()
	if c.prepare != nil {
		c.prepare()
	}
	if c.service == down || w.down[c.service] {
		return c.failure
	}
	err := c.perform()
	w.changed(c, err)
	return err
}

func (w *world) newRequest(down string, o op) *request {
	r := &request{w: w, down: down}
	w.looks++
	add := func(err error) { r.errs = append(r.errs, err) }
	ctx := w.withCalls(context.WithValue(context.Background(), holderKey{}, r), r)
	r.visit = w.store.visit(instance.With(ctx, instance.Instance{Name: instanceName{"look", w.looks, generation.Load()}, Steady: true, Over: w.over}), w.tiersOf(0, nil), w.scenario, o, add, func(err error) {
		if down == "" {
			add(err)
		}
	})
	return r
}

// isKept reports whether the request was told that its change is in the cache
// alone.
func (a *actor) isKept() bool {
	err := a.err()
	return errors.Is(err, tier.ErrNotBackedUp) && !errors.Is(err, tier.ErrNotSaved) && !errors.Is(err, tier.ErrRemoved) &&
		!errors.Is(err, tier.ErrTooLarge) && !a.op.logout // then it was a later save that did something else
}

// startsSaving notes what the request is going to save, when it begins to.
func (a *actor) startsSaving() {
	r := a.judge
	r.Saving = a.w.clock
	if a.op.enter || a.op.claims {
		a.w.logsIn()
	}
	switch {
	case a.op.login:
		r.Sets = initial
	case a.op.endall:
		a.endsAll()
	case a.op.enter:
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
