package tiered

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

// The calls of the services. Here, and nowhere else, it is decided how long a
// call may take, how often it is tried, and whether it is made at all.

var (
	// errTimeout is why a call ended that took too long.
	errTimeout = errors.New("no answer in time")

	// errSkipped means that a call was not made: the cache did not answer
	// before.
	errSkipped = errors.New("not called, as it did not answer before")
)

// cacheGoneTime is how long a request does not call the cache after its first
// timeout: longer than most requests last, and not for ever, as a WebSocket may.
const cacheGoneTime = time.Minute

// isTimeout reports whether a service did not answer in time.
func isTimeout(err error) bool {
	if err == nil {
		return false
	}
	var t interface{ Timeout() bool }
	return errors.Is(err, errTimeout) || errors.As(err, &t) && t.Timeout()
}

// callCache makes an operation on the cache. It is skipped where the cache did
// not answer this request before, or where the breaker is open.
func callCache[T any](ctx context.Context, s *Store, op, id string, f func(ctx context.Context) (T, error)) (v T, err error) {
	b, began := s.breaker(ctx), time.Now()
	if began.UnixNano() < s.cacheGone.Load() || b.isOpen(ctx, s) {
		s.traceCall(ctx, "cache", op, id, began, v, errSkipped)
		return v, fmt.Errorf("cache %s: %w", op, errSkipped)
	}
	// Half of the request's time belongs to the backup.
	most, full := cmp.Or(s.CacheTimeout, DefaultCacheTimeout), true
	if deadline, ok := ctx.Deadline(); ok && s.Backup != nil {
		if half := time.Until(deadline) / 2; half < most {
			most, full = half, false
		}
	}
	limited := until(ctx, began.Add(most))
	defer limited.end()
	v, err = attempt(limited, s, f)
	s.traceCall(ctx, "cache", op, id, began, v, err)
	switch {
	case err == nil:
		b.answered()
	case ctx.Err() != nil || errors.Is(err, tier.ErrBusy):
		// The request has ended, or its turn did not come: that says nothing of
		// the cache.
	case isTimeout(err) || errors.Is(err, tier.ErrUnreachable):
		s.cacheGone.Store(time.Now().Add(cacheGoneTime).UnixNano())
		if full || errors.Is(err, tier.ErrUnreachable) {
			s.cacheFailed(ctx)
		}
	default:
		b.answered()
	}
	if err != nil {
		return v, fmt.Errorf("cache %s: %w", op, err)
	}
	return v, nil
}

// callBackup makes an operation on the backup.
func callBackup[T any](ctx context.Context, s *Store, op, id string, f func(ctx context.Context) (T, error)) (v T, err error) {
	began := time.Now()
	v, err = attempt(ctx, s, func(ctx context.Context) (T, error) {
		limited := within(ctx, cmp.Or(s.BackupTimeout, DefaultBackupTimeout))
		defer limited.end()
		v, err := f(limited)
		return v, caused(limited, err)
	})
	s.traceCall(ctx, "backup", op, id, began, v, err)
	if err != nil {
		return v, fmt.Errorf("backup %s: %w", op, err)
	}
	return v, nil
}

// attempt makes a call until it succeeds, as often as Retries says. What took
// too long is not tried again.
func attempt[T any](ctx context.Context, s *Store, f func(ctx context.Context) (T, error)) (T, error) {
	return retry.Do(ctx, s.Retries, func() (T, error) {
		v, err := f(ctx)
		if err = caused(ctx, err); isFinal(err) {
			err = retry.Permanent(err)
		}
		return v, err
	})
}

// caused adds to an error why the context of the call has ended.
func caused(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// isFinal reports whether an error would only come again.
func isFinal(err error) bool {
	if err == nil {
		return false
	}
	return isTimeout(err) || errors.Is(err, tier.ErrRejected) || errors.Is(err, tier.ErrExists) ||
		errors.Is(err, tier.ErrBusy) || isRefusal(err)
}

// get returns the item; its kind is absent when there is none.
func (s *Store) get(ctx context.Context, id string) (*item, error) {
	raw, err := callCache(ctx, s, "get", id, func(ctx context.Context) (*tier.Item, error) { return s.Cache.Get(ctx, id) })
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return &item{kind: absent}, nil
	}
	return s.decodeItem(id, raw), nil
}

// mark sets the removal marker, which is all that is ever put into the cache
// whatever is there.
func (s *Store) mark(ctx context.Context, id string) error {
	if s.Cache == nil {
		return nil
	}
	return s.set(ctx, id, removalMarker)
}

func (s *Store) set(ctx context.Context, id string, e *entry) error {
	_, err := callCache(ctx, s, "set", id, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.Cache.Set(ctx, id, e.Item, e.ttl) })
	return err
}

func (s *Store) add(ctx context.Context, id string, e *entry) (bool, error) {
	return callCache(ctx, s, "add", id, func(ctx context.Context) (bool, error) { return s.Cache.Add(ctx, id, e.Item, e.ttl) })
}

// swap reports with unsure that a first attempt failed, and may have had its
// effect all the same.
func (s *Store) swap(ctx context.Context, id string, old *item, e *entry) (out tier.Outcome, unsure bool, err error) {
	out, err = callCache(ctx, s, "compare-and-swap", id, func(ctx context.Context) (tier.Outcome, error) {
		out, err := s.Cache.CompareAndSwap(ctx, id, old.raw, e.Item, e.ttl)
		unsure = unsure || err != nil
		return out, err
	})
	return out, unsure, err
}

func (s *Store) read(ctx context.Context, id string) (*tier.Record, error) {
	return callBackup(ctx, s, "get", id, func(ctx context.Context) (*tier.Record, error) { return s.Backup.Get(ctx, id) })
}

func (s *Store) put(ctx context.Context, id string, r tier.Record) error {
	_, err := callBackup(ctx, s, "put", id, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.Backup.Put(ctx, id, r) })
	return err
}

func (s *Store) insert(ctx context.Context, id string, r tier.Record) error {
	_, err := callBackup(ctx, s, "insert", id, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.Backup.Insert(ctx, id, r) })
	return err
}

const (
	// contentionAttempts is how often an update is tried while other changes get
	// ahead of it: with its waits that takes some 20 seconds.
	contentionAttempts = 24
	// contentionTime is what an update may take with all attempts.
	contentionTime = 30 * time.Second
)

// update tries the backup's update Retries times when the service fails, and
// contentionAttempts times when other changes get ahead of it. Only the first
// attempt goes by the guess. tried is called when an attempt has ended that may
// have written something. (After contention, too: App Engine may report it for a
// transaction that is applied.)
func (s *Store) update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error), tried func()) error {
	failures, began := 0, time.Now()
	all := until(ctx, began.Add(contentionTime))
	defer all.end()
	err := retry.Run(all, contentionAttempts+s.Retries, func() error {
		// Of ctx and not of all: a limit of a limit makes two timers.
		limited := within(ctx, min(cmp.Or(s.BackupTimeout, DefaultBackupTimeout), time.Until(all.deadline)))
		defer limited.end()
		err := caused(limited, s.Backup.Update(limited, ids, guess, f))
		if !errors.Is(err, tier.ErrNotWritten) && !isRefusal(err) {
			tried()
		}
		if err != nil && (!errors.Is(err, tier.ErrContention) || isFinal(err)) {
			if failures++; failures >= s.Retries || isFinal(err) {
				err = retry.Permanent(err)
			}
		}
		guess = nil
		return err
	})
	s.traceCall(ctx, "backup", "update", ids[0], began, nil, err)
	if err != nil {
		return fmt.Errorf("backup update: %w", err)
	}
	return nil
}

// both runs f and g in parallel and returns when both have ended.
func both(f, g func() error) (ferr, gerr error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ferr = f()
	}()
	gerr = g()
	<-done
	return ferr, gerr
}

// traceCall tells the trace of a call that has ended with what it answered.
func (s *Store) traceCall(ctx context.Context, service, op, id string, began time.Time, answer any, err error) {
	if s.Trace == nil || s.Trace.Call == nil {
		return
	}
	c := tier.Call{Service: service, Operation: op, Session: sessionid.Hash(id), Duration: time.Since(began), Outcome: "stored"}
	switch v := answer.(type) {
	case *tier.Item:
		c.Outcome = found[v != nil]
	case *tier.Record:
		c.Outcome = found[v != nil]
	case bool:
		if !v {
			c.Outcome = "conflict"
		}
	case tier.Outcome:
		c.Outcome = [...]string{tier.Stored: "stored", tier.Conflict: "conflict", tier.Absent: "absent"}[v]
	}
	switch {
	case errors.Is(err, errSkipped):
		c.Outcome = "skipped"
	case err != nil:
		c.Outcome, c.Err = "error", sessionid.Describe(service+" "+op, id, id, err)
	}
	s.Trace.Call(ctx, c)
}

var found = map[bool]string{true: "found", false: "none"}
