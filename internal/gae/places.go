package gae

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"
)

// The appengine package opens 100 connections to the API. A call for which there
// is none leaves a goroutine that waits for one, and that nobody ends: not even
// the end of the call. So this package has fewer calls under way, and leaves ten
// connections to the app's own. Datastore, which may be slow when Memcache is
// not, gets two thirds.
var (
	places          = make(semaphore, 90)
	datastorePlaces = make(semaphore, 60)
)

// ErrNoPlace marks a call that was not made: its context ended while other calls
// of this process were under way, as many as there may be. It says nothing about
// the service.
var ErrNoPlace = errors.New("too many App Engine calls are under way")

// A semaphore has as many places as its capacity.
type semaphore chan struct{}

// acquire waits for a place, until ctx ends.
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
		return fmt.Errorf("%w: gave up waiting: %w", ErrNoPlace, ctx.Err())
	}
}

func (s semaphore) release() { <-s }

// callTime is how long a call of Datastore may take, with the wait for its place.
// The appengine package has the same limit, but not where the context has a
// deadline. An update makes four calls in a row, at most, which is less than
// [tier.UpdateTime].
const callTime = time.Minute

// limited returns a context whose calls, all of them Datastore's, take a place
// each. That includes those that the appengine package makes to begin and to end
// a transaction. Between two calls a transaction holds no place, so that none
// waits for another.
func limited(ctx context.Context) context.Context {
	return appengine.WithAPICallFunc(ctx, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		ctx, stop := context.WithTimeout(ctx, callTime)
		defer stop()
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
