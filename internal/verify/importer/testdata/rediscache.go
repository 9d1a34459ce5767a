package main

import (
	"context"
	"log"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// An app whose Redis does not answer: its sessions are in the backup.
func main() {
	cache, err := rediscache.New(context.Background(), redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}), nil)
	if err != nil {
		log.Fatal(err)
	}
	visit(gaesession.MemcacheStoreOptions{Cache: cache, Backup: tiertest.NewBackup()})
}
