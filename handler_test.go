package gaesession_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

type both = func(gaetest.Call) bool

func anyCall(gaetest.Call) bool { return true }

// writes matches the calls that change something.
func writes(c gaetest.Call) bool { return c.Method != "Get" }

// on runs f on HTTP/1 and on HTTP/2.
func on(t *testing.T, f func(t *testing.T)) {
	for _, protocol := range []string{"HTTP/1", "HTTP/2"} {
		t.Run(protocol, f)
	}
}

func TestTheNextRequestSeesEveryChangeWhateverSendsTheHeader(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file.txt")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 10<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, send := range map[string]func(w http.ResponseWriter, r *http.Request){
		"WriteHeader": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_ = http.NewResponseController(w).Flush()
		},
		"Write": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat("x", 10<<10)) },
		"Flush": func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() },
		"ReadFrom": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, strings.NewReader(strings.Repeat("x", 10<<10)))
		},
		"file": func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(file)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if n, err := io.Copy(w, f); n != 10<<10 || err != nil {
				t.Errorf("copied %d bytes, error %v", n, err)
			}
		},
		"ServeFile": func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) },
		"Early Hints": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_ = http.NewResponseController(w).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, func(t *testing.T) {
				s := newSite(t, &gaesession.Sessions{})
				s.login(attrs{"n": 0})
				seen := make(chan struct{})
				resp, err := s.browser.Get(s.page(func(w http.ResponseWriter, r *http.Request) {
					s.get(r).SetAttr("n", 1)
					send(w, r)
					<-seen // the rest of the response is held
				}))
				if err != nil {
					t.Fatal(err)
				}
				expectAttrs(t, "when the header has arrived", s.attrs(), attrs{"n": 1})
				close(seen)
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				s.expect(attrs{"n": 1})
				s.expectErrors()
			})
		})
	}
}

// Without TLS net/http has the kernel send files.
func TestAFileIsSentWithoutTLSWhenTheChangeIsSaved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file.txt")
	want := strings.Repeat("x", 100<<10)
	if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, &gaesession.Sessions{Cookie: gaesession.Cookie{AllowHTTP: true}}, func(s *site) { s.plain = true })
	s.login(attrs{"n": 0})
	for name, send := range map[string]func(w http.ResponseWriter, r *http.Request){
		"ServeFile": func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) },
		"io.Copy": func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(file)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := io.Copy(w, f); err != nil {
				t.Error(err)
			}
		},
	} {
		got := s.visit(func(w http.ResponseWriter, r *http.Request) {
			s.get(r).SetAttr("n", name)
			send(w, r)
			s.get(r).SetAttr("later", name)
		})
		if got.body != want || got.err != nil {
			t.Errorf("%s: got %d bytes, error %v", name, len(got.body), got.err)
		}
		s.expect(attrs{"n": name, "later": name})
	}
	s.expectErrors()
}

func TestEarlyHintsDoNotSave(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	hints := 0
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hints++
			if header.Get("Set-Cookie") != "" {
				t.Error("Early Hints set a cookie")
			}
			return nil
		},
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.page(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		w.WriteHeader(http.StatusEarlyHints)
		sess.SetAttr("n", 1)
		s.must(s.sessions.RegenerateID(r))
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if hints != 1 {
		t.Errorf("%d Early Hints, want 1", hints)
	}
	s.expect(attrs{"n": 1})
	s.expectErrors()
}

func TestRequestThatDoesNotTouchItsSessionMakesNoCallAndHasNoTraceOfIt(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	if n := s.calls(); n != 0 || got.body != "hello" {
		t.Errorf("%d calls, body %q; want none", n, got.body)
	}
	for _, name := range []string{"Vary", "Set-Cookie", "Cache-Control"} {
		if v := got.Header.Values(name); v != nil {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestRequestThatReadsMakesOneCallAndVariesByCookie(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		if s.get(r) != s.get(r) {
			t.Error("two calls of Get return two values")
		}
		io.WriteString(w, "hello")
	})
	if n := s.calls(); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
	if v := got.Header.Values("Vary"); !slices.Equal(v, []string{"Cookie"}) {
		t.Errorf("Vary: %q", v)
	}
	if v := got.Header.Get("Set-Cookie"); v != "" {
		t.Errorf("Set-Cookie: %s", v)
	}
}

func TestVisitorWithoutACookieHasNoSessionAndMakesNoCall(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	for _, cookie := range []string{"", "h:abc", "owner:abc", "\xff", strings.Repeat("x", 300)} {
		s.setCookie(cookie)
		if a := s.attrs(); a != nil {
			t.Errorf("cookie %q has the session %v", cookie, a)
		}
		if n := s.calls(); n > 0 {
			t.Errorf("cookie %q: %d calls", cookie, n)
		}
	}
	s.expectErrors()
}

func TestCookieIsOneAndHasSafeDefaults(t *testing.T) {
	on(t, func(t *testing.T) {
		s := newSite(t, &gaesession.Sessions{})
		var ids []string
		got := s.visit(func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "other", Value: "stays"})
			for range 2 {
				sess := session.NewSession()
				s.must(s.sessions.Add(r, sess))
				s.must(s.sessions.Add(r, sess))
				ids = append(ids, s.get(r).ID())
				s.must(s.sessions.Remove(r, s.get(r)))
			}
			s.must(s.sessions.Add(r, session.NewSession()))
			s.must(s.sessions.Save(r))
			s.must(s.sessions.RegenerateID(r))
			s.must(s.sessions.Save(r))
			ids = append(ids, s.get(r).ID())
		})
		want := []string{"other=stays",
			"sessid=" + ids[2] + "; Path=/; Max-Age=2592000; HttpOnly; Secure; SameSite=Lax"}
		if v := got.Header.Values("Set-Cookie"); !slices.Equal(v, want) {
			t.Errorf("Set-Cookie: %q, want %q", v, want)
		}
		if v := got.Header.Get("Cache-Control"); v != "no-store" {
			t.Errorf("Cache-Control: %q", v)
		}
		s.expect(attrs{})
		s.expectErrors()
	})
}

func TestCookieIsAsTheAppWants(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{PlainIDs: true, Cookie: gaesession.Cookie{
		Name: "sid", Path: "/p", Domain: "example.com", BrowserSession: true,
		SameSite: http.SameSiteStrictMode, AllowHTTP: true,
	}})
	var id string
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private")
		sess := session.NewSession()
		id = sess.ID()
		s.must(s.sessions.Add(r, sess))
	})
	want := "sid=" + id + "; Path=/p; Domain=example.com; HttpOnly; SameSite=Strict"
	if v := got.Header.Get("Set-Cookie"); v != want {
		t.Errorf("Set-Cookie: %q, want %q", v, want)
	}
	if v := got.Header.Values("Cache-Control"); !slices.Equal(v, []string{"private"}) {
		t.Errorf("Cache-Control: %q", v)
	}
	s.sessions = &gaesession.Sessions{Cookie: gaesession.Cookie{
		Name: "__Secure-id", MaxAge: time.Hour, SameSite: http.SameSiteNoneMode, Partitioned: true,
	}}
	got = s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := session.NewSession()
		s.must(s.sessions.Add(r, sess))
		id = sess.ID()
	})
	want = "__Secure-id=" + id + "; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=None; Partitioned"
	if v := got.Header.Get("Set-Cookie"); v != want {
		t.Errorf("Set-Cookie: %q, want %q", v, want)
	}
}

// incomparable is a cache that must not be compared.
type incomparable struct {
	*memory
	_ []int
}

func TestSettingThatCannotWorkIsAnErrorAndAnswers500(t *testing.T) {
	for name, c := range map[string]struct {
		sessions *gaesession.Sessions
		ok       bool
	}{
		"zero":                       {&gaesession.Sessions{}, true},
		"__Host-":                    {&gaesession.Sessions{Cookie: gaesession.Cookie{Name: "__Host-id"}}, true},
		"__Host- with a domain":      {&gaesession.Sessions{Cookie: gaesession.Cookie{Name: "__Host-id", Domain: "example.com"}}, false},
		"__host- with a path":        {&gaesession.Sessions{Cookie: gaesession.Cookie{Name: "__host-id", Path: "/p"}}, false},
		"__Host- over HTTP":          {&gaesession.Sessions{Cookie: gaesession.Cookie{Name: "__Host-id", AllowHTTP: true}}, false},
		"__Secure- over HTTP":        {&gaesession.Sessions{Cookie: gaesession.Cookie{Name: "__Secure-id", AllowHTTP: true}}, false},
		"SameSite=None over HTTP":    {&gaesession.Sessions{Cookie: gaesession.Cookie{SameSite: http.SameSiteNoneMode, AllowHTTP: true}}, false},
		"Partitioned over HTTP":      {&gaesession.Sessions{Cookie: gaesession.Cookie{Partitioned: true, AllowHTTP: true}}, false},
		"no mode of SameSite":        {&gaesession.Sessions{Cookie: gaesession.Cookie{SameSite: 7}}, false},
		"name":                       {&gaesession.Sessions{Cookie: gaesession.Cookie{Name: "my id"}}, false},
		"path":                       {&gaesession.Sessions{Cookie: gaesession.Cookie{Path: "/;"}}, false},
		"domain":                     {&gaesession.Sessions{Cookie: gaesession.Cookie{Domain: "a b"}}, false},
		"negative MaxAge":            {&gaesession.Sessions{Cookie: gaesession.Cookie{MaxAge: -1}}, false},
		"cache that no == takes":     {&gaesession.Sessions{Options: options{Cache: incomparable{}}}, false},
		"KeyPrefix that is too long": {&gaesession.Sessions{Options: options{KeyPrefix: strings.Repeat("x", 240)}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.sessions.Err(); (err == nil) != c.ok {
				t.Fatalf("Err: %v", err)
			}
			if c.ok {
				return
			}
			s := newSite(t, c.sessions)
			got := s.visit(func(http.ResponseWriter, *http.Request) { t.Error("the app was called") })
			if got.StatusCode != http.StatusInternalServerError {
				t.Errorf("status %v", got.Status)
			}
			s.expectErrors(nil)
		})
	}
}

func TestChangeThatIsSavedNowhereIsAnsweredByAnError(t *testing.T) {
	on(t, func(t *testing.T) {
		var gone bool
		for name, c := range map[string]struct {
			page   func(s *site) http.HandlerFunc
			fails  both
			status int
			want   error
		}{
			"services down": {func(s *site) http.HandlerFunc { return s.set("n", 1) }, writes, 503, gaesession.ErrNotSaved},
			"too large":     {func(s *site) http.HandlerFunc { return s.set("n", strings.Repeat("x", 2<<20)) }, nil, 500, gaesession.ErrTooLarge},
			"codec": {func(s *site) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) { s.get(r).SetAttr("n", func() {}) }
			}, nil, 500, nil},
			"removed": {func(s *site) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					s.get(r).SetAttr("n", 1)
					s.must(gaesession.RemoveID(r.Context(), s.get(r).ID(), &s.sessions.Options))
					gone = true
				}
			}, nil, 409, gaesession.ErrRemoved},
			"new id": {func(s *site) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) { s.must(s.sessions.RegenerateID(r)) }
			}, gaetest.Datastore, 503, gaesession.ErrNotSaved},
			"mutex held": {func(s *site) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					sess := s.get(r)
					sess.SetAttr("n", 1)
					sess.Mutex().Lock()
					defer sess.Mutex().Unlock()
					w.WriteHeader(200)
				}
			}, nil, 503, nil},
		} {
			t.Run(name, func(t *testing.T) {
				gone = false
				s := newSite(t, &gaesession.Sessions{})
				s.login(attrs{"n": 0})
				before := s.cookie()
				var hooks []gaetest.Hook
				if c.fails != nil {
					hooks = append(hooks, gaetest.Fail(c.fails))
				}
				got := s.visit(func(w http.ResponseWriter, r *http.Request) {
					http.SetCookie(w, &http.Cookie{Name: "other", Value: "x"})
					c.page(s)(w, r)
					if _, err := io.WriteString(w, "saved!"); err == nil {
						t.Error("the app's body was written")
					}
				}, hooks...)
				if got.StatusCode != c.status || strings.Contains(got.body, "saved!") {
					t.Errorf("got %v, %q; want %v", got.Status, got.body, c.status)
				}
				if v := got.Header.Get("Set-Cookie"); v != "" {
					t.Errorf("Set-Cookie: %q", v)
				}
				if s.cookie() != before {
					t.Error("the cookie was replaced")
				}
				s.expectErrors(c.want)
				if gone {
					s.expect(nil)
				} else {
					s.expect(attrs{"n": 0})
				}
				s.expectErrors()
			})
		}
	})
}

func TestErrorHandlerAnswersInsteadOfTheApp(t *testing.T) {
	var got error
	s := newSite(t, &gaesession.Sessions{ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
		got = err
		http.Error(w, "sorry", http.StatusBadGateway)
	}})
	answer := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.must(s.sessions.Add(r, session.NewSession()))
	}, gaetest.Fail(anyCall))
	if answer.StatusCode != http.StatusBadGateway || !strings.Contains(answer.body, "sorry") || !errors.Is(got, gaesession.ErrNotSaved) {
		t.Errorf("%v, %q, %v", answer.Status, answer.body, got)
	}
	if s.cookie() != "" {
		t.Error("a cookie was set for a session that was not saved")
	}
	s.expectErrors()
}

func TestAnswerGoesOutThoughOneServiceFails(t *testing.T) {
	for name, c := range map[string]struct {
		fails both
		want  error
	}{
		"not backed up": {func(c gaetest.Call) bool { return gaetest.Datastore(c) }, gaesession.ErrNotBackedUp},
		"not published": {func(c gaetest.Call) bool { return gaetest.Memcache(c) && writes(c) }, gaesession.ErrNotPublished},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, &gaesession.Sessions{})
			s.login(attrs{"n": 0})
			got := s.visit(s.set("n", 1), gaetest.Fail(c.fails))
			if got.StatusCode != http.StatusOK {
				t.Errorf("status %v", got.Status)
			}
			if v := got.Header.Get("Set-Cookie"); v != "" {
				t.Errorf("Set-Cookie: %q", v)
			}
			s.expectErrors(c.want)
			drain(t)
			expectAttrs(t, "afterwards", s.attrs(), attrs{"n": 1})
		})
	}
}

func TestRefreshThatFailsDoesNotKeepTheAnswerBack(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{Options: options{RefreshInterval: -1}})
	s.login(attrs{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) { s.get(r) }, gaetest.Fail(writes))
	if got.StatusCode != http.StatusOK || got.Header.Get("Set-Cookie") != "" {
		t.Errorf("%v, Set-Cookie %q", got.Status, got.Header.Get("Set-Cookie"))
	}
	s.expectErrors(gaesession.ErrNotSaved)
}

func TestWhenNobodyCanTellTheCookieStays(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	before := s.cookie()
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		for range 2 {
			if sess, err := s.sessions.Get(r); sess != nil || !errors.Is(err, gaesession.ErrUnavailable) {
				t.Errorf("Get: %v, %v", sess, err)
			}
		}
		if err := s.sessions.Add(r, session.NewSession()); !errors.Is(err, gaesession.ErrUnavailable) {
			t.Errorf("Add: %v", err)
		}
		if err := s.sessions.RegenerateID(r); !errors.Is(err, gaesession.ErrUnavailable) {
			t.Errorf("RegenerateID: %v", err)
		}
		if err := s.sessions.Remove(r, session.NewSession()); err == nil {
			t.Error("Remove of another session: no error")
		}
		s.must(s.sessions.Save(r))
		w.WriteHeader(http.StatusServiceUnavailable)
	}, gaetest.Fail(anyCall))
	if v := got.Header.Get("Set-Cookie"); v != "" || s.cookie() != before {
		t.Errorf("Set-Cookie: %q", v)
	}
	s.expectErrors()
	s.expect(attrs{"n": 0})
}

func TestSessionThatThisInstanceCannotReadStays(t *testing.T) {
	o := options{Codec: &memcache.Codec{Marshal: memcache.Gob.Marshal, Unmarshal: func([]byte, any) error { return errors.New("cannot read") }}}
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	s.sessions.Options.Codec = o.Codec
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		if sess, err := s.sessions.Get(r); sess != nil || !errors.Is(err, gaesession.ErrUndecodable) {
			t.Errorf("Get: %v, %v", sess, err)
		}
		if err := s.sessions.Add(r, session.NewSession()); !errors.Is(err, gaesession.ErrUndecodable) {
			t.Errorf("Add: %v", err)
		}
	})
	if v := got.Header.Get("Set-Cookie"); v != "" {
		t.Errorf("Set-Cookie: %q", v)
	}
	s.sessions.Options.Codec = nil
	s.expect(attrs{"n": 0})
	s.expectErrors()
}

func TestPanicSavesNothing(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	id := s.cookie()
	for _, p := range []any{"oops", http.ErrAbortHandler} {
		got := s.visit(func(w http.ResponseWriter, r *http.Request) {
			s.get(r).SetAttr("n", 1)
			s.must(s.sessions.RegenerateID(r))
			panic(p)
		})
		if got.err == nil {
			t.Errorf("got %v", got.Status)
		}
	}
	if s.cookie() != id {
		t.Error("the cookie was replaced")
	}
	s.expect(attrs{"n": 0})
	s.expectErrors()
}

func TestWhatIsChangedAfterTheHeaderIsSavedWhenTheHandlerReturns(t *testing.T) {
	on(t, func(t *testing.T) {
		s := newSite(t, &gaesession.Sessions{})
		s.login(attrs{"n": 0})
		id := s.cookie()
		s.visit(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			if err := s.sessions.RegenerateID(r); !errors.Is(err, gaesession.ErrHeaderSent) {
				t.Errorf("RegenerateID: %v", err)
			}
			if err := s.sessions.Add(r, session.NewSession()); !errors.Is(err, gaesession.ErrHeaderSent) {
				t.Errorf("Add: %v", err)
			}
			s.get(r).SetAttr("n", 1)
		})
		if s.cookie() != id {
			t.Error("the cookie was replaced")
		}
		s.expect(attrs{"n": 1})
		s.expectErrors()
		s.visit(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			s.set("n", 2)(w, r)
		}, gaetest.Fail(writes))
		s.expectErrors(gaesession.ErrNotSaved)
	})
}

func TestNewIDThatWasNotSavedWithTheHeaderIsNotSavedLater(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	id := s.cookie()
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.must(s.sessions.RegenerateID(r))
		if err := s.sessions.Save(r); !errors.Is(err, gaesession.ErrNotSaved) {
			t.Errorf("Save: %v", err)
		}
		w.WriteHeader(http.StatusOK)
		s.get(r).SetAttr("n", 1)
	}, gaetest.Fail(func(c gaetest.Call) bool { return c.Method == "BeginTransaction" }))
	if got.StatusCode != http.StatusOK || s.cookie() != id {
		t.Errorf("%v, new cookie: %v", got.Status, s.cookie() != id)
	}
	s.expectErrors(gaesession.ErrHeaderSent)
	s.expect(attrs{"n": 0})
}

func TestRenewIsALogin(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	login := func(user string, o *session.SessOptions) session.Session {
		var sess session.Session
		s.visit(func(w http.ResponseWriter, r *http.Request) {
			var err error
			sess, err = s.sessions.Renew(r, o)
			s.must(err)
			if again := s.get(r); again != sess {
				t.Errorf("Get returns %v after Renew, want the session that Renew returned", again)
			}
			sess.SetAttr("user", user)
		})
		return sess
	}
	first := login("ada", &session.SessOptions{Timeout: time.Hour, Attrs: attrs{"theme": "dark"}})
	old := s.cookie()
	if old == "" || old != first.ID() || first.Timeout() != time.Hour {
		t.Errorf("the cookie of a new session is %q, its timeout %v", old, first.Timeout())
	}
	if sess := login("bea", &session.SessOptions{Timeout: time.Minute, Attrs: attrs{"theme": "light"}}); sess.Timeout() != time.Hour {
		t.Errorf("a session that was there has another timeout: %v", sess.Timeout())
	}
	if s.cookie() == old {
		t.Error("the client has the old id")
	}
	s.expect(attrs{"user": "bea", "theme": "dark"})
	s.setCookie(old)
	s.expect(nil)
	if sess := login("cyd", nil); sess.Timeout() != session.NewSession().Timeout() || s.cookie() == old {
		t.Errorf("a login with a cookie that opens nothing: timeout %v", sess.Timeout())
	}
	s.expect(attrs{"user": "cyd"})

	s.visit(func(w http.ResponseWriter, r *http.Request) {
		if sess, err := s.sessions.Renew(r, nil); sess != nil || !errors.Is(err, gaesession.ErrUnavailable) {
			t.Errorf("nobody can tell: got %v, %v", sess, err)
		}
	}, gaetest.Fail(anyCall))
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		if sess, err := s.sessions.Renew(r, nil); sess != nil || !errors.Is(err, gaesession.ErrHeaderSent) {
			t.Errorf("after the header: got %v, %v", sess, err)
		}
	})
	s.errs.reset() // the outage
	s.expect(attrs{"user": "cyd"})
}

func TestLoginWithABasketLosesNothing(t *testing.T) {
	for name, codec := range map[string]*memcache.Codec{"gob": nil, "another codec": {
		Marshal: json.Marshal, Unmarshal: json.Unmarshal,
	}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, &gaesession.Sessions{Options: options{Codec: codec}})
			created := session.NewSessionOptions(&session.SessOptions{
				CAttrs: attrs{"campaign": "spring"}, Attrs: attrs{"page": "home"}, Timeout: 3 * time.Hour,
			})
			s.visit(func(w http.ResponseWriter, r *http.Request) { s.must(s.sessions.Add(r, created)) })
			old := s.cookie()
			got := s.visit(func(w http.ResponseWriter, r *http.Request) {
				sess := s.get(r)
				// Another request saves a basket meanwhile.
				s.visit(s.set("basket", "apple"))
				sess.SetAttr("user", "ada")
				s.must(s.sessions.RegenerateID(r))
				if sess.ID() != old {
					t.Error("the session has its new id before it is saved")
				}
				w.WriteHeader(http.StatusOK)
				if sess.ID() == old || s.get(r).ID() != sess.ID() {
					t.Error("the session has its old id after it was saved")
				}
				sess.SetAttr("seen", "shop") // saved under the new id
			})
			if v := got.Header.Values("Set-Cookie"); len(v) != 1 {
				t.Errorf("Set-Cookie: %q", v)
			}
			if s.cookie() == old {
				t.Fatal("the client has the old id")
			}
			s.expect(attrs{"page": "home", "basket": "apple", "user": "ada", "seen": "shop"})
			s.visit(func(w http.ResponseWriter, r *http.Request) {
				sess := s.get(r)
				if sess.CAttr("campaign") != "spring" || sess.Timeout() != created.Timeout() || !sess.Created().Equal(created.Created()) {
					t.Errorf("got %v, %v, %v", sess.CAttr("campaign"), sess.Timeout(), sess.Created())
				}
			})
			s.setCookie(old)
			s.expect(nil)
			s.expectErrors()
		})
	}
}

func TestRequestThatOverlapsALoginGetsErrRemoved(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		s.visit(func(w http.ResponseWriter, r *http.Request) { s.must(s.sessions.RegenerateID(r)) })
		sess.SetAttr("basket", "apple")
	})
	if got.StatusCode != http.StatusConflict || got.Header.Get("Set-Cookie") != "" {
		t.Errorf("%v, Set-Cookie %q", got.Status, got.Header.Get("Set-Cookie"))
	}
	s.expectErrors(gaesession.ErrRemoved)
	s.expect(attrs{"n": 0})
}

func TestLogoutIsFinalAndEndsTheCookie(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	id := s.cookie()
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		s.must(s.sessions.Remove(r, sess))
		sess.SetAttr("n", 1)
		if now, err := s.sessions.Get(r); now != nil || err != nil {
			t.Errorf("Get after Remove: %v, %v", now, err)
		}
		s.must(s.sessions.Save(r))
	})
	want := "sessid=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"
	if v := got.Header.Values("Set-Cookie"); !slices.Equal(v, []string{want}) {
		t.Errorf("Set-Cookie: %q, want %q", v, want)
	}
	s.setCookie(id)
	s.expect(nil)
	s.expectErrors()
}

func TestLogoutThatNoServiceWasToldKeepsTheCookie(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		if err := s.sessions.Remove(r, s.get(r)); !errors.Is(err, gaesession.ErrNotSaved) {
			t.Errorf("Remove: %v", err)
		}
	}, gaetest.Fail(writes))
	if v := got.Header.Get("Set-Cookie"); v != "" || s.cookie() == "" {
		t.Errorf("Set-Cookie: %q", v)
	}
	s.expectErrors()
}

func TestAnotherSessionTakesTheCookieOver(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	old := s.cookie()
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("n", 1)
		s.must(s.sessions.Add(r, session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"m": 2}})))
	})
	s.expect(attrs{"m": 2})
	s.setCookie(old)
	s.expect(attrs{"n": 1})
	s.expectErrors()
}

func TestAddTakesNewSessionsOnly(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		used := session.NewSession()
		used.Access()
		for _, sess := range []session.Session{nil, used, struct{ session.Session }{session.NewSession()}} {
			if err := s.sessions.Add(r, sess); err == nil {
				t.Errorf("Add took %T", sess)
			}
		}
	})
	s.expect(attrs{"n": 0})
}

func TestSaveReturnsTheErrorOnceAndAnotherOneTriesAgain(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	down := true
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("n", 1)
		if err := s.sessions.Save(r); !errors.Is(err, gaesession.ErrNotSaved) {
			t.Errorf("Save: %v", err)
		}
		io.WriteString(w, "it was not saved")
	}, gaetest.Fail(writes))
	if got.StatusCode != http.StatusOK || got.body != "it was not saved" {
		t.Errorf("%v, %q", got.Status, got.body)
	}
	s.expectErrors()
	s.expect(attrs{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("n", 1)
		if err := s.sessions.Save(r); !errors.Is(err, gaesession.ErrNotSaved) {
			t.Errorf("Save: %v", err)
		}
		down = false
		s.must(s.sessions.Save(r))
	}, gaetest.Fail(func(c gaetest.Call) bool { return down && writes(c) }))
	s.expect(attrs{"n": 1})
	s.expectErrors()
}

func TestWhatSaveReturnedDoesNotKeepTheAnswerBack(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *site, r *http.Request)
		want   error // nil: any
	}{
		"codec": {func(s *site, r *http.Request) { s.get(r).SetAttr("f", struct{ NotRegistered int }{1}) }, nil},
		"removed": {func(s *site, r *http.Request) {
			sess := s.get(r)
			s.must(gaesession.RemoveID(r.Context(), sess.ID(), &s.sessions.Options))
			sess.SetAttr("n", 1)
			if err := s.sessions.Save(r); !errors.Is(err, gaesession.ErrRemoved) {
				t.Errorf("first Save: %v", err)
			}
			sess.SetAttr("n", 2)
		}, gaesession.ErrRemoved},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, &gaesession.Sessions{})
			s.login(attrs{"n": 0})
			got := s.visit(func(w http.ResponseWriter, r *http.Request) {
				c.change(s, r)
				if err := s.sessions.Save(r); err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("Save: %v", err)
				}
				io.WriteString(w, "it was not saved")
			})
			if got.StatusCode != http.StatusOK || got.body != "it was not saved" {
				t.Errorf("%v, %q", got.Status, got.body)
			}
			s.expectErrors()
		})
	}
}

func TestSaveAfterTheHeaderAsksWhetherTheSessionIsStillThere(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		w.(http.Flusher).Flush()
		s.must(s.sessions.Save(r))
		s.must(gaesession.RemoveID(r.Context(), sess.ID(), &s.sessions.Options))
		for range 2 {
			if err := s.sessions.Save(r); !errors.Is(err, gaesession.ErrRemoved) {
				t.Errorf("Save: %v", err)
			}
		}
	})
	s.expectErrors()
}

func TestEventsAreSavedAsTheyAreSent(t *testing.T) {
	on(t, func(t *testing.T) {
		s := newSite(t, &gaesession.Sessions{})
		s.login(attrs{"n": 0})
		goOn := make(chan struct{})
		resp, err := s.browser.Get(s.page(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			sess := s.get(r)
			for i := range 3 {
				sess.SetAttr("n", i+1)
				s.must(s.sessions.Save(r))
				fmt.Fprintf(w, "data: %d\n\n", i+1)
				s.must(http.NewResponseController(w).Flush())
				<-goOn
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		events := bufio.NewScanner(resp.Body)
		for i := range 3 {
			events.Scan()
			if events.Text() != fmt.Sprintf("data: %d", i+1) {
				t.Errorf("event %d: %q", i+1, events.Text())
			}
			events.Scan()
			expectAttrs(t, "after the event", s.attrs(), attrs{"n": i + 1})
			goOn <- struct{}{}
		}
		s.expectErrors()
	})
}

func TestHijackSavesFirst(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("n", 1)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		expectAttrs(t, "while the connection is hijacked", s.attrs(), attrs{"n": 1})
		s.get(r).SetAttr("n", 2)
		s.must(s.sessions.Save(r))
		expectAttrs(t, "after Save", s.attrs(), attrs{"n": 2})
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	})
	if got.body != "hi" {
		t.Errorf("body %q, %v", got.body, got.err)
	}
	s.expectErrors()
}

func TestHijackIsRefusedWhileTheClientLacksTheCookie(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.must(s.sessions.Add(r, session.NewSession()))
		if _, _, err := w.(http.Hijacker).Hijack(); !errors.Is(err, gaesession.ErrHeaderSent) {
			t.Errorf("Hijack: %v", err)
		}
	})
	if got.StatusCode != http.StatusInternalServerError || s.cookie() != "" {
		t.Errorf("%v, cookie %q", got.Status, s.cookie())
	}
	s.expectErrors(gaesession.ErrHeaderSent)
}

func TestALoginIsRefusedWithAHijack(t *testing.T) {
	s := newSiteWithUsers(t)
	s.login(attrs{"n": 0})
	old := s.cookie()
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("user", "ada")
		conn, _, err := w.(http.Hijacker).Hijack()
		if !errors.Is(err, gaesession.ErrHeaderSent) {
			t.Errorf("Hijack: %v", err)
		}
		if err == nil {
			conn.Close()
		}
	})
	if got.StatusCode != http.StatusInternalServerError || s.cookie() != old {
		t.Errorf("%v, old cookie: %v", got.Status, s.cookie() == old)
	}
	s.expectErrors(gaesession.ErrHeaderSent)
	s.expect(attrs{"n": 0})
}

func TestNewIDThatWasSavedReachesTheClientThoughALaterChangeFails(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	old := s.cookie()
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.must(s.sessions.RegenerateID(r))
		s.must(s.sessions.Save(r))
		s.get(r).SetAttr("n", func() {})
	})
	if got.StatusCode != http.StatusInternalServerError || s.cookie() == old {
		t.Errorf("%v, old cookie: %v", got.Status, s.cookie() == old)
	}
	s.expectErrors(nil)
	s.expect(attrs{"n": 0})
}

func TestMethodsWithoutHandlerSaySo(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	other := &gaesession.Sessions{}
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		_, err := other.Get(r)
		for _, err := range []error{err, other.Add(r, session.NewSession()), other.Remove(r, session.NewSession()),
			other.RegenerateID(r), other.Save(r)} {
			if !errors.Is(err, gaesession.ErrNoHandler) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestNestedHandlersOfTheSameSessionsAreOne(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	s.around = func(h http.Handler) http.Handler {
		return s.sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.get(r).SetAttr("outside", 1)
			h.ServeHTTP(w, r)
		}))
	}
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess := s.get(r)
		if sess.Attr("outside") != 1 {
			t.Error("inside there is another value of the session")
		}
		sess.SetAttr("inside", 1)
	})
	if v := got.Header.Values("Vary"); len(v) != 1 {
		t.Errorf("Vary: %q", v)
	}
	s.around = nil
	s.expect(attrs{"n": 0, "outside": 1, "inside": 1})
	s.expectErrors()
}

func TestThreeCookiesOfTheNameAreTried(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	for before, want := range []bool{true, true, true, false} {
		cookies := strings.Repeat("sessid=h.other%d; ", before)
		if before > 0 {
			numbers := []any{1, 2, 3}[:before]
			cookies = fmt.Sprintf(cookies, numbers...)
		}
		r, err := http.NewRequest(http.MethodGet, s.page(func(w http.ResponseWriter, r *http.Request) {
			sess, err := s.sessions.Get(r)
			if err != nil || (sess != nil) != want {
				t.Errorf("behind %d others: %v, %v", before, sess, err)
			}
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Cookie", cookies+"sessid="+s.cookie())
		resp, err := s.newBrowser().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	s.expectErrors()
}

func TestCookieIsSetAgainOncePerRefreshInterval(t *testing.T) {
	for name, c := range map[string]struct {
		interval time.Duration
		cookie   gaesession.Cookie
		again    bool
	}{
		"every time":      {-1, gaesession.Cookie{}, true},
		"in a century":    {100 * 365 * 24 * time.Hour, gaesession.Cookie{}, false},
		"browser session": {-1, gaesession.Cookie{BrowserSession: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, &gaesession.Sessions{Options: options{RefreshInterval: c.interval}, Cookie: c.cookie})
			s.login(attrs{"n": 0})
			for i := range 3 {
				got := s.visit(s.set("n", i))
				if again := got.Header.Get("Set-Cookie") != ""; again != c.again {
					t.Errorf("cookie set again: %v, want %v", again, c.again)
				}
			}
		})
	}
}

func TestCookieLivesNoLongerThanTheSession(t *testing.T) {
	for lifetime, want := range map[time.Duration]time.Duration{
		time.Hour: time.Hour, 60 * 24 * time.Hour: 30 * 24 * time.Hour,
	} {
		s := newSite(t, &gaesession.Sessions{Options: options{MaxLifetime: lifetime, RefreshInterval: -1}})
		begin := time.Now()
		got := s.visit(func(w http.ResponseWriter, r *http.Request) { s.must(s.sessions.Add(r, session.NewSession())) })
		for _, c := range got.Cookies() {
			late := time.Since(begin) + time.Second // which the cookie rounds down
			if lives := time.Duration(c.MaxAge) * time.Second; lives > want || lives < want-late {
				t.Errorf("the cookie lives for %v, want %v, less %v at most", lives, want, late)
			}
		}
		if n := len(got.Cookies()); n != 1 {
			t.Errorf("%d cookies are set, want one", n)
		}
	}
}

func TestSessionEndsAfterItsMaxLifetimeHoweverOftenItIsUsed(t *testing.T) {
	const lifetime = 4 * time.Second
	s := newSite(t, &gaesession.Sessions{Options: options{MaxLifetime: lifetime, RefreshInterval: -1}})
	before := time.Now()
	s.login(attrs{"n": 0})
	begin, id := time.Now(), s.cookie()
	lives := func() bool { return time.Since(before) < lifetime } // certainly
	for time.Since(begin) < lifetime/2 {
		s.visit(func(w http.ResponseWriter, r *http.Request) {
			sess, err := s.sessions.Get(r)
			s.must(err)
			if sess != nil {
				sess.SetAttr("n", 1)
			} else if lives() {
				t.Error("it has ended early")
			}
		})
	}
	s.visit(func(w http.ResponseWriter, r *http.Request) { // does not begin again
		if err := s.sessions.RegenerateID(r); lives() {
			s.must(err)
		}
	})
	if s.cookie() == id && lives() {
		t.Error("the session has its old id")
	}
	id = s.cookie()
	for time.Since(begin) < lifetime {
		s.setCookie(id)
		s.visit(func(w http.ResponseWriter, r *http.Request) {
			_, err := s.sessions.Get(r)
			s.must(err)
		})
	}
	s.setCookie(id)
	if a := s.attrs(); a != nil {
		t.Errorf("got %v after its lifetime", a)
	}
	s.errs.reset() // a refresh may have met the end
}

func TestSessionsUnderPlainIDsGoOnUntilTheyGetANewOne(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{PlainIDs: true})
	s.login(attrs{"n": 0})
	plain := s.cookie()
	if strings.HasPrefix(plain, "h.") {
		t.Error("a plain id begins with h.")
	}
	s.sessions = &gaesession.Sessions{Options: s.sessions.Options}
	s.visit(s.set("n", 1))
	if s.cookie() != plain {
		t.Error("the id was replaced")
	}
	s.expect(attrs{"n": 1})
	s.visit(func(w http.ResponseWriter, r *http.Request) { s.must(s.sessions.RegenerateID(r)) })
	if !strings.HasPrefix(s.cookie(), "h.") {
		t.Error("the new id is plain")
	}
	s.expect(attrs{"n": 1})
	// And back again.
	s.sessions = &gaesession.Sessions{Options: s.sessions.Options, PlainIDs: true}
	s.expect(attrs{"n": 1})
	s.visit(func(w http.ResponseWriter, r *http.Request) { s.must(s.sessions.RegenerateID(r)) })
	if strings.HasPrefix(s.cookie(), "h.") {
		t.Error("the new id is hashed")
	}
	s.expect(attrs{"n": 1})
	s.expectErrors()
}

func TestManagerIsForCodeWrittenAgainstItsInterface(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		m := s.sessions.Manager(r)
		defer m.Close()
		if m.Get(r) != nil {
			t.Error("there is a session")
		}
		sess := session.NewSession()
		m.Add(sess, w)
		sess.SetAttr("n", 1)
	})
	s.expect(attrs{"n": 1})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		m := s.sessions.Manager(r)
		m.Remove(m.Get(r), w)
		m.Remove(session.NewSession(), w)
	})
	s.expect(nil)
	s.expectErrors(nil)
}

func TestWorksInsideTimeoutHandler(t *testing.T) {
	timedOut := make(chan struct{})
	s := newSite(t, &gaesession.Sessions{}, func(s *site) {
		s.around = func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "too slow") }
	})
	s.login(attrs{"n": 0})
	s.visit(s.set("n", 1))
	s.expect(attrs{"n": 1})
	s.around = func(h http.Handler) http.Handler { return http.TimeoutHandler(h, 50*time.Millisecond, "too slow") }
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		defer close(timedOut)
		s.get(r)
		s.must(s.sessions.RegenerateID(r))
		<-r.Context().Done()
	})
	<-timedOut
	if got.StatusCode != http.StatusServiceUnavailable || got.body != "too slow" {
		t.Errorf("%v, %q", got.Status, got.body)
	}
	s.around = nil
	s.expect(attrs{"n": 1})
}

func TestWorksInsideAppEnginesMiddleware(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{}, func(s *site) { s.around = appengine.Middleware })
	s.login(attrs{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.get(r).SetAttr("n", 1)
		s.must(s.sessions.RegenerateID(r))
		io.WriteString(w, "hello")
	})
	s.expect(attrs{"n": 1})
	s.expectErrors()
}

func TestChangeOfAClientThatHasGoneIsSaved(t *testing.T) {
	on(t, func(t *testing.T) {
		s := newSite(t, &gaesession.Sessions{})
		s.login(attrs{"n": 0})
		ctx, cancel := context.WithCancel(context.Background())
		returned := make(chan struct{})
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.page(func(w http.ResponseWriter, r *http.Request) {
			defer close(returned)
			s.get(r).SetAttr("n", 1)
			cancel()
			<-r.Context().Done()
			io.WriteString(w, "hello")
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := s.browser.Do(r); err == nil {
			resp.Body.Close()
			t.Error("the client got an answer")
		}
		<-returned
		expectAttrs(t, "afterwards", s.attrs(), attrs{"n": 1})
		s.expectErrors(gaesession.ErrNotBackedUp)
		s.visit(s.set("m", 2)) // which brings Datastore up to date
		s.expect(attrs{"n": 1, "m": 2})
	})
}

func TestMethodsMayBeCalledByGoroutinesWhileTheAnswerIsSent(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		var all sync.WaitGroup
		sess := s.get(r)
		for i := range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				sess.SetAttr(fmt.Sprint("g", i), i)
				s.get(r)
				_ = sess.ID()
				s.must(s.sessions.Save(r))
				if err := s.sessions.RegenerateID(r); err != nil && !errors.Is(err, gaesession.ErrHeaderSent) {
					t.Error(err)
				}
			}()
		}
		io.WriteString(w, "hello")
		all.Wait()
	})
	if a := s.attrs(); len(a) != 9 {
		t.Errorf("got %v", a)
	}
}

func TestRequestsOfOneSiteDoNotGetInEachOthersWay(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	var all sync.WaitGroup
	want := attrs{"n": 0}
	for i := range 8 {
		name := fmt.Sprint("r", i)
		want[name] = i
		all.Add(1)
		go func() {
			defer all.Done()
			s.visit(s.set(name, i))
		}()
	}
	all.Wait()
	s.expect(want)
	s.expectErrors()
}
