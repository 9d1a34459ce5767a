//go:build go1.25

package gaesession_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"google.golang.org/appengine/v2"

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
	inSimulatedTime(t, func(t *testing.T) {
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
