package cascadestore_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestPurgeDeletesWhatExpired(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		b := a.login(t, values{"n": 0})
		ctx := s.Context()
		const expired = 7
		for i := range expired {
			putEntity(t, ctx, fmt.Sprintf("OLD%d", i), &entity{[]byte("x"), time.Now().Add(-time.Hour)})
		}
		got, err := cascadestore.PurgeExpired(ctx)
		if want := (cascadestore.PurgeResult{Completed: true, Deleted: expired}); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		if _, e := stored(t, ctx, "OLD0"); e != nil {
			t.Error("an expired entity is still there")
		}
		b.expect(t, cascadestore.DistributedBackends, values{"n": 0})
	})
}

func TestPurgeHandlerPurgesEveryNamespaceAndAnswersWithJSON(t *testing.T) {
	gaelocal.StartForTest(t)
	for _, namespace := range []string{"", "tenant-1", "tenant-2"} {
		ctx, err := appengine.Namespace(context.Background(), namespace)
		if err != nil {
			t.Fatal(err)
		}
		putEntity(t, ctx, "OLD", &entity{[]byte("x"), time.Now().Add(-time.Hour)})
	}
	serve := func(method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/", nil)
		r.Header.Set("X-Appengine-Cron", "true")
		cascadestore.PurgeHandler()(w, r)
		return w
	}
	w := serve(http.MethodGet)
	if got, want := strings.TrimSpace(w.Body.String()), `{"completed":true,"deleted":3}`; w.Code != http.StatusOK || got != want {
		t.Errorf("got %d %s, want %s", w.Code, got, want)
	}
	if w := serve(http.MethodPut); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("PUT: got %d, want 405", w.Code)
	}
}

func TestPurgeExpiredTakesNil(t *testing.T) {
	gaelocal.StartForTest(t)
	putEntity(t, context.Background(), "OLD", &entity{[]byte("x"), time.Now().Add(-time.Hour)})
	//lint:ignore SA1012 that is the test
	got, err := cascadestore.PurgeExpired(nil)
	if want := (cascadestore.PurgeResult{Completed: true, Deleted: 1}); got != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestDrainTakesNil(t *testing.T) {
	//lint:ignore SA1012 that is the test
	if err := cascadestore.Drain(nil); err != nil {
		t.Error(err)
	}
}
