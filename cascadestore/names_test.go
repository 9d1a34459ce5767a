package cascadestore

import (
	"math"
	v1 "math/rand"
	v2 "math/rand/v2"
	"reflect"
	"testing"
	"time"
)

type (
	boxOf[T any]   struct{ V T }
	alikeOf[T any] struct{ V T }
)

// keysWith returns keys of all kinds of types that T is a part of.
func keysWith[T any]() []any {
	var zero T
	return []any{
		zero, &zero, [1]T{}, [2]T{}, boxOf[T]{}, boxOf[*T]{}, alikeOf[T]{}, boxOf[boxOf[T]]{}, [1]any{zero},
		struct{ A T }{}, struct{ B T }{}, struct{ a T }{}, struct{ b T }{}, struct{ A, B T }{}, struct {
			A T `json:"a"`
		}{}, struct {
			A T `json:"b"`
		}{}, struct{ A boxOf[T] }{},
		(*[]T)(nil), (*map[string]T)(nil), (*map[*T]string)(nil), (*map[string]*T)(nil), (**T)(nil), new(*T),
		(chan T)(nil), (chan<- T)(nil), (<-chan T)(nil), (chan chan<- T)(nil), (chan<- chan T)(nil), (chan (<-chan T))(nil),
		(*func(T))(nil), (*func(T, T))(nil), (*func([]T))(nil), (*func(...T))(nil), (*func() T)(nil), (*func() (T, T))(nil), (*func(T) T)(nil),
		(*interface{ M(T) })(nil), (*interface{ N(T) })(nil), (*interface{ m(T) })(nil), (*interface{ M() T })(nil),
		(*interface {
			M(T)
			N()
		})(nil),
	}
}

func TestKeysOfDifferentTypesAreDifferentKeys(t *testing.T) {
	// Two packages named rand have a type Zipf each.
	keys := append(keysWith[v1.Zipf](), keysWith[v2.Zipf]()...)
	keys = append(keys,
		struct{ Zipf v1.Zipf }{}, struct{ v1.Zipf }{}, struct{ Zipf v2.Zipf }{}, struct{ v2.Zipf }{},
		(*interface{})(nil), (*error)(nil), (*interface{ Error() string })(nil))
	for _, path := range []string{"example.com/one/auth", "example.com/two/auth"} {
		typ := reflect.StructOf([]reflect.StructField{{Name: "key", PkgPath: path, Type: reflect.TypeOf(0)}})
		keys = append(keys, reflect.Zero(typ).Interface())
	}
	types := map[string]reflect.Type{}
	for _, key := range keys {
		name := nameOf(key)
		if other, ok := types[name]; ok {
			t.Errorf("a %v and a %v are one key, %q", other, reflect.TypeOf(key), name)
		}
		types[name] = reflect.TypeOf(key)
	}
}

// Sessions keep hashes of names.
func TestNamesOfKeysStayAsTheyAre(t *testing.T) {
	type pair struct{ A, b any }
	const here = "github.com/gaesession/gaesession/cascadestore."
	for want, key := range map[string]any{
		"nil":                                nil,
		"string a b":                         "a b",
		"int -5":                             -5,
		"float64 NaN":                        math.NaN(),
		"float64 0":                          math.Copysign(0, -1),
		`time.Duration 5`:                    time.Duration(5),
		"math/rand/v2.Zipf {}":               v2.Zipf{},
		"*math/rand.Zipf &{}":                &v1.Zipf{},
		"[2]int [1,2,]":                      [2]int{1, 2},
		here + "pair {int8 1,}":              pair{int8(1), 2},
		here + "boxOf[int] {1,}":             boxOf[int]{1},
		`struct{A int "";} {1,}`:             struct{ A int }{1},
		here + `pair {string "a",}`:          pair{"a", "b"},
		here + "boxOf[math/rand.Zipf] {{},}": boxOf[v1.Zipf]{},
	} {
		if got := nameOf(key); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestANameOfAStringIsCheap(t *testing.T) {
	var key any = "user"
	if n := testing.AllocsPerRun(100, func() { _ = nameOf(key) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}
