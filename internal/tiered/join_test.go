package tiered

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// How two states meet.

// stateOf draws a state as the protocol makes them: the value has a word for
// every cell that is no deletion, and says when it was changed.
func stateOf() *rapid.Generator[*state] {
	return rapid.Custom(func(t *rapid.T) *state {
		st := &state{
			used: us(rapid.IntRange(1, 9).Draw(t, "used")),
			ends: us(rapid.IntRange(10, 19).Draw(t, "ends")),
			born: us(rapid.IntRange(1, 3).Draw(t, "born")),
		}
		var ws []string
		for _, attribute := range []string{"a", "b", "c", "d", "e"} {
			when := rapid.IntRange(0, 6).Draw(t, "when")
			if when == 0 {
				continue
			}
			c := cell{name: nameOf(attribute), at: stampOf(at(when)), unsaved: rapid.Bool().Draw(t, "unsaved")}
			// One change made the attribute what it is, on every instance the same.
			if (when+int(attribute[0]))%3 == 0 {
				c.at |= deletedBit
			} else {
				ws = append(ws, attribute+"="+strconv.Itoa(when))
			}
			st.set([]cell{c})
		}
		if when := rapid.IntRange(0, 6).Draw(t, "when MaxAge was set"); when > 0 {
			st.set([]cell{{name: maxAgeName, at: stampOf(at(when)), unsaved: true}})
			st.maxAge = int32(when)
		}
		st.value = []byte(strings.Join(ws, " ") + " ")
		return st
	})
}

func at(second int) time.Time { return time.Unix(int64(second), 0) }

func us(second int) micros { return microsOf(at(second)) }

// known says what a state is to those who read it.
func known(st *state) string {
	var all []string
	for _, c := range st.cells {
		all = append(all, hex.EncodeToString(c.name[:])+"@"+strconv.FormatUint(uint64(c.at), 36))
	}
	ws := strings.Fields(string(st.value))
	slices.Sort(ws)
	return strings.Join(ws, " ") + "|" + strings.Join(all, " ") + "|" + fmt.Sprint(st.used, st.ends, st.born, st.maxAge)
}

// joinForm keeps the order of nothing: words by name.
type joinForm struct{ Form }

func (joinForm) Merge(into, from []byte, take func(string) bool) ([]byte, error) {
	m := map[string]string{}
	for _, w := range strings.Fields(string(into)) {
		if attribute, val, _ := strings.Cut(w, "="); !take(attribute) {
			m[attribute] = val
		}
	}
	for _, w := range strings.Fields(string(from)) {
		if attribute, val, _ := strings.Cut(w, "="); take(attribute) {
			m[attribute] = val
		}
	}
	var ws []string
	for _, attribute := range slices.Sorted(maps.Keys(m)) {
		ws = append(ws, attribute+"="+m[attribute])
	}
	return []byte(strings.Join(ws, " ") + " "), nil
}

func joinStore() *Store { return &Store{Form: joinForm{}} }

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
		alive := 0
		for _, c := range joined.cells {
			at, _ := a.at(c.name)
			bt, _ := b.at(c.name)
			if c.at != max(at, bt) {
				t.Fatalf("got a change of %v, of %v and %v", c.at, at, bt)
			}
			if c.name == maxAgeName {
				if int64(joined.maxAge) != int64(c.at>>stampShift)/1_000_000 {
					t.Fatalf("got MaxAge %d, changed at %v", joined.maxAge, c.at)
				}
			} else if !c.isTombstone() {
				alive++
			}
		}
		if ws := strings.Fields(string(joined.value)); alive != len(ws) {
			t.Fatalf("%d attributes of %d: %q", len(ws), alive, joined.value)
		}
	})
}

func TestAJoinedStateHasTheLaterUseAndEndAndTheEarlierBirth(t *testing.T) {
	s := joinStore()
	into := &state{value: []byte("a=1 "), used: us(5), ends: us(20), born: us(3), owner: OwnerOf("scope", "owner")}
	for name, test := range map[string]struct {
		from             state
		used, ends, born micros
		owner            Owner
	}{
		"later":               {state{used: us(6), ends: us(21), born: us(4)}, us(6), us(21), us(3), OwnerOf("scope", "owner")},
		"earlier":             {state{used: us(4), ends: us(19), born: us(2)}, us(5), us(20), us(2), OwnerOf("scope", "owner")},
		"unknown":             {state{}, us(5), us(20), us(3), OwnerOf("scope", "owner")},
		"another owner's":     {state{owner: OwnerOf("scope", "other")}, us(5), us(20), us(3), OwnerOf("scope", "owner")},
		"used later, as long": {state{used: us(6), ends: us(19)}, us(6), us(20), us(3), OwnerOf("scope", "owner")},
	} {
		test.from.value = into.value
		n, _, err := s.join(into, &test.from, true)
		if err != nil || n.used != test.used || n.ends != test.ends || n.born != test.born || n.owner != test.owner {
			t.Errorf("%s: got used %v, ends %v, born %v, %v", name, n.used, n.ends, n.born, err)
		}
	}
	n, changed, err := s.join(&state{value: into.value}, into, true)
	if err != nil || !changed || n.born != us(3) || n.owner != into.owner {
		t.Errorf("where nothing is known: got born %v, owner %v, %v", n.born, n.owner, err)
	}
}

func TestAJoinDoesNotTouchWhatItIsMadeFrom(t *testing.T) {
	s := joinStore()
	rapid.Check(t, func(t *rapid.T) {
		a, b := stateOf().Draw(t, "a"), stateOf().Draw(t, "b")
		wasA, wasB := a.encode("id", true), b.encode("id", true)
		mustJoin(t, s, a, b)
		if !bytes.Equal(a.encode("id", true), wasA) || !bytes.Equal(b.encode("id", true), wasB) {
			t.Fatal("it did")
		}
	})
}

// What from says is saved may be what into has forgotten the deletion of.
func TestWhatIsSavedDoesNotComeBackWhereItsDeletionIsForgotten(t *testing.T) {
	s := joinStore()
	into := &state{value: []byte("b=1 "), cells: []cell{{name: nameOf("b"), at: stampOf(at(1))}}, used: us(9), ends: us(10)}
	for name, test := range map[string]struct {
		unsaved, all bool
		want         string
	}{
		"saved":                {false, false, "b=1 "},
		"unsaved":              {true, false, "a=1 b=1 "},
		"saved, and committed": {false, true, "a=1 b=1 "},
	} {
		from := &state{value: []byte("a=1 "), cells: []cell{{name: nameOf("a"), at: stampOf(at(2)), unsaved: test.unsaved}}, used: us(1), ends: us(10)}
		joined, changed, err := s.join(into, from, test.all)
		if err != nil || string(joined.value) != test.want || changed != (test.want != "b=1 ") {
			t.Errorf("%s: got %q, changed %v, %v; want %q", name, joined.value, changed, err, test.want)
		}
	}
}

// A state that an old instance wrote says when what is not in it was deleted. The
// stored form does not, so it is said of each attribute that the other state knows.
func TestWhatAnOldInstanceHasDeletedIsStoredAsADeletion(t *testing.T) {
	s := joinStore()
	deleted := stampOf(at(5)) | deletedBit
	old := &state{value: []byte("b=1 "), cells: []cell{{name: nameOf("b"), at: stampOf(at(5))}}, absent: deleted, used: us(5), ends: us(10)}
	before := &state{value: []byte("a=1 "), cells: []cell{{name: nameOf("a"), at: stampOf(at(2)), unsaved: true}}, used: us(1), ends: us(10)}
	for name, from := range map[string]*state{
		"what was there before":             before,
		"what another joined with the same": mustJoin(t, s, old, before),
	} {
		stored, _, err := decode(id, mustJoin(t, s, old, from).encode(id, false))
		if err != nil {
			t.Fatal(err)
		}
		if got := mustJoin(t, s, stored, before); string(got.value) != "b=1 " {
			t.Errorf("%s: got %q, want that a stays deleted", name, got.value)
		}
	}
}

func TestAFormThatCannotMergeIsToBlame(t *testing.T) {
	s := &Store{Form: brokenForm{}}
	into := &state{value: []byte("b=1"), cells: []cell{{name: nameOf("b"), at: stampOf(at(1))}}}
	from := &state{value: []byte("a=1"), cells: []cell{{name: nameOf("a"), at: stampOf(at(2))}}}
	_, _, err := s.join(into, from, true)
	if !errors.Is(err, errMerge) || !errors.Is(err, errBroken) {
		t.Errorf("got %v, want %v", err, errBroken)
	}
}

var errBroken = errors.New("broken")

type brokenForm struct{ Form }

func (brokenForm) Merge(_, _ []byte, _ func(string) bool) ([]byte, error) { return nil, errBroken }
