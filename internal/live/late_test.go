//go:build go1.25

package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// objectForm is the Form of a session that is a JSON object.
type objectForm struct{}

func (objectForm) Attributes(v []byte) (m map[string]any, err error) {
	err = json.Unmarshal(v, &m)
	return m, err
}

func (f objectForm) Inspect([]byte) (Info, error) { return Info{}, errors.New("no such session") }

func (f objectForm) Merge(into, from []byte, take func(string) bool) ([]byte, error) {
	a, err := f.Attributes(into)
	if err != nil {
		return nil, err
	}
	b, err := f.Attributes(from)
	if err != nil {
		return nil, err
	}
	merged := map[string]any{}
	for k, v := range a {
		if !take(k) {
			merged[k] = v
		}
	}
	for k, v := range b {
		if take(k) {
			merged[k] = v
		}
	}
	return json.Marshal(merged)
}

func (objectForm) Rename(v []byte, _ string) ([]byte, error) { return v, nil }

// draft is a session with those attributes, to be saved by somebody who tries
// again what has failed.
func draft(attrs map[string]any) Draft {
	return Draft{
		Encode: func(_ string, worth func(map[string]any) bool) ([]byte, map[string]any, error) {
			if !worth(attrs) {
				return nil, nil, nil
			}
			v, err := json.Marshal(attrs)
			return v, nil, err
		},
		Lifetime: Lifetime{Used: time.Now(), Idle: time.Hour, Refresh: time.Minute, Born: time.Now()},
		Again:    true,
	}
}

func readNothing([]byte) (map[string]any, error) { return nil, nil }

func newStore(backup tier.Backup, cache tier.Cache) *Store {
	return New(Tiers{Cache: cache, Backup: backup, Report: func(string, error) {}}, Options{Form: objectForm{}})
}

// A lateBackup has its next update take effect after it has reported a timeout.
type lateBackup struct {
	*tiertest.MemoryBackup
	late bool
	land func()
}

func (b *lateBackup) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	if !b.late {
		return b.MemoryBackup.Update(ctx, ids, guess, f)
	}
	b.late = false
	return b.MemoryBackup.Update(ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
		next, err := f(current)
		if err != nil {
			return nil, err
		}
		b.land = func() {
			for i, r := range next {
				if err := b.Put(context.Background(), ids[i], *r); err != nil {
					panic(err)
				}
			}
		}
		return nil, fmt.Errorf("%w", context.DeadlineExceeded)
	})
}

func TestAChangeIsNotTakenForSavedWhereAnEarlierAttemptHasMovedTheSession(t *testing.T) {
	ctx := context.Background()
	backup := &lateBackup{MemoryBackup: tiertest.NewBackup()}
	cache := &hookedCache{Cache: tiertest.NewCache()}
	s := newStore(backup, cache)
	must(t, s.Fresh("old").Save(ctx, draft(map[string]any{"a": 1.0})))

	c := s.Copy("old")
	must(t, c.Open(ctx, readNothing))
	must(t, c.Regenerate("new"))
	backup.late = true
	if err := c.Save(ctx, draft(map[string]any{"a": 1.0, "first": true})); !errors.Is(err, tier.ErrNotSaved) {
		t.Fatalf("got %v, want ErrNotSaved", err)
	}
	cache.swapping = func() { backup.land(); cache.swapping = nil } // the seal: it had asked before
	must(t, c.Save(ctx, draft(map[string]any{"a": 1.0, "second": true})))

	after := s.Copy("new")
	must(t, after.Open(ctx, readNothing))
	if got, want := string(after.Value()), `{"a":1,"second":true}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A hookedCache calls a function before a swap.
type hookedCache struct {
	tier.Cache
	swapping func()
}

func (c *hookedCache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	if c.swapping != nil {
		c.swapping()
	}
	return c.Cache.CompareAndSwap(ctx, id, old, it, ttl)
}

func TestWhatIsNoSessionIsNotRemoved(t *testing.T) {
	ctx := context.Background()
	cache, backup := tiertest.NewCache(), tiertest.NewBackup()
	must(t, backup.Put(ctx, "owner:x", tier.Record{Value: []byte("index"), Expires: time.Now().Add(time.Hour)}))
	if err := newStore(backup, cache).Unknown("owner:x").Remove(ctx); !errors.Is(err, tier.ErrInvalidID) {
		t.Errorf("got %v, want ErrInvalidID", err)
	}
	rec, err := backup.Get(ctx, "owner:x")
	must(t, err)
	if rec == nil || !slices.Equal(rec.Value, []byte("index")) {
		t.Errorf("got %v, want what was there", rec)
	}
}
