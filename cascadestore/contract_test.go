package cascadestore_test

import (
	"context"
	"encoding/gob"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// What gorilla asks of a store, and its own stores' tests ask of them.

type FlashMessage struct {
	Type    int
	Message string
}

func init() { gob.Register(FlashMessage{}) }

// newRequest returns a request that did not come over a network.
func newRequest(s *gaetest.Service, cookies ...*http.Cookie) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://localhost/", nil).WithContext(s.NewRequest().Context())
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r
}

func newStore(t testing.TB, backends int) *cascadestore.CascadeStore {
	t.Helper()
	cs := cascadestore.NewCascadeStore(backends, hashKey)
	if err := cs.Err(); err != nil {
		t.Fatal(err)
	}
	cs.CacheTimeout, cs.BackupTimeout = time.Minute, time.Minute // see newApp
	return cs
}

func TestOptionsOfASessionAreACopy(t *testing.T) {
	cs := newStore(t, cascadestore.DistributedBackends)
	s, err := cs.New(newRequest(gaetest.Local(t)), "hello")
	if err != nil {
		t.Fatal(err)
	}
	cs.Options.Path = "/foo"
	if s.Options.Path != "/" {
		t.Errorf("got path %q, want %q", s.Options.Path, "/")
	}
}

func TestASessionThatWasSavedCanBeRemovedInTheSameRequest(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.newBrowser()
		v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.New(r, sessionName)
			if err != nil {
				t.Error(err)
			}
			if err := s.Save(r, w); err != nil {
				t.Errorf("save: %v", err)
			}
			saved := w.Header().Values("Set-Cookie")
			b.setCookie(strings.SplitN(strings.TrimPrefix(saved[0], sessionName+"="), ";", 2)[0])
			s.Options.MaxAge = -1
			if err := s.Save(r, w); err != nil {
				t.Errorf("remove: %v", err)
			}
			s.Options.MaxAge = 60
			if err := s.Save(r, w); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("save again: got %v, want ErrRemoved", err)
			}
		})
		if c := v.Response.Cookies(); len(c) != 1 || c[0].MaxAge != -1 {
			t.Errorf("got cookies %v, want one, which ends at once", c)
		}
		b.expect(t, backends, nil)
	})
}

func TestASessionMadeWithoutTheStoreCanBeSaved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.newBrowser()
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s := sessions.NewSession(a.store, sessionName)
			s.Options = nil
			s.Values["data"] = "hello-world"
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
		})
		b.expect(t, backends, values{"data": "hello-world"})
	})
}

func TestASessionThatTheAppGivesAnIDIsSavedUnderIt(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		for range 2 {
			err := b.use(func(_ *http.Request, s *sessions.Session) { s.ID, s.Values["m"] = "OF-THE-APP", 1 })
			if err != nil {
				t.Fatal(err)
			}
			if id := idIn(t, a, b.cookie()); id != "OF-THE-APP" {
				t.Fatal("the cookie has another id")
			}
			b.expect(t, backends, values{"n": 0, "m": 1})
		}
	})
}

func TestFlashesLiveUntilTheyAreRead(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.newBrowser()
		use := func(f func(s *sessions.Session)) {
			t.Helper()
			if err := b.use(func(_ *http.Request, s *sessions.Session) { f(s) }); err != nil {
				t.Fatal(err)
			}
		}
		use(func(s *sessions.Session) {
			if f := s.Flashes(); len(f) > 0 {
				t.Errorf("got flashes %v, want none", f)
			}
			s.AddFlash("foo")
			s.AddFlash("bar")
			s.AddFlash("baz", "custom_key")
		})
		use(func(s *sessions.Session) {
			if f := s.Flashes(); len(f) != 2 || f[0] != "foo" || f[1] != "bar" {
				t.Errorf("got flashes %v, want foo, bar", f)
			}
			if f := s.Flashes(); len(f) > 0 {
				t.Errorf("got flashes %v a second time", f)
			}
			if f := s.Flashes("custom_key"); len(f) != 1 || f[0] != "baz" {
				t.Errorf("got flashes %v, want baz", f)
			}
		})
		use(func(s *sessions.Session) {
			if f := append(s.Flashes(), s.Flashes("custom_key")...); len(f) > 0 {
				t.Errorf("got flashes %v in the next request", f)
			}
			s.AddFlash(&FlashMessage{42, "foo"})
		})
		use(func(s *sessions.Session) {
			f := s.Flashes()
			if len(f) != 1 || f[0] != (FlashMessage{42, "foo"}) {
				t.Errorf("got flashes %v, want a FlashMessage", f)
			}
		})
	})
}

func TestGetFindsASessionInTheRegistry(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	b := a.login(t, values{"n": 0})
	v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
		one, err := a.store.Get(r, sessionName)
		if err != nil {
			t.Error(err)
		}
		one.Values["n"] = 1
		two, err := a.store.Get(r.WithContext(r.Context()), sessionName)
		if err != nil || two != one {
			t.Errorf("got %p, %v; want the session from before, %p", two, err, one)
		}
		three, err := sessions.GetRegistry(r).Get(a.store, sessionName)
		if err != nil || three != one {
			t.Errorf("from the registry: got %p, %v; want %p", three, err, one)
		}
		four, err := a.store.New(r, sessionName)
		if err != nil || four == one || four.Values["n"] != 0 {
			t.Errorf("New: got %v, %v; want the session as it is stored", four.Values, err)
		}
	})
	if n := len(v.Request.Calls()); n != 2 {
		t.Errorf("got %d calls, want one for Get and one for New", n)
	}
	if _, err := a.store.Get(newRequest(a.Service), "session:key"); err == nil ||
		err.Error() != "sessions: invalid character in cookie name: session:key" {
		t.Errorf("malformed name: got %v, want gorilla's error", err)
	}
}

func TestSessionsOfOneRequestAreSavedTogether(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		names := []string{"one", "two", "three"}
		b := a.newBrowser()
		var ids []string
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			for _, name := range names {
				s, err := a.store.Get(r, name)
				if err != nil {
					t.Error(err)
				}
				s.Values["name"] = name
				ids = append(ids, s.ID)
			}
			if err := sessions.Save(r, w); err != nil {
				t.Error(err)
			}
		})
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			for i, name := range names {
				s, err := a.store.Get(r, name)
				if err != nil || s.IsNew || s.Values["name"] != name || s.ID != ids[i] {
					t.Errorf("%s: got new=%v, %v, %v", name, s.IsNew, s.Values, err)
				}
			}
		})
	})
}

func TestSavingASecondTimeInOneRequestStartsFromTheFirst(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, isNew := range []bool{true, false} {
			b := a.newBrowser()
			if !isNew {
				b.mustChange(t, values{"n": 0, "list": []int{1}})
			}
			var err error
			b.Visit(func(w http.ResponseWriter, r *http.Request) {
				s, gerr := a.store.Get(r, sessionName)
				set(s, values{"n": 1, "list": []int{2}, "short": "lived"})
				err = errors.Join(gerr, s.Save(r, w))
				if !isNew {
					b.clone().mustChange(t, values{"theirs": 1})
				}
				// Back to what was loaded: a change all the same.
				set(s, values{"n": 0, "list": []int{1}, "short": nil})
				err = errors.Join(err, s.Save(r, w))
			})
			if err != nil {
				t.Error(err)
			}
			want := values{"n": 0, "list": []int{1}}
			if !isNew {
				want["theirs"] = 1
			}
			b.expect(t, backends, want)
		}
	})
}

func TestASessionSavedWithAnotherRequestIsMerged(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		var err error
		b.Visit(func(w http.ResponseWriter, outer *http.Request) {
			inner := outer.WithContext(outer.Context())
			s, gerr := a.store.Get(inner, sessionName) // outer does not learn of it
			b.clone().mustChange(t, values{"theirs": 1})
			s.Values["mine"] = 1
			err = errors.Join(gerr, s.Save(outer, w))
		})
		if err != nil {
			t.Error(err)
		}
		b.expect(t, backends, values{"n": 0, "mine": 1, "theirs": 1})
	})
}

func TestRequestsWrappedByRoutersFindTheirSessions(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		// A middleware saves what the handler, behind a router, changed.
		saving := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := a.store.Get(r, sessionName); err != nil {
					t.Error(err)
				}
				next.ServeHTTP(w, r)
				if err := sessions.Save(r, w); err != nil {
					t.Error(err)
				}
			})
		}
		count := func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err != nil {
				t.Error(err)
			}
			n, _ := s.Values["n"].(int)
			s.Values["n"] = n + 1
		}
		mux := http.NewServeMux()
		mux.HandleFunc("GET /{path...}", count)
		// Other routers hand on a copy of the request.
		copying := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			type key struct{}
			mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "a route")))
		})
		for name, router := range map[string]http.Handler{"ServeMux": saving(mux), "copying": saving(copying)} {
			b := a.newBrowser()
			for range 3 {
				b.Visit(router.ServeHTTP)
			}
			got, err := b.read()
			if err != nil || got["n"] != 3 {
				t.Errorf("%s: got %v, %v; want n=3", name, got, err)
			}
		}
	})
}

func TestIDsAreRandomAndOnlyTakenFromASignedCookie(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	form := regexp.MustCompile(`^[A-Z2-7]{52}$`)
	ids := map[string]bool{}
	for range 100 {
		s, err := a.store.New(newRequest(a.Service), sessionName)
		if err != nil {
			t.Fatal(err)
		}
		if !form.MatchString(s.ID) || ids[s.ID] {
			t.Fatalf("got id of %d characters, seen before: %v; want 256 new bits in base32", len(s.ID), ids[s.ID])
		}
		ids[s.ID] = true
	}
	b := a.login(t, values{"user": "ann"})
	id := idIn(t, a, b.cookie())
	for name, cookie := range map[string]string{
		"plain id":          id,
		"another key":       forgedCookie(sessionName),
		"another name":      sign(t, a.store.Codecs[0], "Other", id),
		"no base64":         "!!!",
		"damaged":           b.cookie()[:len(b.cookie())-2] + "AA",
		"not even a string": sign(t, a.store.Codecs[0], sessionName, map[string]int{id: 1}),
	} {
		var s *sessions.Session
		var err error
		attacker := a.newBrowser()
		attacker.setCookie(cookie)
		v := attacker.Visit(func(w http.ResponseWriter, r *http.Request) { s, err = a.store.Get(r, sessionName) })
		var cookieErr securecookie.Error
		if !errors.As(err, &cookieErr) || !cookieErr.IsDecode() {
			t.Errorf("%s: got %v, want a securecookie error about decoding", name, err)
		}
		if _, ok := err.(securecookie.Error); !ok {
			t.Errorf("%s: got a %T, which is no securecookie.Error", name, err)
		}
		if s == nil || !s.IsNew || s.ID == id || len(s.Values) > 0 {
			t.Errorf("%s: got %+v, want a new session", name, s)
		}
		if calls := v.Request.Calls(); len(calls) > 0 {
			t.Errorf("%s: got calls %v, want none", name, calls)
		}
	}
}

func sign(t testing.TB, codec securecookie.Codec, name string, value any) string {
	t.Helper()
	signed, err := codec.Encode(name, value)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestErrorsOfSecurecookieAnswerIsAndAs(t *testing.T) {
	cs := newStore(t, cascadestore.DistributedBackends)
	_, err := cs.Get(newRequest(gaetest.Local(t), &http.Cookie{Name: sessionName, Value: forgedCookie(sessionName)}), sessionName)
	if !errors.Is(err, securecookie.ErrMacInvalid) {
		t.Errorf("got %v, want ErrMacInvalid", err)
	}
	var multi securecookie.MultiError
	if !errors.As(err, &multi) || len(multi) != 1 {
		t.Errorf("got %#v, want a MultiError of one", err)
	}
}

func TestKeysCanBeRotated(t *testing.T) {
	s := gaetest.Local(t)
	a := newApp(t, s, cascadestore.DistributedBackends)
	b := a.login(t, values{"n": 0})
	newer := []byte("a newer hash key of thirty-two b")
	a.store = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, newer, nil, hashKey, blockKey)
	b.expectNow(t, "old cookie, new key", values{"n": 0})
	b.mustChange(t, values{"n": 1})
	a.store = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, newer)
	b.expectNow(t, "new cookie, new key", values{"n": 1})
}

// An app may have signed its cookies with a key that is too short today.
func TestAShortKeyInCodecsReadsOldCookies(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	b := a.login(t, values{"n": 0})
	short := securecookie.CodecsFromPairs([]byte("short"))
	b.setCookie(sign(t, short[0], sessionName, idIn(t, a, b.cookie())))
	a.store.Codecs = append(a.store.Codecs, short...)
	b.expectNow(t, "short key", values{"n": 0})
}
