package cascadestore

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
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

// inspect says what is in a session that the original package has stored. It
// does not keep when a session was used.
func (cs *CascadeStore) inspect(value []byte, session *sessions.Session) (tiered.Info, error) {
	all, err := cs.valuesOf(value, session)
	if err != nil {
		return tiered.Info{}, err
	}
	return tiered.Info{Names: namesOf(slices.Collect(maps.Keys(all)))}, nil
}

// merge returns the session into with the values that take names as from has
// them.
func (cs *CascadeStore) merge(session *sessions.Session, into, from []byte, take func(name string) bool) ([]byte, error) {
	theirs, err := cs.valuesOf(from, session)
	if err != nil {
		return nil, err
	}
	merged := cs.like(session)
	if err := cs.decode(into, merged); err != nil {
		return nil, err
	}
	maps.DeleteFunc(merged.Values, func(k, _ any) bool { return take(nameOf(k)) })
	for k, v := range theirs {
		if take(nameOf(k)) {
			merged.Values[k] = v
		}
	}
	return cs.encode(merged)
}

// nameOf is a key as a name: another one for every key, the same on every
// instance.
func nameOf(key any) string {
	v := reflect.ValueOf(key)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() == reflect.String {
		return fmt.Sprintf("%s %s", v.Type(), v)
	}
	return fmt.Sprintf("%T %#v", key, v)
}

func namesOf(keys []any) []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = nameOf(k)
	}
	return names
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

// changes returns the keys whose values are not what they were, also when one
// was changed in place.
func (s snapshot) changes(cs *CascadeStore, session *sessions.Session) (set, deleted []any, err error) {
	was := s.scalars
	if was == nil && len(s.value) > 0 {
		if was, err = cs.valuesOf(s.value, session); err != nil {
			return nil, nil, err
		}
	}
	set, deleted = values.Changes(was, session.Values)
	return set, deleted, nil
}
