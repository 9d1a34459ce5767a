package values

import (
	"bytes"
	"math"
	"math/cmplx"
	"reflect"
	"slices"
	"time"
	"unsafe"
)

// Equal reports whether a and b have the same type and the same content, in
// their unexported fields as well. It follows pointers, also in a circle, and
// calls no methods. NaN equals NaN, a nil slice or map does not equal an empty
// one, and a function equals another only if both are nil.
//
// Keys of maps that == does not match, such as NaN, pointers and times in a zone
// that was made for them, are compared by their content. A map with more than
// 1,000 of them equals only itself.
func Equal(a, b any) bool {
	if isScalar(a) && isScalar(b) && a == b {
		return true
	}
	return new(comparison).equal(reflect.ValueOf(a), reflect.ValueOf(b))
}

// A visit is the comparison of two references of one type. Only with the length
// does an address name a slice: those that begin at one element of an array
// share it, and so do all slices of no elements, or of elements of no size. The
// pointers keep what they point to where it is.
type visit struct {
	a, b unsafe.Pointer
	len  int
	typ  reflect.Type
}

// A comparison has seen the references whose comparison has begun. Those that it
// has left are equal: it ends with the first difference.
type comparison struct {
	seen  map[visit]bool
	outer *comparison // nil, or what this one is an attempt of
}

// begin reports whether v has to be compared, and has not been begun before.
func (c *comparison) begin(v visit) bool {
	for seen := c; seen != nil; seen = seen.outer {
		if seen.seen[v] {
			return false
		}
	}
	if c.seen == nil {
		c.seen = make(map[visit]bool)
	}
	c.seen[v] = true
	return true
}

func (c *comparison) equal(a, b reflect.Value) bool {
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	if a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case reflect.Float32, reflect.Float64:
		x, y := a.Float(), b.Float()
		return x == y || math.IsNaN(x) && math.IsNaN(y)
	case reflect.Complex64, reflect.Complex128:
		x, y := a.Complex(), b.Complex()
		return x == y || cmplx.IsNaN(x) && cmplx.IsNaN(y)
	case reflect.Func:
		return a.IsNil() && b.IsNil()
	case reflect.Interface:
		return c.equal(a.Elem(), b.Elem())
	case reflect.Array:
		return c.equalElements(a, b)
	case reflect.Struct:
		for i := range a.NumField() {
			if !c.equal(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Map, reflect.Slice, reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
		return c.equalReferences(a, b)
	}
	return a.Equal(b) // strings, numbers, booleans, channels
}

func (c *comparison) equalReferences(a, b reflect.Value) bool {
	v := visit{a: a.UnsafePointer(), b: b.UnsafePointer(), typ: a.Type()}
	if a.Kind() != reflect.Pointer {
		if v.len = a.Len(); v.len != b.Len() {
			return false
		}
	}
	if v.a == v.b || !c.begin(v) {
		return true
	}
	switch a.Kind() {
	case reflect.Pointer:
		return c.equal(a.Elem(), b.Elem())
	case reflect.Slice:
		return c.equalElements(a, b)
	}
	return c.equalMaps(a, b)
}

// equalElements compares slices or arrays of one length.
func (c *comparison) equalElements(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Uint8 {
		return bytes.Equal(a.Bytes(), b.Bytes())
	}
	for i := range a.Len() {
		if !c.equal(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

// equalMaps compares maps of one length.
func (c *comparison) equalMaps(a, b reflect.Value) bool {
	var left, right []entry // whose keys the other map does not have
	for it := a.MapRange(); it.Next(); {
		if other := b.MapIndex(it.Key()); !other.IsValid() {
			left = append(left, entry{it.Key(), it.Value()})
		} else if !c.equal(it.Value(), other) {
			return false
		}
	}
	if len(left) == 0 {
		return true
	}
	for it := b.MapRange(); it.Next(); {
		if !a.MapIndex(it.Key()).IsValid() {
			right = append(right, entry{it.Key(), it.Value()})
		}
	}
	return len(left) <= maxUnmatched && c.equalEntries(left, right)
}

// maxUnmatched limits equalEntries, whose time grows with the square of the
// number of entries.
const maxUnmatched = 1000

type entry struct{ key, value reflect.Value }

// equalEntries reports whether the entries, as many on the left as on the right,
// are the same in some order.
func (c *comparison) equalEntries(left, right []entry) bool {
	for _, e := range left {
		i := slices.IndexFunc(right, func(f entry) bool {
			attempt := comparison{outer: c} // what it has seen is equal only if it succeeds
			return attempt.equal(e.key, f.key) && attempt.equal(e.value, f.value)
		})
		if i < 0 {
			return false
		}
		right = slices.Delete(right, i, i+1)
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
