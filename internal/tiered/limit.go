package tiered

import (
	"context"
	"sync/atomic"
	"time"
)

// A limit is a context that ends after a time, as one of context.WithTimeoutCause
// with errTimeout does. It makes a timer only when somebody waits for its end:
// most calls are answered before, and App Engine's client looks at the deadline
// alone. That saves a read 4 of its allocations:
// go test ./internal/verify/bench -run '^$' -bench RequestCPU/read.
type limit struct {
	context.Context // the parent
	deadline        time.Time
	timed           atomic.Pointer[timed] // once it is needed, or the limit was ended
}

type timed struct {
	context.Context
	cancel context.CancelFunc
}

// ended is of the limits that were ended.
var ended = func() *timed {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return &timed{ctx, cancel}
}()

// within returns a context that ends after d. Its end method ends it before.
func within(ctx context.Context, d time.Duration) *limit { return until(ctx, time.Now().Add(d)) }

// until returns a context that ends then. Its end method ends it before.
func until(ctx context.Context, deadline time.Time) *limit {
	return &limit{Context: ctx, deadline: deadline}
}

func (l *limit) end() {
	if t := l.timed.Swap(ended); t != nil {
		t.cancel()
	}
}

// timer returns the context with the timer.
func (l *limit) timer() context.Context {
	if l.timed.Load() == nil {
		ctx, cancel := context.WithDeadlineCause(l.Context, l.deadline, errTimeout)
		if !l.timed.CompareAndSwap(nil, &timed{ctx, cancel}) {
			cancel()
		}
	}
	return l.timed.Load()
}

func (l *limit) Deadline() (time.Time, bool) {
	if d, ok := l.Context.Deadline(); ok && d.Before(l.deadline) {
		return d, true
	}
	return l.deadline, true
}

func (l *limit) Done() <-chan struct{} { return l.timer().Done() }

func (l *limit) Err() error {
	if l.timed.Load() != nil || !time.Now().Before(l.deadline) {
		return l.timer().Err()
	}
	return l.Context.Err()
}

// Value also leads context.Cause to the context with the timer.
func (l *limit) Value(key any) any {
	if t := l.timed.Load(); t != nil {
		if v := t.Value(key); v != nil {
			return v
		}
	}
	return l.Context.Value(key)
}
