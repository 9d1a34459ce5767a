package tiered

import (
	"bytes"
	"encoding/gob"
	"errors"
	"hash/crc32"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The stored form.

func sample(cells int) *state {
	st := &state{
		value: []byte("the session"),
		used:  1_700_000_000_000_001, ends: 1_700_000_001_800_001,
		born: 1_600_000_000_000_001, swept: 1_650_000_000_000_001,
		maxAge: -86400, owner: OwnerOf("scope", "owner"),
		unsavedUse: cells%2 == 0, unsavedAll: cells%3 == 0,
		next: 1_700_000_000_500_000, tries: uint8(cells), seal: nonce{1, 2, 3, 4, 5, 6, 7, 8},
		token: []byte("token of the backup"),
	}
	all := make([]cell, cells)
	for i := range all {
		all[i] = cell{name: nameOf(strconv.Itoa(i)), at: stamp(i+1) << stampShift, unsaved: i%3 == 0}
		if i%5 == 0 {
			all[i].at |= deletedBit
			all[i].aged = i%2 == 0
		}
	}
	st.set(all)
	return st
}

func sameState(a, b *state) bool {
	x, y := *a, *b
	return slices.Equal(x.cells, y.cells) && bytes.Equal(x.value, y.value) && bytes.Equal(x.token, y.token) &&
		x.used == y.used && x.ends == y.ends && x.born == y.born && x.swept == y.swept &&
		x.next == y.next && x.tries == y.tries && x.seal == y.seal &&
		x.maxAge == y.maxAge && x.owner == y.owner &&
		x.unsavedUse == y.unsavedUse && x.unsavedAll == y.unsavedAll && x.absent == y.absent
}

func TestAnItemIsReadAsItWasWritten(t *testing.T) {
	for cells := range 101 {
		for _, token := range []string{"", "t", strings.Repeat("t", 64)} {
			st := sample(cells)
			st.token = []byte(token)
			got, hasTrailer, err := decode(id, st.encode(id, true))
			if err != nil || !hasTrailer || !sameState(got, st) {
				t.Fatalf("%d cells: got %+v, %v, %v; want %+v", cells, got, hasTrailer, err, st)
			}
			if n := len(st.encode(id, true)) - len(st.value); n != st.trailerSize() {
				t.Fatalf("%d cells: the trailer has %d bytes, and its size is %d", cells, n, st.trailerSize())
			}
			if n := len(st.encode(id, false)); n > st.recordSize() {
				t.Fatalf("%d cells: the record has %d bytes, and its size is %d", cells, n, st.recordSize())
			}
		}
	}
}

func TestAnItemWithoutTimesIsReadAsItWasWritten(t *testing.T) {
	st := &state{value: []byte("v"), cells: []cell{}}
	got, hasTrailer, err := decode(id, st.encode(id, true))
	if err != nil || !hasTrailer || !sameState(got, st) || got.ends != 0 || got.next != 0 || got.born != 0 {
		t.Fatalf("got %+v, %v, %v; want %+v", got, hasTrailer, err, st)
	}
}

func TestARecordKeepsWhatARecordSays(t *testing.T) {
	for cells := range 101 {
		st := sample(cells)
		got, hasTrailer, err := decode(id, st.encode(id, false))
		want := st.clone().markSaved()
		want.token = nil
		if err != nil || !hasTrailer || !sameState(got, want) {
			t.Fatalf("%d cells: got %+v, %v, %v; want %+v", cells, got, hasTrailer, err, want)
		}
	}
}

func TestBytesWithoutATrailerAreToldFromThoseWithOne(t *testing.T) {
	whole := sample(3).encode(id, true)
	for _, b := range [][]byte{nil, {}, []byte("a=1"), []byte(trailerMagic[:7]), []byte(trailerMagic[1:]), whole[:len(whole)-1]} {
		if st, hasTrailer, err := decode(id, b); st != nil || hasTrailer || err != nil {
			t.Errorf("%q: got %v, %v, %v", b, st, hasTrailer, err)
		}
	}
}

func TestADamagedByteIsNeverTakenForAState(t *testing.T) {
	for _, cells := range []int{0, 1, 7, 8, 9, 40} {
		for _, item := range []bool{false, true} {
			whole := sample(cells).encode(id, item)
			for i := range whole {
				for _, flip := range []byte{0x01, 0x80, 0xff} {
					b := bytes.Clone(whole)
					b[i] ^= flip
					st, hasTrailer, err := decode(id, b)
					inMagic := i >= len(whole)-len(trailerMagic)
					switch {
					case inMagic && (hasTrailer || err != nil || st != nil):
						t.Fatalf("byte %d, in the magic number: got %v, %v, %v", i, st, hasTrailer, err)
					case !inMagic && (!hasTrailer || !errors.Is(err, errDamaged) || st != nil):
						t.Fatalf("byte %d: got %v, %v, %v; want that it is damaged", i, st, hasTrailer, err)
					}
				}
			}
		}
	}
}

func TestAShortenedItemIsNeverTakenForAState(t *testing.T) {
	whole := sample(9).encode(id, true)
	for n := range whole {
		if st, _, _ := decode(id, whole[n:]); st != nil && n > 0 {
			t.Errorf("without its first %d bytes it is %+v", n, st)
		}
		if st, _, _ := decode(id, whole[:n]); st != nil {
			t.Errorf("without all but its first %d bytes it is %+v", n, st)
		}
	}
}

func TestBytesThatWereWrittenUnderAnotherIDAreNoState(t *testing.T) {
	for _, item := range []bool{false, true} {
		st, hasTrailer, err := decode("another", sample(3).encode(id, item))
		if st != nil || !hasTrailer || !errors.Is(err, errOtherKey) || !errors.Is(err, errDamaged) {
			t.Errorf("got %v, %v, %v; want that they belong to another id", st, hasTrailer, err)
		}
	}
}

// A trailer may be long enough and unharmed, and say what cannot be.
func TestATrailerThatContradictsItselfIsDamaged(t *testing.T) {
	whole := sample(2).encode(id, true)
	forged := func(change func(b []byte) []byte) []byte {
		return sealForm(change(bytes.Clone(whole[:len(whole)-trailerEnd])), whole)
	}
	value := len(sample(2).value)
	count := value + trailerHead - 4
	for name, b := range map[string][]byte{
		"more cells than bytes":     forged(func(b []byte) []byte { b[count] = 0xff; return b }),
		"cells without their bits":  forged(func(b []byte) []byte { return b[:count+4+2*cellSize] }),
		"half of the marks":         forged(func(b []byte) []byte { return b[:count+4+2*cellSize+1+5] }),
		"no bits of what's unsaved": forged(func(b []byte) []byte { return b[:count+4+2*cellSize+1+itemHead] }),
		"no value":                  forged(func(b []byte) []byte { return b[value:] }),
		"no head":                   forged(func(b []byte) []byte { return b[:value+10] }),
		"longer than it is": func() []byte {
			b := append(bytes.Clone(whole[:20]), 0xff, 0, 0, 0)
			sum := checksumOf(b)
			return append(append(b, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)), trailerMagic...)
		}(),
	} {
		if st, hasTrailer, err := decode(id, b); st != nil || !hasTrailer || !errors.Is(err, errDamaged) {
			t.Errorf("%s: got %v, %v, %v; want that it is damaged", name, st, hasTrailer, err)
		}
	}
}

// sealForm ends b, a value of the length in like and a trailer, as encode does.
func sealForm(b, like []byte) []byte {
	valueLen := min(len(sample(2).value), len(b))
	if !bytes.HasPrefix(b, sample(2).value) {
		valueLen = 0
	}
	n := uint32(len(b) - valueLen)
	b = append(bytes.Clone(b), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	sum := checksumOf(b)
	b = append(b, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
	return append(b, like[len(like)-len(trailerMagic):]...)
}

func checksumOf(b []byte) uint32 { return crc32.Checksum(b, checksums) }

func FuzzDecode(f *testing.F) {
	f.Add([]byte("a=1"))
	f.Add(sample(0).encode(id, false))
	f.Add(sample(9).encode(id, true))
	f.Add(sealForm([]byte("x"), sample(2).encode(id, true)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, sealForm(b, []byte(trailerMagic))} {
			st, hasTrailer, err := decode(id, in)
			if err != nil || !hasTrailer {
				if st != nil {
					t.Fatalf("a state and %v, %v", hasTrailer, err)
				}
				continue
			}
			if len(st.value) == 0 {
				t.Fatal("a state without a value")
			}
			if again, _, err := decode(id, st.encode(id, true)); err != nil || !sameState(again, st) {
				t.Fatalf("%+v, then %+v, %v", st, again, err)
			}
		}
	})
}

func TestGobIgnoresTheTrailer(t *testing.T) {
	want := map[string]any{"a": 1, "b": "two", "c": 3.0}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(want); err != nil {
		t.Fatal(err)
	}
	st := sample(50)
	st.value = b.Bytes()
	for _, item := range []bool{false, true} {
		var got map[string]any
		if err := gob.NewDecoder(bytes.NewReader(st.encode(id, item))).Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("item %v: got %v, %v; want %v", item, got, err, want)
		}
	}
}
