//go:build go1.25

package tiered

import (
	"testing"
	"time"
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
