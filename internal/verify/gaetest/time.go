//go:build go1.25

package gaetest

import (
	"testing"
	"testing/synctest"
	"time"
)

// InSimulatedTime runs f in a bubble whose clock goes on from now: it would
// start in 2000, before the times that the services have.
func InSimulatedTime(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	// The application's name, but not in GAE_APPLICATION: with it, background
	// work would be tried again with a context that leads out of the bubble.
	for name, value := range map[string]string{"GAE_APPLICATION": "", "GAE_LONG_APP_ID": "local", "GAE_PARTITION": "dev"} {
		t.Setenv(name, value)
	}
	begin := time.Now().Add(time.Second)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(begin))
		f(t)
		time.Sleep(2 * time.Second) // what is left in the background has ended by then
	})
}
