package rediscache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
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
		if deadline, ok := ctx.Deadline(); ok && errors.Is(r.err, os.ErrDeadlineExceeded) && !time.Now().Before(deadline) {
			<-ctx.Done() // the client has been faster to see it
			return none, ctx.Err()
		}
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
	rejected = regexp.MustCompile(`NOPERM|NOAUTH|WRONGPASS|ACL failure|can't run this command|(?i:unknown (redis )?command)`)

	// notAnItem matches what they and the scripts say of what somebody else put
	// under a key.
	notAnItem = regexp.MustCompile(`WRONGTYPE|` + foreign)
)

// refusal reports whether an error is an answer of the server, so that the
// command had no effect.
func refusal(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !errors.Is(err, redis.Nil)
}

// wrap returns an error for the caller. Servers repeat the arguments of a
// command that they do not know: these are cut off, for the value is among them.
func (c *Cache) wrap(ctx context.Context, op, key string, err error) error {
	var network *net.OpError
	switch {
	case err == nil:
		return nil
	case refusal(err) && notAnItem.MatchString(err.Error()):
		c.foundForeign(ctx, key)
		err = fmt.Errorf("%w: there is something under the key that is no item", tier.ErrRejected)
	case refusal(err):
		text, _, cut := strings.Cut(err.Error(), ", with args beginning with")
		if cut {
			text = strings.TrimPrefix(text, tier.ErrRejected.Error()+": ") // checkServer has found it out
			err = errors.New(text)
		}
		if rejected.MatchString(text) && !errors.Is(err, tier.ErrRejected) {
			err = fmt.Errorf("%w: %w", tier.ErrRejected, err)
		}
	case errors.As(err, &network) && network.Op == "dial" && ctx.Err() == nil:
		err = fmt.Errorf("%w: %w", tier.ErrUnreachable, err)
	}
	return fmt.Errorf("rediscache: %s: %w", op, err)
}
