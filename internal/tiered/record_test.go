package tiered

import (
	"bytes"
	"encoding/gob"
	"errors"
	"hash/crc32"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The stored form, and how two states meet.

// stateOf draws a state as the protocol makes them: the value has a word for
// every cell that is no deletion, and says when it was changed.
func stateOf() *rapid.Generator[*state] {
	return rapid.Custom(func(t *rapid.T) *state {
		names := []string{"a", "b", "c", "d", "e"}
		st := &state{
			used: at(rapid.IntRange(1, 9).Draw(t, "used")),
			ends: at(rapid.IntRange(10, 19).Draw(t, "ends")),
		}
		var ws []string
		for _, name := range names {
			when := rapid.IntRange(0, 6).Draw(t, "when")
			if when == 0 {
				continue
			}
			c := cell{name: hashOf(name), at: stampOf(at(when)), unsaved: rapid.Bool().Draw(t, "unsaved")}
			// One change made the attribute what it is, on every instance the same.
			if (when+int(name[0]))%3 == 0 {
				c.at |= deletedBit
			} else {
				ws = append(ws, name+"="+strconv.Itoa(when))
			}
			st.set(c)
		}
		st.value = []byte(strings.Join(ws, " ") + " ")
		return st
	})
}

func at(second int) time.Time { return time.Unix(int64(second), 0) }

// known says what a state is to those who read it.
func known(st *state) string {
	var all []string
	for _, c := range st.cells {
		all = append(all, strconv.FormatUint(c.name, 36)+"@"+strconv.FormatUint(uint64(c.at), 36))
	}
	ws := strings.Fields(string(st.value))
	slices.Sort(ws)
	return strings.Join(ws, " ") + "|" + strings.Join(all, " ") + "|" + st.used.String() + st.ends.String()
}

func joinStore() *Store {
	return &Store{
		Merge: func(into, from []byte, take func(string) bool) ([]byte, error) {
			m := map[string]string{}
			for _, w := range strings.Fields(string(into)) {
				if name, val, _ := strings.Cut(w, "="); !take(name) {
					m[name] = val
				}
			}
			for _, w := range strings.Fields(string(from)) {
				if name, val, _ := strings.Cut(w, "="); take(name) {
					m[name] = val
				}
			}
			var ws []string
			for _, name := range slices.Sorted(maps.Keys(m)) {
				ws = append(ws, name+"="+m[name])
			}
			return []byte(strings.Join(ws, " ") + " "), nil
		},
		Inspect: func(v []byte) (Info, error) { return Info{}, errors.New("not asked for") },
	}
}

func mustJoin(t interface{ Fatal(...any) }, s *Store, into, from *state) *state {
	joined, _, err := s.join(into, from, true)
	if err != nil {
		t.Fatal(err)
	}
	return joined
}

func TestItDoesNotMatterWhichOfTwoStatesIsJoinedToWhich(t *testing.T) {
	s := joinStore()
	rapid.Check(t, func(t *rapid.T) {
		a, b := stateOf().Draw(t, "a"), stateOf().Draw(t, "b")
		ab, ba := mustJoin(t, s, a, b), mustJoin(t, s, b, a)
		if known(ab) != known(ba) {
			t.Fatalf("got\n%s\nand\n%s", known(ab), known(ba))
		}
	})
}

func TestItDoesNotMatterInWhichOrderStatesAreJoined(t *testing.T) {
	s := joinStore()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := stateOf().Draw(t, "a"), stateOf().Draw(t, "b"), stateOf().Draw(t, "c")
		left := mustJoin(t, s, mustJoin(t, s, a, b), c)
		right := mustJoin(t, s, a, mustJoin(t, s, b, c))
		if known(left) != known(right) {
			t.Fatalf("got\n%s\nand\n%s", known(left), known(right))
		}
	})
}

func TestAStateJoinedTwiceChangesNothing(t *testing.T) {
	s := joinStore()
	rapid.Check(t, func(t *rapid.T) {
		a, b := stateOf().Draw(t, "a"), stateOf().Draw(t, "b")
		all := rapid.Bool().Draw(t, "all")
		once, _, err := s.join(a, b, all)
		if err != nil {
			t.Fatal(err)
		}
		twice, changed, err := s.join(once, b, all)
		if err != nil || changed || known(twice) != known(once) {
			t.Fatalf("changed %v, %v: got\n%s\nwant\n%s", changed, err, known(twice), known(once))
		}
		if self, changed, err := s.join(a, a, all); err != nil || changed || known(self) != known(a) {
			t.Fatalf("with itself: changed %v, %v: got\n%s\nwant\n%s", changed, err, known(self), known(a))
		}
	})
}

func TestAJoinedStateHasOfEachAttributeTheLaterChange(t *testing.T) {
	s := joinStore()
	rapid.Check(t, func(t *rapid.T) {
		a, b := stateOf().Draw(t, "a"), stateOf().Draw(t, "b")
		joined := mustJoin(t, s, a, b)
		ws := strings.Fields(string(joined.value))
		alive := 0
		for _, c := range joined.cells {
			at, _ := a.at(c.name)
			bt, _ := b.at(c.name)
			if c.at != max(at, bt) {
				t.Fatalf("got a change of %v, of %v and %v", c.at, at, bt)
			}
			if c.at&deletedBit == 0 {
				alive++
			}
		}
		if alive != len(ws) {
			t.Fatalf("%d attributes of %d: %q", len(ws), alive, joined.value)
		}
	})
}

func TestAJoinDoesNotTouchWhatItIsMadeFrom(t *testing.T) {
	s := joinStore()
	rapid.Check(t, func(t *rapid.T) {
		a, b := stateOf().Draw(t, "a"), stateOf().Draw(t, "b")
		wasA, wasB := a.encode(true), b.encode(true)
		mustJoin(t, s, a, b)
		if !bytes.Equal(a.encode(true), wasA) || !bytes.Equal(b.encode(true), wasB) {
			t.Fatal("it did")
		}
	})
}

// What from says is saved may be what into has forgotten the deletion of.
func TestWhatIsSavedDoesNotComeBackWhereItsDeletionIsForgotten(t *testing.T) {
	s := joinStore()
	into := &state{value: []byte("b=1 "), cells: []cell{{name: hashOf("b"), at: stampOf(at(1))}}, used: at(9), ends: at(10)}
	for name, test := range map[string]struct {
		unsaved, all bool
		want         string
	}{
		"saved":                {false, false, "b=1 "},
		"unsaved":              {true, false, "a=1 b=1 "},
		"saved, and committed": {false, true, "a=1 b=1 "},
	} {
		from := &state{value: []byte("a=1 "), cells: []cell{{name: hashOf("a"), at: stampOf(at(2)), unsaved: test.unsaved}}, used: at(1), ends: at(10)}
		joined, changed, err := s.join(into, from, test.all)
		if err != nil || string(joined.value) != test.want || changed != (test.want != "b=1 ") {
			t.Errorf("%s: got %q, changed %v, %v; want %q", name, joined.value, changed, err, test.want)
		}
	}
}

// A state that an old instance wrote says when what is not in it was deleted. The
// stored form does not, so it is said of each attribute that this mattered for.
func TestAnAbsenceThatWasLaterIsStoredAsADeletion(t *testing.T) {
	s := joinStore()
	into := &state{value: []byte("b=1 "), cells: []cell{{name: hashOf("b"), at: stampOf(at(5))}}, absent: stampOf(at(5)) | deletedBit, used: at(5), ends: at(10)}
	from := &state{value: []byte("a=1 "), cells: []cell{{name: hashOf("a"), at: stampOf(at(2)), unsaved: true}}, used: at(1), ends: at(10)}
	stored, _, err := decode(mustJoin(t, s, into, from).encode(false))
	if err != nil {
		t.Fatal(err)
	}
	if got := mustJoin(t, s, stored, from); string(got.value) != "b=1 " {
		t.Errorf("got %q, want that a stays deleted", got.value)
	}
}

// The form.

func sample(cells int) *state {
	st := &state{
		value: []byte("the session"),
		used:  time.UnixMicro(1_700_000_000_000_001), ends: time.UnixMicro(1_700_000_001_800_001),
		unsavedUse: cells%2 == 0, whole: cells%3 == 0,
		next: time.UnixMicro(1_700_000_000_500_000), sealed: time.UnixMicro(1_700_000_000_600_000),
		token: []byte("token of the backup"),
	}
	for i := range cells {
		c := cell{name: hashOf(strconv.Itoa(i)), at: stamp(i+1) << stampShift, unsaved: i%3 == 0}
		if i%5 == 0 {
			c.at |= deletedBit
		}
		st.set(c)
	}
	return st
}

func sameState(a, b *state) bool {
	x, y := *a, *b
	return slices.Equal(x.cells, y.cells) && bytes.Equal(x.value, y.value) && bytes.Equal(x.token, y.token) &&
		x.used.Equal(y.used) && x.ends.Equal(y.ends) && x.next.Equal(y.next) && x.sealed.Equal(y.sealed) &&
		x.unsavedUse == y.unsavedUse && x.whole == y.whole && x.absent == y.absent
}

func TestAnItemIsReadAsItWasWritten(t *testing.T) {
	for cells := range 101 {
		for _, token := range []string{"", "t", strings.Repeat("t", 64)} {
			st := sample(cells)
			st.token = []byte(token)
			got, hasTrailer, err := decode(st.encode(true))
			if err != nil || !hasTrailer || !sameState(got, st) {
				t.Fatalf("%d cells: got %+v, %v, %v; want %+v", cells, got, hasTrailer, err, st)
			}
		}
	}
}

func TestAnItemWithoutTimesIsReadAsItWasWritten(t *testing.T) {
	st := &state{value: []byte("v"), cells: []cell{}}
	got, hasTrailer, err := decode(st.encode(true))
	if err != nil || !hasTrailer || !sameState(got, st) || !got.ends.IsZero() || !got.next.IsZero() {
		t.Fatalf("got %+v, %v, %v; want %+v", got, hasTrailer, err, st)
	}
}

func TestARecordKeepsWhatARecordSays(t *testing.T) {
	for cells := range 101 {
		st := sample(cells)
		got, hasTrailer, err := decode(st.encode(false))
		want := st.clone().saved()
		want.token = nil
		if err != nil || !hasTrailer || !sameState(got, want) {
			t.Fatalf("%d cells: got %+v, %v, %v; want %+v", cells, got, hasTrailer, err, want)
		}
	}
}

func TestBytesWithoutATrailerAreToldFromThoseWithOne(t *testing.T) {
	whole := sample(3).encode(true)
	for _, b := range [][]byte{nil, {}, []byte("a=1"), []byte(trailerMagic[:7]), []byte(trailerMagic[1:]), whole[:len(whole)-1]} {
		if st, hasTrailer, err := decode(b); st != nil || hasTrailer || err != nil {
			t.Errorf("%q: got %v, %v, %v", b, st, hasTrailer, err)
		}
	}
}

func TestADamagedByteIsNeverTakenForAState(t *testing.T) {
	for _, cells := range []int{0, 1, 7, 8, 9, 40} {
		for _, item := range []bool{false, true} {
			whole := sample(cells).encode(item)
			for i := range whole {
				for _, flip := range []byte{0x01, 0x80, 0xff} {
					b := bytes.Clone(whole)
					b[i] ^= flip
					st, hasTrailer, err := decode(b)
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
	whole := sample(9).encode(true)
	for n := range whole {
		if st, _, _ := decode(whole[n:]); st != nil && n > 0 {
			t.Errorf("without its first %d bytes it is %+v", n, st)
		}
		if st, _, _ := decode(whole[:n]); st != nil {
			t.Errorf("without all but its first %d bytes it is %+v", n, st)
		}
	}
}

// A trailer may be long enough and whole, and say what cannot be.
func TestATrailerThatContradictsItselfIsDamaged(t *testing.T) {
	forged := func(change func(b []byte) []byte) []byte {
		whole := sample(2).encode(true)
		return sealForm(change(whole[:len(whole)-trailerEnd]), whole)
	}
	head := len(sample(2).value) + 16
	for name, b := range map[string][]byte{
		"more cells than bytes": forged(func(b []byte) []byte { b[head] = 0xff; return b }),
		"no marks":              forged(func(b []byte) []byte { return b[:head+4+2*cellSize+5] }),
		"no value":              forged(func(b []byte) []byte { return b[len(sample(2).value):] }),
		"no head":               forged(func(b []byte) []byte { return b[:len(sample(2).value)+10] }),
		"longer than it is": func() []byte {
			b := append(sample(2).encode(true)[:20:20], 0xff, 0, 0, 0)
			sum := checksumOf(b)
			return append(append(b, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)), trailerMagic...)
		}(),
	} {
		if st, hasTrailer, err := decode(b); st != nil || !hasTrailer || !errors.Is(err, errDamaged) {
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

func FuzzDecode(f *testing.F) {
	f.Add([]byte("a=1"))
	f.Add(sample(0).encode(false))
	f.Add(sample(9).encode(true))
	f.Add(sealForm([]byte("x"), sample(2).encode(true)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, sealForm(b, []byte(trailerMagic))} {
			st, hasTrailer, err := decode(in)
			if err != nil || !hasTrailer {
				if st != nil {
					t.Fatalf("a state and %v, %v", hasTrailer, err)
				}
				continue
			}
			if len(st.value) == 0 {
				t.Fatal("a state without a value")
			}
			if again, _, err := decode(st.encode(true)); err != nil || !sameState(again, st) {
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
		if err := gob.NewDecoder(bytes.NewReader(st.encode(item))).Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("item %v: got %v, %v; want %v", item, got, err, want)
		}
	}
}

// Stamps.

func TestEveryStampIsLaterThanWhatWasSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := stamp(rapid.Uint64Range(0, uint64(stampOf(time.Date(2111, 1, 1, 0, 0, 0, 0, time.UTC)))).Draw(t, "seen"))
		if got := draw(time.Now(), seen); got>>stampShift <= seen>>stampShift || got&deletedBit != 0 {
			t.Fatalf("%x after %x", got, seen)
		}
	})
	if got := draw(time.Now(), 0).time(); time.Since(got) > time.Minute || time.Since(got) < -time.Minute {
		t.Errorf("it says %v, which is not now", got)
	}
}

func TestStampsDrawnAtTheSameTimeDiffer(t *testing.T) {
	// The same clock on two instances, and the same time seen: the random bits
	// keep them apart, but for one pair in 2048.
	future := stampOf(time.Now().Add(time.Hour))
	equal := 0
	for range 1000 {
		if first, second := draw(time.Now(), future), draw(time.Now(), future); first == second {
			equal++
		}
	}
	if equal > 20 {
		t.Errorf("%d of 1000 pairs are the same", equal)
	}
}

func TestStampsLastUntilTheYear2112(t *testing.T) {
	for _, year := range []int{1970, 2000, 2026, 2100, 2112} {
		when := time.Date(year, 6, 1, 12, 0, 0, 123456000, time.UTC)
		if got := stampOf(when).time(); !got.Equal(when) {
			t.Errorf("%v is %v", when, got)
		}
	}
	if stampOf(time.Date(2112, 1, 1, 0, 0, 0, 0, time.UTC)) < stampOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Error("2112 is before 2026")
	}
	if got := stampOf(time.Time{}); got != 0 {
		t.Errorf("no time is %x", got)
	}
}

func TestDeletionsAreForgottenAfterAnHour(t *testing.T) {
	st := &state{value: []byte("v")}
	now := stampOf(time.Now())
	long := stampOf(time.Now().Add(-61 * time.Minute))
	lately := stampOf(time.Now().Add(-59 * time.Minute))
	st.set(cell{name: 1, at: now})
	st.set(cell{name: 2, at: long})
	st.set(cell{name: 3, at: long | deletedBit})
	st.set(cell{name: 4, at: lately | deletedBit})
	st.forget()
	var left []uint64
	for _, c := range st.cells {
		left = append(left, c.name)
	}
	if !slices.Equal(left, []uint64{1, 2, 4}) {
		t.Errorf("left are %v", left)
	}
}

func checksumOf(b []byte) uint32 { return crc32.Checksum(b, checksums) }
