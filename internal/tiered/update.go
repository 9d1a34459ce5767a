package tiered

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gaesession/gaesession/internal/retry"
)

// Attempts at replacing an item that others keep replacing, before the change
// goes on without.
const claimAttempts = 100

const (
	// The owner of a lock that holds an item which is ahead is waited for this
	// often: 2 s.
	lockedAttempts = 40
	lockedWait     = 50 * time.Millisecond
)

// update is one change of one session on its way into the services.
type update struct {
	s  *Store
	id string

	// The change itself: the difference between what was loaded and what the
	// session is now. It stays as it is, whatever it is applied to.
	loaded, changed []byte

	mine Record // the session with the change
	from []byte // without: the value mine was made from, or rebased on
	base []byte // the backup's value that from derives from
	item *item  // the cache's item that from is the value of; nil: none

	// pending are the saves that from contains and the backup may lack.
	pending []nonce

	// fromBackup tells that from was read from the backup: see rebase.
	fromBackup bool
}

func (s *Store) newUpdate(id string, l *Loaded, mine Record) *update {
	u := &update{
		s: s, id: id, loaded: l.Value, changed: mine.Value,
		mine: mine, from: l.Value, base: l.base, item: l.item, fromBackup: l.FromBackup,
	}
	if l.item != nil {
		u.pending = l.item.pending
	}
	return u
}

// Update saves a change: mine was made from l. Changes that others saved
// meanwhile are merged with it. Once it returns without an error the change is
// in both services, or in the one that takes it.
func (s *Store) Update(ctx context.Context, id string, l *Loaded, mine Record) error {
	if !s.fits(id, len(mine.Value)) {
		return ErrTooLarge
	}
	return s.newUpdate(id, l, mine).run(ctx)
}

func (u *update) run(ctx context.Context) error {
	switch {
	case u.s.Backup == nil:
		return u.replace(ctx)
	case u.s.Cache == nil:
		return u.s.transact(ctx, u.id, func(current *Record) (*Record, error) {
			next, err := u.next(current)
			return &next, err
		})
	}

	// The lock is put while the transaction begins. It has to be there before
	// the commit, and before the merge, which it may bring news for.
	var (
		locked    = make(chan struct{})
		held      *item // our lock, as the cache has it
		lockErr   error
		committed Record
	)
	go func() {
		defer close(locked)
		growStack()
		held, lockErr = u.lock(ctx)
	}()
	early := true // the backup may have been read before the lock was put
	err := u.s.transact(ctx, u.id, func(current *Record) (*Record, error) {
		<-locked
		if isRefusal(lockErr) {
			return nil, lockErr
		}
		if early && current == nil && len(u.base) > 0 {
			// What the lock found in the cache may have been saved since. That
			// there is nothing to commit here would not show it.
			early = false
			return nil, ErrContention
		}
		next, err := u.next(current)
		if err != nil {
			return nil, err
		}
		committed = next
		return &next, nil
	})
	<-locked

	ctx, cancel := finishing(ctx)
	defer cancel()
	switch {
	case isRefusal(lockErr):
		return lockErr
	case err == nil:
		return errors.Join(lockErr, u.publish(ctx, held, committed))
	case errors.Is(err, ErrRemoved):
		return errors.Join(ErrRemoved, lockErr, u.unlock(ctx, held, &item{kind: removed}, removedTTL))
	case isRefusal(err):
		return errors.Join(err, lockErr, u.unlock(ctx, held, held.session(), time.Until(u.mine.Expires)))
	default:
		// The backup failed. Mine may go on living in the cache, made from what
		// the lock took the place of.
		back := held.session()
		if back != nil {
			if rerr := u.rebaseOn(back); rerr != nil {
				return errors.Join(err, lockErr, rerr, u.unlock(ctx, held, back, time.Until(u.mine.Expires)))
			}
			it := &item{kind: ahead, base: u.base, pending: u.pending, value: u.mine.Value}
			if back.isInStep() && len(it.pending) > 0 {
				// The backup has these saves. A later one tells them so, that
				// they do not take this item for theirs.
				it.pending = append(slices.Clone(it.pending), newNonce())
			}
			if u.s.Cache.Fits(u.id, it.size()) {
				back = it
			}
		}
		return errors.Join(err, lockErr, u.unlock(ctx, held, back, time.Until(u.mine.Expires)))
	}
}

// lock puts our lock into the cache, after rebasing u on what it found there,
// and returns it as the cache has it; nil when it was replaced at once.
func (u *update) lock(ctx context.Context) (*item, error) {
	n := newNonce()
	var held *item
	err := u.claim(ctx, func() (*item, time.Duration, error) {
		held = u.item.session()
		it := &item{kind: lock, nonce: n, held: held}
		if !u.s.Cache.Fits(u.id, it.size()) {
			it.held = nil
		}
		return it, lockTTL, nil
	})
	if err != nil {
		return nil, err
	}
	mine, err := u.s.get(ctx, u.id)
	if err != nil || mine == nil || mine.kind != lock || mine.nonce != n {
		return nil, err
	}
	mine.held = held // also when it did not fit
	return mine, nil
}

// claim puts what with returns in the place of the item that u stands on, or
// where there is none; when others were faster, it rebases u on what they put
// there and asks with again. An error of with ends the claim.
// ErrRemoved: the session was removed.
func (u *update) claim(ctx context.Context, with func() (*item, time.Duration, error)) error {
	for attempt := range claimAttempts {
		if attempt > 2 {
			// Others are at it, too.
			if err := retry.Wait(ctx, time.Duration(attempt)*time.Millisecond); err != nil {
				return err
			}
		}
		it, ttl, err := with()
		if err != nil {
			return err
		}
		if u.item == nil {
			added, err := u.s.add(ctx, u.id, encode(it), ttl)
			if added || err != nil {
				return err
			}
		} else {
			out, err := u.s.swap(ctx, u.id, u.item.raw, encode(it), ttl)
			if err != nil || out == Stored {
				return err
			}
			if out == Absent {
				u.item = nil
				u.forget()
				continue
			}
		}
		now, err := u.s.get(ctx, u.id)
		if err != nil {
			return err
		}
		for range lockedAttempts {
			// The owner saves what is ahead. Afterwards it is known what a
			// change of this is a change of; if the owner has died, it never is.
			if now == nil || now.kind != lock || now.held == nil || now.held.kind != ahead {
				break
			}
			if err := retry.Wait(ctx, lockedWait); err != nil {
				return err
			}
			if now, err = u.s.get(ctx, u.id); err != nil {
				return err
			}
		}
		if now != nil && now.kind == removed {
			return ErrRemoved
		}
		if err := u.rebase(now); err != nil {
			return err
		}
	}
	return fmt.Errorf("cache: %w", ErrContention)
}

// rebase makes mine a change of what the cache holds now.
//
// A value that stands on the backup alone brings no news to a change that was
// made from the backup. It may even be older: what a lock holds while the change
// that the lock is of has been committed already. Then mine may undo that
// change, and rebased on the value before it, it would change nothing.
func (u *update) rebase(it *item) error {
	u.item = it
	now := it.session()
	if now == nil {
		u.forget()
		return nil
	}
	if now.isInStep() && u.fromBackup {
		u.pending = now.pending
		return nil
	}
	return u.rebaseOn(now)
}

// forget is rebase when the cache has forgotten the item. What from had ahead of
// the backup is left to the background save it is of: somebody may have undone
// it since.
func (u *update) forget() {
	if len(u.pending) > 0 && len(u.base) > 0 {
		u.base = u.from
	}
	u.pending = nil
}

func (u *update) rebaseOn(now *item) error {
	if !now.sameValue(u.from) {
		merged, err := u.s.merge(u.id, u.loaded, u.changed, now.value)
		if err != nil {
			return err
		}
		u.mine = merged
	}
	u.from, u.base, u.pending, u.fromBackup = now.value, now.backup(), now.pending, false
	return nil
}

// overdue is how long after its expiry a record may still be changed: a
// transaction that reads it then has ended before it can be purged.
const overdue = PurgeGrace - 270*time.Second

// errOverdue makes [Store.transact] remove the session, as it has expired, and
// return ErrRemoved.
var errOverdue = errors.New("session has expired")

// isOverdue tells that the session has expired, and that its record may be purged
// before a change of it is committed, or right after.
func isOverdue(current *Record) bool {
	return current != nil && time.Since(current.Expires) > overdue
}

// next is what the backup has to hold after u: the change applied to what is
// there. What from has ahead of the backup is there before it, unless the backup
// has it already, as part of the save it is of, or its base is not known: else a
// change that undoes it would be none.
//
// A session that the cache has outlives its record: its accesses may have been
// saved in the cache alone. One that is ahead there, while the record it derives
// from is missing, has outlived even the purge of it.
func (u *update) next(current *Record) (Record, error) {
	now := u.item.session()
	switch {
	case now == nil && isOverdue(current):
		return Record{}, errOverdue
	case now != nil && now.kind == ahead && current == nil:
		return u.mine, nil
	}
	if r, ok, err := u.s.unmerged(u.base, u.mine, current); ok || err != nil {
		return r, err
	}
	under := *current
	if len(u.base) > 0 && !bytes.Equal(u.from, u.base) {
		var err error
		if under, err = u.s.merge(u.id, u.base, current.Value, u.from); err != nil {
			return Record{}, err
		}
	}
	if bytes.Equal(under.Value, u.from) {
		return u.mine, nil
	}
	return u.s.merge(u.id, u.loaded, u.changed, under.Value)
}

// publish ends the lock of a committed change: it swaps it for the value.
func (u *update) publish(ctx context.Context, held *item, r Record) error {
	it := inStep(r.Value, u.pending)
	if held != nil && u.s.Cache.Fits(u.id, it.size()) {
		out, err := u.s.swap(ctx, u.id, held.raw, encode(it), time.Until(r.Expires))
		if err == nil && out != Conflict {
			return nil // Absent: whoever fills the cache next reads what was committed
		}
		return errors.Join(err, u.s.del(ctx, u.id))
	}
	return u.s.del(ctx, u.id)
}

// unlock ends the lock of a change that was not committed: it swaps it for it.
// With nothing to put back the lock is left to expire.
func (u *update) unlock(ctx context.Context, held, it *item, ttl time.Duration) error {
	if held == nil || it == nil {
		return nil
	}
	_, err := u.s.swap(ctx, u.id, held.raw, encode(it), ttl)
	return err
}

// replace is Update where the cache is all there is.
func (u *update) replace(ctx context.Context) error {
	return u.claim(ctx, func() (*item, time.Duration, error) {
		return &item{kind: value, value: u.mine.Value}, time.Until(u.mine.Expires), nil
	})
}
