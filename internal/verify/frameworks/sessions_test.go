package frameworks

import (
	"bytes"
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
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5/middleware"
	gorilla "github.com/gorilla/websocket"
	"github.com/icza/session"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// A site is a server with sessions in memory, and a browser.
type site struct {
	t       *testing.T
	server  *httptest.Server
	browser *http.Client
}

// newSite serves app, which uses sessions, besides a login and a page that panics
// after it has changed the session.
func newSite(t *testing.T, app http.Handler) *site {
	sessions = gaesession.Sessions{Options: gaesession.MemcacheStoreOptions{
		Cache: tiertest.NewCache(), Backup: tiertest.NewBackup(),
		OnError: func(_ context.Context, err error) { t.Error(err) },
	}}
	mux := http.NewServeMux()
	mux.Handle("/", app)
	mux.Handle("/login", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.Add(r, session.NewSession()); err != nil {
			t.Error(err)
		}
	})))
	mux.Handle("/logout", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, err := sessions.Get(r)
		if err := errors.Join(err, sessions.Remove(r, sess)); err != nil {
			t.Error(err)
		}
	})))
	mux.Handle("/messages", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, err := sessions.Get(r)
		if err != nil || sess == nil {
			t.Error("no session", err)
			return
		}
		fmt.Fprint(w, sess.Attr("messages"))
	})))
	s := &site{t: t, server: httptest.NewUnstartedServer(mux)}
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.browser = &http.Client{Transport: s.server.Client().Transport, Jar: jar, Timeout: 10 * time.Second}
	return s
}

func (s *site) expect(path string, status int, body string) {
	s.t.Helper()
	resp, err := s.browser.Get(s.server.URL + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status || !strings.Contains(string(got), body) {
		s.t.Errorf("%s: got status %d, %q and error %v; want %d and %q", path, resp.StatusCode, got, err, status, body)
	}
}

// cookie is the browser's, as a header.
func (s *site) cookie() http.Header {
	u, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	h := http.Header{}
	for _, c := range s.browser.Jar.Cookies(u) {
		h.Add("Cookie", c.String())
	}
	return h
}

// pages are the apps of docs/frameworks.md.
var pages = map[string]func(panics http.Handler) http.Handler{
	"chi": chiPage, "mux": muxPage, "echo v4": echo4Page, "echo v5": echoPage, "gin": ginPage,
}

func TestTheFrameworksOfThePageCountVisits(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	for name, app := range pages {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, app(http.NotFoundHandler()))
			s.expect("/", 401, "Please log in.")
			s.expect("/login", 200, "")
			for i := range 3 {
				s.expect("/", 200, fmt.Sprintf("Visits: %d", i+1))
			}
			s.expect("/logout", 200, "")
			s.expect("/", 401, "")
		})
	}
}

func TestCascadestoreOfThePageCountsVisits(t *testing.T) {
	store = cascadestore.NewTieredStore(tiertest.NewCache(), tiertest.NewBackup(), bytes.Repeat([]byte{1}, 32))
	s := newSite(t, cascadePage())
	for i := range 3 {
		s.expect("/", 200, fmt.Sprintf("Visits: %d", i+1))
	}
}

func TestAPanicInTheFrameworksOfThePageSavesNothing(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	panics := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		sess, err := sessions.Get(r)
		if err != nil || sess == nil {
			t.Error("no session", err)
			return
		}
		sess.SetAttr("messages", "half")
		panic("a bug")
	})
	for name, app := range pages {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, quiet(app(panics)))
			s.expect("/login", 200, "")
			s.expect("/panic", 500, "")
			s.expect("/messages", 200, "<nil>")
		})
	}
}

// quiet keeps chi from printing the stack of a panic.
func quiet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), middleware.LogEntryCtxKey, noLog{})))
	})
}

func TestMetricsOfPrometheus(t *testing.T) {
	s := newSite(t, sessionsHandler(visits))
	registry := prometheus.NewRegistry()
	sessions.Options.Trace = measured(registry)
	s.expect("/login", 200, "")
	s.expect("/", 200, "Visits: 1")
	got := map[string]bool{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := f.GetName()
			for _, l := range m.GetLabel() {
				labels += " " + l.GetValue()
			}
			got[labels] = m.GetHistogram().GetSampleCount()+uint64(m.GetCounter().GetValue()) > 0
		}
	}
	for _, want := range []string{"session_loads_total cache", "session_bytes", "session_call_seconds get found cache", "session_call_seconds insert stored backup"} {
		if !got[want] {
			t.Errorf("no metric %q in %v", want, got)
		}
	}
}

// sessionsHandler is Sessions.Handler, called when newSite has set sessions.
func sessionsHandler(f http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { sessions.Handler(f).ServeHTTP(w, r) })
}

func TestAWebSocketOfCoderSavesAndLearnsOfALogout(t *testing.T) {
	s := newSite(t, sessionsHandler(socket))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dial := func() (*coder.Conn, *http.Response, error) {
		return coder.Dial(ctx, s.server.URL, &coder.DialOptions{HTTPClient: s.server.Client(), HTTPHeader: s.cookie()})
	}
	if _, resp, err := dial(); err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: %v and %v, want status 401", resp, err)
	}
	s.expect("/login", 200, "")
	conn, _, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	say := func() (string, error) {
		if err := conn.Write(ctx, coder.MessageText, []byte("hello")); err != nil {
			return "", err
		}
		_, answer, err := conn.Read(ctx)
		return string(answer), err
	}
	for i := range 2 {
		want := fmt.Sprint(i + 1)
		if got, err := say(); err != nil || got != want {
			t.Fatalf("got %q and %v, want %q", got, err, want)
		}
		s.expect("/messages", 200, want)
	}
	s.expect("/logout", 200, "")
	if got, err := say(); coder.CloseStatus(err) != coder.StatusPolicyViolation {
		t.Errorf("after the logout: got %q and %v, want a close with StatusPolicyViolation", got, err)
	}
}

func TestAWebSocketOfGorillaSavesFirst(t *testing.T) {
	s := newSite(t, sessionsHandler(func(w http.ResponseWriter, r *http.Request) {
		sess, err := sessions.Get(r)
		if err != nil || sess == nil {
			t.Error("no session", err)
			return
		}
		sess.SetAttr("messages", "opened")
		conn, err := (&gorilla.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, _, err := conn.ReadMessage(); err != nil {
			t.Error(err)
		}
		sess.SetAttr("messages", "spoken")
		if err := errors.Join(sessions.Save(r), conn.WriteMessage(gorilla.TextMessage, []byte("ok"))); err != nil {
			t.Error(err)
		}
	}))
	s.expect("/login", 200, "")
	dialer := gorilla.Dialer{HandshakeTimeout: 10 * time.Second, TLSClientConfig: s.server.Client().Transport.(*http.Transport).TLSClientConfig}
	conn, _, err := dialer.Dial("wss"+strings.TrimPrefix(s.server.URL, "https"), s.cookie())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.expect("/messages", 200, "opened")
	if err := conn.WriteMessage(gorilla.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.ReadMessage(); err != nil || string(got) != "ok" {
		t.Errorf("got %q and %v", got, err)
	}
	s.expect("/messages", 200, "spoken")
}
