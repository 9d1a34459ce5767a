package peers

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// TestOperationsOfAMillionRequestsCostATenth counts the entities that are read,
// written and deleted in Datastore by 95 requests in a hundred that read their
// session and 5 that change it, on App Engine's services, and scales them.
func TestOperationsOfAMillionRequestsCostATenth(t *testing.T) {
	const requests, clients, million = 200, 5, 1_000_000
	writes := map[string]int{}
	for _, a := range append(ourApps(nil, nil, time.Minute), newApp(iczaName, oldLibrary{})) {
		s := gaetest.Local(t)
		var mu sync.Mutex
		made := map[string]int{} // by method
		count := gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
			mu.Lock()
			defer mu.Unlock()
			made[c.String()]++
			return nil
		}}
		var browsers []*client
		for range clients {
			c := newClient(a)
			if res := c.do(s.Context(), "/login", ""); !res.ok() {
				t.Fatalf("%s: login: status %d", a.name, res.status)
			}
			browsers = append(browsers, c)
		}
		l := load{changes: 5}
		for k := range requests {
			if res := l.request(s.NewRequest(count).Context(), browsers[k/20%clients], k); !res.ok() {
				t.Fatalf("%s: request %d: status %d", a.name, k, res.status)
			}
		}
		scaled := func(method string) int { return made[method] * (million / requests) }
		writes[a.name] = scaled("datastore_v3.Put")
		t.Logf("| %s | %d | %d | %d |", a.name, scaled("datastore_v3.Get"), writes[a.name], scaled("datastore_v3.Delete"))
	}
	for name, n := range writes {
		if name != iczaName && n*10 > writes[iczaName] {
			t.Errorf("%s: %d writes, want a tenth of %d at most", name, n, writes[iczaName])
		}
	}
}
