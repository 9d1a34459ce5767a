package sdktest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// pythons are looked at in this order. The SDK's libraries need a Python with
// its usual modules built in; the one that comes with the system has them,
// others found in PATH may not.
var pythons = []string{"/usr/bin/python3", "/usr/local/bin/python3"}

// sdk is an installed Cloud SDK.
type sdk struct {
	python string
}

// find looks for dev_appserver.py, as aetest does, and a Python to run it.
func find() (*sdk, error) {
	if script := os.Getenv("APPENGINE_DEV_APPSERVER"); script != "" {
		if _, err := os.Stat(script); err != nil {
			return nil, fmt.Errorf("APPENGINE_DEV_APPSERVER: %w", err)
		}
	} else if _, err := exec.LookPath("dev_appserver.py"); err != nil {
		return nil, errors.New("no dev_appserver.py in PATH (it comes with the App Engine part of the Google Cloud SDK)")
	}
	for _, python := range pythons {
		if _, err := os.Stat(python); err == nil {
			return &sdk{python: python}, nil
		}
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		return nil, errors.New("no python3 in PATH to run dev_appserver.py")
	}
	return &sdk{python: python}, nil
}

// prepareProcess makes this process one that aetest can start the server from,
// until restore is called.
//
// aetest takes the first python3 in PATH. It hands the server's log to this
// process's standard error for as long as the server lives, or, when told to
// suppress it, stops reading it, and then the server blocks as soon as the pipe
// is full. So it is told to hand it over while standard error is somewhere
// else.
func (s *sdk) prepareProcess() (restore func(), err error) {
	log, err := openLog()
	if err != nil {
		return nil, err
	}
	path, stdout, stderr := os.Getenv("PATH"), os.Stdout, os.Stderr
	if err := os.Setenv("PATH", filepath.Dir(s.python)+string(os.PathListSeparator)+path); err != nil {
		return nil, errors.Join(fmt.Errorf("put Python into PATH: %w", err), log.Close())
	}
	os.Stdout, os.Stderr = log, log
	return func() {
		os.Stdout, os.Stderr = stdout, stderr
		os.Setenv("PATH", path) // cannot fail: it is what PATH was
	}, nil
}

// openLog opens what gets the server's log. It stays open until the process
// ends, as the copying of the log does.
func openLog() (*os.File, error) {
	name := os.Getenv(EnvLog)
	if name == "" {
		name = os.DevNull
	}
	log, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	return log, nil
}

// reaper is a shell that waits for this process to end and then ends the
// server, so that a test that panics, times out or is killed leaves nothing
// behind.
type reaper struct {
	shell *exec.Cmd
	pipe  io.WriteCloser
}

// The shell reads until its standard input is closed. A line means that the
// server has ended already and its pid may be somebody else's by now.
const reaperScript = `read line && exit 0
kill -TERM "$1" 2>/dev/null || exit 0
for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; kill -0 "$1" 2>/dev/null || exit 0; done
kill -KILL "$1"`

// newReaper returns nil, which does nothing, where there is no shell or no pid.
func newReaper(pid int) *reaper {
	if pid == 0 {
		return nil
	}
	shell := exec.Command("/bin/sh", "-c", reaperScript, "sdktest-reaper", fmt.Sprint(pid))
	detach(shell)
	pipe, err := shell.StdinPipe()
	if err != nil {
		return nil
	}
	if err := shell.Start(); err != nil {
		return nil
	}
	return &reaper{shell: shell, pipe: pipe}
}

func (r *reaper) dismiss() {
	if r == nil {
		return
	}
	// Errors would say that the shell is gone, which is what is wanted.
	_, _ = io.WriteString(r.pipe, "done\n")
	_ = r.pipe.Close()
	_ = r.shell.Wait()
}
