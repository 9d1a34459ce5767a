package rediscache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/tier"
)

// within returns what f returns, or the context's error when that ends first:
// the client looks at a context before it sends, not while it waits for an
// answer. f then goes on until the client's timeouts end it.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if ctx.Done() == nil {
		return f()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	call := func() {
		value, err := f()
		done <- result{value, err}
	}
	select {
	case calls <- call:
	default:
		go makeCalls(call)
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// calls takes a call when there is a goroutine that waits for one.
var calls = make(chan func())

// makeCalls makes a call, and others that come soon after it: a goroutine for
// each would take as long to start, and to grow its stack, as Redis to answer.
func makeCalls(call func()) {
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	for {
		call()
		idle.Reset(100 * time.Millisecond)
		select {
		case call = <-calls:
		case <-idle.C:
			return
		}
	}
}

var (
	// rejected matches what servers say to a call they will never take.
	rejected = regexp.MustCompile(`NOPERM|NOAUTH|WRONGPASS|WRONGTYPE|ACL failure|can't run this command|(?i:unknown (redis )?command)`)

	// passing matches what they say while they start, fail over or are busy.
	passing = regexp.MustCompile(`^(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|MOVED|ASK) |max number of clients`)
)

// refusal reports whether an error is an answer of the server, so that the
// command had no effect.
func refusal(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !errors.Is(err, redis.Nil)
}

// answerLost reports whether a call may have had an effect although it failed,
// and may be made again: it was sent, and no answer came.
func answerLost(ctx context.Context, err error) bool {
	var network *net.OpError
	unsent := errors.As(err, &network) && network.Op == "dial" ||
		errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted) || errors.Is(err, redis.ErrClosed)
	return err != nil && !unsent && !refusal(err) && ctx.Err() == nil
}

// wrap returns an error for the caller. Servers repeat the arguments of a
// command that they do not know: these are cut off, for the id is among them.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if refusal(err) {
		text, _, cut := strings.Cut(err.Error(), ", with args beginning with")
		if cut {
			text = strings.TrimPrefix(text, tier.ErrRejected.Error()+": ") // New has found it out
			err = errors.New(text)
		}
		if rejected.MatchString(text) && !errors.Is(err, tier.ErrRejected) {
			err = fmt.Errorf("%w: %w", tier.ErrRejected, err)
		}
	}
	return fmt.Errorf("rediscache: %s: %w", op, err)
}
