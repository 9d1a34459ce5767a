package gaesession_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/gaetest"
)

// Requests that read and requests that change a session, mixed, on the latency
// model: 8 clients with a session each, 200 requests an op.
func BenchmarkMix(b *testing.B) {
	const clients, requests = 8, 200
	for _, changes := range []int{1, 5, 20, 50} {
		b.Run(fmt.Sprintf("%d-%d", 100-changes, changes), func(b *testing.B) {
			for _, o := range openers {
				b.Run("store="+o.name, func(b *testing.B) {
					s := gaetest.Local(b)
					open, finish := o.opener(b, options{})
					var calls, next atomic.Int64
					var busy [clients]time.Duration
					client := func(i int, id string) {
						for {
							k := int(next.Add(1)) - 1
							if k >= requests*b.N {
								return
							}
							begin := time.Now()
							store := open(countedRequest(s, &calls).Context())
							if k%(100/changes) == 0 {
								addVisit(store, id)
							} else {
								store.Get(id)
							}
							store.Close()
							busy[i] += time.Since(begin)
						}
					}
					var ids [clients]string
					for i := range ids {
						ids[i] = login(b, s, options{}, fourAttrs)
					}
					b.ResetTimer()
					sideBySide(clients, func(i int) { client(i, ids[i]) })
					b.StopTimer()
					finish()
					n := float64(requests * b.N)
					var total time.Duration
					for _, t := range busy {
						total += t
					}
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(float64(calls.Load())/n, "calls/request")
					b.ReportMetric(milliseconds(total)/n, "ms/request")
					b.ReportMetric(n/b.Elapsed().Seconds(), "requests/s")
				})
			}
		})
	}
}

// countedRequest is a request on the latency model that counts its calls.
func countedRequest(s *gaetest.Service, calls *atomic.Int64, hooks ...gaetest.Hook) *gaetest.Request {
	count := gaetest.Hook{Before: func(context.Context, gaetest.Call) error {
		calls.Add(1)
		return nil
	}}
	return s.NewRequest(append(hooks, count, sleepLatency)...)
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

// Requests at the same time that each change an attribute of their own, all in
// one session or each in its own, on the latency model. An op is one round.
//
//	ms/request       median
//	ms-last/round    from the start of a round to the end of its last request, median
//	attempts/change  transactions begun for it, in the background, too
//	lost/change      changes that are not in the session at the end; ours must lose none
func BenchmarkOverlap(b *testing.B) {
	stores := append(openers[:len(openers):len(openers)], struct {
		name string
		opener
	}{"ours-async", func(b *testing.B, o options) (func(context.Context) session.Store, func()) {
		o.AsyncDatastoreSave = true
		return ours(b, o)
	}})
	for _, one := range []bool{true, false} {
		for _, n := range []int{1, 8, 64} {
			name := fmt.Sprintf("own session/%d at once", n)
			if one {
				name = fmt.Sprintf("one session/%d at once", n)
			}
			for _, o := range stores {
				b.Run(name+"/store="+o.name, func(b *testing.B) { benchmarkOverlap(b, one, n, o.opener, o.name != "blind") })
			}
		}
	}
}

func benchmarkOverlap(b *testing.B, one bool, n int, opener opener, keeps bool) {
	s := gaetest.Local(b)
	open, finish := opener(b, options{})
	attr := func(i int) string { return fmt.Sprint("count", i) }
	ids := make([]string, n)
	for i := range ids {
		if ids[i] = ids[0]; i == 0 || !one {
			ids[i] = login(b, s, options{}, fourAttrs)
		}
	}
	var calls, attempts atomic.Int64
	begins := gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
		if c.Method == "BeginTransaction" {
			attempts.Add(1)
		}
		return nil
	}}
	var last []time.Duration
	took := make([]time.Duration, n*b.N)
	for round := range b.N {
		begin := time.Now()
		sideBySide(n, func(i int) {
			store := open(countedRequest(s, &calls, begins).Context())
			sess := store.Get(ids[i])
			count, _ := sess.Attr(attr(i)).(int)
			sess.SetAttr(attr(i), count+1)
			store.Close()
			took[round*n+i] = time.Since(begin)
		})
		last = append(last, time.Since(begin))
		finish()
	}
	missing := func() (lost int) {
		for i := range n {
			got, _ := read(b, s, options{}, ids[i])[attr(i)].(int)
			lost += b.N - got
		}
		return lost
	}
	lost := missing()
	s.Flush()
	lost = max(lost, missing()) // Datastore's view
	if lost > 0 && keeps {
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
