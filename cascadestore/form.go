package cascadestore

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/scalargob"
	"github.com/gaesession/gaesession/internal/values"
)

type valueMap = map[any]any

// A form knows what the bytes of sessions of one name mean. It is a live.Form.
type form struct {
	store *CascadeStore
	name  string
}

// encode serializes a session. The serializer is not told an id that the services
// are not told.
func (f form) encode(session *sessions.Session, key string) (b []byte, err error) {
	defer live.Wrap(&err, errSerializer)
	if session.ID != key {
		renamed := *session
		renamed.ID = key
		session = &renamed
	}
	if b, err = f.store.serializer.Serialize(session); err == nil && len(b) == 0 {
		err = errors.New("no bytes")
	}
	return b, err
}

// decode sets the Values of a session to what b says.
func (f form) decode(b []byte, session *sessions.Session) (err error) {
	defer live.Wrap(&err, errSerializer)
	session.Values = make(valueMap)
	if _, isGob := f.store.serializer.(GobSerializer); !isGob {
		b = bytes.Clone(b) // a serializer may keep what it is given
	}
	err = f.store.serializer.Deserialize(b, session)
	if session.Values == nil {
		session.Values = make(valueMap)
	}
	return err
}

// session returns a session that has the Values that b says, and nothing else.
func (f form) session(b []byte) (*sessions.Session, error) {
	session := f.store.blank(f.name)
	session.IsNew = false
	return session, f.decode(b, session)
}

func (f form) values(b []byte) (valueMap, error) {
	session, err := f.session(b)
	if err != nil {
		return nil, err
	}
	return session.Values, nil
}

func (f form) Attributes(value []byte) (map[string]any, error) {
	all, err := f.values(value)
	if err != nil {
		return nil, err
	}
	return byName(all), nil
}

// Inspect is of a session that the original package has stored, which does not
// say when it was used.
func (f form) Inspect(value []byte) (live.Info, error) {
	all, err := f.values(value)
	if err != nil {
		return live.Info{}, err
	}
	return live.Info{Names: slices.Collect(maps.Keys(byName(all)))}, nil
}

func (f form) Merge(into, from []byte, take func(name string) bool) ([]byte, error) {
	return live.Merge(into, from, func(key any) bool { return take(nameOf(key)) }, f.values, f.encodeValues)
}

func (f form) encodeValues(all valueMap) ([]byte, error) {
	session := f.store.blank(f.name)
	session.IsNew, session.Values = false, all
	return f.encode(session, session.ID)
}

// Rename has nothing to do: the bytes do not hold the id.
func (f form) Rename(value []byte, _ string) ([]byte, error) { return value, nil }

// only returns a session without the attributes that keep does not want.
func (f form) only(value []byte, keep func(name string) bool) ([]byte, error) {
	return f.Merge(nil, value, keep)
}

// scalarsOf returns values by name if none of them can be changed in place,
// otherwise nil.
func scalarsOf(all valueMap) map[string]any {
	if !values.AreScalars(all) {
		return nil
	}
	return byName(all)
}

// isExact reports whether a session's bytes certainly say what its Values are, and
// none of them can be changed in place.
func (f form) isExact(all valueMap) bool {
	_, isGob := f.store.serializer.(GobSerializer)
	for key := range all {
		_, isText := key.(string)
		isGob = isGob && isText
	}
	return isGob && scalargob.AreScalars(all)
}

// byName returns values by the names of their keys. Where several keys have one
// name, as several NaN have, it has their values in an order of their own.
func byName(all valueMap) map[string]any {
	named := make(map[string]any, len(all))
	var several map[string][]any
	for k, v := range all {
		name := nameOf(k)
		if other, ok := named[name]; ok {
			if several == nil {
				several = make(map[string][]any)
			}
			if several[name] == nil {
				several[name] = []any{other}
			}
			several[name] = append(several[name], v)
		}
		named[name] = v
	}
	for name, all := range several {
		slices.SortFunc(all, func(a, b any) int { return cmp.Compare(fmt.Sprintf("%#v", a), fmt.Sprintf("%#v", b)) })
		named[name] = all
	}
	return named
}
