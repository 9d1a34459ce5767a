package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

// Requests of one process that change one session at the same time would get
// in each other's way. So one is at work on a session at a time; what those want
// that come meanwhile is then done in one update.

// A turn is one request's wait for its change to be made.
type turn struct {
	ctx  context.Context
	p    *part
	do   func(ctx context.Context, parts []*part) error
	done chan error // receives what came of it
}

// A queue is for one kind of work.
type queue string

const (
	queueSave queue = "save" // in the backup
	queueKeep queue = "keep" // in the cache
)

type queueKey struct {
	shared, instance any
	id               string
	queue            queue
}

var queues = struct {
	sync.Mutex
	waiting map[queueKey][]*turn // a key is there while somebody is at work
}{waiting: make(map[queueKey][]*turn)}

// together has do called with p, alone or with what other requests want to
// change in the same session, and returns what came of it. When ctx ends it waits
// for a second at most: what was begun goes on then.
func (s *Store) together(ctx context.Context, q queue, id string, p *part, do func(ctx context.Context, parts []*part) error) error {
	shared := s.shared(ctx)
	if shared == nil {
		return do(ctx, []*part{p})
	}
	key := queueKey{shared, instance.Of(ctx).Name, id, q}
	queues.Lock()
	waiting, busy := queues.waiting[key]
	if !busy {
		queues.waiting[key] = nil
		queues.Unlock()
		defer next(key)
		return do(ctx, []*part{p})
	}
	me := &turn{ctx, p, do, make(chan error, 1)}
	queues.waiting[key] = append(waiting, me)
	queues.Unlock()
	select {
	case err := <-me.done:
		return err
	case <-ctx.Done():
	}
	if leave(key, me) {
		return fmt.Errorf("%w: wait for other changes of the session: %w", tier.ErrNotSaved, context.Cause(ctx))
	}
	// Its change is being made.
	within, cancel := s.finishing(ctx)
	defer cancel()
	select {
	case err := <-me.done:
		return err
	case <-within.Done():
		p.leave()
		return fmt.Errorf("%w: the change is being made: %w", tier.ErrNotSaved, context.Cause(ctx))
	}
}

// leave reports whether the turn was still waiting, and ends that.
func leave(key queueKey, me *turn) bool {
	queues.Lock()
	defer queues.Unlock()
	waiting := queues.waiting[key]
	i := slices.Index(waiting, me)
	if i >= 0 {
		queues.waiting[key] = slices.Delete(waiting, i, i+1)
	}
	return i >= 0
}

// lead does the work of turns in the background: that of several requests does not
// end with one of them.
func lead(key queueKey, turns []*turn) {
	defer next(key)
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(turns[0].ctx), saveTimeout, errTimeout)
	defer cancel()
	parts := make([]*part, len(turns))
	for i, t := range turns {
		parts[i] = t.p
	}
	err := errPanic
	defer func() {
		for _, t := range turns {
			select {
			case t.done <- err:
			default: // answered already
			}
		}
	}()
	err = turns[0].do(ctx, parts)
	if len(turns) > 1 && (errors.Is(err, tier.ErrTooLarge) || errors.Is(err, errMerge) || errors.Is(err, errEndOfTime)) {
		// One of them is to blame. Each on its own shows which.
		err = errPanic
		for _, t := range turns {
			t.done <- t.do(ctx, []*part{t.p})
		}
	}
}

// errPanic is what requests get when a service has ended the goroutine that was
// to make their change.
var errPanic = fmt.Errorf("%w: the goroutine that was to make the change has ended", tier.ErrNotSaved)

// next has the work done of those that wait.
func next(key queueKey) {
	queues.Lock()
	defer queues.Unlock()
	waiting := queues.waiting[key]
	if len(waiting) == 0 {
		delete(queues.waiting, key)
		return
	}
	queues.waiting[key] = nil
	background.start(func() { lead(key, waiting) })
}
