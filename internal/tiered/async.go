package tiered

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// saveTimeout bounds background work in the request's context, and again in
// one of its own.
const saveTimeout = 30 * time.Second

// UpdateAsync saves a change in the cache and returns; a goroutine then saves
// it in the backup. Drain waits for that goroutine. Where the cache has no
// value that could take the change, UpdateAsync is Update.
func (s *Store) UpdateAsync(ctx context.Context, id string, l *Loaded, c Change) (*Loaded, error) {
	if s.Cache == nil || s.Backup == nil || l.item == nil && !l.cached {
		return s.Update(ctx, id, l, c)
	}
	if !s.fits(id, c) {
		return nil, tier.ErrTooLarge
	}
	p := &part{loaded: l, change: &c, ahead: aheadOf(ctx)}
	err := s.together(ctx, id, "keep", p, func(ctx context.Context, parts []*part) error {
		st, err := s.keep(ctx, id, parts, true)
		if err != nil {
			return err
		}
		// All that is unsaved there is saved, not this change alone.
		kept := &part{loaded: &Loaded{state: st}}
		s.inBackground(ctx, id, func(ctx context.Context) error { return s.run(ctx, id, kept) })
		return nil
	})
	saved := err != nil && !isRefusal(err)
	if saved {
		err = s.run(ctx, id, p)
	}
	if err != nil {
		return nil, err
	}
	return p.after(saved), nil
}

// inBackground does f in a goroutine that Drain waits for: in the request's
// context, though that may end, and when that fails in one of no request.
func (s *Store) inBackground(ctx context.Context, id string, f func(ctx context.Context) error) {
	attempt := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
		defer cancel()
		return f(ctx)
	}
	background.start(func() {
		err := attempt(ctx)
		if err != nil && !isRefusal(err) && s.Background != nil {
			// The request has ended, and the service may refuse calls in its name.
			if again := s.Background(ctx); again != nil {
				if aerr := attempt(again); aerr == nil || isRefusal(aerr) {
					err = aerr
				} else {
					err = errors.Join(err, aerr)
				}
			}
		}
		if err != nil {
			s.Report(id, err)
		}
	})
}

// Drain waits until no background work of this process is under way, that
// included which starts meanwhile, or until ctx is done.
func Drain(ctx context.Context) error { return background.wait(ctx) }

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
