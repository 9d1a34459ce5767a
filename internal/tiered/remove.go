package tiered

import (
	"context"
	"errors"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Remove removes the session for good. l is the session as it was loaded; nil:
// it is not known.
func (s *Store) Remove(ctx context.Context, id string, l *Loaded) error {
	mark := func() error { return s.mark(ctx, id) }
	if s.Backup == nil {
		return mark()
	}
	markErr, err := both(mark, func() error {
		return s.put(ctx, id, tier.Record{Expires: emptiedUntil(l)})
	})
	// A refill that read the record before it was emptied may have come in
	// between; the second marker ends it.
	return errors.Join(err, markErr, mark())
}

// emptiedUntil is how long the record says that the session was removed: for
// longer than a request may run, and than an item may live that a failed call
// has left in the cache.
func emptiedUntil(l *Loaded) time.Time {
	until := time.Now().Add(removedTTL)
	if l != nil && l.state.ends.Add(time.Hour).After(until) {
		until = l.state.ends.Add(time.Hour)
	}
	return until
}
