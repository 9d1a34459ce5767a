package cascadestore

import (
	"context"
	"encoding/base32"
	"net/http"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/live"
)

// Get returns the session of that name from gorilla's registry, or what New
// returns, which then is in the registry.
func (cs *CascadeStore) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(requestOf(r).registered(cs, name), name)
}

// New returns the session that the request's cookie of that name belongs to, or
// a new one, with IsNew set and an id that nobody knows, when there is none. It
// is never nil. An error comes with a new session:
//
//   - what securecookie says, when the cookie is forged or damaged;
//   - ErrUndecodable, when this instance cannot read what is stored;
//   - ErrUnavailable, when services fail and nobody can tell whether the session
//     exists.
//
// After the last two the session can be removed but not saved: Save returns the
// error again, and the cookie stays as it is. If several cookies have that name,
// New tries the first three.
//
// New logs the failure of a service that another service made up for. It copies
// the session back into Memcache if that had lost it, and into Datastore if that
// has lacked something of it for more than three seconds.
func (cs *CascadeStore) New(r *http.Request, name string) (*sessions.Session, error) {
	if err := cs.Err(); err != nil {
		return cs.blank(name), err
	}
	ctx := appengine.NewContext(r)
	req := requestOf(r)
	session, err := cs.find(ctx, req.sessions(ctx, cs, name), r, name)
	return req.made(cs, session), cs.logs().returned(ctx, err)
}

// blank returns an empty session.
func (cs *CascadeStore) blank(name string) *sessions.Session {
	return cs.tracked(name, &track{})
}

// tracked returns an empty session with that track.
func (cs *CascadeStore) tracked(name string, t *track) *sessions.Session {
	session := sessions.NewSession(&tracked{cs, t}, name)
	if cs.Options != nil {
		*session.Options = *cs.Options
	} else {
		session.Options = defaultOptions()
	}
	session.ID = t.id
	session.IsNew = true
	return session
}

// fresh returns a new session.
func (cs *CascadeStore) fresh(n *named, name, cookieID string) *sessions.Session {
	id := cs.newID()
	return cs.tracked(name, &track{copy: n.live.Fresh(id), id: id, cookieID: cookieID})
}

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// newID returns an id of 256 random bits, empty when there is no randomness.
func (cs *CascadeStore) newID() string {
	id := idEncoding.EncodeToString(securecookie.GenerateRandomKey(32))
	if cs.HashIDs && id != "" {
		return live.HashedPrefix + id
	}
	return id
}

// maxCookies is how many cookies of one name are tried.
const maxCookies = 3

// find returns the session that one of the request's cookies belongs to.
func (cs *CascadeStore) find(ctx context.Context, n *named, r *http.Request, name string) (*sessions.Session, error) {
	var firstErr error
	var firstID string
	tried := 0
	for _, c := range r.CookiesNamed(name) {
		if tried++; tried > maxCookies {
			break
		}
		session, id, err := cs.findIn(ctx, n, c.Value, name)
		if session != nil {
			return session, err
		}
		if tried == 1 {
			firstErr, firstID = err, id
		}
	}
	if kept := n.find(cs, ""); tried == 0 && kept != nil && kept.Exists() {
		return cs.open(ctx, n, name, &track{copy: kept.Clone(), id: kept.ID()})
	}
	return cs.fresh(n, name, firstID), firstErr
}

// findIn returns the session that a cookie belongs to, or one that cannot be
// told; nil: there is none.
func (cs *CascadeStore) findIn(ctx context.Context, n *named, cookie, name string) (session *sessions.Session, id string, err error) {
	if err := securecookie.DecodeMulti(name, cookie, &id, cs.Codecs...); err != nil {
		return nil, "", describeCookie(err)
	}
	if kept := n.find(cs, id); kept != nil {
		if !kept.Exists() {
			cs.logs().step(ctx, "removed in this request", id)
			return nil, id, nil
		}
		cs.logs().step(ctx, "found in the request", kept.ID())
		session, err = cs.open(ctx, n, name, &track{copy: kept.Clone(), id: kept.ID(), cookieID: id})
		return session, id, err
	}
	session, err = cs.load(ctx, n, name, id)
	return session, id, err
}

// load returns the session that the services have under that id; nil: none.
func (cs *CascadeStore) load(ctx context.Context, n *named, name, id string) (*sessions.Session, error) {
	t := &track{copy: n.copy(id), id: id, cookieID: id}
	if !t.copy.HasValidID() {
		cs.logs().fail(ctx, describe("load session", id, errInvalidID))
		return nil, nil
	}
	session := cs.tracked(name, t)
	err := t.copy.Open(ctx, func(value []byte) (map[string]any, error) {
		if err := (form{cs, name}).decode(value, session); err != nil {
			return nil, err
		}
		return scalarsOf(session.Values), nil
	})
	err = describe("load session", id, err)
	if t.copy.Err() != nil {
		return cs.tracked(name, t), err
	}
	cs.logs().fail(ctx, err)
	if t.copy.Exists() {
		cs.logs().fail(ctx, describe("load session", id, t.copy.Settle(ctx)))
	}
	if !t.copy.Exists() || cs.hasEnded(t) {
		cs.logs().step(ctx, "not found", id)
		return nil, nil
	}
	cs.opened(n, session, t)
	n.keep(cs, t)
	return session, nil
}

// open returns the session of a copy that was opened before.
func (cs *CascadeStore) open(ctx context.Context, n *named, name string, t *track) (*sessions.Session, error) {
	session := cs.tracked(name, t)
	if err := (form{cs, name}).decode(t.copy.Value(), session); err != nil {
		return cs.fresh(n, name, t.cookieID), describe("load session", t.id, err)
	}
	cs.opened(n, session, t)
	return session, nil
}

// opened makes a session one that is stored.
func (cs *CascadeStore) opened(n *named, session *sessions.Session, t *track) {
	t.id = t.copy.ID()
	session.ID, session.IsNew = t.id, false
	if maxAge, ok := t.copy.MaxAge(); ok {
		session.Options.MaxAge = int(maxAge)
	}
}

var _ live.Form = form{}
