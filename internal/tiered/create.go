package tiered

import (
	"context"
	"errors"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Create saves a session under an id that nobody else knows yet, and returns
// what a further change starts from. ErrRemoved: the id was used before.
func (s *Store) Create(ctx context.Context, id string, c Change) (*Loaded, error) {
	p := &part{loaded: New(), change: &c, ahead: aheadOf(ctx)}
	st := p.state(0)
	p.fixed = true
	ttl := time.Until(st.ends)
	if s.Backup == nil {
		it, ok := s.itemOf(id, st)
		if !ok {
			return nil, tier.ErrTooLarge
		}
		if _, err := s.add(ctx, id, it, ttl); err != nil {
			return nil, err
		}
		return &Loaded{state: st}, nil
	}
	st = st.clone().saved()
	rec := st.record()
	if !s.Backup.Fits(id, len(rec.Value)) {
		return nil, tier.ErrTooLarge
	}
	add := func() error { return nil }
	if s.Cache != nil {
		if it, ok := s.itemOf(id, st); ok {
			add = func() error { _, err := s.add(ctx, id, it, ttl); return err }
		}
	}
	cacheErr, err := both(add, func() error { return s.insert(ctx, id, *rec) })
	switch {
	case errors.Is(err, tier.ErrExists):
		// Also the item that was added must go.
		err = errors.Join(ErrRemoved, err)
		cacheErr = s.mark(ctx, id)
	case err != nil:
		ctx, cancel := finishing(ctx)
		defer cancel()
		if _, kerr := s.keep(ctx, id, []*part{p}, false); !errors.Is(kerr, errNotCached) {
			cacheErr = errors.Join(cacheErr, kerr)
		}
	}
	if err != nil {
		return nil, errors.Join(err, cacheErr)
	}
	if cacheErr != nil {
		s.Report(id, cacheErr) // the backup has it
	}
	return &Loaded{state: st, known: rec}, nil
}
