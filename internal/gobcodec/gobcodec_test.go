package gobcodec

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/gobstream"
)

type (
	attrs = map[string]any
	item  struct {
		Name  string
		Price float64
		Tags  []string
	}
	userID     string
	secret     struct{ text string } // encodes itself
	unknown    struct{ A int }       // is not registered
	oldSession struct {
		IDF      string
		CreatedF time.Time
		AttrsF   attrs
		Dropped  any
	}
	newSession struct {
		Version                   int
		IDF                       string
		CreatedF, AccessedF, Used time.Time
		CAttrsF, AttrsF           attrs
		TimeoutF                  time.Duration
	}
)

func (s secret) GobEncode() ([]byte, error)   { return []byte(s.text), nil }
func (s *secret) GobDecode(text []byte) error { s.text = string(text); return nil }

func init() {
	for _, v := range []any{item{}, userID(""), secret{}, time.Time{}, time.Duration(0), attrs{}} {
		gob.Register(v)
	}
}

func sessionWith(a attrs) session.Session {
	return session.NewSessionOptions(&session.SessOptions{Attrs: a})
}

var fourScalars = attrs{"user": "alice@example.com", "visits": 42, "theme": "dark", "cart": 7}

// samples are attributes, by whether all are scalars.
func samples() map[bool][]attrs {
	byScalars := map[bool][]attrs{
		true: {nil, fourScalars},
		false: {
			{"a": 1, "b": item{"book", 9.5, []string{"x"}}, "c": "text"},
			{"a": attrs{"b": attrs{"c": item{Name: "deep"}}}},
			{"a": item{Name: "x"}, "b": item{Name: "y"}},
			{"a": strings.Repeat("x", 100), "b": []int{1, 2, 3}},
		},
	}
	for _, v := range []any{
		true, false, 0, 63, 64, -1, -64, -65, math.MinInt, math.MaxInt, int8(-128), int8(127),
		int16(-1 << 15), int32(math.MaxInt32), int64(-5), int64(1 << 40), int64(math.MinInt64), uint(0), uint(127), uint(128), uint8(255), uint16(256),
		uint32(1 << 31), uint64(math.MaxUint64), uintptr(9), float32(1.1), float32(math.Inf(1)), 0.0,
		math.Copysign(0, -1), math.Pi, math.NaN(), math.SmallestNonzeroFloat64, "", "x", "\xff\x00ä",
		strings.Repeat("y", 127), strings.Repeat("y", 128), strings.Repeat("z", 70000),
	} {
		byScalars[true] = append(byScalars[true], attrs{"attr": v}, attrs{"": v})
	}
	for _, v := range []any{
		nil, item{}, item{"a", 1, nil}, secret{"hush"}, userID("u"), time.Unix(5, 6), time.Second, attrs{},
		attrs{"a": 1}, attrs{"a": nil}, []byte{}, []byte("bytes"), []string{"a"}, 1i, complex64(1),
	} {
		byScalars[false] = append(byScalars[false], attrs{"attr": v})
	}
	return byScalars
}

// eachSample calls do with each sample as variable and as constant attributes.
func eachSample(do func(s session.Session, scalars bool)) {
	for scalars, all := range samples() {
		for _, a := range all {
			do(sessionWith(a), scalars)
			do(session.NewSessionOptions(&session.SessOptions{CAttrs: a, Timeout: -time.Hour}), scalars)
			do(session.NewSessionOptions(&session.SessOptions{CAttrs: a, Attrs: attrs{"x": "y"}, Timeout: 1}), scalars)
		}
	}
}

func plainBytes(t testing.TB, v any) []byte {
	t.Helper()
	data, err := memcache.Gob.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSessionsAreWrittenLikePlainGob(t *testing.T) {
	eachSample(func(s session.Session, scalars bool) {
		want := plainBytes(t, s)
		// Maps are written in random order.
		for try := 0; ; try++ {
			got, err := Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(got, want) {
				break
			}
			if len(got) != len(want) && scalars || try > 1000 {
				t.Fatalf("got  %.1000x\nwant %.1000x", got, want)
			}
		}
		if ours := sessions.Encode(s); (ours != nil) != scalars {
			t.Errorf("%#v: not left to gob: %v, want %v", s.Attrs(), ours != nil, scalars)
		}
	})
}

func TestSessionsAreReadLikePlainGob(t *testing.T) {
	eachSample(func(s session.Session, scalars bool) {
		data := plainBytes(t, s)
		if _, err := gobstream.Checked(data); err != nil {
			t.Fatalf("%v: %x", err, data)
		}
		agree(t, data)
		for _, behind := range []string{"\x00", "trailer", string(data), string(data[len(sessions.Head):])} {
			agree(t, append(bytes.Clone(data), behind...))
		}
		if ours := sessions.Decode(data, session.NewSession()); ours != scalars {
			t.Errorf("%#v: not left to gob: %v, want %v", s.Attrs(), ours, scalars)
		}
	})
}

func TestFieldsThatAreZero(t *testing.T) {
	for i := range 1 << 6 {
		s := session.NewSessionOptions(&session.SessOptions{CAttrs: fourScalars, Attrs: fourScalars})
		for field := range 6 {
			if i>>field&1 == 1 {
				reflect.ValueOf(s).Elem().Field(field).SetZero()
			}
		}
		got, err := Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if want := plainBytes(t, s); len(got) != len(want) {
			t.Errorf("without fields %06b: got  %x\nwant %x", i, got, want)
		}
		agree(t, got)
	}
}

// If this fails, icza/session or gob has changed, and all is left to gob.
func TestSessionsHaveAFormThatIsKnown(t *testing.T) {
	if sessions == nil {
		t.Errorf("%+v has other fields than expected, or gob writes them in another way", session.NewSession())
	}
}

// Sessions as another version of icza/session could make them.
type (
	reordered struct {
		TimeoutF  time.Duration
		AttrsF    attrs
		noted     string
		CAttrsF   attrs
		CreatedF  time.Time
		IDF       string
		AccessedF time.Time
	}
	withMore struct {
		reordered
		IDF                 string
		CreatedF, AccessedF time.Time
		CAttrsF, AttrsF     attrs
		TimeoutF            time.Duration
		Version             int
	}
	withLess struct {
		IDF                 string
		CreatedF, AccessedF time.Time
		CAttrsF, AttrsF     attrs
	}
	withOther struct {
		IDF                 []byte
		CreatedF, AccessedF time.Time
		CAttrsF, AttrsF     attrs
		TimeoutF            time.Duration
	}
	renamed struct {
		ID                  string
		CreatedF, AccessedF time.Time
		CAttrsF, AttrsF     attrs
		TimeoutF            time.Duration
	}
	encodesItself struct {
		IDF                 string
		CreatedF, AccessedF time.Time
		CAttrsF, AttrsF     attrs
		TimeoutF            time.Duration
	}
)

func (encodesItself) GobEncode() ([]byte, error)   { return []byte("x"), nil }
func (*encodesItself) GobDecode(text []byte) error { return nil }

func TestFieldsAreFoundByTheirNames(t *testing.T) {
	now := time.Now()
	s := &reordered{TimeoutF: 5, AttrsF: attrs{"a": 1}, noted: "x", CAttrsF: attrs{"c": "b"}, CreatedF: now, IDF: "id", AccessedF: now.Add(1)}
	f := formOf(s)
	if f == nil {
		t.Fatal("no form of fields in another order")
	}
	data := f.Encode(s)
	if want := plainBytes(t, s); !bytes.Equal(data, want) {
		t.Errorf("got  %x\nwant %x", data, want)
	}
	var got reordered
	if !f.Decode(data, &got) || got.AttrsF["a"] != 1 || got.CAttrsF["c"] != "b" || got.IDF != "id" ||
		!got.AccessedF.Equal(s.AccessedF) || !got.CreatedF.Equal(now) || got.TimeoutF != 5 {
		t.Errorf("got %+v", got)
	}
	v := reflect.ValueOf(s).Elem()
	if v.Field(f.attrs).Interface().(attrs)["a"] != 1 {
		t.Errorf("got %+v", f)
	}
}

func TestSessionsWithOtherFieldsHaveNoForm(t *testing.T) {
	now, one := time.Now(), attrs{"a": 1}
	for _, sess := range []any{
		&withMore{IDF: "id", CreatedF: now, AccessedF: now, CAttrsF: one, AttrsF: one, TimeoutF: 1, Version: 1},
		&withLess{"id", now, now, one, one}, &withOther{[]byte("id"), now, now, one, one, 1}, &renamed{"id", now, now, one, one, 1},
		&encodesItself{"id", now, now, one, one, 1}, withLess{}, new(int), nil, one,
	} {
		if f := formOf(sess); f != nil {
			t.Errorf("%T: got %+v", sess, f)
		}
	}
}

func TestWithoutAFormAllIsLeftToGob(t *testing.T) {
	defer func(f *form) { sessions = f }(sessions)
	s := sessionWith(fourScalars)
	sessions = nil
	data, err := Marshal(s)
	if want := plainBytes(t, s); err != nil || len(data) != len(want) {
		t.Errorf("got %x, %v, want %x", data, err, want)
	}
	if got, err := UnmarshalSession(data); err != nil || !reflect.DeepEqual(got.Attrs(), fourScalars) {
		t.Errorf("got %v, %v", got, err)
	}
	if attrs, ok := Scalars(s); ok {
		t.Errorf("got %v", attrs)
	}
}

func TestScalarsAreTheAttributes(t *testing.T) {
	s := sessionWith(fourScalars)
	got, ok := Scalars(s)
	if !ok || !reflect.DeepEqual(got, fourScalars) {
		t.Errorf("got %v, %v", got, ok)
	}
	for name, s := range map[string]session.Session{"a struct": sessionWith(attrs{"a": item{}}), "nil": nil, "another type": (*otherSession)(nil)} {
		if got, ok := Scalars(s); ok {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

type otherSession struct{ session.Session }

func TestErrorsOfEncodingAreThoseOfGob(t *testing.T) {
	badTime := sessionWith(fourScalars)
	*reflect.ValueOf(badTime).Elem().Field(1).Addr().Interface().(*time.Time) = time.Now().In(time.FixedZone("", 1<<21))
	for _, v := range []any{nil, badTime, sessionWith(attrs{"a": unknown{1}}), sessionWith(attrs{"a": make(chan int)}),
		sessionWith(attrs{"a": (*int)(nil), "b": 1})} {
		_, want := memcache.Gob.Marshal(v)
		if _, err := Marshal(v); want == nil || err == nil || err.Error() != want.Error() {
			t.Errorf("%#v: got %v, want %v", v, err, want)
		}
	}
	if got, err := Marshal(item{Name: "x"}); err != nil || !bytes.Equal(got, plainBytes(t, item{Name: "x"})) {
		t.Errorf("a struct: got %x, %v", got, err)
	}
}

// read calls f and returns a panic as an error.
func read(f func() (session.Session, error)) (s session.Session, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// agree checks that data is read as plain gob reads it, or refused.
func agree(t testing.TB, data []byte) {
	t.Helper()
	if _, err := gobstream.Checked(data); err != nil { // plain gob may ask for more memory than there is
		if s, err := UnmarshalSession(data); err == nil {
			t.Errorf("got %v of what is refused; data %x", s, data)
		}
		return
	}
	plain := func() (session.Session, error) {
		s := session.NewSession()
		return s, memcache.Gob.Unmarshal(data, s)
	}
	want, wantErr := read(plain)
	got, err := read(func() (session.Session, error) { return UnmarshalSession(data) })
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Errorf("got error %v, want %v; data %x", err, wantErr, data)
		return
	}
	if err != nil {
		return
	}
	again, _ := read(plain)
	for i := range 6 {
		g, w, a := value(got, i), value(want, i), value(again, i)
		// A field that is not in the data is random, or the time of the call.
		if g != w && w == a {
			t.Errorf("got %s, want %s; data %x", g, w, data)
		}
	}
}

// value prints a field so that NaN equals NaN, and nil differs from empty.
func value(s session.Session, field int) string {
	v := reflect.ValueOf(s).Elem().Field(field).Interface()
	if at, ok := v.(time.Time); ok {
		text, _ := at.MarshalBinary()
		return fmt.Sprintf("%x", text)
	}
	return fmt.Sprintf("%#v", v)
}

func damaged(t testing.TB) [][]byte {
	return [][]byte{
		plainBytes(t, session.NewSessionOptions(&session.SessOptions{
			CAttrs: attrs{"c": true}, Attrs: attrs{"a": "text", "b": -5, "d": 1.5, "e": int8(9)}})),
		plainBytes(t, sessionWith(attrs{"a": 1, "b": item{"book", 1, []string{"x"}}, "c": secret{"hush"}})),
	}
}

func TestDamagedStreams(t *testing.T) {
	for _, data := range damaged(t) {
		for i := range data {
			agree(t, data[:i])
			old := data[i]
			for _, b := range []byte{
				old ^ 1, old ^ 2, old ^ 0x80, old + 1, old - 1, 0, 1, 0x7f, 0x80, 0xf7, 0xf8, 0xfe, 0xff,
			} {
				changed := bytes.Clone(data)
				changed[i] = b
				agree(t, changed)
			}
			agree(t, append(bytes.Clone(data[:i]), data[i+1:]...))
		}
	}
}

func TestRandomStreams(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	good := damaged(t)
	for range 2000 {
		data := bytes.Clone(good[rng.IntN(len(good))])
		for range 1 + rng.IntN(4) {
			i, j := rng.IntN(len(data)), rng.IntN(len(data))
			if rng.IntN(4) > 0 { // mostly in the value
				i = len(sessions.Head) + rng.IntN(len(data)-len(sessions.Head))
			}
			switch rng.IntN(4) {
			case 0:
				data[i] = byte(rng.Uint32())
			case 1:
				data[i] = data[j]
			case 2:
				data = append(data[:i:i], append([]byte{byte(rng.Uint32())}, data[i:]...)...)
			case 3:
				data = append(data[:i:i], data[min(len(data)-1, i+1+rng.IntN(3)):]...)
			}
		}
		agree(t, data)
		noise := make([]byte, rng.IntN(40))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		agree(t, noise)
		agree(t, append(bytes.Clone(sessions.Head), noise...))
	}
}

// withAttrs returns a stream of a session with these bytes for the attributes.
func withAttrs(attrs string) []byte {
	value := append(gobstream.AppendUint(nil, gobstream.Zigzag(sessions.ID)), 5)
	return gobstream.AppendText(bytes.Clone(sessions.Head), append(append(value, attrs...), 0))
}

func TestStreamsNoEncoderWrites(t *testing.T) {
	for name, attrs := range map[string]string{
		"good":                       "\x01\x01a\x03int\x04\x02\x00\x0a",
		"a wrong length of a value":  "\x01\x01a\x03int\x04\x01\x00\x0a",
		"a longer number":            "\x01\x01a\x03int\x04\x0a\x00\xf8\x00\x00\x00\x00\x00\x00\x00\x0a",
		"a number too long":          "\x01\x01a\x03int\x04\x0b\x00\xf7\x00\x00\x00\x00\x00\x00\x00\x00\x0a",
		"int8 out of range":          "\x01\x01a\x04int8\x04\x04\x00\xfe\x01\x00",
		"bool 2":                     "\x01\x01a\x04bool\x02\x02\x00\x02",
		"float32 with more digits":   "\x01\x01a\x07float32\x08\x0a\x00\xf8\x9a\x99\x99\x99\x99\x99\xf1\x3f",
		"a huge float32":             "\x01\x01a\x07float32\x08\x0a\x00\xf8\xff\xff\xff\xff\xff\xff\xef\x7f",
		"not zero before a value":    "\x01\x01a\x03int\x04\x02\x01\x0a",
		"another type's id":          "\x01\x01a\x03int\x06\x02\x00\x0a",
		"no id":                      "\x01\x01a\x03int\x00\x02\x00\x0a",
		"unknown name":               "\x01\x01a\x03inT\x00\x02\x00\x0a",
		"a definition before an int": "\x01\x01a\x03int\xfe\x0f\x9f\x02\x01\x01\x01s\x00\x01\x04\x00\x00\x03\x04\x02\x00\x0a",
		"an attribute twice":         "\x02\x01a\x03int\x04\x02\x00\x0a\x01a\x03int\x04\x02\x00\x0c",
		"good, then damaged":         "\x02\x01a\x03int\x04\x02\x00\x0a\x01b\x04bool\x02\x02\x00\x02",
		"a negative count":           "\xf8\xff\xff\xff\xff\xff\xff\xff\xff",
		"a count too large":          "\xfc\x01\x00\x00\x00",
		"nil":                        "\x01\x01a\x00",
		"bytes behind the end":       "\x01\x01a\x03int\x04\x02\x00\x0a\x00\x01",
		"a seventh field":            "\x00\x01\x0a\x01\x05",
		"a field too far":            "\x00\xf8\xff\xff\xff\xff\xff\xff\xff\xff",
		"a text too long":            "\x01\xf8\x7f\xff\xff\xff\xff\xff\xff\xff",
	} {
		data := withAttrs(attrs)
		agree(t, data)
		if s, err := UnmarshalSession(data); strings.HasPrefix(name, "good") && (err != nil || s.Attr("a") != 5) {
			t.Errorf("%s: got %v, %v", name, s, err)
		}
		data = gobstream.AppendText(bytes.Clone(sessions.Head), data[len(sessions.Head)+1:len(data)-1])
		agree(t, data) // without an end
	}
}

func TestMoreThan24AttributesAreReadByGob(t *testing.T) {
	many := attrs{}
	for i := range 25 {
		data := plainBytes(t, sessionWith(many))
		if ours := sessions.Decode(data, session.NewSession()); !ours {
			t.Errorf("%d are left to gob", i)
		}
		many[fmt.Sprint("attribute", i)] = i
	}
	data := plainBytes(t, sessionWith(many))
	if sessions.Decode(data, session.NewSession()) {
		t.Errorf("%d are not", len(many))
	}
	agree(t, data)
}

// What gob has to do is not done before as well. Checking a stream is what is
// allowed for.
func TestNothingIsDoneTwice(t *testing.T) {
	many := attrs{}
	for i := range 24 {
		many[fmt.Sprint("attribute", i)] = fmt.Sprint("text", i)
	}
	s := session.NewSessionOptions(&session.SessOptions{CAttrs: many, Attrs: attrs{"a": item{Name: "b"}}})
	data := plainBytes(t, s)
	for name, do := range map[string][2]func() error{
		"Marshal": {
			func() error { _, err := memcache.Gob.Marshal(s); return err },
			func() error { _, err := Marshal(s); return err },
		},
		"UnmarshalSession": {
			func() error { return memcache.Gob.Unmarshal(data, session.NewSession()) },
			func() error { _, err := UnmarshalSession(data); return err },
		},
	} {
		var allocs [2]float64
		for i, do := range do {
			allocs[i] = testing.AllocsPerRun(100, func() {
				if err := do(); err != nil {
					t.Error(err)
				}
			})
		}
		if allocs[1] > allocs[0]+8 {
			t.Errorf("%s: got %v allocations, plain gob makes %v", name, allocs[1], allocs[0])
		}
	}
}

func TestHeadsOfOtherBuilds(t *testing.T) {
	mine, now := plainBytes(t, sessionWith(fourScalars)), time.Now()
	all := [][]byte{mine,
		plainBytes(t, oldSession{"id", now, fourScalars, 5}),
		plainBytes(t, oldSession{"id", now, fourScalars, item{Name: "x"}}),
		plainBytes(t, newSession{3, "id", now, now, now, fourScalars, fourScalars, 9}),
		plainBytes(t, item{Name: "x"}), plainBytes(t, 5), nil}
	for _, a := range all {
		agree(t, a)
		for _, b := range all {
			agree(t, append(bytes.Clone(a[:min(len(a), len(sessions.Head))]), b[min(len(b), len(sessions.Head)):]...))
			agree(t, append(bytes.Clone(a), b...))
		}
	}
	for _, data := range all[:4] {
		if s, err := UnmarshalSession(data); err != nil || s.Attr("visits") != 42 {
			t.Errorf("got %v, %v", s, err)
		}
	}
}

func TestManyGoroutines(t *testing.T) {
	var all []session.Session
	eachSample(func(s session.Session, _ bool) { all = append(all, s) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for _, i := range rand.Perm(len(all)) {
				data, err := Marshal(all[i])
				if err != nil {
					t.Error(err)
				}
				agree(t, data)
			}
		}()
	}
	wg.Wait()
}
