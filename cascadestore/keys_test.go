package cascadestore_test

import (
	"encoding/gob"
	"encoding/hex"
	"math"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
)

// Keys that are not strings, and keys and values that are not equal to
// themselves.

type (
	point   struct{ X, Y int }
	nested  struct{ At *point }
	colour  string
	anyPair struct{ A, B any }
)

func init() {
	gob.Register(point{})
	gob.Register(&nested{})
	gob.Register(colour(""))
	gob.Register(anyPair{})
	gob.Register(time.Time{})
	gob.Register([2]int{})
}

// keysOfAllKinds returns keys that are all different, new ones in every call.
func keysOfAllKinds() []any {
	return []any{
		"1", colour("1"), 1, int8(1), uint(1), 1.0, true, complex(1, 2),
		point{1, 2}, point{1, 3}, &nested{&point{1, 2}}, &nested{&point{1, 3}}, [2]int{1, 2},
		anyPair{1, "x"}, anyPair{"1", "x"}, anyPair{nil, colour("x")},
		time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC),
		math.NaN(), math.Inf(1), 0.0,
	}
}

// find returns the value of the key that looks like key.
func find(v values, key any) (found []any) {
	for k, v := range v {
		f, isFloat := k.(float64)
		g, isNaN := key.(float64)
		if reflect.DeepEqual(k, key) || isFloat && isNaN && f != f && g != g {
			found = append(found, v)
		}
	}
	return found
}

func TestKeysOfAllKindsAreMergedOneByOne(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for i, key := range keysOfAllKinds() {
			all := values{}
			for _, k := range keysOfAllKinds() {
				all[k] = 0
			}
			b := a.login(t, all)
			if v := b.save(nil); len(v.Request.Calls()) != 1 {
				t.Fatalf("a visit that changes nothing makes calls %v, want one", v.Request.Calls())
			}
			other := keysOfAllKinds()[(i+1)%len(all)]
			// Both load, then each changes a key, this one last.
			err := b.use(func(_ *http.Request, s *sessions.Session) {
				b.clone().mustSet(t, other, 2)
				setKey(s, key, 1)
			})
			if err != nil {
				t.Fatalf("key %T: %v", key, err)
			}
			b.expectKeys(t, len(all), map[any]any{key: 1, other: 2})
			// The first one is deleted while the other one is changed again.
			err = b.use(func(_ *http.Request, s *sessions.Session) {
				b.clone().mustSet(t, other, 3)
				deleteKey(s, key)
			})
			if err != nil {
				t.Fatalf("key %T: %v", key, err)
			}
			b.expectKeys(t, len(all)-1, map[any]any{other: 3})
			if got, _ := b.read(); len(find(got, key)) > 0 {
				t.Errorf("key %T %v: still there: %v", key, key, got)
			}
		}
	})
}

func (b *browser) mustSet(t testing.TB, key, value any) {
	t.Helper()
	if err := b.use(func(_ *http.Request, s *sessions.Session) { setKey(s, key, value) }); err != nil {
		t.Fatal(err)
	}
}

func (b *browser) expectKeys(t testing.TB, n int, want map[any]any) {
	t.Helper()
	got, err := b.read()
	if err != nil || len(got) != n {
		t.Errorf("got %d keys, %v, %v; want %d", len(got), err, got, n)
	}
	for k, v := range want {
		if found := find(got, k); len(found) != 1 || found[0] != v {
			t.Errorf("key %T %v: got %v, want %v", k, k, found, v)
		}
	}
}

// setKey replaces the value of the key that looks like key.
func setKey(s *sessions.Session, key, value any) {
	deleteKey(s, key)
	s.Values[key] = value
}

func deleteKey(s *sessions.Session, key any) {
	left := values{} // NaN cannot be deleted
	for k, v := range s.Values {
		if len(find(values{k: v}, key)) == 0 {
			left[k] = v
		}
	}
	s.Values = left
}

func TestManyKeysThatAreNaNAreKept(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		v := values{"n": 0}
		for i := range 3 {
			v[math.NaN()] = i
		}
		b := a.login(t, v)
		for n := 1; n < 4; n++ {
			err := b.use(func(_ *http.Request, s *sessions.Session) {
				b.clone().mustChange(t, values{"m": n})
				s.Values["n"] = n
			})
			if err != nil {
				t.Fatal(err)
			}
			b.expectKeys(t, 5, values{"n": n, "m": n})
		}
	})
}

func TestAChangeOfOneOfManyKeysThatAreNaNIsSaved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for range 10 { // which one is found first is random
			b := a.login(t, values{math.NaN(): 0, math.NaN(): 0, math.NaN(): 0})
			err := b.use(func(_ *http.Request, s *sessions.Session) {
				s.Values = values{math.NaN(): 0, math.NaN(): 0, math.NaN(): 9}
			})
			got, rerr := b.read()
			if found := find(got, math.NaN()); err != nil || rerr != nil || len(found) != 3 || !slices.Contains(found, 9) {
				t.Fatalf("got %v, %v, %v; want a 9 and two 0", found, err, rerr)
			}
		}
	})
}

func TestAValueThatIsNaNIsNoChange(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"nan": math.NaN(), "in a list": []any{math.NaN(), 1}, "in a point": anyPair{math.NaN(), 1}})
		if v := b.save(nil); len(v.Request.Calls()) != 1 {
			t.Errorf("a visit that changes nothing makes calls %v, want one", v.Request.Calls())
		}
		b.mustChange(t, values{"nan": 1.5})
		if got, err := b.read(); err != nil || got["nan"] != 1.5 {
			t.Errorf("got %v, %v; want nan=1.5", got, err)
		}
	})
}

// A key whose methods panic.
type panickingKey struct{ N int }

func (k panickingKey) MarshalText() ([]byte, error) { panic("MarshalText") }

// Earlier versions told keys apart by a hash of 64 bits, for which a visitor who
// may name a key finds another one at no cost.
func TestAKeyThatAVisitorNamesUndoesNoOther(t *testing.T) {
	name, err := hex.DecodeString("6e6f74653a6234626d756c3a010e020d05060e050c7e051007") // "note:…"
	if err != nil {
		t.Fatal(err)
	}
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"user": "bob"})
		err := b.use(func(_ *http.Request, s *sessions.Session) {
			b.clone().mustChange(t, values{"coupon_used": true})
			s.Values[string(name)] = "x"
		})
		if err != nil {
			t.Error(err)
		}
		b.expect(t, backends, values{"user": "bob", "coupon_used": true, string(name): "x"})
	})
}

func TestAKeyWhoseMethodsPanicIsAKeyAllTheSame(t *testing.T) {
	gob.Register(panickingKey{}) // gob does not ask MarshalText
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		b.mustChange(t, values{panickingKey{1}: 1, panickingKey{2}: 2})
		b.mustChange(t, values{panickingKey{1}: nil})
		b.expect(t, backends, values{"n": 0, panickingKey{2}: 2})
	})
}
