// Command cloud_demo is a web app with a login for Cloud Run, whose sessions are
// kept by gaesession in Datastore and, if REDIS_ADDR is set, in Redis or Valkey
// before that. It shows where the session came from in each request and what that
// took.
//
//	go run .
//	DATASTORE_EMULATOR_HOST=127.0.0.1:8432 REDIS_ADDR=127.0.0.1:6379 go run .
//
// The environment says where the services are:
//
//	GOOGLE_CLOUD_PROJECT     project of the database; on Cloud Run that of the service
//	DATASTORE_EMULATOR_HOST  address of an emulator, instead of Google's Datastore
//	REDIS_ADDR               address of Redis or Valkey; empty: sessions live in Datastore alone
//	ASYNC_SAVES              true: AsyncDatastoreSave; refused on Cloud Run
//	PORT                     where to serve; 8080 by default
//
// With neither a project nor an emulator, and not on Cloud Run, sessions are kept
// in memory.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"cloud.google.com/go/compute/metadata"
	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/demo"
	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

const (
	redisPrefix = "cloud_demo:"

	// shutdownTime is what requests, and saves, under way get when the process is
	// told to stop. Cloud Run kills it after ten seconds.
	// https://cloud.google.com/run/docs/container-contract#instance-shutdown
	shutdownTime = 9 * time.Second
)

// What may be said where nobody has said where the sessions are to live.
const hint = `To keep them in Datastore's emulator: gcloud emulators firestore start --database-mode=datastore-mode --host-port=127.0.0.1:8432
then: DATASTORE_EMULATOR_HOST=127.0.0.1:8432 go run .   (and REDIS_ADDR=127.0.0.1:6379, if redis-server runs)
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	onCloudRun := os.Getenv("K_SERVICE") != ""
	async, err := asyncSaves(onCloudRun)
	if err != nil {
		return err
	}
	s, err := openBackend(ctx, onCloudRun)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	stage := &demo.Stage{
		Package: "gaesession", Where: s.where, Cache: s.cacheName, Backup: s.backupName, Cookie: cookieName,
		Still:  "You are still logged in",
		Footer: "A page that only looks makes one call to the cache. A page that changes the session makes one commit: requests that overlap lose nothing.",
	}
	if s.flush != nil && !onCloudRun { // there it would hurt other visitors
		stage.Faults = &demo.Faults{Flush: s.flush}
		s.cache = stage.Faults.Cache(s.cache)
		defer context.AfterFunc(ctx, stage.Faults.Start)() // at the end it is told what it has missed
	}
	a := newApp(gaesession.MemcacheStoreOptions{Cache: s.cache, Backup: s.backup, AsyncDatastoreSave: async}, onCloudRun, stage)
	if err := a.sessions.Err(); err != nil {
		return err
	}
	l, err := listen(onCloudRun)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "The demo is at http://%s/, on %s. Ctrl-C ends it.\n%s", l.Addr(), s.where, s.hint)
	return serve(ctx, l, a.handler())
}

// serve serves the app until ctx is done. Requests that have begun by then are
// finished, and so are the saves that they left behind.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		stopped <- errors.Join(server.Shutdown(deadline), gaesession.Drain(deadline))
	})
	err := server.Serve(l)
	if stop() { // nobody has told it to stop
		return fmt.Errorf("serve: %w", err)
	}
	return <-stopped
}

// asyncSaves refuses on Cloud Run what would not work there: with request-based
// billing an instance has next to no CPU once its requests are answered, and a
// background save would wait for the next one.
// https://cloud.google.com/run/docs/configuring/billing-settings
func asyncSaves(onCloudRun bool) (bool, error) {
	text := os.Getenv("ASYNC_SAVES")
	if text == "" {
		return false, nil
	}
	async, err := strconv.ParseBool(text)
	switch {
	case err != nil:
		return false, fmt.Errorf("ASYNC_SAVES is %q, want true or false", text)
	case async && onCloudRun:
		return false, errors.New("ASYNC_SAVES: not on Cloud Run, which takes the CPU away when a request is answered")
	}
	return async, nil
}

// A backend is where sessions are kept.
type backend struct {
	cache  tier.Cache
	backup tier.Backup
	flush  func(ctx context.Context) error // the cache; nil: there is none
	close  func() error

	where, cacheName, backupName, hint string // for the page
}

// openBackend opens the services that the environment names, or some in memory.
func openBackend(ctx context.Context, onCloudRun bool) (*backend, error) {
	project, emulated := os.Getenv("GOOGLE_CLOUD_PROJECT"), os.Getenv("DATASTORE_EMULATOR_HOST") != ""
	s := &backend{cache: tier.None, where: "Datastore", backupName: "Datastore"}
	switch {
	case emulated:
		s.where = "Datastore's emulator"
		if project == "" {
			project = "cloud-demo"
		}
	case project == "" && onCloudRun:
		var err error
		if project, err = metadata.ProjectIDWithContext(ctx); err != nil {
			return nil, fmt.Errorf("ask for the project: %w", err)
		}
	case project == "":
		return inMemory(), nil
	}
	backup, err := clouddatastore.New(ctx, project, nil)
	if err != nil {
		return nil, err
	}
	s.backup, s.close = backup, backup.Close
	addr := os.Getenv("REDIS_ADDR")
	if addr == "" {
		return s, nil
	}
	client := redis.NewClient(rediscache.ClientOptions(addr))
	s.close = func() error { return errors.Join(client.Close(), backup.Close()) }
	if s.cache, err = rediscache.New(ctx, client, &rediscache.Options{Prefix: redisPrefix}); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.where, s.cacheName = s.where+" and Redis", "Redis"
	s.flush = func(ctx context.Context) error { return flushRedis(ctx, client) }
	return s, nil
}

func inMemory() *backend {
	cache := tiertest.NewCache()
	return &backend{
		cache: cache, backup: tiertest.NewBackup(), close: func() error { return nil },
		flush: func(context.Context) error { cache.Flush(); return nil },
		where: "services in memory", cacheName: "MemoryCache", backupName: "MemoryBackup",
		hint: "Sessions are kept in memory, until the demo ends. " + hint,
	}
}

// flushRedis takes the demo's sessions out of Redis, and nothing else.
func flushRedis(ctx context.Context, client *redis.Client) error {
	for keys := client.Scan(ctx, 0, redisPrefix+"*", 1000).Iterator(); ; {
		if !keys.Next(ctx) {
			return keys.Err()
		}
		if err := client.Unlink(ctx, keys.Val()).Err(); err != nil {
			return err
		}
	}
}

// listen listens on this machine alone, but on Cloud Run.
func listen(onCloudRun bool) (net.Listener, error) {
	host, port := "127.0.0.1", os.Getenv("PORT")
	if onCloudRun {
		host = ""
	}
	if port == "" {
		port = "8080"
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}
