//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
				expect(t, "by the first attempt", moved.Earlier, true)
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
		told := map[bool]bool{}
		r.st.Trace = &tier.Trace{Breaker: func(ctx context.Context, open bool) {
			told[open] = true
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
			r.st.cacheGone.Store(false)
		}
		s.well()
		time.Sleep(2 * probeEvery)
		expect(t, "the breaker was open", told[true], true)
		expect(t, "the breaker was closed", told[false], true)
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
