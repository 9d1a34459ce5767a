package gaesession_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// threadTime is the CPU time that this thread has used; other processes and
// goroutines do not count.
func threadTime(t *testing.T) time.Duration {
	const thread = 1 // RUSAGE_THREAD
	var used syscall.Rusage
	if err := syscall.Getrusage(thread, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func TestTheCostOfNewAttributesIsNearlyLinear(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := gaetest.Local(t)
	// cost is that of sessions with n attributes each.
	cost := func(sessions, n int) (total time.Duration) {
		for range sessions {
			sess := session.NewSession()
			for i := range n {
				sess.SetAttr(fmt.Sprint("name", i), i)
			}
			r := newRequest(s, options{OnlyMemcache: true, Cache: tiertest.NewCache(), CacheTimeout: time.Minute})
			r.Add(sess)
			begin := threadTime(t)
			r.Close()
			total += threadTime(t) - begin
			if err := r.errs.all(); err != nil {
				t.Fatal(err)
			}
		}
		return total
	}
	// If the cost were quadratic, it would be 16 times as much.
	few, many := cost(96, 3_000), cost(6, 48_000)
	t.Logf("288,000 attributes cost %v in 6 sessions, and %v in 96", many, few)
	if many > 4*few {
		t.Errorf("288,000 attributes cost %v in 6 sessions, and %v in 96", many, few)
	}
}
