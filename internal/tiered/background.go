package tiered

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gaesession/gaesession/internal/instance"
)

// saveTimeout bounds background work in the request's context, and again in
// one of no request.
const saveTimeout = 30 * time.Second

const (
	// maxSaves is how many background saves are under way in a process.
	maxSaves = 16
	// maxQueued is how many more wait for that.
	maxQueued = 1000
)

// saveInBackground has f called in a goroutine that Drain waits for: in the
// request's context, though that may end, and when that fails in one of no
// request. It reports whether there was a place for it.
func (s *Store) saveInBackground(ctx context.Context, id string, f func(ctx context.Context, s *Store) error) bool {
	s = s.background()
	return poolOf(ctx).start(func() {
		if err := s.inBackground(ctx, func(ctx context.Context) error { return f(ctx, s) }); err != nil {
			s.Report(id, err)
		}
	})
}

// inBackground calls f with a context that outlives the request.
func (s *Store) inBackground(ctx context.Context, f func(ctx context.Context) error) error {
	attempt := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), saveTimeout, errTimeout)
		defer cancel()
		return f(instance.InBackground(ctx))
	}
	err := attempt(ctx)
	if err == nil || isRefusal(err) || s.Background == nil {
		return err
	}
	// The request has ended, and the service may refuse calls in its name.
	bg := s.Background(ctx)
	if bg == nil {
		return err
	}
	again := attempt(bg)
	if again == nil || isRefusal(again) {
		return again
	}
	return errors.Join(err, again)
}

// free returns a context for work that no request waits for, for as long as the
// process may live. Where the services answer in nobody's name it has nothing of
// the request. Elsewhere the request's values stay in memory: on Google's local
// server they are the only way to the services.
func (s *Store) free(ctx context.Context) context.Context {
	if s.Background != nil {
		if bg := s.Background(ctx); bg != nil {
			return instance.With(bg, instance.Of(ctx))
		}
	}
	return context.WithoutCancel(ctx)
}

// detached calls f with a context that does not end with the request's, and
// returns what f returned; or, when the request's context has ended a second ago
// and f has not, why the context ended. f goes on then, and Drain waits for it.
func (s *Store) detached(ctx context.Context, f func(ctx context.Context) error) (ended bool, err error) {
	if ctx.Done() == nil {
		return true, f(ctx)
	}
	done := make(chan error, 1)
	background.start(func() {
		err := errPanic
		defer func() { done <- err }()
		err = f(context.WithoutCancel(ctx))
	})
	select {
	case err := <-done:
		return true, err
	case <-ctx.Done():
	}
	within, cancel := s.finishing(ctx)
	defer cancel()
	select {
	case err := <-done:
		return true, err
	case <-within.Done():
		return false, context.Cause(ctx)
	}
}

// Drain waits until no background work of this process is under way, that
// included which starts meanwhile, or until ctx is done. What is pending is tried
// once more. What a service cannot be told then, since it does not answer, Drain
// does not wait for.
func Drain(ctx context.Context) error {
	if err := background.wait(ctx); err != nil {
		return err
	}
	tellAll(instance.Of(ctx).Name)
	return background.wait(ctx)
}

var background group

// A group counts running goroutines. Unlike a sync.WaitGroup it may be waited
// for while others start, and for a limited time.
type group struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to zero
}

func (g *group) start(f func()) {
	g.mu.Lock()
	if g.n++; g.n == 1 {
		g.idle = make(chan struct{})
	}
	g.mu.Unlock()
	go func() {
		defer func() {
			g.mu.Lock()
			if g.n--; g.n == 0 {
				close(g.idle)
			}
			g.mu.Unlock()
		}()
		f()
	}()
}

func (g *group) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		n, idle := g.n, g.idle
		g.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// A pool runs background saves, a limited number at once.
type pool struct {
	mu      sync.Mutex
	running int
	queue   []func()
}

var pools sync.Map // of an instance's name and its *pool

func poolOf(ctx context.Context) *pool {
	name := instance.Of(ctx).Name
	known, ok := pools.Load(name)
	if !ok {
		known, _ = pools.LoadOrStore(name, &pool{})
	}
	p, _ := known.(*pool)
	return p
}

// start has f called in a goroutine, at once or when others have ended. It
// reports whether there was a place for it.
func (p *pool) start(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.running < maxSaves:
		p.running++
		background.start(func() { p.work(f) })
	case len(p.queue) < maxQueued:
		p.queue = append(p.queue, f)
	default:
		return false
	}
	return true
}

// work calls f, and then what waits.
func (p *pool) work(f func()) {
	defer func() { // also when a service has ended the goroutine
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.queue) == 0 {
			p.running--
			return
		}
		next := p.queue[0]
		p.queue = p.queue[1:]
		background.start(func() { p.work(next) })
	}()
	f()
}

// inParallel calls f with each number below count, limit at once, and returns when
// all calls have ended.
func inParallel(limit, count int, f func(i int)) {
	var running errgroup.Group
	running.SetLimit(limit)
	for i := range count {
		running.Go(func() error {
			f(i)
			return nil
		})
	}
	_ = running.Wait() // none has an error
}
