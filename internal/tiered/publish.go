package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// publish makes the cache's item contain what was committed. seen is the item
// that the request has loaded; nil: not known. before is what the request had
// loaded. When the cache fails, publishing goes on in the background.
func (s *Store) publish(ctx context.Context, id string, seen *item, committed, before *state) error {
	err := s.publishNow(ctx, id, seen, committed, before)
	if err != nil && !isRefusal(err) {
		s.owe(ctx, id, publication, time.Time{})
	}
	if errors.Is(err, tier.ErrRemoved) {
		return err
	}
	return with(tier.ErrNotPublished, err)
}

func (s *Store) publishNow(ctx context.Context, id string, seen *item, committed, before *state) error {
	return s.replace(ctx, id, seen, func(seen *item, _ bool) (*entry, error) {
		switch {
		case seen.is(absent), seen.is(removed), seen.is(lease) && seen.nonce == nonce{}:
			return nil, nil // whoever refills next reads what was committed
		case seen.is(undecodable):
			return nil, fmt.Errorf("cache: %w", seen.err)
		case seen.is(value):
			//rule: publish
			n, changed, err := s.contain(seen.state, committed, before)
			if err != nil || !changed {
				return nil, err
			}
			if e := s.entryOf(id, n); e != nil {
				return e, nil
			}
			//rule: rescue
			if n.unsaved() {
				// Nobody has it but the item, which has to go.
				alone := &part{loaded: &Loaded{state: seen.state}}
				if committed, err = s.commit(ctx, id, []*part{alone}); err != nil {
					return nil, err
				}
				before = seen.state
			}
		//rule: fill
		case seen.own:
			if e := s.entryOf(id, committed); e != nil {
				return e, nil
			}
		}
		// The lease of a refill is never replaced by a value: that could be older
		// than what the refill has read.
		return orphanLease, nil
	})
}

// publishRecord makes the cache's item contain what the record says, which it
// reads after the item.
func (s *Store) publishRecord(ctx context.Context, id string) error {
	seen, err := s.get(ctx, id)
	if err != nil || seen.is(absent) || seen.is(removed) {
		return err
	}
	rec, err := s.read(ctx, id)
	switch {
	case err != nil || rec == nil || s.Backup == nil:
		return err
	case len(rec.Value) == 0:
		return s.mark(ctx, id)
	}
	st, err := s.openRecord(id, rec)
	if err != nil {
		return err
	}
	before := st
	if seen.is(value) {
		before = seen.state
	}
	return s.publishNow(ctx, id, seen, st, before)
}

// contain returns an item's state with what was committed. What is later in the
// item stays unsaved, if it was.
//
// Where the item has something saved that is later than what was committed, and
// that the request had not loaded before, another request has committed since:
// this publish is late. An old instance may have overwritten the record before
// that later commit. So a late publish marks nothing as saved, and what it brings
// is unsaved.
func (s *Store) contain(seen, committed, before *state) (n *state, changed bool, err error) {
	if committed.of == seen && seen.seal == (nonce{}) {
		return committed, true, nil // it has all that is there
	}
	late := seen.isAheadOf(committed, before)
	n, changed, err = s.join(seen, committed, true)
	if err != nil {
		return nil, false, err
	}
	changed = changed || seen.clockWasAhead
	progress := false
	for i, c := range n.cells {
		at, _ := committed.at(c.name)
		was, _ := seen.at(c.name)
		switch {
		case late && at == c.at:
			n.cells[i].unsaved = c.unsaved || was < at
		//rule: unsaved
		case c.unsaved && at >= c.at:
			n.cells[i].unsaved, changed, progress = false, true, true
		case !c.unsaved && at < c.at && (n.unsavedAll || committed.absent != 0):
			// The record never had this, or an old instance had overwritten it.
			n.cells[i].unsaved, changed = true, true
		}
	}
	n.unsavedUse = n.unsavedUse && (n.used > committed.used || n.ends > committed.ends)
	n.token, n.unsavedAll = committed.token, false
	changed = changed || n.unsavedUse != seen.unsavedUse || n.unsavedAll != seen.unsavedAll
	switch {
	case !n.unsaved():
		n.next, n.tries = 0, 0
	case !seen.unsaved(), progress:
		n.dueAfter(0) // whoever changed it is about to save the rest
	}
	if changed {
		n.sweep(false)
	}
	return n, changed, nil
}

// isAheadOf reports whether an item has something saved that is neither in what
// was committed nor in what the request had loaded before: a later commit has it.
// But what a commit to an old instance's record lacks, that instance had
// overwritten; and the record may have forgotten a deletion.
func (st *state) isAheadOf(committed, before *state) bool {
	return slices.ContainsFunc(st.cells, func(c cell) bool {
		at, known := committed.at(c.name)
		was, _ := before.at(c.name)
		return !c.unsaved && c.at > max(at, was) && (known || committed.absent == 0) && !(c.isTombstone() && c.aged)
	})
}
