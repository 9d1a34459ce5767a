package tiered

import (
	"context"
	"errors"

	"github.com/gaesession/gaesession/tier"
)

// errNotCached means that the cache has no value that could take a change.
var errNotCached = errors.New("no cached session to change")

// keep puts a change into the cache's item, marked as unsaved, and returns the
// item's state. errNotCached: there is no value that could take it, or it would
// be too large to live in the cache alone.
//
// Where there is no backup it puts the item there, if it has to.
func (s *Store) keep(ctx context.Context, id string, parts []*part, async bool) (kept *state, err error) {
	if s.Cache == nil {
		return nil, errNotCached
	}
	seen := parts[0].loaded.item
	if !seen.is(value) {
		seen = nil
	}
	err = s.replace(ctx, id, seen, func(seen *item, unsure bool) (*entry, error) {
		if unsure {
			mayBeApplied(parts)
		}
		var into *state
		switch {
		case seen.is(removed):
			return nil, tier.ErrRemoved
		case seen.is(value):
			into = seen.state
		case s.Backup != nil:
			return nil, errNotCached
		}
		//rule: seal
		if async && into.seal != (nonce{}) {
			return nil, errNotCached
		}
		n, changed, err := s.withUnsaved(into, parts)
		if err != nil {
			return nil, err
		}
		if kept = n; !changed {
			return nil, nil
		}
		e := s.entryOf(id, n)
		switch {
		case s.Backup == nil && !n.isLive():
			return nil, tier.ErrRemoved // the cache would not keep it
		case s.Backup == nil && e == nil:
			return nil, tier.ErrTooLarge
		//rule: alone
		case e == nil, !n.isLive(), s.Backup != nil && len(e.Value) > reserve(s.Backup.MaxValue(id))/2:
			return nil, errNotCached
		}
		return e, nil
	})
	if err != nil && !errors.Is(err, errNotCached) && !errors.Is(err, errSkipped) && !isRefusal(err) {
		mayBeApplied(parts) // the cache may have it all the same
	}
	return kept, err
}

// withUnsaved is an item's state with parts, marked as unsaved; there is no item
// if into is nil.
func (s *Store) withUnsaved(into *state, parts []*part) (n *state, changed bool, err error) {
	n, changed, err = s.joinAll(into, parts, "")
	if err != nil {
		return nil, false, err
	}
	for _, p := range parts {
		changed = changed || p.loaded.state.unsavedAll && !n.unsavedAll
		n.unsavedAll = n.unsavedAll || p.loaded.state.unsavedAll
	}
	if into != nil {
		if n.used != into.used || n.ends != into.ends {
			n.unsavedUse = true
		}
		changed = changed || into.clockWasAhead
	}
	switch {
	case s.Backup == nil:
		n.sweep(true)
	case into == nil || !into.unsaved():
		n.dueAfter(0)
	}
	return n, changed, nil
}
