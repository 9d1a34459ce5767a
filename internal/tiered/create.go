package tiered

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Create saves a session that has no owner under an id that nobody else knows
// yet, and returns what a further change starts from, as Update does.
// tier.ErrRemoved: somebody has the id, or has had it.
func (s *Store) Create(ctx context.Context, id string, c *Change) (*Loaded, error) {
	p := newPart(ctx, Unknown(), c)
	st, err := p.state(0)
	if err != nil {
		return nil, err
	}
	if s.Backup == nil {
		e := s.entryOf(id, st)
		if e == nil {
			return nil, tier.ErrTooLarge
		}
		p.mayBeApplied = true
		if _, err := s.add(ctx, id, e); err != nil {
			err = with(tier.ErrNotSaved, err)
			return s.outcome(p, err), err
		}
		return &Loaded{state: st}, nil
	}
	st = st.clone().markSaved()
	if err := s.checkSize(id, nil, st, p); err != nil {
		return nil, err
	}
	p.mayBeApplied = true
	rec := st.record(id)
	if b, ok := s.Backup.(tier.ContentTokens); ok {
		st.token = b.TokenOf(*rec)
	}
	var e *entry
	if s.Cache != nil {
		e = s.entryOf(id, st)
	}
	cacheErr, err := both(func() (err error) {
		if e != nil {
			_, err = s.add(ctx, id, e)
		}
		return err
	}, func() error { return s.insert(ctx, id, *rec) })
	if err == nil {
		if cacheErr != nil && !errors.Is(cacheErr, errSkipped) {
			s.Report(id, cacheErr)                   // the backup has it
			s.owe(ctx, id, publication, time.Time{}) // the item may arrive later
		}
		return &Loaded{state: st}, nil
	}
	if errors.Is(err, tier.ErrExists) {
		if e != nil { // the item that was added must go
			cacheErr = s.replace(ctx, id, nil, func(seen *item, _ bool) (*entry, error) {
				if seen.is(value) && bytes.Equal(seen.raw.Value, e.Value) {
					return orphanLease, nil
				}
				return nil, nil // it is another one
			})
		}
		return nil, errors.Join(tier.ErrRemoved, err, cacheErr)
	}
	ctx, cancel := s.finishing(ctx)
	defer cancel()
	err = s.keepAlone(ctx, id, []*part{p}, err)
	return s.outcome(p, err), errors.Join(err, cacheErr)
}
