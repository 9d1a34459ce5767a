package tiered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Load returns the session, or nil when there is none. ErrUnavailable: it
// cannot be told. Any other error says that a service failed, or has a damaged
// session, and that the other one made up for it.
func (s *Store) Load(ctx context.Context, id string) (*Loaded, error) {
	var cacheErr error
	var fill *item
	if s.Cache != nil {
		it, err := s.get(ctx, id)
		switch {
		case err != nil:
			cacheErr = err
		case it == nil:
			fill = &item{}
		case it.kind == removed:
			return nil, nil
		case it.kind == value && isLive(it.state):
			return &Loaded{state: it.state, item: it, at: time.Now()}, nil
		case it.kind == damaged:
			cacheErr, fill = fmt.Errorf("cache get: %w", it.err), it
		}
	}
	if s.Backup == nil {
		if fill != nil {
			return nil, cacheErr // of a damaged item: nobody can read it
		}
		return nil, unavailable(cacheErr)
	}
	l, err := s.loadBackup(ctx, id)
	if err != nil {
		return nil, unavailable(errors.Join(cacheErr, err))
	}
	if l != nil {
		l.fill = fill
	}
	return l, cacheErr
}

// LoadBackup is Load for a session whose cached value cannot be used. It does
// not ask the cache.
func (s *Store) LoadBackup(ctx context.Context, id string) (*Loaded, error) {
	if s.Backup == nil {
		return nil, nil
	}
	l, err := s.loadBackup(ctx, id)
	return l, unavailable(err)
}

func (s *Store) loadBackup(ctx context.Context, id string) (*Loaded, error) {
	rec, err := s.read(ctx, id)
	if err != nil || rec == nil || len(rec.Value) == 0 || !time.Now().Before(rec.Expires) {
		return nil, err
	}
	st, err := s.openRecord(rec)
	if err != nil {
		// Whoever asks finds out, and can still remove it.
		st = &state{value: rec.Value, ends: rec.Expires, token: rec.Token}
	}
	return &Loaded{state: st, known: rec, at: time.Now()}, nil
}

// openRecord returns the state of a record that is not empty. All of it is
// saved.
func (s *Store) openRecord(rec *tier.Record) (*state, error) {
	st, err := s.open(rec.Value)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMerge, err)
	}
	if st.whole && st.absent == 0 {
		// No time is known, but of two such sessions that of the record is later.
		st.absent = firstStamp | deletedBit
		for i := range st.cells {
			st.cells[i].at = firstStamp
		}
	}
	st.ends, st.token = rec.Expires, rec.Token
	return st.saved(), nil
}

// record returns what the backup holds as far as the request knows; nil: it
// does not.
func (l *Loaded) record() *tier.Record {
	if l.known == nil && (len(l.state.token) > 0 || l.item != nil && !l.state.unsaved()) {
		l.known = l.state.record()
	}
	return l.known
}

func isLive(st *state) bool { return st.ends.IsZero() || time.Now().Before(st.ends) }

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

const (
	// saveAfter is how long a change may be unsaved before others than the
	// request that made it save it.
	saveAfter = 3 * time.Second
	// saveAtLeast is how often they try, while the backup does not answer.
	saveAtLeast = time.Minute
)

// Settle is called after a load when there is nothing to change. It puts a
// session back into the cache that had lost it, and saves what a request that
// has died has left unsaved; not if the session does not say when it ends, which
// a change will.
func (s *Store) Settle(ctx context.Context, id string, l *Loaded) error {
	switch {
	case s.Backup == nil || s.Cache == nil:
		return nil
	case l.fill != nil:
		return s.refill(ctx, id, l)
	case l.item == nil || !l.state.unsaved() || l.state.ends.IsZero():
		return nil
	}
	now := time.Now()
	since := l.state.unsavedSince()
	if now.Before(since.Add(saveAfter)) || now.Before(l.state.next) {
		return nil
	}
	// Of all who find it, and find the backup down, one tries at a time.
	st := l.state.clone()
	st.next = now.Add(min(max(now.Sub(since), saveAfter), saveAtLeast))
	if it, ok := s.itemOf(id, st); ok {
		out, _, err := s.swap(ctx, id, l.item, it, time.Until(st.ends))
		if err != nil || out != tier.Stored {
			return err
		}
		l = &Loaded{state: st}
	}
	return s.run(ctx, id, &part{loaded: l})
}

// refill puts a session that was loaded from the backup into the cache.
func (s *Store) refill(ctx context.Context, id string, l *Loaded) error {
	mine, err := s.lease(ctx, id, l.fill)
	l.fill = nil
	if err != nil || mine == nil {
		return err
	}
	// Only what the backup says from here on may be cached: who changes the
	// session now ends the lease.
	rec, err := s.read(ctx, id)
	if err != nil || rec == nil {
		return err // the lease expires
	}
	fill, ttl := removalMarker, removedTTL
	if len(rec.Value) > 0 {
		st, err := s.openRecord(rec)
		if err != nil {
			return err
		}
		var ok bool
		if fill, ok = s.itemOf(id, st); !ok || !isLive(st) {
			return nil
		}
		ttl = time.Until(st.ends)
	}
	_, _, err = s.swap(ctx, id, mine, fill, ttl)
	return err
}

// lease puts a lease of the caller's own in the place of fill, and returns it;
// nil: others are there.
func (s *Store) lease(ctx context.Context, id string, fill *item) (*item, error) {
	mine := newItem(lease)
	if fill.raw == nil {
		added, err := s.add(ctx, id, mine, leaseTTL)
		if err != nil || !added {
			return nil, err
		}
	} else if out, _, err := s.swap(ctx, id, fill, mine, leaseTTL); err != nil || out != tier.Stored {
		return nil, err
	}
	it, err := s.get(ctx, id)
	if err != nil || !it.is(lease) || it.nonce != nonce(mine.Value) {
		return nil, err
	}
	it.own = true
	return it, nil
}
