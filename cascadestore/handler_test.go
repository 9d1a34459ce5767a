package cascadestore_test

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// A site is an app whose pages are served by way of Handler, over HTTP/2 in tests
// that say so. It logs to log.
type site struct {
	*app
	log     *logBuffer
	browser *browser
}

func newSite(t *testing.T, changes ...func(*cascadestore.CascadeStore)) *site {
	t.Helper()
	store := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, hashKey, blockKey)
	store.CacheTimeout, store.BackupTimeout = time.Minute, time.Minute
	s := &site{log: &logBuffer{}}
	store.Logger = s.log.logger()
	for _, change := range changes {
		change(store)
	}
	s.app = newSimulatedApp(t, gaetest.Local(t), store)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.Serve))
	s.Server.Config.ErrorLog = log.New(io.Discard, "", 0) // of panics
	s.Server.EnableHTTP2 = strings.Contains(t.Name(), "HTTP/2")
	s.Server.StartTLS()
	t.Cleanup(s.Server.Close)
	s.browser = s.newBrowser()
	s.browser.Client.Transport = s.Server.Client().Transport
	return s
}

// onBoth runs f on HTTP/1 and on HTTP/2.
func onBoth(t *testing.T, f func(t *testing.T)) {
	for _, protocol := range []string{"HTTP/1", "HTTP/2"} {
		t.Run(protocol, f)
	}
}

// A page answers a request with the session that it has.
type page func(w http.ResponseWriter, r *http.Request, session *sessions.Session)

// request returns the request for a page, and what is known of it.
func (s *site) request(p page, hooks []gaetest.Hook) (*http.Request, *visit) {
	return s.requestTo(s.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, err := s.store.Get(r, sessionName)
		if err != nil {
			s.t.Errorf("Get: %v", err)
		}
		p(w, r, session)
	})), hooks)
}

func (s *site) requestTo(h http.Handler, hooks []gaetest.Hook) (*http.Request, *visit) {
	v := &visit{Request: s.Service.NewRequest(hooks...)}
	return s.To(v.Request, h.ServeHTTP), v
}

// An answer is a response that was read to its end.
type answer struct {
	*http.Response
	body  string
	err   error
	calls int
}

func (s *site) visit(p page, hooks ...gaetest.Hook) answer {
	s.t.Helper()
	return s.do(s.request(p, hooks))
}

// handle is visit with a handler that gets its sessions itself.
func (s *site) handle(h http.Handler, hooks ...gaetest.Hook) answer {
	s.t.Helper()
	return s.do(s.requestTo(h, hooks))
}

func (s *site) do(r *http.Request, v *visit) answer {
	resp, err := s.browser.Client.Do(r)
	if err != nil {
		return answer{&http.Response{Header: http.Header{}}, "", err, len(v.Request.Calls())}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, string(body), err, len(v.Request.Calls())}
}

func setting(v values) page {
	return func(_ http.ResponseWriter, _ *http.Request, session *sessions.Session) { set(session, v) }
}

// login begins a session with these values.
func (s *site) login(v values) {
	s.t.Helper()
	if got := s.visit(setting(v)); got.StatusCode != http.StatusOK || s.browser.cookie() == "" {
		s.t.Fatalf("login: %v, %v", got.Status, s.log)
	}
}

// expect expects that the browser has a session of these values (nil: none), also
// when Memcache is flushed.
func (s *site) expect(want values) {
	s.t.Helper()
	drain(s.t)
	s.browser.expect(s.t, cascadestore.DistributedBackends, want)
}

// expectLog expects that errors were logged which say so, and no others.
func (s *site) expectLog(want ...string) {
	s.t.Helper()
	got := s.log.String()
	if n := strings.Count(got, "level=ERROR"); n != len(want) {
		s.t.Errorf("%d errors in the log, want %d: %s", n, len(want), got)
	}
	for _, w := range want {
		if !strings.Contains(got, w) {
			s.t.Errorf("%q is not in the log: %s", w, got)
		}
	}
	s.log.reset()
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func anyCall(gaetest.Call) bool { return true }

// isWrite matches the calls that change something.
func isWrite(c gaetest.Call) bool { return c.Method != "Get" }

func TestTheNextRequestSeesWhatTheAppHasNotSavedWhateverSendsTheHeader(t *testing.T) {
	for name, send := range map[string]func(w http.ResponseWriter){
		"WriteHeader": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusTeapot)
			_ = http.NewResponseController(w).Flush()
		},
		"Write":    func(w http.ResponseWriter) { io.WriteString(w, strings.Repeat("x", 10<<10)) },
		"Flush":    func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"ReadFrom": func(w http.ResponseWriter) { io.Copy(w, strings.NewReader(strings.Repeat("x", 10<<10))) },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T) {
				s := newSite(t)
				s.login(values{"n": 0, "list": []string{"a"}})
				seen := make(chan struct{})
				r, _ := s.request(func(w http.ResponseWriter, _ *http.Request, session *sessions.Session) {
					session.Values["n"] = 1
					session.Values["list"].([]string)[0] = "b" // in place
					session.AddFlash("hello")
					send(w)
					<-seen // the rest of the response is held
				}, nil)
				resp, err := s.browser.Client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				want := values{"n": 1, "list": []string{"b"}, "_flash": []any{"hello"}}
				s.browser.expectNow(t, "when the header has arrived", want)
				close(seen)
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				s.expect(want)
				s.expectLog()
			})
		})
	}
}

func TestHandlerLeavesARequestAloneThatUsesNoSession(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	got := s.handle(s.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })))
	if got.calls != 0 || got.body != "hello" {
		t.Errorf("%d calls, body %q; want none", got.calls, got.body)
	}
	for _, name := range []string{"Vary", "Set-Cookie", "Cache-Control"} {
		if v := got.Header.Values(name); v != nil {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestHandlerSavesNothingOfARequestThatOnlyReads(t *testing.T) {
	s := newSite(t)
	for name, test := range map[string]struct {
		prepare func()
		calls   int
	}{
		"no session": {func() {}, 0},
		"a session":  {func() { s.login(values{"n": 0, "list": []string{"a"}}) }, 1},
	} {
		test.prepare()
		got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
			// As apps do that save in each request.
			session.Options = &sessions.Options{Path: "/", MaxAge: s.store.Options.MaxAge, HttpOnly: true}
			io.WriteString(w, "hello")
		})
		if got.calls != test.calls {
			t.Errorf("%s: %d calls, want %d", name, got.calls, test.calls)
		}
		if v := got.Header.Values("Vary"); !slices.Equal(v, []string{"Cookie"}) {
			t.Errorf("%s: Vary: %q", name, v)
		}
		if v := got.Header.Values("Set-Cookie"); v != nil {
			t.Errorf("%s: Set-Cookie: %q", name, v)
		}
		s.browser = s.newBrowser()
		s.browser.Client.Transport = s.Server.Client().Transport
	}
	s.expectLog()
}

func TestHandlerSetsOneCookieOfAName(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		s := newSite(t)
		got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
			http.SetCookie(w, &http.Cookie{Name: "other", Value: "stays"})
			session.Values["n"] = 0
			s.must(session.Save(r, w))
			session.Values["n"] = 1
			s.must(s.store.RegenerateID(r, session))
			s.must(session.Save(r, w))
			session.Values["n"] = 2
		})
		cookies := got.Header.Values("Set-Cookie")
		if len(cookies) != 2 || cookies[0] != "other=stays" || !strings.HasPrefix(cookies[1], sessionName+"=") {
			t.Errorf("Set-Cookie: %q", cookies)
		}
		if v := got.Header.Values("Cache-Control"); !slices.Equal(v, []string{"no-store"}) {
			t.Errorf("Cache-Control: %q", v)
		}
		s.expect(values{"n": 2})
		s.expectLog()
	})
}

func (s *site) must(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Error(err)
	}
}

func TestHandlerLeavesTheAppsCacheControl(t *testing.T) {
	s := newSite(t)
	got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		w.Header().Set("Cache-Control", "private")
		session.Values["n"] = 0
		s.must(session.Save(r, w))
	})
	if v := got.Header.Values("Cache-Control"); !slices.Equal(v, []string{"private"}) {
		t.Errorf("Cache-Control: %q", v)
	}
}

func TestHandlerAnswersForAChangeThatIsSavedNowhere(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			page   func(s *site) page
			fails  func(gaetest.Call) bool
			status int
			log    string
			want   values
		}{
			"services down": {func(s *site) page { return setting(values{"n": 1}) }, isWrite, 503, "saved", values{"n": 0}},
			"too large":     {func(s *site) page { return setting(values{"n": text(5000)}) }, nil, 500, "too big", values{"n": 0}},
			"serializer":    {func(s *site) page { return setting(values{"n": struct{ X int }{1}}) }, nil, 500, "serializer", values{"n": 0}},
			"removed": {func(s *site) page {
				return func(_ http.ResponseWriter, _ *http.Request, session *sessions.Session) {
					session.Values["n"] = 1
					s.must(s.twin().logout())
				}
			}, nil, 409, "removed", nil},
			"new id": {func(s *site) page {
				return func(_ http.ResponseWriter, r *http.Request, session *sessions.Session) {
					s.must(s.store.RegenerateID(r, session))
				}
			}, gaetest.Datastore, 503, "saved", values{"n": 0}},
			"removal": {func(s *site) page {
				return func(_ http.ResponseWriter, r *http.Request, session *sessions.Session) {
					session.Options.MaxAge = -1
				}
			}, isWrite, 503, "saved", nil}, // continues in the background
		} {
			t.Run(name, func(t *testing.T) {
				s := newSite(t)
				s.login(values{"n": 0})
				before := s.browser.cookie()
				var hooks []gaetest.Hook
				if c.fails != nil {
					hooks = append(hooks, gaetest.Fail(c.fails))
				}
				got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
					http.SetCookie(w, &http.Cookie{Name: "other", Value: "x"})
					w.Header().Set("X-App", "was here")
					c.page(s)(w, r, session)
					if _, err := io.WriteString(w, "saved!"); err == nil {
						t.Error("the app's body was written")
					}
				}, hooks...)
				if got.StatusCode != c.status || strings.Contains(got.body, "saved!") {
					t.Errorf("got %v, %q; want %v", got.Status, got.body, c.status)
				}
				if v := got.Header.Get("Set-Cookie") + got.Header.Get("X-App"); v != "" || s.browser.cookie() != before {
					t.Errorf("the app's header went out: %v", got.Header)
				}
				s.expectLog(c.log)
				s.expect(c.want)
			})
		}
	})
}

// twin is another browser with the same cookies.
func (s *site) twin() *browser {
	b := s.newBrowser()
	b.Client.Transport = s.Server.Client().Transport
	b.Client.Jar.SetCookies(s.browser.URL(), s.browser.Client.Jar.Cookies(s.browser.URL()))
	return b
}

func TestErrorHandlerAnswersAndReports(t *testing.T) {
	var got error
	s := newSite(t, func(cs *cascadestore.CascadeStore) {
		cs.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
			got = err
			http.Error(w, "sorry", http.StatusBadGateway)
		}
	})
	answer := s.visit(setting(values{"n": 1}), gaetest.Fail(anyCall))
	var traced *cascadestore.Error
	if answer.StatusCode != http.StatusBadGateway || !strings.Contains(answer.body, "sorry") ||
		!errors.Is(got, cascadestore.ErrNotSaved) || !errors.As(got, &traced) {
		t.Errorf("%v, %q, %v", answer.Status, answer.body, got)
	}
	if s.browser.cookie() != "" {
		t.Error("a cookie was set for a session that was not saved")
	}
	s.expectLog()
}

func TestHandlerLetsTheAnswerOutThoughOneServiceFails(t *testing.T) {
	for name, c := range map[string]struct {
		fails func(gaetest.Call) bool
		want  string
	}{
		"not backed up": {gaetest.Datastore, "not in the backup"},
		"not published": {func(c gaetest.Call) bool { return gaetest.Memcache(c) && isWrite(c) }, "cache"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.login(values{"n": 0})
			got := s.visit(func(_ http.ResponseWriter, _ *http.Request, session *sessions.Session) {
				session.Values["n"] = 1
				session.Options.MaxAge = 1000 // which the cookie is to say
			}, gaetest.Fail(c.fails))
			if got.StatusCode != http.StatusOK || got.Header.Get("Set-Cookie") == "" {
				t.Errorf("%v, Set-Cookie %q", got.Status, got.Header.Get("Set-Cookie"))
			}
			s.expectLog(c.want)
			drain(t)
			s.browser.expectNow(t, "afterwards", values{"n": 1})
		})
	}
}

func TestHandlerDoesNotRepeatWhatSaveReturned(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *site, session *sessions.Session)
		fails  func(gaetest.Call) bool
		want   error // nil: any
	}{
		"services down": {func(_ *site, session *sessions.Session) { session.Values["n"] = 1 }, isWrite, cascadestore.ErrNotSaved},
		"serializer":    {func(_ *site, session *sessions.Session) { session.Values["n"] = struct{ X int }{1} }, nil, nil},
		"removed": {func(s *site, session *sessions.Session) {
			session.Values["n"] = 1
			s.must(s.twin().logout())
		}, nil, cascadestore.ErrRemoved},
		"removal": {func(_ *site, session *sessions.Session) { session.Options.MaxAge = -1 }, isWrite, cascadestore.ErrNotSaved},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.login(values{"n": 0})
			var hooks []gaetest.Hook
			if c.fails != nil {
				hooks = append(hooks, gaetest.Fail(c.fails))
			}
			got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
				c.change(s, session)
				if err := session.Save(r, w); err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("Save: %v", err)
				}
				io.WriteString(w, "it was not saved")
			}, hooks...)
			if got.StatusCode != http.StatusOK || got.body != "it was not saved" {
				t.Errorf("%v, %q", got.Status, got.body)
			}
			s.expectLog()
		})
	}
}

func TestHandlerSavesWhatIsChangedAfterSave(t *testing.T) {
	s := newSite(t)
	got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		session.Values["n"] = 1
		s.must(session.Save(r, w))
		session.Values["m"] = 2
	})
	if got.StatusCode != http.StatusOK {
		t.Errorf("%v", got.Status)
	}
	s.expect(values{"n": 1, "m": 2})
	got = s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		session.Values["n"] = 3
		s.must(session.Save(r, w))
	})
	alone := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) { session.Values["n"] = 4 })
	if got.calls != alone.calls {
		t.Errorf("with Save %d calls, without it %d", got.calls, alone.calls)
	}
	s.expect(values{"n": 4, "m": 2})
	s.expectLog()
}

func TestHandlerRemovesASessionWhoseMaxAgeIsBelowZero(t *testing.T) {
	remove := func(_ http.ResponseWriter, _ *http.Request, session *sessions.Session) { session.Options.MaxAge = -1 }
	s := newSite(t)
	s.login(values{"n": 0})
	cookie := s.browser.cookie()
	got := s.visit(remove)
	if v := got.Header.Values("Set-Cookie"); len(v) != 1 || s.browser.cookie() != "" {
		t.Errorf("Set-Cookie: %q", v)
	}
	s.browser.setCookie(cookie)
	s.expect(nil)
	// A cookie without a session is ended as well; without a cookie there is nothing
	// to end.
	s.browser.setCookie(cookie)
	if s.visit(remove); s.browser.cookie() != "" {
		t.Error("the cookie of a session that is gone stays")
	}
	if got := s.visit(remove); got.calls != 0 || got.Header.Get("Set-Cookie") != "" {
		t.Errorf("without a cookie: %d calls, Set-Cookie %q", got.calls, got.Header.Get("Set-Cookie"))
	}
	// What the app has saved itself is not removed again.
	s.login(values{"n": 0})
	byHand := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		session.Options.MaxAge = -1
		s.must(session.Save(r, w))
	})
	if byHand.calls != got.calls {
		t.Errorf("with Save %d calls, without it %d", byHand.calls, got.calls)
	}
	s.expectLog()
}

func TestHandlerMovesASessionThatGetsANewID(t *testing.T) {
	s := newSite(t)
	s.login(values{"basket": "apple"})
	old := s.twin()
	s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		s.must(old.change(values{"basket": "pear"})) // another request, meanwhile
		session.Values["user"] = "ada"
		s.must(s.store.RegenerateID(r, session))
	})
	if s.browser.cookie() == old.cookie() {
		t.Error("the browser has the old cookie")
	}
	s.expect(values{"basket": "pear", "user": "ada"})
	old.expectNow(t, "under the old id", nil)
	s.expectLog()
}

func TestHandlerLeavesWhatNewHasReturnedToTheApp(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request, _ *sessions.Session) {
		session, err := s.store.New(r, sessionName)
		s.must(err)
		session.Values["n"] = 1
	})
	if got.Header.Get("Set-Cookie") != "" {
		t.Error("it was saved")
	}
	s.expect(values{"n": 0})
}

func TestHandlerKeepsTheMaxAgeThatTheAppChooses(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	got := s.visit(func(_ http.ResponseWriter, _ *http.Request, session *sessions.Session) { session.Options.MaxAge = 3600 })
	if v := got.Header.Get("Set-Cookie"); !strings.Contains(v, "Max-Age=3600") {
		t.Errorf("Set-Cookie: %q", v)
	}
	s.visit(func(_ http.ResponseWriter, _ *http.Request, session *sessions.Session) {
		if session.Options.MaxAge != 3600 {
			t.Errorf("MaxAge %d", session.Options.MaxAge)
		}
	})
	s.expectLog()
}

func TestHandlerSavesAMaxAgeThatTheAppChoosesForASavedSession(t *testing.T) {
	s := newSite(t)
	got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		session.Values["n"] = 0
		s.must(session.Save(r, w))
		session.Options.MaxAge = 3600
	})
	if v := got.Header.Get("Set-Cookie"); !strings.Contains(v, "Max-Age=3600") {
		t.Errorf("Set-Cookie: %q", v)
	}
	s.expectLog()
}

func TestPanicInHandlerSavesNothing(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	cookie := s.browser.cookie()
	for _, p := range []any{"oops", http.ErrAbortHandler} {
		for _, sent := range []bool{false, true} {
			s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
				if sent {
					w.WriteHeader(http.StatusOK)
				}
				session.Values["n"] = 1
				panic(p)
			})
		}
	}
	if s.browser.cookie() != cookie {
		t.Error("the cookie was replaced")
	}
	s.expect(values{"n": 0})
	s.expectLog()
}

func TestHandlerSavesLateChangesWhenTheAppReturns(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		s := newSite(t)
		s.login(values{"n": 0})
		cookie := s.browser.cookie()
		s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
			w.WriteHeader(http.StatusOK)
			if err := s.store.RegenerateID(r, session); !errors.Is(err, cascadestore.ErrHeaderSent) {
				t.Errorf("RegenerateID: %v", err)
			}
			session.Values["n"] = 1
			s.must(session.Save(r, w))
			session.Values["n"] = 2
		})
		if s.browser.cookie() != cookie {
			t.Error("the cookie was replaced")
		}
		s.expectLog()
		s.expect(values{"n": 2})
		s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
			w.WriteHeader(http.StatusOK)
			session.Values["n"] = 3
		}, gaetest.Fail(isWrite))
		s.expectLog("saved")
	})
}

func TestHandlerRefusesANewSessionOnceTheHeaderHasLeft(t *testing.T) {
	s := newSite(t)
	for _, save := range []bool{false, true} {
		got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
			w.WriteHeader(http.StatusOK)
			session.Values["n"] = 0
			if !save {
				return
			}
			if err := session.Save(r, w); !errors.Is(err, cascadestore.ErrHeaderSent) {
				t.Errorf("Save: %v", err)
			}
		})
		if got.StatusCode != http.StatusOK || got.calls > 0 || s.browser.cookie() != "" {
			t.Errorf("%v, %d calls, cookie %q", got.Status, got.calls, s.browser.cookie())
		}
		if save {
			s.expectLog()
		} else {
			s.expectLog(cascadestore.ErrHeaderSent.Error())
		}
	}
}

func TestANewIDThatWasNotSavedWithTheHeaderIsNotSavedLater(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	cookie := s.browser.cookie()
	s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		s.must(s.store.RegenerateID(r, session))
		if err := session.Save(r, w); !errors.Is(err, cascadestore.ErrNotSaved) {
			t.Errorf("Save: %v", err)
		}
		w.WriteHeader(http.StatusOK)
		session.Values["n"] = 1
	}, gaetest.Fail(func(c gaetest.Call) bool { return c.Method == "BeginTransaction" }))
	if s.browser.cookie() != cookie {
		t.Error("the cookie was replaced")
	}
	s.expectLog(cascadestore.ErrHeaderSent.Error())
	s.expect(values{"n": 0})
}

func TestSaveAfterTheHeaderAsksWhetherTheSessionIsThere(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		w.(http.Flusher).Flush()
		s.must(session.Save(r, w))
		s.must(s.twin().logout())
		for range 2 {
			if err := session.Save(r, w); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("Save: %v", err)
			}
		}
	})
	s.expectLog()
}

func TestHandlerLeavesASessionAloneOfWhichNobodyCanTell(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	cookie := s.browser.cookie()
	for name, c := range map[string]struct {
		change func(w http.ResponseWriter, r *http.Request, session *sessions.Session)
		status int
	}{
		"unchanged": {func(http.ResponseWriter, *http.Request, *sessions.Session) {}, 418},
		"changed":   {func(_ http.ResponseWriter, _ *http.Request, session *sessions.Session) { session.Values["n"] = 1 }, 503},
		"and saved": {func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
			session.Values["n"] = 1
			if err := session.Save(r, w); !errors.Is(err, cascadestore.ErrUnavailable) {
				t.Errorf("Save: %v", err)
			}
		}, 418},
	} {
		got := s.handle(s.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			session, err := s.store.Get(r, sessionName)
			if !errors.Is(err, cascadestore.ErrUnavailable) {
				t.Errorf("Get: %v", err)
			}
			c.change(w, r, session)
			w.WriteHeader(http.StatusTeapot)
		})), gaetest.Fail(anyCall))
		if got.StatusCode != c.status || s.browser.cookie() != cookie {
			t.Errorf("%s: got %v, want %d", name, got.Status, c.status)
		}
		if c.status == 503 {
			s.expectLog("unavailable")
		} else {
			s.expectLog()
		}
	}
	s.expect(values{"n": 0})
}

func TestAnErrorResponseHasTheCookiesOfWhatWasSaved(t *testing.T) {
	s := newSite(t)
	got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		session.Values["n"] = 1
		other, err := s.store.Get(r, "other")
		s.must(err)
		other.Values["n"] = text(5000)
		third, err := s.store.Get(r, "third")
		s.must(err)
		third.Values["n"] = 3
		s.must(third.Save(r, w))
	})
	var names []string
	for _, c := range got.Cookies() {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	if got.StatusCode != 500 || !slices.Equal(names, []string{sessionName, "third"}) {
		t.Errorf("%v, cookies %q", got.Status, names)
	}
	if got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("Vary") != "Cookie" {
		t.Errorf("header %v", got.Header)
	}
	s.expect(values{"n": 1})
	s.expectLog("too big")
}

func TestNestedHandlersOfAStoreAreOne(t *testing.T) {
	s := newSite(t)
	s.login(values{"n": 0})
	got := s.handle(s.store.Handler(s.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, err := s.store.Get(r, sessionName)
		s.must(err)
		session.Values["n"] = 1
	}))), gaetest.Fail(isWrite))
	if got.StatusCode != 503 {
		t.Errorf("%v", got.Status)
	}
	s.expectLog("saved")
}

func TestAMiddlewareAroundHandlerMaySaveASessionAfterIt(t *testing.T) {
	s := newSite(t)
	app := s.store.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		app.ServeHTTP(w, r) // has sent nothing
		session, err := s.store.Get(r, sessionName)
		s.must(err)
		session.Values["n"] = 1
		s.must(session.Save(r, w))
	}))
	s.expect(values{"n": 1})
}

func TestHandlersOfTwoStoresSaveEachItsOwn(t *testing.T) {
	s := newSite(t)
	other := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, blockKey)
	other.SetKeyPrefix("other.")
	known := false
	h := s.store.Handler(other.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i, store := range []*cascadestore.CascadeStore{s.store, other} {
			session, err := store.Get(r, []string{sessionName, "other"}[i])
			s.must(err)
			if session.IsNew == known {
				t.Errorf("IsNew is %v", session.IsNew)
			}
			session.Values["n"] = i
		}
	})))
	for range 2 {
		got := s.handle(h)
		if got.StatusCode != http.StatusOK || !known && len(got.Header.Values("Set-Cookie")) != 2 {
			t.Errorf("%v, Set-Cookie %q", got.Status, got.Header.Values("Set-Cookie"))
		}
		known = true
	}
	s.expect(values{"n": 0})
	s.expectLog()
}

// An embedding store is an app's own, around a CascadeStore.
type embedding struct{ *cascadestore.CascadeStore }

func (e embedding) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(e, name)
}

func TestHandlerSavesSessionsOfAStoreAroundTheStore(t *testing.T) {
	s := newSite(t)
	own := embedding{s.store}
	for i := range 2 {
		s.handle(own.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			session, err := own.Get(r, sessionName)
			s.must(err)
			if session.IsNew != (i == 0) {
				t.Errorf("request %d: IsNew is %v", i, session.IsNew)
			}
			session.Values["n"] = i
		})))
	}
	got := s.handle(own.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := own.Get(r, sessionName)
		s.must(err)
	})))
	if got.calls != 1 || got.Header.Get("Set-Cookie") != "" {
		t.Errorf("a read: %d calls, Set-Cookie %q", got.calls, got.Header.Get("Set-Cookie"))
	}
	s.expect(values{"n": 1})
	s.expectLog()
}

func TestHandlerSavesWithARequestBackend(t *testing.T) {
	s := newSite(t)
	store := cascadestore.NewCascadeStore(cascadestore.AllBackends, hashKey, blockKey)
	store.Logger = s.store.Logger
	s.store = store
	s.login(values{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
		again, err := s.store.New(r, sessionName)
		s.must(err)
		again.Values["m"] = 1
		s.must(again.Save(r, w))
		session.Values["n"] = 1
	})
	s.expect(values{"n": 1, "m": 1})
	s.expectLog()
}

func TestHandlerWorksInsideTimeoutHandlerAndAppEnginesMiddleware(t *testing.T) {
	onBoth(t, func(t *testing.T) {
		s := newSite(t)
		app := s.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			session, err := s.store.Get(r, sessionName)
			s.must(err)
			n, _ := session.Values["n"].(int)
			session.Values["n"] = n + 1
			io.WriteString(w, "hello")
		}))
		for i, h := range []http.Handler{
			http.TimeoutHandler(app, time.Minute, "too late"), appengine.Middleware(app),
			http.TimeoutHandler(appengine.Middleware(app), time.Minute, "too late"),
		} {
			if got := s.handle(h); got.body != "hello" || (got.Header.Get("Set-Cookie") != "") != (i == 0) {
				t.Errorf("got %v, %q, header %v", got.Status, got.body, got.Header)
			}
			s.browser.expectNow(t, "afterwards", values{"n": i + 1})
		}
		s.expectLog()
	})
}

func TestHijackSavesFirstAndIsRefusedWhileTheClientLacksTheCookie(t *testing.T) {
	s := newSite(t)
	hijack := func(w http.ResponseWriter, _ *http.Request, session *sessions.Session) {
		n, _ := session.Values["n"].(int)
		session.Values["n"] = n + 1
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			if !errors.Is(err, cascadestore.ErrHeaderSent) {
				t.Errorf("Hijack: %v", err)
			}
			return
		}
		defer conn.Close()
		b := bufio.NewWriter(buf)
		io.WriteString(b, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhijacked")
		s.must(errors.Join(b.Flush(), buf.Flush()))
	}
	if got := s.visit(hijack); got.StatusCode != 500 || s.browser.cookie() != "" || got.calls > 0 {
		t.Errorf("new session: %v, cookie %q, %d calls", got.Status, s.browser.cookie(), got.calls)
	}
	s.expectLog(cascadestore.ErrHeaderSent.Error())
	s.login(values{"n": 0})
	if got := s.visit(hijack); got.body != "hijacked" {
		t.Errorf("got %v, %q", got.Status, got.body)
	}
	s.expect(values{"n": 1})
	s.expectLog()
}

func TestHandlerOfAStoreThatCannotWorkAnswers500(t *testing.T) {
	s := newSite(t)
	s.store = cascadestore.NewCascadeStore(0, hashKey)
	s.store.Logger = s.log.logger()
	got := s.handle(s.store.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the app was called") })))
	if got.StatusCode != 500 {
		t.Errorf("%v", got.Status)
	}
	s.expectLog("no backend chosen")
}

func isCommit(c gaetest.Call) bool { return c.Method == "Commit" }

// withUsers says whose the sessions of a site are.
func withUsers(cs *cascadestore.CascadeStore) {
	cs.Owner = func(s *sessions.Session) string { u, _ := s.Values["user"].(string); return u }
}

func TestLogOutEverywhereEndsTheCookieOfTheRequestItself(t *testing.T) {
	s := newSite(t, withUsers)
	for name, remove := range map[string]func(r *http.Request, session *sessions.Session) error{
		"RemoveAll": func(r *http.Request, _ *sessions.Session) error {
			return s.store.RemoveAll(r.Context(), sessionName, "ada")
		},
		"RemoveRefs": func(r *http.Request, session *sessions.Session) error {
			all, err := s.store.SessionsOf(r.Context(), sessionName, "ada", session)
			if err != nil || len(all) != 1 || !all[0].Current {
				t.Fatalf("got %+v, %v", all, err)
			}
			return s.store.RemoveRefs(r.Context(), sessionName, "ada", all[0].Ref)
		},
	} {
		for when, send := range map[string]func(http.ResponseWriter){
			"before the header": func(http.ResponseWriter) {},
			"after it":          func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				s.login(values{"user": "ada"})
				cookie := s.browser.cookie()
				got := s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
					send(w)
					s.must(remove(r, session))
					session.AddFlash("You are logged out everywhere.")
				})
				if got.StatusCode != http.StatusOK {
					t.Errorf("%v", got.Status)
				}
				if ended := s.browser.cookie() == ""; ended != (when == "before the header") {
					t.Errorf("the cookie has ended: %v", ended)
				}
				s.browser.setCookie(cookie)
				s.expect(nil)
				s.expectLog()
			})
		}
	}
}

func TestLogOutEverywhereEndsNoOtherCookie(t *testing.T) {
	for name, test := range map[string]struct {
		owner string
		hooks []gaetest.Hook
		want  error
	}{
		"of another user":              {"bob", nil, nil},
		"that Datastore does not save": {"ada", []gaetest.Hook{gaetest.Fail(isCommit)}, cascadestore.ErrNotSaved},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, withUsers)
			s.login(values{"user": "ada"})
			cookie := s.browser.cookie()
			s.visit(func(w http.ResponseWriter, r *http.Request, _ *sessions.Session) {
				if err := s.store.RemoveAll(r.Context(), sessionName, test.owner); !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
			}, test.hooks...)
			if s.browser.cookie() != cookie {
				t.Error("the cookie is another one")
			}
		})
	}
}

func TestASessionThatBeginsAfterALogoutKeepsItsCookie(t *testing.T) {
	logouts := map[string]func(s *site, r *http.Request, session *sessions.Session){
		"everywhere": func(s *site, r *http.Request, _ *sessions.Session) {
			s.must(s.store.RemoveAll(r.Context(), sessionName, "ada"))
		},
		"here": func(_ *site, _ *http.Request, session *sessions.Session) { session.Options.MaxAge = -1 },
	}
	for where, logout := range logouts {
		t.Run(where, func(t *testing.T) {
			s := newSite(t, withUsers)
			s.login(values{"user": "ada", "n": 1})
			old := s.browser.cookie()
			s.visit(func(w http.ResponseWriter, r *http.Request, session *sessions.Session) {
				logout(s, r, session)
				fresh := sessions.NewSession(s.store, sessionName)
				fresh.Values["user"] = "ada"
				s.must(s.store.Save(r, w, fresh))
			})
			if s.browser.cookie() == "" {
				t.Fatal("the cookie has ended")
			}
			s.expect(values{"user": "ada"})
			s.browser.setCookie(old)
			s.expect(nil)
			s.expectLog()
		})
	}
}
