package main

import (
	"context"
	"log"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/tier"
)

// An app without a cache, on the emulator that the environment names.
func main() {
	backup, err := clouddatastore.New(context.Background(), "my-project", nil)
	if err != nil {
		log.Fatal(err)
	}
	visit(gaesession.MemcacheStoreOptions{
		Cache:         tier.None,
		Backup:        backup,
		BackupTimeout: time.Minute, // of an emulator that has just started
	})
}
