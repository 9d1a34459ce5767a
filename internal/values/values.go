// Package values compares and merges the named values of sessions.
package values

import (
	"maps"
	"reflect"
	"time"
)

// AreScalars tells whether every value in m can only be replaced, and not be
// changed in place.
func AreScalars[K comparable](m map[K]any) bool {
	for _, v := range m {
		if !isScalar(v) {
			return false
		}
	}
	return true
}

func isScalar(v any) bool {
	if _, ok := v.(time.Time); ok {
		return true
	}
	switch reflect.ValueOf(v).Kind() {
	case reflect.Bool, reflect.String,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return true
	}
	return false
}

// EqualScalars is Equal for a first map of which AreScalars is true.
func EqualScalars[K comparable](scalars, now map[K]any) bool {
	// A scalar can be compared; where now holds what cannot, the types differ.
	return maps.EqualFunc(scalars, now, func(a, b any) bool { return a == b })
}

// Equal tells whether two maps hold the same, looking into the values.
func Equal[K comparable](a, b map[K]any) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

// Merge applies to theirs what distinguishes mine from base: values that were
// set to something else, and those that were deleted.
func Merge[K comparable](base, mine, theirs map[K]any) {
	for k, v := range mine {
		if was, ok := base[k]; !ok || !reflect.DeepEqual(v, was) {
			theirs[k] = v
		}
	}
	for k := range base {
		if _, ok := mine[k]; !ok {
			delete(theirs, k)
		}
	}
}
