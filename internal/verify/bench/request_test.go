package bench

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// A rowOfBudget is a kind of request of the time budget.
type rowOfBudget struct {
	name    string
	o       options
	evicted bool
	id      string // "": that of a saved session
	do      func(s session.Store, id string)
}

func rowsOfBudget() []rowOfBudget {
	only := options{OnlyMemcache: true}
	async := options{AsyncDatastoreSave: true}
	none := func(session.Store, string) {}
	add := func(s session.Store, _ string) {
		s.Add(session.NewSessionOptions(&session.SessOptions{Attrs: fourAttrs}))
	}
	get := func(s session.Store, id string) { s.Get(id) }
	remove := func(s session.Store, id string) { s.Remove(s.Get(id)) }
	return []rowOfBudget{
		{"no cookie", options{}, false, "none", none},
		{"malformed id", options{}, false, strings.Repeat("x", 251), get},
		{"login", options{}, false, "new", add},
		{"read", options{}, false, "", get},
		{"change", options{}, false, "", addVisit},
		{"change async", async, false, "", addVisit},
		{"read evicted", options{}, true, "", get},
		{"unknown id", options{}, false, "unknown", get},
		{"logout", options{}, false, "", remove},
		{"only Memcache login", only, false, "new", add},
		{"only Memcache read", only, false, "", get},
		{"only Memcache change", only, false, "", addVisit},
		{"only Memcache unknown id", only, false, "unknown", get},
		{"only Memcache logout", only, false, "", remove},
	}
}

// prepare makes the session of the row, and returns its id.
func (r rowOfBudget) prepare(tb testing.TB, s *gaetest.Service) string {
	id := r.id
	if id == "" {
		id = login(tb, s, r.o)
	}
	if r.evicted {
		s.Flush()
	}
	return id
}

// Each kind of request, on gaelocal and with the latency model of App Engine
// really slept.
//
//	calls/request      before Close returns
//	late-calls/request after it, of a save in the background
//	ms/request         with the model, median
//	ms-local/request   without it: what gaelocal, HTTP and the store take, median
func BenchmarkRequest(b *testing.B) {
	for _, row := range rowsOfBudget() {
		b.Run(row.name, func(b *testing.B) {
			for _, o := range openers {
				b.Run("store="+o.name, func(b *testing.B) { benchmarkRequest(b, row, o.opener) })
			}
		})
	}
}

func benchmarkRequest(b *testing.B, row rowOfBudget, opener opener) {
	open, finish := opener(b, row.o)
	s := gaetest.Local(b)
	var calls, late atomic.Int64
	count := countCalls(func(ctx context.Context, _ gaetest.Call) {
		if isLate(ctx) {
			late.Add(1)
		} else {
			calls.Add(1)
		}
	})
	run := func(hooks ...gaetest.Hook) time.Duration {
		id := row.prepare(b, s)
		ctx := s.NewRequest(append(hooks, count)...).Context()
		begin := time.Now()
		store := open(ctx)
		row.do(store, id)
		store.Close()
		took := time.Since(begin)
		finish()
		return took
	}
	var slept, local []time.Duration
	for range b.N {
		slept = append(slept, run(sleepLatency))
		local = append(local, run())
	}
	runs := float64(2 * b.N)
	b.ReportMetric(0, "ns/op") // would count the preparation, too
	b.ReportMetric(float64(calls.Load())/runs, "calls/request")
	if late.Load() > 0 {
		b.ReportMetric(float64(late.Load())/runs, "late-calls/request")
	}
	b.ReportMetric(milliseconds(median(slept)), "ms/request")
	b.ReportMetric(milliseconds(median(local)), "ms-local/request")
}

// isLate reports whether a call is one of a save in the background.
func isLate(ctx context.Context) bool {
	return instance.Background(ctx) != nil
}
