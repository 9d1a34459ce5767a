//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// passedOn are the signals that the command gets.
var passedOn = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

func endsServing(s os.Signal) bool {
	switch s {
	case syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH:
		return false
	default:
		return true
	}
}

// group is the process group of the command. It has one of its own, so that
// signals reach what it has started: "go run" dies of a SIGTERM without telling
// its program. And so that keys like Ctrl-C, which a terminal turns into a
// signal to its whole foreground group, do not reach the command twice: the
// command's group becomes the foreground group where this one was.
type group struct{ cmd *exec.Cmd }

func newGroup(cmd *exec.Cmd) group {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin := int(os.Stdin.Fd())
	if foreground, err := unix.IoctlGetInt(stdin, unix.TIOCGPGRP); err == nil && foreground == unix.Getpgrp() {
		cmd.SysProcAttr.Foreground = true
		cmd.SysProcAttr.Ctty = stdin
	}
	adoptOrphans()
	return group{cmd}
}

func (g group) signal(s os.Signal) error {
	err := syscall.Kill(-g.cmd.Process.Pid, s.(syscall.Signal))
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// wait gives what the command has started the time to end after a signal: an
// app may still be saving. It reports whether all of it has ended.
func (g group) wait() bool {
	const patience, step = 10 * time.Second, 20 * time.Millisecond
	for waited := time.Duration(0); waited < patience; waited += step {
		g.reap()
		if g.signal(syscall.Signal(0)) != nil {
			return true
		}
		time.Sleep(step)
	}
	return false
}

// reap waits for orphans of the group that have ended: until somebody does, the
// group exists. They are this process's children where adoptOrphans works, and
// in a container of which this is the first process. The command itself has
// been waited for.
func (g group) reap() {
	for {
		pid, err := syscall.Wait4(-g.cmd.Process.Pid, nil, syscall.WNOHANG, nil)
		if err != nil || pid == 0 {
			return // none of them is a child, or has ended
		}
	}
}

// exitStatus is the status a shell would give.
func exitStatus(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return statusSignaled + int(status.Signal())
	}
	return state.ExitCode()
}
