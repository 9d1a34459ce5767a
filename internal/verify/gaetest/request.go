package gaetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/internal/instance"
)

// ErrFailed is what a call answers that a hook made fail.
var ErrFailed = errors.New("service failed, as the test wants it")

// A Call is one call of a request to App Engine.
type Call struct {
	Index         int // counted from 1
	Service       string
	Method        string
	InTransaction bool // of a transaction of this request, of which one is open at a time
	Began         time.Time
}

// String returns the service and the method: "memcache.Get".
func (c Call) String() string { return c.Service + "." + c.Method }

// IsMemcache tells a call to Memcache from one to Datastore.
func (c Call) IsMemcache() bool { return c.Service == "memcache" }

// A Hook is asked around each call of a request, on the goroutine that makes
// the call, and may block. An error of Before means that the call is not made,
// an error of After that it was made and its answer lost: it is returned in
// place of the answer.
type Hook struct {
	Before func(ctx context.Context, c Call) error
	After  func(ctx context.Context, c Call) error
}

// A Request watches the calls that are made with its context.
type Request struct {
	ctx  context.Context
	hook Hook
	make appengine.APICallFunc
	die  func()

	mu    sync.Mutex
	calls []Call
	inTxn bool
}

// NewRequest returns a request on the service, and on an instance of its own.
// Hooks apply in order; the first error wins.
func (s *Service) NewRequest(hooks ...Hook) *Request {
	return s.NewRequestContext(s.ctx, hooks...)
}

// NewRequestContext is NewRequest with a context derived from the service's.
func (s *Service) NewRequestContext(ctx context.Context, hooks ...Hook) *Request {
	over := make(chan struct{})
	r := &Request{hook: chain(hooks), make: appengine.APICall, die: sync.OnceFunc(func() { close(over) })}
	r.ctx = instance.With(appengine.WithAPICallFunc(ctx, r.call), instance.Instance{Name: r, Over: over})
	return r
}

// RequestOf returns the request whose context ctx is, or is derived from; nil: it is
// of none.
func RequestOf(ctx context.Context) *Request {
	r, _ := instance.Of(ctx).Name.(*Request)
	return r
}

// Context returns the request's context.
func (r *Request) Context() context.Context { return r.ctx }

// Die ends the request's instance: nothing is left to be done in the background.
// What is under way there ends within a second.
func (r *Request) Die() { r.die() }

// Calls returns the calls made so far, in the order they began.
func (r *Request) Calls() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Call(nil), r.calls...)
}

// CallsBefore returns the calls that began before t. In simulated time, those of the
// background that a request leaves behind begin when it ends or later.
func (r *Request) CallsBefore(t time.Time) []Call {
	return slices.DeleteFunc(r.Calls(), func(c Call) bool { return !c.Began.Before(t) })
}

func (r *Request) call(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	c := r.begin(service, method)
	if r.hook.Before != nil {
		if err := r.hook.Before(ctx, c); err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
	}
	err := r.make(ctx, service, method, in, out)
	if r.hook.After != nil {
		if aerr := r.hook.After(ctx, c); aerr != nil {
			return fmt.Errorf("%v: %w", c, aerr)
		}
	}
	return err
}

func (r *Request) begin(service, method string) Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := Call{Index: len(r.calls) + 1, Service: service, Method: method, Began: time.Now()}
	if service == "datastore_v3" {
		c.InTransaction = r.inTxn
		switch method {
		case "BeginTransaction":
			r.inTxn = true
		case "Commit", "Rollback":
			r.inTxn = false
		}
	}
	r.calls = append(r.calls, c)
	return c
}

func chain(hooks []Hook) Hook {
	each := func(ctx context.Context, c Call, f func(Hook) func(context.Context, Call) error) error {
		for _, h := range hooks {
			if hook := f(h); hook != nil {
				if err := hook(ctx, c); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return Hook{
		Before: func(ctx context.Context, c Call) error {
			return each(ctx, c, func(h Hook) func(context.Context, Call) error { return h.Before })
		},
		After: func(ctx context.Context, c Call) error {
			return each(ctx, c, func(h Hook) func(context.Context, Call) error { return h.After })
		},
	}
}

// Fail makes the calls fail that match, without being made.
func Fail(match func(Call) bool) Hook {
	return Hook{Before: failing(match)}
}

// FailAfter makes the calls fail that match after they were made.
func FailAfter(match func(Call) bool) Hook {
	return Hook{After: failing(match)}
}

func failing(match func(Call) bool) func(context.Context, Call) error {
	return func(_ context.Context, c Call) error {
		if match(c) {
			return ErrFailed
		}
		return nil
	}
}

// Memcache matches every call to Memcache, Datastore every call to Datastore.
func Memcache(c Call) bool  { return c.IsMemcache() }
func Datastore(c Call) bool { return !c.IsMemcache() }

// A Gate holds a request at its calls.
type Gate struct {
	arrived chan Call
	open    chan struct{}
	once    sync.Once
}

// Hold returns a gate at the first call that matches, and its hook. The gate
// has to be opened for the request to go on.
func Hold(match func(Call) bool) (*Gate, Hook) {
	g := &Gate{arrived: make(chan Call, 1), open: make(chan struct{})}
	var first sync.Once
	return g, Hook{Before: func(ctx context.Context, c Call) error {
		if !match(c) {
			return nil
		}
		first.Do(func() {
			g.arrived <- c
			<-g.open
		})
		return nil
	}}
}

// At matches the k-th call of a request, counted from 1.
func At(k int) func(Call) bool { return func(c Call) bool { return c.Index == k } }

// Arrived receives the call that is held.
func (g *Gate) Arrived() <-chan Call { return g.arrived }

// Open lets the request go on.
func (g *Gate) Open() { g.once.Do(func() { close(g.open) }) }

// Crash stops a request for good at its k-th call, and its instance: neither that
// call nor any after it is made, and nothing is left to be done in the
// background. Release ends the goroutines that wait in it, with an error.
type Crash struct {
	crashed chan struct{}
	release chan struct{}
	k       int

	mu      sync.Mutex
	arrived bool // at the call
	ended   int  // calls before it
}

// ErrCrashed is what the calls of a crashed request answer in the end.
var ErrCrashed = errors.New("request crashed")

// CrashAt returns a crash at the k-th call, counted from 1, and its hook.
func CrashAt(k int) (*Crash, Hook) {
	c := &Crash{crashed: make(chan struct{}), release: make(chan struct{}), k: k}
	return c, Hook{
		Before: func(ctx context.Context, call Call) error {
			if call.Index < k {
				return nil
			}
			if call.Index == k {
				if r := RequestOf(ctx); r != nil {
					r.Die()
				}
				c.note(func() { c.arrived = true })
			}
			<-c.release
			return ErrCrashed
		},
		After: func(ctx context.Context, call Call) error {
			c.note(func() { c.ended++ })
			return nil
		},
	}
}

// note notes what happened, and that the request has crashed when that is all.
func (c *Crash) note(happened func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	happened()
	if c.arrived && c.ended == c.k-1 {
		close(c.crashed)
	}
}

// Crashed is closed when the request has come to the call, and those before it
// have ended.
func (c *Crash) Crashed() <-chan struct{} { return c.crashed }

// Release lets the request's goroutines end. It must be called once.
func (c *Crash) Release() { close(c.release) }

// Interpose runs f while the request is held at its k-th call, counted from 1;
// reached tells afterwards whether it came that far.
func Interpose(k int, f func()) (reached *atomic.Bool, h Hook) {
	reached = new(atomic.Bool)
	return reached, Hook{Before: func(ctx context.Context, c Call) error {
		if c.Index == k {
			reached.Store(true)
			f()
		}
		return nil
	}}
}
