package tiered

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/internal/retry"
)

const (
	// lockTTL ends a lock whose owner died. Until then loads ask the backup.
	lockTTL = time.Minute

	// removedTTL keeps the removal marker and the emptied record for as long as
	// the longest request may run: 24 h, on App Engine with manual scaling.
	removedTTL = 24 * time.Hour

	// finishTimeout is what is left for the last calls of a change when the
	// request's context has ended meanwhile.
	finishTimeout = 2 * time.Second
)

// Store keeps sessions in a cache and a backup. Either may be nil, not both.
// Its methods may be called by several goroutines at once.
type Store struct {
	Cache  Cache
	Backup Backup

	// Merge applies to theirs what distinguishes mine from base. An empty base
	// means that nothing is known of it: then all of mine counts as changed.
	// No argument may be changed or kept.
	Merge func(base, mine, theirs []byte) (Record, error)

	// Retries is how often a call that fails is tried; less than one means one.
	Retries int

	// Background returns the context in which a background save is tried again
	// when the service refused it in the request's own; nil, or a nil context:
	// it is not tried again.
	Background func(ctx context.Context) context.Context
}

// Loaded is a session as it was loaded: what a later change starts from.
type Loaded struct {
	// Value is the session.
	Value []byte
	// FromBackup tells that the cache did not have it.
	FromBackup bool

	base   []byte // the backup's value that Value derives from, as far as known
	item   *item  // the cache's item; nil when Value is from elsewhere
	refill bool   // the cache said that it has nothing
	ahead  bool   // Value is not in the backup yet
}

// Ahead tells that the backup does not have this value yet, so that Update has
// to be called even when nothing changed.
func (l *Loaded) Ahead() bool { return l.ahead }

func loaded(it *item) *Loaded {
	return &Loaded{Value: it.value, base: it.backup(), ahead: it.kind == ahead}
}

// Saved is the session as a Create or Update of this request, which returned no
// error, has left it: what a further change made from value starts from.
func Saved(value []byte) *Loaded { return &Loaded{Value: value, base: value} }

// Load returns the session, or nil when there is none. ErrUnavailable: it
// cannot be told. Any other error says that a service failed and the other one
// made up for it.
func (s *Store) Load(ctx context.Context, id string) (*Loaded, error) {
	var (
		cacheErr error
		held     *item
		refill   bool
	)
	if s.Cache != nil {
		it, err := s.get(ctx, id)
		switch {
		case err != nil:
			cacheErr = err
		case it == nil:
			refill = true
		case it.kind == removed:
			return nil, nil
		case it.kind == lock:
			if held = it.held; held != nil && held.kind == ahead {
				// The backup does not have it yet, and nothing that was saved
				// since: whoever saves ends the lock first. Its owner saves it.
				l := loaded(held)
				l.ahead = false
				return l, nil
			}
		default:
			l := loaded(it)
			l.item = it
			return l, nil
		}
	}
	if s.Backup == nil {
		if held != nil {
			return loaded(held), nil
		}
		return nil, unavailable(cacheErr)
	}
	rec, err := s.read(ctx, id)
	if err != nil {
		err = errors.Join(cacheErr, err)
		if held != nil {
			// Whoever holds the lock has not reported success, so the value from
			// before is still a right answer, and the only one to be had.
			return loaded(held), err
		}
		return nil, unavailable(err)
	}
	if rec == nil || len(rec.Value) == 0 || !time.Now().Before(rec.Expires) {
		return nil, cacheErr
	}
	return &Loaded{Value: rec.Value, FromBackup: true, base: rec.Value, refill: refill}, cacheErr
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Create saves a session under an id that nobody else knows yet.
func (s *Store) Create(ctx context.Context, id string, r Record) error {
	if !s.fits(id, len(r.Value)) {
		return ErrTooLarge
	}
	cached := s.Cache != nil && s.Cache.Fits(id, len(r.Value))
	set := func() error {
		if !cached {
			return nil
		}
		return s.set(ctx, id, &item{kind: value, value: r.Value}, time.Until(r.Expires))
	}
	if s.Backup == nil {
		return set()
	}
	cacheErr, err := both(set, func() error { return s.put(ctx, id, r) })
	if it := (&item{kind: ahead, value: r.Value}); err != nil && cached && s.Cache.Fits(id, it.size()) {
		ctx, cancel := finishing(ctx)
		defer cancel()
		cacheErr = errors.Join(cacheErr, s.set(ctx, id, it, time.Until(r.Expires)))
	}
	return errors.Join(err, cacheErr)
}

// Refill puts a session that was loaded from the backup, and was not changed,
// back into the cache. It does nothing when the cache had it, or somebody else
// has put it back or is changing it.
func (s *Store) Refill(ctx context.Context, id string, l *Loaded) error {
	if !l.refill || !s.Cache.Fits(id, len(l.Value)) {
		return nil
	}
	n := newNonce()
	added, err := s.add(ctx, id, encode(&item{kind: lock, nonce: n}), lockTTL)
	if err != nil || !added {
		return err
	}
	// Only what the backup says after the lock was put may be cached: who
	// changes the session from here on breaks the lock.
	rec, err := s.read(ctx, id)
	if err != nil || rec == nil {
		return err // the lock expires
	}
	mine, err := s.get(ctx, id)
	if err != nil || mine == nil || mine.kind != lock || mine.nonce != n {
		return err
	}
	fill := &item{kind: value, value: rec.Value}
	ttl := time.Until(rec.Expires)
	switch {
	case len(rec.Value) == 0:
		fill, ttl = &item{kind: removed}, removedTTL
	case !s.Cache.Fits(id, len(rec.Value)) || ttl <= 0:
		return nil
	}
	_, err = s.swap(ctx, id, mine.raw, encode(fill), ttl)
	return err
}

// Remove removes the session for good.
func (s *Store) Remove(ctx context.Context, id string) error {
	mark := func() error {
		if s.Cache == nil {
			return nil
		}
		return s.set(ctx, id, &item{kind: removed}, removedTTL)
	}
	if s.Backup == nil {
		return mark()
	}
	markErr, err := both(mark, func() error {
		return s.put(ctx, id, Record{Expires: time.Now().Add(removedTTL)})
	})
	// A refill that read the backup before it was emptied may have come in
	// between; the second marker ends it.
	return errors.Join(err, markErr, mark())
}

func (s *Store) fits(id string, size int) bool {
	if s.Backup == nil {
		return s.Cache.Fits(id, size)
	}
	return s.Backup.Fits(id, size)
}

// finishing returns ctx, or what is granted to the last calls of a change when
// ctx has ended.
func finishing(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
}

// The calls of the services, tried as often as Retries says.

func (s *Store) get(ctx context.Context, id string) (*item, error) {
	raw, err := retry.Do(ctx, s.Retries, func() (*Item, error) { return s.Cache.Get(ctx, id) })
	if err != nil {
		return nil, fmt.Errorf("cache get: %w", err)
	}
	if raw == nil {
		return nil, nil
	}
	it, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("cache get: %w", err)
	}
	return it, nil
}

func (s *Store) set(ctx context.Context, id string, it *item, ttl time.Duration) error {
	e := encode(it)
	_, err := retry.Do(ctx, s.Retries, func() (struct{}, error) {
		return struct{}{}, s.Cache.Set(ctx, id, e, ttl)
	})
	if err != nil {
		return fmt.Errorf("cache set: %w", err)
	}
	return nil
}

func (s *Store) add(ctx context.Context, id string, e Item, ttl time.Duration) (bool, error) {
	added, err := retry.Do(ctx, s.Retries, func() (bool, error) { return s.Cache.Add(ctx, id, e, ttl) })
	if err != nil {
		return false, fmt.Errorf("cache add: %w", err)
	}
	return added, nil
}

func (s *Store) swap(ctx context.Context, id string, old *Item, e Item, ttl time.Duration) (Outcome, error) {
	out, err := retry.Do(ctx, s.Retries, func() (Outcome, error) { return s.Cache.CompareAndSwap(ctx, id, old, e, ttl) })
	if err != nil {
		return out, fmt.Errorf("cache compare-and-swap: %w", err)
	}
	return out, nil
}

func (s *Store) del(ctx context.Context, id string) error {
	_, err := retry.Do(ctx, s.Retries, func() (struct{}, error) { return struct{}{}, s.Cache.Delete(ctx, id) })
	if err != nil {
		return fmt.Errorf("cache delete: %w", err)
	}
	return nil
}

func (s *Store) read(ctx context.Context, id string) (*Record, error) {
	r, err := retry.Do(ctx, s.Retries, func() (*Record, error) { return s.Backup.Get(ctx, id) })
	if err != nil {
		return nil, fmt.Errorf("backup get: %w", err)
	}
	return r, nil
}

func (s *Store) put(ctx context.Context, id string, r Record) error {
	_, err := retry.Do(ctx, s.Retries, func() (struct{}, error) { return struct{}{}, s.Backup.Put(ctx, id, r) })
	if err != nil {
		return fmt.Errorf("backup put: %w", err)
	}
	return nil
}

// contentionAttempts is how often a transaction is tried that others get ahead
// of: backed off, that takes some 20 seconds.
const contentionAttempts = 24

// transact tries the transaction Retries times when the service fails, and
// contentionAttempts times when other changes get ahead of it. Where f returns
// errOverdue the record is emptied: the commit shows that nobody has saved the
// session since it was read.
func (s *Store) transact(ctx context.Context, id string, f func(*Record) (*Record, error)) error {
	failures, over := 0, false
	attempt := func(current *Record) (*Record, error) {
		next, err := f(current)
		if over = errors.Is(err, errOverdue); over {
			return &Record{Expires: time.Now().Add(removedTTL)}, nil
		}
		return next, err
	}
	_, err := retry.Do(ctx, contentionAttempts+s.Retries, func() (struct{}, error) {
		err := s.Backup.Transact(ctx, id, attempt)
		if err == nil && over {
			err = ErrRemoved
		}
		switch {
		case err == nil, errors.Is(err, ErrContention):
		case isRefusal(err):
			err = retry.Permanent(err)
		default:
			if failures++; failures >= s.Retries {
				err = retry.Permanent(err)
			}
		}
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("backup transaction: %w", err)
	}
	return nil
}

var errMerge = errors.New("merge")

// isRefusal tells an error that says no to a change from a failing service.
func isRefusal(err error) bool {
	return errors.Is(err, ErrRemoved) || errors.Is(err, ErrTooLarge) ||
		errors.Is(err, errMerge) || errors.Is(err, errSaved)
}

// unmerged is what the backup has to hold after a change of base to mine, where
// there is nothing to merge.
func (s *Store) unmerged(base []byte, mine Record, current *Record) (r Record, ok bool, err error) {
	switch {
	case current == nil && len(base) == 0:
		return mine, true, nil // it never reached the backup
	case current == nil || len(current.Value) == 0:
		return Record{}, false, ErrRemoved
	case bytes.Equal(current.Value, base):
		return mine, true, nil
	}
	return Record{}, false, nil
}

// merge is Merge with its errors marked and its result's size checked.
func (s *Store) merge(id string, base, mine, theirs []byte) (Record, error) {
	merged, err := s.Merge(base, mine, theirs)
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", errMerge, err)
	}
	if !s.fits(id, len(merged.Value)) {
		return Record{}, ErrTooLarge
	}
	return merged, nil
}
