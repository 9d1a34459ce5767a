//go:build go1.25

package cloudlog_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/internal/cloudlog"
)

func TestARareErrorIsLoggedOnceAMinuteWithItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r cloudlog.Rare
		for i, want := range []int{1, 0, 0, 3, 0, 2} { // 0: not logged
			if i == 3 || i == 5 {
				time.Sleep(time.Minute)
			}
			times, isDue := r.Count()
			if times != want || isDue != (want > 0) {
				t.Errorf("error %d: got %d, %t; want %d", i+1, times, isDue, want)
			}
		}
	})
}
