//go:build go1.25

package gaesession_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestPurgeHandlerStopsAfterEightMinutes(t *testing.T) {
	gaelocal.StartForTest(t)
	s := gaetest.Local(t)
	const tenants = 12
	for i := range tenants {
		ctx, err := appengine.Namespace(s.Context(), fmt.Sprintf("tenant-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		putEntitiesIn(t, ctx, "sess_", 1, time.Hour)
	}
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		begin := time.Now()
		r := s.NewSimulatedRequest(func(c gaetest.Call) time.Duration {
			if c.Method == "RunQuery" {
				return 55 * time.Second
			}
			return 0
		})
		status, body, err := purge(r, http.MethodGet)
		if status != 200 || body["completed"] != false || body["deleted"] != 7.0 || body["error"] != nil || err != nil {
			t.Errorf("got %d %v %v, want 200, not completed, and 7 deleted", status, body, err)
		}
		if took := time.Since(begin); took > 9*time.Minute {
			t.Errorf("it took %v", took)
		}
	})
	if status, body, err := purge(s.NewRequest(), http.MethodGet); status != 200 || body["completed"] != true || body["deleted"] != 5.0 || err != nil {
		t.Errorf("the next one: got %d %v %v, want 5 deleted", status, body, err)
	}
}

// A call that does not answer must not use up the eight minutes, and pass for a
// purge that has much to do.
func TestAPurgeThatGetsNoAnswerIsAnError(t *testing.T) {
	gaelocal.StartForTest(t)
	s := gaetest.Local(t)
	putEntities(t, s, "sess_", 1, time.Hour)
	for _, method := range []string{"RunQuery", "Delete"} {
		gaetest.InSimulatedTime(t, func(t *testing.T) {
			begin := time.Now()
			r := s.NewSimulatedRequest(func(gaetest.Call) time.Duration { return 0 }, gaetest.Hook{
				Before: func(ctx context.Context, c gaetest.Call) error {
					if c.Method != method {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				},
			})
			done, err := gaesession.PurgeExpired(r.Context(), "")
			if took := time.Since(begin).Round(time.Second); err == nil || done != (gaesession.PurgeResult{}) || took != 3*time.Minute {
				t.Errorf("%s: got %+v, %v after %v, want an error after 3m", method, done, err, took)
			}
		})
	}
}
