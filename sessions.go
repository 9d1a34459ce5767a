package gaesession

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/web"
)

var (
	// ErrNoHandler means that a method of Sessions got a request that has not come
	// through its Handler.
	ErrNoHandler = errors.New("the request has not come through Sessions.Handler")

	// ErrHeaderSent means that a new session, or a new id, cannot reach the client
	// any more, since the response's header has left without its cookie. Nothing
	// was saved, and a session keeps its old id.
	ErrHeaderSent = web.ErrHeaderSent

	errNotNew    = errors.New("not a new session of session.NewSession")
	errNoSession = errors.New("not a session of the request")
)

// Sessions are the sessions of an app, each kept by its id in a cookie. Handler
// opens a request's session when the handler asks for it, and saves it before the
// response's header leaves; the other methods are for handlers inside. The zero
// value uses App Engine's services and the default cookie.
//
// The fields must be set before the first use, and stay as they are: requests read
// them without a lock. The methods may be called by several goroutines at once.
// Sessions must not be copied after the first use.
//
// Errors never contain a session id, and answer errors.Is for the errors of this
// package.
type Sessions struct {
	// Options say where sessions are kept, and how.
	Options MemcacheStoreOptions

	// Cookie says how the cookie looks.
	Cookie Cookie

	// PlainIDs gives new sessions ids as session.NewSession makes them, under which
	// the services keep them. By default an id begins with "h.", and the services
	// get a hash of it only: nobody who can read keys and values in them, or their
	// logs, can take over a session. Sessions under plain ids live until they end or
	// get a new id, whatever PlainIDs says, and so do the others, as long as all
	// instances have this version.
	PlainIDs bool

	// Owner says whose a session is: the number of the user who has logged in, for
	// example, or nothing as long as nobody has. It is something that never changes,
	// so not an address. Owner gets a copy of what is to be saved, without a lock.
	//
	// With Owner a user can be logged out everywhere: see RemoveAll. If the owner
	// changes, at login for example, the session gets a new id as by RegenerateID,
	// and MaxLifetime begins again. A login needs Datastore: if that fails, it is
	// ErrNotSaved. Sessions that logged in before the app had an Owner are known once
	// they have been saved again.
	Owner func(session.Session) string

	// Label is what a session is called in SessionsOf, 100 bytes at most: the browser
	// that is to be seen in an attribute, for example. It is asked with a copy, as Owner
	// is, when the list of the owner's sessions is to be changed: at login, with a new
	// id, and at a save after which the session may live for longer than was listed. A
	// listed session keeps the label of its login. The default is no label.
	Label func(session.Session) string

	// MaxPerOwner is how many sessions an owner may have; a login beyond that ends the
	// oldest one. One that was saved before Owner was set counts from the next login
	// on. The default is 100, and the most 5,000.
	MaxPerOwner int

	// ErrorHandler answers a request whose session could not be saved before the
	// header left, in place of the app. It gets the error of Save, and is the one to
	// report it. The default reports it to Options.OnError and answers 503, or 500
	// for ErrTooLarge, ErrHeaderSent and an error of the codec, or 409 for
	// ErrRemoved.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)
}

// Err returns why the settings cannot work, or nil: a bad cookie name, for example,
// or SameSite=None without Secure. Call it at startup.
func (s *Sessions) Err() error {
	if err := s.Cookie.check(); err != nil {
		return fmt.Errorf("gaesession: %w", err)
	}
	if err := s.checkOwners(); err != nil {
		return fmt.Errorf("gaesession: %w", err)
	}
	var own services
	own.open(context.Background(), &s.Options)
	if err := own.live.Err(); err != nil {
		return fmt.Errorf("gaesession: %w", err)
	}
	if !own.live.ValidID(s.idOf(session.NewSession())) {
		return fmt.Errorf("gaesession: the services take no session's id, perhaps since KeyPrefix is too long: %w", ErrInvalidID)
	}
	return nil
}

// Handler returns a handler that has next serve requests with sessions. If Err
// returns an error, it answers 500 to every request and reports that error.
//
//   - The session is saved before the first byte of the header leaves, whatever
//     sends it: WriteHeader, Write, Flush or Hijack, or the end of next. So the next
//     request sees every change. A request that does not touch its session makes no
//     call.
//   - If a change is saved nowhere, ErrorHandler answers instead of the app: the
//     header is what it was when Handler was entered, what the app writes fails, and
//     no cookie is set for what was not saved. With ErrNotBackedUp and
//     ErrNotPublished, and when only the access time could not be written, the app's
//     response goes out, and Options.OnError gets the error.
//   - The cookie is set when a session is new or has a new id, and again when the
//     access time has been written, once per RefreshInterval; for a short MaxAge see
//     Cookie. It ends with Remove only. A response has one Set-Cookie of the cookie's
//     name at most, with Cache-Control: no-store unless it has a Cache-Control; one of
//     a request that used its session has Vary: Cookie.
//   - If next panics, nothing is saved that was not saved before. A middleware that
//     recovers from panics belongs outside of Handler: inside, it makes a panic look
//     like a response, and what the request had changed until then is saved.
//   - What is changed after the header has left is saved when next returns. A new
//     session, and a new id, are refused with ErrHeaderSent then. That is also the
//     error of a Hijack before the cookie is set, as it would never be: a login, for
//     example.
//   - A save waits for a second at most for the session's Mutex, and fails then.
//
// Handler works inside http.TimeoutHandler and appengine.Middleware, not the other
// way round. A Handler of the same Sessions inside passes requests on.
func (s *Sessions) Handler(next http.Handler) http.Handler {
	bad := s.Err()
	return web.Handler(next, s, func(r *http.Request) web.Hook {
		if bad != nil {
			s.report(r, bad)
			return nil
		}
		return &visit{sessions: s, request: r}
	})
}

// visit returns what is known of a request.
func (s *Sessions) visit(r *http.Request) (*visit, error) {
	v, ok := web.Inside[*visit](r.Context(), s)
	if !ok {
		return nil, fmt.Errorf("gaesession: %w", ErrNoHandler)
	}
	v.lock()
	return v, nil
}

// Get returns the request's session, or nil if it has none. It asks the services
// once, at the first call; later calls return the same value. Its ID is the
// cookie's value, and after a move the new one.
//
// With ErrUnavailable nobody can tell whether there is a session, and with
// ErrUndecodable there is one that this instance cannot read. The cookie stays as
// it is then. If the client sends several cookies of the name, the first three are
// tried.
func (s *Sessions) Get(r *http.Request) (session.Session, error) {
	v, err := s.visit(r)
	if err != nil {
		return nil, err
	}
	defer v.unlock()
	return v.find()
}

// Add makes a session that session.NewSession has just made the request's, to be
// saved before the header leaves. Unless PlainIDs is set, its ID begins with "h."
// from then on. If the request has another session, that is saved at once and left
// as it is; at login, better keep the session: see Renew.
//
// Add refuses with the error of Get if that could not tell whether there is a
// session, and with ErrHeaderSent if the client can get no cookie any more.
func (s *Sessions) Add(r *http.Request, sess session.Session) error {
	v, err := s.visit(r)
	if err != nil {
		return err
	}
	defer v.unlock()
	return v.add(sess)
}

// Remove removes the request's session for good, at once, and ends the cookie. sess
// is what Get returned. With ErrNotSaved no service could be told: the cookie stays,
// and another Remove tries again. With ErrNotPublished the session may be seen for a
// while.
func (s *Sessions) Remove(r *http.Request, sess session.Session) error {
	v, err := s.visit(r)
	if err != nil {
		return err
	}
	defer v.unlock()
	return v.remove(sess)
}

// RegenerateID gives the request's session a new id when it is saved, so that an id
// which was known before is useless: call it at login. The session ends
// under the old id in the same step in which it begins under the new one, and keeps
// its attributes, constant attributes, timeout and creation time, and what other
// requests have saved until then. Requests that save under the old id later get
// ErrRemoved. If the save fails, the session keeps its old id.
func (s *Sessions) RegenerateID(r *http.Request) error {
	v, err := s.visit(r)
	if err != nil {
		return err
	}
	defer v.unlock()
	return v.regenerate()
}

// Renew is for a login: it returns the request's session, which gets a new id as with
// RegenerateID, or else a new session, which it adds as Add does. o says what a new
// session is like, and says nothing of one that is there; nil stands for the defaults
// of package session. Renew refuses with the errors of Get, Add and RegenerateID.
//
// If two requests renew one session at once, as after a double click, the second to be
// saved is ErrRemoved; with Owner, and a session that was nobody's, it begins another
// session instead.
func (s *Sessions) Renew(r *http.Request, o *session.SessOptions) (session.Session, error) {
	v, err := s.visit(r)
	if err != nil {
		return nil, err
	}
	defer v.unlock()
	sess, err := v.find()
	switch {
	case err != nil:
	case sess != nil:
		err = v.regenerate()
	default:
		err = v.add(session.NewSessionOptions(cmp.Or(o, &session.SessOptions{})))
	}
	if err != nil {
		return nil, err
	}
	return v.find()
}

// Save saves what was changed in the request's session at once, for handlers that
// want to know whether it worked. What it returns is not reported, and a change that
// it could not save does not keep the app's response from leaving; another Save tries
// again, and the change applies once. After the header has left, Save also asks
// whether the session still is there, and returns ErrRemoved if not.
func (s *Sessions) Save(r *http.Request) error {
	v, err := s.visit(r)
	if err != nil {
		return err
	}
	defer v.unlock()
	err = v.store(true)
	if err == nil && v.sent && v.has(v.sess) && !v.copy.IsChanged() {
		err = v.ask()
	}
	return err
}

// Manager returns a session.Manager of the request's session, for code that is
// written against icza/session's interface. It ignores the requests and
// ResponseWriters that its methods get. Errors go to Options.OnError. Close does
// nothing: Handler saves.
func (s *Sessions) Manager(r *http.Request) session.Manager { return manager{s, r} }

type manager struct {
	sessions *Sessions
	request  *http.Request
}

func (m manager) Get(*http.Request) session.Session {
	sess, err := m.sessions.Get(m.request)
	m.report(err)
	return sess
}

func (m manager) Add(sess session.Session, _ http.ResponseWriter) {
	m.report(m.sessions.Add(m.request, sess))
}

func (m manager) Remove(sess session.Session, _ http.ResponseWriter) {
	m.report(m.sessions.Remove(m.request, sess))
}

func (m manager) Close() {}

func (m manager) report(err error) {
	if err != nil {
		m.sessions.report(m.request, err)
	}
}

// report hands an error that is described already to OnError.
func (s *Sessions) report(r *http.Request, err error) {
	to := services{ctx: appengine.NewContext(r), opt: s.Options.withDefaults()}
	to.notify(err)
}

// idOf is the id that a fresh session is to have.
func (s *Sessions) idOf(sess session.Session) string {
	if s.PlainIDs {
		return sess.ID()
	}
	return live.HashedPrefix + sess.ID()
}
