package frameworks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	gorilla "github.com/gorilla/websocket"

	"github.com/gaesession/gaesession/internal/web"
)

// A manager has a Handler as those of the session stores are.
type manager struct {
	fail     error
	calls    atomic.Int32
	hijacked atomic.Bool
}

type hook struct{ *manager }

func (m hook) BeforeHeader(h http.Header, hijack bool) error {
	m.calls.Add(1)
	m.hijacked.Store(hijack)
	h.Add("Hook", "ran")
	return m.fail
}

func (m hook) ServeError(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, "instead: "+err.Error(), http.StatusServiceUnavailable)
}

func (hook) Finish() {}

func (m *manager) Handler(next http.Handler) http.Handler {
	return web.Handler(next, m, func(*http.Request) web.Hook { return hook{m} })
}

// nestings runs f with an app of each framework in each place that m's Handler
// can have, over HTTP/1 and, unless http1 is set, HTTP/2.
func nestings(t *testing.T, http1 bool, socket http.Handler, f func(t *testing.T, m *manager, server *httptest.Server)) {
	file := filepath.Join(t.TempDir(), "file.txt")
	if err := os.WriteFile(file, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(name string, build func(m *manager) http.Handler) {
		for _, http2 := range []bool{false, true} {
			if http2 && http1 {
				continue
			}
			t.Run(fmt.Sprintf("%s, HTTP/2 %t", name, http2), func(t *testing.T) {
				var m manager
				server := httptest.NewUnstartedServer(build(&m))
				server.Config.ErrorLog = log.New(io.Discard, "", 0)
				server.EnableHTTP2 = http2
				if http2 {
					server.StartTLS()
				} else {
					server.Start()
				}
				t.Cleanup(server.Close)
				server.Client().Timeout = 10 * time.Second
				server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				f(t, &m, server)
			})
		}
	}
	for _, fw := range frameworks {
		run(fw.name+" inside", func(m *manager) http.Handler { return m.Handler(fw.app(nil, file, socket)) })
		if fw.takesMiddleware {
			run(fw.name+", as its middleware", func(m *manager) http.Handler { return fw.app(m.Handler, file, socket) })
		}
	}
}

func get(t *testing.T, server *httptest.Server, path string) (*http.Response, string) {
	t.Helper()
	resp, err := server.Client().Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

var routes = []struct {
	path   string
	status int
	body   string // has this in it
}{
	{"/text", 201, "hello"},
	{"/string", 200, "hello"},
	{"/redirect", 303, ""},
	{"/empty", 204, ""},
	{"/nothing", 200, ""},
	{"/file", 200, "a file"},
	{"/error", 418, ""},
	{"/stream", 200, strings.Join(events, "")},
}

func TestTheHookRunsOnceBeforeTheHeaderInEveryFramework(t *testing.T) {
	nestings(t, false, http.NotFoundHandler(), func(t *testing.T, m *manager, server *httptest.Server) {
		for _, route := range routes {
			m.calls.Store(0)
			resp, body := get(t, server, route.path)
			if resp.StatusCode != route.status || !strings.Contains(body, route.body) {
				t.Errorf("%s: got status %d and body %q, want %d and %q", route.path, resp.StatusCode, body, route.status, route.body)
			}
			if got := resp.Header["Hook"]; !slices.Equal(got, []string{"ran"}) || m.calls.Load() != 1 {
				t.Errorf("%s: the hook ran %d times, and the header has %q", route.path, m.calls.Load(), got)
			}
		}
	})
}

func TestAHookThatFailsReplacesTheResponseInEveryFramework(t *testing.T) {
	nestings(t, false, http.NotFoundHandler(), func(t *testing.T, m *manager, server *httptest.Server) {
		m.fail = errors.New("the hook has failed")
		for _, route := range routes {
			resp, body := get(t, server, route.path)
			if want := "instead: the hook has failed\n"; resp.StatusCode != 503 || body != want {
				t.Errorf("%s: got status %d and body %q, want 503 and %q", route.path, resp.StatusCode, body, want)
			}
			if resp.Header.Get("Hook") != "" || resp.Header.Get("Location") != "" {
				t.Errorf("%s: the header is still the app's: %v", route.path, resp.Header)
			}
		}
	})
}

func TestAWebSocketOfGorillaIsHijackedAfterTheHook(t *testing.T) {
	nestings(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&gorilla.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return // Upgrade has answered
		}
		defer conn.Close()
		kind, message, err := conn.ReadMessage()
		if err = errors.Join(err, conn.WriteMessage(kind, message)); err != nil {
			t.Error(err)
		}
	}), func(t *testing.T, m *manager, server *httptest.Server) {
		url := "ws" + strings.TrimPrefix(server.URL, "http") + "/socket"
		dialer := gorilla.Dialer{HandshakeTimeout: 10 * time.Second}
		conn, _, err := dialer.Dial(url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if m.calls.Load() != 1 || !m.hijacked.Load() {
			t.Errorf("the hook ran %d times, and was told of the hijack: %t", m.calls.Load(), m.hijacked.Load())
		}
		if err := conn.WriteMessage(gorilla.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != "hello" {
			t.Errorf("got %q and %v", got, err)
		}

		m.fail = errors.New("the hook has failed")
		_, resp, err := dialer.Dial(url, nil)
		if err == nil || resp == nil || resp.StatusCode != 503 {
			t.Errorf("with a hook that fails: got %v and %v, want status 503", err, resp)
		}
	})
}

func TestAWebSocketOfCoderSendsTheHooksHeader(t *testing.T) {
	nestings(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := coder.Accept(w, r, nil)
		if err != nil {
			return // Accept has answered
		}
		defer conn.CloseNow()
		kind, message, err := conn.Read(r.Context())
		if err = errors.Join(err, conn.Write(r.Context(), kind, message)); err != nil {
			t.Error(err)
		}
		_ = conn.Close(coder.StatusNormalClosure, "") // the client may be gone
	}), func(t *testing.T, m *manager, server *httptest.Server) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, resp, err := coder.Dial(ctx, server.URL+"/socket", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		if resp.Header.Get("Hook") != "ran" || m.calls.Load() != 1 || m.hijacked.Load() {
			t.Errorf("the hook ran %d times, was told of a hijack: %t, and the header is %v", m.calls.Load(), m.hijacked.Load(), resp.Header)
		}
		if err := conn.Write(ctx, coder.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(ctx); err != nil || string(got) != "hello" {
			t.Errorf("got %q and %v", got, err)
		}

		m.fail = errors.New("the hook has failed")
		_, resp, err = coder.Dial(ctx, server.URL+"/socket", nil)
		if err == nil || resp == nil || resp.StatusCode != 503 {
			t.Errorf("with a hook that fails: got %v and %v, want status 503", err, resp)
		}
	})
}

func TestARecoveryMiddlewareBelongsOutside(t *testing.T) {
	for _, outside := range []bool{true, false} {
		var m manager
		r := chi.NewRouter()
		if outside {
			r.Use(middleware.Recoverer, m.Handler)
		} else {
			r.Use(m.Handler, middleware.Recoverer)
		}
		r.Get("/", func(http.ResponseWriter, *http.Request) { panic("a bug") })
		w := httptest.NewRecorder()
		quiet := context.WithValue(t.Context(), middleware.LogEntryCtxKey, noLog{})
		r.ServeHTTP(w, httptest.NewRequestWithContext(quiet, "GET", "/", nil))
		if ran := m.calls.Load() == 1; w.Code != 500 || ran == outside {
			t.Errorf("recovery outside: %t: got status %d, the hook ran: %t", outside, w.Code, ran)
		}
	}
}

type noLog struct{}

func (noLog) Write(int, int, http.Header, time.Duration, any) {}
func (noLog) Panic(any, []byte)                               {}
