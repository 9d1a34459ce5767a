package gaetest

import (
	"fmt"
	"testing"
)

// AtEachCall calls try with 1, 2, … until it says that the request has no such
// call.
func AtEachCall(t *testing.T, try func(t *testing.T, k int) (reached bool)) {
	t.Helper()
	for k := 1; ; k++ {
		reached := false // as after -failfast, which runs no further subtests
		t.Run(fmt.Sprintf("call %d", k), func(t *testing.T) { reached = try(t, k) })
		if !reached {
			if k < 2 {
				t.Error("the request made no call")
			}
			return
		}
	}
}
