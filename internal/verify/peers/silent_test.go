package peers

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession"
)

// TestWhileRedisIsSilentOursAnswer has 16 clients continue while Redis does not
// answer: 20 requests a second each, one in 20 a change. Four of the users log out
// halfway. Once Redis answers again, and what was under way has ended, it counts
// acknowledged changes that are lost, and acknowledged logouts whose session is back.
func TestWhileRedisIsSilentOursAnswer(t *testing.T) {
	silence := 2 * time.Second
	if *rounds > 0 {
		silence = 10 * time.Second
	}
	for _, name := range []string{gaesessionName, cascadeName, scsstoreName, redisAloneName, goredisName, redistoreName} {
		t.Run(name, func(t *testing.T) {
			if *rounds == 0 {
				t.Parallel()
			}
			s := newServer(t)
			apps := newApps(t, s.addr, 0)
			a := apps[slices.IndexFunc(apps, func(a *app) bool { return a.name == name })]
			o := outageOf(t, a, s, silence)
			t.Logf("answered %d of %d, others by status %v; longest request %v; users logged out %d; changes lost %d of %d; sessions back %d of %d",
				o.answered, o.requests, o.failed, o.longest.Round(time.Millisecond), o.loggedOut, o.lost, o.changes, o.back, o.logouts)
			if !a.ours {
				return
			}
			if o.loggedOut+o.lost+o.back > 0 {
				t.Errorf("users are logged out, changes are lost, or sessions are back")
			}
			if *rounds > 0 && o.longest > 2*time.Second {
				t.Errorf("a request took %v, want 2 s at most", o.longest)
			}
		})
	}
}

// An outage is what 16 clients saw of one.
type outage struct {
	requests, answered int         // with status 200, before Redis was back
	failed             map[int]int // the others, by status
	longest            time.Duration
	loggedOut          int // clients that got a 401, or whose cookie was taken away

	changes, lost int // acknowledged
	logouts, back int // acknowledged
}

func outageOf(t *testing.T, a *app, s *server, silence time.Duration) outage {
	t.Helper()
	const clients, logouts, pace = 16, 4, 50 * time.Millisecond
	var mu sync.Mutex
	o := outage{failed: map[int]int{}}
	var checks []func() // when all is over
	over, end := context.WithCancel(context.Background())
	defer end()
	var all sync.WaitGroup
	use := func(i int, c *client) {
		defer all.Done()
		acknowledged, out := 0, false
		began := time.Now()
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		for k := i; over.Err() == nil; k++ {
			path, before := "/read", c.again()
			switch {
			case i < logouts && time.Since(began) > silence/2:
				path = "/logout"
			case k%20 == 0:
				path = "/add"
			}
			asked := time.Now()
			res := c.do(context.Background(), path, "visits")
			took := time.Since(asked)
			mu.Lock()
			o.requests++
			o.longest = max(o.longest, took)
			if res.ok() && over.Err() == nil {
				o.answered++
			} else {
				o.failed[res.status]++
			}
			mu.Unlock()
			switch {
			case path == "/logout":
				if !res.ok() {
					return // the user knows
				}
				mu.Lock()
				defer mu.Unlock()
				checks = append(checks, func() {
					o.logouts++
					if onceKnown(t, before).ok() {
						o.back++
					}
				})
				return
			case path == "/add" && res.ok():
				acknowledged++
			case res.status == http.StatusUnauthorized || res.ended:
				out = true
			}
			select {
			case <-over.Done():
			case <-ticker.C:
			}
		}
		mu.Lock()
		defer mu.Unlock()
		checks = append(checks, func() {
			res := onceKnown(t, c)
			if out || !res.ok() {
				o.loggedOut++
			}
			o.changes += acknowledged
			o.lost += max(0, acknowledged-res.n)
		})
	}

	var browsers []*client
	for range clients {
		browsers = append(browsers, login(t, a))
	}
	speak := s.silence()
	for i, c := range browsers {
		all.Add(1)
		go use(i, c)
	}
	time.Sleep(silence) // the outage
	end()
	speak()
	all.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := gaesession.Drain(ctx); err != nil {
		t.Errorf("work in the background does not end: %v", err)
	}
	for _, check := range checks {
		check()
	}
	return o
}

// onceKnown reads the session, again and again as long as the answer is that nobody
// can tell: a store may take a moment to learn that the server answers again.
func onceKnown(t *testing.T, c *client) response {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res := c.do(context.Background(), "/read", "visits")
		if res.status != http.StatusServiceUnavailable {
			return res
		}
		if time.Now().After(until) {
			t.Errorf("%s: not in 10 s: an answer", c.app.name)
			return res
		}
	}
}
