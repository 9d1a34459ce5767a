package tiered

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

// kind is what an item of the cache is; it is stored as the item's flags. Zero
// keeps items readable that were written without this package.
type kind uint32

const (
	value   kind = iota // a session
	lease               // somebody is refilling; or nobody, and nobody may
	removed             // there is no session any more
	damaged             // read, never written: nobody can tell what it is
)

// A nonce says whose an item is. Nobody else ever draws it.
type nonce [8]byte

const (
	leaseTTL = time.Minute // ends the lease of a request that has died

	// sealTime is how long a session that moves is sealed. An update that
	// takes longer is given up before.
	sealTime = tier.UpdateTime + 30*time.Second
)

// An item is what the cache has.
type item struct {
	kind  kind
	state *state // of a value
	nonce nonce  // of a lease or a removal marker; zero: nobody's
	own   bool   // a lease of the caller's own
	raw   *tier.Item
	err   error // of a damaged item: why
}

// is reports whether there is an item of that kind.
func (it *item) is(k kind) bool { return it != nil && it.kind == k }

func (s *Store) decodeItem(raw *tier.Item) *item {
	it := &item{kind: kind(raw.Flags), raw: raw}
	switch it.kind {
	case lease, removed:
		copy(it.nonce[:], raw.Value) // nobody's: zero
	case value:
		if it.state, it.err = s.open(raw.Value); it.err != nil {
			it.kind = damaged
		}
	default:
		it.kind, it.err = damaged, fmt.Errorf("%w: flags %d", errDamaged, raw.Flags)
	}
	return it
}

// newItem is a lease or a removal marker that its owner can tell from others.
func newItem(k kind) tier.Item {
	var n nonce
	// crypto/rand.Read does not fail on any platform Go supports: it ends the
	// program instead.
	_, _ = rand.Read(n[:])
	return tier.Item{Flags: uint32(k), Value: n[:]}
}

var (
	// nobodysLease ends the refill whose lease it replaces, and keeps others
	// away.
	nobodysLease  = tier.Item{Flags: uint32(lease)}
	removalMarker = tier.Item{Flags: uint32(removed)}
)

// itemOf is a state as an item; ok is false if the cache does not take it.
func (s *Store) itemOf(id string, st *state) (it tier.Item, ok bool) {
	it = tier.Item{Flags: uint32(value), Value: st.encode(true)}
	return it, s.Cache.Fits(id, len(it.Value))
}

// The calls of the services, tried as often as Retries says.

func call[T any](ctx context.Context, s *Store, what string, op func() (T, error)) (T, error) {
	v, err := retry.Do(ctx, s.Retries, func() (T, error) {
		v, err := op()
		if isFinal(err) {
			err = retry.Permanent(err)
		}
		return v, err
	})
	if err != nil {
		return v, fmt.Errorf("%s: %w", what, err)
	}
	return v, nil
}

func isFinal(err error) bool {
	return errors.Is(err, tier.ErrRejected) || errors.Is(err, tier.ErrExists) || isRefusal(err)
}

// get returns nil when there is no item.
func (s *Store) get(ctx context.Context, id string) (*item, error) {
	raw, err := call(ctx, s, "cache get", func() (*tier.Item, error) { return s.Cache.Get(ctx, id) })
	if err != nil || raw == nil {
		return nil, err
	}
	return s.decodeItem(raw), nil
}

// mark sets the removal marker, which is all that is ever put into the cache
// whatever is there.
func (s *Store) mark(ctx context.Context, id string) error {
	if s.Cache == nil {
		return nil
	}
	_, err := call(ctx, s, "cache set", func() (struct{}, error) {
		return struct{}{}, s.Cache.Set(ctx, id, removalMarker, removedTTL)
	})
	return err
}

func (s *Store) add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	return call(ctx, s, "cache add", func() (bool, error) { return s.Cache.Add(ctx, id, it, ttl) })
}

// swap reports with unsure that a first attempt failed, and may have had its
// effect all the same.
func (s *Store) swap(ctx context.Context, id string, old *item, it tier.Item, ttl time.Duration) (out tier.Outcome, unsure bool, err error) {
	out, err = call(ctx, s, "cache compare-and-swap", func() (tier.Outcome, error) {
		out, err := s.Cache.CompareAndSwap(ctx, id, old.raw, it, ttl)
		unsure = unsure || err != nil
		return out, err
	})
	return out, unsure, err
}

func (s *Store) read(ctx context.Context, id string) (*tier.Record, error) {
	return call(ctx, s, "backup get", func() (*tier.Record, error) { return s.Backup.Get(ctx, id) })
}

func (s *Store) put(ctx context.Context, id string, r tier.Record) error {
	_, err := call(ctx, s, "backup put", func() (struct{}, error) { return struct{}{}, s.Backup.Put(ctx, id, r) })
	return err
}

func (s *Store) insert(ctx context.Context, id string, r tier.Record) error {
	_, err := call(ctx, s, "backup insert", func() (struct{}, error) { return struct{}{}, s.Backup.Insert(ctx, id, r) })
	return err
}

// contentionAttempts is how often an update is tried that others get ahead of:
// backed off, that takes some 20 seconds.
const contentionAttempts = 24

// update tries the backup's update Retries times when the service fails, and
// contentionAttempts times when other changes get ahead of it. tried is called
// when an attempt has ended that may have written what f returned. (After
// contention, too: App Engine may report it for a transaction that is applied.)
func (s *Store) update(ctx context.Context, id string, known *tier.Record, f func(*tier.Record) (*tier.Record, error), tried func()) error {
	failures := 0
	_, err := retry.Do(ctx, contentionAttempts+s.Retries, func() (struct{}, error) {
		err := s.Backup.Update(ctx, id, known, f)
		if !errors.Is(err, tier.ErrNotWritten) {
			tried()
		}
		if err != nil && !errors.Is(err, tier.ErrContention) {
			if failures++; failures >= s.Retries || isFinal(err) {
				err = retry.Permanent(err)
			}
		}
		known = nil
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("backup update: %w", err)
	}
	return nil
}

// swapAttempts is how often an item is tried to be replaced that others keep
// replacing.
const swapAttempts = 100

// replace puts what with returns in the place of the cache's item, and asks
// with again when others were faster. seen is the item as it was loaded; nil:
// the cache is asked for it. with gets nil where there is no item; unsure says
// that an earlier attempt failed, and may have had its effect all the same.
func (s *Store) replace(ctx context.Context, id string, seen *item, with func(seen *item, unsure bool) (it tier.Item, ttl time.Duration, done bool, err error)) error {
	known, unsure := seen != nil, false
	for attempt := range swapAttempts {
		if attempt > 2 {
			// Others are at it, too.
			if err := retry.Wait(ctx, time.Duration(attempt)*time.Millisecond); err != nil {
				return err
			}
		}
		if !known {
			var err error
			if seen, err = s.get(ctx, id); err != nil {
				return err
			}
		}
		it, ttl, done, err := with(seen, unsure)
		if err != nil || done {
			return err
		}
		known = false
		if seen == nil {
			if added, err := s.add(ctx, id, it, ttl); err != nil || added {
				return err
			}
			continue
		}
		out, failed, err := s.swap(ctx, id, seen, it, ttl)
		if err != nil || out == tier.Stored {
			return err
		}
		unsure = unsure || failed
		if out == tier.Absent {
			seen, known = nil, true
		}
	}
	return fmt.Errorf("cache: %w", tier.ErrContention)
}

// both runs f and g side by side and returns when both have.
func both(f, g func() error) (ferr, gerr error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ferr = f()
	}()
	gerr = g()
	<-done
	return ferr, gerr
}
