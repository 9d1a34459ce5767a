package gae

import (
	"context"
	"fmt"

	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/tier"
)

// The appengine package opens 100 connections to the API. Each call beyond that
// leaves a goroutine behind, which waits for a connection of its own even after
// the call has ended. So this package has fewer calls under way, and leaves ten
// connections to the app. Datastore gets two thirds of its places, so that
// Memcache goes on when Datastore hangs.
var (
	places          = make(semaphore, 90)
	datastorePlaces = make(semaphore, 60)
)

// A semaphore has as many places as its capacity.
type semaphore chan struct{}

// acquire waits for a place. If ctx ends before there is one, it returns
// [tier.ErrBusy], which says nothing about the service.
func (s semaphore) acquire(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("appengine: %w: gave up waiting for a place: %w", tier.ErrBusy, ctx.Err())
	}
}

func (s semaphore) release() { <-s }

// limited returns a context whose calls, all of them Datastore's, take a place
// each. That includes those that the appengine package makes to begin and to end
// a transaction. A transaction holds no place between its calls, so none waits
// for another to end.
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
