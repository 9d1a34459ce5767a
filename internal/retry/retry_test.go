//go:build go1.25

package retry_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/retry"
)

var errFailed = errors.New("failed")

func TestWaitsGrowUpToTwoSecondsGiveOrTakeAHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const attempts = 30
		var waits []time.Duration
		last := time.Now()
		if _, err := retry.Do(context.Background(), attempts, func() (int, error) {
			waits = append(waits, time.Since(last))
			last = time.Now()
			return 0, errFailed
		}); !errors.Is(err, errFailed) {
			t.Errorf("got %v, want the error of the last attempt", err)
		}
		if len(waits) != attempts {
			t.Fatalf("got %d attempts, want %d", len(waits), attempts)
		}
		middle := 10 * time.Millisecond
		for i, wait := range waits[1:] {
			const rounding = time.Millisecond
			if wait < middle/2-rounding || wait > middle*3/2+rounding {
				t.Errorf("wait %d: got %v, want %v, give or take a half", i+1, wait, middle)
			}
			middle = min(middle*3/2, 2*time.Second)
		}
	})
}

func TestAttemptsEnd(t *testing.T) {
	ended := errors.New("request ended")
	for name, test := range map[string]struct {
		attempts int
		op       func(attempt int, end func()) error
		want     error
		tried    int
	}{
		"at a success":         {5, func(n int, _ func()) error { return map[bool]error{true: nil, false: errFailed}[n == 3] }, nil, 3},
		"at a permanent error": {5, func(int, func()) error { return retry.Permanent(errFailed) }, errFailed, 1},
		"at a later one": {5, func(n int, _ func()) error {
			return map[bool]error{true: retry.Permanent(errFailed), false: ended}[n == 2]
		}, errFailed, 2},
		"when they are used up":    {3, func(int, func()) error { return errFailed }, errFailed, 3},
		"after one, of none":       {0, func(int, func()) error { return errFailed }, errFailed, 1},
		"with the context":         {5, func(n int, end func()) error { end(); return errFailed }, errFailed, 1},
		"with the context, later":  {5, func(n int, end func()) error { return endAt(n == 2, end) }, errFailed, 2},
		"with the context, asleep": {5, func(n int, end func()) error { time.AfterFunc(time.Millisecond, end); return errFailed }, ended, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				tried := 0
				got, err := retry.Do(ctx, test.attempts, func() (int, error) {
					tried++
					return tried, test.op(tried, func() { cancel(ended) })
				})
				if !errors.Is(err, test.want) || got != test.tried || tried != test.tried {
					t.Errorf("got %d after %d attempts, %v; want %d, %v", got, tried, err, test.tried, test.want)
				}
			})
		})
	}
}

func endAt(now bool, end func()) error {
	if now {
		end()
	}
	return errFailed
}

func TestSteadyWaitsAreNotDrawnAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := instance.With(context.Background(), instance.Instance{Steady: true})
		var waits []time.Duration
		last := time.Now()
		_, _ = retry.Do(ctx, 4, func() (int, error) { // it fails each time
			waits = append(waits, time.Since(last))
			last = time.Now()
			return 0, errFailed
		})
		if want := []time.Duration{0, 10 * time.Millisecond, 15 * time.Millisecond, 22500 * time.Microsecond}; !slices.Equal(waits, want) {
			t.Errorf("got %v, want %v", waits, want)
		}
		if got := retry.Jitter(ctx, time.Second); got != time.Second/2 {
			t.Errorf("jitter: got %v, want the middle", got)
		}
	})
}

func TestJitterIsBelowItsLimit(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		d := retry.Jitter(context.Background(), time.Second)
		if d < 0 || d >= time.Second {
			t.Errorf("got %v", d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different ones of 100", len(seen))
	}
}
