package blackbox

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/gaelocal"
)

var (
	changes = flag.Int("blackbox.changes", 400, "changes in each run")
	seed    = flag.Uint64("blackbox.seed", 0, "seed of the clients; 0: a new one")
)

var server *gaelocal.Server

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) (code int) {
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	var err error
	if server, err = gaelocal.Start(gaelocal.Options{Latency: latency(*seed)}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}()
	restore, err := server.Setenv()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer restore()
	return m.Run()
}

// latency is a tenth of App Engine's, more or less.
func latency(seed uint64) func(gaelocal.Call) time.Duration {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	return func(c gaelocal.Call) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration((0.5 + rnd.Float64()) / 10 * float64(gaelocal.AppEngineLatency(c)))
	}
}

// onFlushes runs f with a Memcache that is left alone, and with one that is
// emptied all the time.
func onFlushes(t *testing.T, name string, f func(t *testing.T, flushes bool)) {
	for _, flushes := range []bool{false, true} {
		t.Run(fmt.Sprintf("%s, flushes=%t", name, flushes), func(t *testing.T) { f(t, flushes) })
	}
}

func TestEachClientsLastChangeIsThere(t *testing.T) {
	onFlushes(t, "gaesession, synchronous", func(t *testing.T, flushes bool) {
		measure(t, &gaesessionApp{}, flushes, *changes).expectNothingLost(t)
	})
	onFlushes(t, "gaesession, asynchronous", func(t *testing.T, flushes bool) {
		measure(t, &gaesessionApp{asynchronous: 100}, flushes, *changes).expectNothingLost(t)
	})
	onFlushes(t, "gaesession, mixed", func(t *testing.T, flushes bool) {
		measure(t, &gaesessionApp{asynchronous: 50}, flushes, *changes).expectNothingLost(t)
	})
	onFlushes(t, "cascadestore, synchronous", func(t *testing.T, flushes bool) {
		measure(t, newCascadeApp(t), flushes, *changes).expectNothingLost(t)
	})
}

// The requests overlap and the judge sees what is lost: blind saves lose some.
func TestBlindSavesLoseChanges(t *testing.T) {
	found := measure(t, blindApp{}, false, 400)
	if found.wrong == 0 || found.stale == 0 {
		t.Errorf("got %v, want some wrong and some stale", found)
	}
}
