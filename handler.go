package gaesession

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/web"
)

// A visit is what is known of one request's session. It is the request's web.Hook.
type visit struct {
	sessions *Sessions
	request  *http.Request

	mu       sync.Mutex // held while services are asked
	services            // once touched
	touched  bool       // by the app
	looked   bool       // for the session that the client's cookie names
	lookErr  error      // why nobody can tell whether there is one

	copy    *live.Copy // of the request's session; nil: it has none
	sess    *named     // the session as the app has it
	saved   string     // the id under which it is surely saved; empty: none
	cookie  string     // the id that the client knows it by; empty: none
	removed bool       // by this request
	ends    bool       // the client's cookie is to end
	was     time.Time  // its access time as it was stored when it was loaded
	used    time.Time  // its access time as it is stored now

	sent bool    // the header has left
	lost bool    // an error response went out instead of the app's
	errs []error // to be reported as soon as mu is free
}

// lock begins an operation of the app.
func (v *visit) lock() {
	v.mu.Lock()
	if !v.touched {
		v.touched = true
		if v.owners = v.sessions.owners(); v.owners != nil {
			v.owners.newID = v.idForOwner
		}
		v.open(appengine.NewContext(v.request), &v.sessions.Options)
	}
}

// unlock ends an operation, and reports what came up.
func (v *visit) unlock() {
	errs := v.errs
	v.errs = nil
	v.mu.Unlock()
	for _, err := range errs {
		v.notify(err)
	}
}

// later has an error reported, if it is one.
func (v *visit) later(err error) {
	if err != nil {
		v.errs = append(v.errs, err)
	}
}

// find returns the request's session, or nil.
func (v *visit) find() (session.Session, error) {
	if !v.looked {
		v.looked = true
		for _, id := range web.CookieValues(v.request, v.sessions.Cookie.withDefaults().Name) {
			if id == "" || v.look(id) {
				break
			}
		}
	}
	if v.lookErr != nil || v.copy == nil || !v.copy.Exists() {
		return nil, v.lookErr
	}
	return v.sess, nil
}

// look loads the session of that id, and reports whether there is one, or nobody
// can tell.
func (v *visit) look(id string) bool {
	c := v.live.Copy(id)
	if !c.HasValidID() {
		return false
	}
	err := describe("load session", id, v.load(c, id, func(sess session.Session) { v.sess = newNamed(sess, id) }))
	switch {
	case c.Err() != nil:
		v.lookErr = err
		return true
	case c.Exists():
		v.copy, v.cookie, v.saved, v.was, v.used = c, id, id, c.Used(), c.Used()
	}
	v.later(err)
	return c.Exists()
}

func (v *visit) add(sess session.Session) error {
	const doing = "add session"
	switch {
	case v.lookErr != nil:
		return v.lookErr
	case v.has(sess):
		return nil
	case v.sent:
		return describe(doing, "", ErrHeaderSent)
	case reflect.TypeOf(sess) != sessionType || !sess.New() || strings.HasPrefix(sess.ID(), live.HashedPrefix):
		return describe(doing, "", errNotNew)
	}
	id := v.sessions.idOf(sess)
	if !v.live.ValidID(id) {
		return describe(doing, "", ErrInvalidID)
	}
	if err := v.store(false); err != nil { // the session that the request had
		if !live.IsSaved(err) {
			return err
		}
		v.later(err)
	}
	if err := setID(sess, id); err != nil {
		return describe(doing, "", err)
	}
	v.copy, v.sess, v.looked = v.live.Fresh(id), newNamed(sess, id), true
	v.saved, v.cookie, v.removed, v.was, v.used = "", "", false, time.Time{}, time.Time{}
	return nil
}

// has reports whether a session is the request's.
func (v *visit) has(sess session.Session) bool {
	return v.copy != nil && !v.removed && unwrap(sess) == v.sess.Session
}

func (v *visit) remove(sess session.Session) error {
	if v.copy == nil || unwrap(sess) != v.sess.Session {
		return describe("remove session", "", errNoSession)
	}
	err := v.copy.Remove(v.ctx)
	v.removed = true
	v.ends = v.ends || v.cookie != "" && !errors.Is(err, ErrNotSaved)
	return describe("remove session", v.sess.ID(), err)
}

func (v *visit) regenerate() error {
	const doing = "regenerate id of session"
	switch sess, err := v.find(); {
	case err != nil:
		return err
	case sess == nil:
		return describe(doing, "", errNoSession)
	case v.sent:
		return describe(doing, v.sess.ID(), ErrHeaderSent)
	}
	err := v.copy.Regenerate(v.sessions.idOf(session.NewSession()))
	v.sess.setID(v.copy.ID())
	return describe(doing, v.sess.ID(), err)
}

// store saves the request's session. With again it tries again what has failed.
func (v *visit) store(again bool) error {
	const doing = "save session"
	if v.copy == nil || v.removed {
		return nil
	}
	if v.sent && v.needsCookie() {
		return describe(doing, v.sess.ID(), ErrHeaderSent)
	}
	err := v.save(v.copy, v.sess, again, v.sent)
	id := v.copy.ID()
	if live.IsSaved(err) {
		v.used = v.copy.Used()
	}
	if live.IsSaved(err) && v.copy.IsStored() || id != v.sess.ID() {
		v.saved = id
	}
	v.sess.setID(id)
	return describe(doing, id, err)
}

// needsCookie reports whether the client does not know, or will not know any more,
// the id of the request's session.
func (v *visit) needsCookie() bool {
	return v.copy != nil && v.copy.Exists() && v.copy.NextID() != v.cookie
}

// ask finds out whether the session has been removed meanwhile.
func (v *visit) ask() error {
	now := v.copy.Again()
	err := v.load(now, v.sess.ID(), func(session.Session) {})
	if now.IsRemoved() {
		err = errors.Join(ErrRemoved, err)
	}
	return describe("save session", v.sess.ID(), err)
}

// BeforeHeader implements web.Hook.
func (v *visit) BeforeHeader(header http.Header, hijack bool) error {
	v.mu.Lock()
	defer v.unlock()
	if !v.touched {
		v.sent = true
		return nil
	}
	err := v.beforeHeader(header, hijack)
	v.sent, v.lost = true, err != nil
	return err
}

func (v *visit) beforeHeader(header http.Header, hijack bool) error {
	web.VaryCookie(header)
	if v.sent = hijack; hijack && v.needsCookie() {
		return describe("save session", v.sess.ID(), ErrHeaderSent)
	}
	err := v.store(false)
	if !live.IsSaved(err) && (v.copy.IsChanged() || errors.Is(err, errHeld)) {
		return err
	}
	v.later(err)
	return v.setCookie(header, err == nil)
}

// setCookie has the client know what its session is called now. With prolong it
// also sets a cookie again that would end before the session.
func (v *visit) setCookie(header http.Header, prolong bool) error {
	c := v.sessions.Cookie.withDefaults()
	switch {
	case !v.removed && v.saved != "":
		if v.saved == v.cookie && (c.BrowserSession || !v.isLaterUse(c) && !(prolong && v.endsFirst(c) && v.isThere())) {
			return nil
		}
		if err := web.SetCookie(header, c.cookie(v.saved, v.maxAge(c))); err != nil {
			return fmt.Errorf("gaesession: %w", err)
		}
		v.cookie = v.saved
	case v.ends:
		return web.SetCookie(header, c.cookie("", 0))
	}
	return nil
}

// isLaterUse reports whether the stored access time has come to another
// RefreshInterval, or tenth of MaxAge, counted by the clock: that happens once in each
// of them, however often the session is changed.
func (v *visit) isLaterUse(c Cookie) bool {
	interval := v.interval(c)
	return v.used.Truncate(interval).After(v.was.Truncate(interval))
}

// interval is how often a session that is used has its cookie set.
func (v *visit) interval(c Cookie) time.Duration {
	return min(v.opt.refreshInterval(v.sess.Timeout()), c.MaxAge/10)
}

// endsFirst reports whether the client's cookie would end before the session, though
// the session is used: no access time is written close to MaxLifetime, and seldom if
// RefreshInterval is long. Nothing says when the cookie was set, only that it was not
// before the access time that was stored, unless that is of a use that could set none,
// which is at least a RefreshInterval ago then.
func (v *visit) endsFirst(c Cookie) bool {
	return !v.was.IsZero() && v.was.Add(c.MaxAge).Before(v.copy.Ends()) && time.Since(v.was) >= v.interval(c)
}

// isThere reports whether the session still is there under its id: if it has ended or
// moved meanwhile, the client may have a newer cookie.
func (v *visit) isThere() bool {
	err := v.ask()
	if !errors.Is(err, ErrRemoved) {
		v.later(err)
	}
	return err == nil
}

// maxAge is how long the client is to keep the cookie.
func (v *visit) maxAge(c Cookie) time.Duration {
	if v.opt.MaxLifetime <= 0 {
		return c.MaxAge
	}
	born := v.copy.Born()
	if born.IsZero() {
		born = v.sess.Created()
	}
	return min(c.MaxAge, time.Until(born.Add(min(v.opt.MaxLifetime, longest))))
}

// ServeError implements web.Hook.
func (v *visit) ServeError(w http.ResponseWriter, r *http.Request, err error) {
	v.mu.Lock()
	web.VaryCookie(w.Header())
	v.later(v.setCookie(w.Header(), false)) // of what was saved before
	v.unlock()
	if v.sessions.ErrorHandler != nil {
		v.sessions.ErrorHandler(w, r, err)
		return
	}
	v.notify(err)
	web.Fail(w, err, errEncode, live.ErrOwnerFunc)
}

// Finish implements web.Hook: it saves what was changed after the header had left.
func (v *visit) Finish() {
	v.mu.Lock()
	defer v.unlock()
	if v.touched && !v.lost {
		v.later(v.store(false))
	}
}
