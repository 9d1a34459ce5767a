package values

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type m = map[string]any

func TestChangesAreWhatWasSetAndWhatWasDeleted(t *testing.T) {
	nan := math.NaN()
	for name, test := range map[string]struct {
		was, now     m
		set, deleted []string
	}{
		"nothing":                       {nil, nil, nil, nil},
		"nothing changed":               {m{"a": 1}, m{"a": 1}, nil, nil},
		"changed":                       {m{"a": 1, "b": 1}, m{"a": 2, "b": 1}, []string{"a"}, nil},
		"added":                         {m{"a": 1}, m{"a": 1, "b": 1}, []string{"b"}, nil},
		"added to nothing":              {nil, m{"a": 1}, []string{"a"}, nil},
		"deleted":                       {m{"a": 1, "b": 1}, m{"b": 1}, nil, []string{"a"}},
		"all deleted":                   {m{"a": 1}, nil, nil, []string{"a"}},
		"one for another":               {m{"a": 1}, m{"b": 1}, []string{"b"}, []string{"a"}},
		"two for one":                   {m{"a": 1}, m{"b": 1, "c": 1}, []string{"b", "c"}, []string{"a"}},
		"changed and deleted":           {m{"a": 1, "b": 1}, m{"a": 2}, []string{"a"}, []string{"b"}},
		"another type":                  {m{"a": 1}, m{"a": int64(1)}, []string{"a"}, nil},
		"set to nil":                    {m{"a": 1}, m{"a": nil}, []string{"a"}, nil},
		"nil is not missing":            {m{}, m{"a": nil}, []string{"a"}, nil},
		"missing is not nil":            {m{"a": nil}, m{}, nil, []string{"a"}},
		"inside of a value":             {m{"a": []int{1}}, m{"a": []int{1, 2}}, []string{"a"}, nil},
		"NaN":                           {m{"a": nan}, m{"a": nan}, nil, nil},
		"NaN, and then a number":        {m{"a": nan}, m{"a": 1.0}, []string{"a"}, nil},
		"a number, and then NaN":        {m{"a": 1.0}, m{"a": nan}, []string{"a"}, nil},
		"a value that holds NaN":        {m{"a": []float64{1, nan}}, m{"a": []float64{1, nan}}, nil, nil},
		"a value that holds it no more": {m{"a": []float64{1, nan}}, m{"a": []float64{1, 2}}, []string{"a"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			set, deleted := Changes(test.was, test.now)
			slices.Sort(set)
			slices.Sort(deleted)
			if !slices.Equal(set, test.set) || !slices.Equal(deleted, test.deleted) {
				t.Errorf("got %v and %v; want %v and %v", set, deleted, test.set, test.deleted)
			}
		})
	}
}

// Whatever changed: who does to the one map what is told has the other.
func TestChangesTurnTheOneIntoTheOther(t *testing.T) {
	values := rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c", "d"}), rapid.IntRange(0, 2))
	rapid.Check(t, func(t *rapid.T) {
		was, now := m{}, m{}
		for k, v := range values.Draw(t, "was") {
			was[k] = v
		}
		for k, v := range values.Draw(t, "now") {
			now[k] = v
		}
		set, deleted := Changes(was, now)
		for _, k := range set {
			if before, ok := was[k]; ok && before == now[k] {
				t.Fatalf("%s was not changed", k)
			}
			was[k] = now[k]
		}
		for _, k := range deleted {
			if _, ok := was[k]; !ok {
				t.Fatalf("%s was not there", k)
			}
			delete(was, k)
		}
		if !Equal(was, now) {
			t.Fatalf("got %v, want %v", was, now)
		}
	})
}

func TestScalarsAreWhatCanOnlyBeReplaced(t *testing.T) {
	type named string
	for _, v := range []any{"a", named("a"), 1, int8(1), uint8(1), uintptr(1), 1.5, float32(1.5), true, 2i, time.Now(), math.NaN()} {
		if !AreScalars(m{"a": v}) {
			t.Errorf("%T is not taken for a scalar", v)
		}
	}
	for _, v := range []any{[]int{1}, [1]int{1}, m{}, new(int), struct{ p *int }{}, nil} {
		if AreScalars(m{"a": v, "b": 1}) {
			t.Errorf("%T is taken for a scalar", v)
		}
	}
	if !AreScalars(m{}) || !AreScalars[string](nil) {
		t.Error("nothing is all scalars")
	}
}

type node struct {
	Next  *node
	Value float64
}

func ring(values ...float64) *node {
	first := &node{Value: values[0]}
	last := first
	for _, v := range values[1:] {
		last.Next = &node{Value: v}
		last = last.Next
	}
	last.Next = first
	return first
}

func TestValuesAreComparedByWhatIsInThem(t *testing.T) {
	nan := math.NaN()
	now := time.Now()
	type pair struct {
		F float64
		S string
		p *int
	}
	type deep struct {
		M map[string][]any
		A [2]any
	}
	deepOf := func(f float64, s any) deep {
		return deep{map[string][]any{"x": {f, nil, s}}, [2]any{f, &pair{F: f}}}
	}
	for name, test := range map[string]struct {
		a, b any
		want bool
	}{
		"strings":                    {"a", "a", true},
		"other strings":              {"a", "b", false},
		"other types":                {1, int64(1), false},
		"nils":                       {nil, nil, true},
		"nil and something":          {nil, 0, false},
		"something and nil":          {0, nil, false},
		"times":                      {now, now, true},
		"other times":                {now, now.Add(1), false},
		"a slice":                    {[]int{1}, []int{1}, true},
		"another slice":              {[]int{1}, []int{2}, false},
		"a longer slice":             {[]float64{nan}, []float64{nan, nan}, false},
		"nil and an empty slice":     {[]int(nil), []int{}, false},
		"NaN":                        {nan, nan, true},
		"NaN, other bits":            {nan, math.Float64frombits(math.Float64bits(nan) ^ 1), true},
		"NaN of 32 bits":             {float32(nan), float32(nan), true},
		"complex NaN":                {complex(nan, 1), complex(nan, 1), true},
		"complex NaN and a number":   {complex(nan, 1), complex(1, 1), false},
		"complex of 32 bits":         {complex64(complex(nan, 1)), complex64(complex(nan, 1)), true},
		"NaN and zero":               {nan, 0.0, false},
		"zeros":                      {0.0, math.Copysign(0, -1), true},
		"a struct with NaN":          {pair{nan, "s", nil}, pair{nan, "s", nil}, true},
		"another struct with NaN":    {pair{nan, "s", nil}, pair{nan, "t", nil}, false},
		"an unexported field":        {pair{nan, "s", new(int)}, pair{nan, "s", new(int)}, true},
		"an array with NaN":          {[2]float64{nan, 1}, [2]float64{nan, 1}, true},
		"another array with NaN":     {[2]float64{nan, 1}, [2]float64{nan, 2}, false},
		"a map with NaN":             {m{"a": nan}, m{"a": nan}, true},
		"a map with another key":     {m{"a": nan}, m{"b": nan}, false},
		"a map with more":            {m{"a": nan}, m{"a": nan, "b": 1}, false},
		"a map with another value":   {m{"a": nan, "b": 1}, m{"a": nan, "b": 2}, false},
		"a map with nil":             {m{"a": nan, "b": nil}, m{"a": nan, "b": nil}, true},
		"a map with nil and a value": {m{"a": nan, "b": nil}, m{"a": nan, "b": 1}, false},
		"a pointer to NaN":           {&nan, &[]float64{math.NaN()}[0], true},
		"nil pointers":               {[]any{nan, (*int)(nil)}, []any{nan, (*int)(nil)}, true},
		"a nil pointer":              {[]any{nan, (*int)(nil)}, []any{nan, new(int)}, false},
		"deep":                       {deepOf(nan, "s"), deepOf(nan, "s"), true},
		"deep, another":              {deepOf(nan, "s"), deepOf(nan, "t"), false},
		"deep, another type":         {deepOf(nan, 1), deepOf(nan, int8(1)), false},
		"a ring with NaN":            {ring(1, nan, 2), ring(1, nan, 2), true},
		"another ring with NaN":      {ring(1, nan, 2), ring(1, nan, 3), false},
		"booleans beside NaN":        {[]any{nan, true}, []any{nan, false}, false},
		"functions":                  {[]any{nan, func() {}}, []any{nan, func() {}}, false},
	} {
		if got := Equal(test.a, test.b); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
		if got := Equal(test.b, test.a); got != test.want {
			t.Errorf("%s, the other way: got %v, want %v", name, got, test.want)
		}
	}
}

func TestAValueIsTheSameAsItself(t *testing.T) {
	r := ring(math.NaN(), 1)
	for _, v := range []any{r, m{"a": r, "b": math.NaN()}, []any{math.NaN(), []any{math.NaN()}}} {
		if !Equal(v, v) {
			t.Errorf("%T is not the same as itself", v)
		}
	}
}
