package tiertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// attempts is how often an update of a MemoryBackup calls its function.
const attempts = 100

// unlimited is how many bytes a value may have where there is no limit.
const unlimited = 1 << 30

// A MemoryBackup is a [tier.Backup] that keeps its records in memory, for tests.
// It copies whatever it is given and whatever it hands on. It holds no lock while
// it calls the function of an update, and it promises no more than the contract
// does: an update does not notice that a record has changed which it leaves.
type MemoryBackup struct {
	// Limit is how many bytes a value may have, a gigabyte if it is zero. It must
	// not be changed once the backup is in use.
	Limit int

	mu      sync.Mutex
	records map[string]tier.Record
}

// NewBackup returns an empty backup in memory.
func NewBackup() *MemoryBackup { return &MemoryBackup{records: map[string]tier.Record{}} }

// Get implements [tier.Backup].
func (m *MemoryBackup) Get(ctx context.Context, id string) (*tier.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.get(id), nil
}

// get returns a copy. The caller holds the lock.
func (m *MemoryBackup) get(id string) *tier.Record {
	r, ok := m.records[id]
	if !ok {
		return nil
	}
	return &tier.Record{Value: bytes.Clone(r.Value), Expires: r.Expires, Token: bytes.Clone(r.Token)}
}

// Put implements [tier.Backup].
func (m *MemoryBackup) Put(ctx context.Context, id string, r tier.Record) error {
	if err := errors.Join(ctx.Err(), m.check(id, &r)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(id, &r)
	return nil
}

// put writes a copy. The caller holds the lock.
func (m *MemoryBackup) put(id string, r *tier.Record) {
	token := make([]byte, 16)
	_, _ = rand.Read(token) // never fails
	m.records[id] = tier.Record{Value: bytes.Clone(r.Value), Expires: r.Expires.Truncate(time.Microsecond), Token: token}
	r.Token = bytes.Clone(token)
}

// Insert implements [tier.Backup].
func (m *MemoryBackup) Insert(ctx context.Context, id string, r tier.Record) error {
	if err := errors.Join(ctx.Err(), m.check(id, &r)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.records[id]; ok {
		return tier.ErrExists
	}
	m.put(id, &r)
	return nil
}

// Update implements [tier.Backup].
func (m *MemoryBackup) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", tier.ErrNotWritten, err)
	}
	if guess != nil {
		if len(ids) != 1 || guess.Next == nil {
			return errors.New("tiertest: a guess is of one record and what replaces it")
		}
		if done, err := m.replace(ctx, ids, [][]byte{guess.Token}, []*tier.Record{guess.Next}); done || err != nil {
			return err
		}
	}
	for range attempts {
		current, tokens := make([]*tier.Record, len(ids)), make([][]byte, len(ids))
		m.mu.Lock()
		for i, id := range ids {
			current[i], tokens[i] = m.get(id), m.records[id].Token
		}
		m.mu.Unlock()
		next, err := f(current)
		if err != nil {
			return err
		}
		if len(next) != len(ids) {
			return fmt.Errorf("tiertest: update of %d records with %d", len(ids), len(next))
		}
		if done, err := m.replace(ctx, ids, tokens, next); done || err != nil {
			return err
		}
	}
	return tier.ErrContention
}

// replace writes those of next that are not nil, if all that they replace have
// these tokens still. A record that is missing has an empty one.
func (m *MemoryBackup) replace(ctx context.Context, ids []string, tokens [][]byte, next []*tier.Record) (done bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, id := range ids {
		if next[i] == nil {
			continue
		}
		if !bytes.Equal(m.records[id].Token, tokens[i]) {
			return false, nil
		}
		if err := errors.Join(ctx.Err(), m.check(id, next[i])); err != nil {
			return false, fmt.Errorf("%w: %w", tier.ErrNotWritten, err)
		}
	}
	for i, id := range ids {
		if next[i] != nil {
			m.put(id, next[i])
		}
	}
	return true, nil
}

func (m *MemoryBackup) check(id string, r *tier.Record) error {
	if len(r.Value) > m.MaxValue(id) {
		return tier.ErrTooLarge
	}
	return nil
}

// MaxValue implements [tier.Backup].
func (m *MemoryBackup) MaxValue(string) int { return limit(m.Limit) }

func limit(l int) int {
	if l == 0 {
		return unlimited
	}
	return l
}

// ValidID implements [tier.Backup]. It takes every id that is not empty.
func (m *MemoryBackup) ValidID(id string) bool { return id != "" }

// A MemoryCache is a [tier.Cache] that keeps its items in memory, for tests. It
// loses none before its time, unless it is flushed.
type MemoryCache struct {
	// Limit is how many bytes a value may have, a gigabyte if it is zero. It must
	// not be changed once the cache is in use.
	Limit int

	mu      sync.Mutex
	items   map[string]cached
	version int64
}

type cached struct {
	flags   uint32
	value   []byte
	version int64
	expires time.Time
}

// NewCache returns an empty cache in memory.
func NewCache() *MemoryCache { return &MemoryCache{items: map[string]cached{}} }

// Flush removes all items.
func (m *MemoryCache) Flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.items)
}

// get returns what is there. The caller holds the lock.
func (m *MemoryCache) get(id string) (cached, bool) {
	c, ok := m.items[id]
	if ok && !time.Now().Before(c.expires) {
		delete(m.items, id)
		ok = false
	}
	return c, ok
}

// set stores a copy of an item. The caller holds the lock.
func (m *MemoryCache) set(id string, it tier.Item, ttl time.Duration) {
	if ttl <= 0 {
		delete(m.items, id)
		return
	}
	m.version++
	m.items[id] = cached{it.Flags, slices.Clone(it.Value), m.version, time.Now().Add(ttl)}
}

func (m *MemoryCache) check(ctx context.Context, id string, it tier.Item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !m.Fits(id, len(it.Value)) {
		return tier.ErrTooLarge
	}
	return nil
}

// Get implements [tier.Cache].
func (m *MemoryCache) Get(ctx context.Context, id string) (*tier.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.get(id)
	if !ok {
		return nil, nil
	}
	return &tier.Item{Flags: c.flags, Value: slices.Clone(c.value), Token: c.version}, nil
}

// Set implements [tier.Cache].
func (m *MemoryCache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	if err := m.check(ctx, id, it); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(id, it, ttl)
	return nil
}

// Add implements [tier.Cache].
func (m *MemoryCache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	if err := m.check(ctx, id, it); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.get(id); ok {
		return false, nil
	}
	m.set(id, it, ttl)
	return true, nil
}

// CompareAndSwap implements [tier.Cache].
func (m *MemoryCache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	if err := m.check(ctx, id, it); err != nil {
		return tier.Conflict, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch c, ok := m.get(id); {
	case !ok:
		return tier.Absent, nil
	case old.Token != any(c.version):
		return tier.Conflict, nil
	}
	m.set(id, it, ttl)
	return tier.Stored, nil
}

// Fits implements [tier.Cache].
func (m *MemoryCache) Fits(_ string, size int) bool { return size <= limit(m.Limit) }

// ValidID implements [tier.Cache]. It takes every id that is not empty.
func (m *MemoryCache) ValidID(id string) bool { return id != "" }
