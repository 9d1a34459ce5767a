//go:build go1.25

package interleave

import (
	"context"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// The limits of services that are called small: changes of a few kilobytes reach
// them, alone, in pairs, or three of them. Of the record's an eighth is the reserve,
// and half of that is what may live in the cache alone.
const (
	smallRecord  = 16 << 10
	smallReserve = smallRecord / 8
	smallItem    = 8 << 10
)

// sizes are those of values that changes are given on small services: two of the
// first are too large to live in the cache alone, two of the second do not fit the
// cache, of the third one does not fit it, and two do not fit the record.
var sizes = []int{300, 5000, 9000}

// A smallCache takes no larger items, and is given none.
type smallCache struct {
	tier.Cache
	w *world
}

func (c smallCache) Fits(id string, size int) bool {
	return size <= smallItem && c.Cache.Fits(id, size)
}

func (c smallCache) check(it tier.Item) {
	if len(it.Value) > smallItem {
		c.w.failLater("the cache was given an item of %d bytes", len(it.Value))
	}
}

func (c smallCache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	c.check(it)
	return c.Cache.Set(ctx, id, it, ttl)
}

func (c smallCache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	c.check(it)
	return c.Cache.Add(ctx, id, it, ttl)
}

func (c smallCache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	c.check(it)
	return c.Cache.CompareAndSwap(ctx, id, old, it, ttl)
}

// A smallBackup takes no larger records, and is given none.
type smallBackup struct {
	tier.Backup
	w *world
}

func (b smallBackup) MaxValue(string) int { return smallRecord }

func (b smallBackup) check(all ...*tier.Record) {
	for _, r := range all {
		if r != nil && len(r.Value) > smallRecord {
			b.w.failLater("the backup was given a record of %d bytes", len(r.Value))
		}
	}
}

func (b smallBackup) Put(ctx context.Context, id string, r tier.Record) error {
	b.check(&r)
	return b.Backup.Put(ctx, id, r)
}

func (b smallBackup) Insert(ctx context.Context, id string, r tier.Record) error {
	b.check(&r)
	return b.Backup.Insert(ctx, id, r)
}

func (b smallBackup) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	if guess != nil {
		b.check(guess.Next)
	}
	return b.Backup.Update(ctx, ids, guess, func(current []*tier.Record) ([]*tier.Record, error) {
		next, err := f(current)
		if err == nil {
			b.check(next...)
		}
		return next, err
	})
}

// failLater is fail for the requests' goroutines.
func (w *world) failLater(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail(format, args...)
}

// isAcknowledged reports whether the request returned without an error, so that
// one came later.
func (a *actor) isAcknowledged() bool { return !a.judge.Failed && a.judge.Closed != 0 }

// mayBeTooLarge reports whether a change may be refused for its size: it makes the
// session larger, and so large that the record has no reserve left, whatever the
// others have unsaved.
func (a *actor) mayBeTooLarge() bool {
	grows := a.op.size > 0 || a.op.owner != "" && !(a.w.scenario.owned && a.op.owner == alice) // an owner takes some bytes
	return grows && a.largest+a.op.size+slack > smallRecord-smallReserve
}

// slack is more than what a small change and a trailer take.
const slack = 400

// isAlmostFull reports whether the record may have no place for a small change.
func (w *world) isAlmostFull() bool {
	_ = w.recordTokens()
	return w.scenario.small && w.size+slack > smallRecord-smallReserve
}
