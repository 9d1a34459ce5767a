package tiered

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

// ErrOtherForm means that the cache has something under the id that nothing shows
// to be a session: an item of the app's own, as a rule, which a visitor has named.
var ErrOtherForm = errors.New("what is there has another form")

// Load returns the session, or nil when there is none. tier.ErrUnavailable: it
// cannot be told. tier.ErrUndecodable: there is one that this instance cannot
// read. Any other error says that a service failed, or has a damaged session,
// and that the other one made up for it.
func (s *Store) Load(ctx context.Context, id string) (l *Loaded, err error) {
	defer func() { s.traceLoad(ctx, id, l, err) }()
	switch owed := s.pendingFor(ctx, id); {
	case owed&(marker|emptying) != 0:
		return nil, nil // this process has removed it
	case owed != 0 && s.Cache != nil && s.Backup != nil:
		return s.loadBoth(ctx, id)
	}
	var had *item
	var cacheErr error
	if s.Cache != nil {
		had, cacheErr = s.get(ctx, id)
		switch {
		case had.is(removed):
			return nil, nil
		case had.is(value) && had.state.isLive():
			return &Loaded{state: had.state, item: had, at: time.Now()}, nil
		case had.is(damaged), had.is(undecodable):
			cacheErr = fmt.Errorf("cache get: %w", had.err)
		}
	}
	if s.Backup == nil {
		switch {
		case had.is(undecodable):
			return nil, with(tier.ErrUndecodable, with(ErrOtherForm, cacheErr))
		case had != nil:
			return nil, with(ErrOtherForm, cacheErr) // of a damaged item: nobody can read it
		}
		return nil, with(tier.ErrUnavailable, cacheErr)
	}
	l, err = s.loadBackup(ctx, id)
	switch {
	case err != nil:
		return nil, with(tier.ErrUnavailable, errors.Join(cacheErr, err))
	case l != nil && (had.is(absent) || had.is(damaged)):
		l.item = had // to be refilled
	case l == nil && had.is(damaged):
		return nil, with(ErrOtherForm, cacheErr)
	case l == nil && had.is(undecodable):
		return nil, with(tier.ErrUndecodable, with(ErrOtherForm, cacheErr))
	}
	if errors.Is(cacheErr, errSkipped) {
		cacheErr = nil // the breaker has reported it
	}
	return l, cacheErr
}

// loadBoth loads a session whose item may be older than its record, as this
// process could not publish it.
func (s *Store) loadBoth(ctx context.Context, id string) (*Loaded, error) {
	var it *item
	var rec *tier.Record
	cacheErr, err := both(func() (err error) {
		it, err = s.get(ctx, id)
		return err
	}, func() (err error) {
		rec, err = s.read(ctx, id)
		return err
	})
	l := s.loadedRecord(id, rec)
	switch {
	case it.is(removed), rec != nil && len(rec.Value) == 0:
		return nil, nil
	case err != nil:
		return nil, with(tier.ErrUnavailable, errors.Join(cacheErr, err))
	case l == nil || l.err != nil || !it.is(value) || !it.state.isLive():
		return l, nil // what the cache has is published soon
	}
	st, _, err := s.contain(it.state, l.state, it.state)
	if err != nil {
		return l, err
	}
	return &Loaded{state: st, item: it, at: time.Now()}, nil
}

// LoadBackup is Load for a session whose cached value cannot be used. It does
// not ask the cache.
func (s *Store) LoadBackup(ctx context.Context, id string) (*Loaded, error) {
	if s.Backup == nil {
		return nil, nil
	}
	l, err := s.loadBackup(ctx, id)
	return l, with(tier.ErrUnavailable, err)
}

func (s *Store) loadBackup(ctx context.Context, id string) (*Loaded, error) {
	rec, err := s.read(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.loadedRecord(id, rec), nil
}

// loadedRecord is the session of a record; nil: there is none.
func (s *Store) loadedRecord(id string, rec *tier.Record) *Loaded {
	if rec == nil || len(rec.Value) == 0 {
		return nil
	}
	st, err := s.openRecord(id, rec)
	if err != nil {
		// Whoever asks finds out, and can still remove it.
		st = &state{value: rec.Value, ends: microsOf(rec.Expires), token: rec.Token}
	}
	if !st.isLive() {
		return nil
	}
	return &Loaded{state: st, at: time.Now(), err: err}
}

// openRecord returns the state of a record that is not empty. All of it is
// saved.
func (s *Store) openRecord(id string, rec *tier.Record) (*state, error) {
	st, err := s.open(id, rec.Value)
	if err != nil {
		return nil, mergeError(with(tier.ErrUndecodable, err))
	}
	if st.unsavedAll && st.absent == 0 {
		// No time is known, but of two such sessions that of the record is later.
		st.absent = firstStamp | deletedBit
		for i := range st.cells {
			st.cells[i].at = firstStamp
		}
	}
	if !st.clockWasAhead {
		st.ends = microsOf(rec.Expires)
	}
	st.token = rec.Token
	return st.markSaved(), nil
}

func (s *Store) traceLoad(ctx context.Context, id string, l *Loaded, err error) {
	if s.Trace == nil || s.Trace.Loaded == nil {
		return
	}
	from := "none"
	switch {
	case l != nil && l.IsCached():
		from = "cache"
	case l != nil:
		from = "backup"
	case errors.Is(err, tier.ErrUnavailable), errors.Is(err, tier.ErrUndecodable):
		from = "unknown"
	}
	s.Trace.Loaded(ctx, tier.Load{Session: sessionid.Hash(id), From: from})
}
