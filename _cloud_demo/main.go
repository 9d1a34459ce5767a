// Command cloud_demo is a web app with a login for Cloud Run, whose sessions are
// kept by gaesession in Datastore and, if REDIS_ADDR is set, in Redis or Valkey
// before that.
//
//	DATASTORE_EMULATOR_HOST=127.0.0.1:8432 REDIS_ADDR=127.0.0.1:6379 go run .
//
// The environment says where the services are:
//
//	GOOGLE_CLOUD_PROJECT     project of the database; on Cloud Run that of the service
//	DATASTORE_EMULATOR_HOST  address of an emulator, instead of Google's Datastore
//	REDIS_ADDR               address of Redis or Valkey; empty: sessions live in Datastore alone
//	ASYNC_SAVES              true: AsyncDatastoreSave; refused on Cloud Run
//	PORT                     where to serve; 8080 by default
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"cloud.google.com/go/compute/metadata"
	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/demo"
	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// What is missing where nobody has said where the sessions are to live.
var errNoServices = errors.New(`start Datastore's emulator, and say where it is: gcloud emulators firestore start --database-mode=datastore-mode --host-port=127.0.0.1:8432
then: DATASTORE_EMULATOR_HOST=127.0.0.1:8432 go run .   (and REDIS_ADDR=127.0.0.1:6379, if redis-server runs)`)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	onCloudRun := os.Getenv("K_SERVICE") != ""
	async, err := asyncSaves(onCloudRun)
	if err != nil {
		return err
	}
	backup, where, err := openBackup(ctx, onCloudRun)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backup.Close()) }()
	cache := tier.None
	if addr := os.Getenv("REDIS_ADDR"); addr != "" {
		client := redis.NewClient(rediscache.ClientOptions(addr))
		defer func() { err = errors.Join(err, client.Close()) }()
		if cache, err = rediscache.New(ctx, client, &rediscache.Options{Prefix: "cloud_demo:"}); err != nil {
			return err
		}
		where += " and Redis"
	}
	a := app{
		where:     where,
		allowHTTP: !onCloudRun,
		options:   gaesession.MemcacheStoreOptions{Cache: cache, Backup: backup, AsyncDatastoreSave: async},
	}
	l, err := listen(onCloudRun)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "The demo is at http://%s/, on %s. Ctrl-C ends it.\n", l.Addr(), where)
	return demo.Serve(ctx, l, demo.Protect(a.handler()), gaesession.Drain)
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

func openBackup(ctx context.Context, onCloudRun bool) (b *clouddatastore.Backup, where string, err error) {
	project, emulated := os.Getenv("GOOGLE_CLOUD_PROJECT"), os.Getenv("DATASTORE_EMULATOR_HOST") != ""
	where = "Datastore"
	switch {
	case emulated:
		where = "Datastore's emulator"
		if project == "" {
			project = "cloud-demo"
		}
	case project == "" && onCloudRun:
		if project, err = metadata.ProjectIDWithContext(ctx); err != nil {
			return nil, "", fmt.Errorf("ask for the project: %w", err)
		}
	case project == "":
		return nil, "", errNoServices
	}
	b, err = clouddatastore.New(ctx, project, nil)
	return b, where, err
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
