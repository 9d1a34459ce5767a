package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Requests that read and requests that change a session, mixed, on the latency
// model: 8 clients with a session each, 200 requests an op.
func BenchmarkMix(b *testing.B) {
	for _, changes := range []int{1, 5, 20, 50} {
		b.Run(fmt.Sprintf("%d-%d", 100-changes, changes), func(b *testing.B) {
			for _, o := range openers {
				b.Run("store="+o.name, func(b *testing.B) { benchmarkMix(b, changes, o.opener) })
			}
		})
	}
}

func benchmarkMix(b *testing.B, changes int, opener opener) {
	const clients, requests = 8, 200
	s := gaetest.Local(b)
	open, finish := opener(b, options{})
	var calls, next, busy atomic.Int64
	count := countCalls(func(context.Context, gaetest.Call) { calls.Add(1) })
	var ids [clients]string
	for i := range ids {
		ids[i] = login(b, s, options{})
	}
	b.ResetTimer()
	sideBySide(clients, func(i int) {
		for {
			k := int(next.Add(1)) - 1
			if k >= requests*b.N {
				return
			}
			begin := time.Now()
			store := open(s.NewRequest(count, sleepLatency).Context())
			if k%(100/changes) == 0 {
				addVisit(store, ids[i])
			} else {
				store.Get(ids[i])
			}
			store.Close()
			busy.Add(int64(time.Since(begin)))
		}
	})
	b.StopTimer()
	finish()
	n := float64(requests * b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(calls.Load())/n, "calls/request")
	b.ReportMetric(milliseconds(time.Duration(busy.Load()))/n, "ms/request")
	b.ReportMetric(n/b.Elapsed().Seconds(), "requests/s")
}

func sideBySide(n int, f func(i int)) {
	var wait sync.WaitGroup
	for i := range n {
		wait.Add(1)
		go func() {
			defer wait.Done()
			f(i)
		}()
	}
	wait.Wait()
}

// Requests at the same time that each change an attribute of their own, on the
// latency model: all in one session, on instances of their own or on one, or
// each in a session of its own. An op is one round.
//
//	ms/request       median
//	ms-last/round    from the start of a round to the end of its last request, median
//	attempts/change  transactions begun for it, in the background, too
//	lost/change      changes that are not in the session at the end; ours must lose none
func BenchmarkOverlap(b *testing.B) {
	oursAsync := func(tb testing.TB, o options) (func(context.Context) session.Store, func()) {
		o.AsyncDatastoreSave = true
		return ours(tb, o)
	}
	stores := append(openers[:len(openers):len(openers)], namedOpener{"ours-async", oursAsync})
	for _, of := range []struct {
		name           string
		one, instances bool
	}{
		{"one session", true, true},
		{"one session and instance", true, false},
		{"own session", false, true},
	} {
		for _, n := range []int{1, 8, 64} {
			for _, o := range stores {
				b.Run(fmt.Sprintf("%s/%d at once/store=%s", of.name, n, o.name), func(b *testing.B) {
					benchmarkOverlap(b, of.one, of.instances, n, o)
				})
			}
		}
	}
}

func benchmarkOverlap(b *testing.B, one, instances bool, n int, o namedOpener) {
	s := gaetest.Local(b)
	open, finish := o.opener(b, options{})
	attr := func(i int) string { return fmt.Sprint("count", i) }
	ids := make([]string, n)
	for i := range ids {
		if ids[i] = ids[0]; i == 0 || !one {
			ids[i] = login(b, s, options{})
		}
	}
	var calls, attempts atomic.Int64
	count := countCalls(func(_ context.Context, c gaetest.Call) {
		calls.Add(1)
		if c.Method == "BeginTransaction" {
			attempts.Add(1)
		}
	})
	request := func() context.Context {
		ctx := s.NewRequest(count, sleepLatency).Context()
		if !instances {
			ctx = instance.With(ctx, instance.Instance{Name: s})
		}
		return ctx
	}
	var last []time.Duration
	took := make([]time.Duration, n*b.N)
	for round := range b.N {
		begin := time.Now()
		sideBySide(n, func(i int) {
			store := open(request())
			addOne(store, ids[i], attr(i))
			store.Close()
			took[round*n+i] = time.Since(begin)
		})
		last = append(last, time.Since(begin))
		finish()
	}
	missing := func() (lost int) {
		open, _ := ours(b, options{})
		for i := range n {
			store := open(s.Context())
			got := 0
			if sess := store.Get(ids[i]); sess != nil {
				got, _ = sess.Attr(attr(i)).(int)
			}
			lost += b.N - got
		}
		return lost
	}
	lost := missing()
	s.Flush()
	lost = max(lost, missing()) // Datastore's view
	if lost > 0 && o.name != "blind" {
		b.Errorf("%d changes are lost", lost)
	}
	changes := float64(n * b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(median(took)), "ms/request")
	b.ReportMetric(milliseconds(median(last)), "ms-last/round")
	b.ReportMetric(float64(calls.Load())/changes, "calls/request")
	b.ReportMetric(float64(attempts.Load())/changes, "attempts/change")
	b.ReportMetric(float64(lost)/changes, "lost/change")
}
