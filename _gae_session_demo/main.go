// Command _gae_session_demo is a web app with a login whose sessions are kept
// by gaesession. It shows where the session came from in each request and what
// calls that took.
//
// Started anywhere but on App Engine it runs Memcache and Datastore itself, with
// a file for the Datastore, so that a login survives a restart:
//
//	go run ./_gae_session_demo
//
// On App Engine, and under dev_appserver.py, it uses the services that are
// there; app.yaml and cron.yaml are for deploying it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
	parts "github.com/gaesession/gaesession/internal/demo"
)

// shutdownTime is what requests and background saves under way get when the
// process is told to stop. App Engine kills it after three seconds.
// https://cloud.google.com/appengine/docs/standard/how-instances-are-managed#shutdown
const shutdownTime = 2500 * time.Millisecond

func main() {
	switch err := run(context.Background(), os.Args[1:], os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "gae_session_demo:", err)
		os.Exit(1)
	}
}

// run serves the demo until ctx is done or the process is told to stop.
func run(ctx context.Context, args []string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop() // from then on a second signal ends the process at once
	if appengine.IsAppEngine() || appengine.IsDevAppServer() {
		return runOnAppEngine(ctx)
	}
	return runLocally(ctx, args, out)
}

func runOnAppEngine(ctx context.Context) error {
	d := demo{where: "App Engine"}
	host := ""
	if appengine.IsDevAppServer() {
		d = demo{where: "a local App Engine", allowHTTP: true}
		host = "127.0.0.1"
	}
	l, err := listen(net.JoinHostPort(host, port()))
	if err != nil {
		return err
	}
	return serve(ctx, l, d.handler())
}

func runLocally(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("gae_session_demo", flag.ContinueOnError)
	flags.SetOutput(out)
	addr := flags.String("addr", "127.0.0.1:"+port(), "`address` to serve at; PORT in the environment sets the port alone")
	data := flags.String("data", dataFile(), "`file` that keeps the sessions; empty: in memory")
	latency := flags.Bool("latency", false, "let calls take the time they take on App Engine")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}

	l, err := listen(*addr)
	if err != nil {
		return err
	}
	o := gaelocal.Options{Data: *data, AppID: "session-demo"}
	if *latency {
		o.Latency = gaelocal.AppEngineLatency
	}
	services, err := startServices(o)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, services.Close()) }()
	restore, err := services.Setenv()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer restore()

	kept := "in " + *data
	if *data == "" {
		kept = "in memory, until the demo ends"
	}
	fmt.Fprintf(out, "The session demo is at http://%s/\nSessions are kept %s. Ctrl-C ends it.\n", l.Addr(), kept)
	d := demo{where: "gaelocal", allowHTTP: true, flush: services.FlushMemcache}
	return serve(ctx, l, d.handler())
}

// startServices starts Memcache and Datastore, in the folder of the data file,
// which is created when it does not exist.
func startServices(o gaelocal.Options) (*gaelocal.Server, error) {
	if o.Data != "" {
		if err := os.MkdirAll(filepath.Dir(o.Data), 0o700); err != nil {
			return nil, fmt.Errorf("create the data file's folder (-data chooses another file): %w", err)
		}
	}
	return gaelocal.Start(o)
}

// serve serves h at l until ctx is done. Requests that have begun by then are
// finished, and so are the saves they left behind.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	var silent parts.Silent
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ConnState: silent.ConnState,
	}
	server.RegisterOnShutdown(silent.Close)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := server.Shutdown(deadline)
	if err != nil {
		err = fmt.Errorf("end the requests under way: %w", errors.Join(err, server.Close()))
	}
	<-served
	if drainErr := gaesession.Drain(deadline); drainErr != nil {
		err = errors.Join(err, fmt.Errorf("end the saves under way: %w", drainErr))
	}
	return err
}

func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another port with -addr 127.0.0.1:8081 or PORT=8081", err)
	}
	return l, nil
}

// port is the one App Engine, or whoever starts the demo, has set in PORT.
func port() string {
	if p := os.Getenv("PORT"); p != "" {
		return p
	}
	return "8080"
}

// dataFile is where the sessions are kept by default: in the user's cache
// folder, or in memory for a user without one.
func dataFile() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "gaesession-demo", "sessions.db")
}
