package gaesession

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

// PurgeExpired deletes from Datastore the session entities of a kind (empty:
// "sess_") that expired more than five minutes ago, those of removed sessions
// included. It stops after eight minutes, or when ctx is done, without an error
// and with Completed false. A query or delete that keeps failing is an error;
// the result then tells what was deleted before.
//
// A request that saves a session more than half a minute after its end gets
// ErrRemoved, so that no change is acknowledged which a purge is about to delete.
func PurgeExpired(ctx context.Context, kind string) (PurgeResult, error) {
	if kind == "" {
		kind = defaultDSEntityName
	}
	done, err := gae.PurgeExpired(orBackground(ctx), kind, "exp")
	return PurgeResult(done), err
}

// PurgeExpiredSessFromDSFunc returns a handler that runs PurgeExpired for a kind
// (empty: "sess_"), to be called by App Engine's cron, every 30 minutes say.
// It answers with JSON:
//
//	{"completed":true,"deleted":120}
//
// and with status 500 and an "error" when the purge failed. Only GET and POST
// are allowed. On App Engine a request that does not come from cron gets status
// 403; elsewhere everybody may call it.
func PurgeExpiredSessFromDSFunc(dsEntityName string) http.HandlerFunc {
	return gae.PurgeHandler(func(ctx context.Context) (gae.Purged, error) {
		done, err := PurgeExpired(ctx, dsEntityName)
		return gae.Purged(done), err
	})
}
