package cascadestore

import (
	"context"
	"time"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

// The form of a session in Datastore, that of the original package.
const (
	kind            = "Session"
	valueProperty   = "Value"
	expiresProperty = "ExpiresAt"
)

// retries is how often a call that fails is tried.
const retries = 3

// tiers returns the services the store is to use, or none, for a session.
func (cs *CascadeStore) tiers(ctx context.Context, session *sessions.Session) (s tiered.Store, ok bool) {
	c, b := cs.services()
	s = tiered.Store{
		Cache:   c,
		Backup:  b,
		Retries: retries,
		Inspect: func(value []byte) (tiered.Info, error) { return cs.inspect(value, session) },
		Merge: func(into, from []byte, take func(name string) bool) ([]byte, error) {
			return cs.merge(session, into, from, take)
		},
		Background: gae.Background,
		Report:     func(id string, err error) { cs.logs().fail(ctx, describe("save session", id, err)) },
		Shared:     func() any { return gae.Shared(ctx, c, b) },
	}
	if s.Cache != nil {
		s.Cache = cache{c, cs.logs()}
	}
	if s.Backup != nil {
		s.Backup = backup{b, cs.logs()}
	}
	return s, s.Cache != nil || s.Backup != nil
}

// services returns the services the store is to use.
func (cs *CascadeStore) services() (c tier.Cache, b tier.Backup) {
	if cs.backendTypes&MemcacheBackend != 0 {
		if c = cs.cache; c == nil {
			c = gae.Memcache{Prefix: cs.keyPrefix, MaxValue: cs.env.maxMemcacheValue}
		}
	}
	if cs.backendTypes&DatastoreBackend != 0 {
		if b = cs.backup; b == nil {
			b = gae.Datastore{Kind: kind, Prefix: cs.keyPrefix, Value: valueProperty, Expires: expiresProperty}
		}
	}
	return c, b
}

// isValidID reports whether the services take the id.
func (cs *CascadeStore) isValidID(id string) bool {
	c, b := cs.services()
	return id != "" && (c == nil || c.ValidID(id)) && (b == nil || b.ValidID(id))
}

// cache logs what is done with a cache.
type cache struct {
	tier.Cache
	logs logs
}

func (c cache) Get(ctx context.Context, id string) (*tier.Item, error) {
	it, err := c.Cache.Get(ctx, id)
	if it != nil {
		c.logs.step(ctx, "cache get", id, "found", true, "flags", it.Flags, "bytes", len(it.Value))
	} else {
		c.logs.step(ctx, "cache get", id, "found", false, "error", textOf(id, err))
	}
	return it, err
}

func (c cache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	err := c.Cache.Set(ctx, id, it, ttl)
	c.logs.step(ctx, "cache set", id, "flags", it.Flags, "bytes", len(it.Value), "ttl", ttl, "error", textOf(id, err))
	return err
}

func (c cache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	added, err := c.Cache.Add(ctx, id, it, ttl)
	c.logs.step(ctx, "cache add", id, "flags", it.Flags, "bytes", len(it.Value), "ttl", ttl, "added", added, "error", textOf(id, err))
	return added, err
}

func (c cache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	out, err := c.Cache.CompareAndSwap(ctx, id, old, it, ttl)
	c.logs.step(ctx, "cache compare-and-swap", id, "flags", it.Flags, "bytes", len(it.Value), "ttl", ttl, "stored", err == nil && out == tier.Stored, "error", textOf(id, err))
	return out, err
}

// backup logs what is done with a backup.
type backup struct {
	tier.Backup
	logs logs
}

func (b backup) Get(ctx context.Context, id string) (*tier.Record, error) {
	r, err := b.Backup.Get(ctx, id)
	if r != nil {
		b.logs.step(ctx, "backup get", id, "found", true, "bytes", len(r.Value), "expires", r.Expires)
	} else {
		b.logs.step(ctx, "backup get", id, "found", false, "error", textOf(id, err))
	}
	return r, err
}

func (b backup) Put(ctx context.Context, id string, r tier.Record) error {
	err := b.Backup.Put(ctx, id, r)
	b.logs.step(ctx, "backup put", id, "bytes", len(r.Value), "expires", r.Expires, "error", textOf(id, err))
	return err
}

func (b backup) Insert(ctx context.Context, id string, r tier.Record) error {
	err := b.Backup.Insert(ctx, id, r)
	b.logs.step(ctx, "backup insert", id, "bytes", len(r.Value), "expires", r.Expires, "error", textOf(id, err))
	return err
}

func (b backup) Update(ctx context.Context, id string, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	err := b.Backup.Update(ctx, id, known, f)
	b.logs.step(ctx, "backup update", id, "error", textOf(id, err))
	return err
}

// Drain waits until nothing of this process is at work in the background: when
// Memcache fails, a save that Datastore has goes on to tell Memcache for some
// three seconds after Save has returned the error. Call it before the process
// ends. It returns ctx's error if that ends first.
func Drain(ctx context.Context) error { return tiered.Drain(ctx) }
