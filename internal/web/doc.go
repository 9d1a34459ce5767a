// Package web lets an HTTP handler finish its work just before the header of the
// response leaves, and answer in place of the app if that work fails. It knows
// HTTP, not what the work is.
//
//	func (m *manager) Handler(next http.Handler) http.Handler {
//		return web.Handler(next, m, func(r *http.Request) web.Hook { return &request{…} })
//	}
//
// [Handler] calls the app's handler with a ResponseWriter that runs the [Hook].
// [Inside] finds the hook again, in the context of the app's request. [SetCookie],
// [VaryCookie] and [CookieValues] are what a hook needs to keep a cookie, and [Fail]
// is how it answers when a session could not be saved.
//
// # When BeforeHeader runs
//
// It runs once per response. The first of these calls triggers it, and goes ahead
// when it has returned:
//
//	WriteHeader             with 101, or 200 to 999. Other 1xx pass without it
//	Write, WriteString      even of nothing, since that sends the header as well
//	ReadFrom                the inner writer can still use sendfile
//	Flush, FlushError       if the inner writer can flush
//	Hijack                  if the inner writer can be hijacked
//	the handler returns     and has sent nothing. Handler does not send the header:
//	                        whoever called it still can
//
// If the handler panics, or calls runtime.Goexit, and has sent nothing,
// BeforeHeader does not run; the panic continues, and what a middleware outside
// sends passes, even if it uses the app's ResponseWriter. A panic of BeforeHeader itself
// continues out of the app's call. It does not run again, and what the app or a
// middleware sends afterwards passes.
//
// # When BeforeHeader fails
//
// The header is reset to what it was when Handler was entered, and ServeError
// answers on the inner writer. From then on Write, WriteString, ReadFrom,
// FlushError and Hijack return an error that wraps [ErrReplaced] and the hook's
// error, WriteHeader and Flush do nothing, and Header returns a copy that nobody
// sends. A hook that wants the app's response to go out in spite of an error
// reports the error elsewhere and returns nil.
//
// # The ResponseWriter
//
// It has no Unwrap method, since whoever unwraps it bypasses the hook. It has the
// methods that [http.ResponseController] and frameworks look for, and passes them
// on to the inner writer or to what that wraps: Flush, FlushError, Hijack,
// SetReadDeadline, SetWriteDeadline, EnableFullDuplex, Push and CloseNotify. If no
// writer of the chain has the method, the call does nothing and returns
// [http.ErrNotSupported]; CloseNotify returns a channel that receives nothing.
//
// The app's goroutines may use it while the handler runs, as far as the inner
// writer allows. The header is a map without a lock, as in net/http, and
// BeforeHeader changes it.
//
// # Limits
//
//   - A middleware between Handler and the app that recovers from panics hides them:
//     its answer is a response like any other, and triggers BeforeHeader. Such a
//     middleware belongs outside of Handler.
//   - A type assertion to Flusher, Hijacker, Pusher or CloseNotifier always
//     succeeds, whatever the inner writer can do.
//   - [http.MaxBytesReader] cannot tell net/http that a request is too large, as
//     with any wrapped writer. So net/http reads up to 256 KiB more of its body
//     before it closes the connection.
//   - If the inner writer buffers ([http.TimeoutHandler], App Engine's
//     middleware), an app that keeps the map of an earlier Header call, and
//     changes it after its response was replaced, changes the error response.
package web
