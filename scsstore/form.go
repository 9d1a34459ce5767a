package scsstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/live"
)

// A form knows what the bytes of sessions mean. It is a live.Form.
type form struct{ codec scs.Codec }

var _ live.Form = form{}

// A data is what scs keeps of a session.
type data struct {
	deadline time.Time
	values   map[string]any
}

// The attributes of a session are its values and its deadline.
const deadlineName = "deadline"

func nameOf(key string) string { return "key " + key }

func (d data) attributes() map[string]any {
	all := map[string]any{deadlineName: d.deadline.UTC()}
	for k, v := range d.values {
		all[nameOf(k)] = v
	}
	return all
}

func (f form) encode(d data) (b []byte, err error) {
	defer recovered(&err)
	if b, err = f.codec.Encode(d.deadline, d.values); err != nil {
		return nil, fmt.Errorf("%w: %w", errCodec, err)
	}
	return b, nil
}

func (f form) decode(b []byte) (d data, err error) {
	defer recovered(&err)
	// A codec may keep what it is given.
	if d.deadline, d.values, err = f.codec.Decode(bytes.Clone(b)); err != nil {
		return data{}, fmt.Errorf("%w: %w", errCodec, err)
	}
	if d.values == nil {
		d.values = make(map[string]any)
	}
	return d, nil
}

// recovered makes a panic of the codec an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: panic: %v", errCodec, p)
	}
}

func (f form) Attributes(value []byte) (map[string]any, error) {
	d, err := f.decode(value)
	if err != nil {
		return nil, err
	}
	return d.attributes(), nil
}

// Inspect is of bytes that no store of this package has written.
func (form) Inspect([]byte) (live.Info, error) { return live.Info{}, errNoSession }

func (f form) Merge(into, from []byte, take func(name string) bool) ([]byte, error) {
	merged, err := f.decode(into)
	theirs, ferr := f.decode(from)
	if err = errors.Join(err, ferr); err != nil {
		return nil, err
	}
	taken := func(key string, _ any) bool { return take(nameOf(key)) }
	maps.DeleteFunc(merged.values, taken)
	for k, v := range theirs.values {
		if taken(k, v) {
			merged.values[k] = v
		}
	}
	if take(deadlineName) {
		merged.deadline = theirs.deadline
	}
	return f.encode(merged)
}

// Rename has nothing to do: the bytes do not hold the token.
func (form) Rename(value []byte, _ string) ([]byte, error) { return value, nil }
