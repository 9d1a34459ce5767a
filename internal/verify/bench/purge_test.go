package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The purge of 100,000 expired sessions on the latency model, and the same by
// asking for 100 keys and deleting them in turn, as icza/gaesession does.
func BenchmarkPurge(b *testing.B) {
	const sessions = 100_000
	for _, o := range []struct {
		name  string
		purge func(ctx context.Context) (deleted int, err error)
	}{
		{"ours", func(ctx context.Context) (int, error) {
			done, err := gaesession.PurgeExpired(ctx, "")
			if err == nil && !done.Completed {
				err = errors.New("not completed")
			}
			return done.Deleted, err
		}},
		{"blind", purgeInTurn},
	} {
		b.Run("store="+o.name, func(b *testing.B) {
			var calls atomic.Int64
			b.StopTimer()
			b.ResetTimer()
			for range b.N {
				s := gaetest.Local(b)
				fillExpired(b, s, sessions)
				count := countCalls(func(context.Context, gaetest.Call) { calls.Add(1) })
				ctx := s.NewRequest(count, sleepLatency).Context()
				b.StartTimer()
				deleted, err := o.purge(ctx)
				b.StopTimer()
				if err != nil || deleted != sessions {
					b.Fatalf("%d deleted: %v", deleted, err)
				}
			}
			b.ReportMetric(float64(calls.Load())/float64(b.N), "calls/purge")
			b.ReportMetric(float64(sessions*b.N)/b.Elapsed().Seconds(), "deleted/s")
		})
	}
}

// fillExpired stores sessions that expired within the last day.
func fillExpired(b *testing.B, s *gaetest.Service, n int) {
	b.Helper()
	const batch = 500
	rnd := rand.New(rand.NewPCG(1, 2))
	old := time.Now().Add(-10 * time.Minute)
	for from := 0; from < n; from += batch {
		keys := make([]*datastore.Key, batch)
		entities := make([]gaesession.SessEntity, batch)
		for i := range keys {
			keys[i] = datastore.NewKey(s.Context(), kind, fmt.Sprintf("%024x", rnd.Uint64()), 0, nil)
			entities[i] = gaesession.SessEntity{
				Expires: old.Add(-time.Duration(rnd.Int64N(int64(24 * time.Hour)))),
				Value:   make([]byte, 300),
			}
		}
		if _, err := datastore.PutMulti(s.Context(), keys, entities); err != nil {
			b.Fatal(err)
		}
	}
}

func purgeInTurn(ctx context.Context) (deleted int, err error) {
	q := datastore.NewQuery(kind).Filter("exp<", time.Now()).KeysOnly().Limit(100)
	for {
		keys, err := q.GetAll(ctx, nil)
		if err != nil || len(keys) == 0 {
			return deleted, err
		}
		if err := datastore.DeleteMulti(ctx, keys); err != nil {
			return deleted, err
		}
		deleted += len(keys)
	}
}
