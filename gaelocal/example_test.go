package gaelocal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/gaelocal"
)

// A test of an app that uses Memcache.
func ExampleStartForTest() {
	_ = func(t *testing.T) { // TestCounter
		server := gaelocal.StartForTest(t)
		if _, err := memcache.Increment(context.Background(), "visits", 1, 0); err != nil {
			t.Error(err)
		}
		server.FlushMemcache() // as App Engine may at any time
		server.SetHooks(gaelocal.Hooks{Before: func(context.Context, gaelocal.Call) error {
			return errors.New("Memcache is down")
		}})
		if _, err := memcache.Increment(context.Background(), "visits", 1, 0); err == nil {
			t.Error("no error while Memcache is down")
		}
	}
}

// A process that is its own App Engine.
func ExampleStart() {
	server, err := gaelocal.Start(gaelocal.Options{}) // Data: a file keeps the Datastore
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	restore, err := server.Setenv()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer restore()

	visits, err := memcache.Increment(context.Background(), "visits", 1, 0)
	fmt.Println(visits, err)
	// Output: 1 <nil>
}
