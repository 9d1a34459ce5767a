package main

import (
	"bytes"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// In many containers process 1 waits for no orphans, so that they stay in their
// process group for ever. Here this process is like that.
func TestOrphansThatNobodyWaitsForDoNotHoldItUp(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	cmd := local(t, "parent")
	await(t, start(t, cmd), "waiting")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, cmd, cmd.Wait(), 128+int(syscall.SIGTERM))
	if got := cmd.Stderr.(*bytes.Buffer).String(); strings.Count(got, "\n") != 1 {
		t.Errorf("gaelocal prints %q, want one line, as everything has ended", got)
	}
}
