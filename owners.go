package gaesession

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/icza/session"

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
	// Label is what Sessions.Label said then, of which the first 100 bytes are kept.
	Label string
	// Current says that the session is the request's whose context was given.
	Current bool
}

// SessionsOf returns the owner's sessions that live, the latest login first. It
// makes a call to Datastore, and one to Memcache for each session. What a RemoveAll was
// to end whose process has died is not listed, and is removed in the background.
//
// ErrUnavailable: nobody can tell.
func (s *Sessions) SessionsOf(ctx context.Context, owner string) ([]SessionInfo, error) {
	own, err := s.owned(ctx, owner)
	if err != nil {
		return nil, describe("list sessions", "", err)
	}
	listed, err := own.live.SessionsOf(own.ctx, owner)
	current := ""
	if v, ok := web.Inside[*visit](own.ctx, s); ok {
		current = v.key()
	}
	all := make([]SessionInfo, len(listed))
	for i, l := range listed {
		all[i] = SessionInfo{l.Ref, l.Since, l.Label, l.Key == current}
	}
	return all, describe("list sessions", "", err)
}

// RemoveRefs removes, for good, those of the owner's sessions whose Ref is among
// refs; without refs, none. It promises and returns what RemoveAll does.
func (s *Sessions) RemoveRefs(ctx context.Context, owner string, refs ...string) error {
	return s.removeOwned(ctx, owner, func(l live.Owned) bool { return slices.Contains(refs, l.Ref) })
}

// RemoveAll removes all sessions of the owner for good: log out everywhere. Once it
// has returned without an error no session lives that had logged in before it
// began: under no id, in no request in flight, and not after Memcache is emptied. A
// login that overlaps it may come after it. If ctx is that of a request inside
// Handler whose session is the owner's, that session ends as Remove ends it.
//
// With an error call RemoveAll again. ErrNotSaved: some sessions may live.
// ErrNotBackedUp and ErrNotPublished: some may be seen for a while; this process
// goes on removing them in the background.
func (s *Sessions) RemoveAll(ctx context.Context, owner string) error {
	if v, ok := web.Inside[*visit](live.OrBackground(ctx), s); ok && s.Owner != nil && owner != "" {
		v.removeOf(owner)
	}
	return s.removeOwned(ctx, owner, func(live.Owned) bool { return true })
}

// RemoveOthers removes the sessions of the owner of the request's session, except
// that one: log out everywhere else. It promises and returns what RemoveAll does. If
// another request gives the session a new id meanwhile, the session may end as well:
// nobody can tell it from one that a thief has moved.
func (s *Sessions) RemoveOthers(r *http.Request) error {
	const doing = "remove other sessions"
	v, err := s.visit(r)
	if err != nil {
		return err
	}
	defer v.unlock()
	switch sess, err := v.find(); {
	case err != nil:
		return err
	case sess == nil:
		return describe(doing, "", errNoSession)
	case v.owners == nil:
		return describe(doing, "", live.ErrNoOwners)
	}
	owner, err := v.owner()
	if err == nil && owner == "" {
		err = live.ErrNoOwner
	}
	if err != nil {
		return describe(doing, v.sess.ID(), err)
	}
	return describe(doing, v.sess.ID(), v.live.RemoveOwned(v.ctx, owner, v.copy.Others()))
}

func (s *Sessions) removeOwned(ctx context.Context, owner string, match func(live.Owned) bool) error {
	const doing = "remove sessions"
	own, err := s.owned(ctx, owner)
	if err != nil {
		return describe(doing, "", err)
	}
	v, inside := web.Inside[*visit](own.ctx, s)
	if !inside {
		return describe(doing, "", own.live.RemoveOwned(own.ctx, owner, match))
	}
	key := v.key()
	var found atomic.Bool // by what may go on when the request has ended
	err = own.live.RemoveOwned(own.ctx, owner, func(l live.Owned) bool {
		is := match(l)
		found.Store(found.Load() || is && l.Key == key)
		return is
	})
	if found.Load() {
		v.removeOf(owner)
	}
	return describe(doing, "", err)
}

// owned returns a way to an owner's sessions.
func (s *Sessions) owned(ctx context.Context, owner string) (*services, error) {
	switch {
	case s.Owner == nil:
		return nil, live.ErrNoOwners
	case owner == "":
		return nil, live.ErrNoOwner
	}
	own := &services{owners: s.owners()}
	own.open(ctx, &s.Options)
	if s.Options.OnlyMemcache {
		return nil, live.ErrNoBackup
	}
	return own, nil
}

// key is what the services know the request's session by; empty: it has none.
func (v *visit) key() string {
	v.lock()
	defer v.unlock()
	if sess, err := v.find(); sess == nil || err != nil {
		return ""
	}
	return v.copy.Key()
}

// removeOf ends the request's session, if it is that owner's: if it was, or is to
// be.
func (v *visit) removeOf(owner string) {
	v.lock()
	defer v.unlock()
	if sess, err := v.find(); sess == nil || err != nil || v.removed {
		return
	}
	const doing = "remove session"
	of, err := v.copy.Owner(v.ownerOf)
	v.later(describe(doing, v.sess.ID(), err))
	if of != owner {
		of, err = v.owner()
		v.later(describe(doing, v.sess.ID(), err))
	}
	if of == owner {
		v.later(v.remove(v.sess))
	}
}

// owner asks the app whose the request's session is, as it is now.
func (v *visit) owner() (string, error) {
	d, err := v.draft(v.sess)
	if err != nil {
		return "", err
	}
	value, _, err := d.Encode(v.copy.Key(), func(map[string]any) bool { return true })
	if err != nil {
		return "", err
	}
	return v.ownerOf(value)
}

// owners say whose sessions are.
type owners struct {
	sessions *Sessions
	newID    func() (string, error)
}

func (s *Sessions) owners() *owners {
	if s.Owner == nil {
		return nil
	}
	return &owners{sessions: s}
}

func (o *owners) scope() string {
	if o == nil {
		return ""
	}
	return o.sessions.Cookie.withDefaults().Name
}

func (o *owners) max() int {
	if o == nil {
		return 0
	}
	return live.PerOwner(o.sessions.MaxPerOwner)
}

// ownerOf asks the app whose the session is that is in value.
func (s *services) ownerOf(value []byte) (string, error) {
	return live.Ask(s.owners.sessions.Owner, s.form.codec.decode)(value)
}

// checkOwners returns why the settings of owners cannot work.
func (s *Sessions) checkOwners() error {
	if s.Owner == nil {
		return nil
	}
	return live.CheckOwners(!s.Options.OnlyMemcache, s.MaxPerOwner)
}

// idForOwner returns an id for the request's session, as its owner has changed.
func (v *visit) idForOwner() (string, error) {
	if v.sent {
		return "", ErrHeaderSent
	}
	return v.sessions.idOf(session.NewSession()), nil
}
