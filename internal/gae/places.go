package gae

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"

	"github.com/gaesession/gaesession/tier"
)

// The appengine package opens 100 connections to the API. Each call beyond that
// leaves a goroutine behind, which waits for a connection of its own even after
// the call has ended. So this package has fewer calls under way, and leaves ten
// connections to the app. Datastore gets two thirds of its places, so that
// Memcache goes on when Datastore hangs.
const (
	maxCalls          = 90
	maxDatastoreCalls = 60
)

var (
	places          = semaphore.NewWeighted(maxCalls)
	datastorePlaces = semaphore.NewWeighted(maxDatastoreCalls)
)

// take waits for a place for a call of Memcache, until ctx ends. The caller has
// to call places.Release(1) then, if there is no error.
func take(ctx context.Context) error {
	if places.TryAcquire(1) {
		return nil
	}
	return busy(ctx, places.Acquire(ctx, 1))
}

// takeDatastore waits for places for as many calls of Datastore as an operation
// may have under way at once, until ctx ends. A transaction keeps its places from
// the beginning to the end, so none waits for a place while it has one.
// Without an error, the caller has to give them back with releaseDatastore.
func takeDatastore(ctx context.Context, n int64) error {
	if !datastorePlaces.TryAcquire(n) {
		if err := datastorePlaces.Acquire(ctx, n); err != nil {
			return busy(ctx, err)
		}
	}
	if !places.TryAcquire(n) {
		if err := places.Acquire(ctx, n); err != nil {
			datastorePlaces.Release(n)
			return busy(ctx, err)
		}
	}
	return nil
}

// releaseDatastore gives back the places that takeDatastore has taken.
func releaseDatastore(n int64) {
	places.Release(n)
	datastorePlaces.Release(n)
}

func busy(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: gave up waiting: %w", tier.ErrBusy, context.Cause(ctx))
}
