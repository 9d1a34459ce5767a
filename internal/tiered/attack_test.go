//go:build go1.25

package tiered

import (
	"context"
	"fmt"
	"maps"
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
