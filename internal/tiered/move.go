package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A Move gives a session another id, or begins one that has an owner. It may be
// tried several times.
type Move struct {
	store    *Store
	from, to string    // from is empty for a new session
	until    time.Time // of the emptied record
	lease    *entry    // under the new id

	lock      chan struct{}    // has place for one attempt at a time
	mine      *item            // the lease as the cache has it; nil: it is not there
	run       moveRun          // the attempt that counts
	runs      int              // how many there were
	tried     map[name]moveRun // all attempts, by a hash of the new record
	outcome   moveOutcome
	resealed  bool   // the seal may have taken the place of another move's
	last      *state // what the new record is
	abandoned bool
}

// A moveRun is an attempt.
type moveRun struct {
	p *part
	n int // of the call of Run
}

// Moved is a session that has its new id.
type Moved struct {
	Loaded *Loaded // what a further change starts from
	Value  []byte  // the session, with what others have saved
	// Run says which call of Run, from 0 on, has moved it, with the change of that
	// time.
	Run int
}

type moveOutcome int

const (
	notMoved   moveOutcome = iota // nothing was committed
	mayBeMoved                    // a commit may have had its effect
	isMoved                       // the session is under its new id
	isGone                        // it was removed after it had moved
)

// errAbandoned means that a session was removed because nobody could be told its
// new id in time.
var errAbandoned = fmt.Errorf("%w: nobody knew its new id", tier.ErrRemoved)

// NewMove prepares to give the session that was loaded under an id another one,
// which nobody knows. With an empty from it prepares to begin a session.
func (s *Store) NewMove(from, to string, l *Loaded) *Move {
	return &Move{store: s, from: from, to: to, until: emptiedUntil(l), lease: newEntry(lease, moveLeaseTTL), lock: make(chan struct{}, 1), tried: make(map[name]moveRun)}
}

// To is the new id.
func (m *Move) To() string { return m.to }

// MayBeMoved reports whether nobody can tell under which id the session is.
func (m *Move) MayBeMoved() bool {
	m.lock <- struct{}{}
	defer func() { <-m.lock }()
	return m.outcome == mayBeMoved
}

// Run moves the session with a change, and with what others have saved until
// then: it ends under the old id in the same step in which it begins under the
// new one. It returns what a further change starts from, and the bytes that the
// session has now.
//
// Run also changes the indexes of the owners whom the session had and has.
//
// tier.ErrRemoved: somebody else has removed or moved it, or is removing the owner's
// sessions, and then it is removed. tier.ErrNotPublished: it
// has moved, and the cache may show the old one for a while. tier.ErrNotSaved: it
// has not moved, or nobody can tell. Then the old id is the one to keep; another
// Run finds out, and if none comes before the request has ended, what has moved
// is removed.
func (m *Move) Run(ctx context.Context, l *Loaded, c *Change) (*Moved, error) {
	select {
	case m.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", tier.ErrNotSaved, context.Cause(ctx))
	}
	defer func() { <-m.lock }()
	s := m.store
	n := m.runs
	m.runs++
	switch {
	case m.abandoned:
		return nil, errAbandoned
	case m.outcome == isGone:
		return nil, tier.ErrRemoved
	case l.err != nil:
		return nil, l.err
	case ctx.Err() != nil && m.outcome == notMoved:
		return nil, fmt.Errorf("%w: %w", tier.ErrNotSaved, context.Cause(ctx))
	case m.outcome == mayBeMoved:
		if err := m.findOut(ctx); err != nil {
			return nil, notSaved(err)
		}
	}
	own := moveRun{newPart(ctx, l, c), n}
	var err error
	switch {
	case m.outcome == isMoved: // by an earlier attempt
		err = m.publish(ctx)
	case s.Backup == nil:
		m.run = own
		err = m.inCache(ctx)
	default:
		m.run = own
		err = m.commit(ctx)
	}
	if m.outcome != isMoved {
		return nil, err
	}
	next := m.run.p.after(s.Backup != nil)
	st := next.state.clone()
	st.token = nil // what others have saved is not in it
	st.owner, st.listed, st.born = m.last.owner, m.last.listed, m.last.born
	next.state, next.cached = st, s.Cache != nil
	if m.from != "" {
		renamed, rerr := s.Form.Rename(m.run.p.tried.value, m.to)
		if rerr != nil {
			renamed = m.last.value // the same but for what others have saved
		}
		st.value = renamed
	}
	return &Moved{Loaded: next, Value: m.last.value, Run: m.run.n}, err
}

// publish tells the cache, under both ids, that the session has moved.
func (m *Move) publish(ctx context.Context) error {
	if m.from == "" {
		_ = m.fill(ctx) // it is owed
		return nil
	}
	//rule: move-marker
	_, err := both(func() error { return m.fill(ctx) }, func() error { return m.store.markOrOwe(ctx, m.from) })
	return with(tier.ErrNotPublished, err)
}

// fill puts the session into the cache in place of the lease.
func (m *Move) fill(ctx context.Context) error {
	if m.mine == nil {
		return nil
	}
	mine := m.mine
	m.mine = nil
	e := m.store.entryOf(m.to, m.last)
	if e == nil {
		return nil // the lease expires
	}
	_, _, err := m.store.swap(ctx, m.to, mine, e)
	if err != nil {
		m.store.owe(ctx, m.to, publication, time.Time{}) // which ends the lease
	}
	return err
}

// commit moves the session in the backup.
func (m *Move) commit(ctx context.Context) error {
	s := m.store
	parts := []*part{m.run.p}
	var sealed *Loaded
	if s.Cache != nil {
		// A cache that does not answer holds up no move. Without a lease the first
		// load puts the session into the cache.
		err, _ := both(func() (err error) {
			if m.from != "" {
				sealed, err = m.seal(ctx)
			}
			return err
		}, func() error {
			_, err := s.add(ctx, m.to, m.lease)
			return err
		})
		if errors.Is(err, tier.ErrRemoved) {
			return err
		}
		//rule: move-unsaved
		if sealed != nil {
			parts = append(parts, &part{loaded: sealed})
		}
	}
	_, err := both(func() (err error) {
		if s.Cache != nil {
			m.mine, err = s.ownLease(ctx, m.to, m.lease)
		}
		return err // without its token the lease expires
	}, func() error { return m.update(ctx, parts) })
	finishing, cancel := s.finishing(ctx)
	defer cancel()
	if err != nil && m.outcome == mayBeMoved {
		if ferr := m.findOut(finishing); ferr == nil && m.outcome == isMoved {
			err = nil
		}
	}
	switch {
	case err == nil:
		m.outcome = isMoved
		return m.publish(finishing)
	case errors.Is(err, errEmptied) && m.from != "":
		return errors.Join(err, s.markOrOwe(finishing, m.from))
	case errors.Is(err, errEnding):
		// Whoever was to end it may have died. What the removal reports must not
		// be taken for the outcome of the save.
		if rerr := s.remove(finishing, m.from, m.until); rerr != nil {
			s.Report(m.from, rerr)
		}
		return err
	case m.outcome == mayBeMoved && !errors.Is(err, tier.ErrRemoved):
		m.watch(ctx)
		return with(tier.ErrNotSaved, err)
	}
	m.unseal(finishing, s)
	return notSaved(err)
}

// update puts the record under the new id, empties that of the old id, and changes
// the owners' indexes, in one step.
func (m *Move) update(ctx context.Context, parts []*part) error {
	var owners []Owner
	is := m.run.p.change.Owner
	for _, o := range []Owner{m.run.p.loaded.state.owner, is.of(m.run.p.loaded.state)} {
		if o != (Owner{}) && !slices.Contains(owners, o) {
			owners = append(owners, o)
		}
	}
	return withIndexes(owners, func(owners []Owner) error { return m.updateWith(ctx, parts, owners) })
}

// of is whom the session belongs to that was st.
func (o *Ownership) of(st *state) Owner {
	if o == nil {
		return st.owner
	}
	return o.Owner
}

func (m *Move) updateWith(ctx context.Context, parts []*part, owners []Owner) error {
	s := m.store
	ids := []string{m.to}
	id := m.to
	if m.from != "" {
		id = m.from
		ids = append(ids, m.from)
	}
	indexes := len(ids) // begin there
	for _, o := range owners {
		ids = append(ids, o.id())
	}
	var made *tier.Record
	var listed map[Owner]index
	err := s.update(ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
		made, listed = nil, make(map[Owner]index)
		records := make([]*tier.Record, len(ids))
		if moved, err := m.recognise(current[0]); moved || err != nil {
			return records, err
		}
		if current[0] != nil {
			return nil, errTaken
		}
		var old *tier.Record
		if m.from != "" {
			old = current[1]
			//rule: move-empties
			records[1] = &tier.Record{Expires: m.until}
		}
		next, _, err := s.apply(id, old, parts)
		if err != nil {
			return nil, err
		}
		if m.from != "" {
			if next.value, err = s.Form.Rename(next.value, m.to); err != nil {
				return nil, mergeError(err)
			}
		}
		was, change := next.owner, m.run.p.change
		if next.owner = change.Owner.of(next); next.owner != was {
			next.listed = 0
			if m.from != "" {
				next.born = microsOf(time.Now()) // it begins again
			}
		}
		for _, o := range []Owner{was, next.owner} {
			if _, known := listed[o]; known || o == (Owner{}) {
				continue
			}
			i := slices.Index(owners, o)
			if i < 0 {
				return nil, &unlistedError{o}
			}
			x, err := openIndex(current[indexes+i])
			if err != nil {
				return nil, err
			}
			var login listing
			if l := x.find(m.from); l != nil && o == was {
				//rule: owner-mover
				if l.ending {
					return nil, errEnding
				}
				login = *l
				//rule: owner-old
				l.ending = true
			}
			switch {
			case o != next.owner:
			case login.id != "":
				x.move(login, m.to, next)
			default:
				//rule: owner-lists
				x.list(m.to, next, change.Owner.label())
			}
			listed[o] = x
			if records[indexes+i], err = s.indexRecord(o, x); err != nil {
				return nil, err
			}
		}
		m.last, made = next, next.record(m.to)
		m.tried[nameOf(string(made.Value))] = m.run
		records[0] = made
		return records, nil
	}, func() {
		mayBeApplied(parts)
		if m.run.p.mayBeApplied && m.outcome == notMoved {
			m.outcome = mayBeMoved
		}
	})
	if err == nil && made != nil {
		m.last.token = made.Token
		for o, x := range listed {
			s.tidy(ctx, o, x, m.from)
		}
	}
	return err
}

func (o *Ownership) label() string {
	if o == nil {
		return ""
	}
	return o.Label
}

// errEnding means that somebody removes the owner's sessions.
var errEnding = fmt.Errorf("%w: the owner's sessions are being removed", tier.ErrRemoved)

// errTaken means that the new id has a record already.
var errTaken = fmt.Errorf("%w: the new id is taken", tier.ErrRemoved)

// recognise reports whether an attempt that seemed to fail has moved the session:
// nobody else can have put a record under the new id.
func (m *Move) recognise(there *tier.Record) (bool, error) {
	//rule: move-recognised
	if len(m.tried) == 0 || there == nil {
		return false, nil
	}
	if len(there.Value) == 0 {
		return false, errEmptied // and removed since
	}
	run, ok := m.tried[nameOf(string(there.Value))]
	if !ok {
		return false, nil
	}
	st, err := m.store.openRecord(m.to, there)
	if err != nil {
		return false, err
	}
	m.last, m.run = st, run
	return true, nil
}

// findOut asks the backup whether the session has moved. Where it has not, a
// commit may still be under way.
func (m *Move) findOut(ctx context.Context) error {
	rec, err := m.store.read(ctx, m.to)
	if err != nil {
		return err
	}
	switch moved, err := m.recognise(rec); {
	case errors.Is(err, errEmptied):
		m.outcome = isGone
		return err
	case err != nil:
		return err
	case moved:
		m.outcome = isMoved
	}
	return nil
}

// seal keeps asynchronous changes out of the cache's item while the session
// moves, and returns what the item has unsaved. Where there is no value it puts
// an orphan lease, so that none comes.
func (m *Move) seal(ctx context.Context) (sealed *Loaded, err error) {
	s := m.store
	seen := m.run.p.loaded.item
	if seen.is(damaged) {
		seen = nil
	}
	mine := nonce(m.lease.Value)
	err = s.replace(ctx, m.from, seen, func(seen *item, _ bool) (*entry, error) {
		sealed = nil
		switch {
		case seen.is(removed):
			return nil, tier.ErrRemoved
		case seen.is(undecodable):
			return nil, nil
		case !seen.is(value):
			return orphanMoveLease, nil
		}
		st := seen.state.clone()
		m.resealed = m.resealed || st.seal != nonce{} && st.seal != mine
		st.seal = mine
		if st.ends == 0 {
			st.ends = microsOf(m.run.p.change.Ends) // or the cache would keep it for longer than it lives
		}
		sealed = &Loaded{state: st}
		if seen.state.seal == mine {
			return nil, nil
		}
		if e := s.entryOf(m.from, st); e != nil {
			return e, nil
		}
		return nil, nil // it is as large as it was
	})
	return sealed, err
}

// orphanMoveLease keeps refills away for as long as a move may take.
var orphanMoveLease = &entry{orphanLease.Item, moveLeaseTTL}

// unseal ends the seal after a move that was given up, unless another move, which
// may be under way, has relied on it before.
func (m *Move) unseal(ctx context.Context, s *Store) {
	//rule: move-resealed
	if s.Cache == nil || m.from == "" || m.resealed {
		return
	}
	// A seal that stays makes asynchronous changes synchronous, and nothing else.
	_ = s.replace(ctx, m.from, nil, func(seen *item, _ bool) (*entry, error) {
		if !seen.is(value) || seen.state.seal != nonce(m.lease.Value) {
			return nil, nil
		}
		st := seen.state.clone()
		st.seal = nonce{}
		return s.entryOf(m.from, st), nil
	})
}

// watchAfter is how long a move that may have been made waits for another Run, if
// its request does not end before.
const watchAfter = 30 * time.Second

// watch waits for the end of the request. If nobody has found out until then what
// has become of the move, there will be no session under the new id, which no
// client has been told: its record is emptied, so that no late commit puts one
// there, and the cache learns what the old id's record says.
func (m *Move) watch(ctx context.Context) {
	free, s := context.WithoutCancel(ctx), m.store.background()
	ended, cancel := context.WithTimeout(ctx, watchAfter)
	// Drain waits for what is done then, and not for the request.
	context.AfterFunc(ended, func() {
		cancel()
		background.start(func() { m.abandon(free, s) })
	})
}

// abandon removes what may have moved.
func (m *Move) abandon(ctx context.Context, s *Store) {
	m.lock <- struct{}{}
	defer func() { <-m.lock }()
	if m.outcome != mayBeMoved || m.abandoned {
		return
	}
	m.abandoned = true
	//rule: move-watched
	err := s.inBackground(ctx, func(ctx context.Context) error { return s.remove(ctx, m.to, m.until) })
	if m.from == "" {
		return
	}
	if err == nil {
		m.unseal(ctx, s)
	}
	s.owe(ctx, m.from, publication, time.Time{})
}

// inCache moves a session that only the cache keeps: first the new item, then the
// marker in place of the version that the new one contains.
func (m *Move) inCache(ctx context.Context) error {
	s := m.store
	parts := []*part{m.run.p}
	put := false
	seen := m.run.p.loaded.item
	if !seen.is(value) {
		seen = nil
	}
	err := s.replace(ctx, m.from, seen, func(seen *item, _ bool) (*entry, error) {
		switch {
		case seen.is(removed) && put && seen.nonce == nonce(m.lease.Value):
			return nil, nil // an attempt that seemed to fail did this
		case !seen.is(value) || !seen.state.isLive():
			return nil, tier.ErrRemoved
		}
		st, _, err := s.withUnsaved(seen.state, parts)
		if err != nil {
			return nil, err
		}
		if st.value, err = s.Form.Rename(st.value, m.to); err != nil {
			return nil, mergeError(err)
		}
		e := s.entryOf(m.to, st)
		if e == nil {
			return nil, tier.ErrTooLarge
		}
		m.last = st
		if put {
			err = s.set(ctx, m.to, e)
		} else {
			_, err = s.add(ctx, m.to, e)
		}
		put = true
		if err != nil {
			return nil, err
		}
		return &entry{tier.Item{Flags: uint32(removed), Value: m.lease.Value}, removedTTL}, nil
	})
	switch {
	case err == nil:
		m.outcome = isMoved
		return nil
	case put:
		if merr := s.markOrOwe(ctx, m.to); merr != nil {
			err = errors.Join(err, merr)
		}
	}
	return notSaved(err)
}
