package values

import (
	"reflect"
	"testing"
	"time"
)

type m = map[string]any

func TestMergeKeepsWhatBothChanged(t *testing.T) {
	for name, test := range map[string]struct{ base, mine, theirs, want m }{
		"nothing changed":           {m{"a": 1}, m{"a": 1}, m{"a": 1}, m{"a": 1}},
		"I changed":                 {m{"a": 1}, m{"a": 2}, m{"a": 1}, m{"a": 2}},
		"they changed":              {m{"a": 1}, m{"a": 1}, m{"a": 2}, m{"a": 2}},
		"both changed one":          {m{"a": 1}, m{"a": 2}, m{"a": 3}, m{"a": 2}},
		"each another":              {m{"a": 1, "b": 1}, m{"a": 2, "b": 1}, m{"a": 1, "b": 2}, m{"a": 2, "b": 2}},
		"I deleted":                 {m{"a": 1, "b": 1}, m{"b": 1}, m{"a": 1, "b": 2}, m{"b": 2}},
		"they deleted":              {m{"a": 1}, m{"a": 1}, m{}, m{}},
		"I deleted, they changed":   {m{"a": 1}, m{}, m{"a": 2}, m{}},
		"I changed, they deleted":   {m{"a": 1}, m{"a": 2}, m{}, m{"a": 2}},
		"each added":                {m{}, m{"a": 1}, m{"b": 1}, m{"a": 1, "b": 1}},
		"no base":                   {nil, m{"a": 1}, m{"a": 2, "b": 2}, m{"a": 1, "b": 2}},
		"inside of a value":         {m{"a": []int{1}}, m{"a": []int{1, 2}}, m{"a": []int{1}}, m{"a": []int{1, 2}}},
		"inside of a value, theirs": {m{"a": []int{1}}, m{"a": []int{1}}, m{"a": []int{2}}, m{"a": []int{2}}},
		"another type":              {m{"a": 1}, m{"a": int64(1)}, m{"a": 1}, m{"a": int64(1)}},
	} {
		Merge(test.base, test.mine, test.theirs)
		if !reflect.DeepEqual(test.theirs, test.want) {
			t.Errorf("%s: got %v, want %v", name, test.theirs, test.want)
		}
	}
}

func TestScalarsAreWhatCanOnlyBeReplaced(t *testing.T) {
	type named string
	for _, v := range []any{"a", named("a"), 1, uint8(1), 1.5, true, 2i, time.Now()} {
		in := m{"a": v}
		if !AreScalars(in) || !EqualScalars(in, m{"a": v}) || EqualScalars(in, m{"a": []int{1}}) || EqualScalars(in, m{"a": nil}) || EqualScalars(in, m{}) {
			t.Errorf("%T is not taken for a scalar, or not compared as one", v)
		}
	}
	for _, v := range []any{[]int{1}, m{}, new(int), struct{ p *int }{}, nil} {
		if AreScalars(m{"a": v}) {
			t.Errorf("%T is taken for a scalar", v)
		}
	}
	if !AreScalars(m{}) || !AreScalars[string](nil) {
		t.Error("nothing is all scalars")
	}
}

func TestEqualLooksIntoTheValues(t *testing.T) {
	for name, test := range map[string]struct {
		a, b m
		want bool
	}{
		"nothing":                {nil, m{}, true},
		"nothing, the other way": {m{}, nil, true},
		"the same":               {m{"a": []int{1}}, m{"a": []int{1}}, true},
		"one is empty":           {m{"a": []int{1}}, m{}, false},
		"another value inside":   {m{"a": []int{1}}, m{"a": []int{2}}, false},
		"another key":            {m{"a": 1}, m{"b": 1}, false},
	} {
		if got := Equal(test.a, test.b); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
