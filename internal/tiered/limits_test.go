//go:build go1.25

package tiered

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// What a review has broken, and what holds since.

func TestASessionThatIsChangedOftenIsCachedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.flush()
		reader, writer := s.opened(t, "R"), s.opened(t, "W")
		release := s.hold("R", "backup.get", false)
		refilled := started(reader.settle)
		must(t, writer.update("n=0"))
		release()
		must(t, refilled())
		expect(t, "after a refill that a change has overlapped", s.cached(), "lease")
		missed := 0
		for i := range 100 {
			must(t, s.opened(t, "W").update(fmt.Sprintf("n=%d", i+1)))
			for range 5 {
				time.Sleep(10 * time.Second)
				r := s.opened(t, "R")
				if !r.l.FromCache() {
					missed++
				}
				must(t, r.settle())
			}
		}
		if missed > 7 { // a lease lasts a minute
			t.Errorf("%d of 500 reads in 83 minutes found nobody's lease", missed)
		}
	})
}

func TestAPublishLeavesTheLeaseOfASessionThatMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		writer, mover := s.opened(t, "W"), s.opened(t, "T")
		s.flush()
		releaseCommit := s.hold("T", "backup.commit", false)
		releaseSwap := s.hold("W", "cache.swap", false)
		written := started(func() error { return writer.update("w=1") })
		var taken string
		moved := started(func() (err error) { taken, err = mover.take("t=1"); return err })
		synctest.Wait()
		releaseSwap()
		must(t, written())
		time.Sleep(leaseTTL + time.Second)
		must(t, s.opened(t, "R").settle())
		must(t, s.opened(t, "X").updateAsync("x=1"))
		releaseCommit()
		must(t, moved())
		drain(t)
		if words([]byte(taken))["x"] != "1" {
			t.Errorf("took %s, without an acknowledged change", taken)
		}
	})
}

func TestASessionInTheCacheAloneIsTakenOnceAlthoughTheAnswerIsLost(t *testing.T) {
	for _, evicted := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s := &services{}
			c := s.request(t, "creator")
			c.st.Backup = nil
			must(t, c.create("a=1"))
			r := s.request(t, "A")
			r.st.Backup = nil
			r.load()
			op := "cache.swap"
			if evicted {
				s.flush()
				op = "cache.add"
			}
			s.lose("A", op)
			last, err := r.take("b=2")
			must(t, err)
			expect(t, "taken", last, "a=1 b=2")
			expect(t, "cached", s.cached(), "removed")
			if !evicted {
				_, err = r.take("b=3")
				expectErr(t, "again", err, ErrRemoved)
			}
		})
	}
}

func TestARequestWhoseChangeIsBeingMadeWaitsForTheOutcome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		ctx, cancel := context.WithCancel(c.ctx)
		c.ctx = ctx
		releaseA := s.hold("A", "backup.commit", false)
		doneA := started(func() error { return a.update("x=1") })
		doneB := started(func() error { return b.update("y=1") })
		ended := false
		doneC := started(func() error { defer func() { ended = true }(); return c.update("a=C") })
		releaseB := s.hold("B", "backup.begin", false)
		releaseA()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if ended {
			t.Error("the request has returned while its change was being made")
		}
		releaseB()
		must(t, doneA())
		must(t, doneB())
		must(t, doneC())
		s.expectKept(t, "a=C x=1 y=1")
	})
}

func TestAPanicOfATierLeavesNobodyWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		releaseA := s.hold("A", "backup.begin", false)
		s.at("B", "backup.begin", false, func() error { panic("tier") })
		doneA := started(func() error { return a.update("x=1") })
		doneB := started(func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panic: %v", p)
				}
			}()
			return b.update("y=1")
		})
		doneC := started(func() error { return c.update("z=1") })
		releaseA()
		must(t, doneA())
		if doneB() == nil {
			t.Error("the service did not panic")
		}
		expectErr(t, "the change that B was to make", doneC(), errPanic)
	})
}

func TestARequestOlderThanAnHourBringsBackNothingThatWasDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		a := s.opened(t, "A")
		s.fail("A", "backup")
		must(t, a.updateAsync("a=2"))
		drain(t)
		old := s.opened(t, "B")
		s.well()
		must(t, s.opened(t, "D").update("-a"))
		for i := range 7 {
			time.Sleep(10 * time.Minute)
			must(t, s.opened(t, "E").update(fmt.Sprintf("e=%d", i)))
		}
		must(t, old.update("z=1"))
		drain(t)
		s.expectKept(t, "b=1 e=6 z=1")
	})
}

// The retry of a move whose commit seemed to fail must not go back to what was
// known before the change of another request.
func TestAMoveWhoseCommitSeemedToFailKeepsWhatOthersHaveSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		writer := s.opened(t, "W")
		publish := s.hold("W", "cache.swap", false)
		written := started(func() error { return writer.update("a=2") })
		synctest.Wait() // committed, and not published
		mover := s.opened(t, "T")
		mover.st.Retries = 1
		s.lose("T", "backup.commit")
		last, err := mover.take("t=1")
		publish()
		must(t, written())
		must(t, err)
		expect(t, "moved", last, "a=2 t=1")
	})
}
