package tier

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// purgeTime leaves some of the ten minutes that App Engine gives a cron job,
	// and Cloud Scheduler a request.
	// https://cloud.google.com/appengine/docs/standard/go/scheduling-jobs-with-cron-yaml
	purgeTime = 8 * time.Minute
	// purgeBatch is how many keys Datastore takes in one call.
	// https://cloud.google.com/datastore/docs/concepts/limits
	purgeBatch = 500
	// purgeDeletes is how many calls delete at once.
	purgeDeletes  = 4
	purgeAttempts = 3
	purgePause    = 100 * time.Millisecond // before the second attempt; twice as long before the third
)

// Purged says what a purge did.
type Purged struct {
	Completed bool `json:"completed"` // false when it stopped early: more may be left to delete
	Deleted   int  `json:"deleted"`   // records deleted
}

// Purge deletes expired records. It is for packages that implement a [Backup],
// which tell it how to find keys of such records and how to delete them.
//
// Purge calls find again and again until find reports that there are no more
// keys than those it returns. It calls remove with up to 500 of the keys, from up
// to four goroutines at once, also while it calls find. A call that fails is
// repeated, twice at most and not after [ErrRejected]: find must return the keys
// of the call that failed, and remove must ignore records that are gone. Both
// must return when their context ends.
//
// Purge stops after eight minutes, or when ctx ends, without an error and with
// Completed false. It returns the error of a call that keeps failing, and what
// was deleted nevertheless.
func Purge[K any](ctx context.Context, find func(context.Context) (keys []K, last bool, err error), remove func(context.Context, []K) error) (Purged, error) {
	ctx, stop := context.WithTimeout(ctx, purgeTime)
	defer stop()
	working, fail := context.WithCancelCause(ctx) // until a call has failed
	defer fail(nil)
	var (
		last    bool
		found   int
		deleted atomic.Int64
		deletes sync.WaitGroup
		places  = make(chan struct{}, purgeDeletes)
	)
	for !last && working.Err() == nil {
		var keys []K
		if err := attempt(working, func() (err error) {
			keys, last, err = find(working)
			return err
		}); err != nil {
			fail(err)
			last = false
			break
		}
		found += len(keys)
		for batch := range slices.Chunk(keys, purgeBatch) {
			places <- struct{}{}
			deletes.Add(1)
			go func() {
				defer deletes.Done()
				defer func() { <-places }()
				if working.Err() != nil {
					return
				}
				if err := attempt(ctx, func() error { return remove(ctx, batch) }); err != nil {
					fail(err)
					return
				}
				deleted.Add(int64(len(batch)))
			}()
		}
	}
	deletes.Wait()
	done := Purged{Deleted: int(deleted.Load())}
	done.Completed = last && done.Deleted == found
	if done.Completed || ctx.Err() != nil {
		return done, nil
	}
	return done, context.Cause(working)
}

// attempt calls f until it succeeds, or there is no use in another attempt.
func attempt(ctx context.Context, f func() error) error {
	pause := purgePause
	for n := 1; ; n++ {
		err := f()
		if err == nil || n == purgeAttempts || errors.Is(err, ErrRejected) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
			pause *= 2
		}
	}
}
