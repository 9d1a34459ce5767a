package tiered

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

const (
	// tripAfter is how many calls in a row open the breaker.
	tripAfter = 3
	// probeEvery is how often an open breaker asks the cache whether it answers
	// again.
	probeEvery = time.Second
	// probeIdle is how long it does so while no request asks for the cache.
	probeIdle = 10 * time.Second
	// probeID is an id that no session has.
	probeID = "h:probe"
)

// A breaker is the circuit breaker of one cache in this process. While it is
// open, no request waits for the cache: a probe in the background finds out when it
// answers again.
type breaker struct {
	mu       sync.Mutex
	failures int // in a row
	open     bool
	probing  bool
	asked    time.Time // when a request would have called the cache last
}

type breakerKey struct{ cache, instance any }

var (
	breakers    sync.Map // of breakerKey and *breaker; only caches that have failed have one
	anyBreakers atomic.Bool
)

// breaker returns the cache's breaker; nil while it has none.
func (s *Store) breaker(ctx context.Context) *breaker {
	if !anyBreakers.Load() {
		return nil
	}
	b, _ := breakers.Load(breakerKey{s.Cache, instance.Of(ctx).Name})
	found, _ := b.(*breaker)
	return found
}

// isOpen reports whether the cache is not to be called, and has it probed.
func (b *breaker) isOpen(ctx context.Context, s *Store) bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		b.asked = time.Now()
		b.probe(ctx, s)
	}
	return b.open
}

// answered notes that the cache has answered a call.
func (b *breaker) answered() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.failures = 0
	b.mu.Unlock()
}

// cacheFailed notes that the cache has not answered.
func (s *Store) cacheFailed(ctx context.Context) {
	anyBreakers.Store(true)
	known, _ := breakers.LoadOrStore(breakerKey{s.Cache, instance.Of(ctx).Name}, &breaker{})
	b, _ := known.(*breaker)
	if b.failed(ctx, s) {
		s.traceBreaker(ctx, true)
	}
}

// failed notes that a call has failed, and reports whether that opens the
// breaker.
func (b *breaker) failed(ctx context.Context, s *Store) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures++; b.failures < tripAfter || b.open {
		return false
	}
	b.open, b.asked = true, time.Now()
	b.probe(ctx, s)
	return true
}

// probe has the cache asked in a second. b.mu is held.
func (b *breaker) probe(ctx context.Context, s *Store) {
	if b.probing {
		return
	}
	b.probing = true
	ctx, s = s.free(ctx), s.background()
	time.AfterFunc(probeEvery, func() {
		// Drain waits for the call, and not for the next one.
		background.start(func() {
			answered := false
			defer func() { // also when a service has ended the goroutine
				if b.probed(ctx, s, answered); answered {
					s.traceBreaker(ctx, false)
				}
			}()
			answered = s.answers(ctx)
		})
	})
}

// probed notes what a probe was answered.
func (b *breaker) probed(ctx context.Context, s *Store, answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	switch {
	case answered:
		b.open, b.failures = false, 0
	case time.Since(b.asked) <= probeIdle:
		b.probe(ctx, s)
	}
}

// answers reports whether the cache answers.
func (s *Store) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, cmp.Or(s.CacheTimeout, DefaultCacheTimeout), errTimeout)
	defer cancel()
	_, err := s.Cache.Get(ctx, probeID)
	return ctx.Err() == nil && !isTimeout(err) && !errors.Is(err, tier.ErrUnreachable) && !errors.Is(err, tier.ErrBusy)
}

func (s *Store) traceBreaker(ctx context.Context, open bool) {
	if s.Trace != nil && s.Trace.Breaker != nil {
		s.Trace.Breaker(ctx, open)
	}
}
