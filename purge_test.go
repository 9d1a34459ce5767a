package gaesession_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// putEntities saves n session entities of a kind that expired that long ago.
func putEntities(t testing.TB, s *gaetest.Service, kind string, n int, ago time.Duration) {
	t.Helper()
	putEntitiesIn(t, s.Context(), kind, n, ago)
}

func putEntitiesIn(t testing.TB, ctx context.Context, kind string, n int, ago time.Duration) {
	t.Helper()
	expires := time.Now().Add(-ago)
	for n > 0 {
		batch := min(n, 500)
		keys := make([]*datastore.Key, batch)
		entities := make([]gaesession.SessEntity, batch)
		for i := range keys {
			keys[i] = datastore.NewKey(ctx, kind, fmt.Sprintf("%v-%d", ago, n-i), 0, nil)
			// Some of them at the same instant, some apart.
			entities[i] = gaesession.SessEntity{Expires: expires.Add(-time.Duration(i%7) * time.Second), Value: []byte("value")}
		}
		if _, err := datastore.PutMulti(ctx, keys, entities); err != nil {
			t.Fatal(err)
		}
		n -= batch
	}
}

func countEntities(t testing.TB, s *gaetest.Service, kind string) int {
	t.Helper()
	return countEntitiesIn(t, s.Context(), kind)
}

func countEntitiesIn(t testing.TB, ctx context.Context, kind string) int {
	t.Helper()
	n, err := datastore.NewQuery(kind).Count(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPurgeDeletesWhatExpiredAndNothingElse(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		putEntities(t, s, "sess_", 1203, time.Hour)
		putEntities(t, s, "sess_", 3, 6*time.Minute)
		putEntities(t, s, "sess_", 2, 4*time.Minute) // within the grace
		putEntities(t, s, "sess_", 2, -time.Hour)
		putEntities(t, s, "other", 2, time.Hour)
		got, err := gaesession.PurgeExpired(s.Context(), "")
		if want := (gaesession.PurgeResult{Completed: true, Deleted: 1206}); got != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if n := countEntities(t, s, "sess_"); n != 4 {
			t.Errorf("%d entities are left, want 4", n)
		}
		if n := countEntities(t, s, "other"); n != 2 {
			t.Errorf("%d entities of the other kind are left, want 2", n)
		}
		got, err = gaesession.PurgeExpired(s.Context(), "other")
		if want := (gaesession.PurgeResult{Completed: true, Deleted: 2}); got != want || err != nil {
			t.Errorf("the other kind: got %+v, %v, want %+v", got, err, want)
		}
		got, err = gaesession.PurgeExpired(s.Context(), "nothing")
		if want := (gaesession.PurgeResult{Completed: true}); got != want || err != nil {
			t.Errorf("nothing to purge: got %+v, %v, want %+v", got, err, want)
		}
	})
}

// A list of an owner's sessions may be written again although it has expired: by
// the login that a purge overlaps.
func TestPurgeLeavesAListOfSessionsThatIsWrittenMeanwhile(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		purgeAll(t, s)
		key := func(name string) *datastore.Key {
			return datastore.NewKey(s.Context(), "sess_", name, 0, nil)
		}
		list := func(name string, ago time.Duration) {
			e := &gaesession.SessEntity{Expires: time.Now().Add(-ago), Value: []byte("value")}
			if _, err := datastore.Put(s.Context(), key(name), e); err != nil {
				t.Error(err)
			}
		}
		list("owner:ada", time.Hour)
		list("owner:bob", time.Hour)
		list("ada", time.Hour)
		r := s.NewRequest(gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
			if c.Method == "BeginTransaction" {
				list("owner:ada", -time.Hour)
			}
			return nil
		}})
		if _, err := gaesession.PurgeExpired(r.Context(), ""); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]error{"owner:ada": nil, "owner:bob": datastore.ErrNoSuchEntity, "ada": datastore.ErrNoSuchEntity} {
			if err := datastore.Get(s.Context(), key(name), new(gaesession.SessEntity)); err != want {
				t.Errorf("%s: got %v, want %v", name, err, want)
			}
		}
	})
}

func TestPurgeDeletesRemovedSessionsADayLater(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	logout(t, s, options{}, id)
	var e gaesession.SessEntity
	key := datastore.NewKey(s.Context(), "sess_", id, 0, nil)
	if err := datastore.Get(s.Context(), key, &e); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(e.Expires); len(e.Value) > 0 || left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("got an entity with %d bytes that expires in %v, want an empty one and 24h", len(e.Value), left)
	}
	e.Expires = time.Now().Add(-time.Hour)
	if _, err := datastore.Put(s.Context(), key, &e); err != nil {
		t.Fatal(err)
	}
	if got, err := gaesession.PurgeExpired(s.Context(), ""); got.Deleted != 1 || err != nil {
		t.Errorf("got %+v, %v, want one deleted", got, err)
	}
}

// expireEntity makes a session's entity one that expired that long ago.
func expireEntity(t *testing.T, s *gaetest.Service, id string, ago time.Duration) {
	t.Helper()
	key := datastore.NewKey(s.Context(), "sess_", id, 0, nil)
	var e gaesession.SessEntity
	if err := datastore.Get(s.Context(), key, &e); err != nil {
		t.Fatal(err)
	}
	e.Expires = time.Now().Add(-ago)
	if _, err := datastore.Put(s.Context(), key, &e); err != nil {
		t.Fatal(err)
	}
}

// A request that ends right after its session has expired is served.
func TestAChangeMayComeALittleAfterTheExpiry(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	s.Flush()
	r := newRequest(s, options{})
	r.Get(id).SetAttr("n", 1)
	expireEntity(t, s, id, 20*time.Second)
	r.Close()
	if err := r.errs.all(); err != nil {
		t.Error(err)
	}
	expectSession(t, s, options{}, id, attrs{"n": 1})
}

func TestPurgeDeletesInSeveralCallsAtOnceAndQueriesNothingTwice(t *testing.T) {
	s := gaetest.Local(t)
	putEntities(t, s, "sess_", 1600, time.Hour)
	// No delete ends before two are under way.
	var deletes, queries atomic.Int32
	two := make(chan struct{})
	r := s.NewRequest(gaetest.Hook{Before: func(ctx context.Context, c gaetest.Call) error {
		switch c.Method {
		case "RunQuery", "Next":
			queries.Add(1)
		case "Delete":
			if deletes.Add(1) == 2 {
				close(two)
			}
			select {
			case <-two:
			case <-time.After(10 * time.Second):
				t.Error("deletes are not made at the same time")
			}
		}
		return nil
	}})
	got, err := gaesession.PurgeExpired(r.Context(), "")
	if got.Deleted != 1600 || err != nil {
		t.Errorf("got %+v, %v, want 1600 deleted", got, err)
	}
	if deletes.Load() != 4 || queries.Load() > 8 {
		t.Errorf("made %d deletes and %d queries, want 4 and at most 8", deletes.Load(), queries.Load())
	}
}

func TestDrainTakesNil(t *testing.T) {
	//lint:ignore SA1012 that is the test
	if err := gaesession.Drain(nil); err != nil {
		t.Error(err)
	}
}

// purge asks the handler, in the name of that request.
func purge(r *gaetest.Request, method string, header ...string) (status int, body map[string]any, err error) {
	req := httptest.NewRequest(method, "/purge", nil).WithContext(r.Context())
	for _, name := range header {
		req.Header.Set(name, "true")
	}
	w := httptest.NewRecorder()
	gaesession.PurgeExpiredSessFromDSFunc("")(w, req)
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		return w.Code, nil, fmt.Errorf("content type is %q", got)
	}
	return w.Code, body, json.Unmarshal(w.Body.Bytes(), &body)
}

// purgeAll deletes what other tests have left in their namespaces: the handler
// purges them all.
func purgeAll(t *testing.T, s *gaetest.Service) {
	t.Helper()
	if status, body, err := purge(s.NewRequest(), http.MethodGet); status != 200 || err != nil {
		t.Fatalf("got %d %v %v", status, body, err)
	}
}

func TestPurgeHandlerAnswersWithJSON(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		purgeAll(t, s)
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			putEntities(t, s, "sess_", 3, time.Hour)
			status, body, err := purge(s.NewRequest(), method)
			if status != 200 || body["completed"] != true || body["deleted"] != 3.0 || len(body) != 2 || err != nil {
				t.Errorf("%s: got %d %v %v, want 200, completed and 3 deleted", method, status, body, err)
			}
		}
	})
}

func TestPurgeHandlerPurgesEveryNamespaceAndPurgeExpiredOne(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		purgeAll(t, s)
		tenants := []context.Context{s.Context()}
		for _, namespace := range []string{"", "tenant-1", "tenant-2"} {
			ctx, err := appengine.Namespace(s.Context(), namespace)
			if err != nil {
				t.Fatal(err)
			}
			tenants = append(tenants, ctx)
		}
		put := func() {
			t.Helper()
			for i, ctx := range tenants {
				putEntitiesIn(t, ctx, "sess_", i+1, time.Hour)
				putEntitiesIn(t, ctx, "sess_", 1, -time.Hour)
			}
		}
		put()
		left := func(want ...int) {
			t.Helper()
			for i, ctx := range tenants {
				if n := countEntitiesIn(t, ctx, "sess_"); n != want[i] {
					t.Errorf("namespace %d has %d entities left, want %d", i, n, want[i])
				}
			}
		}
		got, err := gaesession.PurgeExpired(tenants[2], "")
		if want := (gaesession.PurgeResult{Completed: true, Deleted: 3}); got != want || err != nil {
			t.Errorf("PurgeExpired: got %+v, %v, want %+v", got, err, want)
		}
		left(2, 3, 1, 5)
		put()
		status, body, err := purge(s.NewRequest(), http.MethodGet)
		if status != 200 || body["completed"] != true || body["deleted"] != 10.0 || err != nil {
			t.Errorf("the handler: got %d %v %v, want 200, completed and 10 deleted", status, body, err)
		}
		left(1, 1, 1, 1)
		for _, ctx := range tenants { // the default namespace outlives the test
			if err := datastore.Delete(ctx, datastore.NewKey(ctx, "sess_", fmt.Sprintf("%v-%d", -time.Hour, 1), 0, nil)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestPurgeHandlerPurgesANamespaceAfterALargeOne(t *testing.T) {
	gaelocal.StartForTest(t)
	s := gaetest.Local(t)
	large, err := appengine.Namespace(s.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	small, err := appengine.Namespace(s.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	putEntitiesIn(t, large, "sess_", 3003, time.Hour)
	putEntitiesIn(t, small, "sess_", 3, 2*time.Hour)
	status, body, err := purge(s.NewRequest(), http.MethodGet)
	if status != 200 || body["completed"] != true || body["deleted"] != 3006.0 || err != nil {
		t.Errorf("got %d %v %v, want 200, completed and 3006 deleted", status, body, err)
	}
}

func TestPurgeHandlerOfAnAppWithoutEntitiesHasCompleted(t *testing.T) {
	gaelocal.StartForTest(t)
	s := gaetest.Local(t)
	if status, body, err := purge(s.NewRequest(), http.MethodGet); status != 200 || body["completed"] != true || body["deleted"] != 0.0 || err != nil {
		t.Errorf("got %d %v %v, want 200, completed and none deleted", status, body, err)
	}
}

func TestPurgeExpiredTakesNil(t *testing.T) {
	gaelocal.StartForTest(t)
	ctx := context.Background()
	putEntitiesIn(t, ctx, "sess_", 2, time.Hour)
	//lint:ignore SA1012 that is the test
	got, err := gaesession.PurgeExpired(nil, "")
	if want := (gaesession.PurgeResult{Completed: true, Deleted: 2}); got != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestPurgeHandlerRefusesOtherMethods(t *testing.T) {
	s := gaetest.Local(t)
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodHead} {
		r := s.NewRequest()
		status, body, err := purge(r, method)
		if status != http.StatusMethodNotAllowed || body["error"] == nil || len(r.Calls()) > 0 || err != nil {
			t.Errorf("%s: got %d %v %v and calls %v, want 405, an error and none", method, status, body, err, r.Calls())
		}
	}
}

func TestPurgeHandlerOnAppEngineIsForCronOnly(t *testing.T) {
	s := gaetest.Local(t)
	t.Setenv("GAE_ENV", "standard")
	r := s.NewRequest()
	if status, body, err := purge(r, http.MethodGet); status != http.StatusForbidden || body["error"] == nil || len(r.Calls()) > 0 || err != nil {
		t.Errorf("got %d %v %v and calls %v, want 403, an error and none", status, body, err, r.Calls())
	}
	if status, body, err := purge(s.NewRequest(), http.MethodGet, "X-Appengine-Cron"); status != 200 || body["completed"] != true || err != nil {
		t.Errorf("from cron: got %d %v %v, want 200", status, body, err)
	}
}

func TestAPurgeThatKeepsFailingEndsWithAnError(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		purgeAll(t, s)
		putEntities(t, s, "sess_", 3, time.Hour)
		for _, method := range []string{"RunQuery", "Delete"} {
			r := s.NewRequest(gaetest.Fail(func(c gaetest.Call) bool { return c.Method == method }))
			status, body, err := purge(r, http.MethodGet)
			if status != 500 || body["completed"] != false || body["error"] == nil || err != nil {
				t.Errorf("%s fails: got %d %v %v, want 500 and an error", method, status, body, err)
			}
			tries := 0
			for _, c := range r.Calls() {
				if c.Method == method {
					tries++
				}
			}
			if tries != 3 {
				t.Errorf("%s was tried %d times, want 3", method, tries)
			}
		}
		// One failure is retried.
		r := s.NewRequest(gaetest.Fail(gaetest.At(1)), gaetest.Fail(gaetest.At(3)))
		if status, body, err := purge(r, http.MethodGet); status != 200 || body["deleted"] != 3.0 || err != nil {
			t.Errorf("single failures: got %d %v %v, want 200 and 3 deleted", status, body, err)
		}
	})
}

func TestAPurgeStopsWithItsContext(t *testing.T) {
	s := gaetest.Local(t)
	putEntities(t, s, "sess_", 1500, time.Hour)
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var deletes atomic.Int32
	r := s.NewRequestContext(ctx, gaetest.Hook{
		Before: func(ctx context.Context, c gaetest.Call) error {
			if c.Method == "Delete" && deletes.Add(1) > 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		},
		After: func(_ context.Context, c gaetest.Call) error {
			if c.Method == "Delete" {
				cancel()
			}
			return nil
		},
	})
	got, err := gaesession.PurgeExpired(r.Context(), "")
	if want := (gaesession.PurgeResult{Deleted: 500}); got != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if left := countEntities(t, s, "sess_"); left != 1000 {
		t.Errorf("%d entities are left, want 1000", left)
	}
}
