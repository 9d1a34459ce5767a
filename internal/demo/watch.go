package demo

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A watch is what one request does with the services, as Trace tells it.
type watch struct {
	began time.Time

	mu    sync.Mutex
	from  string // where the session came from, a tier.Load says; empty: nobody has looked
	calls []call
}

// A call is an operation on a service.
type call struct {
	tier.Call
	Start  time.Duration // since the request began
	Loaded bool          // made when the session was loaded already
}

// watchKey is the key of a request's watch in its context.
type watchKey struct{}

// watching returns a handler that has Trace tell what each request does.
func watching(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), watchKey{}, &watch{began: time.Now()})))
	})
}

// watchOf returns the watch of the context's request. What is done for no request
// gets one that nobody looks at.
func watchOf(ctx context.Context) *watch {
	if w, ok := ctx.Value(watchKey{}).(*watch); ok {
		return w
	}
	return &watch{began: time.Now()}
}

// Trace is for the options of the demo's store: it tells the pages what requests
// do.
func (s *Stage) Trace() *tier.Trace {
	return &tier.Trace{
		Call:    func(ctx context.Context, c tier.Call) { watchOf(ctx).called(c) },
		Loaded:  func(ctx context.Context, l tier.Load) { watchOf(ctx).loaded(l) },
		Breaker: func(_ context.Context, open bool) { s.open.Store(open) },
		Pending: func(_ context.Context, waiting, _ int) { s.pending.Store(int64(waiting)) },
	}
}

func (w *watch) called(c tier.Call) {
	start := max(time.Since(w.began)-c.Duration, 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, call{Call: c, Start: start, Loaded: w.from != ""})
}

func (w *watch) loaded(l tier.Load) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.from = l.From
}

// seen returns where the session came from, and the calls so far in the order in
// which they began.
func (w *watch) seen() (from string, calls []call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls = slices.Clone(w.calls)
	slices.SortStableFunc(calls, func(a, b call) int { return cmp.Compare(a.Start, b.Start) })
	return w.from, calls
}

// waited is the time in which at least one of the calls was under way.
func waited(calls []call) time.Duration {
	var sum, until time.Duration
	for _, c := range calls {
		if end := c.Start + c.Duration; end > until {
			sum += end - max(c.Start, until)
			until = end
		}
	}
	return sum
}
