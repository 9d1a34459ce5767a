package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Requests of one process that change one session at the same time would get
// in each other's way. So one is at work on a session at a time; those that
// come meanwhile wait, and the first of them then does what all of them want,
// in one update.

// A turn is one request's wait for its change to be made.
type turn struct {
	p    *part
	lead chan []*turn // receives the turns, its own first, that it has to take
	done chan error   // receives what came of it
}

type queueKey struct {
	shared, instance any
	id, op           string
}

var queues = struct {
	sync.Mutex
	waiting map[queueKey][]*turn // a key is there while somebody is at work
}{waiting: make(map[queueKey][]*turn)}

type instanceKey struct{}

// OnInstance returns a context for a request that shares nothing with those of
// other instances, for tests that run several instances in one process.
func OnInstance(ctx context.Context, instance any) context.Context {
	return context.WithValue(ctx, instanceKey{}, instance)
}

type clockKey struct{}

// WithClock returns a context for a request on an instance whose clock is ahead
// by that much when it changes something, for tests.
func WithClock(ctx context.Context, ahead time.Duration) context.Context {
	return context.WithValue(ctx, clockKey{}, ahead)
}

func aheadOf(ctx context.Context) time.Duration {
	ahead, _ := ctx.Value(clockKey{}).(time.Duration)
	return ahead
}

// together has do called with p, alone or with what other requests want to
// change in the same session, and returns what came of it. It is called in the
// context of one of them.
func (s *Store) together(ctx context.Context, id, op string, p *part, do func(ctx context.Context, parts []*part) error) error {
	var shared any
	if s.Shared != nil {
		shared = s.Shared()
	}
	if shared == nil {
		return do(ctx, []*part{p})
	}
	key := queueKey{shared, ctx.Value(instanceKey{}), id, op}
	queues.Lock()
	waiting, busy := queues.waiting[key]
	if !busy {
		queues.waiting[key] = nil
		queues.Unlock()
		defer next(key)
		return do(ctx, []*part{p})
	}
	me := &turn{p: p, lead: make(chan []*turn, 1), done: make(chan error, 1)}
	queues.waiting[key] = append(waiting, me)
	queues.Unlock()
	ended := ctx.Done()
	for {
		select {
		case turns := <-me.lead:
			return lead(ctx, key, turns, do)
		case err := <-me.done:
			return err
		case <-ended:
			if leave(key, me) {
				return fmt.Errorf("wait for other changes of the session: %w", context.Cause(ctx))
			}
			// Somebody is making the change, or relies on it being made here.
			// Only the outcome says whether it may be tried again; it takes no
			// longer than saveTimeout.
			ended = nil
		}
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

// lead does the work of turns, the first of which is the caller's.
func lead(ctx context.Context, key queueKey, turns []*turn, do func(ctx context.Context, parts []*part) error) error {
	defer next(key)
	if len(turns) == 1 {
		return do(ctx, []*part{turns[0].p})
	}
	// The others' changes do not end with the caller's request.
	shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	parts := make([]*part, len(turns))
	for i, t := range turns {
		parts[i] = t.p
	}
	err := errPanic
	defer func() {
		for _, t := range turns[1:] {
			select {
			case t.done <- err:
			default: // answered already
			}
		}
	}()
	if err = do(shared, parts); errors.Is(err, tier.ErrTooLarge) || errors.Is(err, errMerge) {
		// One of them is to blame. Each on its own shows which.
		for _, t := range turns {
			t.done <- do(shared, []*part{t.p})
		}
		return <-turns[0].done
	}
	return err
}

// errPanic is what the others get when a service panics.
var errPanic = errors.New("the request that was to make the change panicked")

// next makes the first of those that wait take the turns of all of them.
func next(key queueKey) {
	queues.Lock()
	defer queues.Unlock()
	waiting := queues.waiting[key]
	if len(waiting) == 0 {
		delete(queues.waiting, key)
		return
	}
	queues.waiting[key] = nil
	waiting[0].lead <- waiting
}
