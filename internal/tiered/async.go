package tiered

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// lockedRetries is how often a background save waits for the owner of a lock
// that holds it; backed off, that takes some 3 s.
const lockedRetries = 12

// saveTimeout bounds a background save in the request's context, and again in
// one of its own.
const saveTimeout = 30 * time.Second

var (
	errSynchronous = errors.New("to be saved synchronously")
	errPublished   = errors.New("published already")
	errSaved       = errors.New("saved as part of another save")
)

// UpdateAsync saves a change in the cache and returns; a goroutine then saves
// it in the backup, and hands to report what goes wrong there. Drain waits for
// that goroutine. Where the cache has no value to build on, UpdateAsync is
// Update. ErrRemoved: the session was removed.
func (s *Store) UpdateAsync(ctx context.Context, id string, l *Loaded, mine Record, report func(error)) error {
	if !s.fits(id, len(mine.Value)) {
		return ErrTooLarge
	}
	u := s.newUpdate(id, l, mine)
	if s.Cache == nil || s.Backup == nil || u.item == nil {
		return u.run(ctx)
	}
	n := newNonce()
	err := u.claim(ctx, func() (*item, time.Duration, error) {
		switch {
		case u.item == nil || u.item.kind == lock:
			return nil, 0, errSynchronous
		case u.item.contains(n):
			return nil, 0, errPublished // by a call that reported an error
		case u.item.kind == ahead:
			// The backup may or may not have it by the time this is saved, and
			// could then not tell a change that undoes it from none.
			return nil, 0, errSynchronous
		}
		it := &item{kind: ahead, base: u.base, pending: append(slices.Clone(u.pending), n), value: u.mine.Value}
		if !s.Cache.Fits(id, it.size()) {
			return nil, 0, errSynchronous
		}
		return it, time.Until(u.mine.Expires), nil
	})
	switch {
	case isRefusal(err):
		return err
	case err != nil && !errors.Is(err, errPublished):
		return u.run(ctx)
	}
	background.start(func() {
		if err := u.saveInBackground(ctx, n); err != nil {
			report(err)
		}
	})
	return nil
}

// saveInBackground saves u, which the cache holds as the save n, in the backup.
func (u *update) saveInBackground(ctx context.Context, n nonce) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	err := u.save(ctx, n)
	if err == nil || isRefusal(err) || u.s.Background == nil {
		return err
	}
	// The request has ended, and the service may refuse calls in its name.
	again := u.s.Background(ctx)
	if again == nil {
		return err
	}
	again, cancel = context.WithTimeout(again, saveTimeout)
	defer cancel()
	aerr := u.save(again, n)
	if aerr == nil || isRefusal(aerr) {
		return aerr
	}
	return errors.Join(err, aerr)
}

func (u *update) save(ctx context.Context, n nonce) error {
	var committed Record
	locked := 0
	err := u.s.transact(ctx, u.id, func(current *Record) (*Record, error) {
		// Asked after the backup was read: a later change that is in it by now
		// was in the cache before, and one that comes from now on makes the
		// commit fail.
		it, err := u.s.get(ctx, u.id)
		switch {
		case err == nil && it == nil && isOverdue(current):
			return nil, errOverdue
		case err != nil, it == nil:
			committed, err = u.below(current)
		case it.hasSaved(n), it.kind == lock && it.held != nil && it.held.hasSaved(n):
			return nil, errSaved
		case it.isLatest(n):
			committed, err = u.next(current)
		case it.kind == lock && it.held != nil && it.held.contains(n) && locked < lockedRetries:
			// Its owner saves this as part of a change that may undo it.
			locked++
			return nil, ErrContention
		default:
			// The backup may have this save already, as part of later ones.
			committed, err = u.below(current)
		}
		return &committed, err
	})
	switch {
	case errors.Is(err, errSaved):
		return nil
	case errors.Is(err, ErrRemoved):
		return errors.Join(ErrRemoved, u.settle(ctx, n, &item{kind: removed}, removedTTL))
	case err != nil:
		return err
	}
	return u.settle(ctx, n, &item{kind: value, value: committed.Value}, time.Until(committed.Expires))
}

// below is what the backup has to hold after u when it is not known what else it
// has: where both changed the same the backup's record wins. What from had ahead
// of the backup is left to the saves it is of, as it may have been undone.
func (u *update) below(current *Record) (Record, error) {
	if r, ok, err := u.s.unmerged(u.base, u.mine, current); ok || err != nil {
		return r, err
	}
	return u.s.merge(u.id, u.base, current.Value, u.mine.Value)
}

// settle puts what the backup holds now in the place of the item that the save
// n published. An item that stands on n is left alone, and a lock that holds n
// to its owner. Any other value or lock may stand on what the backup held
// before, so it makes way for a short lock, and loads ask the backup.
func (u *update) settle(ctx context.Context, n nonce, now *item, ttl time.Duration) error {
	for range claimAttempts {
		it, err := u.s.get(ctx, u.id)
		if err != nil {
			return errors.Join(err, u.s.del(ctx, u.id))
		}
		switch {
		case it == nil, it.kind == removed, it.hasSaved(n):
			return nil
		case it.kind == lock && it.held != nil && it.held.contains(n):
			return nil
		}
		by, ttl := now, ttl
		if now.kind == value && len(it.pending) > 1 {
			by = inStep(now.value, it.pending)
		}
		if !it.isLatest(n) || !u.s.Cache.Fits(u.id, by.size()) {
			by, ttl = &item{kind: lock, nonce: newNonce()}, time.Second
		}
		out, err := u.s.swap(ctx, u.id, it.raw, encode(by), ttl)
		if err != nil {
			return errors.Join(err, u.s.del(ctx, u.id))
		}
		if out != Conflict {
			return nil
		}
	}
	return u.s.del(ctx, u.id)
}

// Drain waits until no background save of this process is under way, those
// included that start meanwhile, or until ctx is done.
func Drain(ctx context.Context) error { return background.wait(ctx) }

var background group

// group counts running goroutines. Unlike a sync.WaitGroup it may be waited for
// while others start, and for a limited time.
type group struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to zero
}

func (g *group) start(f func()) {
	g.mu.Lock()
	if g.n++; g.n == 1 {
		g.idle = make(chan struct{})
	}
	g.mu.Unlock()
	go func() {
		defer func() {
			g.mu.Lock()
			if g.n--; g.n == 0 {
				close(g.idle)
			}
			g.mu.Unlock()
		}()
		f()
	}()
}

func (g *group) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		n, idle := g.n, g.idle
		g.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
