//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

// Work that goes on when its request has ended.

// saves starts n background saves of one session, none of which ends before
// release is called.
func saves(t *testing.T, s *services, n int) (release func()) {
	t.Helper()
	goOn := make(chan bool)
	s.patient = true
	s.hook(func(c step) error {
		if c.who == "A" && c.is("backup.begin") && !c.done {
			return c.wait(goOn)
		}
		return nil
	})
	for range n {
		r := s.opened(t, "A")
		begin := time.Now()
		must(t, r.updateAsync("a=2"))
		expect(t, "waited", time.Since(begin), 0)
	}
	synctest.Wait()
	return func() { close(goOn) }
}

func TestSixteenBackgroundSavesAreMadeAtOnceAndAThousandWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		release := saves(t, s, maxSaves+maxQueued)
		expect(t, "saves under way", s.count("backup.begin"), 16)
		goroutines := runtime.NumGoroutine()
		if goroutines > 100 {
			t.Errorf("there are %d goroutines", goroutines)
		}
		// Another instance has places of its own.
		other := s.hold("other", "backup.begin", false)
		must(t, s.opened(t, "other").on(instance.Instance{Name: 2}).updateAsync("b=1"))
		synctest.Wait()
		expect(t, "saves under way", s.count("backup.begin"), 17)
		other()
		release()
		drain(t)
		s.expectKept(t, "a=2 b=1")
		// There is room again.
		must(t, s.opened(t, "A").settle())
		save := s.hold("A", "backup.commit", false)
		must(t, s.opened(t, "A").updateAsync("a=3"))
		expect(t, "cached", s.cached(), "unsaved a=3 b=1")
		save()
		s.expectKept(t, "a=3 b=1")
	})
}

func TestAChangeWithoutAPlaceForItsSaveIsSavedSynchronously(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		release := saves(t, s, maxSaves+maxQueued)
		r := s.opened(t, "B")
		must(t, r.updateAsync("b=1"))
		expect(t, "in the backup", s.backedUp(), "a=2 b=1")
		release()
		s.expectKept(t, "a=2 b=1")
	})
}

func TestAChangeWithoutAPlaceLivesInTheCacheWhileTheBackupIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		release := saves(t, s, maxSaves+maxQueued)
		s.patient = false
		r := s.opened(t, "B")
		s.silence("B", "backup")
		d := took(func() { expectErr(t, "change", r.updateAsync("b=1"), tier.ErrNotBackedUp) })
		expect(t, "it took", d, DefaultBackupTimeout)
		expect(t, "now", s.request(t, "judge").see(), "a=2 b=1")
		release()
		drain(t)
		time.Sleep(saveAfter)
		must(t, s.opened(t, "reader").settle())
		s.expectKept(t, "a=2 b=1")
	})
}

func TestASaveThatEndsItsGoroutineLeavesItsPlaceToTheNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		release := saves(t, s, maxSaves+1)
		s.hook(func(c step) error {
			if c.who == "A" && c.is("backup.begin") {
				runtime.Goexit()
			}
			return nil
		})
		release()
		drain(t)
		s.well()
		must(t, s.opened(t, "B").updateAsync("b=1"))
		s.expectKept(t, "a=2 b=1")
	})
}

func TestBackgroundWorkIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.patient = true
		s.silence("A", "backup")
		r := s.opened(t, "A")
		r.st.Background = func(context.Context) context.Context { return context.WithValue(context.Background(), whoKey{}, "A") }
		begin := time.Now()
		must(t, r.updateAsync("a=2"))
		drain(t)
		if took := time.Since(begin); took > 2*saveTimeout {
			t.Errorf("it took %v", took)
		}
		if len(s.reports) != 1 || !errors.Is(s.reports[0], errTimeout) {
			t.Errorf("reported was %v", s.reports)
		}
	})
}

// Drain.

func TestDrainWaitsNoLongerThanItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		release := saves(t, s, 1)
		cause := errors.New("the server ends")
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, cause)
		defer cancel()
		d := took(func() { expectErr(t, "drain", Drain(ctx), cause) })
		expect(t, "it took", d, time.Second)
		release()
	})
}

func TestAGroupIsIdleWhenAllOfItHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var g group
		must(t, g.wait(context.Background()))
		var ended atomic.Int32
		for i := range 3 {
			g.start(func() {
				time.Sleep(time.Duration(i) * time.Second)
				ended.Add(1)
				if i == 0 {
					g.start(func() { time.Sleep(10 * time.Second); ended.Add(1) })
					runtime.Goexit()
				}
			})
		}
		must(t, g.wait(context.Background()))
		expect(t, "have ended", ended.Load(), 4)
	})
}

func TestInParallelCallsSoManyAtOnceAndEach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var running, most, called atomic.Int32
		d := took(func() {
			inParallel(16, 100, func(int) {
				if n := running.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Second)
				running.Add(-1)
				called.Add(1)
			})
		})
		expect(t, "calls", called.Load(), 100)
		expect(t, "at once", most.Load(), 16)
		expect(t, "it took", d, 7*time.Second)
	})
}
