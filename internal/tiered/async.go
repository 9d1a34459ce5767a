package tiered

import (
	"context"
	"errors"

	"github.com/gaesession/gaesession/tier"
)

// UpdateAsync saves a change in the cache and returns; a goroutine then saves
// it in the backup. Drain waits for that goroutine. Where the cache has no
// value that could take the change, UpdateAsync is Update.
func (s *Store) UpdateAsync(ctx context.Context, id string, l *Loaded, c *Change) (*Loaded, error) {
	if s.Cache == nil || s.Backup == nil || !l.IsCached() && !l.cached {
		return s.Update(ctx, id, l, c)
	}
	if !s.fits(id, c) {
		return nil, tier.ErrTooLarge
	}
	p := newPart(ctx, l, c)
	err := s.together(ctx, queueKeep, id, p, func(ctx context.Context, parts []*part) error {
		st, err := s.keep(ctx, id, parts, true)
		if err != nil {
			return err
		}
		// All that is unsaved there is saved, not this change alone.
		alone := &part{loaded: &Loaded{state: st}}
		if s.saveInBackground(ctx, id, func(ctx context.Context, s *Store) error { return s.run(ctx, id, alone) }) {
			return nil
		}
		return s.run(ctx, id, alone) // there is no place for more
	})
	switch {
	case err == nil:
		return p.after(false), nil
	case errors.Is(err, tier.ErrNotBackedUp), errors.Is(err, tier.ErrNotPublished), isRefusal(err):
		return s.outcome(p, err), err
	}
	err = s.run(ctx, id, p)
	return s.outcome(p, err), err
}
