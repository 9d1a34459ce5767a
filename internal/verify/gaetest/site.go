package gaetest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2/memcache"
)

// A Site is a web app on a service. Its server runs whatever handler a browser
// brings.
type Site struct {
	Service *Service
	Server  *httptest.Server // nil in simulated time, which no network knows

	tb testing.TB

	mu     sync.Mutex
	visits map[string]visited
}

type visited struct {
	request *Request
	handler http.HandlerFunc
}

// NewSite starts an app.
func NewSite(tb testing.TB, s *Service) *Site {
	tb.Helper()
	site := NewSimulatedSite(tb, s)
	site.Server = httptest.NewServer(http.HandlerFunc(site.Serve))
	tb.Cleanup(site.Server.Close)
	return site
}

// NewSimulatedSite starts an app inside of a testing/synctest bubble.
func NewSimulatedSite(tb testing.TB, s *Service) *Site {
	return &Site{Service: s, tb: tb, visits: make(map[string]visited)}
}

// NewRequest returns a request to be made of the app.
func (s *Site) NewRequest(hooks ...Hook) *Request {
	if s.Server == nil {
		return s.Service.NewSimulatedRequest(AppEngineLatency, hooks...)
	}
	return s.Service.NewRequest(hooks...)
}

// Context is that of a request whose calls are not watched, and take no time.
func (s *Site) Context() context.Context {
	if s.Server == nil {
		return s.Service.NewSimulatedRequest(func(Call) time.Duration { return 0 }).Context()
	}
	return s.Service.Context()
}

// Flush empties Memcache.
func (s *Site) Flush() {
	s.tb.Helper()
	if err := memcache.Flush(s.Context()); err != nil {
		s.tb.Fatalf("flush Memcache: %v", err)
	}
}

const visitHeader = "X-Visit"

// Serve answers the requests of browsers: the handler of Server.
func (s *Site) Serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	v := s.visits[r.Header.Get(visitHeader)]
	s.mu.Unlock()
	v.handler(w, r.WithContext(v.request.Context()))
}

// To returns an HTTP request to Server that handler answers, and whose calls request
// watches.
func (s *Site) To(request *Request, handler http.HandlerFunc) *http.Request {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.Server.URL, nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprint(len(s.visits))
	s.visits[id] = visited{request, handler}
	r.Header.Set(visitHeader, id)
	return r
}

// A Browser keeps cookies.
type Browser struct {
	Client *http.Client
	site   *Site
}

// NewBrowser returns a browser without cookies.
func (s *Site) NewBrowser() *Browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	return &Browser{&http.Client{Jar: jar}, s}
}

// Clone returns a browser with the same cookies.
func (b *Browser) Clone() *Browser {
	c := b.site.NewBrowser()
	c.Client.Jar.SetCookies(b.URL(), b.Client.Jar.Cookies(b.URL()))
	return c
}

// URL is the app's address.
func (b *Browser) URL() *url.URL {
	address := "http://localhost"
	if b.site.Server != nil {
		address = b.site.Server.URL
	}
	u, err := url.Parse(address)
	if err != nil {
		b.site.tb.Fatal(err)
	}
	return u
}

// Cookie is the value of a cookie; empty: there is none.
func (b *Browser) Cookie(name string) string {
	for _, c := range b.Client.Jar.Cookies(b.URL()) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// SetCookie has the browser keep a cookie.
func (b *Browser) SetCookie(name, value string) {
	b.Client.Jar.SetCookies(b.URL(), []*http.Cookie{{Name: name, Value: value, Path: "/"}})
}

// A Visit is one request of a browser that was answered.
type Visit struct {
	Request  *Request // watches the calls
	Response *http.Response
}

// Commits counts the transactions that the request wrote with.
func (v *Visit) Commits() int { return Commits(v.Request.Calls()) }

// Commits counts the calls that commit a transaction.
func Commits(calls []Call) (n int) {
	for _, c := range calls {
		if c.Method == "Commit" {
			n++
		}
	}
	return n
}

// Visit makes a request that handler answers, and returns when it is answered.
func (b *Browser) Visit(handler http.HandlerFunc, hooks ...Hook) *Visit {
	return b.VisitOn(b.site.NewRequest(hooks...), handler)
}

// VisitOn is Visit with a request of the caller's, which several visits may share:
// then they are on one instance.
func (b *Browser) VisitOn(request *Request, handler http.HandlerFunc) *Visit {
	v := &Visit{Request: request, Response: &http.Response{}}
	if b.site.Server == nil {
		w, r := b.Exchange()
		handler(w, r.WithContext(request.Context()))
		v.Response = w.Result()
		b.Client.Jar.SetCookies(b.URL(), v.Response.Cookies())
		return v
	}
	response, err := b.Client.Do(b.site.To(request, handler))
	if err != nil {
		b.site.tb.Error(err)
		return v
	}
	if err := response.Body.Close(); err != nil {
		b.site.tb.Error(err)
	}
	v.Response = response
	return v
}

// Exchange returns what the browser sends without a network, and where the answer
// goes.
func (b *Browser) Exchange() (*httptest.ResponseRecorder, *http.Request) {
	r := httptest.NewRequest(http.MethodGet, b.URL().String(), nil)
	for _, c := range b.Client.Jar.Cookies(b.URL()) {
		r.AddCookie(c)
	}
	return httptest.NewRecorder(), r
}
