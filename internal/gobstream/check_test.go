package gobstream

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/tier"
)

// Types that contain themselves and others, and encode themselves in all ways.
type (
	chain  []chain
	linked struct {
		Next *linked
		Any  any
		Many []*linked
	}
	tree     map[string]tree
	embedded struct {
		item
		*linked
		Arrays  map[[2]int][3]any
		Pointer **int
		Moment  time.Time
		Texts   []secret
		Big     *big.Int
		Keys    map[any]any
		Ignored func()
		Numbers struct {
			A int8
			B uint64
			C complex64
			D bool
			E []bool
			F [2]float32
		}
	}
	generic[T any] struct{ V []T }
)

// What sessions are made of.
type (
	attrs = map[string]any
	item  struct {
		Name  string
		Price float64
		Tags  []string
	}
	userID     string
	secret     struct{ text string } // encodes itself
	oldSession struct {
		IDF      string
		CreatedF time.Time
		AttrsF   attrs
		Dropped  any
	}
)

func (s secret) GobEncode() ([]byte, error)   { return []byte(s.text), nil }
func (s *secret) GobDecode(text []byte) error { s.text = string(text); return nil }

func init() {
	for _, v := range []any{
		item{}, userID(""), secret{}, time.Time{}, attrs{}, chain{}, &linked{}, tree{}, embedded{}, generic[string]{}, []any{}, map[any]any{}, [3]any{}, []item{}, [][]string{},
		&big.Int{}, netip.Addr{}, []map[string][]any{}, []struct{}{}, map[int8]struct{ A int }{},
	} {
		gob.Register(v)
	}
}

func sessionWith(a attrs) session.Session {
	return session.NewSessionOptions(&session.SessOptions{Attrs: a})
}

var fourScalars = attrs{"user": "alice@example.com", "visits": 42, "theme": "dark", "cart": 7}

func plainBytes(t testing.TB, v any) []byte {
	t.Helper()
	data, err := memcache.Gob.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// decoded checks the bytes, and has gob decode them.
func decoded(data []byte) (session.Session, error) {
	data, err := Checked(data)
	if err != nil {
		return nil, err
	}
	sess := session.NewSession()
	return sess, memcache.Gob.Unmarshal(data, sess)
}

// sessions is how gob writes a session: the head, which defines types, and the
// number of the type.
var sessions = func() (form struct {
	head []byte
	id   int64
}) {
	data, err := memcache.Gob.Marshal(sessionWith(attrs{"a": 1}))
	if err != nil {
		panic(err)
	}
	for r := (Reader{Rest: data}); form.id <= 0 && !r.Bad; { // that of a definition is negative
		form.head = data[:len(data)-len(r.Rest)]
		form.id = (&Reader{Rest: r.Text()}).Int()
	}
	return form
}()

// drawn makes a value of what choose chooses: numbers below n.
func drawn(choose func(n int) int, depth int) any {
	some := func() any { return drawn(choose, depth-1) }
	list := func() []any {
		all := make([]any, choose(4))
		for i := range all {
			all[i] = some()
		}
		return all
	}
	if depth == 0 {
		return []any{nil, 1, "text", true, 1.5, userID("u"), time.Unix(5, 6), int8(-1), 2i, uint64(1 << 60)}[choose(10)]
	}
	switch choose(20) {
	case 0:
		return item{"book", float64(choose(3)), []string{"a"}[:choose(2)]}
	case 1:
		return attrs{"a": some(), "b": some()}
	case 2:
		return list()
	case 3:
		return map[any]any{choose(5): some(), drawn(choose, 0): "key"}
	case 4:
		return [3]any{some(), nil, some()}
	case 5:
		return &linked{&linked{nil, some(), nil}, some(), []*linked{{}, {Any: some()}}}
	case 6:
		return chain{{}, {{}, {{}}}}[:choose(3)]
	case 7:
		return tree{"a": {"b": nil, "c": {}}, "d": {}}
	case 8:
		n := choose(1000)
		p := &n
		e := embedded{item: item{Name: "x"}, linked: &linked{Any: some()}, Arrays: map[[2]int][3]any{{1, 2}: {some()}}, Pointer: &p,
			Texts: []secret{{"a"}, {}}, Big: big.NewInt(int64(n)), Keys: map[any]any{"a": some()}}
		e.Numbers.C, e.Numbers.E = 1, make([]bool, choose(3))
		return e
	case 9:
		return generic[string]{[]string{"a", ""}}
	case 10:
		return []item{{}, {Name: "x"}}
	case 11:
		return [][]string{nil, {}, {"a"}}
	case 12:
		return big.NewInt(int64(choose(1000)))
	case 13:
		return netip.MustParseAddr("::1")
	case 14:
		return []map[string][]any{{"a": list(), "b": nil}, nil}
	case 15:
		return make([]struct{}, choose(4))
	case 16:
		return map[int8]struct{ A int }{int8(choose(100)): {}, 1: {1}}
	case 17:
		return secret{"hush"}
	case 18:
		return []byte("bytes")[:choose(5)]
	default:
		return some()
	}
}

func drawnSession(choices []byte) session.Session {
	next := 0
	choose := func(n int) int {
		if next++; next > len(choices) {
			return (next * 7919) % n
		}
		return int(choices[next-1]) % n
	}
	o := session.SessOptions{CAttrs: attrs{}, Attrs: attrs{}}
	for i := range choose(3) {
		o.CAttrs[fmt.Sprint(i)] = drawn(choose, 2)
	}
	for i := range choose(4) {
		o.Attrs[fmt.Sprint(i)] = drawn(choose, 3)
	}
	return session.NewSessionOptions(&o)
}

// Whatever gob has written is read, and is what gob reads, also from a new
// stream. Whatever else is in the bytes, they take little memory.
func FuzzChecked(f *testing.F) {
	for i := range 200 { // of all kinds
		choices := make([]byte, 20)
		for j := range choices {
			choices[j] = byte((i + 1) * (j + 3) * 31 >> 3)
		}
		f.Add(choices, uint32(i*7), byte(i), uint8(i%5))
	}
	f.Fuzz(func(t *testing.T, choices []byte, at uint32, b byte, how uint8) {
		data := plainBytes(t, drawnSession(choices))
		sameAsGob(t, data)
		i := int(at) % len(data)
		switch how % 5 {
		case 0:
			data[i] = b
		case 1:
			data[i] += b
		case 2:
			data = data[:i]
		case 3:
			data = append(data[:i:i], append([]byte{b}, data[i:]...)...)
		case 4: // a huge number
			data = append(data[:i:i], append([]byte{0xfc, b & 0x7f, 0xff, 0xff, 0xff}, data[i+1:]...)...)
		}
		takesLittle(t, data)
	})
}

// sameAsGob checks that what gob has written is not refused, and read as gob does.
func sameAsGob(t testing.TB, data []byte) {
	t.Helper()
	rewritten := checker{stream: Reader{Rest: data}, rewrite: true}
	rewritten.check()
	checked, err := Checked(data)
	if err != nil || rewritten.Bad {
		t.Fatalf("what gob has written is refused: %x", data)
	}
	want := session.NewSession()
	if err := memcache.Gob.Unmarshal(data, want); err != nil {
		t.Fatalf("gob: %v", err)
	}
	for name, data := range map[string][]byte{
		"Checked": checked, "a new stream": AppendText(rewritten.definitions, rewritten.values),
	} {
		got := session.NewSession()
		if err := memcache.Gob.Unmarshal(data, got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(clean(got), clean(want)) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
		if _, err := Checked(data); err != nil {
			t.Errorf("%s is refused", name)
		}
	}
}

// Not only sessions: here maps, which are no structs.
func TestAnyValueCanBeChecked(t *testing.T) {
	for _, v := range []any{
		nil, 0, -1, 64, true, math.MinInt, uint64(math.MaxUint64), math.NaN(), math.Inf(1), 2i, "", "x", "\xff\x00ä", strings.Repeat("z", 70_000),
		item{}, item{"a", 1, []string{"b"}}, secret{"hush"}, userID("u"), time.Unix(5, 6), []byte("bytes"), attrs{"a": attrs{"b": item{}}},
	} {
		want := attrs{"attr": v, "": v}
		data, err := Checked(plainBytes(t, want))
		if err != nil {
			t.Fatalf("%#v: %v", want, err)
		}
		var got attrs
		if err := memcache.Gob.Unmarshal(data, &got); err != nil || len(got) != len(want) {
			t.Errorf("%#v: got %#v, %v", want, got, err)
		}
	}
}

func clean(s session.Session) []any {
	v := reflect.ValueOf(s).Elem()
	var fields []any
	for i := range v.NumField() {
		if v.Type().Field(i).IsExported() {
			fields = append(fields, v.Field(i).Interface())
		}
	}
	return fields
}

// takesLittle checks that reading the bytes takes memory in proportion.
func takesLittle(t testing.TB, data []byte) {
	t.Helper()
	took := memoryOf(func() {
		defer func() { _ = recover() }() // gob's own affair
		_, _ = decoded(data)
	})
	// An attribute takes two bytes and makes 50, a struct one and makes 300.
	if most := uint64(200_000 + 400*len(data)); took > most {
		t.Errorf("%d bytes took %d bytes of memory, more than %d: %.1000x", len(data), took, most, data)
	}
}

// memoryOf returns how much memory do takes, together with what runs in parallel.
func memoryOf(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestCountsOfMoreThanThereIsAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		sess session.Session
		what string // behind a count of one
	}{
		"constant attributes":      {session.NewSessionOptions(&session.SessOptions{CAttrs: attrs{"NNNN": 1}}), "\x04NNNN"},
		"attributes":               {sessionWith(attrs{"NNNN": item{}}), "\x04NNNN"},
		"a map":                    {sessionWith(attrs{"a": attrs{"NNNN": 1}}), "\x04NNNN"},
		"a map in a map":           {sessionWith(attrs{"a": attrs{"b": attrs{"NNNN": 1}}}), "\x04NNNN"},
		"a map with any keys":      {sessionWith(attrs{"a": map[any]any{"NNNN": 1}}), "\x06string\x0c\x06\x00\x04NNNN"},
		"a slice of strings":       {sessionWith(attrs{"a": []string{"NNNN"}}), "\x04NNNN"},
		"a slice of anything":      {sessionWith(attrs{"a": []any{"NNNN"}}), "\x06string\x0c\x06\x00\x04NNNN"},
		"a slice of slices":        {sessionWith(attrs{"a": [][]string{{"NNNN"}}}), "\x01\x04NNNN"},
		"a slice in a slice":       {sessionWith(attrs{"a": [][]string{{"NNNN"}}}), "\x04NNNN"},
		"a slice in a struct":      {sessionWith(attrs{"a": item{Tags: []string{"NNNN"}}}), "\x04NNNN"},
		"a slice of empty structs": {sessionWith(attrs{"a": make([]struct{}, 1)}), "\x00\x01"},
		"the fields of a type":     {sessionWith(attrs{"a": generic[string]{}}), "\x01\x01V\x01"},
	} {
		data := plainBytes(t, test.sess)
		sameAsGob(t, data)
		at := bytes.LastIndex(data, []byte(test.what)) - 1
		if at < 0 || data[at] != 1 {
			t.Fatalf("%s: no count of one before %q in %q", name, test.what, data)
		}
		data[at] = 127
		if _, err := decoded(data); err != errDamaged {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// stream joins parts of a message behind the head: bytes, numbers, ids, and behind
// their length parts of a chunk.
func stream(parts ...any) []byte { return AppendText(bytes.Clone(sessions.head), joined(parts)) }

func joined(parts []any) (b []byte) {
	for _, part := range parts {
		switch part := part.(type) {
		case string:
			b = append(b, part...)
		case int:
			b = AppendUint(b, uint64(part))
		case uint64:
			b = AppendUint(b, part)
		case int64:
			b = AppendUint(b, Zigzag(part))
		case []byte:
			b = append(b, part...)
		case []any: // a message or a chunk
			b = AppendText(b, joined(part))
		}
	}
	return b
}

// idOf returns gob's number of the type of v, which is registered and a map or a
// slice, and the messages that define it behind the head.
func idOf(t testing.TB, v any) (id int64, definitions []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	for r := (Reader{Rest: b.Bytes()}); ; {
		message := r.Text()
		if id = (&Reader{Rest: message}).Int(); id > 0 {
			return id, definitions
		}
		definitions = AppendText(definitions, message)
	}
}

const (
	constants  = "\x04" // the distance of the field CAttrsF from the begin
	attributes = "\x05"
)

func TestAHugeCountTakesLittleMemory(t *testing.T) {
	mapID, _ := idOf(t, attrs{}) // the head defines it
	sliceID, slice := idOf(t, []any{})
	for _, n := range []uint64{2_000_000, 400_000_000, 1 << 62, math.MaxUint64} {
		for name, data := range map[string][]byte{
			"constant attributes": stream(sessions.id, constants, n, "\x01a\x00\x00"),
			"attributes":          stream(sessions.id, attributes, n, "\x01a\x00\x00"),
			"a map": stream(sessions.id, attributes, 1, "\x01a", len("map[string]interface {}"), "map[string]interface {}",
				mapID, []any{0, n, "\x01a\x00"}, 0),
			"a message": AppendUint(nil, n),
		} {
			if _, err := decoded(data); err != errDamaged {
				t.Errorf("%s, %d: %v", name, n, err)
			}
			takesLittle(t, data)
		}
	}
	// gob makes room for ten megabytes at each level.
	in := []any{0, 0}
	for range 50 {
		in = []any{0, 600_000, len("[]interface {}"), "[]interface {}", sliceID, in}
	}
	value := joined([]any{sessions.id, attributes, 1, "\x01a", len("[]interface {}"), "[]interface {}", sliceID, in, 0})
	data := AppendText(append(bytes.Clone(sessions.head), slice...), value)
	if _, err := decoded(data); err != errDamaged {
		t.Errorf("slices in slices: %v", err)
	}
	takesLittle(t, data)
}

// A field that the struct has no more is skipped. gob skips its first chunk, and
// reads the second one as the fields that follow.
func TestWhatIsSkippedIsReadAsItWasChecked(t *testing.T) {
	nested := attrs{"a": attrs{"b": &linked{Any: item{Name: "new types in it"}}}}
	data := plainBytes(t, oldSession{"id", time.Now(), fourScalars, nested})
	if err := memcache.Gob.Unmarshal(data, session.NewSession()); err == nil {
		t.Log("gob can skip it now: Checked has no need any more to write new streams")
	}
	s, err := decoded(data)
	if err != nil || !reflect.DeepEqual(s.Attrs(), fourScalars) {
		t.Errorf("got %v, %v", s, err)
	}
}

// Definitions of types, as messages.
func sliceOf(id, elem int64) []any    { return []any{-id, 1 + sliceKind, 2, elem, 0, 0} }
func mapOf(id, key, elem int64) []any { return []any{-id, 1 + mapKind, 2, key, 1, elem, 0, 0} }
func structOf(id int64, fields ...any) []any {
	return append(append([]any{-id, 1 + structKind, 2, len(fields) / 2}, namedFields(fields)...), 0, 0)
}

func namedFields(namesAndIDs []any) (all []any) {
	for i := 0; i < len(namesAndIDs); i += 2 {
		all = append(all, 1, []any{namesAndIDs[i]}, 1, namesAndIDs[i+1], 0)
	}
	return all
}

// What is nothing but a skipped value here is a huge map to gob, if it skips the
// value by the length of its first chunk.
func TestWhatIsSkippedHidesNoCount(t *testing.T) {
	const structID, mapID, sliceID, hugeID = int64(70), int64(71), int64(72), int64(200_000)
	second := []any{hugeID, []any{0, 0}} // to gob the id is a count, of twice as many
	fields := []any{"Dropped", int64(interfaceID)}
	for len(fields)/2 < len(joined(second)) { // to gob its length is the distance of the next field
		fields = append(fields, "X", int64(intID))
	}
	fields = append(fields, "CAttrsF", mapID)
	data := joined([]any{
		structOf(structID, fields...), mapOf(mapID, stringID, interfaceID), sliceOf(sliceID, interfaceID),
		[]any{structID, 1, []any{"Any"}, sliceID, []any{0, 1, []any{"Any"}, joined(sliceOf(hugeID, stringID))}, second, 0},
	})
	if took := memoryOf(func() { _ = memcache.Gob.Unmarshal(data, session.NewSession()) }); took < 10<<20 {
		t.Errorf("gob took %d bytes only: this is no such case", took)
	}
	if _, err := Checked(data); err != nil {
		t.Error(err)
	}
	takesLittle(t, data)
}

func TestTypesWhoseCompilationTakesMuchMemoryAreRefused(t *testing.T) {
	const structID, first = int64(70), int64(71)
	dataOf := func(fields int, parts int64) []byte {
		all := []any{"AttrsF", first + parts}
		for range fields {
			all = append(all, "x", first)
		}
		messages := []any{structOf(structID, all...), mapOf(first+parts, stringID, interfaceID)}
		for id := first; id < first+parts-1; id++ {
			messages = append(messages, sliceOf(id, id+1))
		}
		messages = append(messages, sliceOf(first+parts-1, intID), []any{structID, 1, 1, "\x01a\x00", 0})
		return joined(messages)
	}
	data := dataOf(100, maxParts)
	if _, err := decoded(data); err != nil {
		t.Errorf("types of %d parts: %v", maxParts, err)
	}
	data = dataOf(3000, 1000)
	if _, err := decoded(data); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("types of 1000 parts: %v", err)
	}
	takesLittle(t, data)

	// No type has too many parts here, but all together have.
	const of16 = 1 + maxParts
	if _, err := decoded(dataOf(maxSum/of16-10, maxParts)); err != nil {
		t.Errorf("fields that have less than %d parts together: %v", maxSum, err)
	}
	if _, err := decoded(dataOf(maxSum/of16+1, maxParts)); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("fields that have more than %d parts together: %v", maxSum, err)
	}
	if _, err := decoded(dataOf(maxSum, 1)); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("a struct of %d fields: %v", maxSum, err)
	}
}

// What gob writes may be more than a session may have. That is no damage.
func TestTypesWithoutEndAreTooLarge(t *testing.T) {
	all := make(attrs)
	for i := range 100 {
		name := fmt.Sprint("Type", i)
		var fields []reflect.StructField
		for j := range maxSum / 2 / 100 { // and each is a slice of strings
			fields = append(fields, reflect.StructField{Name: fmt.Sprint(name, "Field", j), Type: reflect.TypeFor[[]string]()})
		}
		v := reflect.Zero(reflect.StructOf(fields)).Interface()
		gob.RegisterName(name, v)
		all[name] = v
	}
	if _, err := Checked(plainBytes(t, all)); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func TestStreamsThatGobDoesNotWriteAreRefused(t *testing.T) {
	const id, other = int64(70), int64(71)
	arrayOf := func(id, elem int64, n int64) []any { return []any{-id, 1 + arrayKind, 2, elem, 1, n, 0, 0} }
	ints := sliceOf(id, intID)
	holds := func(parts ...any) []any { // a message of a slice that holds something
		return append([]any{other, 0, 1}, parts...)
	}
	anys := sliceOf(other, interfaceID)
	for name, test := range map[string]struct {
		good bool
		data []any
	}{
		"a number":                   {true, []any{[]any{int64(intID), 0, 5}}},
		"a number without a zero":    {false, []any{[]any{int64(intID), 1, 5}}},
		"a struct":                   {true, []any{structOf(id, "A", int64(intID)), []any{id, 1, 5, 0}}},
		"a struct without an end":    {false, []any{structOf(id, "A", int64(intID)), []any{id, 1, 5}}},
		"a field too many":           {false, []any{structOf(id, "A", int64(intID)), []any{id, 2, 5, 0}}},
		"an array":                   {true, []any{arrayOf(id, intID, 2), []any{id, 0, 2, 5, 5}}},
		"an array that is too long":  {false, []any{arrayOf(id, intID, 2), []any{id, 0, 3, 5, 5, 5}}},
		"an array that is too short": {false, []any{arrayOf(id, intID, 2), []any{id, 0, 1, 5}}},
		"a slice":                    {true, []any{ints, []any{id, 0, 2, 5, 5}}},
		"a slice that is too short":  {false, []any{ints, []any{id, 0, 3, 5, 5}}},
		"a map":                      {true, []any{mapOf(id, intID, intID), []any{id, 0, 1, 5, 5}}},
		"a map without an element":   {false, []any{mapOf(id, intID, intID), []any{id, 0, 1, 5}}},
		"complex numbers":            {true, []any{sliceOf(id, complexID), []any{id, 0, 1, 5, 5}}},
		"half a complex number":      {false, []any{sliceOf(id, complexID), []any{id, 0, 1, 5}}},

		"an unknown type":         {false, []any{[]any{id, 0, 0}}},
		"gob's own types":         {false, []any{[]any{int64(20), 0}}},
		"a type of no kind":       {false, []any{[]any{-id, 0}, []any{int64(intID), 0, 5}}},
		"a type of another kind":  {false, []any{[]any{-id, 1 + kinds, 0, 0}, []any{int64(intID), 0, 5}}},
		"a type of two kinds":     {false, []any{[]any{-id, 1 + sliceKind, 2, int64(intID), 0, 1, 2, 0, 0, 0}, []any{int64(intID), 0, 5}}},
		"a type that is there":    {false, []any{ints, ints, []any{id, 0, 0}}},
		"a type with gob's id":    {false, []any{sliceOf(63, intID), []any{int64(63), 0, 0}}},
		"an id of 33 bits":        {false, []any{sliceOf(1<<32+id, intID), []any{1<<32 + id, 0, 0}}},
		"bytes behind a type":     {false, []any{append(ints, 0), []any{id, 0, 0}}},
		"a value behind a type":   {false, []any{append(ints, id, 0, 1, 5)}},
		"a slice of nothing":      {false, []any{[]any{-id, 1 + sliceKind, 0, 0}, []any{id, 0, 0}}},
		"a slice of two types":    {false, []any{[]any{-id, 1 + sliceKind, 2, int64(intID), 1, int64(intID), 0, 0}, []any{id, 0, 0}}},
		"a map without keys":      {false, []any{[]any{-id, 1 + mapKind, 2, int64(intID), 0, 0}, []any{id, 0, 0}}},
		"a slice of unknown type": {false, []any{sliceOf(id, other), []any{id, 0, 0}}},

		"an interface":                       {true, []any{anys, holds([]any{"int"}, int64(intID), []any{0, 5})}},
		"no value":                           {true, []any{anys, holds(0)}},
		"a type in between":                  {true, []any{anys, holds([]any{"x"}, joined(ints)), []any{id, []any{0, 1, 5}}}},
		"a type within the value":            {true, []any{anys, holds([]any{"x"}, other, []any{0, 1, []any{"x"}, joined(ints)}, []any{id, []any{0, 1, 5}})}},
		"a chunk that is too long":           {false, []any{anys, holds([]any{"int"}, int64(intID), []any{0, 5, 5})}},
		"a chunk that is too short":          {false, []any{anys, holds([]any{"int"}, int64(intID), []any{0}, 5)}},
		"a chunk longer than the message":    {false, []any{anys, holds([]any{"int"}, int64(intID), 3, 0, 5)}},
		"a chunk longer than the one around": {false, []any{sliceOf(other, interfaceID), []any{other, 0, 2, []any{"x"}, other, []any{0, 1, []any{"int"}, int64(intID), 3, 0}, 5, 5}}},
		"a type's chunk that is too long":    {false, []any{anys, holds([]any{"x"}, other, []any{0, 1, []any{"x"}, joined(ints), 0}, []any{id, []any{0, 1, 5}})}},

		"nothing":                  {false, nil},
		"no value behind a type":   {false, []any{ints}},
		"an empty message":         {false, []any{[]any{}}},
		"a message that is cut":    {false, []any{ints, 9, id, 0, 1, 5}},
		"a number of nine bytes":   {false, []any{[]any{int64(intID), 0, "\xf7\x00\x00\x00\x00\x00\x00\x00\x00\x05"}}},
		"a number of eight bytes":  {true, []any{[]any{int64(intID), 0, "\xf8\x00\x00\x00\x00\x00\x00\x00\x05"}}},
		"bytes behind the message": {true, []any{[]any{int64(intID), 0, 5}, "trailer"}},
		"bytes behind the value":   {true, []any{[]any{int64(intID), 0, 5, 6}}},
	} {
		data := joined(test.data)
		if _, err := Checked(data); (err == nil) != test.good {
			t.Errorf("%s: %v; %q", name, err, data)
		}
	}
}

func TestADeepValueIsRead(t *testing.T) {
	for depth, want := range map[int]error{1000: nil, 20_000: nil, maxDepth + 10: tier.ErrTooLarge, 3_000_000: tier.ErrTooLarge} {
		id, definitions := idOf(t, chain{})
		in := strings.Repeat("\x01", depth) + "\x00"
		name := "github.com/gaesession/gaesession/internal/gobstream.chain"
		value := joined([]any{sessions.id, attributes, 1, "\x01a", len(name), name, id, []any{0, in}, 0})
		s, err := decoded(AppendText(append(bytes.Clone(sessions.head), definitions...), value))
		if !errors.Is(err, want) {
			t.Fatalf("%d levels: got %v, want %v", depth, err, want)
		}
		if err != nil {
			continue
		}
		got := 0
		for c := s.Attr("a").(chain); len(c) == 1; c = c[0] {
			got++
		}
		if got != depth {
			t.Errorf("got %d levels of %d", got, depth)
		}
	}
}
