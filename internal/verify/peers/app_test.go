package peers

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gaesession/gaesession/tier"
)

// An app is the web app of these tests, with its sessions in one library's store:
//
//	/login   begins a session with four attributes
//	/read    answers with the attribute that the query names, a number
//	/add     adds one to it, and answers with the sum
//	/logout  ends the session
//
// Without a session it answers 401, and 503 when the store returns an error.
type app struct {
	name   string
	lib    library
	ours   bool
	beside []string // what it is compared with

	handler http.Handler
	server  string // the address of a server with it, if there is one
}

// A library has sessions, in its own way.
type library interface {
	// around is the library's handler around the app.
	around(next http.Handler) http.Handler
	login(w http.ResponseWriter, r *http.Request, attrs map[string]any) error
	// open returns the request's session, or nil if it has none.
	open(r *http.Request) (values, error)
}

// values are an open session's.
type values interface {
	get(name string) any
	set(name string, v any)
	save(w http.ResponseWriter, r *http.Request) error
	remove(w http.ResponseWriter, r *http.Request) error
}

func newApp(name string, l library) *app {
	a := &app{name: name, lib: l}
	a.handler = l.around(http.HandlerFunc(a.serve))
	return a
}

func (a *app) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/login" {
		answer(w, 0, a.lib.login(w, r, map[string]any{
			"user": "alice", "email": "alice@example.com", "level": 7, "visits": 0,
		}))
		return
	}
	sess, err := a.lib.open(r)
	if err != nil {
		answer(w, 0, err)
		return
	}
	if sess == nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if loaded, ok := r.Context().Value(loadedKey{}).(func()); ok {
		loaded()
	}
	n, _ := sess.get(r.URL.RawQuery).(int)
	switch r.URL.Path {
	case "/add":
		n++
		sess.set(r.URL.RawQuery, n)
		err = sess.save(w, r)
	case "/logout":
		err = sess.remove(w, r)
	}
	answer(w, n, err)
}

// answer sends a number. What a store has done, and could not tell everybody, is
// no error.
func answer(w http.ResponseWriter, n int, err error) {
	unreported(context.Background(), err)
	if err != nil && (errors.Is(err, tier.ErrNotSaved) || !errors.Is(err, tier.ErrNotBackedUp) && !errors.Is(err, tier.ErrNotPublished)) {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write(strconv.AppendInt(nil, int64(n), 10)) // to a response, which takes it
}

// loadedKey is what a context has a function under that is to be called when the
// request has loaded its session.
type loadedKey struct{}

// A client is a browser. It makes one request at a time, straight to the app's handler
// unless it has the address of a server.
type client struct {
	app     *app
	cookies map[string]string
	server  string
}

func newClient(a *app) *client { return &client{app: a, cookies: map[string]string{}} }

// again is a browser with the same cookies.
func (c *client) again() *client {
	other := newClient(c.app)
	maps.Copy(other.cookies, c.cookies)
	return other
}

// A response is what a request was answered.
type response struct {
	status, n int
	ended     bool // it took a cookie away
}

func (r response) ok() bool { return r.status == http.StatusOK }

// do makes a request with a context that can be cancelled.
func (c *client) do(ctx context.Context, path, query string) response {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := (&http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: path, RawQuery: query}, Host: "example.com",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody,
	}).WithContext(ctx)
	for name, value := range c.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := &recorder{header: http.Header{}, status: http.StatusOK}
	if c.server == "" {
		c.app.handler.ServeHTTP(w, r)
	} else {
		c.send(w, r)
	}
	res := response{status: w.status}
	res.n, _ = strconv.Atoi(w.body.String()) // an error's text is no number
	for _, line := range w.header["Set-Cookie"] {
		cookie, err := http.ParseSetCookie(line)
		if err != nil {
			continue // a browser ignores it
		}
		if cookie.MaxAge < 0 {
			delete(c.cookies, cookie.Name)
			res.ended = true
		} else {
			c.cookies[cookie.Name] = cookie.Value
		}
	}
	return res
}

// connections are those of all clients to servers.
var connections = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}

// send sends a request to the server. Without an answer the status is 502.
func (c *client) send(w *recorder, r *http.Request) {
	r.URL.Scheme, r.URL.Host = "http", c.server
	res, err := connections.Do(r)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = res.Body.Close() }() // it has been read
	if _, err := io.Copy(&w.body, res.Body); err != nil {
		w.status = http.StatusBadGateway
		return
	}
	w.header, w.status = res.Header, res.StatusCode
}

// A recorder is a ResponseWriter. It remembers the first status only.
type recorder struct {
	header http.Header
	status int
	sent   bool
	body   strings.Builder
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if !w.sent {
		w.status, w.sent = status, true
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.sent = true
	return w.body.Write(b)
}
