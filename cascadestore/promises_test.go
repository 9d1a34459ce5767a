package cascadestore_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/gaetest/promises"
)

// The promises that every adapter keeps, and what they say of this one.

func TestPromises(t *testing.T) { promises.Test(t, adapters()...) }

// adapters are the store with every choice of backends.
func adapters() (all []promises.Adapter) {
	for _, choice := range backendChoices {
		all = append(all, promises.Adapter{
			Name: choice.name, Drain: cascadestore.Drain, KeyPrefix: cascadestore.DefaultKeyPrefix, Moves: true,
			Memcache:  choice.backends&cascadestore.MemcacheBackend != 0,
			Datastore: choice.backends&cascadestore.DatastoreBackend != 0,
			New: func(tb testing.TB, s *gaetest.Service, simulated, inTime bool) promises.App {
				store := newStore(tb, choice.backends)
				store.Logger = new(logBuffer).logger()
				if inTime {
					store.CacheTimeout, store.BackupTimeout = 0, 0
				}
				if simulated {
					return promising{newSimulatedApp(tb, s, store)}
				}
				return promising{newAppWith(tb, s, store)}
			},
		})
	}
	return all
}

type promising struct{ *app }

func (a promising) NewVisitor() promises.Visitor { return guest{a.newBrowser()} }

type guest struct{ *browser }

func (g guest) Clone() promises.Visitor { return guest{g.clone()} }
func (g guest) Cookie() string          { return g.cookie() }
func (g guest) Name(id string)          { g.setCookie(sign(g.app.t, g.app.store.Codecs[0], sessionName, id)) }

func (g guest) Request(on *gaetest.Request, use func(promises.Session)) (a promises.Answer) {
	a.Cookies = g.VisitOn(on, func(w http.ResponseWriter, r *http.Request) {
		var s *sessions.Session
		if s, a.Err = g.app.store.Get(r, sessionName); a.Err != nil {
			return
		}
		u := &session{Session: s, request: r, app: g.app}
		if use(u); u.saves {
			a.Err = s.Save(r, w)
		}
	}).Response.Cookies()
	return a
}

type session struct {
	*sessions.Session
	request *http.Request
	app     *app
	saves   bool
}

func (s *session) Values() map[string]any {
	if s.IsNew {
		return nil
	}
	all := make(map[string]any)
	for k, v := range s.Session.Values {
		all[k.(string)] = v
	}
	return all
}

func (s *session) Set(key string, v any) {
	set(s.Session, values{key: v})
	s.Save()
}

func (s *session) Remove() {
	s.Options.MaxAge = -1
	s.Save()
}

func (s *session) Save() { s.saves = true }

func (s *session) Move() {
	s.Save()
	if err := s.app.store.RegenerateID(s.request, s.Session); err != nil {
		s.app.t.Errorf("new id: %v", err)
	}
}

const (
	anyBackend = 0
	durable    = cascadestore.DatastoreBackend
)

func TestAChangeThatOneServiceTookIsAnErrorAndSetsTheCookie(t *testing.T) {
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		for name, test := range map[string]struct {
			down func(gaetest.Call) bool
			want error
		}{
			"Datastore": {gaetest.Datastore, cascadestore.ErrNotBackedUp},
			"Memcache":  {func(c gaetest.Call) bool { return gaetest.Memcache(c) && c.Index > 1 }, cascadestore.ErrNotPublished},
		} {
			b := a.login(t, values{"n": 0})
			v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
				s := again(t, a, r)
				s.Values["n"] = 1
				if err := s.Save(r, w); !errors.Is(err, test.want) {
					t.Errorf("%s is down: got %v, want %v", name, err, test.want)
				}
			}, gaetest.Fail(test.down))
			if c := v.Response.Cookies(); len(c) != 1 {
				t.Errorf("%s is down: got cookies %v, want that of the session", name, c)
			}
		}
		drain(t)
	})
}

func TestASessionWhoseFirstSaveFailedAndThatWasRemovedStaysRemoved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		var down atomic.Bool
		down.Store(true)
		// The calls are made, and their answers lost.
		hook := gaetest.FailAfter(func(gaetest.Call) bool { return down.Load() })
		b := a.newBrowser()
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s := again(t, a, r)
			s.Values["n"] = 0
			if err := s.Save(r, w); !errors.Is(err, gaetest.ErrFailed) {
				t.Errorf("first Save: got %v, want the services' error", err)
			}
			down.Store(false)
			if cookies := w.Header().Values("Set-Cookie"); len(cookies) != 0 {
				t.Errorf("got cookies %v, want none", cookies)
			}
			b.setCookie(sign(t, a.store.Codecs[0], sessionName, s.ID))
			b.clone().mustLogout(t)
			if err := s.Save(r, w); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("second Save: got %v, want ErrRemoved", err)
			}
		}, hook)
		b.expect(t, backends, nil)
	})
}

func TestWhenNobodyCanTellTheSessionIsNeitherReplacedNorLost(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		cookie := b.cookie()
		down := gaetest.Fail(func(gaetest.Call) bool { return true })
		var getErr, saveErr error
		v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
			var s *sessions.Session
			s, getErr = a.store.Get(r, sessionName)
			s.Values["n"] = 1 // an app that ignores the error
			saveErr = s.Save(r, w)
		}, down)
		if !errors.Is(getErr, gaetest.ErrFailed) || !errors.Is(saveErr, gaetest.ErrFailed) {
			t.Errorf("got %v and %v, want the services' error twice", getErr, saveErr)
		}
		if c := v.Response.Cookies(); len(c) > 0 || b.cookie() != cookie {
			t.Errorf("the browser got another cookie: %v", c)
		}
		b.expect(t, backends, values{"n": 0})
	})
}

func TestALogoutThatNoServiceTookIsErrNotSaved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		down := func(c gaetest.Call) bool { return c.Method != "Get" }
		up := a.Service.Break(down) // in the background as well
		err := b.logout(gaetest.Fail(down))
		up()
		if !errors.Is(err, cascadestore.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", err)
		}
		if b.cookie() != "" {
			t.Error("the browser still has a cookie")
		}
		drain(t)
	})
}

func TestASessionThatCouldNotBeLoadedCanBeRemoved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		const retries, services = 3, 2
		flaky := gaetest.Fail(func(c gaetest.Call) bool { return c.Index <= retries*services })
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err == nil {
				t.Error("Get: no error")
			}
			s.Options.MaxAge = -1
			for s.Save(r, w) != nil { // with one backend the failures are not used up yet
			}
		}, flaky)
		if b.cookie() != "" {
			t.Error("the browser still has a cookie")
		}
		old.expect(t, backends, nil)
	})
}
