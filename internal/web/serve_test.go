package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A way is how an app sends a response.
type way struct {
	name   string
	send   func(w http.ResponseWriter, r *http.Request) error
	status int
	body   string
	http1  bool // HTTP/1 only
	raw    bool // the app writes the header to the connection
}

func ways(t *testing.T) []way {
	file := filepath.Join(t.TempDir(), "file.txt")
	if err := os.WriteFile(file, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	status := func(code int) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(code)
			return nil
		}
	}
	write := func(w http.ResponseWriter) error {
		_, err := w.Write([]byte("hello"))
		return err
	}
	hijack := func(w http.ResponseWriter, answer string) error {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return err
		}
		_, err = buf.WriteString(answer)
		return errors.Join(err, buf.Flush(), conn.Close())
	}
	return []way{
		{name: "WriteHeader", status: 201, body: "hello", send: func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(201)
			return write(w)
		}},
		{name: "WriteHeader twice", status: 201, body: "hello", send: func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(201)
			w.WriteHeader(202)
			return write(w)
		}},
		{name: "Write", status: 200, body: "hello", send: func(w http.ResponseWriter, _ *http.Request) error {
			return write(w)
		}},
		{name: "Write of nothing", status: 200, send: func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.Write(nil)
			w.WriteHeader(500) // too late
			return err
		}},
		{name: "WriteString", status: 200, body: "hello", send: func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.(io.StringWriter).WriteString("hello")
			return err
		}},
		{name: "io.Copy", status: 200, body: "a file", send: func(w http.ResponseWriter, _ *http.Request) error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, f)
			return errors.Join(err, f.Close())
		}},
		{name: "ServeFile", status: 200, body: "a file", send: func(w http.ResponseWriter, r *http.Request) error {
			http.ServeFile(w, r, file)
			return nil
		}},
		{name: "nothing", status: 200, send: func(http.ResponseWriter, *http.Request) error { return nil }},
		{name: "redirect", status: 303, body: "<a href=\"/there\">See Other</a>.\n\n", send: func(w http.ResponseWriter, r *http.Request) error {
			http.Redirect(w, r, "/there", http.StatusSeeOther)
			return nil
		}},
		{name: "304", status: 304, send: status(304)},
		{name: "204", status: 204, send: status(204)},
		{name: "http.Error", status: 404, body: "no\n", send: func(w http.ResponseWriter, _ *http.Request) error {
			http.Error(w, "no", 404)
			return nil
		}},
		{name: "Early Hints", status: 200, body: "hello", send: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			return write(w)
		}},
		{name: "Flush", status: 200, body: "hello", send: func(w http.ResponseWriter, _ *http.Request) error {
			w.(http.Flusher).Flush()
			return write(w)
		}},
		{name: "ResponseController.Flush", status: 200, body: "hello", send: func(w http.ResponseWriter, _ *http.Request) error {
			return errors.Join(http.NewResponseController(w).Flush(), write(w))
		}},
		{name: "Hijack", http1: true, raw: true, status: 200, body: "raw", send: func(w http.ResponseWriter, _ *http.Request) error {
			return hijack(w, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nraw")
		}},
		{name: "101 and Hijack", http1: true, status: 101, body: "echo", send: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			return hijack(w, "echo")
		}},
	}
}

// eachWay runs f for every way, over each protocol, on the server's own writer
// and on that of a middleware that has nothing but Unwrap.
func eachWay(t *testing.T, f func(t *testing.T, way way, http2 bool, outside func(http.Handler) http.Handler)) {
	all := ways(t)
	for name, outside := range map[string]func(http.Handler) http.Handler{
		"plain":       func(h http.Handler) http.Handler { return h },
		"Unwrap only": unwrapOnly,
	} {
		t.Run(name, func(t *testing.T) {
			eachProtocol(t, func(t *testing.T, http2 bool) {
				for _, way := range all {
					if way.http1 && http2 {
						continue
					}
					t.Run(way.name, func(t *testing.T) { f(t, way, http2, outside) })
				}
			})
		})
	}
}

func TestTheHookRunsOnceBeforeTheHeaderWhateverSendsIt(t *testing.T) {
	eachWay(t, func(t *testing.T, way way, http2 bool, outside func(http.Handler) http.Handler) {
		var m manager
		sent := make(chan error, 1)
		server := serve(t, http2, outside(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("App", "was here")
			m.wantCalls(t, 0)
			sent <- way.send(w, r)
		}))))
		resp, got := get(t, server)
		if err := <-sent; err != nil {
			t.Error("the app got", err)
		}
		if resp.StatusCode != way.status || got != way.body {
			t.Errorf("got status %d and body %q, want %d and %q", resp.StatusCode, got, way.status, way.body)
		}
		m.wantCalls(t, 1)
		if way.raw {
			return
		}
		for name, want := range map[string][]string{"Hook": {"ran"}, "Set-Cookie": {"id=new"}, "App": {"was here"}} {
			if got := resp.Header[name]; !slices.Equal(got, want) {
				t.Errorf("got %s %q, want %q", name, got, want)
			}
		}
	})
}

func TestAHookThatFailsReplacesTheResponseWhateverSendsIt(t *testing.T) {
	outermost := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Outside", "was here")
			w.Header().Set("Changed", "by nobody")
			next.ServeHTTP(w, r)
		})
	}
	eachWay(t, func(t *testing.T, way way, http2 bool, outside func(http.Handler) http.Handler) {
		m := manager{fail: errHook}
		var sendErr, writeErr error
		server := serve(t, http2, outermost(outside(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("App", "was here")
			w.Header().Set("Changed", "by the app")
			w.Header().Del("Outside")
			sendErr = way.send(w, r)
			if way.name != "nothing" {
				_, writeErr = w.Write([]byte("more"))
			}
		})))))
		resp, got := get(t, server)
		if want := "instead: " + errHook.Error() + "\n"; resp.StatusCode != 503 || got != want {
			t.Errorf("got status %d and body %q, want 503 and %q", resp.StatusCode, got, want)
		}
		for name, want := range map[string][]string{
			"Hook": nil, "Set-Cookie": nil, "App": nil, "Link": nil, "Cache-Control": nil,
			"Outside": {"was here"}, "Changed": {"by nobody"},
		} {
			if got := resp.Header[name]; !slices.Equal(got, want) {
				t.Errorf("got %s %q, want %q", name, got, want)
			}
		}
		for _, err := range []error{sendErr, writeErr} {
			if err != nil && (!errors.Is(err, ErrReplaced) || !errors.Is(err, errHook)) {
				t.Errorf("the app got %v, want ErrReplaced and the hook's error", err)
			}
		}
		if writeErr == nil && way.name != "nothing" {
			t.Error("a write after the response was replaced returned no error")
		}
		m.wantCalls(t, 1)
		if got := m.errors.Load(); got != 1 {
			t.Errorf("ServeError was called %d times", got)
		}
	})
}

func TestTheHeaderIsRestoredThoughTheAppChangedItsValuesInPlace(t *testing.T) {
	m := manager{fail: errHook}
	w := httptest.NewRecorder()
	w.Header()["Outside"] = append(make([]string, 0, 4), "a", "b")
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Outside"][0] = "changed"
		w.Header().Add("Outside", "c")
	})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if got := w.Result().Header["Outside"]; !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
}

func TestTheAppsContextHasWhatTheRequestsHas(t *testing.T) {
	type key struct{}
	var m manager
	var got context.Context
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "a value"))
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var end context.CancelFunc
		got, end = context.WithCancel(r.Context())
		t.Cleanup(end)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	if got.Value(key{}) != "a value" || got.Err() != nil {
		t.Errorf("value %v, error %v", got.Value(key{}), got.Err())
	}
	if cancel(); got.Err() == nil {
		t.Error("it does not end with the request's")
	}
}

func TestEveryCallReturnsAnErrorOnceTheResponseIsReplaced(t *testing.T) {
	m := manager{fail: errHook}
	eachProtocol(t, func(t *testing.T, http2 bool) {
		server := serve(t, http2, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			calls := map[string]func() error{
				"Write":       func() error { _, err := w.Write([]byte("x")); return err },
				"WriteString": func() error { _, err := io.WriteString(w, "x"); return err },
				"ReadFrom":    func() error { _, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("x")); return err },
				"Flush":       func() error { return http.NewResponseController(w).Flush() },
			}
			if !http2 {
				calls["Hijack"] = func() error { _, _, err := http.NewResponseController(w).Hijack(); return err }
			}
			for name, call := range calls {
				if err := call(); !errors.Is(err, ErrReplaced) {
					t.Errorf("%s: got %v, want ErrReplaced", name, err)
				}
			}
			w.(http.Flusher).Flush()
			w.WriteHeader(103)
			w.WriteHeader(200)
		})))
		if resp, got := get(t, server); resp.StatusCode != 503 || got != "instead: the hook has failed\n" {
			t.Errorf("got status %d and body %q", resp.StatusCode, got)
		}
	})
}

func TestEarlyHintsPassWithoutTheHook(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		var m manager
		server := serve(t, http2, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			m.wantCalls(t, 0)
			w.WriteHeader(200)
		})))
		var hints []textproto.MIMEHeader
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, h)
				return nil
			},
		})
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body(t, resp)
		if len(hints) != 1 || hints[0].Get("Link") == "" || hints[0].Get("Hook") != "" {
			t.Errorf("got the informational headers %v, want one with Link and nothing of the hook", hints)
		}
		if resp.Header.Get("Hook") == "" {
			t.Error("the hook did not run before the response")
		}
	})
}

func TestWhatTheHookDidIsSeenByARequestSentAtTheFirstEvent(t *testing.T) {
	flushes := map[string]func(http.ResponseWriter) error{
		"Flusher":            func(w http.ResponseWriter) error { w.(http.Flusher).Flush(); return nil },
		"ResponseController": func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() },
	}
	for name, flush := range flushes {
		t.Run(name, func(t *testing.T) {
			eachProtocol(t, func(t *testing.T, http2 bool) {
				var saved atomic.Bool
				m := manager{before: func(http.Header, bool) { saved.Store(true) }}
				next := make(chan string)
				defer close(next)
				server := serve(t, http2, unwrapOnly(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					if err := flush(w); err != nil { // the header alone
						t.Error(err)
					}
					for event := range next {
						_, err := io.WriteString(w, event)
						if err = errors.Join(err, flush(w)); err != nil {
							t.Error(err)
						}
					}
				}))))
				resp, err := server.Client().Get(server.URL) // returns when the header is there
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if resp.Header.Get("Hook") == "" || !saved.Load() {
					t.Error("the header left before the hook")
				}
				for _, event := range []string{"data: 1\n\n", "data: 2\n\n"} {
					next <- event
					got := make([]byte, len(event))
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != event {
						t.Errorf("got event %q and %v, want %q", got, err, event)
					}
				}
				m.wantCalls(t, 1)
			})
		})
	}
}

func TestTheHookIsToldThatTheConnectionIsHijacked(t *testing.T) {
	for _, upgrade := range []bool{false, true} {
		var got []bool
		m := manager{before: func(_ http.Header, hijack bool) { got = append(got, hijack) }}
		server := serve(t, false, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if upgrade { // the header leaves with 101
				w.WriteHeader(http.StatusSwitchingProtocols)
			}
			conn, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if !upgrade {
				_, err = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\n\r\n")
			}
			if err = errors.Join(err, buf.Flush()); err != nil {
				t.Error(err)
			}
		})))
		resp, _ := get(t, server)
		if resp.StatusCode != 101 || !slices.Equal(got, []bool{!upgrade}) {
			t.Errorf("101 by WriteHeader: %t: got status %d, and the hook was told %t", upgrade, resp.StatusCode, got)
		}
	}
}

func TestAnUpgradedConnectionWorksBothWays(t *testing.T) {
	var m manager
	server := serve(t, false, unwrapOnly(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		line, err := buf.ReadString('\n')
		_, werr := io.WriteString(conn, "you said "+line)
		if err := errors.Join(err, werr, conn.Close()); err != nil {
			t.Error(err)
		}
	}))))
	server.Client().Timeout = 0 // with one, the client does not hand out the connection
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Hook") != "ran" {
		t.Error("the header of the upgrade left before the hook")
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("got status %s, want an upgraded connection", resp.Status)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "you said hello\n" {
		t.Errorf("got %q and %v", got, err)
	}
}

func TestAPanicPassesAndTheHookDoesNotRun(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		for _, value := range []any{"a bug", http.ErrAbortHandler} {
			var m manager
			panicked := make(chan any, 1)
			server := serve(t, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					p := recover()
					panicked <- p
					panic(p)
				}()
				m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(value) })).ServeHTTP(w, r)
			}))
			if resp, err := server.Client().Get(server.URL); err == nil {
				t.Errorf("got status %s of a handler that panicked", resp.Status)
				resp.Body.Close()
			}
			if got := <-panicked; got != value {
				t.Errorf("the panic arrived as %v, want %v", got, value)
			}
			m.wantCalls(t, 0)
		}
	})
}

func TestAPanicAfterTheHeaderPasses(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		var m manager
		server := serve(t, http2, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})))
		resp, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the response ended as if nothing had happened")
		}
		m.wantCalls(t, 1)
	})
}

func TestARecoveryMiddlewareOutsideAnswersAPanicWithoutTheHook(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		var m manager
		server := serve(t, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if recover() != nil {
					http.Error(w, "sorry", 500)
				}
			}()
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("App", "was here")
				panic("a bug")
			})).ServeHTTP(w, r)
		}))
		resp, got := get(t, server)
		if resp.StatusCode != 500 || got != "sorry\n" || resp.Header.Get("App") == "" || resp.Header.Get("Hook") != "" {
			t.Errorf("got status %d, body %q and header %v", resp.StatusCode, got, resp.Header)
		}
		m.wantCalls(t, 0)
	})
}

func TestAnAnswerToAPanicByTheAppsWriterPassesWithoutTheHook(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		var m manager
		server := serve(t, http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var apps http.ResponseWriter // as echo keeps it
			defer func() {
				if recover() != nil {
					http.Error(apps, "sorry", 500)
				}
			}()
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				apps = w
				panic("a bug")
			})).ServeHTTP(w, r)
		}))
		if resp, got := get(t, server); resp.StatusCode != 500 || got != "sorry\n" || resp.Header.Get("Hook") != "" {
			t.Errorf("got status %d, body %q and header %v", resp.StatusCode, got, resp.Header)
		}
		m.wantCalls(t, 0)
	})
}

func TestAPanicOfTheHookPassesAndCanStillBeAnswered(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		m := manager{before: func(http.Header, bool) { panic("a bug in the hook") }}
		server := serve(t, http2, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			defer func() {
				if recover() != nil {
					http.Error(w, "sorry", 500)
				}
			}()
			w.WriteHeader(200)
		})))
		if resp, got := get(t, server); resp.StatusCode != 500 || got != "sorry\n" {
			t.Errorf("got status %d and body %q", resp.StatusCode, got)
		}
		m.wantCalls(t, 1)
	})
}

func TestAnInvalidStatusPanicsAsEverWithoutTheHook(t *testing.T) {
	for _, status := range []int{-1, 0, 99, 1000} {
		var m manager
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("status %d: no panic", status)
				}
			}()
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
			})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}()
		m.wantCalls(t, 0)
	}
}

// fileConn notes what the server copies to it with ReadFrom.
type fileConn struct {
	*net.TCPConn
	sources chan<- io.Reader
}

func (c fileConn) ReadFrom(src io.Reader) (int64, error) {
	c.sources <- src
	return c.TCPConn.ReadFrom(src)
}

type fileListener struct {
	net.Listener
	sources chan<- io.Reader
}

func (l fileListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return fileConn{c.(*net.TCPConn), l.sources}, nil
}

func TestAFileIsStillSentWithSendfile(t *testing.T) {
	content := strings.Repeat("0123456789", 10_000)
	name := filepath.Join(t.TempDir(), "file.txt")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	sends := map[string]func(w http.ResponseWriter, r *http.Request, f *os.File) error{
		"ServeContent": func(w http.ResponseWriter, r *http.Request, f *os.File) error {
			http.ServeContent(w, r, "file.txt", time.Time{}, f)
			return nil
		},
		"io.Copy": func(w http.ResponseWriter, _ *http.Request, f *os.File) error {
			w.Header().Set("Content-Length", "100000")
			_, err := io.Copy(w, f)
			return err
		},
	}
	for how, send := range sends {
		t.Run(how, func(t *testing.T) {
			var m manager
			server := httptest.NewUnstartedServer(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f, err := os.Open(name)
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(send(w, r, f), f.Close()); err != nil {
					t.Error(err)
				}
			})))
			sources := make(chan io.Reader, 1)
			server.Listener = fileListener{server.Listener, sources}
			server.Start()
			defer server.Close()
			resp, got := get(t, server)
			if got != content || resp.Header.Get("Hook") != "ran" {
				t.Errorf("got %d bytes, want %d, and header %v", len(got), len(content), resp.Header)
			}
			select {
			case src := <-sources:
				if limited, ok := src.(*io.LimitedReader); ok {
					src = limited.R
				}
				if _, ok := src.(interface{ Fd() uintptr }); !ok {
					t.Errorf("the connection was to read from %T, want a file", src)
				}
			default:
				t.Error("the file was copied by way of memory")
			}
		})
	}
}

func TestTrailersStillWork(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		var m manager
		server := serve(t, http2, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "Sum")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			w.Header().Set("Sum", "42")
		})))
		if resp, _ := get(t, server); resp.Trailer.Get("Sum") != "42" {
			t.Errorf("got trailers %v", resp.Trailer)
		}
	})
}

func TestInsideTimeoutHandlerTheHookRunsBeforeTheHeader(t *testing.T) {
	eachWay(t, func(t *testing.T, way way, http2 bool, outside func(http.Handler) http.Handler) {
		if way.http1 || way.name == "ResponseController.Flush" || way.name == "Early Hints" {
			return // what TimeoutHandler does not support
		}
		var m manager
		server := serve(t, http2, outside(http.TimeoutHandler(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := way.send(w, r); err != nil {
				t.Error("the app got", err)
			}
		})), time.Minute, "too late")))
		resp, got := get(t, server)
		if resp.StatusCode != way.status || got != way.body || resp.Header.Get("Hook") != "ran" {
			t.Errorf("got status %d, body %q and header %v", resp.StatusCode, got, resp.Header)
		}
		m.wantCalls(t, 1)
	})
}

func TestAfterATimeoutTheAppIsToldAsEver(t *testing.T) {
	var m manager
	written := make(chan error, 1)
	server := serve(t, false, http.TimeoutHandler(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		var err error
		for err == nil { // TimeoutHandler may not have noticed yet
			_, err = w.Write([]byte("hello"))
		}
		written <- err
	})), time.Nanosecond, "too late"))
	if resp, got := get(t, server); resp.StatusCode != 503 || got != "too late" || resp.Header.Get("Hook") != "" {
		t.Errorf("got status %d, body %q and header %v", resp.StatusCode, got, resp.Header)
	}
	if err := <-written; !errors.Is(err, http.ErrHandlerTimeout) {
		t.Errorf("the app got %v, want http.ErrHandlerTimeout", err)
	}
	m.wantCalls(t, 1)
}

func TestTheAppDoesNotChangeTheErrorResponseOfAWriterThatBuffers(t *testing.T) {
	m := manager{fail: errHook}
	server := serve(t, false, http.TimeoutHandler(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("App", "was here")
		w.WriteHeader(200)
		if got := w.Header().Get("App"); got != "was here" {
			t.Errorf("the app sees App %q in its own header", got)
		}
		w.Header().Set("Content-Type", "application/x-app")
		http.SetCookie(w, &http.Cookie{Name: "app", Value: "1"})
	})), time.Minute, "too late"))
	resp, got := get(t, server)
	if resp.StatusCode != 503 || got != "instead: the hook has failed\n" || resp.Header.Get("App")+resp.Header.Get("Set-Cookie") != "" ||
		resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("got status %d, body %q and header %v", resp.StatusCode, got, resp.Header)
	}
}

func TestAHandlerWithTheSameKeyInsidePassesThrough(t *testing.T) {
	var m manager
	server := serve(t, false, m.Handler(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if hook, ok := Inside[testHook](r.Context(), &m); !ok || hook.manager != &m {
			t.Errorf("the app finds the hook %v, %t", hook, ok)
		}
		if _, ok := Inside[testHook](r.Context(), new(manager)); ok {
			t.Error("the app finds the hook of another key")
		}
	}))))
	resp, _ := get(t, server)
	if got := resp.Header["Hook"]; len(got) != 1 {
		t.Errorf("got Hook %q", got)
	}
	m.wantCalls(t, 1)
}

func TestHandlersWithTwoKeysBothRunTheirHooks(t *testing.T) {
	var order []string
	outer := manager{before: func(http.Header, bool) { order = append(order, "outer") }}
	inner := manager{before: func(http.Header, bool) { order = append(order, "inner") }}
	server := serve(t, false, outer.Handler(inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	}))))
	if resp, _ := get(t, server); !slices.Equal(order, []string{"inner", "outer"}) || len(resp.Header["Hook"]) != 2 {
		t.Errorf("the hooks ran in the order %q, and the response has %v", order, resp.Header)
	}
}

// uploaded has a handler get a form with a file that is too large for memory, and
// returns the name of the file that it is kept in.
func uploaded(t *testing.T, r *http.Request) string {
	t.Helper()
	if err := r.ParseMultipartForm(1); err != nil {
		t.Fatal(err)
	}
	f, err := r.MultipartForm.File["file"][0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	onDisk, ok := f.(*os.File)
	if !ok {
		t.Fatalf("the upload is a %T, want a file", f)
	}
	return onDisk.Name()
}

func upload(t *testing.T) *http.Request {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	f, err := form.CreateFormFile("file", "name")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(make([]byte, 11<<20)) // ParseMultipartForm keeps 10 MiB more than it is told
	if err = errors.Join(err, form.Close()); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/", &b)
	r.Header.Set("Content-Type", form.FormDataContentType())
	return r
}

func TestUploadedFilesAreRemovedFromDisk(t *testing.T) {
	for _, panics := range []bool{false, true} {
		var m manager
		var name string
		func() {
			defer func() { _ = recover() }()
			m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				name = uploaded(t, r)
				if panics {
					panic("a bug")
				}
			})).ServeHTTP(httptest.NewRecorder(), upload(t))
		}()
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("handler panics: %t: the file of an upload is left: %v", panics, err)
		}
	}
}

func TestUploadedFilesOfAMiddlewareOutsideStay(t *testing.T) {
	var m manager
	r := upload(t)
	name := uploaded(t, r)
	defer r.MultipartForm.RemoveAll()
	m.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	if _, err := os.Stat(name); err != nil {
		t.Error(err)
	}
}
