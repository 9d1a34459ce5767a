package main_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"testing"

	"github.com/icza/session"
	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/rediscache"
)

// The code of README.md and docs/migrating.md that needs the modules.

var sessions gaesession.Sessions

func main() {
	ctx := context.Background()
	backup, err := clouddatastore.New(ctx, os.Getenv("GOOGLE_CLOUD_PROJECT"), nil)
	if err != nil {
		log.Fatal(err)
	}
	client := redis.NewClient(rediscache.ClientOptions(os.Getenv("REDIS_ADDR")))
	cache, err := rediscache.New(ctx, client, nil) // or tier.None: no cache
	if err != nil {
		log.Fatal(err)
	}
	sessions.Options.Backup, sessions.Options.Cache = backup, cache
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), sessions.Handler(http.DefaultServeMux)))
}

var _ = main

func onTheCloudAPI(ctx context.Context, project string) (session.Store, error) {
	backup, err := clouddatastore.New(ctx, project, nil) // once, at startup
	if err != nil {
		return nil, err
	}
	store := gaesession.NewMemcacheStoreOptions(ctx, &gaesession.MemcacheStoreOptions{Backup: backup})
	return store, nil
}

func onRedis(ctx context.Context, backup *clouddatastore.Backup) (session.Store, error) {
	client := redis.NewClient(rediscache.ClientOptions("10.0.0.3:6379")) // once, at startup
	cache, err := rediscache.New(ctx, client, nil)                       // makes no call: the app starts while Redis is down
	if err != nil {
		return nil, err
	}
	store := gaesession.NewMemcacheStoreOptions(ctx, &gaesession.MemcacheStoreOptions{Cache: cache, Backup: backup})
	return store, nil
}

func TestTheStoresOfMigratingAreMadeWithoutACall(t *testing.T) {
	t.Setenv("DATASTORE_EMULATOR_HOST", "127.0.0.1:1") // nobody is there
	if store, err := onTheCloudAPI(t.Context(), "my-project"); store == nil || err != nil {
		t.Errorf("got store %v and error %v", store, err)
	}
	if store, err := onRedis(t.Context(), nil); store == nil || err != nil {
		t.Errorf("got store %v and error %v", store, err)
	}
}
