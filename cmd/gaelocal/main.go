// Command gaelocal runs an app with App Engine's Memcache and Datastore on this
// machine.
//
//	gaelocal [flags] [--] command [arguments]
//
// starts the services, runs the command with the environment that points
// google.golang.org/appengine/v2 at them, passes signals on to it (and to what
// it has started, as "go run" does), and exits with its status: 128 plus the
// signal's number if a signal ended it, 127 if there is no such command.
//
//	gaelocal [flags]
//
// serves until it is interrupted, and prints the environment to set.
//
// Either way it prints one line on standard error that says where the services
// are, and where the data is.
//
// The flags are:
//
//	-addr host:port   where to listen (default 127.0.0.1:0: any free port)
//	-data file        keep the Datastore's entities in this file (default: in memory)
//	-app id           application id (default local)
//	-latency          answer no faster than a model of App Engine
//
// A warning is printed if others than this machine can reach the address, or
// others than the file's owner have access to the data file.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/gaesession/gaesession/gaelocal"
)

// Exit statuses of gaelocal itself; the latter two are those of a shell.
const (
	statusFailed    = 1
	statusUsage     = 2
	statusNotRun    = 126
	statusNoCommand = 127
	statusSignaled  = 128 // and the signal's number
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("gaelocal", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: gaelocal [flags] [--] [command [arguments]]")
		flags.PrintDefaults()
	}
	var o gaelocal.Options
	flags.StringVar(&o.Addr, "addr", "127.0.0.1:0", "listen at `host:port`")
	flags.StringVar(&o.Data, "data", "", "keep the Datastore's entities in `file` (default in memory)")
	flags.StringVar(&o.AppID, "app", "local", "application `id`")
	latency := flags.Bool("latency", false, "answer no faster than a model of App Engine")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return statusUsage
	}
	if *latency {
		o.Latency = gaelocal.AppEngineLatency
	}

	// From here on a signal no longer ends this process by itself.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)

	server, err := gaelocal.Start(o)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return statusFailed
	}
	data := "in memory"
	if o.Data != "" {
		data = "in " + o.Data
	}
	var status int
	where := fmt.Sprintf("gaelocal: Memcache and Datastore at %s, data %s", server.Addr(), data)
	if command := flags.Args(); len(command) > 0 {
		fmt.Fprintln(stderr, where)
		status = runCommand(command, server.Environ(), signals, stderr)
	} else {
		fmt.Fprintln(stderr, where+", until it is interrupted")
		status = serve(server, signals, stdout, stderr)
	}
	if err := server.Close(); err != nil {
		fmt.Fprintln(stderr, err)
		if status == 0 {
			status = statusFailed
		}
	}
	return status
}

// serve prints the environment, in a form that a shell can evaluate, and waits
// for a signal.
func serve(server *gaelocal.Server, signals <-chan os.Signal, stdout, stderr io.Writer) int {
	for _, kv := range server.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if _, err := fmt.Fprintf(stdout, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`)); err != nil {
			fmt.Fprintln(stderr, "gaelocal: printing the environment:", err)
			return statusFailed
		}
	}
	for s := range signals {
		if endsServing(s) {
			break
		}
	}
	return 0
}

// runCommand runs a command to its end and returns its status.
func runCommand(command, environ []string, signals <-chan os.Signal, stderr io.Writer) int {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), environ...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	group := newGroup(cmd)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, "gaelocal: cannot run the command:", err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return statusNoCommand
		}
		return statusNotRun
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	passed := false
	for {
		select {
		case s := <-signals:
			passed = true
			if err := group.signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
				fmt.Fprintf(stderr, "gaelocal: passing on signal %v: %v\n", s, err)
			}
		case err := <-ended:
			if passed && !group.wait() {
				fmt.Fprintln(stderr, "gaelocal: the command has ended, but not all that it has started")
			}
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				fmt.Fprintln(stderr, "gaelocal: waiting for the command:", err)
				return statusFailed
			}
			return exitStatus(cmd.ProcessState)
		}
	}
}
