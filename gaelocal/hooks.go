package gaelocal

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Call is what hooks and latency functions see of a call.
type Call struct {
	Service   string // "memcache" or "datastore_v3"
	Method    string // "Get", "Commit", ...
	Namespace string // of the first key, or of the query; empty where a call has none

	// InTransaction reports whether the call belongs to a transaction: a
	// Commit, a Rollback, or a call that carries the transaction it is part of.
	InTransaction bool

	// Ticket is the call's remote_api request_id: the API ticket of the
	// incoming request the app was serving, empty outside of one.
	Ticket string
}

// Hooks are functions called around every call that gaelocal understands, on
// the goroutine that serves it. Nil functions are skipped. A hook may block,
// which holds up that call alone, and may make calls itself.
//
// An error that is an *Error is answered as it is, any other error as
// remote_api's rpc_error UNKNOWN with its text.
type Hooks struct {
	// Before runs before the call is executed. On an error the call is not
	// applied and the error is answered.
	Before func(ctx context.Context, c Call) error

	// After runs after the call has been executed without an error. On an error
	// the call was applied, its answer is lost, and the error is answered: a
	// network that failed on the way back.
	After func(ctx context.Context, c Call) error
}

// controls holds what can be changed while the server runs.
type controls struct {
	hooks   atomic.Pointer[Hooks]
	latency atomic.Pointer[func(Call) time.Duration]
}

// SetHooks replaces the hooks. Calls already begun keep those they began with.
func (s *Server) SetHooks(h Hooks) {
	s.controls.hooks.Store(&h)
}

// SetLatency replaces the latency function; nil means none. Calls already begun
// keep the one they began with.
func (s *Server) SetLatency(f func(Call) time.Duration) {
	s.controls.latency.Store(&f)
}

// wait waits for the latency of c, or until ctx is done.
func (s *Server) wait(ctx context.Context, c Call) *Error {
	f := s.controls.latency.Load()
	if f == nil || *f == nil {
		return nil
	}
	d := (*f)(c)
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return rpcError(rpcCancelled, "call given up by its caller: %v", context.Cause(ctx))
	}
}

// hookError turns an error of a hook into an answer.
func hookError(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) && e != nil {
		return e
	}
	return rpcError(rpcUnknown, "%s", err)
}

// AppEngineLatency is a rough model of App Engine's services, good for showing
// and testing what a request's calls cost: 1.5 ms for any memcache call; in
// datastore_v3 a get 8 ms, a put 20 ms (5 ms in a transaction, where it is only
// noted), a delete the same as a put, a commit 20 ms, a query 8 ms, anything
// else 5 ms.
func AppEngineLatency(c Call) time.Duration {
	if c.Service == "memcache" {
		return 1500 * time.Microsecond
	}
	if c.Service != "datastore_v3" {
		return 0
	}
	switch c.Method {
	case "Get":
		return 8 * time.Millisecond
	case "Put", "Delete":
		if c.InTransaction {
			return 5 * time.Millisecond
		}
		return 20 * time.Millisecond
	case "Commit":
		return 20 * time.Millisecond
	case "RunQuery", "Next", "Count":
		return 8 * time.Millisecond
	default:
		return 5 * time.Millisecond
	}
}
