// Package frameworks checks that internal/web works with what apps are written
// in: chi, gin, echo and gorilla/mux, and two WebSocket libraries. There is
// nothing but tests in it; it is a module of its own so that nobody else needs
// the frameworks.
//
// A handler like those of the session stores stands around the framework, and,
// where the framework takes func(http.Handler) http.Handler, is its middleware.
// Its hook marks the header, so a response with the mark was sent after it.
// cascadestore.Handler is the middleware of an app of gorilla/mux as well.
package frameworks
