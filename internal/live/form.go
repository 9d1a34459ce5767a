package live

import (
	"fmt"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/values"
)

// An Info says what is in the bytes of a session.
type Info = tiered.Info

// A Form knows what the bytes of an ecosystem's sessions mean.
type Form interface {
	tiered.Form

	// Attributes returns what is in the bytes of a session, by name. Nobody
	// changes them.
	Attributes(value []byte) (map[string]any, error)
}

// Merge is a Form's Merge where the bytes of a session say nothing but values by key.
// Into may be nil, which has none.
func Merge[K comparable](into, from []byte, take func(key K) bool,
	decode func([]byte) (map[K]any, error), encode func(map[K]any) ([]byte, error),
) ([]byte, error) {
	theirs, err := decode(from)
	var ours map[K]any
	if into != nil && err == nil {
		ours, err = decode(into)
	}
	if err != nil {
		return nil, err
	}
	return encode(values.Merge(ours, theirs, take))
}

// Wrap is to be deferred by what calls the app's code, such as a codec. It has an
// error wrap kind as well, and makes a panic such an error.
func Wrap(err *error, kind error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: panic: %v", kind, p)
	} else if *err != nil {
		*err = fmt.Errorf("%w: %w", kind, *err)
	}
}
