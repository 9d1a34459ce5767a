package cascadestore

import (
	"context"
	"encoding/base32"
	"errors"
	"net/http"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/tiered"
)

// Get returns the session of that name from gorilla's registry, or what New
// returns, which then is in the registry.
func (cs *CascadeStore) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(cs, name)
}

// New returns the session that the request's cookie of that name belongs to, or
// a new one, with IsNew set and an id that nobody knows, when there is none. It
// is never nil. An error comes with a new session:
//
//   - what securecookie says, when the cookie is forged, expired or damaged;
//   - that of a serializer which cannot read what is stored;
//   - that of a service, when it cannot be told whether the session exists. Then
//     the session may be removed but not saved: Save returns the error again.
//
// A service that failed while another one knew the answer is logged.
//
// New copies the session back into Memcache if that had lost it, and into
// Datastore if that has lacked something of it for more than three seconds.
func (cs *CascadeStore) New(r *http.Request, name string) (*sessions.Session, error) {
	if err := cs.Err(); err != nil {
		return cs.blank(name), err
	}
	req := requestOf(r)
	ctx := appengine.NewContext(r)
	t := &track{}
	session, err := cs.find(ctx, req, r, name, t)
	if t.id == "" {
		t.id = newID()
	}
	session.ID = t.id
	req.tracks[session] = t
	return session, cs.logs().returned(ctx, err)
}

// blank returns an empty session.
func (cs *CascadeStore) blank(name string) *sessions.Session {
	session := sessions.NewSession(cs, name)
	if cs.Options != nil {
		*session.Options = *cs.Options
	} else {
		session.Options = defaultOptions()
	}
	session.IsNew = true
	return session
}

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// newID returns an id of 256 random bits, empty when there is no randomness.
func newID() string {
	return idEncoding.EncodeToString(securecookie.GenerateRandomKey(32))
}

// find returns the session that the request belongs to. It sets t.id, unless
// the session is a new one.
func (cs *CascadeStore) find(ctx context.Context, req *request, r *http.Request, name string, t *track) (*sessions.Session, error) {
	var cookieErr error
	if c, err := r.Cookie(name); err == nil {
		var id string
		if err := securecookie.DecodeMulti(name, c.Value, &id, cs.Codecs...); err != nil {
			cookieErr = describeCookie(err)
		} else {
			t.cookieID = id
		}
	}
	id := t.cookieID
	if k, ok := req.find(cs, name, id); ok {
		if k.loaded == nil {
			cs.logs().step(ctx, "removed in this request", id)
			return cs.blank(name), nil
		}
		cs.logs().step(ctx, "found in the request", k.id)
		t.loaded = k.loaded
		return cs.open(name, k.id, t)
	}
	switch {
	case cookieErr != nil:
		return cs.blank(name), cookieErr
	case id == "":
		return cs.blank(name), nil
	case !cs.isValidID(id):
		cs.logs().fail(ctx, describe("load session", id, errInvalidID))
		return cs.blank(name), nil
	}
	session, err := cs.load(ctx, name, id, t)
	if err == nil && t.loaded != nil {
		req.keep(cs, name, t)
	}
	return session, err
}

// load returns the session that the services have under that id, or a new one.
func (cs *CascadeStore) load(ctx context.Context, name, id string, t *track) (*sessions.Session, error) {
	services, ok := cs.tiers(ctx, cs.blank(name))
	if !ok {
		return cs.blank(name), nil
	}
	loaded, err := services.Load(ctx, id)
	switch {
	case loaded == nil && errors.Is(err, errSerializer) && (services.Backup == nil || !errors.Is(err, tiered.ErrUnavailable)):
		// Memcache has what the original has stored and this instance cannot
		// decode, and nobody has anything else.
		t.unreadable = &unreadable{id: id}
		return cs.blank(name), describe("load session", id, err)
	case errors.Is(err, tiered.ErrUnavailable):
		t.id, t.unknown = id, describe("load session", id, err)
		return cs.blank(name), t.unknown
	}
	cs.logs().fail(ctx, describe("load session", id, err))
	if loaded == nil {
		cs.logs().step(ctx, "not found", id)
		return cs.blank(name), nil
	}
	t.loaded = loaded
	session, err := cs.open(name, id, t)
	if err != nil && loaded.FromCache() {
		// The backup may have one that can be read.
		if stored, berr := services.LoadBackup(ctx, id); berr == nil && stored != nil {
			t.loaded = stored
			if opened, oerr := cs.open(name, id, t); oerr == nil {
				cs.logs().fail(ctx, err)
				session, err = opened, nil
			}
		}
	}
	if err != nil {
		return session, err
	}
	err = services.Settle(ctx, id, t.loaded)
	if errors.Is(err, ErrRemoved) {
		t.loaded, t.id, t.was = nil, "", snapshot{}
		return cs.blank(name), nil
	}
	cs.logs().fail(ctx, describe("load session", id, err))
	return session, nil
}

// open returns the session that t.loaded is the value of, or a new one when
// that cannot be decoded.
func (cs *CascadeStore) open(name, id string, t *track) (*sessions.Session, error) {
	session := cs.blank(name)
	session.ID = id
	if err := cs.decode(t.loaded.Value(), session); err != nil {
		t.id, t.unreadable, t.loaded = "", &unreadable{id, t.loaded}, nil
		return cs.blank(name), describe("load session", id, err)
	}
	t.id, t.unreadable, t.was = id, nil, takeSnapshot(t.loaded.Value(), session)
	session.IsNew = false
	return session, nil
}
