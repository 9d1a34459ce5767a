package gaesession_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// Slices that begin at one address are not the same for that.
func TestAValueWhoseSlicesShareAnArrayIsSaved(t *testing.T) {
	s := gaetest.Local(t)
	o := options{Codec: &memcache.JSON}
	for range 20 { // maps are compared in random order
		id := login(t, s, o, attrs{"tasks": map[string]any{"done": []any{}, "todo": []any{}}})
		all := []any{"a", "b", "c"}
		change(t, s, o, id, attrs{"tasks": map[string]any{"done": all[:0], "todo": all[0:]}})
		if got := fmt.Sprint(read(t, s, o, id)); got != "map[tasks:map[done:[] todo:[a b c]]]" {
			t.Fatalf("got %s", got)
		}
	}
}

func TestGetBesideCloseSeesTheSession(t *testing.T) {
	s := gaetest.Local(t)
	o := options{OnlyMemcache: true, Cache: tiertest.NewCache()}
	ids := make([]string, 8)
	for i := range ids {
		ids[i] = login(t, s, o, attrs{"n": i})
	}
	for range 300 {
		r := newRequest(s, o)
		stop := make(chan struct{})
		var closers sync.WaitGroup
		for range 3 {
			closers.Add(1)
			go func() {
				defer closers.Done()
				for {
					select {
					case <-stop:
						return
					default:
						r.Close()
						runtime.Gosched()
					}
				}
			}()
		}
		for i, id := range ids {
			if sess := r.Get(id); sess == nil || sess.Attr("n") != i {
				t.Errorf("got %v, want session %d", sess, i)
			}
		}
		close(stop)
		closers.Wait()
		if err := r.errs.all(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			return
		}
	}
}

// A writesCache counts the items that are put into a cache.
type writesCache struct {
	*tiertest.MemoryCache
	writes atomic.Int64
}

func (c *writesCache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	c.writes.Add(1)
	return c.MemoryCache.CompareAndSwap(ctx, id, old, it, ttl)
}

// What is stored is rounded. It is compared with itself as it is stored.
func TestAChangeThatTheCacheKeepsIsWrittenOnce(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		cache := &writesCache{MemoryCache: tiertest.NewCache()}
		o := options{Cache: cache, AsyncDatastoreSave: true, Retries: 1}
		id := login(t, s, o, attrs{"n": 0})
		for i := range 20 { // a clock may show a whole microsecond
			up := s.Break(gaetest.Datastore)
			r := newRequest(s, o, gaetest.Fail(gaetest.Datastore))
			r.Get(id).SetAttr("n", i+1)
			cache.writes.Store(0)
			r.Close()
			drain(t)
			up()
			if n := cache.writes.Load(); n != 1 {
				t.Fatalf("a change that Datastore did not take was written %d times, want once", n)
			}
		}
	})
}
