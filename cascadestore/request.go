package cascadestore

import (
	"context"
	"net/http"
	"time"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/web"
)

// A request holds what the store knows of the sessions of one HTTP request. It
// lives in gorilla's registry, which lives in the request's context. So every
// copy of the HTTP request leads to it, and it is gone with them.
type request struct {
	named map[storeName]*named
	// inRegistry has the store of the session that gorilla's registry has of each
	// name, if Get has put it there.
	inRegistry map[storeName]*tracked
	// tracks are those of sessions that do not know theirs: the registry has set
	// another store, or they were not made for this request.
	tracks map[*sessions.Session]*track
	// visit is that of the innermost Handler that the request is in; nil: none.
	visit *visit
	// got has the sessions that Get has put into gorilla's registry, in order.
	got []made
	// last is what New returned last, and lastTrack its track.
	last      made
	lastTrack *track
}

// A made is a session that New has made, and the store that has.
type made struct {
	store   *CascadeStore
	session *sessions.Session
}

// A storeName names the sessions that one cookie may name.
type storeName struct {
	store *CascadeStore
	name  string
}

// A named is what the request knows of the sessions of one name.
type named struct {
	live *live.Store
	// known has a copy of each session that was looked for, by the id that the
	// cookie says. All others of the request share its identity.
	known map[string]*live.Copy
	// kept is the request backend: the session that was loaded or saved last.
	kept     *live.Copy
	keptFrom string // the id in the cookie that it came from, or replaces
	// cookie is what saves have set last, of the session of that key; nil: nothing.
	cookie    *http.Cookie
	cookieKey string
}

// A track is what the store knows of one session value.
type track struct {
	copy     *live.Copy
	id       string // that the store gave the session
	cookieID string // what the request's cookie says, if it is valid
	removed  bool   // a save has removed the session, or has tried
}

// A tracked is the store of one session: it knows which session it is. So what
// the store knows of a session goes wherever it goes, and is gone with it.
type tracked struct {
	*CascadeStore
	track *track // nil: it has none yet
}

// New is for gorilla's registry, which puts this store in place of that of the
// session.
func (s *tracked) New(r *http.Request, name string) (*sessions.Session, error) {
	session, err := s.CascadeStore.New(r, name)
	if own, ok := session.Store().(*tracked); ok && s.track == nil {
		s.track = own.track
		req := requestOf(r)
		req.got = append(req.got, made{s.CascadeStore, session})
	}
	return session, err
}

// registered returns the store that the session of that name is to have in
// gorilla's registry.
func (req *request) registered(cs *CascadeStore, name string) *tracked {
	s := req.inRegistry[storeName{cs, name}]
	if s == nil {
		s = &tracked{CascadeStore: cs}
		req.inRegistry[storeName{cs, name}] = s
	}
	return s
}

// requestOf returns what is known of r's sessions.
func requestOf(r *http.Request) *request {
	holder, err := sessions.GetRegistry(r).Get(requestHolder{}, holderName)
	if err == nil {
		if req, ok := holder.Values[holderName].(*request); ok {
			req.adopt()
			return req
		}
	}
	// Not to be reached: somebody else's session has that name. Without what was
	// known of it a session is saved all the same.
	return newRequest()
}

func newRequest() *request {
	return &request{
		named:      make(map[storeName]*named),
		inRegistry: make(map[storeName]*tracked),
		tracks:     make(map[*sessions.Session]*track),
	}
}

// made notes that New returns a session.
func (req *request) made(cs *CascadeStore, session *sessions.Session) *sessions.Session {
	if own, ok := session.Store().(*tracked); ok {
		req.last, req.lastTrack = made{cs, session}, own.track
	}
	return session
}

// adopt keeps the track of what New returned last, if gorilla's registry has set
// another store: that of an app which has put a store of its own around this one.
func (req *request) adopt() {
	if req.last.session == nil {
		return
	}
	if _, ok := req.last.session.Store().(*tracked); !ok {
		req.tracks[req.last.session] = req.lastTrack
		req.got = append(req.got, req.last)
	}
	req.last, req.lastTrack = made{}, nil
}

// holderName is the name that the request goes by in gorilla's registry. No
// cookie of that name is read or written.
const holderName = "github.com-gaesession-cascadestore"

// requestHolder is the gorilla store of a session that is none, but holds a
// request.
type requestHolder struct{}

func (h requestHolder) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(h, name)
}

func (h requestHolder) New(_ *http.Request, name string) (*sessions.Session, error) {
	s := sessions.NewSession(h, name)
	s.Values[holderName] = newRequest()
	return s, nil
}

func (requestHolder) Save(*http.Request, http.ResponseWriter, *sessions.Session) error { return nil }

// sessions returns what is known of the sessions of that name.
func (req *request) sessions(ctx context.Context, cs *CascadeStore, name string) *named {
	n := req.named[storeName{cs, name}]
	if n == nil {
		n = &named{live: cs.liveStore(ctx, name), known: make(map[string]*live.Copy)}
		req.named[storeName{cs, name}] = n
	}
	return n
}

// track returns the track of a session; one of a session that the services may
// know if it was not made for this request, or if the app has changed its id.
func (req *request) track(n *named, cs *CascadeStore, session *sessions.Session) *track {
	if own, ok := session.Store().(*tracked); ok && own.CascadeStore == cs && own.track != nil && own.track.id == session.ID {
		return own.track
	}
	t := req.tracks[session]
	if t == nil || t.id != session.ID {
		if t = (&track{copy: n.live.Unknown(session.ID), id: session.ID}); session.ID == "" {
			t.id = cs.newID()
			t.copy = n.live.Fresh(t.id)
			session.ID = t.id
		}
		req.tracks[session] = t
	}
	return t
}

// copy returns a copy of the session that the cookie names, not opened yet.
func (n *named) copy(id string) *live.Copy {
	if known := n.known[id]; known != nil {
		return known.Again()
	}
	c := n.live.Copy(id)
	n.known[id] = c
	return c
}

// find returns what the request backend has for a request whose cookie says
// cookieID; nil: nothing.
func (n *named) find(cs *CascadeStore, cookieID string) *live.Copy {
	if cs.backendTypes&RequestBackend == 0 || n.kept == nil || cookieID != n.keptFrom && cookieID != n.kept.ID() {
		return nil
	}
	if ends := n.kept.Ends(); !ends.IsZero() && !time.Now().Before(ends) {
		return nil
	}
	return n.kept
}

// keep puts a session into the request backend.
func (n *named) keep(cs *CascadeStore, t *track) {
	if cs.backendTypes&RequestBackend != 0 {
		n.kept, n.keptFrom = t.copy.Clone(), t.cookieID
	}
}

// endCookie has the client drop the cookie of a session, which has that key.
func (n *named) endCookie(header http.Header, session *sessions.Session, key string) {
	gone := *session.Options
	gone.MaxAge = -1
	n.setCookie(header, sessions.NewCookie(session.Name(), "", &gone), key)
}

// setCookie sets the cookie of the session of that key in place of one that was set
// before. A nil header has left.
func (n *named) setCookie(header http.Header, c *http.Cookie, key string) {
	n.cookie, n.cookieKey = c, key
	if header != nil {
		web.ReplaceCookie(header, c)
	}
}
