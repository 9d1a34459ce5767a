package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/tier"
)

// Faults make a demo's cache fail when somebody asks for it.
type Faults struct {
	// Flush takes everything of the demo's out of the cache.
	Flush func(ctx context.Context) error

	mu    sync.Mutex
	since time.Time     // when the cache stopped
	start chan struct{} // closed when it answers again; nil: it does
}

// Stop lets the cache answer no more.
func (f *Faults) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.start == nil {
		f.since, f.start = time.Now(), make(chan struct{})
	}
}

// Start lets the cache answer again, those who still wait included.
func (f *Faults) Start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.start != nil {
		close(f.start)
		f.start = nil
	}
}

// Stopped is since when the cache does not answer; the zero time: it does.
func (f *Faults) Stopped() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.start == nil {
		return time.Time{}
	}
	return f.since
}

// wait returns when the cache answers, or with an error when the context ends.
func (f *Faults) wait(ctx context.Context) error {
	f.mu.Lock()
	start := f.start
	f.mu.Unlock()
	if start == nil {
		return nil
	}
	select {
	case <-start:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the cache does not answer: %w", ctx.Err())
	}
}

// FaultsOf returns what makes the Memcache of services fail. It sets their hooks.
func FaultsOf(services *gaelocal.Server) *Faults {
	f := &Faults{Flush: func(context.Context) error { services.FlushMemcache(); return nil }}
	services.SetHooks(gaelocal.Hooks{Before: func(ctx context.Context, c gaelocal.Call) error {
		if c.Service != "memcache" {
			return nil
		}
		return f.wait(ctx)
	}})
	return f
}

// Cache returns a cache that is c while that is to answer.
func (f *Faults) Cache(c tier.Cache) tier.Cache { return &failing{c, f} }

// failing is a cache with faults.
type failing struct {
	tier.Cache
	faults *Faults
}

func (c *failing) Get(ctx context.Context, id string) (*tier.Item, error) {
	if err := c.faults.wait(ctx); err != nil {
		return nil, err
	}
	return c.Cache.Get(ctx, id)
}

func (c *failing) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	if err := c.faults.wait(ctx); err != nil {
		return err
	}
	return c.Cache.Set(ctx, id, it, ttl)
}

func (c *failing) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	if err := c.faults.wait(ctx); err != nil {
		return false, err
	}
	return c.Cache.Add(ctx, id, it, ttl)
}

func (c *failing) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	if err := c.faults.wait(ctx); err != nil {
		return 0, err
	}
	return c.Cache.CompareAndSwap(ctx, id, old, it, ttl)
}
