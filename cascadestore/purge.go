package cascadestore

import (
	"context"
	"net/http"

	"github.com/gaesession/gaesession/internal/gae"
)

// PurgeResult says what a purge did.
type PurgeResult struct {
	Completed bool // false when it stopped early: more may be left to delete
	Deleted   int  // entities deleted
}

// PurgeExpired deletes from Datastore the session entities that expired more
// than five minutes ago, those of removed sessions and of the original package
// included. It stops after eight minutes, or when ctx is done, without an error
// and with Completed false. A query or delete that keeps failing is an error;
// the result then says what was deleted before.
func PurgeExpired(ctx context.Context) (PurgeResult, error) {
	done, err := gae.PurgeExpired(ctx, kind, expiresProperty)
	return PurgeResult(done), err
}

// PurgeHandler returns a handler that runs PurgeExpired, to be called by App
// Engine's cron, every 30 minutes say. It answers with JSON:
//
//	{"completed":true,"deleted":120}
//
// and with status 500 and an "error" when the purge failed. Only GET and POST
// are allowed. On App Engine a request that does not come from cron gets status
// 403; elsewhere everybody may call it.
func PurgeHandler() http.HandlerFunc {
	return gae.PurgeHandler(func(ctx context.Context) (gae.Purged, error) {
		return gae.PurgeExpired(ctx, kind, expiresProperty)
	})
}
