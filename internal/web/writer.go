package web

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrReplaced means that the app's response was not sent: its hook failed, and an
// error response went out instead.
var ErrReplaced = errors.New("response replaced by an error response")

// A writer runs the hook before it passes anything on to the inner writer.
type writer struct {
	inner   http.ResponseWriter
	request *http.Request
	hook    Hook
	entered []field // inner's header when Handler was entered

	once     sync.Once
	replaced atomic.Pointer[replacement] // nil: the response is the app's
}

// A field is one of a header.
type field struct {
	name   string
	values []string
}

// fieldsOf returns a copy of a header. It is seldom read, and costs less than a map.
func fieldsOf(header http.Header) []field {
	fields := make([]field, 0, len(header))
	for name, values := range header {
		fields = append(fields, field{name, slices.Clone(values)})
	}
	return fields
}

// A replacement is what the app sees of a response that was replaced.
type replacement struct {
	header http.Header
	err    error
}

// begin runs the hook if it has not run yet. It returns the app's error if the
// response was replaced. Concurrent calls wait for the hook.
func (w *writer) begin(hijack bool) error {
	w.once.Do(func() {
		header := w.inner.Header()
		err := w.hook.BeforeHeader(header, hijack)
		if err == nil {
			return
		}
		w.replaced.Store(&replacement{header.Clone(), fmt.Errorf("%w: %w", ErrReplaced, err)})
		clear(header)
		for _, f := range w.entered {
			header[f.name] = f.values
		}
		w.hook.ServeError(w.inner, w.request, err)
	})
	if r := w.replaced.Load(); r != nil {
		return r.err
	}
	return nil
}

// skip has whatever is sent from now on pass without the hook, if it has not run. A
// middleware outside may answer a panic by this writer: echo's does.
func (w *writer) skip() { w.once.Do(func() {}) }

func (w *writer) Header() http.Header {
	if r := w.replaced.Load(); r != nil {
		return r.header
	}
	return w.inner.Header()
}

func (w *writer) WriteHeader(status int) {
	// Any other status is informational, or invalid: the inner writer panics.
	if status == http.StatusSwitchingProtocols || status >= 200 && status <= 999 {
		_ = w.begin(false)
	}
	if w.replaced.Load() == nil {
		w.inner.WriteHeader(status)
	}
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.begin(false); err != nil {
		return 0, err
	}
	return w.inner.Write(p)
}

func (w *writer) WriteString(s string) (int, error) {
	if err := w.begin(false); err != nil {
		return 0, err
	}
	return io.WriteString(w.inner, s)
}

// ReadFrom lets io.Copy use the inner writer's ReadFrom, and with it sendfile.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	if err := w.begin(false); err != nil {
		return 0, err
	}
	return io.Copy(w.inner, src)
}

func (w *writer) Flush() {
	_ = w.FlushError() // Flush has no result; a connection that is broken fails the next Write
}

func (w *writer) FlushError() error {
	_, flush := find[http.Flusher](w)
	_, flushError := find[interface{ FlushError() error }](w)
	if flush || flushError {
		if err := w.begin(false); err != nil {
			return err
		}
	}
	return w.control().Flush()
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if _, ok := find[http.Hijacker](w); ok {
		if err := w.begin(true); err != nil {
			return nil, nil, err
		}
	}
	return w.control().Hijack()
}

func (w *writer) SetReadDeadline(t time.Time) error  { return w.control().SetReadDeadline(t) }
func (w *writer) SetWriteDeadline(t time.Time) error { return w.control().SetWriteDeadline(t) }
func (w *writer) EnableFullDuplex() error            { return w.control().EnableFullDuplex() }

func (w *writer) control() *http.ResponseController { return http.NewResponseController(w.inner) }

// Push sends no header of this response.
func (w *writer) Push(target string, opts *http.PushOptions) error {
	if p, ok := find[http.Pusher](w); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

// CloseNotify implements http.CloseNotifier, which frameworks still assert.
func (w *writer) CloseNotify() <-chan bool {
	if n, ok := find[interface{ CloseNotify() <-chan bool }](w); ok {
		return n.CloseNotify()
	}
	return nil
}

// find returns the first writer inside w that is a T. It skips writers of this
// package, which have every method whether or not it works; there are several if
// handlers with different keys are nested.
func find[T any](w http.ResponseWriter) (found T, ok bool) {
	for {
		if own, isOwn := w.(*writer); isOwn {
			w = own.inner
			continue
		}
		if found, ok = w.(T); ok {
			return found, true
		}
		wrapping, isWrapping := w.(interface{ Unwrap() http.ResponseWriter })
		if !isWrapping {
			return found, false
		}
		w = wrapping.Unwrap()
	}
}
