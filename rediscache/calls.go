package rediscache

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// errPanicked is the error of a call whose client has panicked elsewhere.
var errPanicked = errors.New("the client panicked")

// within returns what f returns, or panics as f does, or returns the context's error if
// the context ends first. f then continues in its goroutine until the client's timeouts
// end it. The client observes the context before it sends and while it waits for a
// connection. While it waits for an answer, it observes no cancellation, and a deadline
// only with ContextTimeoutEnabled. So at most as many calls continue as the client has
// connections.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if ctx.Done() == nil {
		return f()
	}
	type result struct {
		value    T
		err      error
		panicked any // what f panicked with
	}
	done := make(chan result, 1)
	call := func() {
		r := result{err: errPanicked}
		defer func() {
			r.panicked = recover()
			done <- r
		}()
		r.value, r.err = f()
	}
	select {
	case calls <- call:
	default:
		go makeCalls(call)
	}
	select {
	case r := <-done:
		if r.panicked != nil {
			panic(r.panicked)
		}
		return r.value, ended(ctx, r.err)
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// ended returns the context's error if err is a client's that has waited in vain and
// the context has ended, or the client has noticed its deadline first.
func ended(ctx context.Context, err error) error {
	if !timedOut(err) {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return cmp.Or(ctx.Err(), err)
}

// observesDeadlines reports whether every call of a client ends at the deadline of
// its context. Those of a Cluster's client may load the Cluster's state first, and
// the app's own functions may observe nothing. A dialer has a goroutine of its own.
func observesDeadlines(client redis.UniversalClient) bool {
	one, ok := client.(*redis.Client)
	if !ok {
		return false
	}
	o := one.Options()
	callsApp := o.CredentialsProvider != nil || o.CredentialsProviderContext != nil || o.StreamingCredentialsProvider != nil ||
		o.OnConnect != nil || o.Limiter != nil
	return o.ContextTimeoutEnabled && o.ReadTimeout >= 0 && o.WriteTimeout >= 0 && !callsApp
}

// calls takes a call when a goroutine is waiting for one.
var calls = make(chan func())

// makeCalls makes a call, and then others until none has come for 100 ms. A new
// goroutine for each call would take as long to start, and to grow its stack, as
// Redis takes to answer.
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
