// Package clouddatastore keeps sessions in Datastore, or in Firestore in
// Datastore mode, by the Cloud Datastore API: on Cloud Run, on App Engine
// without its bundled services, or anywhere else.
//
//	backup, err := clouddatastore.New(ctx, "my-project", nil)
//
// What it writes is what App Engine's own API writes. So an app may change from
// one to the other instance by instance, in either direction, and its sessions
// go on. [Options] says what to set for the sessions of cascadestore.
//
// # One commit, conditional on a version
//
// Every entity has a version, which the service makes another with each change.
// A record's Token is that version. An update of a record whose token is known
// is one commit without a transaction, made only if that version is still
// there; otherwise the record is looked up, the change is made again, and
// committed on condition of the version that was read. After ten attempts, with
// a wait between them that is drawn at random and grows, the update gives up with
// [tier.ErrContention].
//
//	get                          lookup
//	put, insert                  commit
//	insert of an existing id     commit, lookup
//	update, token known          commit
//	update, token unknown        lookup, commit
//	update, token out of date    commit, lookup, commit
//
// A database may ignore that condition without a word. So before its first
// update a Backup finds out what its database does, with three writes of an
// entity of its own, of kind gaesession_probe, and its deletion. Where the
// condition is ignored, updates are transactions: begin, lookup, commit, and
// rollback where nothing is to be written. Nothing but those calls happens
// inside them, and they take 30 seconds at most, since a database with
// pessimistic locks makes others wait meanwhile.
//
// Google's Datastore emulator compares versions, with and without
// --firestore_in_datastore_mode, and so does its Firestore emulator in Datastore
// mode, if the commit asks to fail on a conflict, as these do. All tests run on
// the three of them, and on two that are made to ignore versions.
//
// # Errors
//
// A call that may have had its effect is not made again, except for a purge's
// deletes. Where a service's message may name the session it is withheld. Errors
// carry the sentinels of package tier and gRPC's status code, as
// [google.golang.org/grpc/status.Code] returns it.
//
// # Limits
//
// A session takes about 1 MiB less 300 bytes. A session id is at most 1500 bytes
// of UTF-8, Prefix included.
//
// A database in Firestore's native mode is refused by Google.
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
