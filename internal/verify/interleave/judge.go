//go:build go1.25

package interleave

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/judge"
	"github.com/gaesession/gaesession/tier"
)

// What may be seen says package judge. Here it is asked: about every load, every
// error that is reported, and what is left in the end.

// A view is what a load returned: the attributes, or nothing.
type view struct {
	none  bool
	attrs map[string]string
}

func (v *view) String() string {
	if v.none {
		return "no session"
	}
	return fmt.Sprint(shortened(v.attrs))
}

func shortened(attrs map[string]string) map[string]string {
	all := make(map[string]string, len(attrs))
	for name, value := range attrs {
		all[name] = short(value)
	}
	return all
}

// check judges what somebody has seen between two instants.
func (w *world) check(what string, v *view, began judge.Time, since time.Time, blind bool) *view {
	l := judge.Load{Began: began, Ended: w.clock, Since: since, Wall: time.Now(), None: v.none, Attrs: v.attrs, Blind: blind}
	w.session.Never = w.never()
	if err := w.session.Check(l); err != nil {
		w.fail("%s %v: %w", what, v, err)
	}
	return v
}

// never are the sentences that excuse nothing here, whatever the judge thinks.
func (w *world) never() (all []judge.Sentence) {
	has := func(f func(o op) bool) bool { return slices.ContainsFunc(w.scenario.ops, f) }
	forbid := func(when bool, by ...judge.Sentence) {
		if when {
			all = append(all, by...)
		}
	}
	forbid(!w.scenario.only, judge.OnlyCache)
	forbid(!has(func(o op) bool { return o.old }), judge.Old, judge.Timeless)
	forbid(!has(func(o op) bool { return o.async }), judge.Unsaved)
	forbid(!has(func(o op) bool { return o.logout || o.regenerate || o.endall }), judge.FailedLogout, judge.Moving)
	forbid(!w.isSkewed(), judge.Clocks)
	forbid(w.events == 0, judge.FailedPublish)
	forbid(!w.expired, judge.Overdue)
	return all
}

// judgeLoad judges what a request has loaded. When one of its calls has failed
// it has seen what the backup has, or it cannot be told.
func (w *world) judgeLoad(a *actor) {
	failed := a.err() != nil || a.hasLogged()
	if a.op.old || failed && a.saw.none {
		return
	}
	w.check(fmt.Sprintf("request %d loaded", a.index), a.saw, a.judge.Began, a.since, failed)
}

// judgeEnded says which errors a request may have reported: those whose calls
// were made to fail more often than Retries makes up for, ErrRemoved where the
// session may be gone, and that background work took too long.
func (w *world) judgeEnded(a *actor) {
	if a.op.purge {
		return
	}
	// A call that has failed is not tried again when the time for it is over.
	failing := a.hits >= w.scenario.retries || a.hits > 0 && w.jumped || w.hasSharedHits(a)
	for _, err := range slices.Concat(a.errs, a.logs) {
		switch {
		case errors.Is(err, errCookie):
			w.fail("request %d: %v", a.index, err)
		case errors.Is(err, gaesession.ErrTooLarge) && a.isAcknowledged():
			if len(w.session.Losses) < 2 {
				w.fail("request %d was acknowledged, and then refused: %v", a.index, err)
			}
		case errors.Is(err, gaesession.ErrTooLarge):
			if !a.mayBeTooLarge() {
				w.fail("request %d was refused for its size, and %d bytes were there: %v", a.index, a.largest, err)
			}
		case failing || a.op.old:
		case errors.Is(err, context.DeadlineExceeded) && (w.jumped || time.Since(w.began) > saveTimeout):
		case errors.Is(err, gaesession.ErrRemoved) && a.op.enter && a.hits > 0 && a.mayBeEnded():
			// It had begun, and was ended before it could find out.
		case !a.op.loads() && !a.op.login:
			w.fail("request %d reported %v, but none of its calls was made to fail", a.index, err)
		case errors.Is(err, gaesession.ErrRemoved):
			if jerr := w.session.CheckRefusal(a.judge, time.Now()); jerr != nil {
				w.fail("request %d reported %v: %w", a.index, err, jerr)
			}
		default:
			w.fail("request %d reported %v, but none of its calls was made to fail", a.index, err)
		}
	}
	if err := a.err(); err == nil && a.op.owner != "" && a.op.makes() && !a.judge.Gone && a.newID == "" {
		w.fail("request %d has logged in, and the session has kept its id", a.index)
	}
	if err := w.session.CheckSuccess(a.judge); err != nil && !a.op.old {
		w.fail("request %d: %w", a.index, err)
	}
}

// hasSharedHits reports whether calls failed that another request made for both.
func (w *world) hasSharedHits(a *actor) bool {
	return a.op.shared && slices.ContainsFunc(w.actors, func(b *actor) bool { return b.op.shared && b.hits > 0 })
}

// look is a request at the end that nothing stands in the way of.
func (w *world) look(what string, o op) (*request, *view) {
	w.clock++
	time.Sleep(time.Microsecond)
	r := w.newRequest("", o)
	return r, w.check(what, r.load(w.id), w.clock, time.Now(), false)
}

// expectNoErrors allows ErrRemoved where there may be no session.
func (w *world) expectNoErrors(what string, errs []error) {
	mayBeGone := w.session.Check(judge.Load{Began: w.clock, Ended: w.clock, Wall: time.Now(), None: true}) == nil
	for _, err := range errs {
		if !mayBeGone || !errors.Is(err, gaesession.ErrRemoved) {
			w.fail("%s reported %v", what, err)
		}
	}
}

// isUntold reports whether nobody got to know the session's id: the request that
// was to create it died, or was told that it is not saved.
func (w *world) isUntold() bool {
	first := w.actors[0]
	return w.scenario.start == created && (first.judge.Closed == 0 || w.scenario.owned && errors.Is(first.err(), tier.ErrNotSaved))
}

// judgeEnd judges the end of a schedule.
func (w *world) judgeEnd() {
	if w.isUntold() {
		return
	}
	w.down = map[string]bool{}
	w.clock++
	w.mu.Lock()
	w.free = true
	w.mu.Unlock()
	for range 300 {
		if w.database == nil || w.database.Locks() == w.unlocked {
			break
		}
		time.Sleep(time.Second) // a transaction that could not be rolled back ends by itself
	}
	backup := func(what string) *view {
		return w.check(what+" the backup has", w.inBackup(), w.clock, time.Now(), true)
	}

	if !w.scenario.only {
		w.judgeCache(backup("at the end"))
	}
	w.judgeSecond("at the end")
	look, _ := w.look("at the end a load saw", op{})
	w.expectNoErrors("a load at the end", look.errs)
	w.judgeMoved("at the end")

	// Who finds something that the backup lacks brings it up to date. (P5)
	time.Sleep(time.Minute + time.Second)
	w.paid()
	touch, v := w.look("at the end a request saw", op{})
	touch.close()
	w.expectNoErrors("a request at the end", touch.errs)
	if w.scenario.only {
		return
	}
	touched := backup("after a touch")
	w.judgeMoved("after a minute")
	w.judgeIndex()
	if it := w.peek(); it != nil && it.flags == 0 && len(touch.errs) == 0 && !touched.none && !w.hurt && !w.unsure && !w.jumped && !w.hasOld() {
		if tr, err := parseTrailer(it.value); err != nil || tr.isUnsaved() || !maps.Equal(touched.attrs, v.attrs) {
			w.fail("P5: after a request saw %v, the backup has %v", v, touched)
		}
	}

	if w.hasOwners {
		w.judgeEnding()
		return
	}

	// One more change.
	change, v := w.look("before a change a load saw", op{})
	if !v.none {
		more := &judge.Request{Sets: map[string]string{"z": "z"}, Saves: true, Used: time.Now(), Latest: time.Now(), Began: w.clock, Saving: w.clock, Closed: w.clock, Ended: w.clock}
		change.act(op{attr: "z"}, "z")
		change.close()
		w.expectNoErrors("a change at the end", slices.DeleteFunc(slices.Clone(change.errs), func(err error) bool {
			return w.isAlmostFull() && errors.Is(err, gaesession.ErrTooLarge)
		}))
		if more.Failed = len(change.errs) > 0; !more.Failed {
			w.session.Requests = append(w.session.Requests, more)
		}
		_, after := w.look("after a change a load saw", op{})
		if b := backup("after a change"); !more.Failed && !w.isTimeless() && !maps.Equal(b.attrs, after.attrs) {
			w.fail("P1: after one more change a load saw %v, the backup has %v", after, b)
		}
	}

	// The cache forgets everything. (P4)
	w.lose()
	w.cache.flush()
	for _, what := range []string{"after a flush a load saw", "after a refill a load saw"} {
		r, v := w.look(what, op{})
		if b := w.inBackup(); !v.none && !maps.Equal(v.attrs, b.attrs) {
			w.fail("P4: %s %v, but the backup has %v", what, v, b)
		}
		r.close()
		w.expectNoErrors(what, r.errs)
		w.judgeMoved(what)
		w.judgeSecond(what)
	}
}

// paid notes what the instances that live have told the services meanwhile, which
// they could not tell them before: what was committed, and who has logged out.
func (w *world) paid() {
	w.clock++
	crashed := false
	for _, a := range w.actors {
		crashed = crashed || a.crashed
		err := a.err()
		if a.crashed || a.judge.Closed == 0 || a.op.endall || w.hasOld() {
			continue // an old instance may have saved what the cache showed
		}
		if a.op.logout || errors.Is(err, tier.ErrNotPublished) && !errors.Is(err, tier.ErrNotSaved) && !errors.Is(err, tier.ErrRemoved) {
			a.judge.Unpublished = a.judge.Unpublished || a.judge.Failed
			a.judge.Failed = false
		}
	}
	w.hurt = w.hurt && crashed
}

// judgeCache looks for what the item says is in the backup, too, and is not; but
// who has died, or whose call to the cache has failed, may have left it behind.
func (w *world) judgeCache(now *view) {
	it := w.peek()
	if it == nil || it.flags != 0 || w.hurt || w.unsure || w.expired || w.hasOld() || now.none {
		return
	}
	tr, err := parseTrailer(it.value)
	if err != nil {
		w.fail("the cache has a session that cannot be decoded: %v", err)
		return
	}
	if v, err := w.store.decode(tr.value); err != nil || !tr.isUnsaved() && !maps.Equal(v.attrs, now.attrs) {
		w.fail("the cache lies: it has %v, %v, and the backup has %v", v.attrs, err, now)
	}
}

func (w *world) hasOld() bool {
	return w.scenario.start == old || slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.old })
}

// isTimeless reports whether an instance has written the session that does not
// say when: then nobody knows which of two values is the later.
func (w *world) isTimeless() bool { return w.scenario.of == ofCascade && w.hasOld() }

// inBackup is what the backup has.
func (w *world) inBackup() *view { return w.inBackupAt(w.id) }

func (w *world) inBackupAt(id string) *view {
	e := w.record(id)
	if e == nil || len(e.value) == 0 || !time.Now().Before(e.expires) {
		return &view{none: true}
	}
	tr, err := parseTrailer(e.value)
	v, derr := w.store.decode(tr.value)
	if err = errors.Join(err, derr); err != nil {
		w.fail("the backup has a session that cannot be decoded: %v", err)
		return &view{none: true}
	}
	return &view{attrs: v.attrs}
}

// judgeMoved judges what is seen under new ids: a session is moved once (P2), is
// there if the request that moved it reported no error (P1, P4), and has what was
// saved under the old id by then, whoever changed it: who changes it later gets
// an error. So it is judged like the session that is loaded after all requests.
func (w *world) judgeMoved(when string) {
	var movers int
	for _, a := range w.actors {
		if a.newID == "" {
			if a.target != "" && !a.crashed && when != "at the end" {
				w.judgeUntold(a)
			}
			continue
		}
		if a.op.regenerate && a.judge.Closed != 0 && !a.judge.Failed && !a.isAgain() {
			movers++
		}
		r := w.newRequest("", op{})
		loaded, inBackup := r.load(a.newID), w.inBackupAt(a.newID)
		if w.ended[a.newID] && !loaded.none && !w.hurt && !w.unsure && !w.hasOld() {
			w.fail("P2: %s under the id that request %d made is %v, which had ended", when, a.index, loaded)
		}
		for _, v := range []*view{loaded, inBackup} {
			switch {
			case !v.none && a.isEnded(w.clock):
				w.fail("P10: %s under the id that request %d made is %v, and all had ended", when, a.index, v)
				continue
			case v.none && (w.expired || a.mayBeEnded()), !v.none && w.isTimeless():
				continue
			case a.op.enter || a.isAgain():
				// Of a session that is gone a login takes nothing along.
				has := initial
				if !a.op.enter {
					has = a.judge.Sets
				}
				if v.none && !a.judge.Failed || !v.none && !maps.Equal(v.attrs, has) {
					w.fail("P1: %s in the session that request %d began is %v", when, a.index, v)
				}
				continue
			}
			l := judge.Load{Began: w.clock, Ended: w.clock, Since: w.born, Wall: time.Now(), None: v.none, Attrs: v.attrs}
			if err := w.session.CheckMoved(a.judge, l); err != nil {
				w.fail("%s under the id that request %d made %v: %w", when, a.index, v, err)
			}
		}
		w.expectNoErrors("a load under a new id", r.errs)
	}
	if movers > 1 && !w.hasOld() {
		w.fail("P2: the session was moved more than once")
	}
}

// judgeUntold judges what is seen under a new id that no client was told: nothing,
// once the instance has found out what became of the move.
func (w *world) judgeUntold(a *actor) {
	r := w.newRequest("", op{})
	if v := r.load(a.target); !v.none {
		w.fail("P2: under the id that request %d made, and could not tell anybody, is %v", a.index, v)
	}
	w.expectNoErrors("a load under an id that nobody was told", r.errs)
}
