package cascadestore

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/web"
)

// SessionInfo is a session of an owner.
type SessionInfo struct {
	// Ref names the session, for RemoveRefs, also when it gets a new id. It is no id:
	// nobody can open a session with it.
	Ref string
	// Since is when the owner logged in.
	Since time.Time
	// Label is what the store's Label said then, of which the first 100 bytes are kept.
	Label string
	// Current says that the session is the one that was given.
	Current bool
}

// SessionsOf returns the owner's sessions of that name that live, the latest login
// first. current, which may be nil, is the session to be marked as such. SessionsOf
// makes a call to Datastore, and one to Memcache for each session. What a RemoveAll was
// to end whose process has died is not listed, and is removed in the background.
//
// ErrUnavailable: nobody can tell.
func (cs *CascadeStore) SessionsOf(ctx context.Context, name, owner string, current *sessions.Session) ([]SessionInfo, error) {
	const doing = "list sessions"
	s, err := cs.owned(ctx, name, owner)
	if err != nil {
		return nil, describe(doing, "", err)
	}
	key := ""
	if current != nil {
		key = live.Key(current.ID)
	}
	listed, err := s.SessionsOf(live.OrBackground(ctx), owner)
	all := make([]SessionInfo, len(listed))
	for i, l := range listed {
		all[i] = SessionInfo{l.Ref, l.Since, l.Label, l.Key == key}
	}
	return all, describe(doing, "", err)
}

// RemoveRefs removes, for good, those of the owner's sessions of that name whose Ref
// is among refs; without refs, none. It promises and returns what RemoveAll does.
func (cs *CascadeStore) RemoveRefs(ctx context.Context, name, owner string, refs ...string) error {
	return cs.removeOwned(ctx, name, owner, func(l live.Owned) bool { return slices.Contains(refs, l.Ref) })
}

// RemoveAll removes all sessions of that name and owner for good: log out
// everywhere. Once it has returned without an error no session lives that had logged
// in before it began: under no id, in no request in flight, and not after Memcache
// is emptied. A login that overlaps it may come after it.
//
// If ctx is that of a request inside Handler, and Get has returned one of those
// sessions to it, Handler ends the cookie, and does not save what the request has
// changed in the session. Without Handler, or with another context, the client keeps
// a cookie that opens nothing, and Save returns ErrRemoved; a Save with an
// Options.MaxAge below zero ends the cookie.
//
// With an error call RemoveAll again. ErrNotSaved: some sessions may live.
// ErrNotBackedUp and ErrNotPublished: some may be seen for a while; this process
// goes on removing them in the background.
func (cs *CascadeStore) RemoveAll(ctx context.Context, name, owner string) error {
	return cs.removeOwned(ctx, name, owner, func(live.Owned) bool { return true })
}

// RemoveOthers removes the sessions of the session's owner and name, except that
// one: log out everywhere else. It promises and returns what RemoveAll does. If
// another request gives the session a new id meanwhile, the session may end as well:
// nobody can tell it from one that a thief has moved.
func (cs *CascadeStore) RemoveOthers(r *http.Request, session *sessions.Session) error {
	const doing = "remove other sessions"
	if session == nil {
		return describe(doing, "", errNoSession)
	}
	if cs.Owner == nil {
		return describe(doing, session.ID, live.ErrNoOwners)
	}
	req, ctx := requestOf(r), appengine.NewContext(r)
	t := req.track(req.sessions(ctx, cs, session.Name()), cs, session)
	f := form{cs, session.Name()}
	value, err := f.encode(session, t.copy.Key())
	if err != nil {
		return describe(doing, t.id, err)
	}
	owner, err := live.Ask(cs.Owner, f.session)(value)
	if err != nil {
		return describe(doing, t.id, err)
	}
	return cs.removeOwned(ctx, session.Name(), owner, t.copy.Others())
}

func (cs *CascadeStore) removeOwned(ctx context.Context, name, owner string, match func(live.Owned) bool) error {
	const doing = "remove sessions"
	s, err := cs.owned(ctx, name, owner)
	if err != nil {
		return describe(doing, "", err)
	}
	v, inside := web.Inside[*visit](live.OrBackground(ctx), cs)
	var keys []string
	err = s.RemoveOwned(live.OrBackground(ctx), owner, func(l live.Owned) bool {
		is := match(l)
		if is && inside {
			keys = append(keys, l.Key)
		}
		return is
	})
	if inside && live.IsSaved(err) { // otherwise match may still be called
		v.end(keys)
	}
	return describe(doing, "", err)
}

// owned returns a way to an owner's sessions.
func (cs *CascadeStore) owned(ctx context.Context, name, owner string) (*live.Store, error) {
	switch {
	case cs.Err() != nil:
		return nil, cs.Err()
	case cs.Owner == nil:
		return nil, live.ErrNoOwners
	case owner == "":
		return nil, live.ErrNoOwner
	}
	return cs.liveStore(live.OrBackground(ctx), name), nil
}

// checkOwners returns why the settings of owners cannot work.
func (cs *CascadeStore) checkOwners() error {
	if cs.Owner == nil {
		return nil
	}
	return live.CheckOwners(cs.backendTypes&DatastoreBackend != 0, cs.MaxPerOwner)
}

// perOwner is how many sessions an owner may have. An instance without Owner ends
// none: others may allow more.
func (cs *CascadeStore) perOwner() int {
	if cs.Owner == nil {
		return 0
	}
	return live.PerOwner(cs.MaxPerOwner)
}
