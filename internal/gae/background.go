package gae

import (
	"context"
	"os"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/tier"
)

// Background returns a context in the namespace of ctx that belongs to no
// request (on App Engine's current runtimes context.Background is one), for
// calls that the services refuse in the name of a request that has ended. It
// returns nil where the environment does not name the application, as in tests
// on Google's local server: there the request's own context is the only way to
// the services.
func Background(ctx context.Context) context.Context {
	if os.Getenv("GAE_APPLICATION") == "" {
		return nil
	}
	bg := context.Background()
	if ns := Namespace(ctx); ns != "" {
		var err error
		if bg, err = appengine.Namespace(bg, ns); err != nil {
			return nil // it was valid for ctx
		}
	}
	return bg
}

// Namespace returns the namespace of ctx; empty where there is no application.
func Namespace(ctx context.Context) string {
	var err error
	return func() string {
		defer recoverNoAppID(&err)
		return datastore.NewKey(ctx, "namespace", "of", 0, nil).Namespace()
	}()
}

// A bundled is App Engine's services in a namespace.
type bundled struct {
	Memcache
	Datastore
	namespace string
}

// Shared names the services, which are comparable, and the namespace that sessions
// are kept in.
func Shared(ctx context.Context, c tier.Cache, b tier.Backup) any {
	m, isMemcache := c.(Memcache)
	d, isDatastore := b.(Datastore)
	if isMemcache && isDatastore {
		return bundled{m, d, Namespace(ctx)}
	}
	key := struct {
		cache, backup any
		namespace     string
	}{cache: c, backup: b}
	if isMemcache || isDatastore {
		key.namespace = Namespace(ctx)
	}
	return key
}
