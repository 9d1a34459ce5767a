package tiered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Remove removes the session for good. l is the session as it was loaded; nil:
// it is not known. What Remove has begun it ends, also when the request has
// ended; and what a service could not be told it is told in the background.
//
// tier.ErrNotBackedUp: the cache alone knows of the removal. tier.ErrNotPublished:
// the cache may show the session for a while. tier.ErrNotSaved: both, or it cannot
// be told.
func (s *Store) Remove(ctx context.Context, id string, l *Loaded) error {
	ended, err := s.detached(ctx, func(ctx context.Context) error { return s.remove(ctx, id, emptiedUntil(l)) })
	if !ended {
		return fmt.Errorf("%w: the removal goes on in the background: %w", tier.ErrNotSaved, err)
	}
	if err == nil && l != nil && l.state.owner != (Owner{}) && s.Backup != nil {
		s.saveInBackground(ctx, id, func(ctx context.Context, s *Store) error {
			return s.unlist(ctx, l.state.owner, id)
		})
	}
	return err
}

func (s *Store) remove(ctx context.Context, id string, until time.Time) error {
	mark := func() error { return s.mark(ctx, id) }
	if s.Backup == nil {
		err := mark()
		if err != nil {
			s.owe(ctx, id, marker, time.Time{})
		}
		return with(tier.ErrNotSaved, err)
	}
	_, err := both(mark, func() error { return s.put(ctx, id, tier.Record{Expires: until}) })
	// A refill that read the record before it was emptied may have come in
	// between; the second marker ends it.
	//rule: second-marker
	markErr := mark()
	switch {
	case err == nil && markErr == nil:
		return nil
	case err == nil:
		s.owe(ctx, id, marker, time.Time{})
		return with(tier.ErrNotPublished, markErr)
	}
	s.owe(ctx, id, emptying|marker, until)
	if markErr == nil && s.Cache != nil {
		return with(tier.ErrNotBackedUp, err)
	}
	return with(tier.ErrNotSaved, errors.Join(err, markErr))
}

// emptiedUntil is how long the record says that the session was removed: for
// longer than a request may run, and than an item may live that a failed call
// has left in the cache.
func emptiedUntil(l *Loaded) time.Time {
	until := microsOf(time.Now().Add(removedTTL))
	if l != nil {
		until = max(until, l.state.ends.add(time.Hour))
	}
	return until.time()
}
