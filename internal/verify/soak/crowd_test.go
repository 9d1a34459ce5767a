package soak

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
)

var crowd = flag.Duration("crowd", 3*time.Second, "how long 200 clients make requests without a pause; from 30s on the times of reads are judged, for which the machine has to be quiet")

// The appengine package leaves a goroutine for each call beyond its 100
// connections. The test has a process of its own, since connections to other
// servers count.
func TestACrowdLeavesNoGoroutinesAndDoesNotStarveReads(t *testing.T) {
	const env = "SOAK_CROWD"
	if os.Getenv(env) == "" {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-crowd="+crowd.String())
		child.Env = append(os.Environ(), env+"=yes")
		out, err := child.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Error(err)
		}
		return
	}
	server, err := gaelocal.Start(gaelocal.Options{Latency: gaelocal.AppEngineLatency})
	if err != nil {
		t.Fatal(err)
	}
	restore, err := server.Setenv()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		restore()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	open := func() session.Store {
		return gaesession.NewMemcacheStoreOptions(context.Background(), &gaesession.MemcacheStoreOptions{
			CacheTimeout: 10 * time.Second, BackupTimeout: 30 * time.Second, // a busy machine is no silent service
			OnError: func(_ context.Context, err error) { t.Error(err) },
		})
	}
	ids := make([]string, clients)
	for i := range ids {
		store, sess := open(), session.NewSession()
		ids[i] = sess.ID()
		store.Add(sess)
		store.Close()
	}
	// visit is a request, one of ten a change, and returns what a read took.
	visit := func(i, k int) time.Duration {
		store := open()
		began := time.Now()
		sess := store.Get(ids[i])
		took := time.Since(began)
		if sess == nil {
			t.Error("no session")
			return took
		}
		if k%10 == 9 {
			sess.SetAttr("k", k)
		}
		store.Close()
		return took
	}
	p99 := func(all []time.Duration) time.Duration {
		slices.Sort(all)
		return all[len(all)*99/100]
	}
	var idle []time.Duration
	for k := range 500 {
		idle = append(idle, visit(k%clients, k))
	}
	before := runtime.NumGoroutine()

	var all []time.Duration
	var mu sync.Mutex
	var running sync.WaitGroup
	most := 0
	for i := range clients {
		running.Add(1)
		go func() {
			defer running.Done()
			var mine []time.Duration
			for k, end := 0, time.Now().Add(*crowd); time.Now().Before(end); k++ {
				mine = append(mine, visit(i, k))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			most = max(most, runtime.NumGoroutine())
		}()
	}
	running.Wait()
	// Each connection that is kept has three goroutines: two of the client, and
	// one of the server, which is in this process. Some tens that wait for a
	// connection are left of the time until there were enough; without a limit
	// there are thousands.
	const connections = 3*100 + 100
	after := 0
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if after = runtime.NumGoroutine(); after <= before+connections || time.Now().After(until) {
			break
		}
	}
	t.Logf("%d requests of %d clients in %v; goroutines: %d before, %d in the end, %d afterwards; a read: 99th percentile %v, alone %v",
		len(all), clients, *crowd, before, most, after, p99(all), p99(idle))
	if after > before+connections {
		t.Errorf("%d goroutines are left, of %d before", after, before)
	}
	if busy, alone := p99(all), p99(idle); *crowd >= 30*time.Second && busy > 20*alone {
		t.Errorf("the 99th percentile of reads is %v, and %v alone", busy, alone)
	}
}
