package scsstore

import (
	"bytes"
	"strings"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/live"
)

// A form knows what the bytes of sessions mean. It is a live.Form. A session's
// attributes are its values and its deadline.
type form struct{ codec scs.Codec }

var _ live.Form = form{}

const (
	deadlineName = "deadline"
	valuePrefix  = "key " // of a value's name
)

func (f form) Attributes(value []byte) (attrs map[string]any, err error) {
	defer live.Wrap(&err, errCodec)
	// A codec may keep what it is given.
	deadline, all, err := f.codec.Decode(bytes.Clone(value))
	if err != nil {
		return nil, err
	}
	attrs = map[string]any{deadlineName: deadline.UTC()}
	for key, v := range all {
		attrs[valuePrefix+key] = v
	}
	return attrs, nil
}

// encode is the inverse of Attributes.
func (f form) encode(attrs map[string]any) (value []byte, err error) {
	defer live.Wrap(&err, errCodec)
	all := make(map[string]any, len(attrs))
	for name, v := range attrs {
		if key, ok := strings.CutPrefix(name, valuePrefix); ok {
			all[key] = v
		}
	}
	deadline, _ := attrs[deadlineName].(time.Time)
	return f.codec.Encode(deadline, all)
}

// Inspect is of bytes that no store of this package has written.
func (form) Inspect([]byte) (live.Info, error) { return live.Info{}, errNoSession }

func (f form) Merge(into, from []byte, take func(name string) bool) ([]byte, error) {
	return live.Merge(into, from, take, f.Attributes, f.encode)
}

// Rename has nothing to do: the bytes do not hold the token.
func (form) Rename(value []byte, _ string) ([]byte, error) { return value, nil }
