package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

var (
	// errEmptied means that the record says that the session was removed; a
	// record that is merely missing does not say so to the cache.
	errEmptied = fmt.Errorf("%w", ErrRemoved)

	// errNotCached means that the cache has no value that could take a change.
	errNotCached = errors.New("no cached session to change")
)

// overdue is how long after its end a session may still be saved: an update
// that begins then has ended before a purge may delete the record.
const overdue = tier.PurgeGrace - tier.UpdateTime

// publishAttempts is how often publishing is tried in the background: backed
// off, that takes some three seconds.
const publishAttempts = 12

// A part is what one request brings into an update.
type part struct {
	loaded *Loaded
	change *Change       // nil: nothing but what was unsaved when it loaded
	stamp  stamp         // of the change, as it was tried last
	made   *state        // the session with the change, as it was tried last
	fixed  bool          // what was made may have been applied
	ahead  time.Duration // the instance's clock; see WithClock
}

// state is the session as the request has it, with its change. The change is
// later than what was seen, unless it may have been applied: however often it is
// tried then, it applies once.
func (p *part) state(seen stamp) *state {
	if p.fixed {
		return p.made
	}
	from, c := p.loaded.state, p.change
	if p.loaded.isOld() {
		from = from.clone().saved() // what was unsaved then may have been deleted since
	}
	if c == nil {
		return from
	}
	p.stamp = draw(time.Now().Add(p.ahead), max(seen, from.latest()))
	st := from.clone()
	st.value = c.Value
	for _, name := range c.Set {
		st.set(cell{name: hashOf(name), at: p.stamp, unsaved: true})
	}
	for _, name := range c.Deleted {
		st.set(cell{name: hashOf(name), at: p.stamp | deletedBit, unsaved: true})
	}
	if c.Used.After(st.used) {
		st.used, st.unsavedUse = c.Used, true
	}
	if c.Ends.After(st.ends) {
		st.ends, st.unsavedUse = c.Ends, true
	}
	p.made = st
	return st
}

// after is what the request goes on from once its change was saved, or is in
// the cache alone.
func (p *part) after(saved bool) *Loaded {
	st := p.made
	if saved {
		st = st.clone().saved()
	}
	l := p.loaded
	return &Loaded{state: st, cached: l.cached || l.item != nil, at: l.at}
}

// Update saves a change of a session. Changes that others saved meanwhile are
// joined with it. Without an error the change is in both services, or in the
// one that takes it, and the result is what a further change starts from.
func (s *Store) Update(ctx context.Context, id string, l *Loaded, c Change) (*Loaded, error) {
	if !s.fits(id, c) {
		return nil, tier.ErrTooLarge
	}
	p := &part{loaded: l, change: &c, ahead: aheadOf(ctx)}
	if err := s.run(ctx, id, p); err != nil {
		return nil, err
	}
	return p.after(s.Backup != nil), nil
}

// fits reports whether a change is not too large for the service that has to
// take it, whatever else is there.
func (s *Store) fits(id string, c Change) bool {
	if s.Backup == nil {
		return s.Cache.Fits(id, len(c.Value))
	}
	return s.Backup.Fits(id, len(c.Value))
}

func (s *Store) run(ctx context.Context, id string, p *part) error {
	if s.Backup == nil {
		_, err := s.keep(ctx, id, []*part{p}, false)
		return err
	}
	return s.together(ctx, id, "save", p, func(ctx context.Context, parts []*part) error {
		return s.save(ctx, id, parts)
	})
}

// save commits parts to the backup and publishes what it has then.
func (s *Store) save(ctx context.Context, id string, parts []*part) error {
	loaded := parts[0].loaded
	seen, fill := loaded.item, loaded.fill
	var leaseErr error
	if s.Cache != nil && fill != nil {
		// The cache had lost it, and gets it back: what is committed under a
		// lease is no older than what anybody else reads or commits meanwhile.
		seen, leaseErr = s.lease(ctx, id, fill)
		loaded.fill = nil
	}
	committed, err := s.commit(ctx, id, parts)
	if s.Cache == nil {
		return err
	}
	ctx, cancel := finishing(ctx)
	defer cancel()
	switch {
	case err == nil:
		return errors.Join(leaseErr, s.publish(ctx, id, seen, committed))
	case errors.Is(err, errEmptied):
		return errors.Join(err, s.mark(ctx, id))
	case isRefusal(err):
		return err
	}
	// The backup failed. The change lives on in the cache.
	if _, kerr := s.keep(ctx, id, parts, false); !errors.Is(kerr, errNotCached) {
		err = errors.Join(err, kerr)
	}
	return err
}

// commit applies parts to the record and returns what the backup has then.
func (s *Store) commit(ctx context.Context, id string, parts []*part) (*state, error) {
	var committed *state
	var next *tier.Record
	known := parts[0].loaded.record()
	err := s.update(ctx, id, known, func(current *tier.Record) (*tier.Record, error) {
		st, changed, err := s.apply(current, known, parts)
		if err != nil {
			return nil, err
		}
		if committed, next = st, nil; !changed {
			return nil, nil
		}
		if next = st.record(); !s.Backup.Fits(id, len(next.Value)) {
			return nil, tier.ErrTooLarge
		}
		return next, nil
	}, func() { fix(parts) })
	if err == nil && next != nil {
		committed.token = next.Token
	}
	if committed != nil {
		committed.before = parts[0].loaded.state
	}
	return committed, err
}

func fix(parts []*part) {
	for _, p := range parts {
		p.fixed = p.made != nil // else it was not tried
	}
}

// apply returns what the record is to be with parts.
func (s *Store) apply(current, known *tier.Record, parts []*part) (next *state, changed bool, err error) {
	unsaved := slices.ContainsFunc(parts, func(p *part) bool { return p.loaded.state.unsaved() })
	live := slices.ContainsFunc(parts, func(p *part) bool { return time.Since(p.loaded.state.ends) < overdue })
	switch {
	case current == nil && !unsaved:
		return nil, false, ErrRemoved
	case current == nil:
		// It was never backed up, or was unsaved until the record was purged.
	case len(current.Value) == 0:
		return nil, false, errEmptied
	case !unsaved && !live && time.Since(current.Expires) > overdue:
		return nil, false, ErrRemoved // and a purge may be deleting the record
	case current == known:
		next = parts[0].loaded.state
		changed = next.unsaved()
	default:
		if next, err = s.openRecord(current); err != nil {
			return nil, false, err
		}
	}
	next, joined, err := s.joinAll(next, parts)
	if err != nil {
		return nil, false, err
	}
	next.forget()
	return next.saved(), changed || joined, nil
}

// joinAll returns a copy of into, if there is one, with what parts have later.
func (s *Store) joinAll(into *state, parts []*part) (next *state, changed bool, err error) {
	next = into
	for _, p := range parts {
		if next == nil {
			next, changed = p.state(0).clone(), true
			continue
		}
		joined := false
		if next, joined, err = s.join(next, p.state(next.latest()), false); err != nil {
			return nil, false, err
		}
		changed = changed || joined
	}
	return next, changed, nil
}

// keep puts a change into the cache's item, marked as unsaved, and returns the
// item's state. errNotCached: there is no value that could take it.
//
// Where there is no backup it puts the item there, if it has to.
func (s *Store) keep(ctx context.Context, id string, parts []*part, async bool) (kept *state, err error) {
	if s.Cache == nil {
		return nil, errNotCached
	}
	err = s.replace(ctx, id, parts[0].loaded.item, func(seen *item, unsure bool) (it tier.Item, ttl time.Duration, done bool, err error) {
		if unsure {
			fix(parts)
		}
		var into *state
		switch {
		case seen.is(removed):
			return it, 0, false, ErrRemoved
		case seen.is(value):
			into = seen.state
		case s.Backup != nil:
			return it, 0, false, errNotCached
		}
		if async && time.Now().Before(into.sealed) {
			return it, 0, false, errNotCached
		}
		kept, done, err = s.kept(into, parts)
		if err != nil || done {
			return it, 0, done, err
		}
		it, ok := s.itemOf(id, kept)
		switch {
		case s.Backup == nil && !ok, s.Backup != nil && !s.Backup.Fits(id, len(kept.encode(false))):
			return it, 0, false, tier.ErrTooLarge
		case !ok:
			return it, 0, false, errNotCached
		}
		return it, time.Until(kept.ends), false, nil
	})
	if err != nil && !errors.Is(err, errNotCached) {
		fix(parts) // the cache may have it all the same
	}
	return kept, err
}

// kept is an item's state with parts, marked as unsaved; there is no item if
// into is nil. done reports that it has all of them.
func (s *Store) kept(into *state, parts []*part) (n *state, done bool, err error) {
	n, changed, err := s.joinAll(into, parts)
	if err != nil {
		return nil, false, err
	}
	for _, p := range parts {
		changed = changed || p.loaded.state.whole && !n.whole
		n.whole = n.whole || p.loaded.state.whole
	}
	if into != nil && (!n.used.Equal(into.used) || !n.ends.Equal(into.ends)) {
		n.unsavedUse = true
	}
	if s.Backup == nil {
		n.forget()
	}
	return n, !changed, nil
}

// publish makes the cache's item contain what was committed. seen is the item
// that the request has loaded; nil: none. When the cache fails, publishing goes
// on in the background.
func (s *Store) publish(ctx context.Context, id string, seen *item, committed *state) error {
	err := s.publishNow(ctx, id, seen, committed)
	if err != nil && !isRefusal(err) {
		once := *s
		once.Retries = 1
		s.inBackground(ctx, id, func(ctx context.Context) error {
			_, err := retry.Do(ctx, publishAttempts, func() (struct{}, error) {
				return struct{}{}, once.publishNow(ctx, id, nil, committed)
			})
			return err
		})
	}
	return err
}

func (s *Store) publishNow(ctx context.Context, id string, seen *item, committed *state) error {
	return s.replace(ctx, id, seen, func(seen *item, _ bool) (it tier.Item, ttl time.Duration, done bool, err error) {
		switch {
		case seen == nil, seen.is(removed), seen.is(lease) && seen.nonce == nonce{}:
			return it, 0, true, nil // whoever refills next reads what was committed
		case seen.is(value):
			n, changed, err := s.published(seen.state, committed)
			if err != nil || !changed {
				return it, 0, !changed, err
			}
			if it, ok := s.itemOf(id, n); ok {
				return it, time.Until(n.ends), false, nil
			}
		case seen.own:
			if it, ok := s.itemOf(id, committed); ok {
				return it, time.Until(committed.ends), false, nil
			}
		}
		// The lease of a refill is never replaced by a value: that could be
		// older than what the refill has read.
		return nobodysLease, leaseTTL, false, nil
	})
}

// published is an item's state with what was committed. What is later in the
// item stays unsaved, if it was.
//
// If this comes late, an old instance may have overwritten the record before the
// later commit. So nothing is saved on the word of it.
func (s *Store) published(seen, committed *state) (n *state, changed bool, err error) {
	late := seen.isAheadOf(committed)
	n, changed, err = s.join(seen, committed, true)
	if err != nil {
		return nil, false, err
	}
	for i, c := range n.cells {
		at, _ := committed.at(c.name)
		was, _ := seen.at(c.name)
		switch {
		case late && at == c.at:
			n.cells[i].unsaved = c.unsaved || was < at
		case c.unsaved && at >= c.at:
			n.cells[i].unsaved, changed = false, true
		case !c.unsaved && at < c.at && (n.whole || committed.absent != 0):
			// The record never had this, or an old instance had overwritten it.
			n.cells[i].unsaved, changed = true, true
		}
	}
	n.unsavedUse = n.unsavedUse && (n.used.After(committed.used) || n.ends.After(committed.ends))
	n.token, n.whole = committed.token, false
	changed = changed || n.unsavedUse != seen.unsavedUse || n.whole != seen.whole
	n.cells = slices.DeleteFunc(n.cells, func(c cell) bool {
		if !c.isOldDeletion() {
			return false
		}
		// What the record has forgotten is forgotten here, too: saved or not,
		// there is nothing left to do about it.
		_, remembered := committed.find(c.name)
		changed = changed || c.unsaved && !remembered
		return !remembered
	})
	if !n.unsaved() {
		n.next = time.Time{}
	}
	return n, changed, nil
}

// isAheadOf reports whether an item has something saved that is neither in what was
// committed nor in what the request had loaded before: a later commit has it. But
// what a commit to an old instance's record lacks, that instance had overwritten.
func (st *state) isAheadOf(committed *state) bool {
	return slices.ContainsFunc(st.cells, func(c cell) bool {
		at, known := committed.at(c.name)
		was, _ := committed.before.at(c.name)
		return !c.unsaved && c.at > max(at, was) && (known || committed.absent == 0)
	})
}
