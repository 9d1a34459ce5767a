package tiered

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Take removes a session for good and returns what it was last: mine, made from
// l, merged with what others saved until then. It is an Update that leaves
// nothing behind: whoever saves later gets ErrRemoved, and nobody's change falls
// between the reading and the removal. ErrRemoved: somebody else was faster.
//
// A value beside an error says that the session is removed from the backup, but
// that the cache failed and may show it for a while.
func (s *Store) Take(ctx context.Context, id string, l *Loaded, mine Record) (Record, error) {
	u := s.newUpdate(id, l, mine)
	marker := &item{kind: removed}
	if s.Backup == nil {
		err := u.claim(ctx, func() (*item, time.Duration, error) { return marker, removedTTL, nil })
		if err != nil {
			return Record{}, err
		}
		return u.mine, nil
	}
	var (
		held    *item
		lockErr error
	)
	if s.Cache != nil {
		if held, lockErr = u.lock(ctx); isRefusal(lockErr) {
			return Record{}, lockErr
		}
	}
	// Nobody else empties it until that very time. A backup keeps microseconds.
	chosen := time.Duration(rand.Int64N(int64(time.Hour)))
	emptied := Record{Expires: time.Now().Add(removedTTL + chosen).Truncate(time.Microsecond)}
	var last Record
	tried := false
	err := s.transact(ctx, id, func(current *Record) (*Record, error) {
		if tried && current != nil && len(current.Value) == 0 && current.Expires.Equal(emptied.Expires) {
			return nil, nil // an attempt that seemed to fail did this
		}
		next, err := u.next(current)
		if err != nil {
			return nil, err
		}
		last, tried = next, true
		return &emptied, nil
	})
	if s.Cache == nil {
		if err != nil {
			return Record{}, err
		}
		return last, nil
	}

	ctx, cancel := finishing(ctx)
	defer cancel()
	switch {
	case err == nil:
		// Not a swap: also a refill that came in between has to end.
		return last, errors.Join(lockErr, s.set(ctx, id, marker, removedTTL))
	case errors.Is(err, ErrRemoved):
		return Record{}, errors.Join(ErrRemoved, lockErr, u.unlock(ctx, held, marker, removedTTL))
	case tried && !isRefusal(err):
		// It may have been committed all the same. The lock is left to expire,
		// and until then loads ask the backup.
		return Record{}, errors.Join(err, lockErr)
	default:
		return Record{}, errors.Join(err, lockErr, u.unlock(ctx, held, held.session(), time.Until(u.mine.Expires)))
	}
}
