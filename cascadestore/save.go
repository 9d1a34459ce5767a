package cascadestore

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/sessionid"
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
	ctx := appengine.NewContext(r)
	req := requestOf(r)
	n := req.sessions(ctx, cs, session.Name())
	cs.setOptions(session)
	t := req.track(n, cs, session)
	if session.Options.MaxAge < 0 {
		cs.logs().step(ctx, "remove", t.id)
		err := describe("remove session", t.id, t.copy.Remove(ctx))
		n.keep(cs, t)
		setCookie(w, sessions.NewCookie(session.Name(), "", session.Options))
		return cs.logs().returned(ctx, err)
	}
	err := describe("save session", t.id, cs.save(ctx, n, session, t))
	if err == nil || errors.Is(err, ErrNotBackedUp) || errors.Is(err, ErrNotPublished) {
		cookie, cerr := securecookie.EncodeMulti(session.Name(), session.ID, cs.Codecs...)
		if cerr != nil {
			err = describe("write cookie of session", session.ID, describeCookie(cerr))
		} else {
			setCookie(w, sessions.NewCookie(session.Name(), cookie, session.Options))
		}
	}
	return cs.logs().returned(ctx, err)
}

func (cs *CascadeStore) save(ctx context.Context, n *named, session *sessions.Session, t *track) error {
	if !n.live.ValidID(t.id) {
		return errInvalidID
	}
	f := form{cs, session.Name()}
	now, maxAge := time.Now(), cs.maxAge(session.Options.MaxAge)
	cs.logs().step(ctx, "save", t.id)
	err := t.copy.Save(ctx, live.Draft{
		Encode: func(_ string, worth func(map[string]any) bool) ([]byte, bool, error) {
			if !worth(byName(session.Values)) {
				return nil, false, nil
			}
			value, err := f.encode(session)
			return value, false, err
		},
		Lifetime: live.Lifetime{Used: now, Idle: maxAge, Refresh: refreshInterval(maxAge), Born: now},
		MaxAge:   cs.ownMaxAge(session, t),
		Owner:    cs.ownerOf(f),
		NewID:    func() (string, error) { return newID(), nil },
		Again:    true,
		Adopt: func(value []byte) error {
			all, err := f.values(value)
			if err == nil {
				session.Values = all
			}
			return err
		},
	})
	if moved := t.copy.ID(); moved != t.id {
		cs.logs().step(ctx, "new id", moved, "old", sessionid.Hash(t.id))
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
	err := t.copy.Regenerate(newID())
	if id := t.copy.ID(); err == nil && id != t.id {
		t.id, session.ID = id, id // nobody knew the other one
	}
	return cs.logs().returned(ctx, describe(doing, t.id, err))
}

// setCookie sets the cookie in place of one of its name that was set before.
func setCookie(w http.ResponseWriter, c *http.Cookie) {
	var others []string
	for _, line := range w.Header()["Set-Cookie"] {
		if name, _, _ := strings.Cut(line, "="); name != c.Name {
			others = append(others, line)
		}
	}
	w.Header()["Set-Cookie"] = others
	http.SetCookie(w, c)
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

// ownMaxAge is the MaxAge that the app has chosen for this session; nil: none.
func (cs *CascadeStore) ownMaxAge(session *sessions.Session, t *track) *int32 {
	if _, has := t.copy.MaxAge(); !has && session.Options.MaxAge == cs.defaultOptions().MaxAge {
		return nil
	}
	seconds := int32(min(session.Options.MaxAge, math.MaxInt32))
	return &seconds
}
