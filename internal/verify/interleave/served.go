//go:build go1.25

package interleave

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"

	"github.com/gaesession/gaesession/internal/instance"
)

// A served is an HTTP request inside a store's Handler: a goroutine is in the app's
// handler while the request's own does what the app does.
type served struct {
	ctx      context.Context
	begun    chan *http.Request // gets the request as the app gets it
	acted    chan struct{}      // closed: the app's handler returns
	answered chan struct{}      // closed: the request has been answered
	answer   *httptest.ResponseRecorder
}

func newServed(ctx context.Context) *served {
	return &served{ctx: ctx, begun: make(chan *http.Request, 1), acted: make(chan struct{}), answered: make(chan struct{})}
}

// newHTTPRequest returns one as a server gets it. It is made by hand, as httptest would
// print and parse it, which takes longer than some stores take to serve it.
func newHTTPRequest(ctx context.Context) *http.Request {
	r := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/"}, RequestURI: "/", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Host: "example.com", RemoteAddr: "192.0.2.1:1234",
	}
	return r.WithContext(ctx)
}

// begin begins a request with a cookie, if that has a value, and returns it as the
// app gets it; nil: the app does not get to serve it.
func (s *served) begin(handler http.Handler, cookie *http.Cookie) *http.Request {
	r := newHTTPRequest(s.ctx)
	if cookie.Value != "" {
		r.AddCookie(cookie)
	}
	s.answer = httptest.NewRecorder()
	go func() {
		defer close(s.answered)
		handler.ServeHTTP(s.answer, r)
	}()
	select {
	case r := <-s.begun:
		return r
	case <-s.answered:
		return nil
	}
}

// serve is the app's handler.
func (s *served) serve(_ http.ResponseWriter, r *http.Request) {
	s.begun <- r
	select {
	case <-s.acted:
	case <-instance.Of(s.ctx).Over:
		runtime.Goexit()
	}
}

// end has the app's handler return, and waits for the answer.
func (s *served) end() {
	close(s.acted)
	<-s.answered
}

// cookie is the one that the browser gets; nil: none.
func (s *served) cookie() (cookie *http.Cookie) {
	if s.answer == nil {
		return nil
	}
	for _, c := range s.answer.Result().Cookies() {
		cookie = c
	}
	return cookie
}
