package cascadestore

import (
	"context"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/values"
)

// Save saves the session in all backends and writes its cookie, so it has to be
// called before the response's body. With an Options.MaxAge below zero it
// removes the session everywhere instead, for good, and makes the cookie expire.
//
// Only what changed is saved, key by key, and merged with what other requests
// saved meanwhile; for one key the last one to save wins, flashes being one key.
// When nothing changed only the cookie is written, and the expiry in the
// services if a tenth of MaxAge has passed since it was.
//
// The request should be the one that the session came from, or a copy of it.
// With another one all the session's values count as changed.
//
// Inside of Handler, once the response's header has left: a session that the client
// has no cookie of is not saved, and the error is ErrHeaderSent; and a session that
// has not changed is asked for, and the error is ErrRemoved if it is gone.
//
// The cookie is written when the session is saved in one of the services: without
// an error, and with ErrNotBackedUp and ErrNotPublished. Otherwise the browser
// keeps the cookie that it has. The cookie of a session to be removed always is
// made to expire.
func (cs *CascadeStore) Save(r *http.Request, w http.ResponseWriter, session *sessions.Session) error {
	if err := cs.Err(); err != nil {
		return err
	}
	if session == nil {
		return describe("save session", "", errNoSession)
	}
	req := requestOf(r)
	err := cs.saveSession(r, req, session, saving{header: w.Header(), sent: req.isSent(cs)})
	return cs.logs().returned(appengine.NewContext(r), err)
}

// A saving says how a session is saved.
type saving struct {
	header      http.Header // of the response; nil: it has left
	sent        bool        // Handler has seen it leave
	onlyChanges bool        // by Handler: that the app has not saved itself
	ended       []string    // by Handler: the keys of sessions that RemoveAll has ended
}

func (cs *CascadeStore) saveSession(r *http.Request, req *request, session *sessions.Session, how saving) error {
	ctx := appengine.NewContext(r)
	n := req.sessions(ctx, cs, session.Name())
	cs.setOptions(session)
	t := req.track(n, cs, session)
	if key := t.copy.Key(); slices.Contains(how.ended, key) {
		if n.cookie == nil || slices.Contains(how.ended, n.cookieKey) {
			n.endCookie(how.header, session, key)
		} // else another session has taken it over
		return nil
	}
	if session.Options.MaxAge < 0 {
		if how.onlyChanges && (t.removed || !t.copy.IsStored() && len(r.CookiesNamed(session.Name())) == 0) {
			return nil
		}
		return cs.remove(ctx, n, session, t, how)
	}
	if how.onlyChanges && cs.isUnchanged(session, t) {
		return nil
	}
	was, ended, isKnown := t.copy.Used(), t.copy.Ends(), *session.Options == cs.storedOptions(t)
	err := cs.save(ctx, n, session, t, how)
	err = describe("save session", t.id, err) // the new id, if it has moved
	switch {
	case how.onlyChanges && !t.copy.IsChanged():
		return err
	case how.sent && err == nil && !t.copy.IsChanged():
		err = describe("save session", t.id, cs.ask(ctx, t))
	}
	used := t.copy.Used()
	// If the session has got a longer life, the cookie is as short as the store's MaxAge was.
	isLonger := t.copy.Ends().Sub(ended) > used.Sub(was)
	isKnown = isKnown && t.id == t.cookieID && !isLonger && !cs.isLaterUse(session, was, used)
	if live.IsSaved(err) && !(how.onlyChanges && isKnown) {
		cookie, cerr := securecookie.EncodeMulti(session.Name(), session.ID, cs.Codecs...)
		if cerr != nil {
			return describe("write cookie of session", session.ID, describeCookie(cerr))
		}
		n.setCookie(how.header, sessions.NewCookie(session.Name(), cookie, session.Options), t.copy.Key())
	}
	return err
}

func (cs *CascadeStore) remove(ctx context.Context, n *named, session *sessions.Session, t *track, how saving) error {
	cs.logs().step(ctx, "remove", t.id)
	err := describe("remove session", t.id, t.copy.Remove(ctx))
	t.removed = true
	n.keep(cs, t)
	key := t.copy.Key()
	takenOver := n.cookie != nil && n.cookieKey != key // by another session
	if !how.onlyChanges || live.IsSaved(err) && !takenOver {
		n.endCookie(how.header, session, key)
	}
	return err
}

// ask finds out whether a session has been removed meanwhile.
func (cs *CascadeStore) ask(ctx context.Context, t *track) error {
	now := t.copy.Again()
	err := now.Open(ctx, nil)
	switch {
	case now.IsRemoved():
		return ErrRemoved
	case now.Err() != nil:
		return err
	}
	cs.logs().fail(ctx, describe("load session", t.id, err))
	return nil
}

func (cs *CascadeStore) save(ctx context.Context, n *named, session *sessions.Session, t *track, how saving) error {
	if !t.copy.HasValidID() {
		return errInvalidID
	}
	f := form{cs, session.Name()}
	now, maxAge := time.Now(), cs.maxAge(session.Options.MaxAge)
	cs.logs().step(ctx, "save", t.id)
	draft := live.Draft{
		Encode: func(key string, worth func(map[string]any) bool) ([]byte, map[string]any, error) {
			attrs := byName(session.Values)
			if !worth(attrs) {
				return nil, nil, nil
			}
			value, err := f.encode(session, key)
			if err == nil && !f.isExact(session.Values) {
				attrs = nil
			}
			return value, attrs, err
		},
		Lifetime: live.Lifetime{Used: now, Idle: maxAge, Refresh: refreshInterval(maxAge), Born: now},
		MaxAge:   cs.ownMaxAge(session, t),
		Owner:    live.Ask(cs.Owner, f.session),
		Label:    live.Ask(cs.Label, f.session),
		NewID:    func() (string, error) { return cs.newID(), nil },
		Only:     f.only,
		Again:    !how.onlyChanges,
		Adopt: func(value []byte) error {
			all, err := f.values(value)
			if err == nil {
				session.Values = all
			}
			return err
		},
		OnlyChanges: how.onlyChanges,
	}
	if how.sent {
		draft.NoNewID = ErrHeaderSent
		// As if in the interval before: so the next change in time is to set the cookie.
		draft.Noted = now.Truncate(refreshInterval(maxAge)).Add(-time.Microsecond)
	}
	err := t.copy.Save(ctx, draft)
	if moved := t.copy.ID(); moved != t.id {
		cs.logs().step(ctx, "new id", moved, "old", hash(t.id))
		t.id, session.ID = moved, moved
		n.known[moved] = t.copy
	}
	if err == nil || t.copy.IsRemoved() {
		n.keep(cs, t)
	}
	return err
}

// RegenerateID gives the session a new id, under which the next Save saves it,
// with what other requests have saved under the old id until then; the old
// session ends in the same step. Call RegenerateID when the user logs in, so that
// an id which somebody else put into the browser before is useless, and call Save
// afterwards, which changes the session's ID and writes the cookie.
//
// Until that Save nothing has changed. Requests that overlap with it and save
// under the old id later get ErrRemoved; so does that Save when the session was
// removed. When that Save fails the browser keeps the old cookie and the session
// its old ID.
func (cs *CascadeStore) RegenerateID(r *http.Request, session *sessions.Session) error {
	const doing = "regenerate id of session"
	if err := cs.Err(); err != nil {
		return err
	}
	if session == nil {
		return describe(doing, "", errNoSession)
	}
	req := requestOf(r)
	ctx := appengine.NewContext(r)
	n := req.sessions(ctx, cs, session.Name())
	cs.setOptions(session)
	t := req.track(n, cs, session)
	if req.isSent(cs) {
		return cs.logs().returned(ctx, describe(doing, t.id, ErrHeaderSent))
	}
	err := t.copy.Regenerate(cs.newID())
	if id := t.copy.ID(); err == nil && id != t.id {
		t.id, session.ID = id, id // nobody knew the other one
	}
	return cs.logs().returned(ctx, describe(doing, t.id, err))
}

// setOptions gives the store's options to a session without any.
func (cs *CascadeStore) setOptions(session *sessions.Session) {
	if session.Options == nil {
		session.Options = cs.blank(session.Name()).Options
	}
}

// maxAge is how long a session lives in the services after it was saved, by its
// Options.MaxAge.
func (cs *CascadeStore) maxAge(seconds int) time.Duration {
	if seconds == 0 {
		seconds = cs.DefaultMaxAge
		if seconds < 1 {
			seconds = DefaultMaxAgeSeconds
		}
	}
	const longest = 100 * 365 * 24 * time.Hour // so that nothing overflows
	return time.Duration(min(int64(seconds), int64(longest/time.Second))) * time.Second
}

// refreshInterval is how old the time at which a session was saved last may
// become in the services. They keep a session for that much longer.
func refreshInterval(maxAge time.Duration) time.Duration { return maxAge / 10 }

// hasEnded reports whether a session that was loaded has not been saved for its
// MaxAge: that of the store may be lower than it was.
func (cs *CascadeStore) hasEnded(t *track) bool {
	seconds := cs.defaultOptions().MaxAge
	if own, ok := t.copy.MaxAge(); ok {
		seconds = int(own)
	}
	maxAge, used := cs.maxAge(seconds), t.copy.Used()
	return seconds >= 0 && !used.IsZero() && time.Since(used) > maxAge+refreshInterval(maxAge)
}

// isLaterUse reports whether a session that was saved at a time, and is now, has come
// to another refresh interval, counted by the clock: that happens once in each of
// them, however often the session is saved.
func (cs *CascadeStore) isLaterUse(session *sessions.Session, was, now time.Time) bool {
	interval := refreshInterval(cs.maxAge(session.Options.MaxAge))
	return now.Truncate(interval).After(was.Truncate(interval))
}

// storedOptions are those of a session of which the app chooses no others in this
// request.
func (cs *CascadeStore) storedOptions(t *track) sessions.Options {
	o := *cs.defaultOptions()
	if maxAge, ok := t.copy.MaxAge(); ok {
		o.MaxAge = int(maxAge)
	}
	return o
}

// isUnchanged reports whether a session certainly is what it was: all of it are
// booleans, numbers and texts. It takes no memory, which a save does to find out.
func (cs *CascadeStore) isUnchanged(session *sessions.Session, t *track) bool {
	was, ok := t.copy.Scalars()
	if !ok || len(was) != len(session.Values) || t.copy.NextID() != t.id {
		return false
	}
	for key, v := range session.Values {
		text, isText := key.(string)
		if old, has := was[textName+text]; !isText || !has || !values.Equal(old, v) {
			return false
		}
	}
	maxAge, has := t.copy.MaxAge()
	return has && int(maxAge) == session.Options.MaxAge || !has && (!t.copy.IsStored() || session.Options.MaxAge == cs.defaultOptions().MaxAge)
}

// ownMaxAge is the MaxAge that the app has chosen for this session; nil: none.
func (cs *CascadeStore) ownMaxAge(session *sessions.Session, t *track) *int32 {
	if _, has := t.copy.MaxAge(); !has && session.Options.MaxAge == cs.defaultOptions().MaxAge {
		return nil
	}
	seconds := int32(min(session.Options.MaxAge, math.MaxInt32))
	return &seconds
}
