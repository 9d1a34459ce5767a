package gaesession_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/gaetest/promises"
)

// The promises that every adapter keeps, and what the package documentation says of
// this one.

func TestPromises(t *testing.T) { promises.Test(t, adapters()...) }

// adapters are a store for each request, in every mode, and Sessions.
func adapters() (all []promises.Adapter) {
	for _, mode := range modes {
		for _, kind := range []string{"store", "Sessions"} {
			all = append(all, promises.Adapter{
				Name: kind + ", " + mode.name, Drain: gaesession.Drain, Moves: true, Async: mode.o.AsyncDatastoreSave,
				Memcache: true, Datastore: !mode.o.OnlyMemcache,
				New: func(tb testing.TB, s *gaetest.Service, simulated, inTime bool) promises.App {
					o := mode.o
					if !inTime { // a busy machine may take longer than the default
						o.CacheTimeout, o.BackupTimeout = time.Minute, time.Minute
					}
					if kind == "store" {
						return storeApp{o}
					}
					return newSessionsApp(o)
				},
			})
		}
	}
	return all
}

// A storeApp opens a store for each request.
type storeApp struct{ o options }

func (a storeApp) NewVisitor() promises.Visitor { return &storeGuest{app: a} }

// A storeGuest is somebody who sends an id.
type storeGuest struct {
	app storeApp
	id  string
}

func (g *storeGuest) Clone() promises.Visitor { c := *g; return &c }
func (g *storeGuest) Cookie() string          { return g.id }
func (g *storeGuest) Name(id string)          { g.id = id }

func (g *storeGuest) Request(on *gaetest.Request, use func(promises.Session)) promises.Answer {
	errs, o := &errorLog{}, g.app.o
	o.OnError = errs.add
	s := &storeSession{Store: gaesession.NewMemcacheStoreOptions(on.Context(), &o)}
	if g.id != "" {
		s.sess = s.Get(g.id)
	}
	use(s)
	s.Close()
	if s.isNew && errs.all() == nil {
		g.id = s.sess.ID()
	}
	return promises.Answer{Reported: errs.all}
}

type storeSession struct {
	session.Store
	sess  session.Session
	isNew bool
}

func (s *storeSession) Values() attrs {
	if s.sess == nil {
		return nil
	}
	return s.sess.Attrs()
}

func (s *storeSession) Set(name string, v any) {
	if s.sess == nil {
		s.sess, s.isNew = session.NewSession(), true
		s.Add(s.sess)
	}
	s.sess.SetAttr(name, v)
}

func (s *storeSession) Remove() {
	if s.sess != nil {
		s.Store.Remove(s.sess)
	}
}

func (s *storeSession) Save() {}

func (s *storeSession) Move() {
	if next, err := gaesession.RegenerateID(s.Store, s.sess); err == nil {
		s.sess, s.isNew = next, true
	}
}

// A sessionsApp uses Sessions.
type sessionsApp struct{ *gaesession.Sessions }

func newSessionsApp(o options) sessionsApp {
	s := &gaesession.Sessions{Options: o}
	s.Options.OnError = func(ctx context.Context, err error) {
		if errs, ok := ctx.Value(errorLogKey{}).(*errorLog); ok {
			errs.add(ctx, err)
		}
	}
	return sessionsApp{s}
}

type errorLogKey struct{}

func (a sessionsApp) NewVisitor() promises.Visitor { return &cookieGuest{app: a} }

// A cookieGuest is somebody who sends a cookie.
type cookieGuest struct {
	app   sessionsApp
	value string
}

func (g *cookieGuest) Clone() promises.Visitor { c := *g; return &c }
func (g *cookieGuest) Cookie() string          { return g.value }
func (g *cookieGuest) Name(id string)          { g.value = id }

func (g *cookieGuest) Request(on *gaetest.Request, use func(promises.Session)) promises.Answer {
	errs := &errorLog{}
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(context.WithValue(on.Context(), errorLogKey{}, errs))
	if g.value != "" {
		r.AddCookie(&http.Cookie{Name: "sessid", Value: g.value})
	}
	w := httptest.NewRecorder()
	s := &sessionsSession{app: g.app}
	g.app.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.r = r
		use(s)
	})).ServeHTTP(w, r)
	cookies := w.Result().Cookies()
	for _, c := range cookies {
		g.value = c.Value
	}
	return promises.Answer{Err: s.err, Reported: errs.all, Cookies: cookies}
}

type sessionsSession struct {
	app sessionsApp
	r   *http.Request
	err error // of the methods of Sessions
}

func (s *sessionsSession) get() session.Session {
	sess, err := s.app.Get(s.r)
	s.note(err)
	return sess
}

func (s *sessionsSession) note(err error) { s.err = errors.Join(s.err, err) }

func (s *sessionsSession) Values() attrs {
	if sess := s.get(); sess != nil {
		return sess.Attrs()
	}
	return nil
}

func (s *sessionsSession) Set(name string, v any) {
	sess := s.get()
	if sess == nil {
		sess = session.NewSession()
		s.note(s.app.Add(s.r, sess))
	}
	sess.SetAttr(name, v)
}

func (s *sessionsSession) Remove() {
	if sess := s.get(); sess != nil {
		s.note(s.app.Sessions.Remove(s.r, sess))
	}
}

func (s *sessionsSession) Save() {}

func (s *sessionsSession) Move() { s.note(s.app.RegenerateID(s.r)) }

type attrs = map[string]any

var modes = []struct {
	name string
	o    options
}{
	{"synchronous", options{}},
	{"asynchronous", options{AsyncDatastoreSave: true}},
	{"only Memcache", options{OnlyMemcache: true}},
}

// onEach runs f in every mode on every service.
func onEach(t *testing.T, f func(t *testing.T, s *gaetest.Service, o options)) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) { f(t, s, mode.o) })
		})
	}
}

// backedUp is onEach without OnlyMemcache, for promises that need Datastore.
func backedUp(t *testing.T, f func(t *testing.T, s *gaetest.Service, o options)) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		if !o.OnlyMemcache {
			f(t, s, o)
		}
	})
}

// expectSession reads the session as it is now, and after a flush.
func expectSession(t testing.TB, s *gaetest.Service, o options, id string, want attrs) {
	t.Helper()
	expectAttrs(t, "from Memcache", read(t, s, o, id), want)
	if o.OnlyMemcache {
		return
	}
	drain(t)
	expectAttrs(t, "after background saves", read(t, s, o, id), want)
	s.Flush()
	expectAttrs(t, "after flush", read(t, s, o, id), want)
	expectAttrs(t, "after refill", read(t, s, o, id), want)
}

func TestALateBackgroundSaveDoesNotUndoALaterChange(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{AsyncDatastoreSave: true}
		// Held at each call of the background save in turn.
		gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
			id := login(t, s, o, attrs{"k": 0})
			gate, hook := gaetest.Hold(gaetest.At(2 + k)) // after a get and a compare-and-swap
			early := newRequest(s, o, hook)
			early.Get(id).SetAttr("k", 1)
			early.Close()
			arrived := waitFor(t, gate.Arrived())
			late := newRequest(s, o)
			late.Get(id).SetAttr("k", 2)
			done := make(chan struct{})
			go func() { late.Close(); close(done) }()
			<-done
			gate.Open()
			drain(t)
			if err := errors.Join(early.errs.all(), late.errs.all()); err != nil {
				t.Error(err)
			}
			expectSession(t, s, o, id, attrs{"k": 2})
			return arrived
		})
	})
}

// waitFor reports whether the held call arrives before the background saves are
// done without it.
func waitFor(t *testing.T, arrived <-chan gaetest.Call) bool {
	t.Helper()
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		if gaesession.Drain(ctx) == nil {
			close(done)
		}
	}()
	select {
	case <-arrived:
		return true
	case <-done:
		return false
	}
}

// P2: no resurrection.

func TestRemovedSessionStaysRemovedWhenARequestIsInFlight(t *testing.T) {
	inFlight := map[string]func(session.Session){
		"change":  func(sess session.Session) { sess.SetAttr("mine", "a") },
		"read":    func(session.Session) {},
		"refresh": session.Session.Access,
	}
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		for name, use := range inFlight {
			for _, evicted := range []bool{false, true} {
				if evicted && o.OnlyMemcache {
					continue
				}
				o := o
				if name == "refresh" {
					o.RefreshInterval = -1
				}
				t.Run(fmt.Sprintf("%s, evicted=%v", name, evicted), func(t *testing.T) {
					gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
						id := login(t, s, o, attrs{"n": 0})
						other := login(t, s, o, attrs{"n": 0})
						if evicted {
							s.Flush()
						}
						var loaded bool
						reached, hook := gaetest.Interpose(k, func() { logout(t, s, o, id) })
						r := newRequest(s, o, hook)
						if sess := r.Get(id); sess != nil {
							loaded = true
							use(sess)
						}
						hasOther := r.Get(other)
						hasOther.SetAttr("other", "saved")
						r.Close()
						drain(t)
						if !reached.Load() {
							return false
						}
						err := r.errs.all()
						if err != nil && !errors.Is(err, gaesession.ErrRemoved) {
							t.Error(err)
						}
						if loaded && name == "change" && k == 2 && err == nil {
							t.Error("no ErrRemoved was reported for a change after the removal")
						}
						expectSession(t, s, o, id, nil)
						expectSession(t, s, o, other, attrs{"n": 0, "other": "saved"})
						return true
					})
				})
			}
		}
	})
}

// Datastore is down for so long that the session's entity expires meanwhile, and
// when it is up again the purge comes before the session's next request.
func TestSessionsOutliveTheirEntityWhileDatastoreIsDown(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		for _, purged := range []bool{false, true} {
			{
				id := login(t, s, o, attrs{"n": 0})
				up := s.Break(gaetest.Datastore)
				r := newRequest(s, o, gaetest.Fail(gaetest.Datastore))
				r.Get(id).SetAttr("n", 1)
				r.Close()
				drain(t)
				up()
				if r.errs.all() == nil {
					t.Error("no error was reported while Datastore was down")
				}
				expireEntity(t, s, id, 6*time.Minute)
				if purged {
					if got, err := gaesession.PurgeExpired(s.Context(), ""); got.Deleted != 1 || err != nil {
						t.Fatalf("purge: got %+v, %v, want one deleted", got, err)
					}
				}
				change(t, s, o, id, attrs{"m": 1})
				drain(t)
				expectSession(t, s, o, id, attrs{"n": 1, "m": 1})
			}
		}
	})
}

func TestALoginWhileDatastoreIsDownIsSavedByTheNextChange(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		r := newRequest(s, o, gaetest.Fail(gaetest.Datastore))
		sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"n": 0}})
		r.Add(sess)
		r.Close()
		if r.errs.all() == nil {
			t.Error("no error was reported")
		}
		expectAttrs(t, "meanwhile", read(t, s, o, sess.ID()), attrs{"n": 0})
		change(t, s, o, sess.ID(), attrs{"m": 1})
		expectSession(t, s, o, sess.ID(), attrs{"n": 0, "m": 1})
	})
}

func TestADatastoreThatIsDownForOneChangeHidesNoOtherChange(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
			o := options{Retries: 1}
			id := login(t, s, o, attrs{"n": 0})
			reached, hook := gaetest.Interpose(k, func() { change(t, s, o, id, attrs{"theirs": 1}) })
			r := newRequest(s, o, hook, gaetest.Fail(gaetest.Datastore))
			r.Get(id).SetAttr("mine", 1)
			r.Close()
			if r.errs.all() == nil {
				t.Error("no error was reported")
			}
			got := read(t, s, o, id)
			if reached.Load() && got["theirs"] != 1 {
				t.Errorf("got %v: a saved change is missing", got)
			}
			delete(got, "mine") // may or may not be there
			if reached.Load() {
				expectAttrs(t, "other attributes", got, attrs{"n": 0, "theirs": 1})
			}
			return reached.Load()
		})
	})
}

func TestRequestsWorkWhileMemcacheIsDown(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		o.Retries = 1
		var up atomic.Bool
		down := gaetest.Fail(func(c gaetest.Call) bool { return c.IsMemcache() && !up.Load() })
		id := login(t, s, o, attrs{"n": 0})
		s.Flush()
		for i := 1; i <= 2; i++ {
			r := newRequest(s, o, down)
			sess := r.Get(id)
			if sess == nil {
				t.Fatalf("no session: %v", r.errs.all())
			}
			expectAttrs(t, "read", sess.Attrs(), attrs{"n": i - 1})
			sess.SetAttr("n", i)
			r.Close()
			if r.errs.all() == nil {
				t.Error("no error was reported")
			}
		}
		up.Store(true) // before publishing is given up, which goes on in the background
		expectSession(t, s, o, id, attrs{"n": 2})
	})
}

func TestLogoutWorksWhileOneServiceIsDown(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{Retries: 1}
		for name, down := range map[string]func(gaetest.Call) bool{"Memcache": gaetest.Memcache, "Datastore": gaetest.Datastore} {
			id := login(t, s, o, attrs{"n": 0})
			if name == "Memcache" {
				s.Flush() // else the item stays, and the error says so
			}
			r := newRequest(s, o)
			sess := r.Get(id)
			r = newRequest(s, o, gaetest.Fail(down))
			r.Remove(sess)
			r.Close()
			if r.errs.all() == nil {
				t.Errorf("%s down: no error was reported", name)
			}
			expectAttrs(t, name+" down: after logout", read(t, s, o, id), nil)
		}
	})
}

// A failing or ambiguous call is retried, and nothing is seen of it.

func TestOneFailingCallIsRetried(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		for name, fail := range map[string]func(func(gaetest.Call) bool) gaetest.Hook{"not made": gaetest.Fail, "answer lost": gaetest.FailAfter} {
			t.Run(name, func(t *testing.T) {
				gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
					id := login(t, s, o, attrs{"n": 0})
					reached, hook := gaetest.Interpose(k, func() {})
					r := newRequest(s, o, hook, fail(gaetest.At(k)))
					r.Get(id).SetAttr("n", 1)
					r.Close()
					drain(t)
					if err := r.errs.all(); err != nil {
						t.Error(err)
					}
					expectSession(t, s, o, id, attrs{"n": 1})
					return reached.Load()
				})
			})
		}
	})
}
