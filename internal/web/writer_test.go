package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// app has m's Handler call f with a writer around inner.
func app(m *manager, inner http.ResponseWriter, f func(w http.ResponseWriter)) {
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { f(w) })).
		ServeHTTP(inner, httptest.NewRequest("GET", "/", nil))
}

func TestWhatTheInnerWriterCannotDoIsNotSupportedAndRunsNoHook(t *testing.T) {
	var m, around manager
	inner := httptest.NewRecorder()
	app(&around, bare{inner}, func(w http.ResponseWriter) { // two managers: the inner one is not misled either
		app(&m, w, func(w http.ResponseWriter) {
			control := http.NewResponseController(w)
			for name, call := range map[string]func() error{
				"Flush":            control.Flush,
				"Hijack":           func() error { _, _, err := control.Hijack(); return err },
				"SetReadDeadline":  func() error { return control.SetReadDeadline(time.Time{}) },
				"SetWriteDeadline": func() error { return control.SetWriteDeadline(time.Time{}) },
				"EnableFullDuplex": control.EnableFullDuplex,
				"Push":             func() error { return w.(http.Pusher).Push("/style.css", nil) },
			} {
				if err := call(); !errors.Is(err, http.ErrNotSupported) {
					t.Errorf("%s: got %v, want http.ErrNotSupported", name, err)
				}
			}
			w.(http.Flusher).Flush()
			select {
			case <-w.(interface{ CloseNotify() <-chan bool }).CloseNotify():
				t.Error("CloseNotify: the client is said to have gone")
			default:
			}
			m.wantCalls(t, 0)
			around.wantCalls(t, 0)
			w.WriteHeader(204)
			m.wantCalls(t, 1)
			around.wantCalls(t, 1)
		})
	})
	if inner.Code != 204 || inner.Flushed {
		t.Errorf("got status %d, flushed: %t", inner.Code, inner.Flushed)
	}
}

// A recorder notes what it is called with.
type recorder struct {
	*httptest.ResponseRecorder
	calls []string
}

func (r *recorder) WriteHeader(status int) { r.calls = append(r.calls, strconv.Itoa(status)) }

func (r *recorder) WriteString(s string) (int, error) {
	r.calls = append(r.calls, s)
	return len(s), nil
}

func TestStatusesAndStringsReachTheInnerWriterAsTheyAre(t *testing.T) {
	var m manager
	inner := recorder{ResponseRecorder: httptest.NewRecorder()}
	app(&m, &inner, func(w http.ResponseWriter) {
		w.WriteHeader(103)
		w.WriteHeader(201)
		w.WriteHeader(202) // net/http says in its log that this is superfluous
		if _, err := io.WriteString(w, "hello"); err != nil {
			t.Error(err)
		}
	})
	if want := []string{"103", "201", "202", "hello"}; !slices.Equal(inner.calls, want) {
		t.Errorf("the inner writer got %q, want %q", inner.calls, want)
	}
}

func TestNoStatusReachesTheInnerWriterOnceTheResponseIsReplaced(t *testing.T) {
	m := manager{fail: errHook}
	inner := recorder{ResponseRecorder: httptest.NewRecorder()}
	app(&m, &inner, func(w http.ResponseWriter) {
		for _, status := range []int{200, 201, 103, 101} {
			w.WriteHeader(status)
		}
	})
	if want := []string{"503"}; !slices.Equal(inner.calls, want) {
		t.Errorf("the inner writer got %q, want %q", inner.calls, want)
	}
}

func TestNobodyUnwrapsTheWriter(t *testing.T) {
	app(new(manager), httptest.NewRecorder(), func(w http.ResponseWriter) {
		if _, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
			t.Error("the writer can be unwrapped, which goes past the hook")
		}
	})
}

func TestDeadlinesAndFullDuplexReachTheConnection(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		var m manager
		server := serve(t, http2, unwrapOnly(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			control := http.NewResponseController(w)
			duplex := control.EnableFullDuplex()
			if http2 && errors.Is(duplex, http.ErrNotSupported) {
				duplex = nil // before Go 1.24, where it is always on
			}
			if err := errors.Join(duplex, control.SetWriteDeadline(time.Now().Add(time.Hour)),
				control.SetReadDeadline(time.Now().Add(-time.Hour))); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadAll(r.Body); err == nil {
				t.Error("the body was read after its deadline")
			}
			m.wantCalls(t, 0)
		}))))
		unfinished, end := io.Pipe()
		defer end.Close()
		resp, err := server.Client().Post(server.URL, "text/plain", unfinished)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.Header.Get("Hook") != "ran" {
			t.Errorf("got header %v", resp.Header)
		}
	})
}

func TestCloseNotifyTellsThatTheClientHasGone(t *testing.T) {
	eachProtocol(t, func(t *testing.T, http2 bool) {
		var m manager
		gone := make(chan struct{})
		server := serve(t, http2, unwrapOnly(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			defer close(gone)
			closed := w.(interface{ CloseNotify() <-chan bool }).CloseNotify()
			m.wantCalls(t, 0)
			w.(http.Flusher).Flush()
			<-closed
		}))))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		cancel()
		<-gone
	})
}

type pusher struct {
	http.ResponseWriter
	pushed []string
}

func (p *pusher) Push(target string, _ *http.PushOptions) error {
	p.pushed = append(p.pushed, target)
	return nil
}

type flusher struct{ http.ResponseWriter }

func (f flusher) Flush() { f.WriteHeader(200) }

type errorFlusher struct{ http.ResponseWriter }

func (f errorFlusher) FlushError() error { return io.ErrClosedPipe }

func TestAnyKindOfFlushRunsTheHook(t *testing.T) {
	for _, test := range []struct {
		inner http.ResponseWriter
		want  error
	}{
		{flusher{bare{httptest.NewRecorder()}}, nil},
		{errorFlusher{bare{httptest.NewRecorder()}}, io.ErrClosedPipe},
	} {
		var m manager
		app(&m, test.inner, func(w http.ResponseWriter) {
			if err := http.NewResponseController(w).Flush(); err != test.want {
				t.Errorf("%T: got %v, want %v", test.inner, err, test.want)
			}
			m.wantCalls(t, 1)
		})
	}
}

func TestAPushReachesTheInnerWriterWithoutTheHook(t *testing.T) {
	var m manager
	p := &pusher{ResponseWriter: httptest.NewRecorder()}
	app(&m, unwrapper{bare{p}}, func(w http.ResponseWriter) {
		if err := w.(http.Pusher).Push("/style.css", nil); err != nil || len(p.pushed) != 1 {
			t.Errorf("got %v, and %q was pushed", err, p.pushed)
		}
		m.wantCalls(t, 0)
	})
}

func TestWritersThatComeTogetherWaitForTheHook(t *testing.T) {
	const writers = 8
	hookDone := false // not atomic: the race detector sees who does not wait
	m := manager{before: func(http.Header, bool) {
		for range 100 {
			runtime.Gosched()
		}
		hookDone = true
	}}
	var group sync.WaitGroup
	server := serve(t, false, http.TimeoutHandler(m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		group.Add(writers)
		for i := range writers {
			go func() {
				defer group.Done()
				var err error
				switch i % 4 {
				case 0:
					_, err = w.Write([]byte("x"))
				case 1:
					_, err = io.WriteString(w, "x")
				case 2:
					_, err = io.Copy(w, strings.NewReader("x"))
				case 3:
					w.WriteHeader(200)
					_, err = w.Write([]byte("x"))
				}
				if err != nil || !hookDone {
					t.Errorf("writer %d got %v, the hook was done: %t", i, err, hookDone)
				}
			}()
		}
		group.Wait()
	})), time.Minute, "too late"))
	if resp, got := get(t, server); got != strings.Repeat("x", writers) || resp.Header.Get("Hook") != "ran" {
		t.Errorf("got %q and header %v", got, resp.Header)
	}
	m.wantCalls(t, 1)
}

func TestAGoroutineOfTheAppMayWriteWhenTheHandlerReturns(t *testing.T) {
	for _, fail := range []error{nil, errHook} {
		m := manager{fail: fail}
		written := make(chan error)
		server := serve(t, false, http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				go func() {
					_, err := io.WriteString(w, "late")
					written <- err
				}()
			})).ServeHTTP(w, r)
			if err := <-written; !errors.Is(err, fail) {
				t.Errorf("the goroutine got %v, want %v", err, fail)
			}
		}), time.Minute, "too late"))
		want := "late"
		if fail != nil {
			want = "instead: the hook has failed\n"
		}
		if _, got := get(t, server); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		m.wantCalls(t, 1)
	}
}
