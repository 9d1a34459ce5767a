//go:build go1.25

package interleave

import (
	"cmp"
	"context"
	"slices"
	"testing/synctest"
	"time"
)

// A call is a request's call that is held.
type call struct {
	actor   *actor // nil: it is made at once
	ctx     context.Context
	service string // inCache or inBackup
	name    string
	prepare func()       // finds out what is not known when the call is issued
	perform func() error // makes it
	failure error        // what it answers when it is made to fail

	item   *item           // that it writes
	values [][]byte        // that it writes to the backup
	got    *item           // that it read
	answer func() []token  // what else it was answered; nil: that is plain
	ids    []string        // of the sessions that it is about, in order
	to     *Call           // of a Database
	work   context.Context // the background work that it is part of; nil: none
	named  string          // its label, when it was listed last

	// App Engine's.
	txn               *transaction // that it is part of
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

// label is the call's name in a trace.
func (c *call) label() string {
	w, name := c.actor.w, c.name
	if w.second != "" && slices.Contains(c.ids, w.second) {
		return name + "'"
	}
	if w.hasOwners && len(c.ids) == 1 && c.ids[0] != w.id && c.ids[0] != c.actor.target {
		name += "@" + w.place(c.ids[0])
	}
	if c.isTwin() {
		name += "^"
	}
	if c.isAside() {
		name += "~"
	}
	return name
}

// isTwin reports whether the request that moves the session makes the same call
// about the old id at the same time: where the cache has nothing, both get a lease.
func (c *call) isTwin() bool {
	a, w := c.actor, c.actor.w
	if a.target == "" || !slices.Equal(c.ids, []string{a.target}) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.pending, func(p *call) bool { return p.actor == a && p.name == c.name && slices.Equal(p.ids, []string{w.id}) })
}

// isAside reports whether the call is part of what a request has left to the
// background, which may change an owner's index while the request does so itself.
func (c *call) isAside() bool { return c.work != nil && c.actor.w.hasOwners }

// written are the ids of the records that the call has written, if it is one
// that others see.
func (c *call) written() []string {
	switch c.name {
	case "commit":
		if c.txn != nil {
			return c.txn.ids
		}
		return c.ids
	case "ds-put", "ds-swap":
		return c.ids
	case "txn-put":
		if c.txn != nil {
			c.txn.ids = c.ids
		}
	}
	return nil
}

// isPause reports whether it is no call.
func (c *call) isPause() bool { return c.name == "start" || c.name == "save" }

func (w *world) hasCall(a *actor) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.pending, func(c *call) bool { return c.actor == a })
}

// calls returns the calls that can be made, named and in order. The list is not to be
// changed: it is the same until a call comes or goes, unless there are locks.
func (w *world) calls() []*call {
	w.mu.Lock()
	moves := w.moves
	w.mu.Unlock()
	if moves == w.listedAt && w.database == nil {
		return w.list
	}
	all := w.live()
	if w.database != nil {
		all = slices.DeleteFunc(all, w.isLocked)
	}
	for _, c := range all {
		c.named = c.label()
	}
	slices.SortFunc(all, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.actor.index, b.actor.index), cmp.Compare(a.named, b.named), slices.Compare(a.request, b.request))
	})
	w.list, w.listedAt = all, moves
	return all
}

// live returns the calls of the requests that have not crashed.
func (w *world) live() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*call, 0, len(w.pending))
	for _, c := range w.pending {
		if c.actor.crashed {
			continue
		}
		if c.prepare != nil {
			c.prepare()
			c.prepare = nil
		}
		c.actor.movesTo(c.ids)
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
	case "txn-put", "txn-delete":
		return true
	case "rollback":
		return c.to == nil || !c.to.Unlocks
	}
	return c.isDown() || c.ctx.Err() != nil
}

// isRequests reports whether the call ends with the context of its request.
func (c *call) isRequests() bool {
	return !c.actor.op.old && c.actor.ended.Err() == nil && c.work == nil && !isDetached(c.ctx)
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
	w.moves++
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
	eventful := how != makeCall || c.ctx.Err() != nil
	if how == failAll || how == loseAll {
		a.down[c.service] = true
	}
	switch {
	case c.ctx.Err() != nil:
		c.err = c.ctx.Err()
		a.hits++ // each of its calls has a time of its own
		a.hurt = a.hurt || c.service == inCache
		w.timedOut = w.timedOut || c.service == inCache
	case how == skipCall || how == cancelCall:
		a.hits += w.scenario.retries // it is not tried again
		a.hurt = a.hurt || c.service == inCache
		if c.err = context.DeadlineExceeded; how == cancelCall {
			a.cancel()
			c.err = context.Canceled
		}
		w.timedOut = w.timedOut || how == skipCall
	case how == failCall || how == failAll:
		a.hits++
		a.hurt = a.hurt || c.service == inCache
		c.err = c.failure
	default:
		c.err = c.perform()
		w.changed(c, c.err)
		if written := c.written(); c.err == nil && slices.Contains(written, w.id) {
			a.judge.Saves = a.judge.Saves || a.phase >= saving
			if a.op.regenerate && slices.Contains(written, a.target) && a.judge.Moved == 0 {
				a.judge.Moved = w.clock
			}
		}
		if c.name == "get" && a.phase == loading && !w.isElsewhere(c.ids, 0) {
			a.fromCache = c.got != nil && c.got.flags == 0
			a.foundUnsaved = a.fromCache && kindName(c.got) == "unsaved"
		}
		if how == cancelMade {
			a.cancel()
			a.hits += w.scenario.retries
			a.hurt = a.hurt || c.service == inCache
			w.unsure = w.unsure || c.service == inBackup
			c.err = context.Canceled
		}
		if how == loseAnswer || how == loseAll {
			a.hits++
			a.hurt = a.hurt || c.service == inCache
			w.unsure = w.unsure || c.service == inBackup
			c.err = c.failure
		}
	}
	if c.name == "commit" {
		if c.txn != nil {
			c.txn.over = true // however it has ended
		}
	}
	if eventful && c.service == inCache && a.phase >= saving {
		// The change keeps the time that it had when the call was issued.
		a.judge.Saving = a.issued
	}
	if eventful && a.phase >= saving {
		for _, b := range w.actors {
			b.judge.Retried = b.judge.Retried || b == a || a.op.shared && b.op.shared
		}
	}
	if c.err != nil && c.service == inCache {
		for _, b := range w.actors {
			b.judge.CacheOK = b.judge.CacheOK && b != a && !(a.op.shared && b.op.shared)
		}
	}
	if c.err != nil && c.name == "get" && a.phase == loading {
		a.judge.Blind = true
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
		if err == nil {
			w.version++
		}
	}
	if c.item != nil {
		w.ttl = c.item.ttl
	}
}
