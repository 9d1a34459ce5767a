package gobcodec

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"math/cmplx"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"
)

// samples are sessions by the values of their attributes. Those marked with * have type definitions or nil inside their values.
func samples() map[string]session.Session {
	deep := map[string]any{"a": map[string]any{"b": map[string]any{"c": "d"}}}
	m := map[string]session.Session{
		"no attributes": session.NewSession(),
		"constant attributes": session.NewSessionOptions(&session.SessOptions{
			CAttrs: map[string]any{"user": "alice", "since": time.Unix(1e9, 5)}, Timeout: time.Hour}),
		"negative timeout": session.NewSessionOptions(&session.SessOptions{Timeout: -time.Second}),
		"four scalars":     fourScalars(),
		"structs within structs *": sessionWith(map[string]any{"cart": cart{Owner: "alice",
			Items: []item{{"book", 9.5, roles{"gift"}}, {"pen", 1, map[string]any{"x": matrix{{1, 2}, {3, 4}}}}},
			Notes: map[string]any{"n": item{Name: "inner"}}}}),
		"struct in a map *":          sessionWith(map[string]any{"m": map[string]any{"i": item{Name: "x"}}}),
		"struct in a map in a map *": sessionWith(map[string]any{"m": map[string]any{"m": map[string]any{"i": item{Extra: roles{"r"}}}}}),
		"big *":                      sessionWith(map[string]any{"r": make(roles, 5000), "s": strings.Repeat("x", 200<<10)}),
	}
	for name, v := range map[string]any{
		"bool": true, "false": false, "int": -7, "int8": int8(-8), "int16": int16(-16), "int32": int32(-32),
		"int64": int64(math.MinInt64), "uint": uint(7), "uint8": uint8(8), "uint16": uint16(16), "uint32": uint32(32),
		"uint64": uint64(math.MaxUint64), "uintptr": uintptr(9), "float32": float32(1.5), "float64": math.Pi,
		"infinity": math.Inf(-1), "NaN": math.NaN(), "complex64": complex64(1 + 2i), "complex128": cmplx.Sqrt(-1),
		"string": "text", "empty string": "", "bytes": []byte{0, 255, 1}, "empty bytes": []byte{},
		"time": time.Date(2024, 2, 29, 1, 2, 3, 4, time.FixedZone("", 3600)), "zero time": time.Time{},
		"duration": time.Minute, "named int": userID(5),
		"string of 60 KB": strings.Repeat("a", 60<<10), "string of 500 KB": strings.Repeat("b", 500<<10),
		"map": map[string]any{"a": 1, "b": "two"}, "map with nil *": map[string]any{"a": nil}, "empty map": map[string]any{}, "deep map": deep,
		"slice *": []any{1, "two", nil, 3.0, []any{}}, "named slice *": roles{"admin", ""}, "array *": matrix{{1}, {2, 3}},
		"map of ints *": map[string]int{"a": 1}, "map of structs *": map[int]cart{1: {Owner: "bob"}, 2: {}},
		"struct *": item{"book", 9.5, 3}, "zero struct *": item{}, "self-encoding *": secret{"hush"},
		"strings *": []string{"a", "b"}, "ints *": []int{1, 2, 3},
		"slice of structs in a struct *": cart{Items: []item{{Extra: item{Extra: item{Extra: secret{"x"}}}}}},
	} {
		m["attribute "+name] = sessionWith(map[string]any{"attr": v})
	}
	return m
}

// simple reports whether a kept decoder may read a sample of this name.
func simple(name string) bool { return !strings.HasSuffix(name, "*") }

func TestSessionsAreReadAndWrittenLikePlainGob(t *testing.T) {
	for name, s := range samples() {
		t.Run(name, func(t *testing.T) {
			for i := 0; i < 4; i++ { // The first may be new, those after it kept.
				ours, err := Marshal(s)
				if err != nil {
					t.Fatalf("Marshal: %v", err)
				}
				plain := plainBytes(t, s)
				// Maps are encoded in random order, so the same bytes may take a few attempts.
				for try := 0; !bytes.Equal(ours, plain) && try < 1000; try++ {
					if ours, err = Marshal(s); err != nil {
						t.Fatalf("Marshal: %v", err)
					}
				}
				if !bytes.Equal(ours, plain) {
					t.Fatalf("Marshal: got  %.1000x\nwant %.1000x", ours, plain)
				}
				for from, data := range map[string][]byte{"ours": ours, "plain": plain} {
					want, err := plainSession(data)
					if err != nil {
						t.Fatalf("plain gob reads %s: %v", from, err)
					}
					wantSame(t, "plain gob reads "+from, want, mustDecode(t, plain))
					got, err := UnmarshalSession(data)
					if err != nil {
						t.Fatalf("UnmarshalSession of %s: %v", from, err)
					}
					wantSame(t, "UnmarshalSession of "+from, got, want)
					own := session.NewSession()
					if err := Unmarshal(data, own); err != nil {
						t.Fatalf("Unmarshal of %s: %v", from, err)
					}
					wantSame(t, "Unmarshal of "+from, own, want)
					in, err := inspect(data)
					if wantKeep := simple(name) && len(data) < maxMessage; err != nil || in.keepable != wantKeep {
						t.Errorf("%s: keepable: got %v, %v, want %v", from, in.keepable, err, wantKeep)
					}
				}
			}
		})
	}
}

func mustDecode(t testing.TB, data []byte) session.Session {
	t.Helper()
	s, err := plainSession(data)
	if err != nil {
		t.Fatalf("plain gob: %v", err)
	}
	return s
}

func TestDifferentSessionsInTurnDoNotMix(t *testing.T) {
	all := samples()
	for round := 0; round < 3; round++ {
		for name, s := range all { // in a new order each time
			data, err := Marshal(s)
			if err != nil {
				t.Fatalf("%s: Marshal: %v", name, err)
			}
			got, err := UnmarshalSession(data)
			if err != nil {
				t.Fatalf("%s: UnmarshalSession: %v", name, err)
			}
			wantSame(t, name, got, mustDecode(t, plainBytes(t, s)))
		}
	}
}

func TestOtherValuesGoThroughPlainGob(t *testing.T) {
	for _, v := range []any{42, "text", []string{"a"}, cart{Owner: "x"}, &item{Name: "p"}} {
		got, err := Marshal(v)
		if err != nil {
			t.Fatalf("Marshal(%#v): %v", v, err)
		}
		if want := plainBytes(t, v); !bytes.Equal(got, want) {
			t.Errorf("Marshal(%#v): got %x, want %x", v, got, want)
		}
	}
	var got item
	if err := Unmarshal(plainBytes(t, item{Name: "p"}), &got); err != nil || got.Name != "p" {
		t.Errorf("Unmarshal: got %+v, %v", got, err)
	}
	var s session.Session
	if err := Unmarshal(plainBytes(t, 1), &s); err == nil {
		t.Error("Unmarshal of an int into a nil session: no error")
	}
}

func TestNothingToEncodeIsAnError(t *testing.T) {
	if _, err := Marshal(nil); err == nil {
		t.Error("Marshal(nil): no error")
	}
	if _, err := Marshal((*item)(nil)); err == nil {
		t.Error("Marshal of a nil pointer: no error")
	}
}

func TestErrorsOfEncodingAreThoseOfGob(t *testing.T) {
	var nilPointer *int
	for name, v := range map[string]any{
		"unregistered": unknown{1}, "channel": make(chan int), "function": func() {}, "nil pointer": nilPointer,
		"unregistered in a map":    map[string]any{"u": unknown{2}},
		"unregistered in a struct": item{Extra: unknown{3}},
	} {
		s := sessionWith(map[string]any{"attr": v})
		for i := 0; i < 3; i++ {
			if _, err := Marshal(fourScalars()); err != nil { // so that an encoder is kept
				t.Fatal(err)
			}
			_, want := memcache.Gob.Marshal(s)
			if _, err := Marshal(s); errText(err) != errText(want) || err == nil {
				t.Errorf("%s: got %v, want %v", name, err, want)
			}
		}
	}
}

func TestErrorsOfDecodingAreThoseOfGob(t *testing.T) {
	good := plainBytes(t, sessionWith(map[string]any{"attr": "value"}))
	mark := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	hush := plainBytes(t, sessionWith(map[string]any{"attr": secret{"hush"}}))
	for name, data := range map[string][]byte{
		"a name nobody registered": mark("\x06string", "\x06strinh"),
		"a name of another type":   mark("\x06string", "\x06uint16"),
		"GobDecode fails":          bytes.Replace(hush, []byte("hush"), []byte("!ush"), 1),
		"an int instead":           plainBytes(t, 5),
		"another struct instead":   plainBytes(t, item{Name: "x"}),
	} {
		for i := 0; i < 3; i++ {
			if _, err := UnmarshalSession(good); err != nil { // so that a decoder is kept
				t.Fatal(err)
			}
			_, want := plainSession(data)
			if s, err := UnmarshalSession(data); errText(err) != errText(want) || err == nil || s != nil {
				t.Errorf("%s: got %v, %v, want nil, %v", name, s, err, want)
			}
			agree(t, data)
		}
	}
}

func TestBytesAfterTheValueAreIgnored(t *testing.T) {
	data := plainBytes(t, fourScalars())
	for _, tail := range []string{"\x00", "garbage", string(data)} {
		agree(t, append(bytes.Clone(data), tail...))
		if _, err := UnmarshalSession(append(bytes.Clone(data), tail...)); err != nil {
			t.Errorf("with %.10q: %v", tail, err)
		}
	}
}

func TestEveryTruncationIsAnError(t *testing.T) {
	for name, s := range damaged() {
		data := plainBytes(t, s)
		for n := range data {
			agree(t, data[:n])
			if _, err := UnmarshalSession(data[:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes: no error", name, n, len(data))
			}
		}
	}
	if _, err := UnmarshalSession(nil); !errors.Is(err, io.EOF) || !errors.Is(err, ErrMalformed) {
		t.Errorf("no bytes at all: got %v, want EOF and ErrMalformed", err)
	}
}

func TestEveryFlippedBitIsReadLikePlainGob(t *testing.T) {
	for _, s := range damaged() {
		data := plainBytes(t, s)
		for i := range data {
			for bit := 0; bit < 8; bit++ {
				flipped := bytes.Clone(data)
				flipped[i] ^= 1 << bit
				agree(t, flipped)
			}
		}
		agree(t, data)
	}
}

// damaged are the sessions whose bytes are cut and flipped.
func damaged() map[string]session.Session {
	return map[string]session.Session{
		"scalars": sessionWith(map[string]any{"a": "text", "b": 5, "c": time.Unix(1e9, 0), "d": map[string]any{"e": 1.5}}),
		"structs": sessionWith(map[string]any{"a": item{"book", 1, roles{"x"}}, "b": map[string]any{"c": cart{Owner: "o"}}}),
	}
}

// The sessions of older and newer builds.
type (
	skippedNil struct {
		IDF     string
		Removed map[string]any
		AttrsF  map[string]any
	}
	olderSession struct {
		IDF               string
		CreatedF          time.Time
		AttrsF            map[string]any
		TimeoutF          time.Duration
		Removed           any
		RemovedMap        map[string]any
		RemovedSliceOfAny []any
	}
	newerSession struct {
		Version                   int
		IDF                       string
		CreatedF, AccessedF, Used time.Time
		CAttrsF, AttrsF           map[string]any
		TimeoutF                  time.Duration
	}
	otherTypes struct {
		IDF      string
		CreatedF int
		AttrsF   map[string]any
	}
	noCommonField struct{ X string }
)

// foreign are streams with other prefixes than this build's sessions have.
func foreign(t testing.TB) map[string][]byte {
	now := time.Unix(1e9, 0)
	attrs := map[string]any{"a": "b"}
	return map[string][]byte{
		"older": plainBytes(t, olderSession{"id", now, attrs, 5, 7, attrs, []any{1, "x", attrs}}),
		"older, dropped attribute of a struct type": plainBytes(t, olderSession{"id", now, attrs, 5, item{Name: "i"}, attrs, nil}),
		"newer":                  plainBytes(t, newerSession{3, "id", now, now, now, attrs, attrs, 9}),
		"nil in a dropped field": plainBytes(t, skippedNil{"id", map[string]any{"n": nil}, attrs}),
		"other types":            plainBytes(t, otherTypes{"id", 4, attrs}),
		"no common field":        plainBytes(t, noCommonField{"x"}),
	}
}

func TestSessionsOfOtherBuildsAreReadLikePlainGob(t *testing.T) {
	mine := plainBytes(t, fourScalars())
	for i := 0; i < 3; i++ {
		for name, data := range foreign(t) {
			agree(t, data)
			agree(t, mine)
			_, err := UnmarshalSession(data)
			if fine := name == "older" || name == "newer" || strings.HasPrefix(name, "older,"); fine != (err == nil) {
				t.Errorf("%s: got error %v", name, err)
			}
		}
	}
}

func TestPrefixesOfOneBuildAndValuesOfAnother(t *testing.T) {
	all := foreign(t)
	all["mine"] = plainBytes(t, sessionWith(map[string]any{"a": "b"}))
	all["structs"] = plainBytes(t, sessionWith(map[string]any{"a": item{Name: "b"}}))
	for _, a := range all {
		for _, b := range all {
			i, err := valueOffset(a)
			if err != nil {
				t.Fatal(err)
			}
			j, err := valueOffset(b)
			if err != nil {
				t.Fatal(err)
			}
			agree(t, append(bytes.Clone(a[:i]), b[j:]...))
			agree(t, append(bytes.Clone(a[:i]), b...))
		}
	}
}

func TestAFailedAttemptLeavesNothingBehind(t *testing.T) {
	data := plainBytes(t, sessionWith(map[string]any{"mine": 1}))
	at, err := valueOffset(data)
	if err != nil {
		t.Fatal(err)
	}
	// A kept decoder gone wrong: it answers with somebody else's session.
	alien := plainBytes(t, session.NewSessionOptions(&session.SessOptions{
		CAttrs: map[string]any{"alien": true}, Attrs: map[string]any{"alien": 1}}))
	spoil := func() {
		p := prefixes.find(data[:at])
		if p == nil {
			t.Fatal("the prefix is not known")
		}
		for p.free.Get() != nil {
		}
		p.free.Put(&keptDecoder{dec: gob.NewDecoder(bytes.NewReader(alien))})
	}
	if _, err := UnmarshalSession(data); err != nil {
		t.Fatal(err)
	}
	want := mustDecode(t, data)
	spoil()
	got, err := UnmarshalSession(data)
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, "UnmarshalSession", got, want)
	if _, err := UnmarshalSession(data); err != nil {
		t.Fatal(err)
	}
	spoil()
	own := session.NewSession()
	if err := Unmarshal(data, own); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "Unmarshal", own, want)
	spoil()
	used, plain := sessionWith(map[string]any{"old": 2}), sessionWith(map[string]any{"old": 2})
	if err := Unmarshal(data, used); err != nil {
		t.Fatal(err)
	}
	if err := memcache.Gob.Unmarshal(data, plain); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "Unmarshal into a session in use", used, plain)
}

func TestUnmarshalIntoASessionInUseAddsToIt(t *testing.T) {
	data := plainBytes(t, sessionWith(map[string]any{"new": 1}))
	ours, plain := sessionWith(map[string]any{"old": 2}), sessionWith(map[string]any{"old": 2})
	if err := Unmarshal(data, ours); err != nil {
		t.Fatal(err)
	}
	if err := memcache.Gob.Unmarshal(data, plain); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "Unmarshal", ours, plain)
}

func TestRememberedPrefixesAreBounded(t *testing.T) {
	defer func(before *prefixTable) { prefixes = before }(prefixes)
	prefixes = newPrefixTable()
	good := plainBytes(t, fourScalars())
	at, err := valueOffset(good)
	if err != nil {
		t.Fatal(err)
	}
	// A definition nobody uses makes a prefix as different as one likes.
	strange := func(i int) []byte {
		name := fmt.Sprintf("strange%05d", i)
		body := append([]byte{0xfe, 0x0f, 0x9f, 0x02, 0x01, 0x01, byte(len(name))}, name...) // id -2000: slice type, name,
		body = append(body, 0x00, 0x01, 0x04, 0x00, 0x00)                                    // of ints
		return append(append([]byte{byte(len(body))}, body...), good...)
	}
	for i := 0; i < 500; i++ {
		if _, err := UnmarshalSession(strange(i)); err != nil {
			t.Fatalf("strange prefix %d: %v", i, err)
		}
		if i%10 == 0 { // Used now and then, the good one stays.
			if _, err := UnmarshalSession(good); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(prefixes.known); n > maxPrefixes {
			t.Fatalf("got %d prefixes, want at most %d", n, maxPrefixes)
		}
	}
	if prefixes.known[string(good[:at])] == nil {
		t.Error("strange prefixes pushed out the one in use")
	}
	for i := 0; i < 100; i++ {
		if _, err := UnmarshalSession(strange(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := UnmarshalSession(good); err != nil {
		t.Fatal(err)
	}
	if prefixes.known[string(good[:at])] == nil {
		t.Error("the good prefix does not come back after strange ones")
	}
	long := strange(1)
	for i := 2; len(long) < maxPrefix+len(good); i++ {
		next := strange(i)
		next = next[:len(next)-len(good)]
		next[2], next[3] = byte(((2000+i)*2-1)>>8), byte((2000+i)*2-1)
		long = append(next, long...)
	}
	if _, err := UnmarshalSession(long); err != nil {
		t.Fatalf("long prefix: %v", err)
	}
	for p := range prefixes.known {
		if len(p) > maxPrefix {
			t.Errorf("a prefix of %d bytes is remembered, want at most %d", len(p), maxPrefix)
		}
	}
}

func TestManyGoroutines(t *testing.T) {
	all := samples()
	delete(all, "big *")
	delete(all, "attribute string of 500 KB")
	delete(all, "attribute NaN")
	others := foreign(t)
	var wg sync.WaitGroup
	for g := 0; g < 8; g++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for round := 0; round < 3; round++ {
				for name, s := range all {
					data, err := Marshal(s)
					if err != nil {
						t.Errorf("%s: Marshal: %v", name, err)
						return
					}
					got, err := UnmarshalSession(data)
					if err != nil {
						t.Errorf("%s: UnmarshalSession: %v", name, err)
						return
					}
					want, err := plainSession(data)
					if err != nil {
						t.Errorf("%s: plain gob: %v", name, err)
						return
					}
					wantSame(t, name, got, want)
				}
				for name, data := range others {
					_, want := plainSession(data)
					if _, err := UnmarshalSession(data); errText(err) != errText(want) {
						t.Errorf("%s: got %v, want %v", name, err, want)
					}
				}
			}
		}()
	}
	wg.Wait()
}
