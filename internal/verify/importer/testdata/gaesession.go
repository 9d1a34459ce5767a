package main

import (
	"log"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
)

// An app on App Engine's services, as gaelocal has them.
func main() {
	server, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	if _, err := server.Setenv(); err != nil {
		log.Fatal(err)
	}
	visit(gaesession.MemcacheStoreOptions{})
}
