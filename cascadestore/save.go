package cascadestore

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/internal/tiered"
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
// After an error the cookie is written nevertheless if a service may have the
// session: when Datastore fails it lives on in Memcache. None is written after
// ErrRemoved, ErrValueTooBig or an error of the serializer. The cookie of a
// session to be removed always is.
func (cs *CascadeStore) Save(r *http.Request, w http.ResponseWriter, session *sessions.Session) error {
	if err := cs.Err(); err != nil {
		return err
	}
	if session == nil {
		return describe("save session", "", errNoSession)
	}
	req := requestOf(r)
	ctx := appengine.NewContext(r)
	cs.setOptions(session)
	if session.Options.MaxAge < 0 {
		err := cs.remove(ctx, req, session)
		http.SetCookie(w, sessions.NewCookie(session.Name(), "", session.Options))
		return cs.logs().returned(ctx, err)
	}
	if session.ID == "" {
		session.ID = newID()
		req.tracks[session] = &track{id: session.ID}
	}
	cookie, err := securecookie.EncodeMulti(session.Name(), session.ID, cs.Codecs...)
	if err != nil {
		return cs.logs().returned(ctx, describe("write cookie of session", session.ID, describeCookie(err)))
	}
	t := req.track(session)
	if t.unknown != nil {
		return cs.logs().returned(ctx, t.unknown)
	}
	err = describe("save session", session.ID, cs.save(ctx, req, session, t))
	if err == nil || !isRefusal(err) {
		http.SetCookie(w, sessions.NewCookie(session.Name(), cookie, session.Options))
	}
	return cs.logs().returned(ctx, err)
}

func (cs *CascadeStore) save(ctx context.Context, req *request, session *sessions.Session, t *track) error {
	switch {
	case t.removed:
		return ErrRemoved
	case !cs.isValidID(t.id):
		return errInvalidID
	}
	now := time.Now()
	set, deleted, err := t.was.changes(cs, session)
	if err != nil {
		return err
	}
	fresh := t.loaded != nil && !t.loaded.Ends().Before(now.Add(cs.maxAge(session.Options)))
	var value []byte
	was := t.was
	if t.loaded == nil || len(set)+len(deleted) > 0 {
		// What counts is what is stored: the serializer may not keep all of a
		// value.
		if value, err = cs.encode(session); err != nil {
			return err
		}
		stored := cs.like(session)
		if err := cs.decode(value, stored); err != nil {
			return err
		}
		if set, deleted, err = t.was.changes(cs, stored); err != nil {
			return err
		}
		was = takeSnapshot(value, stored)
	}
	if t.loaded != nil && len(set)+len(deleted) == 0 {
		if fresh {
			cs.logs().step(ctx, "nothing to save", t.id)
			return nil
		}
		value, was = t.loaded.Value(), t.was
	}
	loaded, err := cs.store(ctx, session, t, tiered.Change{
		Value: value, Set: set, Deleted: deleted, Used: now, Ends: cs.expiry(session.Options, now),
	})
	t.saved = true
	if errors.Is(err, ErrRemoved) {
		req.drop(cs, session.Name(), t)
	}
	if err != nil {
		return err
	}
	t.loaded, t.was = loaded, was
	req.keep(cs, session.Name(), t)
	return nil
}

// store saves a session in the services.
func (cs *CascadeStore) store(ctx context.Context, session *sessions.Session, t *track, c tiered.Change) (*tiered.Loaded, error) {
	services, ok := cs.tiers(ctx, session)
	switch {
	case !ok:
		return tiered.Saved(c), nil
	case t.loaded != nil:
		cs.logs().step(ctx, "save change", t.id, "bytes", len(c.Value))
		return services.Update(ctx, t.id, t.loaded, c)
	case t.saved:
		// It may be known, and may have been removed.
		cs.logs().step(ctx, "save", t.id, "bytes", len(c.Value))
		return services.Update(ctx, t.id, tiered.New(), c)
	}
	cs.logs().step(ctx, "create", t.id, "bytes", len(c.Value))
	return services.Create(ctx, t.id, c)
}

// remove removes a session from all backends.
func (cs *CascadeStore) remove(ctx context.Context, req *request, session *sessions.Session) error {
	t := req.track(session)
	req.drop(cs, session.Name(), t)
	if err := cs.removeUnreadable(ctx, session, t); err != nil {
		return err
	}
	known := t.loaded != nil || t.saved || t.unknown != nil
	if services, ok := cs.tiers(ctx, session); ok && known && cs.isValidID(t.id) {
		cs.logs().step(ctx, "remove", t.id)
		if err := services.Remove(ctx, t.id, t.loaded); err != nil {
			return describe("remove session", t.id, err)
		}
	}
	t.removed = known
	return nil
}

// removeUnreadable removes the session that the cookie names and that could not
// be decoded: another instance may be able to.
func (cs *CascadeStore) removeUnreadable(ctx context.Context, session *sessions.Session, t *track) error {
	if t.unreadable == nil {
		return nil
	}
	cs.logs().step(ctx, "remove unreadable", t.unreadable.id)
	services, _ := cs.tiers(ctx, session)
	if err := services.Remove(ctx, t.unreadable.id, t.unreadable.loaded); err != nil {
		return describe("remove session", t.unreadable.id, err)
	}
	t.unreadable = nil
	return nil
}

// RegenerateID gives the session a new id and removes the old one for good; the
// values move, with what other requests saved under the old id until now. Call
// it when the user logs in, so that an id somebody else may have put into the
// browser before is worth nothing, and call Save afterwards, which saves the
// session under its new id and writes the cookie.
//
// Requests that overlap and save under the old id later get ErrRemoved; so does
// RegenerateID when the session was removed. After another error the session is
// what it was, with its old ID. If it has a new ID all the same, it has moved,
// but Memcache failed and may show the old session to readers until it expires
// there.
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
	t := req.track(session)
	if t.unknown != nil {
		return cs.logs().returned(ctx, t.unknown)
	}
	cs.setOptions(session)
	if err := cs.removeUnreadable(ctx, session, t); err != nil {
		return cs.logs().returned(ctx, err)
	}
	moved, err := cs.take(ctx, session, t)
	err = cs.logs().returned(ctx, describe(doing, t.id, err))
	if moved || errors.Is(err, ErrRemoved) {
		req.drop(cs, session.Name(), t)
	}
	if !moved {
		return err
	}
	old := t.id
	session.ID = newID()
	req.tracks[session] = &track{id: session.ID, cookieID: t.cookieID}
	cs.logs().step(ctx, "new id", old, "new", sessionid.Hash(session.ID))
	return err
}

// take removes a session from the services, which it reports with moved, and
// takes over into its values what others saved there.
func (cs *CascadeStore) take(ctx context.Context, session *sessions.Session, t *track) (moved bool, err error) {
	services, ok := cs.tiers(ctx, session)
	switch {
	case t.removed:
		return false, ErrRemoved
	case !ok || t.loaded == nil && !t.saved:
		return true, nil // only this request knows it
	case !cs.isValidID(t.id):
		return false, errInvalidID
	}
	set, deleted, err := t.was.changes(cs, session)
	if err != nil {
		return false, err
	}
	mine, err := cs.encode(session)
	if err != nil {
		return false, err
	}
	from := t.loaded
	if from == nil {
		from = tiered.New()
	}
	now := time.Now()
	last, err := services.Take(ctx, t.id, from, tiered.Change{
		Value: mine, Set: set, Deleted: deleted, Used: now, Ends: cs.expiry(session.Options, now),
	})
	if len(last) == 0 {
		return false, err
	}
	if !bytes.Equal(last, mine) {
		all, derr := cs.valuesOf(last, session)
		if derr != nil {
			return true, errors.Join(err, derr)
		}
		session.Values = all
	}
	return true, err
}

// setOptions gives the store's options to a session without any.
func (cs *CascadeStore) setOptions(session *sessions.Session) {
	if session.Options == nil {
		session.Options = cs.blank(session.Name()).Options
	}
}

// maxAge is how long the services keep a session after it was saved.
func (cs *CascadeStore) maxAge(o *sessions.Options) time.Duration {
	seconds := o.MaxAge
	if seconds == 0 {
		seconds = cs.DefaultMaxAge
		if seconds < 1 {
			seconds = DefaultMaxAgeSeconds
		}
	}
	const longest = 100 * 365 * 24 * time.Hour // so that nothing overflows
	return time.Duration(min(int64(seconds), int64(longest/time.Second))) * time.Second
}

// refreshInterval is how old the expiry in the services may become before a
// Save that changes nothing writes it again.
func refreshInterval(maxAge time.Duration) time.Duration { return maxAge / 10 }

// expiry is when the services are to let go a session that is saved now. So
// that skipped refreshes never end a session early it is one interval late; the
// cookie, and its signature, end in time.
func (cs *CascadeStore) expiry(o *sessions.Options, now time.Time) time.Time {
	maxAge := cs.maxAge(o)
	return now.Add(maxAge + refreshInterval(maxAge))
}
