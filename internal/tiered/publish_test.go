//go:build go1.25

package tiered

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestAPublishThatCannotBeMergedIsNotTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		st := s.state(t).clone()
		st.value = []byte("a=!")
		st.set([]cell{{name: nameOf("b"), at: stampOf(time.Now()), unsaved: true}})
		s.keepItem(id, tier.Item{Value: st.encode(id, true)}, timeout)
		expectErr(t, "change", r.update("a=1"), errUnreadable)
		s.forgetCalls()
		drain(t)
		expect(t, "calls", s.count(""), 0)
	})
}

func TestAPublishThatOthersHaveMadeSwapsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0 c=0")
		a, c := s.opened(t, "A"), s.opened(t, "C")
		publish := s.hold("A", "cache.swap", false)
		ended := started(func() error { return a.update("a=1") })
		must(t, c.update("c=1")) // has A's change in it
		s.forgetCalls()
		publish()
		must(t, ended())
		expect(t, "swaps", s.count("cache.swap"), 0)
		expect(t, "gets", s.count("cache.get"), 1)
		expect(t, "cached", s.cached(), "a=1 c=1")
	})
}

func TestAPublishAfterALogoutLeavesItsMarker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		publish := s.hold("A", "cache.swap", false)
		ended := started(func() error { return r.update("a=1") })
		must(t, s.opened(t, "B").remove())
		publish()
		must(t, ended())
		expect(t, "cached", s.cached(), "removed")
	})
}

func TestALaterAccessStaysUnsavedInAPublish(t *testing.T) {
	for name, access := range map[string]func(c *Change){
		"use and end": func(*Change) {},
		"use":         func(c *Change) { c.Ends = time.Time{} },
		"end":         func(c *Change) { c.Used = time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				s.patient = true
				a, b := s.opened(t, "A"), s.opened(t, "B")
				publish := s.hold("A", "cache.swap", false)
				ended := started(func() error { return a.update("a=1") })
				time.Sleep(time.Minute)
				c := b.change("")
				access(c)
				s.fail("B", "backup")
				_, err := b.st.Update(b.ctx, id, b.l, c)
				expectErr(t, "access", err, errDown)
				expect(t, "cached", s.cached(), "unsaved a=0")
				publish()
				must(t, ended())
				expect(t, "after the publish", s.cached(), "unsaved a=1")
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				expect(t, "after a save", s.cached(), "a=1")
			})
		})
	}
}

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
				if !r.l.IsCached() {
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

// There is no blind delete: it would take others' unsaved changes.
func TestALatePublishTakesNobodysUnsavedChange(t *testing.T) {
	for name, dies := range map[string]bool{"whose request dies": true, "whose request lives": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0 c=0 d=0")
				a, c := s.opened(t, "A"), s.opened(t, "C")
				publish := s.hold("A", "cache.swap", false)
				ended := started(func() error { return a.update("a=1") })
				must(t, c.update("c=1"))
				if dies {
					s.die("D", "backup.begin", false)
				}
				must(t, s.opened(t, "D").updateAsync("d=1"))
				publish()
				must(t, ended())
				expect(t, "D's change is seen", s.request(t, "judge").see(), "a=1 c=1 d=1")
				drain(t)
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				s.expectKept(t, "a=1 c=1 d=1")
			})
		})
	}
}

func TestAChangeThatTheBackupFailedIsNotOverwrittenByTheSaveOfWhatItStoodOn(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.commit", "cache.get", "cache.swap"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=0")
				r := s.opened(t, "A")
				var release func()
				if op == "cache.swap" {
					must(t, r.updateAsync("a=1"))
					release = s.hold("A", op, false) // that of its publish
				} else {
					release = s.hold("A", op, false)
					must(t, r.updateAsync("a=1"))
				}
				synctest.Wait() // it is held
				s.fail("B", "backup")
				time.Sleep(time.Millisecond)
				expectErr(t, "B's change", s.opened(t, "B").update("a=2"), errDown)
				release()
				drain(t)
				expect(t, "cached", s.cached(), "unsaved a=2")
				time.Sleep(saveAfter)
				must(t, s.opened(t, "reader").settle())
				s.expectKept(t, "a=2")
			})
		})
	}
}

func TestADeletionThatTheBackupHasNotHeardOfIsNotForgottenByAPublish(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		r := s.opened(t, "A")
		publish := s.hold("A", "cache.swap", false)
		ended := started(func() error { return r.update("a=1") })
		save := s.hold("B", "backup.begin", false)
		must(t, s.opened(t, "B").updateAsync("x=1"))
		time.Sleep(time.Millisecond)
		s.die("C", "backup.begin", false)
		must(t, s.opened(t, "C").updateAsync("-x"))
		publish()
		must(t, ended())
		save()
		drain(t)
		expect(t, "now", s.request(t, "judge").see(), "a=1")
		time.Sleep(saveAfter)
		must(t, s.opened(t, "reader").settle())
		s.expectKept(t, "a=1")
	})
}

// Else a session that changes all the time would look as if nobody saved it.
func TestWhatIsSavedIsNotMarkedThoughOthersHaveChangedMoreSince(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0 b=0")
		publish := s.hold("A", "backup.commit", true)
		must(t, s.opened(t, "A").updateAsync("a=1"))
		time.Sleep(time.Second)
		save := s.hold("B", "backup.commit", false)
		must(t, s.opened(t, "B").updateAsync("b=1"))
		publish()
		expect(t, "cached", s.cached(), "unsaved a=1 b=1")
		expect(t, "is due in", time.Until(s.state(t).next.time()), saveAfter)
		save()
		s.expectKept(t, "a=1 b=1")
	})
}

func TestAFailedPublishIsReportedAndGoesOnInTheBackground(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.fail("A", "cache")
		expectErr(t, "change", r.update("a=2"), errDown)
		expect(t, "in the backup", s.backedUp(), "a=2")
		expect(t, "cached", s.cached(), "a=1")
		time.Sleep(time.Minute)
		must(t, Drain(context.Background())) // does not wait for a cache that fails
		expect(t, "a minute later", s.cached(), "a=1")
		s.well()
		time.Sleep(2 * time.Second)
		expect(t, "when the cache is well", s.cached(), "a=2")
		expect(t, "reports", len(s.reports), 0)
		s.expectKept(t, "a=2")
	})
}

func TestAFailedPublishOverwritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		r := s.opened(t, "A")
		s.fail("A", "cache")
		expectErr(t, "change", r.update("a=2"), errDown)
		s.fail("D", "backup")
		must(t, s.opened(t, "D").updateAsync("b=2")) // in the cache alone
		s.well()
		s.fail("D", "backup")
		drain(t)
		expect(t, "cached", s.cached(), "unsaved a=2 b=2")
	})
}

func TestAPublishReplacesALeaseByALeaseAndNeverByAValue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.flush()
		filler := s.opened(t, "filler")
		release := s.hold("filler", "backup.get", true) // it has read a=1
		ended := started(filler.settle)
		must(t, r.update("a=2"))
		expect(t, "cached", s.cached(), "lease")
		release()
		must(t, ended())
		expect(t, "after the refill", s.cached(), "lease")
		s.expectKept(t, "a=2")
	})
}
