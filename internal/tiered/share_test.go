//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

func TestABatchIsWrittenWhoeverInItChangesSomething(t *testing.T) {
	for _, edits := range [][]string{{"b=1", ""}, {"", "b=1"}} {
		bubble(t, func(t *testing.T) {
			s := created(t, "a=0")
			for _, err := range batch(t, s, edits...) {
				must(t, err)
			}
			s.expectKept(t, "a=0 b=1 z=1")
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

func TestAServiceThatEndsTheGoroutineLeavesNobodyWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		releaseA := s.hold("A", "backup.begin", false)
		s.at("B", "backup.begin", false, func() error { runtime.Goexit(); return nil })
		doneA := started(func() error { return a.update("x=1") })
		doneB := started(func() error { return b.update("y=1") })
		doneC := started(func() error { return c.update("z=1") })
		releaseA()
		must(t, doneA())
		expectErr(t, "the change of B", doneB(), errPanic)
		expectErr(t, "the change that B was to make", doneC(), errPanic)
	})
}

// shared is a request whose store shares its updates with the others'.
func (s *services) shared(t *testing.T, who string) *request {
	t.Helper()
	r := s.opened(t, who)
	r.st.Shared = shared(s)
	return r
}

func TestAHundredParallelChangesAreMadeInFewUpdates(t *testing.T) {
	for name, change := range changes {
		onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
			s := created(t, "a=0")
			var rs []*request
			for range 100 {
				rs = append(rs, s.shared(t, "A"))
			}
			s.takes(latency)
			var want []string
			var wg sync.WaitGroup
			for i, r := range rs {
				edits := fmt.Sprintf("n%02d=%d", i, i)
				want = append(want, edits)
				wg.Add(1)
				go func() {
					defer wg.Done()
					if err := change(r, edits); err != nil {
						t.Errorf("%s: %v", edits, err)
					}
				}()
			}
			wg.Wait()
			drain(t)
			if n := s.count("backup.commit"); n > 10 {
				t.Errorf("%s: %d commits", name, n)
			}
			if n := s.count("cache.swap"); n > 10 {
				t.Errorf("%s: %d swaps", name, n)
			}
			s.takes(nil)
			s.expectKept(t, "a=0 "+strings.Join(want, " "))
			expect(t, "queues left", len(queues.waiting), 0)
		})
	}
}

func TestOnOneAttributeTheLastOfABatchWins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		rs := []*request{s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C"), s.shared(t, "D")}
		commit := s.hold("A", "backup.commit", false)
		var ended []func() error
		for i, edits := range []string{"x=1", "a=1", "a=2", "-a y=1"} {
			ended = append(ended, started(func() error { return rs[i].update(edits) }))
		}
		commit()
		for _, e := range ended {
			must(t, e())
		}
		expect(t, "commits", s.count("backup.commit"), 2)
		s.expectKept(t, "x=1 y=1")
	})
}

func TestOtherInstancesAndSessionsAreNotWaitedFor(t *testing.T) {
	for name, other := range map[string]func(r *request) string{
		"another instance": func(r *request) string { r.on(instance.Instance{Name: 2}); return id },
		"other services":   func(r *request) string { r.st.Shared = shared(1); return id },
		"no name":          func(r *request) string { r.st.Shared = shared(nil); return id },
		"no sharing":       func(r *request) string { r.st.Shared = nil; return id },
		"another session": func(r *request) string {
			r.id = "another"
			must(r.t, r.create("a=0"))
			return r.id
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				a, b := s.shared(t, "A"), s.shared(t, "B")
				commit := s.hold("A", "backup.commit", false)
				ended := started(func() error { return a.update("a=1") })
				_, err := b.st.Update(b.ctx, other(b), b.l, b.change("b=1"))
				must(t, err)
				commit()
				must(t, ended())
			})
		})
	}
}

func TestAWaitingRequestWhoseContextEndsLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		commit := s.hold("A", "backup.commit", false)
		endedA := started(func() error { return a.update("a=1") })
		cause := errors.New("the client has gone")
		ctx, cancel := context.WithCancelCause(b.ctx)
		b.ctx = ctx
		endedB := started(func() error { return b.update("b=1") })
		endedC := started(func() error { return c.update("c=1") })
		cancel(cause)
		expectErr(t, "the one that leaves", endedB(), cause)
		commit()
		must(t, endedA())
		must(t, endedC())
		s.expectKept(t, "a=1 c=1")
		expect(t, "queues left", len(queues.waiting), 0)
	})
}

func TestALeaderWhoseContextEndsTakesNobodyWithIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		commitA := s.hold("A", "backup.commit", false)
		commitB := s.hold("B", "backup.commit", false)
		endedA := started(func() error { return a.update("a=1") })
		ctx, cancel := context.WithCancel(b.ctx)
		b.ctx = ctx
		endedB := started(func() error { return b.update("b=1") })
		endedC := started(func() error { return c.update("c=1") })
		commitA()
		must(t, endedA())
		cancel() // B leads now
		commitB()
		must(t, endedB())
		must(t, endedC())
		s.expectKept(t, "a=1 b=1 c=1")
	})
}

func TestALeaderThatIsAloneEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.shared(t, "A")
		ctx, cancel := context.WithCancel(r.ctx)
		r.ctx = ctx
		s.fail("A", "backup")
		r.st.Retries = 1000
		time.AfterFunc(time.Second, cancel)
		expectErr(t, "change", r.update("a=1"), context.Canceled)
		expect(t, "queues left", len(queues.waiting), 0)
		must(t, s.shared(t, "B").update("b=1"))
	})
}

// batch has A hold the session while the others wait, each with its change, and
// returns what became of theirs.
func batch(t *testing.T, s *services, edits ...string) (errs []error) {
	t.Helper()
	commit := s.hold("A", "backup.commit", false)
	a := s.shared(t, "A")
	var rs []*request
	for range edits {
		rs = append(rs, s.shared(t, "B"))
	}
	first := started(func() error { return a.update("z=1") })
	var ended []func() error
	for i, e := range edits {
		ended = append(ended, started(func() error { return rs[i].update(e) }))
	}
	commit()
	must(t, first())
	for _, e := range ended {
		errs = append(errs, e())
	}
	return errs
}

func TestATooLargeChangeInABatchIsRefusedAlone(t *testing.T) {
	for name, test := range map[string]struct {
		edits []string
		errs  []error
		want  string
	}{
		"the first":  {[]string{"b=" + strings.Repeat("x", 700), "c=1", "d=1"}, []error{tier.ErrTooLarge, nil, nil}, "a=0 c=1 d=1 z=1"},
		"the second": {[]string{"b=1", "c=" + strings.Repeat("x", 700), "d=1"}, []error{nil, tier.ErrTooLarge, nil}, "a=0 b=1 d=1 z=1"},
		"together": {
			[]string{"b=" + strings.Repeat("x", 350), "c=" + strings.Repeat("x", 350), "d=1"},
			[]error{nil, tier.ErrTooLarge, nil},
			"a=0 b=" + strings.Repeat("x", 350) + " d=1 z=1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				s.large = 1000
				for i, err := range batch(t, s, test.edits...) {
					expectErr(t, test.edits[i], err, test.errs[i])
				}
				s.expectKept(t, test.want)
			})
		})
	}
}

func TestAChangeThatCannotBeMergedIsRefusedAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		errs := batch(t, s, "b=1", "c=!", "d=1")
		expectErr(t, "the first", errs[0], nil)
		expectErr(t, "the second", errs[1], errUnreadable)
		expectErr(t, "the third", errs[2], nil)
		s.expectKept(t, "a=0 b=1 d=1 z=1")
	})
}

func TestABatchOfARemovedSessionIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		commit := s.hold("A", "backup.commit", false)
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		leaver := s.opened(t, "leaver")
		endedA := started(func() error { return a.update("a=1") })
		endedB := started(func() error { return b.update("b=1") })
		endedC := started(func() error { return c.update("c=1") })
		must(t, leaver.remove())
		commit()
		for _, ended := range []func() error{endedA, endedB, endedC} {
			expectErr(t, "change", ended(), tier.ErrRemoved)
		}
		s.expectRemoved(t)
	})
}

func TestABatchThatTheBackupFailsLivesOnInTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.fail("B", "backup")
		for _, err := range batch(t, s, "b=1", "c=1", "-a") {
			expectErr(t, "change", err, errDown)
		}
		expect(t, "cached", s.cached(), "unsaved b=1 c=1 z=1")
		must(t, s.opened(t, "C").update("d=1"))
		s.expectKept(t, "b=1 c=1 d=1 z=1")
	})
}

func TestABatchAndItsLostAnswerApplyOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.at("B", "backup.commit", true, func() error {
			time.Sleep(time.Millisecond)
			other := s.request(t, "other")
			other.l, _ = other.st.LoadBackup(other.ctx, id)
			must(t, other.update("b=2 c=2"))
			return errLost
		})
		for _, err := range batch(t, s, "b=1", "c=1") {
			must(t, err)
		}
		synctest.Wait()
		s.expectKept(t, "a=0 b=2 c=2 z=1")
	})
}

// waiting is a request C with a deadline whose change B is making, at its commit:
// for as long as release is not called.
func waiting(t *testing.T, s *services, deadline time.Duration) (c *request, ended func() error, release func()) {
	t.Helper()
	s.patient = true
	a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
	first, second := s.hold("A", "backup.commit", false), s.hold("B", "backup.commit", false)
	doneA := started(func() error { return a.update("x=1") })
	doneB := started(func() error { return b.update("y=1") })
	ctx, cancel := context.WithTimeout(c.ctx, deadline)
	t.Cleanup(cancel)
	c.ctx = ctx
	ended = started(func() error { return c.update("a=1") })
	first()
	must(t, doneA())
	return c, ended, func() {
		second()
		must(t, doneB())
	}
}

func TestARequestThatWaitsForOthersKeepsItsDeadlineAndASecond(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		c, ended, release := waiting(t, s, 2*time.Second)
		d := took(func() {
			err := ended()
			expectErr(t, "change", err, tier.ErrNotSaved)
			expectErr(t, "change", err, context.DeadlineExceeded)
		})
		expect(t, "it waited", d, 2*time.Second+finishTime)
		// The second was its only one.
		d = took(func() { _ = c.update("b=1") })
		expect(t, "then it waits", d, 0)
		release()
		s.expectKept(t, "a=1 x=1 y=1")
	})
}

func TestARequestThatWaitsForOthersGetsWhatBecomesOfItInThatSecond(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		_, ended, release := waiting(t, s, 2*time.Second)
		time.Sleep(2*time.Second + finishTime - time.Millisecond)
		release()
		must(t, ended())
		s.expectKept(t, "a=1 x=1 y=1")
	})
}

// The request has left, and its change is still being made: it keeps its time.
func TestAChangeThatIsStillBeingMadeIsMadeOnce(t *testing.T) {
	for name, drawn := range map[string]bool{"has its time": true, "has none yet": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				s.patient = true
				op := "backup.commit"
				if !drawn {
					op = "backup.begin" // of the only attempt, which guesses nothing
				}
				a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
				b.l, c.l = b.l.Elsewhere(), c.l.Elsewhere()
				first, second := s.hold("A", "backup.commit", false), s.hold("B", op, false)
				doneA := started(func() error { return a.update("x=1") })
				doneB := started(func() error { return b.update("y=1") })
				free := c.ctx
				ctx, cancel := context.WithCancel(c.ctx)
				defer cancel()
				c.ctx = ctx
				ended := started(func() error { return c.update("a=1") })
				first()
				must(t, doneA())
				cancel()
				expectErr(t, "change", ended(), tier.ErrNotSaved)
				expect(t, "what it goes on from", shown(c.l.Value()), "a=1")
				second()
				must(t, doneB())
				time.Sleep(time.Millisecond)
				must(t, s.opened(t, "D").update("a=5"))
				c.ctx = free
				must(t, c.update("")) // tries it again
				s.expectKept(t, "a=5 x=1 y=1")
			})
		})
	}
}

// The first of those that wait has gone when its turn comes.
func TestALeaderThatHasGoneLeavesNobodyWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.patient = true
		a, b, c := s.shared(t, "A"), s.shared(t, "B"), s.shared(t, "C")
		commit := s.hold("A", "backup.commit", false)
		doneA := started(func() error { return a.update("x=1") })
		b.st.graceUsed.Store(true)
		ctx, cancel := context.WithCancel(b.ctx)
		b.ctx = ctx
		s.at("A", "cache.swap", true, before(cancel)) // its turn comes, and it goes
		doneB := started(func() error { return b.update("y=1") })
		doneC := started(func() error { return c.update("z=1") })
		commit()
		must(t, doneA())
		want := "a=0 x=1 y=1 z=1"
		if err := doneB(); errors.Is(err, context.Canceled) {
			want = "a=0 x=1 z=1"
		}
		must(t, doneC())
		drain(t)
		if got := s.backedUp(); got != want && got != "a=0 x=1 y=1 z=1" {
			t.Errorf("got %s", got)
		}
		expect(t, "queues left", len(queues.waiting), 0)
	})
}

func TestEachOfABatchThatIsTriedAloneIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		s.large = recordLimit
		s.atStep("B", "backup.commit", false, func(step) error { runtime.Goexit(); return nil })
		errs := batch(t, s, xs("b", free+1), "c=1", "d=1")
		expectErr(t, "the one that is too large", errs[0], tier.ErrTooLarge)
		for _, err := range errs[1:] {
			expectErr(t, "another", err, errPanic)
		}
		expect(t, "queues left", len(queues.waiting), 0)
	})
}

// shared names what a store shares.
func shared(name any) func(context.Context, tier.Cache, tier.Backup) any {
	return func(context.Context, tier.Cache, tier.Backup) any { return name }
}
