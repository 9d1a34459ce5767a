//go:build go1.25

package gaesession_test

import (
	"testing"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestAPurgeStopsAfterEightMinutes(t *testing.T) {
	s := gaetest.Local(t)
	const page = 1500
	putEntities(t, s, "sess_", page+1, time.Hour)
	inSimulatedTime(t, func(t *testing.T) {
		begin := time.Now()
		r := s.NewSimulatedRequest(func(c gaetest.Call) time.Duration {
			switch {
			case c.Method != "RunQuery":
				return time.Second
			case time.Since(begin) > time.Minute:
				return time.Minute // would end in time, but for the first
			}
			return 7*time.Minute + 30*time.Second
		})
		got, err := gaesession.PurgeExpired(r.Context(), "")
		if want := (gaesession.PurgeResult{Deleted: page}); got != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	})
	if got, err := gaesession.PurgeExpired(s.Context(), ""); !got.Completed || got.Deleted != 1 || err != nil {
		t.Errorf("the next one: got %+v, %v, want the rest deleted", got, err)
	}
}
