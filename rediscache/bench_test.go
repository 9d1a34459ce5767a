package rediscache_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// BenchmarkBesidePlainRedis compares calls of the cache with go-redis' own GET
// and SET of as many bytes on the same server, in turns: the median of the
// ratios in 101 rounds, and between what eight rounds of ten were. With a deadline, as
// the stores give every call, calls of the same moment share a round trip. A context
// without one, that can be cancelled, costs the cache another goroutine, because the
// client does not look at it while it waits.
func BenchmarkBesidePlainRedis(b *testing.B) {
	const keys, rounds = 80, 101
	s := newServer(b)
	client := redis.NewClient(rediscache.ClientOptions(s.addr()))
	b.Cleanup(func() { _ = client.Close() })
	c := newCache(b, client)
	value := make([]byte, 4<<10)
	it := tier.Item{Value: value}
	var ids, plain [keys]string
	var read [keys]*tier.Item
	for i := range keys {
		ids[i], plain[i] = "id"+strconv.Itoa(i), "plain"+strconv.Itoa(i)
	}
	check := func(err error) {
		if err != nil {
			b.Error(err)
		}
	}

	type call func(ctx context.Context, i int)
	plainGet := func(ctx context.Context, i int) { check(client.Get(ctx, plain[i]).Err()) }
	plainSet := func(ctx context.Context, i int) { check(client.Set(ctx, plain[i], value, time.Hour).Err()) }
	set := func(ctx context.Context, i int) { check(c.Set(ctx, ids[i], it, time.Hour)) }
	get := func(ctx context.Context, i int) {
		var err error
		read[i], err = c.Get(ctx, ids[i])
		check(err)
	}
	swap := func(ctx context.Context, i int) {
		outcome, err := c.CompareAndSwap(ctx, ids[i], read[i], it, time.Hour)
		if err != nil || outcome != tier.Stored {
			b.Errorf("compare-and-swap answers %d, %v", outcome, err)
		}
	}
	for i := range keys {
		set(ctx, i)
		plainSet(ctx, i)
	}

	request, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	contexts := map[string]context.Context{"deadline": deadline, "cancel": request}
	for _, bench := range []struct {
		name        string
		plain, call call
	}{
		{"Get", plainGet, get},
		{"Set", plainSet, set},
		{"CompareAndSwap", plainSet, swap},
	} {
		for _, kind := range []string{"deadline", "cancel"} {
			for _, clients := range []int{1, 16} {
				b.Run(bench.name+"/context="+kind+"/clients="+strconv.Itoa(clients), func(b *testing.B) {
					ctx := contexts[kind]
					for range b.N {
						var ratios, each, eachPlain []float64
						for range rounds {
							perSecond(keys, 1, func(i int) { get(ctx, i) }) // what swap needs
							eachPlain = append(eachPlain, perSecond(keys, clients, func(i int) { bench.plain(ctx, i) }))
							each = append(each, perSecond(keys, clients, func(i int) { bench.call(ctx, i) }))
							ratios = append(ratios, eachPlain[len(eachPlain)-1]/each[len(each)-1])
						}
						slices.Sort(ratios)
						slices.Sort(each)
						slices.Sort(eachPlain)
						b.ReportMetric(ratios[rounds/2], "x-plain")
						b.ReportMetric(ratios[rounds/10], "x-plain-p10")
						b.ReportMetric(ratios[rounds-1-rounds/10], "x-plain-p90")
						b.ReportMetric(each[rounds/2], "calls/s")
						b.ReportMetric(eachPlain[rounds/2], "plain-calls/s")
						b.ReportMetric(0, "ns/op")
					}
				})
			}
		}
	}
}

// perSecond calls f once with each number below n, by that many goroutines, and
// returns how many calls there were in a second.
func perSecond(n, clients int, f func(i int)) float64 {
	var all sync.WaitGroup
	began := time.Now()
	for client := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := client; i < n; i += clients {
				f(i)
			}
		}()
	}
	all.Wait()
	return float64(n) / time.Since(began).Seconds()
}
