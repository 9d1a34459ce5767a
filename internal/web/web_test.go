package web

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// A manager has a Handler as the package documentation shows it. Its hook marks
// the header, or fails.
type manager struct {
	fail   error
	before func(h http.Header, hijack bool) // what else the hook does, if not nil

	calls, errors, finished atomic.Int32
}

type testHook struct{ *manager }

func (m testHook) BeforeHeader(h http.Header, hijack bool) error {
	m.calls.Add(1)
	h.Add("Hook", "ran")
	if err := SetCookie(h, &http.Cookie{Name: "id", Value: "new"}); err != nil {
		return err
	}
	if m.before != nil {
		m.before(h, hijack)
	}
	return m.fail
}

func (m testHook) ServeError(w http.ResponseWriter, _ *http.Request, err error) {
	m.errors.Add(1)
	http.Error(w, "instead: "+err.Error(), http.StatusServiceUnavailable)
}

func (m testHook) Finish() { m.finished.Add(1) }

func (m *manager) Handler(next http.Handler) http.Handler {
	return Handler(next, m, func(*http.Request) Hook { return testHook{m} })
}

func (m *manager) wantCalls(t testing.TB, want int) {
	t.Helper()
	if got := int(m.calls.Load()); got != want {
		t.Errorf("the hook ran %d times, want %d", got, want)
	}
}

var errHook = errors.New("the hook has failed")

// serve serves h on a real server, over HTTP/1 or HTTP/2.
func serve(t testing.TB, http2 bool, h http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = http2
	if http2 {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	server.Client().Timeout = 10 * time.Second // fails rather than hangs
	server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return server
}

// eachProtocol runs f for HTTP/1 and for HTTP/2.
func eachProtocol(t *testing.T, f func(t *testing.T, http2 bool)) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP%d", map[bool]int{false: 1, true: 2}[http2]), func(t *testing.T) { f(t, http2) })
	}
}

// get returns the response of a server with its whole body.
func get(t testing.TB, server *httptest.Server) (*http.Response, string) {
	t.Helper()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body(t, resp)
}

func body(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unwrapOnly is a middleware whose writer has nothing but Unwrap.
func unwrapOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(unwrapper{bare{w}}, r) })
}

// bare hides all methods but those that every ResponseWriter has.
type bare struct{ w http.ResponseWriter }

func (b bare) Header() http.Header         { return b.w.Header() }
func (b bare) Write(p []byte) (int, error) { return b.w.Write(p) }
func (b bare) WriteHeader(status int)      { b.w.WriteHeader(status) }

type unwrapper struct{ bare }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.w }
