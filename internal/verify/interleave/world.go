//go:build go1.25

package interleave

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/judge"
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
	unlocked  string    // what the database says of its locks when there are none
	second    string    // the id of another one; empty: there is none
	born      time.Time // when the session was created
	began     time.Time // when the requests began
	actors    []*actor
	session   judge.Session // what the judge knows

	mu      sync.Mutex // guards what follows against the requests' goroutines
	pending []*call
	moves   int // how often pending has changed
	stopped bool
	free    bool          // no call is held any more
	making  sync.Mutex    // while a call is made that nobody held
	over    chan struct{} // closed when it is stopped

	// What has happened.
	trace    []choice
	clock    judge.Time
	events   int
	last     *actor // whose call was made last; nil: nobody's, or its request has returned with that
	switches int    // from a request that could have gone on to another one
	expired  bool   // time has passed after which the session may have ended
	jumped   bool   // more time has passed than a background save may take
	hurt     bool   // the cache may show what is behind the backup until the next change
	timedOut bool   // a call of the cache
	unsure   bool   // the backup may have what nobody was told of
	down     map[string]bool
	version  int             // of the entity
	indexed  int             // the version at which the indexes of owners were judged
	claimed  judge.Time      // when the session was Alice's for the first time
	ended    map[string]bool // ids under which the backup has had the end of a session
	ttl      time.Duration
	looks    int // requests that were not held

	violation error

	// Remembered, as they are needed at every step.
	hasOwners bool
	list      []*call // the calls that can be made, at the time listedAt of moves
	listedAt  int
	texts     map[string]string  // of values
	records   map[string]*record // of the backup, at the version recordsOf
	recordsOf int
	text      []token // of the entity, at the version textOf
	textOf    int
	size      int // of the value at that version
}

func (w *world) isStopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}

// newWorld brings the session into the scenario's first state and begins the
// requests.
func newWorld(b *bubble, sc scenario, br breach) (*world, error) {
	w := &world{bubble: b, scenario: sc, store: sc.store(br), breach: br, born: time.Now(), hasOwners: sc.hasOwners(), listedAt: -1,
		texts: map[string]string{}, records: map[string]*record{}, ended: map[string]bool{}, down: map[string]bool{}, clock: 1, over: make(chan struct{})}
	w.appEngine = appEngine{b.server, w.store.kept()}
	w.cache, w.backup = w.appEngine, w.appEngine
	if sc.redis {
		w.cache = &fencedCache{items: map[string]fencedItem{}, prefix: w.store.kept().Prefix, unfenced: br.unfenced}
	}
	if b.database != nil {
		w.backup = records{b.database, w.store.kept()}
		w.unlocked = b.database.Locks()
		if err := b.open(2+len(sc.ops), w.store.kept()); err != nil {
			return nil, err
		}
	}
	w.session = judge.Session{Timeout: timeout, Slack: 5 * time.Minute, OnlyCache: sc.only, Timeless: sc.of == ofCascade}
	if err := w.prepare(); err != nil {
		return nil, err
	}
	if c, ok := w.cache.(*fencedCache); ok {
		c.save()
	}
	w.clock = 10
	w.began = time.Now()
	w.version = 1
	w.textOf = 0
	if sc.owned {
		w.claimed = 1
	}
	for i, o := range sc.ops {
		a := &actor{w: w, index: i, op: o, over: make(chan struct{}), answers: map[string][]token{}, attempts: map[string]int{}, down: map[string]bool{}}
		a.ended, a.cancel = context.WithCancel(context.Background())
		a.judge = &judge.Request{
			Creates: o.login, Removes: o.logout || o.endall && sc.owned, EndsAll: o.endall || o.others, Spares: o.others, Moves: o.regenerate, Async: o.async, Old: o.old, Skew: o.skew,
			Gone: o.purge || o.enter, CacheOK: true,
		}
		w.session.Requests = append(w.session.Requests, a.judge)
		if sc.start == created && i > 0 {
			a.gate = make(chan struct{})
		}
		w.actors = append(w.actors, a)
	}
	for _, a := range w.actors {
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
	if w.scenario.two {
		if err := w.prepareSecond(); err != nil {
			return err
		}
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
	case brief:
		if !w.scenario.bare {
			// It is used once, so that the next use makes it live for longer than listed.
			time.Sleep(idleAge)
			use := w.newRequest("", op{})
			use.load(w.id)
			use.close()
			if err := errors.Join(use.errs...); err != nil {
				return err
			}
			before(judge.Request{})
			time.Sleep(idleAge)
		} else {
			time.Sleep(age)
		}
	case lapsed:
		w.backup.put(indexID(ownerNamed(alice)), &record{value: emptyIndex(), expires: time.Now().Add(-time.Hour)})
		time.Sleep(age)
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
	if first := w.actors[0]; w.scenario.start == created && first.phase == returned && !w.isUntold() {
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
		r.EndsAll = r.EndsAll && !r.Gone
		w.judgeLoad(a)
	}
	if r.Used = a.used; r.Latest.Before(a.used) {
		r.Latest = a.used
	}
	if r.EndsAll && r.Began != 0 && r.Closed == 0 {
		a.endsAll()
	}
	if a.phase == returned && r.Closed == 0 && !a.crashed {
		if r.Saving == 0 {
			r.Saving = w.clock // it had nothing to save
		}
		if w.last == a {
			w.last = nil // what it has left to the background is as another request
		}
		r.Closed, r.Failed = w.clock, r.Failed || a.err() != nil
		r.Gone = r.Gone || a.isAgain() // what it saved is another session
		r.Kept = a.isKept()
	}
	if (a.op.again || a.op.old || a.op.others) && a.phase == saving {
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

// isSkewed reports whether the clocks of the instances differ.
func (w *world) isSkewed() bool {
	return slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.skew != 0 })
}

// record returns what the backup has under an id; nil: nothing.
func (w *world) record(id string) *record {
	if w.recordsOf != w.version {
		w.recordsOf = w.version
		clear(w.records)
	}
	r, ok := w.records[id]
	if !ok {
		r = w.backup.record(id)
		w.records[id] = r
	}
	return r
}

// peek returns the item in the cache; nil: none.
func (w *world) peek() *item { return w.cache.peek(w.id) }

// lose notes that the cache has lost the session.
func (w *world) lose() { w.session.Losses = append(w.session.Losses, judge.LossAt(w.clock)) }

// current is the number of the request that made the last call, if it can make
// another one; -1: there is none.
func (w *world) current() int {
	if w.last == nil || !slices.ContainsFunc(w.calls(), func(c *call) bool { return c.actor == w.last }) {
		return -1
	}
	return w.last.index
}

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
	if ch.isCall() && !w.hasHidden() {
		w.switches += ch.switchesFrom(w.current())
		w.last = w.actors[ch.actor]
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
		// What a request is trying to save is unsaved as well.
		isTrying := slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.again && a.judge.Saving != 0 && a.judge.Closed == 0 })
		if (w.hasUnsaved() || isTrying) && slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.purge || a.op.old }) {
			w.session.Overdue = true
		}
		w.lose()
		if w.scenario.start == idle || w.scenario.start == brief && !w.scenario.bare {
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
		w.listedAt = -1
	default:
		calls := w.calls()
		i := slices.IndexFunc(calls, func(c *call) bool { return c.actor.index == ch.actor && c.named == ch.call })
		if i < 0 {
			return fmt.Errorf("no such call to be made: %v", ch)
		}
		w.make(calls[i], ch.kind)
	}
	w.measure()
	w.settle()
	w.judgeIndex()
	return nil
}

// measure notes how large the session is that the backup has.
func (w *world) measure() {
	if !w.scenario.small {
		return
	}
	_ = w.recordTokens()
	for _, a := range w.actors {
		if a.judge.Closed == 0 {
			a.largest = max(a.largest, w.size)
		}
	}
}

// ids are all that the session has had.
func (w *world) ids() []string {
	ids := []string{w.id}
	if w.second != "" {
		ids = append(ids, w.second)
	}
	for _, a := range w.actors {
		if a.target != "" {
			ids = append(ids, a.target)
		}
	}
	if w.hasOwners {
		for _, name := range ownerNames {
			ids = append(ids, indexID(ownerNamed(name)))
		}
	}
	return ids
}

// long is the middle of a large value.
var long = regexp.MustCompile("x{20,}")

func (w *world) fail(format string, args ...any) {
	if w.violation == nil {
		w.violation = errors.New(long.ReplaceAllString(fmt.Sprintf(strings.ReplaceAll(format, "%w", "%v"), args...), "…"))
	}
}

// An instanceName tells an instance from others of its world, and from those of
// worlds whose breakers may be open.
type instanceName struct {
	kind       string
	index      int
	generation int64
}

// generation is another one when a call of a cache has timed out.
var generation atomic.Int64

// stop ends the requests' goroutines, and forgets the session.
func (w *world) stop() error {
	w.mu.Lock()
	w.stopped = true
	w.down = nil
	close(w.over)
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
		a.cancel()
	}
	for _, a := range w.actors {
		<-a.over
	}
	// Background work ends by itself when its calls fail.
	if err := gaesession.Drain(context.Background()); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // what is pending waits for its next attempt
	synctest.Wait()
	if w.timedOut {
		generation.Add(1)
	}
	if w.id == "" {
		return nil
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
