//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/gaesession/gaesession/tier"
)

func TestADeletionIsNotForgottenByTheFirstSweepOfAnItemThatSeesIt(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1 b=1 x=1")
		must(t, s.opened(t, "A").update("-a"))
		for range 2 { // the session stays alive
			time.Sleep(sweepTime/2 - 50*time.Millisecond)
			must(t, s.opened(t, "A").update("c=1"))
		}
		a, b := s.opened(t, "A"), s.opened(t, "B")
		release := s.hold("B", "cache.swap", false)
		done := started(func() error { return b.update("b=2") })
		time.Sleep(200 * time.Millisecond)
		// The hour is over, so this commit sweeps the record, and then the item.
		must(t, a.update("-x"))
		release() // the publish of B is late
		must(t, done())
		s.expectKept(t, "b=2 c=1")
	})
}

func TestAChangeAppliesOnceThoughItsRequestWentWhileOthersMadeIt(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		s.patient = true
		a := s.shared(t, "A")
		s.flush()
		b, c := s.shared(t, "B"), s.shared(t, "C")
		whole, loaded := c.ctx, c.l
		var cancel context.CancelFunc
		c.ctx, cancel = context.WithCancel(whole)
		releaseA := s.hold("A", "backup.commit", false)
		doneA := started(func() error { return a.update("x=1") })
		doneB := started(func() error { return b.update("y=1") })
		doneC := started(func() error { return c.update("a=C") })
		releaseB := s.hold("B", "cache.add", false) // no time of the changes has been drawn
		releaseA()
		synctest.Wait()
		cancel()
		expectErr(t, "C", doneC(), tier.ErrNotSaved)
		releaseB()
		must(t, doneA())
		must(t, doneB())
		expect(t, "in the backup", s.backedUp(), "a=C x=1 y=1")
		must(t, s.opened(t, "D").update("a=D"))
		c.ctx = whole
		again := ""
		if c.l == loaded {
			again = "a=C" // it was surely not saved
		}
		must(t, c.update(again))
		s.expectKept(t, "a=D x=1 y=1")
	})
}

// errTooLate is a timeout, which is not tried again.
var errTooLate = fmt.Errorf("%w", context.DeadlineExceeded)

// A commit whose answer did not come in time may have its effect later: after the
// request has asked for it, and while it makes another attempt.
func TestAnAttemptToMoveWithoutAChangeIsNotTakenForOneWithAChange(t *testing.T) {
	for name, edits := range map[string][2]string{
		"the first without a change":  {"", "b=1"},
		"both with changes":           {"a=1", "b=1"},
		"the second without a change": {"a=1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=0")
				r := s.opened(t, "A")
				first := s.late("A")
				v, err := r.move(edits[0])
				expectErr(t, "the first attempt", err, tier.ErrNotSaved)
				expect(t, "moved", v, "-")
				// The first attempt has asked, in vain.
				read := "backup.begin"
				if s.versions {
					read = "backup.get"
				}
				s.at("A", read, false, before(first))
				moved, err := r.m.Run(r.ctx, r.l, r.change(edits[1]))
				must(t, err)
				expect(t, "by the attempt", moved.Run, 0)
			})
		})
	}
}

// late makes the next commit of a request have its effect only when the function
// is called that it returns.
func (s *services) late(who string) (land func()) {
	var was, now map[string]*tier.Record
	s.at(who, "backup.commit", false, before(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		was = maps.Clone(s.records)
	}))
	s.at(who, "backup.commit", true, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		now, s.records = s.records, was
		return errTooLate
	})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.records = now
	}
}

// What an app does in a hook or when it is told of an error is its own affair: it
// may use the store.
func TestNobodyIsToldAnythingUnderALock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		unlocked := func(what string, mu *sync.Mutex) {
			if !mu.TryLock() {
				t.Errorf("%s: told under the lock", what)
				return
			}
			mu.Unlock()
		}
		r := s.opened(t, "A")
		var opened, closed atomic.Bool
		r.st.Trace = &tier.Trace{Breaker: func(ctx context.Context, open bool) {
			opened.Store(opened.Load() || open)
			closed.Store(closed.Load() || !open)
			unlocked("the breaker", &r.st.breaker(ctx).mu)
		}}
		r.st.Report = func(string, error) { unlocked("what is pending", &pending.Mutex) }
		s.fail("A", "cache")
		for i := range maxPending {
			r.st.owe(r.ctx, fmt.Sprint(i), publication, time.Time{})
		}
		r.st.owe(r.ctx, id, marker, time.Time{})
		s.well()
		drain(t)

		s.silence("A", "cache")
		for range tripAfter {
			if _, err := r.st.Load(r.ctx, r.id); !isTimeout(err) {
				t.Errorf("got %v, want a timeout", err)
			}
			r.st.cacheGone.Store(0)
		}
		s.well()
		time.Sleep(2 * probeEvery)
		expect(t, "the breaker was open", opened.Load(), true)
		expect(t, "the breaker was closed", closed.Load(), true)
	})
}

func TestALimitThatWasEndedHasEnded(t *testing.T) {
	ctx := within(context.Background(), time.Hour)
	ctx.end()
	expectErr(t, "after its end", ctx.Err(), context.Canceled)
	select {
	case <-ctx.Done():
	default:
		t.Error("it is not done")
	}
}

func TestARemovalThatHasEndedAfterItsRequestSaysWhatCameOfIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		r.st.BackupTimeout = 200 * time.Millisecond
		s.silence("A", "backup")
		ctx, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
		defer cancel()
		err := r.st.Remove(ctx, r.id, r.l)
		expectErr(t, "remove", err, tier.ErrNotBackedUp)
		if errors.Is(err, tier.ErrNotSaved) {
			t.Errorf("the cache has the marker: %v", err)
		}
		s.well()
		s.expectRemoved(t)
	})
}

// A refresh may make the bytes longer: another time has another length.
func TestARefreshInTheReserveIsNotRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, xs("a", free+100))
		s.large = recordLimit
		r := s.opened(t, "A")
		r.st.Form = longForm{}
		time.Sleep(time.Minute)
		must(t, r.update(""))
		must(t, r.update("-b"))
		expectErr(t, "a change", r.update("b=1"), tier.ErrTooLarge)
	})
}

// longForm is a Form that writes what it merges with more bytes.
type longForm struct{ wordForm }

func (f longForm) Merge(into, from []byte, take func(string) bool) ([]byte, error) {
	v, err := f.wordForm.Merge(into, from, take)
	return append(v, "  "...), err
}

// A cache that refuses writes, and answers: the breaker stays closed.
func TestWhatIsNewDoesNotHaveEverythingTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.here(t, "A")
		var tries atomic.Int64
		refused := func(c step) error {
			if c.is("cache.set "+id) && !c.done {
				tries.Add(1)
				return errDown
			}
			return nil
		}
		r.st.Retries = 1
		s.hook(refused)
		r.st.owe(r.ctx, id, marker, time.Time{})
		for i := range 500 {
			time.Sleep(20 * time.Millisecond)
			r.st.owe(r.ctx, fmt.Sprint("other", i), marker, time.Time{})
		}
		if n := tries.Load(); n < 10 || n > 17 { // fewer than ten and the first of 10 ms, 20 ms, 40 ms, ...
			t.Errorf("%d attempts in 10 seconds, want one a second", n)
		}
		// One that fails for a reason of its own holds up no other.
		time.Sleep(pendingWait)
		synctest.Wait()
		for i := range 500 {
			expect(t, "cached", s.cachedAs(fmt.Sprint("other", i)), "removed")
		}
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "removed")
	})
}

func TestDrainHasWhatCameUpDuringAnAttemptTriedAsWell(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.here(t, "A")
		s.patient = true
		release := s.hold("A", "cache.get", false)
		r.st.owe(r.ctx, id, publication, time.Time{})
		synctest.Wait()
		drained := started(func() error { return Drain(context.Background()) })
		r.st.owe(r.ctx, id, emptying|marker, time.Now().Add(removedTTL))
		release()
		must(t, drained())
		expect(t, "cached", s.cached(), "removed")
		expect(t, "in the backup", s.backedUp(), "removed")
	})
}

func TestARightGuessWritesWhatTheUpdateWould(t *testing.T) {
	s := newServices()
	st := s.store()
	st.Form = joinForm{}
	rapid.Check(t, func(t *rapid.T) {
		ends := time.Now().Add(time.Hour)
		record := stateOf().Draw(t, "record").markSaved()
		record.ends = microsOf(ends)
		current := record.record(id)
		current.Token = []byte("token")
		kept, err := st.openRecord(id, current)
		if err != nil {
			t.Fatal(err)
		}
		// The item contains the record, and may have more.
		item := kept
		if rapid.Bool().Draw(t, "unsaved") {
			more := stateOf().Draw(t, "more")
			for i, c := range more.cells {
				if at, _ := record.at(c.name); c.at > at {
					more.cells[i].unsaved = true
				}
			}
			if item, _, err = st.join(kept, more, false); err != nil {
				t.Fatal(err)
			}
			item.unsavedUse = item.used != kept.used || item.ends != kept.ends
			item.token = current.Token
		}
		var parts []*part
		for range rapid.IntRange(1, 3).Draw(t, "parts") {
			p := &part{loaded: &Loaded{state: item}}
			if rapid.Bool().Draw(t, "changes") {
				m := map[string]string{}
				for _, w := range strings.Fields(string(item.value)) {
					k, v, _ := strings.Cut(w, "=")
					m[k] = v
				}
				c := &Change{Used: at(rapid.IntRange(1, 20).Draw(t, "used")), Ends: ends.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "ends")) * time.Minute), Born: at(2)}
				for _, k := range []string{"a", "b", "f"} {
					switch rapid.IntRange(0, 2).Draw(t, k) {
					case 1:
						m[k] = "changed" + fmt.Sprint(len(parts))
						c.Set = append(c.Set, k)
					case 2:
						delete(m, k)
						c.Deleted = append(c.Deleted, k)
					}
				}
				var ws []string
				for _, k := range slices.Sorted(maps.Keys(m)) {
					ws = append(ws, k+"="+m[k])
				}
				c.Value = []byte(strings.Join(ws, " ") + " ")
				if rapid.Bool().Draw(t, "MaxAge") {
					seconds := int32(len(parts))
					c.MaxAge = &seconds
				}
				p.change = c
			}
			parts = append(parts, p)
		}
		committed, guessed, guess := st.guess(id, parts)
		if guess == nil {
			t.Skip("no guess")
		}
		mayBeApplied(parts) // so that they keep their times
		next, changed, err := st.apply(id, current, parts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := st.openRecord(id, guessed)
		if err != nil {
			t.Fatal(err)
		}
		if known(got) != known(next) || !changed && known(got) != known(kept) {
			t.Fatalf("got\n%s\nwant\n%s", known(got), known(next))
		}
		// In place of the item that it was made of comes what a join would make of both.
		put, _, err := st.contain(item, committed, item)
		if err != nil {
			t.Fatal(err)
		}
		another := committed.clone()
		another.of = nil
		joined, _, err := st.contain(item, another, item)
		if err != nil {
			t.Fatal(err)
		}
		joined.swept = put.swept // a moment later
		if !sameState(put, joined) {
			t.Fatalf("put\n%+v\nwant\n%+v", put, joined)
		}
	})
}

// An app may take over what others had saved when its session moved.
func TestWhatIsDeletedLongAfterItWasTakenOverDoesNotComeBack(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		a := s.opened(t, "A")
		must(t, s.opened(t, "B").update("x=1"))
		value, err := a.move("")
		must(t, err)
		expect(t, "moved", value, "a=1 x=1")
		others := func() *request {
			r := s.request(t, "C")
			r.id = a.id
			return r.load()
		}
		must(t, others().update("-x"))
		for range 8 { // the deletion is forgotten
			time.Sleep(20 * time.Minute)
			must(t, others().update(""))
		}
		c := a.change("")
		c.Value, c.Set = text(words([]byte(value+" c=1"))), []string{"c"}
		_, err = a.st.Update(a.ctx, a.id, a.l, c)
		must(t, err)
		s.expectKeptAs(t, a.id, "a=1 c=1")
	})
}
