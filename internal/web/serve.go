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
	// that Handler was given, with the header it had then. If ServeError writes
	// nothing, the response is an empty one with status 200.
	ServeError(w http.ResponseWriter, r *http.Request, err error)

	// Finish is called when the app's handler has returned and its response, or
	// the error response, has begun. It is not called if the handler panics.
	Finish()
}

// Handler returns a handler that has next handle requests, each with the hook that
// begin returns for it, as the package documentation says. The request that next gets
// carries the hook in its context, where Inside finds it under key: a pointer that
// belongs to the caller. If a handler with that key stands around this one, requests
// pass through. If begin returns nil, the answer has status 500, and next is not
// called.
//
// When next ends, even with a panic, Handler removes the temporary files of a form
// that next parsed. Net/http does so only for the request that it made itself, and
// next gets a copy.
func Handler(next http.Handler, key any, begin func(r *http.Request) Hook) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, nested := Inside[Hook](r.Context(), key); nested {
			next.ServeHTTP(w, r)
			return
		}
		hook := begin(r)
		if hook == nil {
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			return
		}
		run(w, r, next, key, hook)
	})
}

func run(w http.ResponseWriter, r *http.Request, next http.Handler, key any, hook Hook) {
	of := &response{Context: r.Context(), key: key}
	r = r.WithContext(of)
	of.writer = writer{inner: w, request: r, hook: hook, entered: fieldsOf(w.Header())}
	if r.MultipartForm == nil { // else whoever parsed it removes the files
		defer func() {
			if r.MultipartForm != nil {
				_ = r.MultipartForm.RemoveAll() // net/http ignores the error as well
			}
		}()
	}
	defer of.skip() // unless begin has run the hook
	next.ServeHTTP(&of.writer, r)
	_ = of.begin(false) // if it failed, ServeError has answered
	hook.Finish()
}

// A response is what Handler makes for a request, in one allocation: the app's writer,
// and the context in which Inside finds the hook.
type response struct {
	context.Context
	key any
	writer
}

// Value implements context.Context.
func (of *response) Value(key any) any {
	if key == of.key {
		return of.hook
	}
	return of.Context.Value(key)
}

// Inside returns the hook of the Handler with that key, if ctx is the context of a
// request that the Handler passed on, or derived from one. Otherwise ok is
// false.
func Inside[H Hook](ctx context.Context, key any) (hook H, ok bool) {
	hook, ok = ctx.Value(key).(H)
	return hook, ok
}
