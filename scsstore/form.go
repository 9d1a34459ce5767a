package scsstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
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
	defer recovered(&err)
	// A codec may keep what it is given.
	deadline, values, err := f.codec.Decode(bytes.Clone(value))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCodec, err)
	}
	attrs = map[string]any{deadlineName: deadline.UTC()}
	for key, v := range values {
		attrs[valuePrefix+key] = v
	}
	return attrs, nil
}

// encode is the inverse of Attributes.
func (f form) encode(attrs map[string]any) (value []byte, err error) {
	defer recovered(&err)
	values := make(map[string]any, len(attrs))
	for name, v := range attrs {
		if key, ok := strings.CutPrefix(name, valuePrefix); ok {
			values[key] = v
		}
	}
	if value, err = f.codec.Encode(deadlineOf(attrs), values); err != nil {
		return nil, fmt.Errorf("%w: %w", errCodec, err)
	}
	return value, nil
}

func deadlineOf(attrs map[string]any) time.Time {
	deadline, _ := attrs[deadlineName].(time.Time)
	return deadline
}

// recovered makes a panic of the codec an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: panic: %v", errCodec, p)
	}
}

// Inspect is of bytes that no store of this package has written.
func (form) Inspect([]byte) (live.Info, error) { return live.Info{}, errNoSession }

func (f form) Merge(into, from []byte, take func(name string) bool) ([]byte, error) {
	merged, err := f.Attributes(into)
	theirs, ferr := f.Attributes(from)
	if err = errors.Join(err, ferr); err != nil {
		return nil, err
	}
	maps.DeleteFunc(merged, func(name string, _ any) bool { return take(name) })
	for name, v := range theirs {
		if take(name) {
			merged[name] = v
		}
	}
	return f.encode(merged)
}

// Rename has nothing to do: the bytes do not hold the token.
func (form) Rename(value []byte, _ string) ([]byte, error) { return value, nil }
