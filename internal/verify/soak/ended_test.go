package soak

import (
	"context"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/judge"
)

// Until then the cache may have an older session than the backup.
func TestABackgroundSaveHasEndedWhenTheCacheWasTold(t *testing.T) {
	server := gaelocal.StartForTest(t)
	s := &soak{mode: "async", server: server, out: io.Discard, ctx: context.Background()}
	c := &client{soak: s, name: "c", rnd: rand.New(rand.NewPCG(1, 1)), instance: newProcess(0, 0), patience: time.Minute}
	c.login(0, nil)
	r := c.pool[0].Load()
	if r == nil {
		t.Fatal("nobody has logged in")
	}
	ended := func() judge.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		last := r.session.Requests[len(r.session.Requests)-1]
		if len(last.Sets) == 0 {
			t.Error("the last request changes nothing")
		}
		return last.Ended
	}
	var committed, told atomic.Bool
	server.SetHooks(gaelocal.Hooks{
		Before: func(_ context.Context, call gaelocal.Call) error {
			if call.Service == "memcache" && committed.Load() {
				told.Store(true)
				if ended() != 0 {
					t.Error("it has ended before the cache is told")
				}
			}
			return nil
		},
		After: func(_ context.Context, call gaelocal.Call) error {
			if call.Method == "Commit" {
				committed.Store(true)
			}
			return nil
		},
	})
	c.change(r)
	if err := gaesession.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(time.Minute); ended() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it has not ended")
		}
	}
	if !told.Load() {
		t.Error("the cache was not told, so this test shows nothing")
	}
}
