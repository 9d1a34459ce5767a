//go:build go1.25

package gaesession_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The time budget: what a request may cost in calls, and in time where every
// call takes as long as the model of App Engine says.
func TestRequestsKeepTheirBudget(t *testing.T) {
	only := options{OnlyMemcache: true}
	async := options{AsyncDatastoreSave: true}
	addOne := func(r *request, id string) {
		sess := r.Get(id)
		sess.SetAttr("count", sess.Attr("count").(int)+1)
	}
	get := func(r *request, id string) { r.Get(id) }
	remove := func(r *request, id string) { r.Remove(r.Get(id)) }
	add := func(r *request, _ string) { r.Add(session.NewSession()) }
	tests := []struct {
		name    string
		o       options
		evicted bool
		id      string // "": that of a saved session
		do      func(r *request, id string)
		calls   int
		ms      float64 // critical path
	}{
		{"no session cookie", options{}, false, "", func(*request, string) {}, 0, 0},
		{"malformed id: NUL", options{}, false, "a\x00b", get, 0, 0},
		{"malformed id: too long", options{}, false, strings.Repeat("x", 251), get, 0, 0},
		{"login", options{}, false, "", add, 2, 20},
		{"read, cached", options{}, false, "", get, 1, 1.5},
		{"change, cached", options{}, false, "", addOne, 6, 36},
		{"change, evicted", options{}, true, "", addOne, 9, 47},
		{"change, cached, asynchronous", async, false, "", addOne, 2, 3},
		{"read, evicted", options{}, true, "", get, 6, 22},
		{"unknown id", options{}, false, "unknown", get, 2, 9.5},
		{"logout", options{}, false, "", remove, 4, 23},
		{"login, only Memcache", only, false, "", add, 1, 1.5},
		{"read, only Memcache", only, false, "", get, 1, 1.5},
		{"change, only Memcache", only, false, "", addOne, 2, 3},
		{"unknown id, only Memcache", only, false, "unknown", get, 1, 1.5},
		{"logout, only Memcache", only, false, "", remove, 2, 3},
	}
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				id := test.id
				if id == "" {
					id = login(t, s, test.o, map[string]any{"count": 1})
				}
				if test.evicted {
					s.Flush()
				}
				calls, took := simulate(t, s, test.o, func(r *request) { test.do(r, id) })
				drain(t)
				if len(calls) != test.calls {
					t.Errorf("got %d calls, want %d: %v", len(calls), test.calls, calls)
				}
				if ms := took.Seconds() * 1000; ms < test.ms*0.8 || ms > test.ms*1.2 {
					t.Errorf("critical path: got %.1f ms, want %.1f", ms, test.ms)
				}
			})
		}
	})
}

// simulate runs a request in simulated time, and returns the calls it made
// before Close returned and the time it took.
func simulate(t *testing.T, s *gaetest.Service, o options, do func(*request)) (calls []gaetest.Call, took time.Duration) {
	t.Helper()
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		begin := time.Now()
		r := newSimulatedRequest(s, o)
		do(r)
		r.Close()
		end := time.Now()
		calls, took = r.CallsBefore(end), end.Sub(begin)
		if err := gaesession.Drain(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return calls, took
}

// What owners cost.
func TestOwnersKeepTheirBudget(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, test := range []struct {
			name       string
			owner      string // before
			do         func(s *gaesession.Sessions, r *http.Request) error
			calls      int
			ms         float64 // critical path
			background int     // calls
		}{
			{"login", "", func(s *gaesession.Sessions, r *http.Request) error {
				return s.Add(r, session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"user": "ada"}}))
			}, 7, 41, 0},
			{"login to a session", "nobody", func(s *gaesession.Sessions, r *http.Request) error {
				sess, err := s.Get(r)
				if sess != nil {
					sess.SetAttr("user", "ada")
				}
				return err
			}, 10, 42.5, 0},
			{"new id", "ada", func(s *gaesession.Sessions, r *http.Request) error { return s.RegenerateID(r) }, 10, 42.5, 0},
			{"logout", "ada", func(s *gaesession.Sessions, r *http.Request) error {
				sess, err := s.Get(r)
				if err == nil {
					err = s.Remove(r, sess)
				}
				return err
			}, 4, 23, 4},
		} {
			t.Run(test.name, func(t *testing.T) {
				sessions := &gaesession.Sessions{Owner: func(s session.Session) string {
					if u := userOf(s); u != "nobody" {
						return u
					}
					return ""
				}}
				cookie := ""
				serve := func(ctx context.Context, do func(r *http.Request) error) {
					r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
					if cookie != "" {
						r.AddCookie(&http.Cookie{Name: "sessid", Value: cookie})
					}
					w := httptest.NewRecorder()
					sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if err := do(r); err != nil {
							t.Error(err)
						}
					})).ServeHTTP(w, r)
					for _, c := range w.Result().Cookies() {
						cookie = c.Value
					}
				}
				if test.owner != "" {
					serve(s.Context(), func(r *http.Request) error {
						return sessions.Add(r, session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"user": test.owner}}))
					})
					drain(t)
				}
				gaetest.InSimulatedTime(t, func(t *testing.T) {
					began := time.Now()
					r := newSimulatedRequest(s, options{})
					serve(r.Context(), func(r *http.Request) error { return test.do(sessions, r) })
					end := time.Now()
					calls, took := len(r.CallsBefore(end)), end.Sub(began)
					if calls != test.calls {
						t.Errorf("got %d calls, want %d: %v", calls, test.calls, r.Calls())
					}
					if ms := took.Seconds() * 1000; ms < test.ms*0.8 || ms > test.ms*1.2 {
						t.Errorf("critical path: got %.1f ms, want %.1f", ms, test.ms)
					}
					if err := gaesession.Drain(context.Background()); err != nil {
						t.Error(err)
					}
					if n := len(r.Calls()) - calls; n != test.background {
						t.Errorf("got %d calls in the background, want %d: %v", n, test.background, r.Calls()[calls:])
					}
				})
			})
		}
	})
}

// A hundred sessions are removed in seven rounds, between two changes of the list.
func TestAHundredSessionsEndInAQuarterOfASecond(t *testing.T) {
	s := gaetest.Local(t)
	sessions := &gaesession.Sessions{Owner: userOf}
	for range 100 {
		r := httptest.NewRequestWithContext(s.Context(), http.MethodGet, "/", nil)
		sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := sessions.Add(r, session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"user": "ada"}})); err != nil {
				t.Error(err)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
	drain(t)
	if all, err := sessions.SessionsOf(s.Context(), "ada"); err != nil || len(all) != 100 {
		t.Fatalf("%d sessions, %v", len(all), err)
	}
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		r, began := newSimulatedRequest(s, options{}), time.Now()
		if err := sessions.RemoveAll(r.Context(), "ada"); err != nil {
			t.Error(err)
		}
		took := time.Since(began)
		t.Logf("%v, %d calls", took, len(r.Calls()))
		if took > 250*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
	if all, err := sessions.SessionsOf(s.Context(), "ada"); err != nil || len(all) != 0 {
		t.Errorf("%d sessions are left, %v", len(all), err)
	}
}
