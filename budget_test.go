//go:build go1.25

package gaesession_test

import (
	"context"
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
	inSimulatedTime(t, func(t *testing.T) {
		begin := time.Now()
		r := newSimulatedRequest(s, o)
		do(r)
		r.Close()
		calls, took = r.Calls(), time.Since(begin)
		if err := gaesession.Drain(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return calls, took
}
