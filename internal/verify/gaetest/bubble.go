package gaetest

import (
	"context"
	"errors"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/gaelocal"
)

// Inside a testing/synctest bubble time is simulated, and stands still while a
// goroutine of the bubble waits for anything outside of it. The calls of such
// requests are made by goroutines outside, which own the connections to the
// service: then a call takes no time, and what it takes on App Engine is slept.

// NewSimulatedRequest returns a request for use inside a testing/synctest
// bubble, whose calls take as long there as latency says.
func (s *Service) NewSimulatedRequest(latency func(Call) time.Duration, hooks ...Hook) *Request {
	sleep := Hook{Before: func(ctx context.Context, c Call) error {
		time.Sleep(latency(c))
		return nil
	}}
	r := s.NewRequest(append(hooks, sleep)...)
	r.make = callOutside
	return r
}

// AppEngineLatency is the latency model of the design.
func AppEngineLatency(c Call) time.Duration {
	return gaelocal.AppEngineLatency(gaelocal.Call{Service: c.Service, Method: c.Method, InTransaction: c.InTransaction})
}

// A job is a call made by a worker. Its channels are made outside of any bubble.
type job struct {
	call func() error
	err  chan error
}

var (
	jobs = make(chan *job)
	idle = make(chan *job, 256)
)

// startWorkers has to be called outside of any bubble.
func startWorkers() {
	for range cap(idle) {
		idle <- &job{err: make(chan error)}
		go func() {
			for j := range jobs {
				j.err <- j.call()
			}
		}()
	}
}

func callOutside(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Only values of the context are looked at outside: a channel of the bubble
	// must not be.
	outside := context.WithoutCancel(ctx)
	select {
	case j := <-idle:
		j.call = func() error { return appengine.APICall(outside, service, method, in, out) }
		jobs <- j
		err := <-j.err
		idle <- j
		return err
	default:
		return errors.New("too many calls at once")
	}
}
