// Package clouddatastore keeps sessions in Datastore, or in Firestore in
// Datastore mode, through the Cloud Datastore API: on Cloud Run, on App Engine
// without its bundled services, or anywhere else.
//
//	backup, err := clouddatastore.New(ctx, "my-project", nil)
//
// It writes what App Engine's own API writes. So an app may move from one API to
// the other, instance by instance and in either direction, and keeps its
// sessions. [Options] says what to set for the sessions of cascadestore.
//
// # Commits on condition of a version
//
// The service gives an entity a new version with each change. A record's Token
// stands for that version. If a guess is right, an update is one commit, on
// condition that the record still has the version that the guess names, or that
// there is no record. All other updates look up their records and call their
// function. They commit on condition that each record which they replace still
// has the version that was read. Several records are replaced in a single-use
// transaction: all of them or none. If a commit is refused, the update begins
// again with a lookup, after a wait that is drawn at random from a range which
// doubles each time. After ten attempts it gives up with [tier.ErrContention].
//
//	get                             lookup
//	put, insert                     commit
//	insert of an existing id        commit, lookup
//	update, guess right             commit
//	update, no guess                lookup, commit
//	update, guess out of date       commit, lookup, commit
//	update, another backup's token  lookup, commit
//
// A database may ignore such conditions and say nothing. So before its first
// update a Backup finds out what its database does. It makes six commits, the
// last of them a deletion, to two entities of the kind gaesession_probe, which
// nobody else knows. If a commit fails for another reason than its condition, so
// does the update, and the next update tries again. Where the database ignores
// conditions, or makes some of several mutations when another is refused,
// updates are transactions: begin, lookup, commit, and rollback where there is
// nothing to write. They make no other calls, and take 30 seconds at most, since
// a database with pessimistic locks makes others wait meanwhile.
//
// Google's Datastore emulator compares versions, with and without
// --firestore_in_datastore_mode, and so does its Firestore emulator in Datastore
// mode. All tests run on the three of them, and on two that are made to ignore
// versions.
//
// # Errors
//
// A call takes 30 seconds at most, or until its context ends. A Backup never
// repeats a call that may have had its effect; only a purge repeats its deletes.
//
// Errors carry the sentinels of package tier and gRPC's status code, as
// [google.golang.org/grpc/status.Code] returns it. [tier.ErrUnreachable] means
// that gRPC had no connection, or no access token, and sent nothing. Where a
// service's message may name a session, the message is withheld.
//
// # Limits
//
// A session takes about 1 MiB less 300 bytes. A session id is at most 1500 bytes
// of UTF-8, Prefix included. One update writes at most 10 MiB.
//
// Google refuses databases in Firestore's native mode.
//
// # Old sessions
//
// [Backup.Purge] deletes what has expired. There is no HTTP handler for it: on
// App Engine the header X-Appengine-Cron shows who calls, elsewhere anybody can
// send it. Have Cloud Scheduler call a handler of the app's with an OIDC token,
// and check the token, as in the example; or run it in a Cloud Run job.
//
// With a TTL policy on the property exp, no purge is needed:
//
//	gcloud firestore fields ttls update exp --collection-group=sess_ --enable-ttl
//
// There are no such policies in the concurrency mode Optimistic With Entity
// Groups, which databases that were made for App Engine often have:
// https://cloud.google.com/datastore/docs/ttl. Google deletes what has expired
// within 24 hours, typically, which is soon enough, since an expired session is
// never loaded. But it knows nothing of the five minutes of grace that Purge
// leaves. It may delete a session at the moment of its end, while a request that
// loaded it shortly before is still at work. Such a request's change finds
// nothing, as after a logout: it fails with ErrRemoved, or, where the cache has
// a change that was never saved, makes the record anew. Nothing is ever
// half-deleted: a delete between lookup and commit is a conflict like any other.
package clouddatastore
