//go:build go1.25

package interleave

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
)

// sessionsStore is package gaesession's Sessions, with its Handler. The services
// know its sessions by hashes of their ids; ids has the ids.
type sessionsStore struct {
	gaesessionStore
	ids *sync.Map
}

// keyOf is what the services know the session of that id by.
func (s sessionsStore) keyOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	key := "h:" + base64.RawURLEncoding.EncodeToString(sum[:])
	s.ids.Store(key, id)
	return key
}

func (s sessionsStore) visit(ctx context.Context, t tiers, sc scenario, o op, returned, logged func(error)) visit {
	v := &sessionsVisit{served: newServed(ctx), store: s, sc: sc, op: o, returned: returned}
	v.sessions = &gaesession.Sessions{
		Options: optionsOf(t, sc, o, func(_ context.Context, err error) {
			if isLeftOut(err) {
				logged(err)
				return
			}
			v.note(err)
		}),
		Cookie:       gaesession.Cookie{Name: cookieName},
		MaxPerOwner:  sc.most,
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { v.failed = err },
	}
	if sc.hasOwners() {
		v.sessions.Owner = func(sess session.Session) string { return ownerIn(sess.Attr(ownerAttr)) }
	}
	return v
}

// isLeftOut reports whether an error says that a user has logged in to a session
// that is gone, which then has become a new one.
func isLeftOut(err error) bool {
	return strings.Contains(err.Error(), "has logged in to a session that is gone")
}

// A sessionsVisit is an HTTP request.
type sessionsVisit struct {
	*served
	store    sessionsStore
	sc       scenario
	op       op
	returned func(error)
	sessions *gaesession.Sessions
	request  *http.Request
	sess     session.Session // nil: there is none
	id       string          // that the browser knows; empty: none
	newID    string          // that the browser is told
	failed   error           // that ErrorHandler got
	unsaved  atomic.Bool     // something was not saved
}

// begin begins the request of a browser that has that id.
func (v *sessionsVisit) begin(id string) {
	v.id = id
	v.request = v.served.begin(v.sessions.Handler(http.HandlerFunc(v.serve)), &http.Cookie{Name: cookieName, Value: id})
}

func (v *sessionsVisit) note(err error) {
	if err != nil {
		v.unsaved.CompareAndSwap(false, errors.Is(err, gaesession.ErrNotSaved))
		v.returned(err)
	}
}

func (v *sessionsVisit) create() string {
	attrs := map[string]any{}
	for name, value := range newAttributes(v.sc, v.op) {
		attrs[name] = value
	}
	v.begin("")
	v.note(v.sessions.Add(v.request, session.NewSessionOptions(&session.SessOptions{Attrs: attrs, Timeout: timeout})))
	v.get()
	return v.store.keyOf(v.sess.ID())
}

func (v *sessionsVisit) load(key string) *view {
	id, _ := v.store.ids.Load(key)
	v.begin(fmt.Sprint(id))
	if v.get(); v.sess == nil {
		return &view{none: true}
	}
	return &view{attrs: texts(v.sess.Attrs())}
}

func (v *sessionsVisit) get() {
	var err error
	v.sess, err = v.sessions.Get(v.request)
	v.note(err)
}

func (v *sessionsVisit) act(o op, value string) {
	v.op = o
	if o.enter {
		v.create()
		return
	}
	if v.sess == nil {
		return
	}
	if o.owner != "" {
		v.sess.SetAttr(ownerAttr, o.owner)
	} else if o.regenerate {
		v.note(v.sessions.RegenerateID(v.request))
	}
	switch {
	case o.others:
		v.note(v.sessions.RemoveOthers(v.request))
	case o.endall:
		v.note(v.sessions.RemoveAll(v.request.Context(), alice))
	case o.logout:
		v.note(v.sessions.Remove(v.request, v.sess))
	case o.attr != "" && o.delete:
		v.sess.SetAttr(o.attr, nil)
	case o.attr != "":
		v.sess.SetAttr(o.attr, value)
	}
}

func (v *sessionsVisit) moved() string { return v.newID }

func (v *sessionsVisit) close() {
	if v.request == nil { // it is nobody's session that this is about
		v.note(v.sessions.RemoveAll(v.ctx, alice))
		return
	}
	if v.op.again && v.sess != nil {
		err := v.sessions.Save(v.request)
		if errors.Is(err, gaesession.ErrNotSaved) {
			err = v.sessions.Save(v.request)
		}
		v.note(err)
	}
	v.end()
	v.note(errors.Join(v.failed, v.checkCookie()))
}

// checkCookie looks at the cookie that the browser gets.
func (v *sessionsVisit) checkCookie() error {
	c := v.cookie()
	switch {
	case c != nil && c.MaxAge < 0:
		if !v.op.logout {
			return fmt.Errorf("%w: it ends that of a session that was not removed", errCookie)
		}
	case v.op.logout && v.sess != nil && !v.unsaved.Load():
		return fmt.Errorf("%w: it does not end that of a removed session", errCookie)
	case c == nil:
		if v.sess != nil && v.sess.ID() != v.id && v.failed == nil {
			return fmt.Errorf("%w: there is none, and the session has another id", errCookie)
		}
	case v.failed != nil:
		return fmt.Errorf("%w: it is that of a session that was not saved", errCookie)
	case v.sess == nil || c.Value != v.sess.ID():
		return fmt.Errorf("%w: it is not the session's", errCookie)
	case c.Value != v.id:
		v.newID = v.store.keyOf(c.Value)
	}
	return nil
}
