package cascadestore_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The request backend.

// again returns the session that another New in the same request gives.
func again(t testing.TB, a *app, r *http.Request) *sessions.Session {
	t.Helper()
	s, err := a.store.New(r, sessionName)
	if err != nil {
		t.Error(err)
	}
	return s
}

func onRequestBackends(t *testing.T, f func(t *testing.T, a *app)) {
	for name, backends := range map[string]int{
		"request": cascadestore.RequestBackend, "all": cascadestore.AllBackends,
		"request and Memcache":  cascadestore.RequestBackend | cascadestore.MemcacheBackend,
		"request and Datastore": cascadestore.RequestBackend | cascadestore.DatastoreBackend,
	} {
		t.Run(name, func(t *testing.T) { f(t, newApp(t, gaetest.Local(t), backends)) })
	}
}

func TestASavedSessionIsSeenAgainInTheSameRequest(t *testing.T) {
	onRequestBackends(t, func(t *testing.T, a *app) {
		b := a.newBrowser()
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s := again(t, a, r)
			s.Values["n"] = 1
			if unsaved := again(t, a, r); !unsaved.IsNew {
				t.Error("a session was found that is not saved")
			}
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
			calls := len(gaetest.RequestOf(r.Context()).Calls())
			for _, r := range []*http.Request{r, r.WithContext(r.Context())} {
				if got := again(t, a, r); got == s || got.IsNew || got.ID != s.ID || got.Values["n"] != 1 {
					t.Errorf("got %+v, want a copy of the saved session", got)
				}
			}
			if n := len(gaetest.RequestOf(r.Context()).Calls()) - calls; n > 0 {
				t.Errorf("got %d calls, want none", n)
			}
			s.Options.MaxAge = -1
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
			if got := again(t, a, r); !got.IsNew || got.ID == s.ID {
				t.Error("a removed session was found")
			}
			if err := a.store.RegenerateID(r, s); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("new id for a removed session: got %v, want ErrRemoved", err)
			}
			s.Options.MaxAge = 60
			if err := s.Save(r, w); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("save of a removed session: got %v, want ErrRemoved", err)
			}
		})
	})
}

func TestTheRequestBackendAloneForgetsWithTheRequest(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.RequestBackend)
	b := a.login(t, values{"n": 0})
	if b.cookie() == "" {
		t.Error("no cookie was written")
	}
	b.expectNow(t, "next request", nil)
}

func TestTheRequestBackendDoesNotSeeWhatOthersChange(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.AllBackends)
	b := a.login(t, values{"n": 0})
	b.Visit(func(w http.ResponseWriter, r *http.Request) {
		s := again(t, a, r)
		b.clone().mustChange(t, values{"n": 1, "theirs": 1})
		if got := again(t, a, r); got.Values["n"] != 0 {
			t.Errorf("got %v, want the session as it was loaded first", got.Values)
		}
		s.Values["mine"] = 1
		if err := s.Save(r, w); err != nil {
			t.Error(err)
		}
		if got := again(t, a, r); got.Values["theirs"] != nil || got.Values["mine"] != 1 {
			t.Errorf("got %v, want the session as it was saved", got.Values)
		}
	})
	// Stale as it was, nothing is lost.
	b.expect(t, cascadestore.AllBackends, values{"n": 1, "theirs": 1, "mine": 1})
}

func TestASessionThatOthersRemovedIsNotSeenAgainOnceThatIsKnown(t *testing.T) {
	for name, find := range map[string]func(a *app, w http.ResponseWriter, r *http.Request, s *sessions.Session) error{
		"Save": func(_ *app, w http.ResponseWriter, r *http.Request, s *sessions.Session) error {
			s.Values["n"] = 1
			return s.Save(r, w)
		},
		"Save under a new id": func(a *app, w http.ResponseWriter, r *http.Request, s *sessions.Session) error {
			if err := a.store.RegenerateID(r, s); err != nil {
				return err
			}
			return s.Save(r, w)
		},
	} {
		a := newApp(t, gaetest.Local(t), cascadestore.AllBackends)
		b := a.login(t, values{"n": 0})
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s := again(t, a, r)
			b.clone().mustLogout(t)
			if got := again(t, a, r); got.IsNew {
				t.Errorf("%s: the request asked the services again", name)
			}
			if err := find(a, w, r, s); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("%s: got %v, want ErrRemoved", name, err)
			}
			if got := again(t, a, r); !got.IsNew || got.ID == s.ID {
				t.Errorf("%s: the session was found that is known to be removed", name)
			}
		})
	}
}

func TestARegeneratedSessionIsSeenAgainInTheSameRequest(t *testing.T) {
	onRequestBackends(t, func(t *testing.T, a *app) {
		b := a.newBrowser()
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s := again(t, a, r)
			s.Values["n"] = 1
			for range 2 {
				if err := s.Save(r, w); err != nil {
					t.Error(err)
				}
				if err := a.store.RegenerateID(r, s); err != nil {
					t.Error(err)
				}
				if got := again(t, a, r); got.ID != s.ID || got.Values["n"] != 1 {
					t.Errorf("got %v, want the session as it was saved, under the id that it has", got.Values)
				}
			}
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
			if got := again(t, a, r); got.ID != s.ID || got.Values["n"] != 1 {
				t.Errorf("got %v, want the session under its new id", got.Values)
			}
		})
	})
}

func TestStoresDoNotShareTheRequestBackend(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.RequestBackend)
	other := newStore(t, cascadestore.RequestBackend)
	a.newBrowser().Visit(func(w http.ResponseWriter, r *http.Request) {
		s := again(t, a, r)
		if err := s.Save(r, w); err != nil {
			t.Error(err)
		}
		if got, err := other.New(r, sessionName); err != nil || !got.IsNew {
			t.Errorf("got new=%v, %v; want a new session", got.IsNew, err)
		}
	})
}
