// Package web lets an HTTP handler finish its work just before the header of the
// response leaves, and answer in place of the app if that work fails. It knows
// HTTP, not what the work is.
//
//	func (m *manager) Handler(next http.Handler) http.Handler {
//		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
//			if _, nested := web.Inside[*request](r.Context(), m); nested {
//				next.ServeHTTP(w, r)
//				return
//			}
//			web.Serve(w, r, next, m, &request{…}) // *request is the Hook
//			// Not reached if next panics.
//		})
//	}
//
// [Serve] calls the app's handler with a ResponseWriter that runs the [Hook].
// [Inside] finds the hook again, in the context of the app's request. [SetCookie],
// [VaryCookie] and [CookieValues] are what a hook needs to keep a cookie.
//
// # When BeforeHeader runs
//
// It runs once for a response, and whatever the app sends waits for it:
//
//	WriteHeader             for 101 and 200 to 999. Other 1xx pass without it
//	Write, WriteString      also of nothing, which sends the header as well
//	ReadFrom                which the inner writer may still do with sendfile
//	Flush, FlushError       if the inner writer can flush
//	Hijack                  if the inner writer can be hijacked
//	the handler returns     having sent nothing. The header stays open: whoever
//	                        is outside may still write it
//
// A handler that panics, or ends with runtime.Goexit, without having sent
// anything: it does not run, and the panic continues. A panic of BeforeHeader
// itself continues too, out of the app's Write; it is not run again, and what the
// app or a middleware sends afterwards passes.
//
// # When BeforeHeader fails
//
// The header is reset to what it was when Serve was called, and ServeError
// answers on the inner writer. From then on everything that the app sends returns
// an error that wraps [ErrReplaced] and the hook's error, and Header returns a
// copy that nobody sends. A hook that wants the app's response to go out all the
// same reports its error elsewhere and returns nil.
//
// # The ResponseWriter
//
// It has no Unwrap method, since whoever unwraps goes past the hook. It has the
// methods itself that an [http.ResponseController] and frameworks look for, and
// they use the inner writer, or what that wraps: Flush, FlushError, Hijack,
// SetReadDeadline, SetWriteDeadline, EnableFullDuplex, Push and CloseNotify. What
// no writer of the chain has does nothing and returns [http.ErrNotSupported];
// Flush has no result; CloseNotify's channel receives nothing.
//
// Goroutines of the app may use it while the handler runs, as far as the inner
// writer allows. The header is a map without a lock, here as in net/http, and
// BeforeHeader changes it.
//
// # Limits
//
//   - A middleware between Serve and the app that recovers from panics hides them:
//     its answer is a response like any other. It belongs outside.
//   - A type assertion for Flusher, Hijacker, Pusher or CloseNotifier always
//     succeeds.
//   - [http.MaxBytesReader] does not tell net/http that the client sent too much,
//     as with every wrapped writer: net/http then reads up to 256 KiB more before
//     it gives the connection up.
//   - An app that asked for Header before its response was replaced, keeps the map
//     and changes it afterwards, changes the error response, where the outer
//     writer buffers it ([http.TimeoutHandler], App Engine's middleware).
package web
