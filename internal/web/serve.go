package web

import (
	"context"
	"net/http"
)

// A Hook is what a handler keeps about one request, and does for its response.
type Hook interface {
	// BeforeHeader is called once, before the first byte of the header leaves,
	// or when the app's handler has returned without sending it. It may change
	// header. It must not use the app's ResponseWriter, which waits for it. If
	// it returns an error, ServeError answers instead of the app.
	//
	// Hijack says that the app is about to take over the connection. Then header
	// reaches the client only if the app writes it to the connection, or if the
	// inner writer fails to hand the connection over.
	BeforeHeader(header http.Header, hijack bool) error

	// ServeError answers r because BeforeHeader returned err. W is the writer
	// that Serve was given, with the header it had then. If ServeError writes
	// nothing, the response is an empty one with status 200.
	ServeError(w http.ResponseWriter, r *http.Request, err error)
}

// Serve has next handle r, and runs hook as the package documentation says. The
// request that next gets carries hook in its context, where Inside finds it under
// key. Key is a pointer that belongs to the handler that calls Serve.
//
// When it ends, even with a panic, Serve removes the temporary files of a form that
// next parsed. Net/http does so only for the request that it made itself, and
// next gets a copy.
func Serve(w http.ResponseWriter, r *http.Request, next http.Handler, key any, hook Hook) {
	r = r.WithContext(context.WithValue(r.Context(), key, hook))
	if r.MultipartForm == nil { // else whoever parsed it removes the files
		defer func() {
			if r.MultipartForm != nil {
				_ = r.MultipartForm.RemoveAll() // net/http ignores the error as well
			}
		}()
	}
	rw := &writer{inner: w, request: r, hook: hook, entered: w.Header().Clone()}
	defer rw.skip() // unless begin has run the hook
	next.ServeHTTP(rw, r)
	_ = rw.begin(false) // if it failed, ServeError has answered
}

// Inside returns the hook that Serve was called with under key, if ctx is the
// context of a request that Serve passed on, or derived from one. Otherwise ok is
// false.
func Inside[H Hook](ctx context.Context, key any) (hook H, ok bool) {
	hook, ok = ctx.Value(key).(H)
	return hook, ok
}
