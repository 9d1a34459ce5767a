package cascadestore_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Owners.

// onEachWithUsers runs f with an app that says whose its sessions are.
func onEachWithUsers(t *testing.T, f func(t *testing.T, a *app, backends int)) {
	onEach(t, cascadestore.DatastoreBackend, func(t *testing.T, a *app, backends int) {
		a.store.Owner = func(s *sessions.Session) string { u, _ := s.Values["user"].(string); return u }
		a.store.Label = func(s *sessions.Session) string { return fmt.Sprint(s.Values["browser"]) }
		f(t, a, backends)
	})
}

// sessionsOf is what SessionsOf returns to a request of the browser.
func (b *browser) sessionsOf(t *testing.T, owner string) (all []cascadestore.SessionInfo) {
	t.Helper()
	b.Visit(func(_ http.ResponseWriter, r *http.Request) {
		s, err := b.app.store.Get(r, sessionName)
		if err != nil {
			t.Error(err)
		}
		if all, err = b.app.store.SessionsOf(r.Context(), sessionName, owner, s); err != nil {
			t.Error(err)
		}
	})
	return all
}

func TestALoginGetsANewIDByItself(t *testing.T) {
	onEachWithUsers(t, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"basket": "apple"})
		old := b.clone()
		b.mustChange(t, values{"user": "ada"})
		if b.cookie() == old.cookie() {
			t.Error("the cookie is the same")
		}
		b.expect(t, backends, values{"basket": "apple", "user": "ada"})
		old.expect(t, backends, nil)
	})
}

func TestTheSessionsOfAUser(t *testing.T) {
	onEachWithUsers(t, func(t *testing.T, a *app, backends int) {
		phone := a.login(t, values{"user": "ada", "browser": "phone"})
		laptop := a.login(t, values{"user": "ada", "browser": "laptop"})
		other := a.login(t, values{"user": "bob", "browser": "other"})
		all := laptop.sessionsOf(t, "ada")
		if len(all) != 2 || all[0].Label != "laptop" || !all[0].Current || all[1].Label != "phone" || all[1].Current || all[1].Since.IsZero() {
			t.Fatalf("got %+v", all)
		}
		for _, err := range []error{
			a.store.RemoveRefs(a.Context(), sessionName, "ada"),
			a.store.RemoveRefs(a.Context(), sessionName, "bob", all[1].Ref),
			a.store.RemoveRefs(a.Context(), "another name", "ada", all[1].Ref),
			a.store.RemoveAll(a.Context(), sessionName, "nobody"),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		phone.expect(t, backends, values{"user": "ada", "browser": "phone"})
		if err := a.store.RemoveRefs(a.Context(), sessionName, "ada", all[1].Ref); err != nil {
			t.Error(err)
		}
		phone.expect(t, backends, nil)
		laptop.expect(t, backends, values{"user": "ada", "browser": "laptop"})
		other.expect(t, backends, values{"user": "bob", "browser": "other"})
	})
}

func TestLogOutEverywhereIsFinal(t *testing.T) {
	onEachWithUsers(t, func(t *testing.T, a *app, backends int) {
		phone, laptop := a.login(t, values{"user": "ada"}), a.login(t, values{"user": "ada"})
		flying := laptop.use(func(_ *http.Request, s *sessions.Session) {
			s.Values["n"] = 1
			if err := a.store.RemoveAll(a.Context(), sessionName, "ada"); err != nil {
				t.Error(err)
			}
		})
		if !errors.Is(flying, cascadestore.ErrRemoved) {
			t.Errorf("the request in flight: got %v", flying)
		}
		phone.expect(t, backends, nil)
		laptop.expect(t, backends, nil)
		drain(t)
		if all := phone.sessionsOf(t, "ada"); len(all) != 0 {
			t.Errorf("got %+v", all)
		}
	})
}

func TestLogOutEverywhereElse(t *testing.T) {
	onEachWithUsers(t, func(t *testing.T, a *app, backends int) {
		phone, laptop := a.login(t, values{"user": "ada"}), a.login(t, values{"user": "ada"})
		err := laptop.use(func(r *http.Request, s *sessions.Session) {
			s.Values["n"] = 1
			if err := a.store.RemoveOthers(r, s); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
		laptop.expect(t, backends, values{"user": "ada", "n": 1})
		phone.expect(t, backends, nil)
	})
}

func TestLogOutEverywhereElseAsksForACopy(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	a.store.Owner = func(s *sessions.Session) string {
		u, _ := s.Values["user"].(string)
		s.Values["user"] = "changed by Owner"
		return u
	}
	b := a.login(t, values{"user": "ada"})
	err := b.use(func(r *http.Request, s *sessions.Session) {
		if err := a.store.RemoveOthers(r, s); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	b.expect(t, cascadestore.DistributedBackends, values{"user": "ada"})
}

func TestLogOutEverywhereElseSparesASessionThatMayHaveItsNewID(t *testing.T) {
	onEachWithUsers(t, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"user": "ada"})
		var down, committed atomic.Bool
		lose := gaetest.FailAfter(func(c gaetest.Call) bool {
			is := down.Load() && c.Method == "Commit"
			committed.Store(committed.Load() || is)
			return is
		})
		fail := gaetest.Fail(func(c gaetest.Call) bool { return down.Load() && committed.Load() && gaetest.Datastore(c) })
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err != nil {
				t.Error(err)
			}
			if err := a.store.RegenerateID(r, s); err != nil {
				t.Error(err)
			}
			down.Store(true)
			if err := a.store.Save(r, w, s); !errors.Is(err, cascadestore.ErrNotSaved) {
				t.Errorf("Save: %v", err)
			}
			down.Store(false)
			if err := a.store.RemoveOthers(r, s); err != nil {
				t.Error(err)
			}
			if err := a.store.Save(r, w, s); err != nil {
				t.Errorf("another Save: %v", err)
			}
		}, lose, fail)
		b.expect(t, backends, values{"user": "ada"})
	})
}

func TestASecondLoginToASessionOfNobodysIsANewSession(t *testing.T) {
	onEachWithUsers(t, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"basket": "apple"})
		first := b.clone()
		err := b.use(func(_ *http.Request, s *sessions.Session) {
			first.mustChange(t, values{"user": "ada"})
			s.Values["user"] = "ada"
		})
		if err != nil {
			t.Error(err)
		}
		b.expect(t, backends, values{"user": "ada"})
		first.expect(t, backends, values{"basket": "apple", "user": "ada"})
	})
}

// In a rolling deploy the instances of the version before have no Owner.
func TestAnInstanceWithoutOwnersEndsNoneOfThem(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	owner := func(s *sessions.Session) string { u, _ := s.Values["user"].(string); return u }
	a.store.Owner, a.store.MaxPerOwner = owner, 200
	var b *browser
	const logins = 102
	for range logins {
		b = a.login(t, values{"user": "ada"})
	}
	a.store.Owner, a.store.MaxPerOwner = nil, 0
	if err := b.use(func(r *http.Request, s *sessions.Session) {
		if err := a.store.RegenerateID(r, s); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Error(err)
	}
	drain(t)
	a.store.Owner, a.store.MaxPerOwner = owner, 200
	if all := b.sessionsOf(t, "ada"); len(all) != logins {
		t.Errorf("%d sessions of %d are left", len(all), logins)
	}
}

func TestOwnersThatCannotWork(t *testing.T) {
	owner := func(*sessions.Session) string { return "ada" }
	s := gaetest.Local(t)
	for name, store := range map[string]*cascadestore.CascadeStore{
		"without a backup": {Owner: owner},
		"too many":         {Owner: owner, MaxPerOwner: 5001},
		"less than none":   {Owner: owner, MaxPerOwner: -1},
	} {
		backends := cascadestore.DistributedBackends
		if name == "without a backup" {
			backends = cascadestore.MemcacheBackend
		}
		made := cascadestore.NewCascadeStore(backends, hashKey)
		made.Owner, made.MaxPerOwner = store.Owner, store.MaxPerOwner
		if made.Err() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	none := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, hashKey)
	if err := none.RemoveAll(s.Context(), sessionName, "ada"); err == nil || strings.Contains(err.Error(), "ada") {
		t.Errorf("without an Owner: got %v", err)
	}
	if err := none.RemoveOthers(&http.Request{}, nil); err == nil {
		t.Error("without a session: no error")
	}
	a := newApp(t, s, cascadestore.DistributedBackends)
	a.store.Owner = func(s *sessions.Session) string { return s.Values["user"].(string) }
	if err := a.newBrowser().change(values{"n": 1}); err == nil || !strings.Contains(err.Error(), "panic: ") {
		t.Errorf("an Owner that panics: got %v", err)
	}
}

func TestTheLabelIsAskedAtLoginAndWithANewID(t *testing.T) {
	onEachWithUsers(t, func(t *testing.T, a *app, backends int) {
		var asked atomic.Int32
		a.store.Label = func(*sessions.Session) string {
			asked.Add(1)
			return "phone"
		}
		expect := func(doing string, want int32) {
			t.Helper()
			if got := asked.Swap(0); got != want {
				t.Errorf("%s: asked %d times, want %d", doing, got, want)
			}
		}
		b := a.login(t, values{"basket": "apple"})
		expect("of nobody's session", 0)
		b.mustChange(t, values{"user": "ada"})
		expect("at login", 1)
		for n := range 3 {
			b.mustChange(t, values{"n": n})
		}
		expect("at a change", 0)
		if err := b.use(func(r *http.Request, s *sessions.Session) {
			if err := a.store.RegenerateID(r, s); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Error(err)
		}
		expect("with a new id", 1)
		if all := b.sessionsOf(t, "ada"); len(all) != 1 || all[0].Label != "phone" {
			t.Errorf("got %+v", all)
		}
	})
}
