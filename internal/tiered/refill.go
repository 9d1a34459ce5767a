package tiered

import (
	"context"

	"github.com/gaesession/gaesession/tier"
)

// needsRefill reports whether the load has shown that the cache lacks the
// session.
func (l *Loaded) needsRefill() bool { return l.item.is(absent) || l.item.is(damaged) }

// refill puts a session that was loaded from the backup into the cache.
func (s *Store) refill(ctx context.Context, id string, l *Loaded) error {
	mine, err := s.lease(ctx, id, l.item)
	l.item = nil
	if err != nil || mine == nil {
		return err
	}
	// Only what the backup says from here on may be cached: who changes the
	// session now ends the lease.
	rec, err := s.read(ctx, id)
	if err != nil || rec == nil {
		return err // the lease expires
	}
	fill := removalMarker
	if len(rec.Value) > 0 {
		st, err := s.openRecord(id, rec)
		if err != nil {
			return err
		}
		if fill = s.entryOf(id, st); fill == nil || !st.isLive() {
			return nil
		}
	}
	//rule: lease
	_, _, err = s.swap(ctx, id, mine, fill)
	return err
}

// lease puts a lease of the caller's own in place of what the cache had, and
// returns it; nil: others are there.
func (s *Store) lease(ctx context.Context, id string, had *item) (*item, error) {
	mine := newEntry(lease, leaseTTL)
	if had.is(absent) {
		added, err := s.add(ctx, id, mine)
		if err != nil || !added {
			return nil, err
		}
	} else if out, _, err := s.swap(ctx, id, had, mine); err != nil || out != tier.Stored {
		return nil, err
	}
	return s.ownLease(ctx, id, mine)
}

// ownLease returns the lease as the cache has it; nil: it is not there any more.
func (s *Store) ownLease(ctx context.Context, id string, mine *entry) (*item, error) {
	it, err := s.get(ctx, id)
	if err != nil || !it.is(lease) || it.nonce != nonce(mine.Value) {
		return nil, err
	}
	it.own = true
	return it, nil
}
