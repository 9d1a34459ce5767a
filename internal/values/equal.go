package values

import (
	"math"
	"math/cmplx"
	"reflect"
)

// A visit is a pair of references that is being compared: a value may contain
// itself.
type visit struct {
	a, b uintptr
	typ  reflect.Type
}

// deepEqual is reflect.DeepEqual, but for NaN.
func deepEqual(a, b reflect.Value, visited map[visit]bool) bool {
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	if a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case reflect.Map, reflect.Slice, reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		v := visit{a.Pointer(), b.Pointer(), a.Type()}
		if visited[v] {
			return true
		}
		if visited == nil {
			visited = make(map[visit]bool)
		}
		visited[v] = true
	}
	switch a.Kind() {
	case reflect.Float32, reflect.Float64:
		x, y := a.Float(), b.Float()
		return x == y || math.IsNaN(x) && math.IsNaN(y)
	case reflect.Complex64, reflect.Complex128:
		x, y := a.Complex(), b.Complex()
		return x == y || cmplx.IsNaN(x) && cmplx.IsNaN(y)
	case reflect.Interface, reflect.Pointer:
		return deepEqual(a.Elem(), b.Elem(), visited)
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !deepEqual(a.Index(i), b.Index(i), visited) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			if !deepEqual(a.Field(i), b.Field(i), visited) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for it := a.MapRange(); it.Next(); {
			other := b.MapIndex(it.Key())
			if !other.IsValid() || !deepEqual(it.Value(), other, visited) {
				return false
			}
		}
		return true
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		return false // no codec keeps them, and DeepEqual has found them unequal
	}
	return a.Equal(b) // strings, numbers and booleans
}
