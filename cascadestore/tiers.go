package cascadestore

import (
	"context"
	"time"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/tiered"
)

// The form of a session in Datastore, that of the original package.
const (
	kind            = "Session"
	valueProperty   = "Value"
	expiresProperty = "ExpiresAt"
)

// retries is how often a call that fails is tried.
const retries = 3

// tiers returns the services the store is to use, or none. What they know of
// the expiry of a session they read goes to expires, when that is not nil.
func (cs *CascadeStore) tiers(expires *time.Time, merge func(base, mine, theirs []byte) (tiered.Record, error)) (s tiered.Store, ok bool) {
	s = tiered.Store{Merge: merge, Retries: retries}
	watch := watch{cs.logs(), expires}
	if cs.backendTypes&MemcacheBackend != 0 {
		s.Cache = cache{gae.Memcache{Prefix: cs.keyPrefix, MaxValue: cs.env.maxMemcacheValue}, watch}
	}
	if cs.backendTypes&DatastoreBackend != 0 {
		s.Backup = backup{gae.Datastore{Kind: kind, Prefix: cs.keyPrefix, Value: valueProperty, Expires: expiresProperty}, watch}
	}
	return s, s.Cache != nil || s.Backup != nil
}

// watch looks on while services are called: it logs each call and keeps the
// expiry of what was read.
type watch struct {
	logs    logs
	expires *time.Time
}

func (w watch) read(expires time.Time) {
	if w.expires != nil {
		*w.expires = expires
	}
}

// cache is Memcache with the expiry of a value in its item's flags, beside what
// the protocol puts there. So a request that changed nothing knows without
// another call whether the expiry has to be written again.
//
// The lowest four bits are the protocol's. The 28 above them are the expiry in
// seconds, rounded up, modulo 2²⁸ (8.5 years). Zero means that it is not known,
// as in the items of the original package, which ignores the flags of the items
// it reads.
type cache struct {
	tiered.Cache
	watch watch
}

const (
	protocolBits = 4
	protocolMask = 1<<protocolBits - 1
	expiryBits   = 32 - protocolBits
	expiryCycle  = 1 << expiryBits // seconds

	// maxKnownTTL is what expiryOf can tell from the past: less than half a
	// cycle, with an hour for clocks that differ.
	maxKnownTTL = expiryCycle/2*time.Second - time.Hour
)

// withExpiry adds the expiry to the flags of a value; a lock and a removal
// marker have a time to live of their own.
func withExpiry(it tiered.Item, ttl time.Duration) tiered.Item {
	if !tiered.IsSession(it.Flags) || ttl <= 0 || ttl > maxKnownTTL {
		return it
	}
	seconds := time.Now().Add(ttl + time.Second - time.Nanosecond).Unix()
	it.Flags |= uint32(seconds%expiryCycle) << protocolBits
	return it
}

// expiryOf returns the expiry in an item's flags, zero when there is none.
func expiryOf(flags uint32) time.Time {
	stored := int64(flags >> protocolBits)
	if stored == 0 {
		return time.Time{}
	}
	// The one that is closest to now.
	now := time.Now().Unix()
	distance := (stored - now) % expiryCycle
	switch {
	case distance >= expiryCycle/2:
		distance -= expiryCycle
	case distance < -expiryCycle/2:
		distance += expiryCycle
	}
	return time.Unix(now+distance, 0)
}

func (c cache) Get(ctx context.Context, id string) (*tiered.Item, error) {
	it, err := c.Cache.Get(ctx, id)
	if it != nil {
		c.watch.read(expiryOf(it.Flags))
		it.Flags &= protocolMask
	}
	switch {
	case it != nil:
		c.watch.logs.step(ctx, "memcache get", id, "found", true, "flags", it.Flags, "bytes", len(it.Value))
	default:
		c.watch.logs.step(ctx, "memcache get", id, "found", false, "error", textOf(id, err))
	}
	return it, err
}

func (c cache) Set(ctx context.Context, id string, it tiered.Item, ttl time.Duration) error {
	err := c.Cache.Set(ctx, id, withExpiry(it, ttl), ttl)
	c.watch.logs.step(ctx, "memcache set", id, "flags", it.Flags, "bytes", len(it.Value), "ttl", ttl, "error", textOf(id, err))
	return err
}

func (c cache) Add(ctx context.Context, id string, it tiered.Item, ttl time.Duration) (bool, error) {
	added, err := c.Cache.Add(ctx, id, withExpiry(it, ttl), ttl)
	c.watch.logs.step(ctx, "memcache add", id, "flags", it.Flags, "bytes", len(it.Value), "ttl", ttl, "added", added, "error", textOf(id, err))
	return added, err
}

func (c cache) CompareAndSwap(ctx context.Context, id string, old *tiered.Item, it tiered.Item, ttl time.Duration) (tiered.Outcome, error) {
	out, err := c.Cache.CompareAndSwap(ctx, id, old, withExpiry(it, ttl), ttl)
	c.watch.logs.step(ctx, "memcache compare-and-swap", id, "flags", it.Flags, "bytes", len(it.Value), "ttl", ttl, "stored", err == nil && out == tiered.Stored, "error", textOf(id, err))
	return out, err
}

func (c cache) Delete(ctx context.Context, id string) error {
	err := c.Cache.Delete(ctx, id)
	c.watch.logs.step(ctx, "memcache delete", id, "error", textOf(id, err))
	return err
}

// backup is Datastore, watched.
type backup struct {
	tiered.Backup
	watch watch
}

func (b backup) Get(ctx context.Context, id string) (*tiered.Record, error) {
	r, err := b.Backup.Get(ctx, id)
	if r != nil {
		b.watch.read(r.Expires)
		b.watch.logs.step(ctx, "datastore get", id, "found", true, "bytes", len(r.Value), "expires", r.Expires)
	} else {
		b.watch.logs.step(ctx, "datastore get", id, "found", false, "error", textOf(id, err))
	}
	return r, err
}

func (b backup) Put(ctx context.Context, id string, r tiered.Record) error {
	err := b.Backup.Put(ctx, id, r)
	b.watch.logs.step(ctx, "datastore put", id, "bytes", len(r.Value), "expires", r.Expires, "error", textOf(id, err))
	return err
}

func (b backup) Transact(ctx context.Context, id string, f func(*tiered.Record) (*tiered.Record, error)) error {
	err := b.Backup.Transact(ctx, id, f)
	b.watch.logs.step(ctx, "datastore transaction", id, "error", textOf(id, err))
	return err
}
