package tiered

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const id = "id" // of a test's session

// Stamps.

var lastTime = time.UnixMicro(lastMicro)

func TestEveryStampIsLaterThanWhatWasSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := stamp(rapid.Uint64Range(0, uint64(lastMicro-1)<<stampShift).Draw(t, "seen"))
		now := time.UnixMicro(rapid.Int64Range(0, lastMicro).Draw(t, "now"))
		got, err := draw(now, seen)
		if err != nil || got>>stampShift <= seen>>stampShift || got < stampOf(now) || got&deletedBit != 0 {
			t.Fatalf("%x after %x at %v, %v", got, seen, now, err)
		}
	})
}

func TestStampsDrawnAtTheSameTimeDiffer(t *testing.T) {
	// The same clock on two instances, and the same time seen: the random bits
	// keep them apart, but for one pair in 2048.
	future := stampOf(time.Now().Add(time.Hour))
	equal := 0
	for range 1000 {
		first, ferr := draw(time.Now(), future)
		second, serr := draw(time.Now(), future)
		if err := errors.Join(ferr, serr); err != nil {
			t.Fatal(err)
		}
		if first == second {
			equal++
		}
	}
	if equal > 20 {
		t.Errorf("%d of 1000 pairs are the same", equal)
	}
}

func TestStampsAreInTheOrderOfTimes(t *testing.T) {
	times := []time.Time{{}, time.Unix(-1, 0), time.Unix(0, 1000), time.Now(), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), lastTime}
	for i, when := range times[1:] {
		if stampOf(when) < stampOf(times[i]) {
			t.Errorf("%v is before %v", when, times[i])
		}
	}
	if got := stampOf(time.Time{}); got != 0 {
		t.Errorf("no time is %x", got)
	}
	if lastTime.Year() != 2112 {
		t.Errorf("the last time is %v", lastTime)
	}
}

func TestTheLastStampIsFollowedByNone(t *testing.T) {
	last := stampOf(lastTime)
	for name, test := range map[string]struct {
		now  time.Time
		seen stamp
		want error
	}{
		"at the last time":       {lastTime, 0, nil},
		"after the last time":    {lastTime.Add(time.Microsecond), 0, errEndOfTime},
		"in 2200":                {time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), 0, errEndOfTime},
		"after the last but one": {time.Now(), last - 1<<stampShift, nil},
		"after the last":         {time.Now(), last, errEndOfTime},
		"after its deletion":     {time.Now(), last | (1<<stampShift - 1), errEndOfTime},
	} {
		if got, err := draw(test.now, test.seen); !errors.Is(err, test.want) || err == nil && got>>stampShift <= test.seen>>stampShift {
			t.Errorf("%s: got %x, %v; want %v", name, got, err, test.want)
		}
	}
	if got := stampOf(lastTime.Add(time.Hour)); got != last {
		t.Errorf("a later time is %x, want the last stamp", got)
	}
}

// Names.

// These two have one hash in FNV-1a of 64 bits, by which attributes were told
// apart once.
func TestNamesThatCollideElsewhereAreTwoNames(t *testing.T) {
	st := &state{}
	st.set([]cell{{name: nameOf("8yn0iYCKYHlIj4-BwPqk"), at: 4}, {name: nameOf("GReLUrM4wMqfg9yzV3KQ"), at: 6}})
	if len(st.cells) != 2 {
		t.Errorf("they are %d", len(st.cells))
	}
}

func TestNoAttributeHasTheNameOfMaxAge(t *testing.T) {
	for _, attribute := range []string{"", "\x00", "MaxAge"} {
		if nameOf(attribute) == maxAgeName {
			t.Errorf("%q has", attribute)
		}
	}
}

func TestOfCellsWithOneNameTheLastOneCounts(t *testing.T) {
	a, b := nameOf("a"), nameOf("b")
	st := &state{}
	st.set([]cell{{name: a, at: 2}, {name: b, at: 2}})
	st.set([]cell{{name: a, at: 4}, {name: a, at: 6}})
	was, _ := st.at(a)
	other, _ := st.at(b)
	if len(st.cells) != 2 || was != 6 || other != 2 {
		t.Errorf("got %v", st.cells)
	}
}
