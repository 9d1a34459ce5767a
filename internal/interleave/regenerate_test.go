//go:build go1.25

package interleave

import (
	"bytes"
	"fmt"
)

// A session that is given a new id is removed under the old one, and lives on
// under the new one, which nobody else knows before the request has returned.

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

// isMoving tells that a call is for the session under the request's new id.
func (a *actor) isMoving(c *call) bool {
	return a.newID != "" && bytes.Contains(c.request, []byte(a.newID))
}

// movedTokens are what the services hold under the request's new id.
func (a *actor) movedTokens() []token {
	if a.newID == "" {
		return nil
	}
	w := a.w
	tokens := []token{word("moved")}
	if it := w.peekAt(a.newID); it != nil {
		tokens = append(append(tokens, w.expiryToken(it)), w.itemTokens(it.flags, it.value)...)
	}
	return append(tokens, word(w.recordTextAt(a.newID)))
}

// judgeMoved judges what is seen under new ids:
//
//   - A session is moved once. (P2)
//   - When the request that moved it reported no error, it is there. (P1, P4)
//   - It has what was acknowledged under the old id by then, whoever changed it:
//     who changes it later gets an error. So it is judged like the session that
//     is loaded after all requests. (P1)
func (w *world) judgeMoved(when string, k known) {
	for _, a := range w.actors {
		if a.newID == "" {
			continue
		}
		i := a.index
		if k.moved&^bit(i) != 0 && k.moved.has(i) {
			w.fail("P2: requests %b all moved the session", k.moved)
		}
		w.judgeNew(when+" Datastore has", a, w.backupAt(a.newID), k)
		r := w.newRequest(nil, op{})
		w.judgeNew(when+" a load saw", a, r.load(a.newID), k)
		w.expectNoErrors("a load under a new id", r.errs)
	}
}

// judgeNew judges what is seen under the id that a request has made.
func (w *world) judgeNew(what string, a *actor, v *view, k known) {
	what = fmt.Sprintf("%s under the id that request %d made", what, a.index)
	if v.none {
		if k.acked.has(a.index) && !w.expired {
			w.fail("P1: %s no session", what)
		}
		return
	}
	for name := range initial {
		w.judgeAttr(what, name, v.attrs[name], k.acked, false)
	}
}
