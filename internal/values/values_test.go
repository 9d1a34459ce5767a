package values

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
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
	type outer struct {
		Inner struct{ N int }
		M     int
	}
	var x, y outer
	y.M = 1
	one, array, channel := ptr(1), [2]int{1, 2}, make(chan int)
	all, others := []any{"a", "b"}, []any{"a", "c"}
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
		"no functions":               {[]any{nan, (func())(nil)}, []any{nan, (func())(nil)}, true},
		"a channel":                  {[]any{nan, channel}, []any{nan, channel}, true},
		"channels":                   {[]any{nan, channel}, []any{nan, make(chan int)}, false},
		"bytes":                      {[]byte("a"), []byte("a"), true},
		"other bytes":                {[]byte("a"), []byte("b"), false},
		"an array of bytes":          {[1]byte{1}, [1]byte{2}, false},
		"unexported bytes":           {struct{ b []byte }{[]byte("a")}, struct{ b []byte }{[]byte("b")}, false},
		"times in other zones":       {time.Unix(5, 0).UTC(), time.Unix(5, 0).In(india()), false},

		// Slices that begin at one address.
		"a partition in place":           {[][]any{{}, {}}, [][]any{all[:0], all}, false},
		"a partition, half done":         {[][]any{{"a"}, {"a"}}, [][]any{all[:1], all}, false},
		"slices of one array":            {[][]any{{"a"}, {"a", "b"}}, [][]any{all[:1], all[:2]}, true},
		"slices of one array, another":   {[][]any{{"a"}, {"a", "c"}}, [][]any{all[:1], all[:2]}, false},
		"slices of two arrays":           {[][]any{all[:1], all}, [][]any{others[:1], others}, false},
		"slices of another capacity":     {[][]any{{"a"}, {"a"}}, [][]any{all[:1], all[:1:1]}, true},
		"an array's slice in interfaces": {[]any{[]any{}, []any{}}, []any{all[:0], all}, false},
		"elements without a size":        {[][]struct{}{{}, {{}}}, [][]struct{}{{}, {{}, {}}}, false},
		"as many without a size":         {[][]struct{}{{}, {{}}}, [][]struct{}{{}, {{}}}, true},

		// Pointers to one address.
		"pointers to nothing":              {[]any{new(struct{}), new(struct{})}, []any{new(struct{}), new(struct{})}, true},
		"pointers to nothing, of types":    {[]any{new(struct{}), new([0]int)}, []any{new(struct{}), new(struct{})}, false},
		"a struct and its first field":     {[]any{&x.Inner, &x}, []any{&y.Inner, &y}, false},
		"an array and its slice":           {[]any{array[:], &array}, []any{array[:], &[2]int{1, 3}}, false},
		"one string and another of it":     {[]string{"ab"[:1], "ab"}, []string{"ab"[:1], "ac"}, false},
		"one value at two places":          {[]*int{one, one}, []*int{new(int), new(int)}, false},
		"one value at two places, as two":  {[]*int{one, one}, []*int{ptr(1), ptr(1)}, true},
		"one value at two places, another": {[]*int{one, one}, []*int{ptr(1), ptr(2)}, false},

		// Keys that == does not match.
		"a NaN key":                        {map[float64]int{nan: 1}, map[float64]int{nan: 1}, true},
		"another value at a NaN key":       {map[float64]int{nan: 1}, map[float64]int{nan: 2}, false},
		"NaN keys":                         {nans(1, 2, 2), nans(2, 1, 2), true},
		"other values at NaN keys":         {nans(1, 2, 2), nans(1, 1, 2), false},
		"a NaN key and a number":           {map[float64]int{nan: 1}, map[float64]int{1: 1}, false},
		"a NaN key beside a number":        {map[float64]int{nan: 1, 1: 1}, map[float64]int{nan: 1, 1: 1}, true},
		"a NaN key beside another":         {map[float64]int{nan: 1, 1: 1}, map[float64]int{nan: 1, 1: 2}, false},
		"a pointer as a key":               {map[*int]int{one: 1}, map[*int]int{ptr(1): 1}, true},
		"another pointer as a key":         {map[*int]int{one: 1}, map[*int]int{ptr(2): 1}, false},
		"a time in a zone as a key":        {map[time.Time]int{time.Unix(5, 0).In(india()): 1}, map[time.Time]int{time.Unix(5, 0).In(india()): 1}, true},
		"another time in a zone":           {map[time.Time]int{time.Unix(5, 0).In(india()): 1}, map[time.Time]int{time.Unix(6, 0).In(india()): 1}, false},
		"a map below its own NaN key":      {inItself(1), inItself(1), true},
		"a map below its own key, another": {inItself(1), inItself(2), false},
		"keys that share a difference":     {sharing(ptr(1)), sharing(ptr(2)), false},
		"keys that share what is the same": {sharing(ptr(1)), sharing(ptr(1)), true},
		"more NaN keys than are matched":   {nans(make([]int, 1001)...), nans(make([]int, 1001)...), false},
	} {
		if got := Equal(test.a, test.b); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
		if got := Equal(test.b, test.a); got != test.want {
			t.Errorf("%s, the other way: got %v, want %v", name, got, test.want)
		}
	}
}

func ptr(n int) *int { return &n }

// india returns a zone as decoding makes it: a new one each time.
func india() *time.Location { return time.FixedZone("", 5*3600+1800) }

// nans returns a map that has NaN as a key for each value.
func nans(values ...int) map[float64]int {
	m := map[float64]int{}
	for _, v := range values {
		m[math.NaN()] = v
	}
	return m
}

func inItself(v int) map[float64]any {
	m := map[float64]any{0: v}
	m[math.NaN()] = m
	return m
}

// sharing returns a map with two keys that lead to p.
func sharing(p *int) map[[2]any]bool {
	return map[[2]any]bool{{p, ptr(1)}: true, {p, ptr(2)}: true}
}

func TestAValueIsTheSameAsItself(t *testing.T) {
	r := ring(math.NaN(), 1)
	for _, v := range []any{
		r, m{"a": r, "b": math.NaN()}, []any{math.NaN(), []any{math.NaN()}}, &[]func(){func() {}}, nans(make([]int, 2000)...),
	} {
		if !Equal(v, v) {
			t.Errorf("%T is not the same as itself", v)
		}
	}
}

// A vertex of a graph may be reached on many ways, and lead back to itself. Its
// edges are a slice of an array that all vertices share.
type vertex struct {
	Label  float64
	Edges  []*vertex
	Others map[string]*vertex
	Any    any
	up     *vertex
}

func drawGraph(t *rapid.T, name string) []*vertex {
	all := make([]*vertex, rapid.IntRange(1, 4).Draw(t, name))
	for i := range all {
		all[i] = new(vertex)
	}
	array := rapid.SliceOfN(rapid.SampledFrom(all), 6, 6).Draw(t, "edges")
	some := rapid.SampledFrom(append(all, nil))
	for _, v := range all {
		v.Label = rapid.SampledFrom([]float64{1, math.NaN()}).Draw(t, "label")
		if to := rapid.IntRange(-1, 3).Draw(t, "end"); to >= 0 {
			v.Edges = array[rapid.IntRange(0, to).Draw(t, "start"):to]
		}
		if rapid.Bool().Draw(t, "others") {
			v.Others = map[string]*vertex{"": some.Draw(t, "other")}
		}
		switch rapid.IntRange(0, 2).Draw(t, "any") {
		case 1:
			v.Any = v.Edges
		case 2:
			v.Any = some.Draw(t, "value")
		}
		v.up = some.Draw(t, "up")
	}
	return all
}

// sameVertices compares every vertex with every other: it takes all pairs for the
// same, and then strikes out those that differ in what is left, until none does.
func sameVertices(a, b []*vertex) map[[2]*vertex]bool {
	same := map[[2]*vertex]bool{{nil, nil}: true}
	for _, x := range a {
		for _, y := range b {
			same[[2]*vertex{x, y}] = true
		}
	}
	slicesAre := func(x, y []*vertex) bool {
		if len(x) != len(y) || (x == nil) != (y == nil) {
			return false
		}
		for i := range x {
			if !same[[2]*vertex{x[i], y[i]}] {
				return false
			}
		}
		return true
	}
	anysAre := func(x, y any) bool {
		switch x := x.(type) {
		case []*vertex:
			y, ok := y.([]*vertex)
			return ok && slicesAre(x, y)
		case *vertex:
			y, ok := y.(*vertex)
			return ok && same[[2]*vertex{x, y}]
		}
		return y == nil
	}
	for again := true; again; {
		again = false
		for pair := range same {
			x, y := pair[0], pair[1]
			if x != nil && !((x.Label == y.Label || math.IsNaN(x.Label) && math.IsNaN(y.Label)) &&
				slicesAre(x.Edges, y.Edges) && anysAre(x.Any, y.Any) && same[[2]*vertex{x.up, y.up}] &&
				(x.Others == nil) == (y.Others == nil) && same[[2]*vertex{x.Others[""], y.Others[""]}]) {
				delete(same, pair)
				again = true
			}
		}
	}
	return same
}

func TestGraphsAreTheSameWhenNoWayThroughThemTellsThemApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawGraph(t, "a"), drawGraph(t, "b")
		for _, graphs := range [][2][]*vertex{{a, b}, {a, a}} {
			same := sameVertices(graphs[0], graphs[1])
			for _, x := range graphs[0] {
				for _, y := range graphs[1] {
					if got, want := Equal(x, y), same[[2]*vertex{x, y}]; got != want {
						t.Fatalf("got %v, want %v", got, want)
					}
				}
			}
		}
	})
}

// tree makes a value of the kinds that codecs decode into, as choose chooses:
// numbers below n, few of them, so that two values are often the same.
func tree(choose func(n int) int, depth int) any {
	pick := func(all ...any) any { return all[choose(len(all))] }
	some := func() any { return tree(choose, depth-1) }
	kinds := 11
	if depth == 0 {
		kinds = 5
	}
	switch choose(kinds) {
	case 0:
		return nil
	case 1:
		return pick(1, int8(1), "1", "", true, math.NaN(), float32(1), 2i, struct{}{})
	case 2:
		return pick([]byte(nil), []byte{}, []byte("x"), [2]byte{}, [0]any{})
	case 3:
		return pick((*int)(nil), ptr(1), ptr(2), new(struct{}), new([0]int))
	case 4:
		return pick(nans(1), nans(1, 1), nans(1, 2), map[*int]any{ptr(1): nil}, map[*int]any{ptr(2): nil})
	case 5:
		all, from := []int{1, 2, 1, 2}, choose(4)
		return [][]int{all[:from], all[from:], all[from:4:4], nil}
	case 6:
		s := []any{some(), some()}
		return [][]any{s[:choose(3)], s}
	case 7:
		return m{"a": some(), pick("a", "b").(string): some()}
	case 8:
		return &[2]any{some(), some()}
	case 9:
		v := some()
		return struct{ A, b any }{v, v}
	default:
		return []any{some()}
	}
}

// written writes all of a value, and where it begins and ends: what is written
// the same is the same.
func written(v reflect.Value) string {
	if !v.IsValid() {
		return "nothing"
	}
	all := []string{v.Type().String()}
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		all = append(all, written(v.Elem()))
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			all = append(all, "nil")
		}
		for i := range v.Len() {
			all = append(all, written(v.Index(i)))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			all = append(all, written(v.Field(i)))
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			all = append(all, written(it.Key())+": "+written(it.Value()))
		}
		slices.Sort(all)
	default:
		all = append(all, fmt.Sprintf("%q", fmt.Sprint(v)))
	}
	return "(" + strings.Join(all, ", ") + ")"
}

func TestValuesAreTheSameWhenTheyAreWrittenTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		choices := rapid.SliceOfN(rapid.IntRange(0, 1000), 20, 20).Draw(t, "choices")
		made := func() any {
			next := 0
			return tree(func(n int) int { next++; return choices[(next-1)%len(choices)] % n }, 2)
		}
		a, again := made(), made()
		choices[rapid.IntRange(0, 6).Draw(t, "at")]++
		other := made()
		for _, b := range []any{again, other} {
			want := written(reflect.ValueOf(a)) == written(reflect.ValueOf(b))
			if got := Equal(a, b); got != want {
				t.Fatalf("got %v, want %v: %#v and %#v", got, want, a, b)
			}
		}
	})
}

func TestChangesOfManyNamesAreFoundInLittleTime(t *testing.T) {
	before, now := m{}, m{}
	const n = 200_000
	for i := range n {
		before[fmt.Sprint("old", i)], now[fmt.Sprint("new", i)] = i, i
	}
	start := time.Now()
	set, deleted := Changes(before, now)
	if len(set) != n || len(deleted) != n {
		t.Errorf("got %d and %d names, want %d", len(set), len(deleted), n)
	}
	// Of the order of 50 ms; of minutes if each name were compared with each.
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("%d names took %v", n, took)
	}
}

func TestMergeTakesSomeNamesFromTheOtherSideAndChangesNeither(t *testing.T) {
	nan := math.NaN()
	into, from := map[any]any{"a": 1, "gone": 1, "kept": 1, nan: 1}, map[any]any{"a": 2, "new": 2, "kept": 2, nan: 2}
	take := func(name any) bool { return name != "kept" && name == name } // NaN is not
	want := map[any]any{"a": 2, "new": 2, "kept": 1, nan: 1}
	if got := Merge(into, from, take); !Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(into) != 4 || len(from) != 4 || into["a"] != 1 || from["a"] != 2 {
		t.Errorf("an argument was changed: %v, %v", into, from)
	}
	if got := Merge(nil, from, func(name any) bool { return name == "new" }); !Equal(got, map[any]any{"new": 2}) {
		t.Errorf("got %v of nothing and one that is taken", got)
	}
}
