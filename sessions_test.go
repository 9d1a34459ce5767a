package gaesession_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// A site is an app that uses Sessions on a real server, and a browser that visits
// it.
type site struct {
	t        testing.TB
	service  *gaetest.Service
	sessions *gaesession.Sessions
	server   *httptest.Server
	browser  *http.Client
	errs     errorLog
	around   func(http.Handler) http.Handler // Sessions.Handler; nil: nothing
	plain    bool                            // without TLS

	mu       sync.Mutex
	pages    map[string]page
	requests []*gaetest.Request
}

// A page is what the app does in one request, and what happens around its calls.
type page struct {
	handle http.HandlerFunc
	hooks  []gaetest.Hook
}

func newSite(t testing.TB, sessions *gaesession.Sessions, change ...func(*site)) *site {
	t.Helper()
	s := &site{t: t, service: gaetest.Local(t), sessions: sessions, pages: make(map[string]page)}
	sessions.Options.OnError = s.errs.add
	if sessions.Options.CacheTimeout == 0 {
		sessions.Options.CacheTimeout, sessions.Options.BackupTimeout = time.Minute, time.Minute
	}
	for _, c := range change {
		c(s)
	}
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // of panics
	s.server.EnableHTTP2 = strings.Contains(t.Name(), "HTTP/2")
	if s.plain {
		s.server.Start()
	} else {
		s.server.StartTLS()
	}
	t.Cleanup(s.server.Close)
	s.browser = s.newBrowser()
	return s
}

func (s *site) newBrowser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return &http.Client{Transport: s.server.Client().Transport, Jar: jar}
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	p := s.pages[r.URL.Path]
	ctx, cancel := context.WithCancel(s.service.Context())
	req := s.service.NewRequestContext(ctx, p.hooks...)
	s.requests = append(s.requests, req)
	s.mu.Unlock()
	defer cancel()
	defer context.AfterFunc(r.Context(), cancel)()
	values := mergedContext{req.Context(), r.Context()}
	h := s.sessions.Handler(p.handle)
	if s.around != nil {
		h = s.around(h)
	}
	h.ServeHTTP(w, r.WithContext(values))
}

// mergedContext has the values of both, and ends with the first.
type mergedContext struct {
	context.Context
	also context.Context
}

func (c mergedContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.also.Value(key)
}

// page makes a page, and returns its address.
func (s *site) page(handle http.HandlerFunc, hooks ...gaetest.Hook) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := fmt.Sprintf("/%d", len(s.pages))
	s.pages[path] = page{handle, hooks}
	return s.server.URL + path
}

// An answer is a response that was read to its end.
type answer struct {
	*http.Response
	body string
	err  error
}

// visit has the browser visit a page that does this.
func (s *site) visit(handle http.HandlerFunc, hooks ...gaetest.Hook) answer {
	return s.visitWith(s.browser, handle, hooks...)
}

func (s *site) visitWith(browser *http.Client, handle http.HandlerFunc, hooks ...gaetest.Hook) answer {
	s.t.Helper()
	resp, err := browser.Get(s.page(handle, hooks...))
	if err != nil {
		return answer{&http.Response{Header: http.Header{}}, "", err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, string(body), err}
}

// calls returns how many calls the last request has made so far.
func (s *site) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests[len(s.requests)-1].Calls())
}

// cookie is the browser's cookie; empty: it has none.
func (s *site) cookie() string {
	u, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range s.browser.Jar.Cookies(u) {
		if c.Name == "sessid" {
			return c.Value
		}
	}
	return ""
}

// setCookie has the browser keep that cookie.
func (s *site) setCookie(value string) {
	u, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.browser.Jar.SetCookies(u, []*http.Cookie{{Name: "sessid", Value: value, Path: "/"}})
}

// login begins a session with these attributes.
func (s *site) login(a attrs) {
	s.t.Helper()
	got := s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.must(s.sessions.Add(r, session.NewSessionOptions(&session.SessOptions{Attrs: a})))
	})
	if got.StatusCode != http.StatusOK || s.cookie() == "" {
		s.t.Fatalf("login: %v, cookie %q, %v", got.Status, s.cookie(), s.errs.all())
	}
}

// get returns the request's session, which has to be there.
func (s *site) get(r *http.Request) session.Session {
	sess, err := s.sessions.Get(r)
	s.must(err)
	if sess == nil {
		s.t.Error("the request has no session")
		sess = session.NewSession()
	}
	return sess
}

// set returns a page that sets an attribute.
func (s *site) set(name string, v any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { s.get(r).SetAttr(name, v) }
}

// attrs are those of the session that the browser sees; nil: none.
func (s *site) attrs() (a attrs) {
	s.t.Helper()
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		sess, err := s.sessions.Get(r)
		s.must(err)
		if sess != nil {
			a = sess.Attrs()
		}
	})
	return a
}

func (s *site) must(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Error(err)
	}
}

// expect expects that the browser sees these attributes, also after a flush.
func (s *site) expect(want attrs) {
	s.t.Helper()
	drain(s.t)
	expectAttrs(s.t, "from Memcache", s.attrs(), want)
	s.service.Flush()
	expectAttrs(s.t, "after flush", s.attrs(), want)
}

// expectErrors expects that those errors were reported, in that order, and no
// others.
func (s *site) expectErrors(want ...error) {
	s.t.Helper()
	got := s.errs.list()
	s.errs.reset()
	if len(got) != len(want) {
		s.t.Errorf("reported: %v, want %d", got, len(want))
		return
	}
	for i, err := range got {
		if want[i] != nil && !errors.Is(err, want[i]) {
			s.t.Errorf("reported: %v, want %v", err, want[i])
		}
	}
}
