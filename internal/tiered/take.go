package tiered

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Take removes a session for good and returns what it was last: what was
// loaded, with the change and with what others saved until then. So nobody's
// change falls between a load and the removal: whoever saves later gets
// ErrRemoved. ErrRemoved: somebody else was faster.
//
// A value beside an error says that the session is removed, but that the cache
// failed and may show it for a while. Without a value the session is what it
// was, or ErrRemoved says that it is not; where the backup fails to say which
// it is, the error is ErrUnavailable.
func (s *Store) Take(ctx context.Context, id string, l *Loaded, c Change) ([]byte, error) {
	parts := []*part{{loaded: l, change: &c, ahead: aheadOf(ctx)}}
	var sealErr error
	if s.Cache != nil {
		sealed, err := s.seal(ctx, id, l, c.Ends)
		switch {
		case errors.Is(err, ErrRemoved) || s.Backup == nil && err != nil:
			return nil, err
		case sealed != nil:
			parts = append(parts, &part{loaded: sealed})
		}
		sealErr = err
	}
	var last *state
	var err error
	if s.Backup == nil {
		last, _, err = s.joinAll(nil, parts)
	} else {
		last, err = s.empty(ctx, id, l, parts)
	}
	ctx, cancel := finishing(ctx)
	defer cancel()
	if s.Backup != nil && (err == nil || errors.Is(err, errEmptied)) {
		// Not a swap: also a refill that came in between has to end.
		sealErr = errors.Join(sealErr, s.mark(ctx, id))
	}
	if err != nil {
		return nil, errors.Join(err, sealErr)
	}
	return last.value, sealErr
}

// seal keeps asynchronous changes out of the cache's item while the session
// moves, and returns what the item has unsaved. Where there is no value it puts
// nobody's lease, so that none comes.
//
// Without a backup it puts the removal marker. ends is when an item expires that
// does not say when.
func (s *Store) seal(ctx context.Context, id string, l *Loaded, ends time.Time) (sealed *Loaded, err error) {
	mark := newItem(removed)
	err = s.replace(ctx, id, l.item, func(seen *item, _ bool) (it tier.Item, ttl time.Duration, done bool, err error) {
		if seen.is(removed) {
			if seen.nonce == nonce(mark.Value) {
				return it, 0, true, nil // a call that seemed to fail put it there
			}
			return it, 0, false, ErrRemoved
		}
		sealed = nil
		it, ttl = nobodysLease, sealTime
		if seen.is(value) {
			st := seen.state.clone()
			st.sealed = time.Now().Add(sealTime)
			sealed = &Loaded{state: st}
			if with, ok := s.itemOf(id, st); ok {
				if !st.ends.IsZero() {
					ends = st.ends
				}
				it, ttl = with, time.Until(ends)
			}
		}
		if s.Backup == nil {
			it, ttl = mark, removedTTL
		}
		return it, ttl, false, nil
	})
	return sealed, err
}

// empty empties the record and returns what it was last, with parts.
func (s *Store) empty(ctx context.Context, id string, l *Loaded, parts []*part) (*state, error) {
	// Nobody else empties it until that very time. A backup keeps microseconds.
	until := emptiedUntil(l).Add(time.Duration(rand.Int64N(int64(time.Hour)))).Truncate(time.Microsecond)
	known := l.record()
	var last *state
	tried := false
	f := func(current *tier.Record) (*tier.Record, error) {
		if last != nil && current != nil && len(current.Value) == 0 && current.Expires.Equal(until) {
			return nil, nil // an attempt that seemed to fail did this
		}
		st, _, err := s.apply(current, known, parts)
		if err != nil {
			return nil, err
		}
		last = st
		return &tier.Record{Expires: until}, nil
	}
	attempt := func(ctx context.Context, limit time.Duration, known *tier.Record) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return s.update(ctx, id, known, f, func() { tried = last != nil; fix(parts) })
	}
	err := attempt(ctx, tier.UpdateTime, known)
	if err != nil && tried && !isRefusal(err) {
		// It may have been committed all the same, or may be yet: so it is
		// finished, in a time of its own. Only what is there counts now: what
		// was known before could lack what was last committed.
		first := err
		err = attempt(context.WithoutCancel(ctx), finishTime, nil)
		if err != nil && !isRefusal(err) {
			err = unavailable(errors.Join(first, err))
		}
	}
	return last, err
}
