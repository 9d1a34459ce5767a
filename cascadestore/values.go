package cascadestore

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/values"
)

type valueMap = map[any]any

// encode serializes a session.
func (cs *CascadeStore) encode(session *sessions.Session) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v", errSerializer, p)
		}
	}()
	if b, err = cs.serializer.Serialize(session); err != nil {
		return nil, fmt.Errorf("%w: %w", errSerializer, err)
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: no bytes", errSerializer)
	}
	if cs.maxLength != 0 && len(b) > cs.maxLength {
		return nil, fmt.Errorf("%w: %d bytes, and at most %d are allowed", ErrValueTooBig, len(b), cs.maxLength)
	}
	return b, nil
}

// decode sets the Values of a session to what b says.
func (cs *CascadeStore) decode(b []byte, session *sessions.Session) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v", errSerializer, p)
		}
	}()
	session.Values = make(valueMap)
	// A serializer may keep what it is given.
	if err := cs.serializer.Deserialize(bytes.Clone(b), session); err != nil {
		return fmt.Errorf("%w: %w", errSerializer, err)
	}
	if session.Values == nil {
		session.Values = make(valueMap)
	}
	return nil
}

// valuesOf decodes b beside session, which stays as it is.
func (cs *CascadeStore) valuesOf(b []byte, session *sessions.Session) (valueMap, error) {
	other := cs.like(session)
	if err := cs.decode(b, other); err != nil {
		return nil, err
	}
	return other.Values, nil
}

// like returns an empty session that a serializer cannot tell from session.
func (cs *CascadeStore) like(session *sessions.Session) *sessions.Session {
	other := sessions.NewSession(cs, session.Name())
	other.ID, other.IsNew = session.ID, session.IsNew
	if session.Options != nil {
		*other.Options = *session.Options
	}
	return other
}

// inspect says what is in a session that the original package has stored, which
// does not say when it was used.
func (cs *CascadeStore) inspect(value []byte, session *sessions.Session) (tiered.Info, error) {
	all, err := cs.valuesOf(value, session)
	if err != nil {
		return tiered.Info{}, err
	}
	named, _ := byName(all)
	return tiered.Info{Names: slices.Collect(maps.Keys(named))}, nil
}

// merge returns the session into with the values that take names as from has
// them.
func (cs *CascadeStore) merge(session *sessions.Session, into, from []byte, take func(name string) bool) ([]byte, error) {
	ours, err := cs.valuesOf(into, session)
	if err != nil {
		return nil, err
	}
	theirs, err := cs.valuesOf(from, session)
	if err != nil {
		return nil, err
	}
	// A new map: a key that is NaN cannot be deleted.
	merged := cs.like(session)
	merged.Values = make(valueMap, len(ours))
	for k, v := range ours {
		if !take(nameOf(k)) {
			merged.Values[k] = v
		}
	}
	for k, v := range theirs {
		if take(nameOf(k)) {
			merged.Values[k] = v
		}
	}
	return cs.encode(merged)
}

// A snapshot is what a session was when it was loaded or saved.
type snapshot struct {
	value []byte // serialized
	// scalars are its Values, if none can be changed in place.
	scalars valueMap
}

// takeSnapshot remembers a session whose serialized form is value.
func takeSnapshot(value []byte, session *sessions.Session) snapshot {
	s := snapshot{value: value}
	if session.Values != nil && values.AreScalars(session.Values) {
		s.scalars = maps.Clone(session.Values)
	}
	return s
}

// changes returns the names of the keys whose values are not what they were,
// also when one was changed in place.
func (s snapshot) changes(cs *CascadeStore, session *sessions.Session) (set, deleted []string, err error) {
	was := s.scalars
	if was == nil && len(s.value) > 0 {
		if was, err = cs.valuesOf(s.value, session); err != nil {
			return nil, nil, err
		}
	}
	before, twiceBefore := byName(was)
	now, twice := byName(session.Values)
	set, deleted = values.Changes(before, now)
	// Which of them is which cannot be told, so they count as changed.
	for _, name := range append(twiceBefore, twice...) {
		if _, ok := now[name]; ok && !slices.Contains(set, name) {
			set = append(set, name)
		}
	}
	return set, deleted, nil
}
