// Package retry tries calls of a service again when they fail.
package retry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/gaesession/gaesession/internal/instance"
)

// Do calls op until it succeeds, its error is permanent, attempts are used up
// or ctx is done, and returns what it returned last. It waits 10 ms before the
// second attempt and half as long again before each further one, 2 s at most,
// always give or take a half.
func Do[T any](ctx context.Context, attempts int, op func() (T, error)) (T, error) {
	v, err := op()
	if err == nil || attempts <= 1 || isFinal(ctx, err) {
		return v, err
	}
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 10 * time.Millisecond
	b.MaxInterval = 2 * time.Second
	if instance.Of(ctx).Steady {
		b.RandomizationFactor = 0
	}
	for range attempts - 1 {
		if werr := Wait(ctx, b.NextBackOff()); werr != nil {
			return v, errors.Join(err, werr)
		}
		if v, err = op(); err == nil || isFinal(ctx, err) {
			break
		}
	}
	return v, err
}

// Run is Do for an operation that returns nothing but an error.
func Run(ctx context.Context, attempts int, op func() error) error {
	_, err := Do(ctx, attempts, func() (struct{}, error) { return struct{}{}, op() })
	return err
}

func isFinal(ctx context.Context, err error) bool {
	var p *permanentError
	return ctx.Err() != nil || errors.As(err, &p)
}

// Jitter returns a time drawn from zero to limit.
func Jitter(ctx context.Context, limit time.Duration) time.Duration {
	if instance.Of(ctx).Steady {
		return limit / 2
	}
	return rand.N(limit)
}

// Wait waits for d, or until ctx is done and then returns why.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Permanent marks an error that would only come again.
func Permanent(err error) error { return &permanentError{err} }

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }
