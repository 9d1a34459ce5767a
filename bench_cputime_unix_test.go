//go:build unix

package gaesession_test

import (
	"syscall"
	"time"
)

// cpuTime is the CPU time this process has used. Unlike ns/op it leaves out
// what other processes take.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
