//go:build go1.25

package tiered

import (
	"errors"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

// Clocks that are wrong. No decision about passing time rests on a stamp.

const years = 365 * 24 * time.Hour

// usedAhead is a session that an instance whose clock is ahead has used.
func usedAhead(t *testing.T, s *services, by time.Duration) {
	t.Helper()
	r := s.opened(t, "ahead").on(instance.Instance{Ahead: by})
	c := r.change("a=2")
	c.Used, c.Ends = c.Used.Add(by), c.Ends.Add(by)
	must(t, r.became(r.st.Update(r.ctx, r.id, r.l, c)))
}

func TestASessionEndsThatAClockAheadHasUsed(t *testing.T) {
	for name, lose := range map[string]func(*services){"cached": func(*services) {}, "evicted": (*services).flush} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				usedAhead(t, s, 26*years)
				lose(s)
				time.Sleep(time.Minute)
				r := s.opened(t, "A")
				expect(t, "used", r.l.Used(), time.Now())
				expect(t, "ends", r.l.Ends(), time.Now().Add(timeout))
				expect(t, "is to be written again", r.l.ClockWasAhead(), true)
				must(t, r.update(""))
				ends := microsOf(time.Now().Add(timeout)).time()
				expect(t, "the record ends", s.records[id].Expires, ends)
				r = s.opened(t, "B")
				expect(t, "in the cache it ends", r.l.Ends(), ends)
				expect(t, "is to be written again", r.l.ClockWasAhead(), false)
				time.Sleep(timeout)
				expect(t, "at its end", s.request(t, "C").see(), "-")
			})
		})
	}
}

// A request may write no later use than the one that it has been told.
func TestTheTimesOfAClockAheadAreWrittenAgainWhateverElseChanges(t *testing.T) {
	for name, test := range map[string]struct {
		answer error // of the first attempt
		want   error
	}{
		"a right guess": {nil, nil},
		"contention":    {tier.ErrContention, nil},
		"no backup":     {errDown, tier.ErrNotBackedUp},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				usedAhead(t, s, 26*years)
				r := s.opened(t, "A")
				r.st.Retries = 1
				s.at("A", "backup.commit", false, func() error { return test.answer })
				_, err := r.st.Update(r.ctx, id, r.l, &Change{Value: r.l.Value()})
				expectErr(t, "change", err, test.want)
				ends := microsOf(time.Now().Add(timeout)).time()
				expect(t, "the item ends", s.state(t).ends, microsOf(ends))
				expect(t, "its clock was ahead", s.state(t).clockWasAhead, false)
				if test.want == nil {
					expect(t, "the record ends", s.records[id].Expires, ends)
				}
			})
		})
	}
}

func TestAClockThatIsAheadByLessThanAnHourIsBelieved(t *testing.T) {
	for name, test := range map[string]struct {
		by   time.Duration
		want bool
	}{"an hour": {clockTolerance, false}, "more": {clockTolerance + time.Microsecond, true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				usedAhead(t, s, test.by)
				expect(t, "was ahead", s.opened(t, "A").l.ClockWasAhead(), test.want)
			})
		})
	}
}

func TestASessionThatAClockAheadHasBegunBeginsWhenItWasUsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.request(t, "A")
		c := r.change("a=1")
		c.Used, c.Ends, c.Born = c.Used.Add(years), c.Ends.Add(years), c.Used.Add(years)
		_, err := r.st.Create(r.ctx, id, c)
		must(t, err)
		expect(t, "born", s.opened(t, "B").l.Born(), time.Now())
	})
}

// The beginning may be that of another clock than the use: bytes without a trailer say
// when the session was created.
func TestASessionThatBeginsInTheFutureBeginsWhenItIsRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.request(t, "A")
		c := r.change("a=1")
		c.Born = c.Used.Add(years)
		_, err := r.st.Create(r.ctx, id, c)
		must(t, err)
		r = s.opened(t, "B")
		begin, ends := r.l.Born(), r.l.Ends()
		expect(t, "born", begin, time.Now())
		expect(t, "ends", ends, microsOf(c.Ends).time())
		must(t, r.update(""))
		time.Sleep(time.Minute)
		expect(t, "born", s.opened(t, "C").l.Born(), begin)
	})
}

func TestASessionThatAClockAheadHasUsedIsListedForAsLongAsOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		c := a.owned(alice, "a=1")
		c.Used, c.Ends = c.Used.Add(years), c.Ends.Add(years)
		_, err := a.st.Update(a.ctx, a.id, a.l, c)
		must(t, err)
		must(t, a.as("B").update(""))
		ends := microsOf(time.Now().Add(2 * timeout))
		expect(t, "it is listed until", s.until(t, alice, "of-A"), ends)
	})
}

func TestALoginThatAClockAheadHasListedWasNow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		now := microsOf(time.Now())
		for since, want := range map[micros]micros{now.add(years): now, now.add(-years): now.add(-years)} {
			x := index{{id: "a", since: since}}
			x.list("a", &state{}, "")
			expect(t, "since", x[0].since, want)
		}
	})
}

func TestLoadsSaveWhatAClockAheadHasLeftUnsaved(t *testing.T) {
	for name, by := range map[string]time.Duration{"ten minutes": 10 * time.Minute, "years": 50 * years} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1 b=1")
				s.fail("ahead", "backup")
				must(t, s.opened(t, "ahead").on(instance.Instance{Ahead: by}).updateAsync("a=2"))
				must(t, s.opened(t, "B").updateAsync("b=2")) // is later than that
				drain(t)
				s.well()
				s.flush()
				s.fail("ahead", "backup")
				must(t, s.opened(t, "C").settle())
				s.fail("dead", "backup")
				must(t, s.opened(t, "dead").updateAsync("b=3"))
				drain(t)
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				s.expectKept(t, "a=2 b=3")
			})
		})
	}
}

// The time of the next attempt, too, is a clock's.
func TestAnAttemptThatIsPutOffForLongerThanAnyIntervalIsDue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			tries uint8
			next  time.Duration
			want  bool
		}{
			"in time":                  {0, saveAfter, false},
			"later than the interval":  {0, saveAfter + time.Microsecond, true},
			"of the third":             {2, 4 * saveAfter, false},
			"of the longest":           {200, saveAtLeast, false},
			"later than the longest":   {200, saveAtLeast + time.Microsecond, true},
			"years ahead":              {3, 26 * years, true},
			"due":                      {3, 0, true},
			"years ago":                {3, -26 * years, true},
			"when nobody has tried it": {0, -time.Since(time.Time{}), true},
		} {
			st := &state{tries: test.tries, next: microsOf(time.Now().Add(test.next))}
			expect(t, name, st.isDue(), test.want)
		}
	})
}

func TestTheIntervalsGrowUpToAMinute(t *testing.T) {
	for tries, want := range map[uint8]time.Duration{0: 3 * time.Second, 1: 6 * time.Second, 4: 48 * time.Second, 5: time.Minute, 255: time.Minute} {
		expect(t, "interval", interval(tries), want)
	}
}

// Whose clock is behind changes what it has seen; stamps only order.
func TestAChangeIsEffectiveHoweverFarAheadTheOneBeforeWas(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				must(t, change(s.opened(t, "ahead").on(instance.Instance{Ahead: 100 * years}), "a=2"))
				drain(t)
				must(t, change(s.opened(t, "B"), "a=3"))
				s.expectKept(t, "a=3")
			})
		})
	}
}

// end is how far the end of all stamps is away.
func end() time.Duration { return time.Until(time.UnixMicro(lastMicro)) }

func TestAChangeAfterTheLastStampIsRefused(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				must(t, change(s.opened(t, "last").on(instance.Instance{Ahead: end()}), "a=2"))
				drain(t)
				s.forgetCalls()
				err := change(s.opened(t, "B"), "b=1")
				expectErr(t, "change", err, errEndOfTime)
				if errors.Is(err, tier.ErrNotSaved) || errors.Is(err, tier.ErrNotBackedUp) {
					t.Errorf("it is refused, and nothing has failed: %v", err)
				}
				expectErr(t, "change", change(s.opened(t, "later").on(instance.Instance{Ahead: end() + time.Hour}), "b=1"), errEndOfTime)
				expect(t, "writes", s.writes(), 0)
				s.expectKept(t, "a=2")
				must(t, s.opened(t, "C").remove())
				s.expectRemoved(t)
			})
		})
	}
}

func TestAChangeAfterTheLastStampIsRefusedAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		commit := s.hold("A", "backup.commit", false)
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		first := started(func() error { return a.update("a=1") })
		second := started(func() error { return b.update("b=1") })
		c.l = c.l.Elsewhere()
		c.l.state.set([]cell{{name: nameOf("x"), at: stampOf(time.UnixMicro(lastMicro))}})
		third := started(func() error { return c.update("c=1") })
		commit()
		must(t, first())
		must(t, second())
		expectErr(t, "the third", third(), errEndOfTime)
		s.expectKept(t, "a=1 b=1")
	})
}

// Tombstones.

// sweptAt reports whether a deletion is left after sweeps at these times, by the
// clocks of those who sweep.
func sweptAt(t *testing.T, sweeps ...time.Duration) (left bool) {
	t.Helper()
	st := &state{value: []byte("v")}
	st.set([]cell{{name: nameOf("a"), at: 2}, {name: nameOf("b"), at: 2 | deletedBit}})
	for _, at := range sweeps {
		// There is one clock here, which stands still: times are seen from it.
		if st.swept != 0 {
			st.swept = st.swept.add(-at)
		}
		st.sweep(false)
		st.swept = st.swept.add(at)
	}
	_, left = st.find(nameOf("b"))
	if _, ok := st.find(nameOf("a")); !ok {
		t.Error("an attribute was forgotten")
	}
	return left
}

func TestADeletionIsForgottenAfterAnHourOrTwo(t *testing.T) {
	for name, test := range map[string]struct {
		sweeps []time.Duration
		want   bool
	}{
		"at once":                         {[]time.Duration{0, 0, 0}, true},
		"within the hour":                 {[]time.Duration{0, 30 * time.Minute, 60 * time.Minute}, true},
		"seen once, an hour ago":          {[]time.Duration{0, 61 * time.Minute}, true},
		"seen twice, an hour between":     {[]time.Duration{0, 61 * time.Minute, 122*time.Minute + time.Second}, false},
		"seen twice, less between":        {[]time.Duration{0, 61 * time.Minute, 120 * time.Minute}, true},
		"a clock that is ahead":           {[]time.Duration{0, 50 * 365 * 24 * time.Hour}, true},
		"and a good one after it":         {[]time.Duration{0, 50 * 365 * 24 * time.Hour, time.Minute}, true},
		"good and ahead in turns":         {[]time.Duration{0, years, time.Minute, years + 2*time.Minute, 3 * time.Minute, years + 4*time.Minute}, true},
		"a good one again, for two hours": {[]time.Duration{years, 0, 61 * time.Minute, 122*time.Minute + time.Second}, false},
		"one that stays ahead":            {[]time.Duration{years, years + 61*time.Minute, years + 123*time.Minute}, false},
		"a clock that is behind":          {[]time.Duration{2 * time.Hour, time.Minute, 30 * time.Minute}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) { expect(t, "is left", sweptAt(t, test.sweeps...), test.want) })
		})
	}
}

func TestADeletionThatIsUnsavedIsNotForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		s.fail("A", "backup")
		must(t, s.opened(t, "A").updateAsync("-b"))
		drain(t)
		for range 10 {
			time.Sleep(20 * time.Minute)
			expectErr(t, "change", s.opened(t, "A").update("a=2"), tier.ErrNotBackedUp)
		}
		expect(t, "cells", len(s.state(t).cells), 2)
		must(t, s.opened(t, "B").update("c=1"))
		s.expectKept(t, "a=2 c=1")
	})
}

func TestASweepForgetsWhatIsUnsavedOnlyWhereNoBackupNeedsIt(t *testing.T) {
	for _, noBackup := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			st := &state{value: []byte("v")}
			st.set([]cell{{name: nameOf("b"), at: 2 | deletedBit, unsaved: true}})
			for range 3 {
				st.sweep(noBackup)
				time.Sleep(61 * time.Minute)
			}
			expect(t, "are forgotten", len(st.cells) == 0, noBackup)
		})
	}
}

func TestASessionWithoutDeletionsIsNotSwept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		st := &state{value: []byte("v"), swept: microsOf(time.Now())}
		st.set([]cell{{name: nameOf("a"), at: 2}})
		st.sweep(false)
		expect(t, "swept", st.swept, 0)
	})
}
