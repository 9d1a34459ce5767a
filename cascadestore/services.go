package cascadestore

import (
	"context"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/tier"
)

// The form of a session in Datastore, that of the original package.
const (
	kind            = "Session"
	valueProperty   = "Value"
	expiresProperty = "ExpiresAt"
)

// liveStore returns one request's way to the sessions of that name.
func (cs *CascadeStore) liveStore(ctx context.Context, name string) *live.Store {
	c, b := cs.services()
	return live.New(live.Tiers{
		Cache:         c,
		Backup:        b,
		CacheTimeout:  cs.CacheTimeout,
		BackupTimeout: cs.BackupTimeout,
		MaxPerOwner:   cs.perOwner(),
		Trace:         cs.logs().trace(cs.Trace),
		Background:    gae.Background,
		Report:        func(id string, err error) { cs.logs().fail(ctx, describe("save session", id, err)) },
		Shared:        gae.Shared,
	}, live.Options{
		Form:        form{cs, name},
		MaxLifetime: cs.MaxLifetime,
		MaxLength:   cs.maxLength,
		OwnerScope:  name,
	})
}

// services returns the services the store is to use.
func (cs *CascadeStore) services() (c tier.Cache, b tier.Backup) {
	c, b = gae.Services(cs.cache, cs.backup,
		gae.Memcache{Prefix: cs.keyPrefix, MaxValue: cs.env.maxMemcacheValue},
		gae.Datastore{Kind: kind, Prefix: cs.keyPrefix, Value: valueProperty, Expires: expiresProperty})
	if cs.backendTypes&MemcacheBackend == 0 {
		c = nil
	}
	if cs.backendTypes&DatastoreBackend == 0 {
		b = nil
	}
	return c, b
}

// Drain waits until nothing of this process is at work in the background: what
// a service that failed is still to be told of sessions. Call it before the
// process ends. It returns ctx's error if that ends first; a nil ctx never does.
func Drain(ctx context.Context) error { return live.Drain(ctx) }
