package cascadestore_test

import (
	"testing"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// See TestDrainTellsMemcacheWhatItWasNotTold for the exception.
func TestNoGoroutineOutlivesItsRequest(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.AllBackends)
	b := a.login(t, values{"n": 0})
	check := gaetest.Goroutines(t)
	b.mustChange(t, values{"n": 1})
	if b.change(values{"n": 2}, gaetest.Fail(gaetest.Datastore)) == nil {
		t.Error("no error")
	}
	if err := b.regenerate(values{"n": 4}); err != nil {
		t.Error(err)
	}
	b.mustLogout(t)
	check()
}
