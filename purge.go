package gaesession

import (
	"cmp"
	"context"
	"net/http"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/tier"
)

// PurgeResult says what a purge did.
type PurgeResult = tier.Purged

// PurgeExpired deletes from Datastore the session entities of a kind (empty:
// "sess_") that expired more than five minutes ago, those of removed sessions
// included. It purges the namespace of ctx alone; a nil ctx has no end and is in
// the default namespace. To purge every namespace is what the handler of
// [PurgeExpiredSessFromDSFunc] does.
//
// PurgeExpired stops after eight minutes, or when ctx ends, without an error and
// with Completed false. A query or delete that keeps failing is an error; the
// result then says what was deleted before.
//
// A request that saves a session more than half a minute after its end gets
// [ErrRemoved], so that no change is acknowledged which a purge is about to
// delete.
func PurgeExpired(ctx context.Context, kind string) (PurgeResult, error) {
	return gae.PurgeExpired(ctx, cmp.Or(kind, defaultDSEntityName), expiresProperty)
}

// PurgeExpiredSessFromDSFunc returns a handler that deletes the same entities as
// [PurgeExpired] from every namespace of the app, one after the other, within
// eight minutes. App Engine's cron should call it, every 30 minutes say. It
// answers with JSON that counts the entities of all namespaces, and says whether
// it got through all of them:
//
//	{"completed":true,"deleted":120}
//
// When the purge fails, the answer has status 500 and an "error". Only GET and
// POST are allowed. On App Engine a request that does not come from cron gets
// status 403; elsewhere everybody may call it.
func PurgeExpiredSessFromDSFunc(dsEntityName string) http.HandlerFunc {
	return gae.PurgeHandler(cmp.Or(dsEntityName, defaultDSEntityName), expiresProperty)
}
