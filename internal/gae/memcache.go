package gae

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/tier"
)

const (
	// MaxKeyLength is the length of a Memcache key, in bytes.
	// https://cloud.google.com/appengine/docs/legacy/standard/go111/memcache#limits
	MaxKeyLength = 250

	// A value, its key and what Memcache needs beside them may take 1 MiB. The
	// overhead is the one Google's local server counts.
	maxItem      = 1 << 20
	itemOverhead = 73

	// Memcache takes an expiration of more than 30 days for a point in time.
	maxTTL = 30 * 24 * time.Hour
)

// Memcache is App Engine's Memcache as a cache. The namespace is that of the
// contexts.
type Memcache struct {
	Prefix   string // of the keys, before the session's id
	MaxValue int    // bytes of a value; 0: what Memcache takes
}

// Get implements [tier.Cache].
func (m Memcache) Get(ctx context.Context, id string) (*tier.Item, error) {
	if err := take(ctx); err != nil {
		return nil, err
	}
	defer places.Release(1)
	it, err := memcache.Get(ctx, m.Prefix+id)
	if errors.Is(err, memcache.ErrCacheMiss) {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err)
	}
	return &tier.Item{Flags: it.Flags, Value: it.Value, Token: it}, nil
}

// Set implements [tier.Cache].
func (m Memcache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	return classify(store(ctx, memcache.Set, m.item(id, it, ttl)))
}

// Add implements [tier.Cache].
func (m Memcache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	err := store(ctx, memcache.Add, m.item(id, it, ttl))
	if errors.Is(err, memcache.ErrNotStored) {
		return false, nil
	}
	return err == nil, classify(err)
}

// CompareAndSwap implements [tier.Cache].
func (m Memcache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	token, ok := old.Token.(*memcache.Item)
	if !ok {
		return tier.Conflict, fmt.Errorf("compare-and-swap with a %T as token", old.Token)
	}
	// The copy keeps what memcache.Get put into it beside what can be seen.
	swap := *token
	with := m.item(id, it, ttl)
	swap.Key, swap.Value, swap.Flags, swap.Expiration = with.Key, with.Value, with.Flags, with.Expiration
	switch err := store(ctx, memcache.CompareAndSwap, &swap); {
	case errors.Is(err, memcache.ErrCASConflict):
		return tier.Conflict, nil
	case errors.Is(err, memcache.ErrNotStored):
		return tier.Absent, nil
	default:
		return tier.Stored, classify(err)
	}
}

// store makes one of the calls that store an item.
func store(ctx context.Context, call func(context.Context, *memcache.Item) error, it *memcache.Item) error {
	if len(it.Value) > maxItem {
		return tooLarge(len(it.Value))
	}
	if err := take(ctx); err != nil {
		return err
	}
	defer places.Release(1)
	return call(ctx, it)
}

// Fits reports whether Memcache takes a value of that many bytes.
func (m Memcache) Fits(id string, size int) bool {
	limit := maxItem - itemOverhead - MaxKeyLength
	if m.MaxValue > 0 {
		limit = min(limit, m.MaxValue)
	}
	return size <= limit
}

// ValidID reports whether Memcache takes the key: UTF-8 without NUL, at most
// MaxKeyLength.
func (m Memcache) ValidID(id string) bool {
	key := m.Prefix + id
	return id != "" && len(key) <= MaxKeyLength && utf8.ValidString(key) && !strings.Contains(key, "\x00")
}

func (m Memcache) item(id string, it tier.Item, ttl time.Duration) *memcache.Item {
	// The client cuts off parts of a second; zero would mean for ever.
	ttl = min(max((ttl+time.Second-1).Truncate(time.Second), time.Nanosecond), maxTTL)
	value := it.Value
	if value == nil {
		value = []byte{} // the appengine package refuses nil
	}
	return &memcache.Item{Key: m.Prefix + id, Value: value, Flags: it.Flags, Expiration: ttl}
}
