// Command _cascade_demo is a small shop with a basket, whose gorilla sessions
// are kept by cascadestore. It shows what calls each request makes.
//
// Started anywhere but on App Engine it runs Memcache and Datastore itself, with
// a file for the Datastore, so that a basket survives a restart:
//
//	go run ./_cascade_demo
//
// On App Engine, and under dev_appserver.py, it uses the services that are
// there; app.yaml and cron.yaml are for deploying it.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/demo"
)

// shutdownTime is what requests under way get when the process is told to stop.
// App Engine kills it after three seconds.
// https://cloud.google.com/appengine/docs/standard/how-instances-are-managed#shutdown
const shutdownTime = 2500 * time.Millisecond

// keySize is the size of the key that signs the cookies, in bytes.
const keySize = 32

func main() {
	switch err := run(context.Background(), os.Args[1:], os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "cascade_demo:", err)
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
	key, err := hex.DecodeString(os.Getenv("SESSION_KEY"))
	if err != nil || len(key) < keySize {
		return fmt.Errorf("SESSION_KEY in app.yaml has to be %d bytes in hexadecimal at least: openssl rand -hex %d", keySize, keySize)
	}
	host, secure := "", true
	if appengine.IsDevAppServer() {
		host, secure = "127.0.0.1", false
	}
	s, err := newShop(key, secure)
	if err != nil {
		return err
	}
	l, err := listen(net.JoinHostPort(host, port()))
	if err != nil {
		return err
	}
	return serve(ctx, l, s.handler())
}

func runLocally(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("cascade_demo", flag.ContinueOnError)
	flags.SetOutput(out)
	addr := flags.String("addr", "127.0.0.1:"+port(), "`address` to serve at; PORT in the environment sets the port alone")
	dir := flags.String("data", dataDir(), "`folder` that keeps the sessions and the key of the cookies; empty: in memory")
	latency := flags.Bool("latency", false, "let calls take the time they take on App Engine")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	key, file, err := openData(*dir)
	if err != nil {
		return fmt.Errorf("%w (-data chooses another folder)", err)
	}
	l, err := listen(*addr)
	if err != nil {
		return err
	}
	o := gaelocal.Options{Data: file, AppID: "cascade-demo"}
	if *latency {
		o.Latency = gaelocal.AppEngineLatency
	}
	services, err := gaelocal.Start(o)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, services.Close()) }()
	restore, err := services.Setenv()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer restore()
	s, err := newShop(key, false)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.flush = services.FlushMemcache

	kept := "in " + *dir
	if *dir == "" {
		kept = "in memory, until the demo ends"
	}
	fmt.Fprintf(out, "The basket demo is at http://%s/\nBaskets are kept %s. Ctrl-C ends it.\n", l.Addr(), kept)
	return serve(ctx, l, s.handler())
}

// openData returns the cookies' key and the Datastore's file, which are in dir;
// a key that is forgotten, and no file, when dir is empty.
func openData(dir string) (key []byte, file string, err error) {
	if dir == "" {
		key, err = newKey()
		return key, "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("create the folder of the sessions: %w", err)
	}
	path := filepath.Join(dir, "cookie.key")
	key, err = os.ReadFile(path)
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%d bytes, want %d", len(key), keySize)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = newKey(); err == nil {
			err = os.WriteFile(path, key, 0o600)
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("key of the cookies in %s: %w", path, err)
	}
	return key, filepath.Join(dir, "sessions.db"), nil
}

func newKey() ([]byte, error) {
	key := make([]byte, keySize)
	_, err := rand.Read(key)
	return key, err
}

// serve serves h at l until ctx is done. Requests that have begun by then are
// finished.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	var silent demo.Silent
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
	return err
}

func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w; choose another port with -addr 127.0.0.1:8082 or PORT=8082", err)
	}
	return l, nil
}

// port is the one App Engine, or whoever starts the demo, has set in PORT.
func port() string {
	if p := os.Getenv("PORT"); p != "" {
		return p
	}
	return "8081"
}

// dataDir is where the sessions are kept by default: in the user's cache
// folder, or in memory for a user without one.
func dataDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "cascadestore-demo")
}
