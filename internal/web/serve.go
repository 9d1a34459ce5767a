package web

import (
	"context"
	"net/http"
)

// A Hook is what a handler keeps about one request, and does for its response.
type Hook interface {
	// BeforeHeader is called once, before the first byte of the header leaves,
	// or when the app's handler has returned without sending it. It may change
	// header, and must not use the app's ResponseWriter, which waits for it.
	// If it returns an error, ServeError answers instead of the app.
	//
	// Hijack says that the app is about to take over the connection. Then header
	// reaches the client only if the app itself writes it there, or if the
	// connection is not given away after all.
	BeforeHeader(header http.Header, hijack bool) error

	// ServeError answers r because BeforeHeader returned err. W is the writer
	// that Serve was given, with the header it had then. If ServeError writes
	// nothing, the response is an empty one with status 200.
	ServeError(w http.ResponseWriter, r *http.Request, err error)
}

// Serve has next handle r, and runs hook as the package documentation says. The
// request that next gets carries hook, and Inside finds it under key, which is a
// pointer of the caller's: one handler, one key.
//
// Serve returns when next has returned and the hook has run. The files that
// ParseMultipartForm left on disk are removed by then, as net/http does it for
// the request of its own.
func Serve(w http.ResponseWriter, r *http.Request, next http.Handler, key any, hook Hook) {
	r = r.WithContext(context.WithValue(r.Context(), key, hook))
	if r.MultipartForm == nil { // else whoever parsed it removes them
		defer func() {
			if r.MultipartForm != nil {
				_ = r.MultipartForm.RemoveAll() // temporary files; net/http ignores it as well
			}
		}()
	}
	rw := &writer{inner: w, request: r, hook: hook, entered: w.Header().Clone()}
	next.ServeHTTP(rw, r)
	_ = rw.begin(false) // nobody is left to be told: ServeError has answered
}

// Inside returns the hook of the Serve call with key that ctx comes from: ctx is
// that of the request, or derived from it. If there is none, ok is false.
func Inside[H Hook](ctx context.Context, key any) (hook H, ok bool) {
	hook, ok = ctx.Value(key).(H)
	return hook, ok
}
