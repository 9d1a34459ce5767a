package tiered

import (
	"context"
	"sync"
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

	mu     sync.Mutex
	timed  context.Context // once it is needed
	cancel context.CancelFunc
	ended  bool
}

// within returns a context that ends after d. Its end method ends it before.
func within(ctx context.Context, d time.Duration) *limit {
	return &limit{Context: ctx, deadline: time.Now().Add(d)}
}

func (l *limit) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended = true; l.cancel != nil {
		l.cancel()
	}
}

// timer returns the context with a timer, if it has one or has to have one.
func (l *limit) timer(needed bool) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timed == nil && (needed || l.ended) {
		l.timed, l.cancel = context.WithDeadlineCause(l.Context, l.deadline, errTimeout)
		if l.ended {
			l.cancel()
		}
	}
	return l.timed
}

func (l *limit) Deadline() (time.Time, bool) {
	if d, ok := l.Context.Deadline(); ok && d.Before(l.deadline) {
		return d, true
	}
	return l.deadline, true
}

func (l *limit) Done() <-chan struct{} { return l.timer(true).Done() }

func (l *limit) Err() error {
	if timed := l.timer(!time.Now().Before(l.deadline)); timed != nil {
		return timed.Err()
	}
	return l.Context.Err()
}

// Value also leads context.Cause to the context with the timer.
func (l *limit) Value(key any) any {
	if timed := l.timer(false); timed != nil {
		return timed.Value(key)
	}
	return l.Context.Value(key)
}
