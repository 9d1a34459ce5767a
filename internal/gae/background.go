package gae

import (
	"context"
	"os"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
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
	if ns := datastore.NewKey(ctx, "namespace", "of", 0, nil).Namespace(); ns != "" {
		var err error
		if bg, err = appengine.Namespace(bg, ns); err != nil {
			return nil // it was valid for ctx
		}
	}
	return bg
}
