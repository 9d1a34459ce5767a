package cascadestore

import (
	"bytes"
	"fmt"
	"maps"
	"time"

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

// merger returns the tiered.Store's Merge for a session that is being saved: it
// applies to theirs what distinguishes mine from base, key by key.
func (cs *CascadeStore) merger(session *sessions.Session, expires time.Time) func(base, mine, theirs []byte) (tiered.Record, error) {
	return func(base, mine, theirs []byte) (tiered.Record, error) {
		var was valueMap
		if len(base) > 0 {
			var err error
			if was, err = cs.valuesOf(base, session); err != nil {
				return tiered.Record{}, err
			}
		}
		m, err := cs.valuesOf(mine, session)
		if err != nil {
			return tiered.Record{}, err
		}
		merged := cs.like(session)
		if err := cs.decode(theirs, merged); err != nil {
			return tiered.Record{}, err
		}
		values.Merge(was, m, merged.Values)
		b, err := cs.encode(merged)
		return tiered.Record{Value: b, Expires: expires}, err
	}
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

// changed tells whether the session's Values are not what they were, also when
// one was changed in place.
func (s snapshot) changed(cs *CascadeStore, session *sessions.Session) (bool, error) {
	if s.scalars != nil {
		return !values.EqualScalars(s.scalars, session.Values), nil
	}
	was, err := cs.valuesOf(s.value, session)
	if err != nil {
		return false, err
	}
	return !values.Equal(was, session.Values), nil
}
