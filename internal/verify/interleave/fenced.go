//go:build go1.25

package interleave

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A fencedCache is a cache that goes back in time, as a Redis server does that
// restarts from a snapshot. Its items are fenced as in package rediscache: each
// has the server's replication id, which is another one after a restart, and an
// item of another id is none.
type fencedCache struct {
	items    map[string]fencedItem
	snapshot map[string]fencedItem
	id       int // replication id
	versions uint64
	prefix   string
	unfenced bool // items of another id are items
}

type fencedItem struct {
	token fencedToken
	flags uint32
	value []byte
	ends  time.Time
}

type fencedToken struct {
	id      int
	version uint64
}

// save makes the snapshot, and goBack restarts from it.
func (s *fencedCache) save() { s.snapshot = maps.Clone(s.items) }
func (s *fencedCache) goBack() {
	s.items = maps.Clone(s.snapshot)
	s.id++
}

// there is what the key has, whether it is an item or not.
func (s *fencedCache) there(key string) (it fencedItem, ok bool) {
	it, ok = s.items[key]
	return it, ok && time.Now().Before(it.ends)
}

// get returns what the key has if it is an item.
func (s *fencedCache) get(key string) (it fencedItem, ok bool) {
	it, ok = s.there(key)
	return it, ok && (s.unfenced || it.token.id == s.id)
}

// put stores an item of a new version.
func (s *fencedCache) put(key string, id int, it tier.Item, ttl time.Duration) {
	s.versions++
	s.items[key] = fencedItem{fencedToken{id, s.versions}, it.Flags, it.Value, time.Now().Add(ttl)}
}

func (s *fencedCache) swap(key string, old fencedToken, it tier.Item, ttl time.Duration) tier.Outcome {
	there, ok := s.there(key)
	isItem := ok && (s.unfenced || there.token.id == s.id)
	switch {
	case isItem && there.token == old:
		s.put(key, s.id, it, ttl)
		return tier.Stored
	case isItem:
		return tier.Conflict
	}
	delete(s.items, key)
	return tier.Absent
}

func (s *fencedCache) peek(id string) *item {
	if it, ok := s.get(s.prefix + id); ok {
		return &item{value: it.value, flags: it.flags, cas: it.token.version}
	}
	return nil
}

func (s *fencedCache) set(id string, value []byte) {
	s.put(s.prefix+id, s.id, tier.Item{Value: value}, timeout)
}
func (s *fencedCache) evict(id string) { delete(s.items, s.prefix+id) }
func (s *fencedCache) flush()          { clear(s.items) }

// hiddenTokens are what of the cache nobody sees as long as it is not swapped.
func (s *fencedCache) hiddenTokens(id string) []token {
	if it, ok := s.there(s.prefix + id); ok && it.token.id != s.id {
		return []token{word("of another server"), ident("cas", it.token.version)}
	}
	return nil
}

// fencedTier is a fencedCache as the stores are given it. Each method is a call.
type fencedTier struct {
	server *fencedCache
	prefix string
}

var errCache = errors.New("cache: made to fail")

func (t fencedTier) do(ctx context.Context, id, name string, c *call, perform func(key string)) error {
	h := holderOf(ctx)
	c.ctx, c.service, c.name, c.failure = ctx, inCache, name, errCache
	c.ids = []string{id}
	c.perform = func() error {
		perform(t.prefix + id)
		return nil
	}
	return h.hold(c)
}

func (t fencedTier) Get(ctx context.Context, id string) (it *tier.Item, err error) {
	c := &call{}
	err = t.do(ctx, id, "get", c, func(key string) {
		found, ok := t.server.get(key)
		if !ok {
			if _, ok := t.server.there(key); ok {
				delete(t.server.items, key)
			}
			return
		}
		it = &tier.Item{Flags: found.flags, Value: found.value, Token: found.token}
		c.got = &item{value: found.value, flags: found.flags, cas: found.token.version}
	})
	if err != nil {
		return nil, err
	}
	return it, nil
}

func written(it tier.Item, cas uint64, ttl time.Duration) *item {
	return &item{value: it.Value, flags: it.Flags, cas: cas, ttl: ttl}
}

func (t fencedTier) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	c := &call{item: written(it, 0, ttl)}
	return t.do(ctx, id, "set:"+kindName(c.item), c, func(key string) { t.server.put(key, t.server.id, it, ttl) })
}

func (t fencedTier) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (added bool, err error) {
	c := &call{item: written(it, 0, ttl)}
	c.answer = answered(&added)
	err = t.do(ctx, id, "add:"+kindName(c.item), c, func(key string) {
		_, there := t.server.get(key)
		if added = !there; added {
			t.server.put(key, t.server.id, it, ttl)
		}
	})
	return added && err == nil, err
}

func (t fencedTier) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (out tier.Outcome, err error) {
	token := old.Token.(fencedToken)
	c := &call{item: written(it, token.version, ttl)}
	c.answer = answered(&out)
	err = t.do(ctx, id, "cas:"+kindName(c.item), c, func(key string) { out = t.server.swap(key, token, it, ttl) })
	if err != nil {
		return tier.Conflict, err
	}
	return out, nil
}

func answered[T any](v *T) func() []token {
	return func() []token { return []token{word(fmt.Sprint(*v))} }
}

func (fencedTier) Fits(_ string, size int) bool { return size <= 1<<20 }
func (fencedTier) ValidID(id string) bool       { return id != "" }
