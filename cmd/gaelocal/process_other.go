//go:build !unix

package main

import (
	"os"
	"os/exec"
)

// passedOn are the signals that the command gets.
var passedOn = []os.Signal{os.Interrupt}

func endsServing(os.Signal) bool { return true }

// group is the command; there are no process groups to signal.
type group struct{ cmd *exec.Cmd }

func newGroup(cmd *exec.Cmd) group { return group{cmd} }

func (g group) signal(s os.Signal) error { return g.cmd.Process.Signal(s) }

func (g group) wait() bool { return true }

func exitStatus(state *os.ProcessState) int { return state.ExitCode() }
