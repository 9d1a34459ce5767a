// Package demo is what the demos are shown with, and no part of what they show:
// the frame of their pages, and the buttons that make the cache fail ([Stage]). It
// runs those for App Engine ([Demo]): there, and under dev_appserver.py, with the
// services that are there, and elsewhere with gaelocal's.
package demo

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

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/gaelocal"
)

// A Demo is a web app that runs anywhere.
type Demo struct {
	Name  string // of the command
	Title string // what it calls itself when it is ready
	Keeps string // what it keeps: "Sessions"
	Port  string // where PORT in the environment does not tell

	// AppID is the application's id where it is not on App Engine, and the
	// folder of its data in the user's cache folder.
	AppID string

	// Handler makes the web app for where it runs.
	Handler func(Place) (http.Handler, error)

	// Drain waits for the saves that requests have left behind; nil: they leave
	// none.
	Drain func(context.Context) error
}

// A Place is where a demo runs.
type Place struct {
	Services string // Memcache and Datastore, by name
	HTTPS    bool   // the app is reached with HTTPS alone

	// What there is on gaelocal.
	Local  bool
	Data   string  // folder that the app may keep its own data in; empty: none
	Faults *Faults // of Memcache
}

// Main runs the demo as the process, until it is told to stop.
func (d Demo) Main() {
	switch err := d.Run(context.Background(), os.Args[1:], os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", d.Name, err)
		os.Exit(1)
	}
}

// Run serves the demo until ctx is done or the process is told to stop.
func (d Demo) Run(ctx context.Context, args []string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop() // from then on a second signal ends the process at once
	switch {
	case appengine.IsAppEngine():
		return d.runOnAppEngine(ctx, "", Place{Services: "App Engine", HTTPS: true})
	case appengine.IsDevAppServer():
		return d.runOnAppEngine(ctx, "127.0.0.1", Place{Services: "a local App Engine"})
	}
	return d.runLocally(ctx, args, out)
}

func (d Demo) runOnAppEngine(ctx context.Context, host string, p Place) error {
	h, err := d.Handler(p)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, d.port()))
	if err != nil {
		return err
	}
	return Serve(ctx, l, h, d.Drain)
}

func (d Demo) runLocally(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet(d.Name, flag.ContinueOnError)
	flags.SetOutput(out)
	addr := flags.String("addr", "127.0.0.1:"+d.port(), "`address` to serve at; PORT in the environment sets the port alone")
	data := flags.String("data", d.dataFolder(), "`folder` that keeps the sessions; empty: in memory")
	latency := flags.Bool("latency", false, "let calls take the time they take on App Engine")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}

	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("%w; -addr chooses another address, and -addr 127.0.0.1:0 any free port", err)
	}
	// The server closes it, too, when all goes well.
	defer l.Close()
	services, err := startServices(d.AppID, *data, *latency)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, services.Close()) }()
	restore, err := services.Setenv()
	if err != nil {
		return err
	}
	defer restore()
	faults := FaultsOf(services)
	// At the end the cache is told what it has missed, and Close waits for its calls.
	defer context.AfterFunc(ctx, faults.Start)()
	defer faults.Start()
	h, err := d.Handler(Place{Services: "gaelocal", Local: true, Data: *data, Faults: faults})
	if err != nil {
		return err
	}
	kept := "in " + *data
	if *data == "" {
		kept = "in memory, until the demo ends"
	}
	if _, err := fmt.Fprintf(out, "The %s is at http://%s/\n%s are kept %s. Ctrl-C ends it.\n", d.Title, l.Addr(), d.Keeps, kept); err != nil {
		return err
	}
	return Serve(ctx, l, h, d.Drain)
}

// startServices starts Memcache and Datastore, the latter in a file in the
// folder data, which is created when it does not exist, or in memory.
func startServices(appID, data string, latency bool) (*gaelocal.Server, error) {
	o := gaelocal.Options{AppID: appID}
	if data != "" {
		if err := os.MkdirAll(data, 0o700); err != nil {
			return nil, fmt.Errorf("create the folder of the data (-data chooses another one): %w", err)
		}
		o.Data = filepath.Join(data, "sessions.db")
	}
	if latency {
		o.Latency = gaelocal.AppEngineLatency
	}
	return gaelocal.Start(o)
}

// port is the one App Engine, or whoever starts the demo, has set in PORT.
func (d Demo) port() string {
	if p := os.Getenv("PORT"); p != "" {
		return p
	}
	return d.Port
}

// dataFolder is where the sessions are kept by default: in the user's cache
// folder, or in memory for a user without one.
func (d Demo) dataFolder() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, d.AppID)
}
