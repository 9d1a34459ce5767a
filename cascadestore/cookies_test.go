package cascadestore_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// A browser sends several cookies of one name when they have other paths or
// domains.
func TestTheFirstThreeCookiesOfTheNameAreTried(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	b := a.login(t, values{"n": 0})
	gone := a.login(t, values{"n": 1})
	old := gone.cookie()
	gone.mustLogout(t)
	forged := forgedCookie(sessionName)
	for name, test := range map[string]struct {
		cookies []string
		found   bool
		err     error
	}{
		"first":                  {[]string{b.cookie(), forged}, true, nil},
		"after a forged one":     {[]string{forged, b.cookie()}, true, nil},
		"after one that is gone": {[]string{old, b.cookie()}, true, nil},
		"third":                  {[]string{forged, old, b.cookie()}, true, nil},
		"fourth":                 {[]string{forged, old, "", b.cookie()}, false, securecookie.ErrMacInvalid},
		"none":                   {[]string{old, forged}, false, nil}, // as for the first one alone
	} {
		var cookies []*http.Cookie
		for _, value := range test.cookies {
			cookies = append(cookies, &http.Cookie{Name: sessionName, Value: value})
		}
		s, err := a.store.New(newRequest(a.Service, cookies...), sessionName)
		if s.IsNew == test.found || !errors.Is(err, test.err) {
			t.Errorf("%s: got new=%t, %v; want found=%t, %v", name, s.IsNew, err, test.found, test.err)
		}
	}
}

func TestAnAnswerHasOneCookieOfASession(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.newBrowser()
		v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "other", Value: "1"})
			http.SetCookie(w, &http.Cookie{Name: sessionName + "2", Value: "1"})
			s := again(t, a, r)
			s.Values["n"] = 0
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
			if err := a.store.RegenerateID(r, s); err != nil {
				t.Error(err)
			}
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
		})
		names := map[string]int{}
		for _, c := range v.Response.Cookies() {
			names[c.Name]++
		}
		if len(names) != 3 || names[sessionName] != 1 {
			t.Errorf("got cookies %v, want one of the session and those of the app", names)
		}
		b.expect(t, backends, values{"n": 0})
	})
}

func TestACookieOfTheOriginalsExampleGoesOn(t *testing.T) {
	// The README of github.com/dsoprea/goappenginesessioncascade has this key.
	log := captureDefaultLog(t)
	a := newAppWith(t, gaetest.Local(t), cascadestore.NewCascadeStore(cascadestore.DistributedBackends, []byte("SessionSecret")))
	b := a.newBrowser()
	var seen []string
	for range 2 {
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			session, err := a.store.Get(r, "MainSession")
			if err != nil {
				t.Error(err)
				return
			}
			v, _ := session.Values["NewKey"].(string)
			seen = append(seen, v)
			session.Values["NewKey"] = "NewValue"
			if err := session.Save(r, w); err != nil {
				t.Error(err)
			}
		})
	}
	if strings.Join(seen, ",") != ",NewValue" {
		t.Errorf("got %q, want nothing and then NewValue", seen)
	}
	if out := log.String(); strings.Count(out, "level=WARN") != 1 || !strings.Contains(out, "13 bytes") || strings.Contains(out, "level=ERROR") {
		t.Errorf("logged %q, want one warning", out)
	}
}

func TestAShortKeyIsAnErrorForThoseWhoAsk(t *testing.T) {
	captureDefaultLog(t)
	short, long := hashKey[:31], hashKey
	for name, test := range map[string]struct {
		keys [][]byte
		want string // empty: no error
	}{
		"long":             {[][]byte{long}, ""},
		"short":            {[][]byte{short}, "31 bytes"},
		"short, encrypted": {[][]byte{short, blockKey}, "31 bytes"},
		"new before short": {[][]byte{long, nil, short, nil}, ""},
		"none":             {nil, "no authentication key"},
	} {
		store := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, test.keys...)
		err := store.StrictErr()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		if isNone := test.keys == nil; (store.Err() != nil) != isNone {
			t.Errorf("%s: Err: got %v, want an error: %t", name, store.Err(), isNone)
		}
	}
}

func TestASessionKeepsTheMaxAgeThatWasChosenForIt(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, chosen := range []int{0, 60, 90 * 86400} {
			b := a.newBrowser()
			maxAge := func(change func(s *sessions.Session)) int {
				t.Helper()
				v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
					b.with(r, func(s *sessions.Session) error {
						change(s)
						return s.Save(r, w)
					})
				})
				if len(v.Response.Cookies()) != 1 {
					t.Fatal("no cookie")
				}
				return v.Response.Cookies()[0].MaxAge
			}
			maxAge(func(s *sessions.Session) { s.Options.MaxAge, s.Values["n"] = chosen, 0 })
			for i := range 2 {
				if got := maxAge(func(s *sessions.Session) { s.Values["n"] = i }); got != chosen {
					t.Errorf("chosen %d: the next save writes %d", chosen, got)
				}
				if backends&durable != 0 {
					a.Flush()
				}
			}
			if got := maxAge(func(s *sessions.Session) {}); got != chosen {
				t.Errorf("chosen %d: a save that changes nothing writes %d", chosen, got)
			}
			maxAge(func(s *sessions.Session) { s.Options.MaxAge = 7 })
			if got := maxAge(func(s *sessions.Session) {}); got != 7 {
				t.Errorf("chosen 7 later: the next save writes %d", got)
			}
		}
	})
}
