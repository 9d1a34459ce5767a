// Package values compares the named values of sessions.
package values

import (
	"reflect"
	"time"
)

// AreScalars reports whether every value in m can only be replaced, and not be
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

// Changes returns the names of the values that are new or other ones in now, and
// of those that are not there any more.
func Changes[K comparable](was, now map[K]any) (set, deleted []K) {
	for k, v := range now {
		if before, ok := was[k]; !ok || !Equal(before, v) {
			set = append(set, k)
		}
	}
	if len(was)+len(set) > len(now) {
		for k := range was {
			if _, ok := now[k]; !ok {
				deleted = append(deleted, k)
			}
		}
	}
	return set, deleted
}

// Equal reports whether two values are the same, looking into them. NaN is the
// same as NaN.
func Equal(a, b any) bool {
	if isScalar(a) && isScalar(b) && a == b {
		return true
	}
	return reflect.DeepEqual(a, b) || deepEqual(reflect.ValueOf(a), reflect.ValueOf(b), nil)
}
