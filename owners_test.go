package gaesession_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Owners.

// userOf is the Owner of sites with users.
func userOf(s session.Session) string {
	u, _ := s.Attr("user").(string)
	return u
}

func newSiteWithUsers(t *testing.T) *site {
	t.Helper()
	return newSite(t, &gaesession.Sessions{Owner: userOf, Label: func(s session.Session) string {
		l, _ := s.Attr("browser").(string)
		return l
	}})
}

// as runs f with another browser.
func (s *site) as(b *http.Client, f func()) {
	was := s.browser
	s.browser = b
	defer func() { s.browser = was }()
	f()
}

// sessionsOf is what SessionsOf returns to a request of the browser.
func (s *site) sessionsOf(owner string) (all []gaesession.SessionInfo) {
	s.t.Helper()
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		var err error
		all, err = s.sessions.SessionsOf(r.Context(), owner)
		s.must(err)
	})
	return all
}

func labels(all []gaesession.SessionInfo) string {
	var ls []string
	for _, i := range all {
		if i.Current {
			i.Label += "*"
		}
		ls = append(ls, i.Label)
	}
	return strings.Join(ls, " ")
}

func TestALoginGetsANewIDByItself(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"basket": "apple"})
	old := s.cookie()
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("user", "ada")
		w.WriteHeader(http.StatusOK)
		if s.get(r).ID() == old {
			t.Error("the session has its old id")
		}
	})
	if s.cookie() == old {
		t.Fatal("the client has the old id")
	}
	s.expect(attrs{"basket": "apple", "user": "ada"})
	s.setCookie(old)
	s.expect(nil)
	s.expectErrors()
}

func TestALoginAfterTheHeaderIsRefused(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		w.WriteHeader(http.StatusOK)
		sess.SetAttr("user", "ada")
	})
	s.expectErrors(gaesession.ErrHeaderSent)
	s.expect(attrs{"n": 0})
}

func TestTheSessionsOfAUser(t *testing.T) {
	s := newSiteWithUsers(t)
	phone, laptop, other := s.newBrowser(), s.newBrowser(), s.newBrowser()
	s.as(phone, func() { s.login(attrs{"user": "ada", "browser": "phone"}) })
	s.as(other, func() { s.login(attrs{"user": "bob", "browser": "other"}) })
	s.as(laptop, func() {
		s.login(attrs{"user": "ada", "browser": "laptop"})
		all := s.sessionsOf("ada")
		if got := labels(all); got != "laptop* phone" {
			t.Fatalf("got %q", got)
		}
		for _, i := range all {
			if i.Ref == "" || strings.Contains(s.cookie(), i.Ref) || i.Since.IsZero() {
				t.Errorf("got %+v", i)
			}
		}
		s.must(s.sessions.RemoveRefs(s.service.Context(), "ada"))
		s.must(s.sessions.RemoveRefs(s.service.Context(), "bob", all[1].Ref))
		s.as(phone, func() { s.expect(attrs{"user": "ada", "browser": "phone"}) })
		s.visit(func(w http.ResponseWriter, r *http.Request) {
			s.must(s.sessions.RemoveRefs(r.Context(), "ada", all[1].Ref))
		})
		s.as(phone, func() { s.expect(nil) })
		if got := labels(s.sessionsOf("ada")); got != "laptop*" {
			t.Errorf("got %q", got)
		}
	})
	s.as(other, func() { s.expect(attrs{"user": "bob", "browser": "other"}) })
	s.expectErrors()
}

func TestLogOutEverywhereElse(t *testing.T) {
	s := newSiteWithUsers(t)
	phone, laptop := s.newBrowser(), s.newBrowser()
	s.as(phone, func() { s.login(attrs{"user": "ada"}) })
	s.as(laptop, func() {
		s.login(attrs{"user": "ada", "n": 1})
		s.visit(func(w http.ResponseWriter, r *http.Request) {
			sess := s.get(r)
			s.must(s.sessions.RegenerateID(r))
			s.must(s.sessions.RemoveOthers(r))
			sess.SetAttr("n", 2)
		})
		s.expect(attrs{"user": "ada", "n": 2})
	})
	s.as(phone, func() { s.expect(nil) })
	s.expectErrors()
}

func TestLogOutEverywhereIsFinal(t *testing.T) {
	s := newSiteWithUsers(t)
	phone, laptop := s.newBrowser(), s.newBrowser()
	s.as(phone, func() { s.login(attrs{"user": "ada"}) })
	s.as(laptop, func() { s.login(attrs{"user": "ada"}) })
	var late answer
	s.as(phone, func() {
		late = s.visit(func(w http.ResponseWriter, r *http.Request) {
			sess := s.get(r)
			s.as(laptop, func() {
				got := s.visit(func(w http.ResponseWriter, r *http.Request) {
					s.must(s.sessions.RemoveAll(r.Context(), "ada"))
				})
				if got.Header.Get("Set-Cookie") == "" || s.cookie() != "" {
					t.Error("the cookie of the request's own session stays")
				}
			})
			sess.SetAttr("n", 1)
		})
		s.expect(nil)
	})
	if late.StatusCode != http.StatusConflict {
		t.Errorf("the request in flight: %v", late.Status)
	}
	s.expectErrors(gaesession.ErrRemoved)
	if all := s.sessionsOf("ada"); len(all) != 0 {
		t.Errorf("got %v", all)
	}
}

func TestASecondLoginToASessionOfNobodysIsANewSession(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"basket": "apple"})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		s.visit(s.set("user", "ada")) // the first click
		first := s.cookie()
		sess.SetAttr("user", "ada")
		w.WriteHeader(http.StatusOK)
		if s.get(r).ID() == first {
			t.Error("both have one session")
		}
	})
	s.expect(attrs{"user": "ada"})
	s.expectErrors(gaesession.ErrRemoved)
	if all := s.sessionsOf("ada"); len(all) != 2 {
		t.Errorf("%d sessions, want those of both clicks", len(all))
	}
}

// Two instances are each at work on a login of one browser: a double click. Whoever is
// told that the login worked is logged in, with a session that is listed.
func TestTwoLoginsAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		noOwners bool
		before   attrs // of the session that the browser has; nil: none
		refused  bool  // one of the logins may be
	}{
		"no session":                   {false, nil, false},
		"a session of nobody's":        {false, attrs{"basket": "apple"}, false},
		"a session of the user's":      {false, attrs{"user": "ada"}, true},
		"a session of another user's":  {false, attrs{"user": "bob"}, true},
		"no session, without owners":   {true, nil, false},
		"a session, without owners":    {true, attrs{"basket": "apple"}, true},
		"the same user without owners": {true, attrs{"user": "ada"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSiteWithUsers(t)
			if test.noOwners {
				s = newSite(t, &gaesession.Sessions{})
			}
			refused := false
			for k, last := 1, false; !last; k++ {
				old := ""
				if test.before != nil {
					s.browser = s.newBrowser()
					s.login(test.before)
					old = s.cookie()
				}
				browsers := []*http.Client{s.newBrowser(), s.newBrowser()}
				var answers [2]answer
				click := func(i int, hooks ...gaetest.Hook) {
					s.as(browsers[i], func() {
						if old != "" {
							s.setCookie(old)
						}
						answers[i] = s.visit(func(w http.ResponseWriter, r *http.Request) {
							sess, err := s.sessions.Renew(r, nil)
							s.must(err)
							sess.SetAttr("user", "ada")
						}, hooks...)
					})
				}
				reached, hook := gaetest.Interpose(k, func() { click(1) })
				if click(0, hook); !reached.Load() {
					click(1) // after the other one
					last = true
				}
				drain(t)
				statuses, ids := map[int]int{}, map[string]bool{}
				for i, a := range answers {
					statuses[a.StatusCode]++
					s.as(browsers[i], func() {
						switch got := s.attrs(); {
						case a.StatusCode == http.StatusOK:
							ids[s.cookie()] = true
							if s.cookie() == old || got["user"] != "ada" {
								t.Errorf("call %d, answer %d: old cookie: %v, session %v", k, i, s.cookie() == old, got)
							}
						case a.Header.Get("Set-Cookie") != "" || got != nil:
							t.Errorf("call %d, answer %d: %v, Set-Cookie %q, session %v", k, i, a.Status, a.Header.Get("Set-Cookie"), got)
						}
					})
				}
				refused = refused || statuses[http.StatusConflict] > 0
				if ok := statuses[http.StatusOK]; ok == 0 || ok+statuses[http.StatusConflict] < 2 || len(ids) != ok {
					t.Errorf("call %d: answers %v, and %d sessions", k, statuses, len(ids))
				}
				if test.noOwners {
					continue
				}
				if all := s.sessionsOf("ada"); len(all) != len(ids) {
					t.Errorf("call %d: %d sessions are listed of %d", k, len(all), len(ids))
				}
				if all := s.sessionsOf("bob"); len(all) != 0 {
					t.Errorf("call %d: %d sessions of the other user are listed", k, len(all))
				}
				s.must(s.sessions.RemoveAll(s.service.Context(), "ada"))
				for _, b := range browsers {
					s.as(b, func() { s.expect(nil) })
				}
			}
			if refused != test.refused {
				t.Errorf("a login was refused: %v", refused)
			}
		})
	}
}

func TestALoginThatDatastoreFailsIsNotSaved(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"n": 0})
	id := s.cookie()
	datastoreDown := gaetest.Fail(func(c gaetest.Call) bool { return c.Service == "datastore_v3" })
	got := s.visit(s.set("user", "ada"), datastoreDown)
	if got.StatusCode != http.StatusServiceUnavailable || s.cookie() != id {
		t.Errorf("%v, new cookie: %v", got.Status, s.cookie() != id)
	}
	s.expectErrors(gaesession.ErrNotSaved)
	s.expect(attrs{"n": 0})
}

func TestOwnersThatCannotWork(t *testing.T) {
	for name, s := range map[string]*gaesession.Sessions{
		"without a backup": {Owner: userOf, Options: options{OnlyMemcache: true}},
		"too many":         {Owner: userOf, MaxPerOwner: 5001},
		"less than none":   {Owner: userOf, MaxPerOwner: -1},
	} {
		if s.Err() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	none, some := &gaesession.Sessions{}, &gaesession.Sessions{Owner: userOf}
	ctx := gaetest.Local(t).Context()
	for name, err := range map[string]error{
		"no Owner":          none.RemoveAll(ctx, "ada"),
		"no owner":          some.RemoveAll(ctx, ""),
		"no owner, by refs": some.RemoveRefs(ctx, "", "x"),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := some.SessionsOf(ctx, ""); err == nil {
		t.Error("SessionsOf without an owner: no error")
	}
	if err := some.RemoveOthers(&http.Request{}); !errors.Is(err, gaesession.ErrNoHandler) {
		t.Errorf("RemoveOthers without Handler: %v", err)
	}
	if all, err := some.SessionsOf(ctx, "nobody"); err != nil || len(all) != 0 {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestAnOwnerThatPanicsIsAnError(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{Owner: func(s session.Session) string { return s.Attr("user").(string) }})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.must(s.sessions.Add(r, session.NewSession()))
	})
	if got.StatusCode != http.StatusInternalServerError {
		t.Errorf("%v", got.Status)
	}
	s.expectErrors(nil)
}

func TestOwnersAskForACopyAndHoldNoLock(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{Owner: func(sess session.Session) string {
		u := userOf(sess)
		sess.SetAttr("user", "changed by Owner")
		return u
	}})
	s.login(attrs{"user": "ada"})
	s.expect(attrs{"user": "ada"})
	s.expectErrors()
}

func TestWhatOwnerRefusesIsReturnedOrReportedOnce(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{Owner: func(s session.Session) string {
		if s.Attr("user") == nil {
			return ""
		}
		return s.Attr("user").(string)
	}})
	s.login(attrs{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("user", 1)
		if s.sessions.Save(r) == nil {
			t.Error("no error")
		}
		w.WriteHeader(http.StatusTeapot)
	})
	if got.StatusCode != http.StatusTeapot {
		t.Errorf("%v", got.Status)
	}
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		s.get(r).SetAttr("user", "ada")
		if err := s.sessions.Save(r); !errors.Is(err, gaesession.ErrHeaderSent) {
			t.Errorf("Save: %v", err)
		}
	})
	s.expectErrors()
	s.expect(attrs{"n": 0})
}

func TestALogoutByHandAndEverywhereIsALogout(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"user": "ada"})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("user", nil)
		s.must(s.sessions.RemoveAll(r.Context(), "ada"))
	})
	if got.StatusCode != http.StatusOK || s.cookie() != "" {
		t.Errorf("%v, cookie: %v", got.Status, s.cookie() != "")
	}
	s.expectErrors()
}

func TestLogOutEverywhereAsksForACopy(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{Owner: func(sess session.Session) string {
		u := userOf(sess)
		sess.SetAttr("user", "changed by Owner")
		return u
	}})
	s.login(attrs{"user": "ada"})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		s.must(s.sessions.RemoveOthers(r))
		s.must(s.sessions.RemoveAll(r.Context(), "bob"))
		if u := userOf(sess); u != "ada" {
			t.Errorf("got %q", u)
		}
	})
	s.expectErrors()
}

func TestLogOutEverywhereDoesNotWaitForTheSessionsMutexForEver(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"user": "ada"})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		sess.Mutex().Lock()
		done := make(chan error, 1)
		go func() { done <- s.sessions.RemoveAll(r.Context(), "ada") }()
		select {
		case err := <-done:
			s.must(err)
		case <-time.After(time.Minute):
			t.Error("it waits")
		}
		sess.Mutex().Unlock()
	})
}

func TestWhatTheFirstClickHadStaysItsOwn(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"basket": "apple"})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		s.visit(s.set("user", "ada")) // the first click
		sess.SetAttr("user", "ada")
		s.must(s.sessions.Save(r))
		sess.SetAttr("n", 1)
	})
	s.expect(attrs{"user": "ada", "n": 1})
}

func TestASessionIsRemovedByTheRefThatItHadBeforeItMoved(t *testing.T) {
	s := newSiteWithUsers(t)
	phone, laptop := s.newBrowser(), s.newBrowser()
	s.as(phone, func() { s.login(attrs{"user": "ada", "browser": "phone"}) })
	s.as(laptop, func() {
		s.login(attrs{"user": "ada", "browser": "laptop"})
		all := s.sessionsOf("ada")
		s.as(phone, func() {
			s.visit(func(w http.ResponseWriter, r *http.Request) {
				s.get(r)
				s.must(s.sessions.RegenerateID(r))
			})
		})
		s.must(s.sessions.RemoveRefs(s.service.Context(), "ada", all[1].Ref))
		s.as(phone, func() { s.expect(nil) })
	})
}

func TestTheLabelIsAskedAtLoginAndWithANewID(t *testing.T) {
	var asked atomic.Int32
	s := newSite(t, &gaesession.Sessions{Owner: userOf, Label: func(session.Session) string {
		asked.Add(1)
		return "phone"
	}})
	expect := func(doing string, want int32) {
		t.Helper()
		if got := asked.Swap(0); got != want {
			t.Errorf("%s: asked %d times, want %d", doing, got, want)
		}
	}
	s.login(attrs{"basket": "apple"})
	expect("of nobody's session", 0)
	s.visit(s.set("user", "ada"))
	expect("at login", 1)
	for n := range 3 {
		s.visit(s.set("n", n))
	}
	expect("at a change", 0)
	s.visit(func(w http.ResponseWriter, r *http.Request) { s.must(s.sessions.RegenerateID(r)) })
	expect("with a new id", 1)
	if got := labels(s.sessionsOf("ada")); got != "phone*" {
		t.Errorf("got %q", got)
	}
	s.expectErrors()
}

func TestAnOwnerThatPanicsTellsNoID(t *testing.T) {
	panics := false
	s := newSite(t, &gaesession.Sessions{PlainIDs: true, Owner: func(sess session.Session) string {
		if panics {
			panic("no user in " + sess.ID())
		}
		return userOf(sess)
	}})
	s.login(attrs{"user": "ada"})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		panics = true
		s.must(s.sessions.RemoveAll(r.Context(), "ada"))
	})
	errs := s.errs.list()
	if len(errs) == 0 {
		t.Error("nothing was reported")
	}
	for _, err := range errs {
		if strings.Contains(err.Error(), s.cookie()) {
			t.Errorf("an error has the id: %v", err)
		}
	}
}
