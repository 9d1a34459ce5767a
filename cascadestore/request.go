package cascadestore

import (
	"net/http"
	"time"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/internal/tiered"
)

// A request holds what the store knows of the sessions of one HTTP request: how
// each was loaded, and what it was then. It lives in gorilla's registry, which
// lives in the request's context. So every copy of the HTTP request leads to it,
// and it is gone with them.
type request struct {
	tracks map[*sessions.Session]*track

	// kept is the request backend.
	kept map[keptKey]kept
}

// A track is what the store knows of one session.
type track struct {
	id       string
	cookieID string // what the request's cookie says, if it is valid

	// loaded is what the next change starts from; nil while the services do
	// not know the session.
	loaded *tiered.Loaded
	// saved is set once a first save was tried: the services may know the
	// session although loaded is nil.
	saved bool
	was   snapshot // with loaded: the session at that time

	// unreadable is the session that the cookie names, when what is stored
	// cannot be decoded.
	unreadable *unreadable

	removed bool // by this request

	// unknown is why it could not be told whether the session exists.
	unknown error
}

// An unreadable session can be removed, and nothing else.
type unreadable struct {
	id     string
	loaded *tiered.Loaded
}

type keptKey struct {
	store *CascadeStore
	name  string
}

// kept is a session in the request backend.
type kept struct {
	id      string // empty: it was removed
	instead string // the id in the cookie it takes the place of
	loaded  *tiered.Loaded
}

// requestOf returns what is known of r's sessions.
func requestOf(r *http.Request) *request {
	holder, err := sessions.GetRegistry(r).Get(requestHolder{}, holderName)
	if err == nil {
		if req, ok := holder.Values[holderName].(*request); ok {
			return req
		}
	}
	// Not to be reached: somebody else's session has that name. Without its
	// track a session is saved all the same.
	return newRequest()
}

func newRequest() *request {
	return &request{tracks: make(map[*sessions.Session]*track), kept: make(map[keptKey]kept)}
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

// track returns the track of a session; a blank one, with the session's id as
// it is now, for a session that was not made for this request, or whose id the
// app has changed.
func (req *request) track(session *sessions.Session) *track {
	t := req.tracks[session]
	if t == nil || t.id != session.ID {
		t = &track{id: session.ID, saved: session.ID != ""}
		req.tracks[session] = t
	}
	return t
}

// find returns what the request backend keeps under that name for a request
// whose cookie says cookieID.
func (req *request) find(cs *CascadeStore, name, cookieID string) (kept, bool) {
	if cs.backendTypes&RequestBackend == 0 {
		return kept{}, false
	}
	k, ok := req.kept[keptKey{cs, name}]
	if !ok || cookieID != k.id && cookieID != k.instead || k.loaded != nil && !time.Now().Before(k.loaded.Ends()) {
		return kept{}, false
	}
	return k, true
}

// keep puts a session into the request backend.
func (req *request) keep(cs *CascadeStore, name string, t *track) {
	if cs.backendTypes&RequestBackend == 0 {
		return
	}
	req.kept[keptKey{cs, name}] = kept{id: t.id, instead: t.cookieID, loaded: t.loaded}
}

// drop makes the request backend know that the session is removed.
func (req *request) drop(cs *CascadeStore, name string, t *track) {
	if cs.backendTypes&RequestBackend == 0 {
		return
	}
	req.kept[keptKey{cs, name}] = kept{instead: t.cookieID}
}
