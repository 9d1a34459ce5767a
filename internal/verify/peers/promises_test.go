package peers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
)

// overlapping is how many requests change a session at once.
const overlapping = 8

// TestOverlappingRequestsKeepWhatOthersHaveSaved counts, for each store, changes
// that are lost and sessions that come back. Ours must have none.
func TestOverlappingRequestsKeepWhatOthersHaveSaved(t *testing.T) {
	for _, a := range newApps(t, newServer(t).addr, time.Minute) {
		t.Run(a.name, func(t *testing.T) {
			const times = 5
			lost, back := count(t, a, times)
			t.Logf("%d of %d changes lost, %d of %d sessions back", lost, times*overlapping, back, times)
		})
	}
}

// count has requests overlap that many times, and returns how many of their changes
// are lost, and how many sessions came back.
func count(t *testing.T, a *app, times int) (lost, back int) {
	t.Helper()
	for range times {
		lost += lostUpdates(t, a)
		if comesBack(t, a) {
			back++
		}
	}
	if a.ours && lost+back > 0 {
		t.Errorf("%s: %d changes are lost, and %d sessions are back", a.name, lost, back)
	}
	return lost, back
}

// lostUpdates has requests change keys of their own in one session. All have loaded
// it before the first one saves. It returns how many of the changes are not in it. If
// a store has said that the cache does not know of a change yet, it gets ten seconds
// to tell it.
func lostUpdates(t *testing.T, a *app) (lost int) {
	t.Helper()
	c := login(t, a)
	told := unpublished.Load()
	key := func(i int) string { return fmt.Sprint("count", i) }
	var loaded, ended sync.WaitGroup
	loaded.Add(overlapping)
	hold := func() { loaded.Done(); loaded.Wait() }
	for i := range overlapping {
		ended.Add(1)
		go func() {
			defer ended.Done()
			if res := c.again().do(onItsOwn(hold), "/add", key(i)); !res.ok() {
				t.Errorf("%s: change %d: status %d", a.name, i, res.status)
			}
		}()
	}
	ended.Wait()
	for i := range overlapping {
		res := c.do(context.Background(), "/read", key(i))
		for end := time.Now().Add(10 * time.Second); res.n == 0 && unpublished.Load() > told && time.Now().Before(end); {
			time.Sleep(100 * time.Millisecond)
			res = c.do(context.Background(), "/read", key(i))
		}
		if !res.ok() {
			t.Errorf("%s: read: status %d", a.name, res.status)
		}
		lost += 1 - res.n
	}
	return lost
}

// comesBack reports whether a session that is logged out under a request which is
// changing it is there afterwards.
func comesBack(t *testing.T, a *app) bool {
	t.Helper()
	c := login(t, a)
	c.again().do(onItsOwn(func() {
		if res := c.again().do(context.Background(), "/logout", ""); !res.ok() {
			t.Errorf("%s: logout: status %d", a.name, res.status)
		}
	}), "/add", "visits") // answers with an error, where the store can tell
	return c.do(context.Background(), "/read", "visits").ok()
}

// onItsOwn returns the context of a request on an instance of its own, which calls
// loaded when it has loaded its session.
func onItsOwn(loaded func()) context.Context {
	ctx := context.WithValue(context.Background(), loadedKey{}, loaded)
	return instance.With(ctx, instance.Instance{Name: new(int)})
}

func login(t *testing.T, a *app) *client {
	t.Helper()
	c := newClient(a)
	if res := c.do(context.Background(), "/login", ""); !res.ok() || len(c.cookies) != 1 {
		t.Fatalf("%s: login: status %d, %d cookies", a.name, res.status, len(c.cookies))
	}
	return c
}
