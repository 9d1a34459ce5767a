package scalargob

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/gobstream"
)

type (
	item  struct{ Name string }
	entry = map[any]any
)

func init() {
	for _, v := range []any{item{}, []any{}, time.Second, time.Time{}} {
		gob.Register(v)
	}
}

// maps is how gob writes a map.
var maps = Of(&entry{"a": 1})

// samples are maps, by whether all in them are scalars, with text as keys.
func samples() map[bool][]entry {
	many := entry{}
	for i := range 24 {
		many[fmt.Sprint("key", i)] = i
	}
	byScalars := map[bool][]entry{
		true:  {nil, {}, {"user": "alice@example.com", "visits": 42, "theme": "dark"}, many},
		false: {{1: "a"}, {true: 1}, {item{"x"}: 1}, {"a": 1, 2: "b"}, {"a": item{"x"}, "b": 1}, {"_flash": []any{"hello"}}, {"nil": nil}},
	}
	for _, v := range []any{
		true, false, 0, 63, 64, -64, -65, math.MinInt, math.MaxInt, int8(-128), int16(127), int32(-1), int64(1 << 40), uint(0), uint8(128),
		uint16(256), uint32(1 << 31), uint64(math.MaxUint64), uintptr(9), float32(1.1), 0.0, math.Copysign(0, -1), math.NaN(), math.Inf(1),
		"", "x", "\xff\x00ä", strings.Repeat("y", 127), strings.Repeat("y", 128), strings.Repeat("z", 70000),
	} {
		byScalars[true] = append(byScalars[true], entry{"key": v}, entry{"": v})
	}
	for _, v := range []any{[]any{}, item{}, time.Second, time.Unix(5, 6), []byte("bytes"), 1i} {
		byScalars[false] = append(byScalars[false], entry{"key": v})
	}
	return byScalars
}

func plain(t testing.TB, m entry) []byte {
	t.Helper()
	b, err := encodeAll(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMapsAreWrittenLikePlainGob(t *testing.T) {
	for scalars, all := range samples() {
		for _, m := range all {
			got := maps.Encode(&m)
			if (got != nil) != scalars {
				t.Errorf("%.200v: left to gob: %v, want %v", m, got == nil, !scalars)
			}
			if want := plain(t, m); scalars && (len(got) != len(want) || len(m) < 2 && !bytes.Equal(got, want)) {
				t.Errorf("got  %.200x\nwant %.200x", got, want)
			}
			if got != nil {
				agree(t, got)
			}
		}
	}
}

func TestMapsAreReadLikePlainGob(t *testing.T) {
	for scalars, all := range samples() {
		for _, m := range all {
			b := plain(t, m)
			agree(t, b)
			for _, behind := range []string{"\x00", "trailer", string(b), string(b[len(maps.Head):])} {
				agree(t, append(bytes.Clone(b), behind...))
			}
			if into := (entry{}); maps.Decode(b, &into) != scalars {
				t.Errorf("%.200v: left to gob: %v, want %v", m, scalars, !scalars)
			}
		}
	}
}

func TestADecodedMapKeepsWhatWasInIt(t *testing.T) {
	m := entry{"old": 1, "both": 1}
	if !maps.Decode(plain(t, entry{"new": 2, "both": 2}), &m) || fmt.Sprint(m) != "map[both:2 new:2 old:1]" {
		t.Errorf("got %v", m)
	}
}

func TestMoreThan24EntriesAreReadByGob(t *testing.T) {
	m := entry{}
	for i := range 25 {
		m[fmt.Sprint("key", i)] = i
	}
	b := plain(t, m)
	if got := maps.Encode(&m); len(got) != len(b) {
		t.Errorf("got %x, want %x", got, b)
	}
	if maps.Decode(b, &entry{}) {
		t.Error("they are not left to gob")
	}
}

// agree fails unless a stream is read as gob reads it, or left to gob.
func agree(t testing.TB, stream []byte) {
	t.Helper()
	got := entry{}
	if !maps.Decode(stream, &got) {
		return
	}
	if _, err := gobstream.Checked(stream); err != nil {
		t.Errorf("got %v of what is refused; stream %x", got, stream)
		return
	}
	want := entry{}
	if err := gob.NewDecoder(bytes.NewReader(stream)).Decode(&want); err != nil || fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		t.Errorf("got %#v, want %#v, %v; stream %x", got, want, err, stream)
	}
}

func TestDamagedStreams(t *testing.T) {
	good := plain(t, entry{"a": "text", "b": -5, "c": 1.5, "d": int8(9), "e": true})
	for i := range good {
		agree(t, good[:i])
		agree(t, append(bytes.Clone(good[:i]), good[i+1:]...))
		for b := range 256 {
			changed := bytes.Clone(good)
			changed[i] = byte(b)
			agree(t, changed)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		changed := bytes.Clone(good)
		for range 1 + rng.IntN(4) {
			i, j := len(maps.Head)+rng.IntN(len(good)-len(maps.Head)), rng.IntN(len(good))
			changed[i] = changed[j]
		}
		agree(t, changed)
	}
}

// A number has eight bytes at most, whatever the last eight of more say.
func TestNumbersOfTooManyBytesAreRefused(t *testing.T) {
	long := func(x uint64) []byte {
		return binary.BigEndian.AppendUint64(append([]byte{0x80}, make([]byte, 120)...), x)
	}
	id := gobstream.Zigzag(maps.ID)
	value := func(zero []byte) []byte { // of an int
		attr := append(gobstream.AppendText(nil, "int"), byte(gobstream.Zigzag(2)))
		return append(appendAttr(nil, "a"), gobstream.AppendText(attr, append(zero, 2))...)
	}
	text := func(zero []byte) []byte {
		attr := append(gobstream.AppendText(nil, "string"), byte(gobstream.Zigzag(6)))
		return append(appendAttr(nil, "a"), gobstream.AppendText(attr, append(zero, 1, 'x'))...)
	}
	for name, message := range map[string][][]byte{
		"none":          {gobstream.AppendUint(nil, id), {0, 1}, value([]byte{0})},
		"the id":        {long(id), {0, 1}, value([]byte{0})},
		"the zero":      {gobstream.AppendUint(nil, id), long(0), {1}, value([]byte{0})},
		"an int's zero": {gobstream.AppendUint(nil, id), {0, 1}, value(long(0))},
		"a text's zero": {gobstream.AppendUint(nil, id), {0, 1}, text(long(0))},
	} {
		stream := gobstream.AppendText(bytes.Clone(maps.Head), bytes.Join(message, nil))
		if got := maps.Decode(stream, &entry{}); got != (name == "none") {
			t.Errorf("%s: taken: %v", name, got)
		}
		agree(t, stream)
	}
}

func TestOtherTypesHaveNoForm(t *testing.T) {
	for _, v := range []any{nil, 5, new(int), (*entry)(nil), entry{"a": 1}, &map[string]int{"a": 1}, &struct{ A []int }{[]int{1}},
		&struct{ At *time.Time }{new(time.Time)}, &struct{ Kind encodesItself }{"x"}} {
		if f := Of(v); f != nil || f.Has(v) {
			t.Errorf("%T has a form", v)
		}
	}
	var none *Form
	if none.Encode(&entry{}) != nil || none.Decode(plain(t, entry{}), &entry{}) {
		t.Error("without a form not all is left to gob")
	}
}

type encodesItself string

func (encodesItself) GobEncode() ([]byte, error)   { return []byte("other"), nil }
func (*encodesItself) GobDecode(text []byte) error { return nil }

func FuzzDecode(f *testing.F) {
	for _, all := range samples() {
		for _, m := range all {
			f.Add(plain(f, m)[len(maps.Head):], true)
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, withHead bool) {
		if withHead {
			stream = append(bytes.Clone(maps.Head), stream...)
		}
		agree(t, stream)
	})
}
