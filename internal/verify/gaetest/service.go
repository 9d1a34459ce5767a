// Package gaetest runs tests of the stores on both services there are, gaelocal
// and Google's own local server, and holds, fails and counts the calls of a
// request on its way to either.
package gaetest

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/sdktest"
)

// Main runs the tests of m with a gaelocal server that the process points at,
// and ends it and Google's server afterwards: the body of a TestMain.
func Main(m *testing.M) {
	server, err := gaelocal.Start(gaelocal.Options{})
	if err == nil {
		_, err = server.Setenv()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	local = server
	startWorkers()
	code := m.Run()
	if err := sdktest.Shutdown(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

var (
	local      *gaelocal.Server
	namespaces atomic.Int64
)

// A Service is an App Engine to run a test on, in a namespace of the test's own.
type Service struct {
	tb    testing.TB
	ctx   context.Context
	local bool
}

// Local returns gaelocal.
func Local(tb testing.TB) *Service {
	tb.Helper()
	return newService(tb, context.Background(), true)
}

// Google returns Google's own local server. Without an SDK it skips or, with
// GAESESSION_SDK=require, fails the test.
func Google(tb testing.TB) *Service {
	tb.Helper()
	return newService(tb, sdktest.Start(tb).Context(), false)
}

// OnEach runs f as a subtest on each service.
func OnEach(t *testing.T, f func(t *testing.T, s *Service)) {
	t.Run("gaelocal", func(t *testing.T) { f(t, Local(t)) })
	t.Run("google", func(t *testing.T) { f(t, Google(t)) })
}

func newService(tb testing.TB, ctx context.Context, local bool) *Service {
	tb.Helper()
	ctx, err := appengine.Namespace(ctx, fmt.Sprintf("test%d", namespaces.Add(1)))
	if err != nil {
		tb.Fatal(err)
	}
	return &Service{tb, ctx, local}
}

// Context returns the context of a request whose calls are not watched.
func (s *Service) Context() context.Context { return s.ctx }

// Break makes the calls fail that match, whoever makes them, until restore is
// called: those that are made with another context than the request's, which go
// to gaelocal in tests on Google's server, too.
func (s *Service) Break(match func(Call) bool) (restore func()) {
	local.SetHooks(gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		if match(Call{Service: c.Service, Method: c.Method, InTransaction: c.InTransaction}) {
			return ErrFailed
		}
		return nil
	}})
	return func() { local.SetHooks(gaelocal.Hooks{}) }
}

// Flush empties Memcache.
func (s *Service) Flush() {
	s.tb.Helper()
	if err := memcache.Flush(s.ctx); err != nil {
		s.tb.Fatalf("flush Memcache: %v", err)
	}
}
