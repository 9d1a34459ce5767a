package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

// errEmptied means that the record says that the session was removed; a record
// that is merely missing does not say so to the cache.
var errEmptied = fmt.Errorf("%w", tier.ErrRemoved)

// overdue is how long after its end a session may still be saved: an update
// that begins then has ended before a purge may delete the record.
const overdue = tier.PurgeGrace - tier.UpdateTime

// Update saves a change of a session, joined with what others saved meanwhile.
//
// It returns what a further change starts from, or nil where the change was
// surely not saved. With tier.ErrNotBackedUp and tier.ErrNotPublished the change
// is saved in one of the services; with tier.ErrNotSaved it is in none, or nobody
// can tell.
func (s *Store) Update(ctx context.Context, id string, l *Loaded, c *Change) (*Loaded, error) {
	switch {
	case l.err != nil:
		return nil, l.err
	case !s.fits(id, c):
		return nil, tier.ErrTooLarge
	}
	p := newPart(ctx, l, c)
	err := s.run(ctx, id, p)
	return s.outcome(p, err), err
}

// outcome is what a request starts from after an update that has ended so.
func (s *Store) outcome(p *part, err error) *Loaded {
	switch {
	case err == nil && p.left:
		return p.loaded
	case err == nil, errors.Is(err, tier.ErrNotPublished):
		return p.after(s.Backup != nil)
	case isRefusal(err):
		return nil
	case errors.Is(err, tier.ErrNotBackedUp), p.isUnsure():
		return p.after(false)
	}
	return nil
}

// fits reports whether a change is not too large for the service that has to
// take it, whatever else is there.
func (s *Store) fits(id string, c *Change) bool {
	if s.Backup == nil {
		return s.Cache.Fits(id, len(c.Value))
	}
	return len(c.Value) <= s.Backup.MaxValue(id)
}

// run saves a part, together with those of other requests.
func (s *Store) run(ctx context.Context, id string, p *part) error {
	if s.Backup == nil {
		_, err := s.keep(ctx, id, []*part{p}, false)
		return notSaved(err)
	}
	return s.together(ctx, queueSave, id, p, func(ctx context.Context, parts []*part) error {
		return s.save(ctx, id, parts)
	})
}

// save commits parts to the backup and publishes what it has then.
func (s *Store) save(ctx context.Context, id string, parts []*part) error {
	loaded := parts[0].loaded
	seen := loaded.item
	var leaseErr error
	if loaded.needsRefill() {
		// The cache had lost it, and gets it back: what is committed under a
		// lease is no older than what anybody else reads or commits meanwhile.
		seen, leaseErr = s.lease(ctx, id, loaded.item)
	}
	committed, err := s.commit(ctx, id, parts)
	if s.Cache == nil {
		return notSaved(err)
	}
	ctx, cancel := s.finishing(ctx)
	defer cancel()
	switch {
	case err == nil && committed == nil:
		return nil
	case err == nil:
		if leaseErr != nil && !errors.Is(leaseErr, errSkipped) {
			s.Report(id, leaseErr) // the change is published, and the next load refills the cache
		}
		return s.publish(ctx, id, seen, committed, loaded.state)
	case errors.Is(err, errEmptied):
		return errors.Join(err, s.markOrOwe(ctx, id))
	case isRefusal(err):
		return err
	}
	if !slices.ContainsFunc(parts, func(p *part) bool { return p.change != nil }) {
		return with(tier.ErrNotBackedUp, err) // the cache has it all
	}
	return s.keepAlone(ctx, id, parts, err)
}

// keepAlone puts into the cache alone what could not be saved in the backup: err
// says why. It returns what the requests are told.
func (s *Store) keepAlone(ctx context.Context, id string, parts []*part, err error) error {
	switch _, kerr := s.keep(ctx, id, parts, false); {
	case kerr == nil:
		return with(tier.ErrNotBackedUp, err)
	case isRefusal(kerr):
		return errors.Join(kerr, err)
	case errors.Is(kerr, errNotCached), errors.Is(kerr, errSkipped):
		return with(tier.ErrNotSaved, err)
	default:
		return with(tier.ErrNotSaved, errors.Join(err, kerr))
	}
}

// markOrOwe sets the removal marker of a session whose record was emptied by
// somebody else, now or in the background.
func (s *Store) markOrOwe(ctx context.Context, id string) error {
	err := s.mark(ctx, id)
	if err != nil {
		s.owe(ctx, id, marker, time.Time{})
	}
	return err
}

// commit applies parts to the record and returns what the backup has then; nil:
// there was nothing to commit.
func (s *Store) commit(ctx context.Context, id string, parts []*part) (*state, error) {
	committed, next, guess := s.guess(id, parts)
	var owners []Owner
	if guess == nil && committed != nil {
		owners = append(owners, committed.owner)
	}
	err := withIndexes(owners, func(owners []Owner) error {
		ids := []string{id}
		for _, o := range owners {
			ids, guess = append(ids, o.id()), nil
		}
		return s.update(ctx, ids, guess, func(current []*tier.Record) (_ []*tier.Record, err error) {
			committed, next = nil, nil
			records := make([]*tier.Record, len(ids))
			// Somebody else's bytes may lie under the id. They become a session of the
			// backup only when a request changes them.
			left := current[0] == nil && !slices.ContainsFunc(parts, func(p *part) bool { return !p.isUntouched() })
			for _, p := range parts {
				p.left = left
			}
			if left {
				return records, nil
			}
			st, changed, err := s.apply(id, current[0], parts)
			if err != nil {
				return nil, err
			}
			label, claimed := st.claim(parts)
			if committed = st; !changed && !claimed {
				return records, nil
			}
			if st.mustBeListed() {
				i := slices.Index(owners, st.owner)
				if i < 0 {
					return nil, &unlistedError{st.owner}
				}
				if records[1+i], err = s.listed(current[1+i], id, st, label); err != nil {
					return nil, err
				}
			}
			next = st.record(id)
			records[0] = next
			return records, nil
		}, func() { mayBeApplied(parts) })
	})
	s.traceSave(ctx, id, parts, next, err)
	if err != nil {
		return nil, err
	}
	if next != nil {
		committed.token = next.Token
	}
	return committed, nil
}

// guess returns what the first part expects to be in the backup, as the record
// that its state contains, and what is to be there with the parts. There is no
// guess where nothing is known, or where the parts would be refused; and none,
// but a state, where the owner's index has to be changed as well.
func (s *Store) guess(id string, parts []*part) (*state, *tier.Record, *tier.Guess) {
	l := parts[0].loaded
	if len(l.state.token) == 0 || l.state.ends != 0 && time.Since(l.state.ends.time()) >= overdue {
		return nil, nil, nil
	}
	st, changed, err := s.joinAll(l.state, parts, id)
	if err != nil || !changed && !l.state.unsaved() && !l.state.clockWasAhead {
		return nil, nil, nil
	}
	if st.claim(parts); st.mustBeListed() {
		return st, nil, nil
	}
	st.sweep(false)
	st.of = l.state
	next := st.markSaved().record(id)
	return st, next, &tier.Guess{Token: l.state.token, Next: next}
}

// record returns the state as the backup is to keep it.
func (st *state) record(id string) *tier.Record {
	return &tier.Record{Value: st.encode(id, false), Expires: st.ends.time()}
}

// apply returns what the record is to be with parts; nil: there is none.
func (s *Store) apply(id string, current *tier.Record, parts []*part) (next *state, changed bool, err error) {
	unsaved := slices.ContainsFunc(parts, func(p *part) bool { return p.loaded.state.unsaved() })
	live := slices.ContainsFunc(parts, func(p *part) bool { return time.Since(p.loaded.state.ends.time()) < overdue })
	switch {
	case current == nil && !unsaved:
		return nil, false, tier.ErrRemoved
	case current == nil:
		// It was never backed up, or was unsaved until the record was purged.
	case len(current.Value) == 0:
		return nil, false, errEmptied
	case !unsaved && !live && time.Since(current.Expires) > overdue:
		return nil, false, tier.ErrRemoved // and a purge may be deleting the record
	default:
		if next, err = s.openRecord(id, current); err != nil {
			return nil, false, err
		}
	}
	if next != nil {
		changed = next.clockWasAhead
	}
	next, joined, err := s.joinAll(next, parts, id)
	if err != nil {
		return nil, false, err
	}
	if changed = changed || joined; changed {
		next.sweep(false)
	}
	return next.markSaved(), changed, nil
}

// joinAll returns into, if there is one, with what parts have later, as a state of
// its own. record is the id of the record that it has to fit; empty: of none.
func (s *Store) joinAll(into *state, parts []*part, record string) (next *state, changed bool, err error) {
	next = into
	for _, p := range parts {
		was, seen := next, stamp(0)
		if was != nil {
			seen = was.latest()
		}
		st, err := p.state(seen)
		if err != nil {
			return nil, false, err
		}
		switch {
		case was == nil:
			next, changed = st.clone(), true
		case was == p.loaded.state && p.change != nil && !p.loaded.isOld():
			next = st.clone() // it has all that was there
			changed = changed || !st.sameCells(was) || st.used != was.used || st.ends != was.ends
		default:
			joined := false
			if next, joined, err = s.join(was, st, false); err != nil {
				return nil, false, err
			}
			changed = changed || joined
		}
		if record != "" {
			if err := s.checkSize(record, was, next, p); err != nil {
				return nil, false, err
			}
		}
	}
	return next, changed, nil
}

// maxReserve is the largest reserve.
const maxReserve = 128 << 10

// reserve is the part that a change leaves free of a record that may have limit
// bytes, so that what others have acknowledged in the cache alone fits beside it.
func reserve(limit int) int { return min(maxReserve, limit/8) }

// checkSize refuses a part that makes the session too large for its record. Of
// what others have left unsaved half a reserve at most is in the cache, so what
// a request changes by itself leaves a whole one free. A session that is not
// larger than it was is refused by the record's own limit only.
func (s *Store) checkSize(id string, was, next *state, p *part) error {
	limit := s.Backup.MaxValue(id)
	free := limit - reserve(limit)
	wasSize := 0
	if was != nil {
		wasSize = len(was.value)
	}
	switch size := next.recordSize(); {
	case size > limit:
		return tier.ErrTooLarge
	case size <= free, p.change == nil, len(p.change.Set) == 0:
		return nil // a refresh, or a deletion, may be written with more bytes
	}
	own := next
	if was != nil {
		var err error
		if own, _, err = s.join(was, p.own(), false); err != nil {
			return err
		}
	}
	if own.recordSize() <= free || len(own.value) <= wasSize {
		return nil
	}
	//rule: reserve
	return tier.ErrTooLarge
}

// recordSize is how many bytes the record of the state has at most.
func (st *state) recordSize() int { return len(st.value) + st.trailerSize() - len(st.token) }

func (s *Store) traceSave(ctx context.Context, id string, parts []*part, next *tier.Record, err error) {
	if s.Trace == nil || s.Trace.Saved == nil {
		return
	}
	saved := tier.Save{Session: sessionid.Hash(id), Changes: len(parts)}
	if err != nil {
		saved.Err = sessionid.Describe("save", id, id, err)
	} else if next != nil {
		saved.Bytes = len(next.Value)
	}
	s.Trace.Saved(ctx, saved)
}
