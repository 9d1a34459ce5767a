package gaesession

import (
	"context"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

// SessEntity is the form of a session in Datastore. Its key's name is the
// session's id. The entity of a removed session has an empty Value and expires
// 24 hours after the removal, or an hour after the session would have ended,
// whichever is later.
type SessEntity struct {
	Expires time.Time `datastore:"exp"`
	Value   []byte    `datastore:"val"`
}

// Drain waits until the background saves of this process have ended, and
// returns nil; or until ctx is done, and returns why. Call it when the instance
// is told to stop: App Engine sends SIGTERM up to three seconds before it kills
// the process
// (https://cloud.google.com/appengine/docs/standard/how-instances-are-managed#shutdown).
// A save that does not end in time is lost only if Memcache loses the session
// before its next request, which saves it again.
func Drain(ctx context.Context) error { return tiered.Drain(orBackground(ctx)) }

// orBackground makes a nil context one that has no end.
func orBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}
