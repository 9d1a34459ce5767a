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
)

// A view is what a load returned: the attributes, or nothing.
type view struct {
	none  bool
	attrs map[string]string
}

func (v *view) String() string {
	if v.none {
		return "no session"
	}
	return fmt.Sprint(v.attrs)
}

// loadErred tells that the request's load reported or logged an error: what it
// saw is what Datastore has, or nothing.
func (a *actor) loadErred() bool { return a.hits > 0 && (a.err() != nil || a.hasLogged()) }

// judgeLoad judges what a request has loaded.
func (w *world) judgeLoad(a *actor) {
	if a.loadErred() && a.saw.none {
		return
	}
	w.judge(fmt.Sprintf("request %d loaded", a.index), a.saw, a.at[loading], a.loadErred())
}

// judge says whether v may be seen by a load that began when k was known, with
// inBackup set by one that asks Datastore alone:
//
//   - After a removal was acknowledged nobody sees the session. (P2)
//   - It can be missing otherwise only while a removal is under way or has
//     failed, when it has expired and nobody saved it before, or when it was
//     never saved in Datastore and Memcache has lost it. (P1, P4)
//   - An attribute has the value of a change that began and was not overwritten:
//     that is, no change of this attribute was acknowledged before the load that
//     began after the one seen had ended. (P1, P3, P4, P6)
//
// A change is acknowledged when its request returned and reported no error, and
// when its background save did, too. As long as nothing has happened to
// Memcache, an asynchronous change counts from the return of its request on.
func (w *world) judge(what string, v *view, k known, inBackup bool) {
	acked := k.acked
	for i, a := range w.actors {
		if a.op.async && a.op.attr != "" && k.closed.has(i) && w.events == 0 && !inBackup && !a.failed {
			acked |= bit(i)
		}
	}
	if w.scenario.only && w.forgot {
		acked = 0
	}
	var removing, saved, touched bool
	for i, a := range w.actors {
		touched = touched || acked.has(i) && a.saved && !a.saw.missing() && !a.op.logout
		removing = removing || a.removes()
		if a.removes() && (acked | k.moved).has(i) && !v.none {
			w.fail("P2: %s %v after request %d removed the session", what, v, i)
		}
		saved = saved || acked.has(i) && (a.op.login || a.changed() || a.op.refresh && a.saved && !a.saw.missing())
	}
	if k.expired && !v.none && !w.savedAnew() {
		w.fail("P2: %s %v after the session expired", what, v)
	}
	neverSaved := !saved && w.scenario.isUnsaved() && (w.lossy || inBackup || w.events > 1)
	if v.none {
		expired := w.expired || w.lapsed && !touched
		if !removing && !expired && !neverSaved && !(w.scenario.only && w.forgot) {
			w.fail("P1: %s no session, but nobody removed it", what)
		}
		return
	}
	if w.scenario.only && w.forgot {
		return
	}
	for name := range initial {
		w.judgeAttr(what, name, v.attrs[name], acked, inBackup)
	}
}

// savedAnew tells that the session may have been saved after it expired: a request
// that had loaded it before takes one that Datastore does not have for one that
// was not saved yet. In the root package the expiry counts from the load, so it
// is saved as expired. So does a request, with an error, that could not ask
// Memcache whether it still has the session. And Memcache counts the time that an item has to live from
// the call on, so one that is put again long after is kept too long.
func (w *world) savedAnew() bool {
	if w.stale {
		return true
	}
	failed := func(a *actor) bool { return a.hits >= w.scenario.retries && a.err() != nil }
	if w.scenario.cascade && slices.ContainsFunc(w.actors, failed) {
		return true
	}
	return w.scenario.cascade && w.scenario.isUnsaved() &&
		slices.ContainsFunc(w.actors, func(a *actor) bool { return !a.saw.missing() && a.at[saving].begun })
}

func (v *view) missing() bool { return v == nil || v.none }

// changed tells that a request has begun to save a change of an attribute.
func (a *actor) changed() bool {
	return a.op.attr != "" && !a.saw.missing() && a.at[saving].begun && a.saw.attrs[a.op.attr] != a.op.value(a.index)
}

func (w *world) judgeAttr(what, name, got string, acked mask, inBackup bool) {
	isInitial := got == initial[name]
	if name == "c" && w.scenario.isAhead() {
		if got == "c1" && w.mayComeBack() {
			return
		}
		isInitial = got == "c1" || (w.lossy || inBackup || w.events > 1) && got == "c0"
	}
	for i, a := range w.actors {
		if a.op.attr == name && a.changed() && acked.has(i) {
			isInitial = false
		}
	}
	if isInitial {
		return
	}
	for i, a := range w.actors {
		if a.op.attr == name && a.changed() && got == a.op.value(i) && !w.overwritten(i, acked) {
			return
		}
	}
	w.fail("%s %s=%q, acknowledged changes %b", what, name, got, acked)
}

// isChange tells that a request has begun to give an attribute that value.
func (w *world) isChange(name, value string) bool {
	return slices.ContainsFunc(w.actors, func(a *actor) bool {
		return a.op.attr == name && a.changed() && a.op.value(a.index) == value
	})
}

// mayComeBack tells that an asynchronous change that was not in Datastore yet may
// come back after another request has taken it back: when Memcache has forgotten
// the session or could not be asked, when a request has deleted the session there
// because its lock was broken, or when a lock lasted too long.
func (w *world) mayComeBack() bool { return w.lossy || w.deleted }

// takenBack tells that a request has given an attribute its first value again.
func (w *world) takenBack(attr string) bool {
	return slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.attr == attr && a.op.to != "" && a.changed() })
}

// overwritten tells that a change of the same attribute was acknowledged that
// began after the change of request i had ended. Asynchronous changes are put in
// order by Memcache: once it has forgotten the session, or the owner of a lock has
// died, either may win.
func (w *world) overwritten(i int, acked mask) bool {
	if w.actors[i].op.async && w.lossy {
		return false
	}
	if w.actors[i].op.async && w.mayComeBack() && w.takenBack(w.actors[i].op.attr) {
		return false
	}
	for j, b := range w.actors {
		if j == i || !acked.has(j) || !b.changed() || b.op.attr != w.actors[i].op.attr {
			continue
		}
		before := b.at[saving].ended
		if !w.lossy {
			before |= b.at[saving].closed
		}
		if before.has(i) {
			return true
		}
	}
	return false
}

// judgeErrors says which errors a request may have reported: those whose
// calls were made to fail more often than Retries makes up for, and ErrRemoved
// where a removal had begun. And a change that began after a removal was
// acknowledged has to report ErrRemoved.
func (w *world) judgeErrors(a *actor) {
	removing := false
	for _, b := range w.actors {
		removing = removing || b.removes()
	}
	lost := (w.lossy || w.events > 1) && w.scenario.isUnsaved()
	for _, err := range slices.Concat(a.errs, a.logs) {
		switch {
		case errors.Is(err, errCookie):
			w.fail("request %d: %v", a.index, err)
		case a.hits >= w.scenario.retries:
		case errors.Is(err, gaesession.ErrRemoved) && (removing || w.expired || w.lapsed || lost):
		case errors.Is(err, context.DeadlineExceeded) && (w.jumped || time.Since(w.began) > saveTimeout):
		default:
			w.fail("request %d reported %v, but none of its calls was made to fail", a.index, err)
		}
	}
	if len(a.errs) > 0 || !a.changed() && !(a.op.refresh && a.saved) && a.newID == "" {
		return
	}
	for j, b := range w.actors {
		if j != a.index && b.removes() && (a.at[saving].acked | a.at[saving].moved).has(j) && !(w.scenario.only && w.forgot) {
			w.fail("P2: request %d changed a session that request %d had removed, and did not report it", a.index, j)
		}
	}
}

// removes tells that a request has begun to remove the session.
func (a *actor) removes() bool {
	return (a.op.logout || a.op.regenerate) && a.at[saving].begun && !a.saw.missing()
}

// judgeEnd judges the end of a schedule.
func (w *world) judgeEnd() {
	if w.scenario.start == created && w.actors[0].crashed {
		return // nobody got to know the id
	}
	now := w.known()
	see := func(what string, v *view, inBackup bool) *view {
		w.judge(what, v, now, inBackup)
		return v
	}

	// What a load would find if Memcache had lost everything; a load, which may
	// bring Datastore up to date.
	if !w.scenario.only {
		see("at the end Datastore has", w.backup(), true)
	}
	it := w.peek()
	look := w.newRequest(nil, op{})
	see("at the end a load saw", look.load(w.id), false)
	w.expectNoErrors("a load at the end", look.errs)
	w.judgeMoved("at the end", now)

	// A request that only touches the session brings Datastore up to date, as
	// far as nobody has changed the same there. (P5)
	touch := w.newRequest(nil, op{})
	v := see("at the end a request saw", touch.load(w.id), false)
	touch.close()
	w.expectNoErrors("a request at the end", touch.errs)
	if w.scenario.only {
		return
	}
	if b := see("after a touch Datastore has", w.backup(), true); it != nil && it.flags == 3 && len(touch.errs) == 0 && !w.expired && !w.lapsed && w.events < 2 {
		for name := range initial {
			if b.none || b.attrs[name] != v.attrs[name] && !w.isChange(name, b.attrs[name]) {
				w.fail("P5: after a request saw %v, Datastore has %v", v, b)
			}
		}
	}

	// One more change.
	change := w.newRequest(nil, op{})
	if !change.load(w.id).none {
		change.act(op{attr: "z"}, "z")
		change.close()
		w.expectNoErrors("a change at the end", change.errs)
		refused := len(change.errs) > 0
		if b := see("after a change Datastore has", w.backup(), true); b.none != refused || b.attrs["z"] != "z" && !refused {
			w.fail("P1: after one more change Datastore has %v", b)
		}
		after := w.newRequest(nil, op{})
		if v := see("after a change a load saw", after.load(w.id), false); v.none != refused || v.attrs["z"] != "z" && !refused {
			w.fail("P3: after one more change a load saw %v", v)
		}
	}

	// Memcache forgets everything. (P4)
	w.FlushMemcache()
	for _, what := range []string{"after a flush a load saw", "after a refill a load saw"} {
		r := w.newRequest(nil, op{})
		v := see(what, r.load(w.id), true)
		if b := w.backup(); !v.none && !maps.Equal(v.attrs, b.attrs) {
			w.fail("P4: %s %v, but Datastore has %v", what, v, b)
		}
		r.close()
		w.expectNoErrors(what, r.errs)
		w.judgeMoved(what, now)
	}
}

// expectNoErrors allows ErrRemoved where a removal has failed or was not
// finished, or the session's creation has, or Memcache keeps the session for
// longer than it lives, as it was put there again long after.
func (w *world) expectNoErrors(what string, errs []error) {
	halfRemoved := w.stale || w.scenario.start == created && !w.acked.has(0)
	for i, a := range w.actors {
		halfRemoved = halfRemoved || a.removes() && !w.acked.has(i)
	}
	for _, err := range errs {
		if !halfRemoved || !errors.Is(err, gaesession.ErrRemoved) {
			w.fail("%s reported %v", what, err)
		}
	}
}

// backup is what Datastore has.
func (w *world) backup() *view { return w.backupAt(w.id) }

func (w *world) backupAt(id string) *view {
	e := w.recordAt(id)
	if e == nil || len(e.value) == 0 || !time.Now().Before(e.expires) {
		return &view{none: true}
	}
	v, err := w.store.decode(e.value)
	if err != nil {
		w.fail("Datastore has a session that cannot be decoded: %v", err)
		return &view{none: true}
	}
	return &view{attrs: v.attrs}
}
