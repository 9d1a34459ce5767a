package gaesession_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/gaetest"
)

// The benchmarks compare this package ("ours") with the calls that
// icza/gaesession v2 makes ("blind"), in one run.

// fourAttrs are the attributes of the benchmarks' sessions.
var fourAttrs = map[string]any{"user": "alice", "email": "alice@example.com", "visits": 1, "level": 7}

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

func addVisit(s session.Store, id string) {
	sess := s.Get(id)
	sess.SetAttr("visits", sess.Attr("visits").(int)+1)
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
	var calls, late int64
	s := gaetest.Local(b)
	run := func(hooks ...gaetest.Hook) time.Duration {
		id := row.id
		if id == "" {
			id = login(b, s, row.o, fourAttrs)
		}
		if row.evicted {
			s.Flush()
		}
		var foreground, background atomic.Int64
		count := gaetest.Hook{Before: func(ctx context.Context, _ gaetest.Call) error {
			if isLate(ctx) {
				background.Add(1)
			} else {
				foreground.Add(1)
			}
			return nil
		}}
		ctx := s.NewRequest(append(hooks, count)...).Context()
		begin := time.Now()
		store := open(ctx)
		row.do(store, id)
		store.Close()
		took := time.Since(begin)
		finish()
		calls += foreground.Load()
		late += background.Load()
		return took
	}
	var slept, local []time.Duration
	for range b.N {
		slept = append(slept, run(sleepLatency))
		local = append(local, run())
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op") // would count the preparation, too
	b.ReportMetric(float64(calls)/2/n, "calls/request")
	if late > 0 {
		b.ReportMetric(float64(late)/2/n, "late-calls/request")
	}
	b.ReportMetric(milliseconds(median(slept)), "ms/request")
	b.ReportMetric(milliseconds(median(local)), "ms-local/request")
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// sleepLatency sleeps as long as a call takes on the model of App Engine.
var sleepLatency = gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
	time.Sleep(gaetest.AppEngineLatency(c))
	return nil
}}

// An opener makes the stores of one benchmark, each for one request. finish
// waits for what a store does after Close, and fails the benchmark when
// something went wrong.
type opener func(b *testing.B, o options) (open func(ctx context.Context) session.Store, finish func())

var openers = []struct {
	name string
	opener
}{
	{"ours", ours},
	{"blind", blind},
}

func ours(b *testing.B, o options) (func(context.Context) session.Store, func()) {
	o.OnError = func(_ context.Context, err error) {
		if !errors.Is(err, gaesession.ErrInvalidID) {
			b.Error(err)
		}
	}
	open := func(ctx context.Context) session.Store { return gaesession.NewMemcacheStoreOptions(ctx, &o) }
	return open, func() {
		if o.AsyncDatastoreSave {
			drain(b)
		}
	}
}

func blind(_ *testing.B, o options) (func(context.Context) session.Store, func()) {
	var late sync.WaitGroup
	return func(ctx context.Context) session.Store { return newBlindStore(ctx, o, &late) }, late.Wait
}

// isLate tells the calls of a save in the background: they have a deadline,
// the requests of the benchmarks have none.
func isLate(ctx context.Context) bool {
	_, ok := ctx.Deadline()
	return ok
}
