package gae

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/tier"
)

// The appengine package opens 100 connections to the API. A call for which there
// is none leaves a goroutine that waits for one, and that nobody ends: not even
// the end of the call. So this package has fewer calls under way, and leaves ten
// connections to the app's own. Datastore, which may be slow when Memcache is
// not, gets two thirds.
var (
	places          = newLimit(90)
	datastorePlaces = newLimit(60)
)

// A limit is how many calls may be under way. (Not a channel: a goroutine in a
// bubble of testing/synctest would wait for one that was made outside of it, and
// the bubble's clock would stand still.)
type limit struct{ *semaphore.Weighted }

func newLimit(n int64) limit { return limit{semaphore.NewWeighted(n)} }

// acquire waits for a place, until ctx ends.
func (l limit) acquire(ctx context.Context) error {
	if l.TryAcquire(1) {
		return nil
	}
	if err := l.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("%w: gave up waiting: %w", tier.ErrBusy, err)
	}
	return nil
}

func (l limit) release() { l.Release(1) }

// limited returns a context whose calls, all of them Datastore's, take a place
// each. That includes those that the appengine package makes to begin and to end
// a transaction. Between two calls a transaction holds no place, so that none
// waits for another.
func limited(ctx context.Context) context.Context {
	return appengine.WithAPICallFunc(ctx, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		if err := datastorePlaces.acquire(ctx); err != nil {
			return err
		}
		defer datastorePlaces.release()
		if err := places.acquire(ctx); err != nil {
			return err
		}
		defer places.release()
		return appengine.APICall(ctx, service, method, in, out)
	})
}
