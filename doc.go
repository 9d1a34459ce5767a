// Package gaesession keeps sessions of github.com/icza/session on Google App
// Engine: in Memcache for speed, backed up in Datastore so that nothing is lost.
// It is a drop-in replacement for github.com/icza/gaesession. With the options
// Cache and Backup it keeps sessions in other services.
//
// A store belongs to one request. Open it with the request's context, and close
// it before you write the body of the answer; Close saves what the request
// changed:
//
//	func handler(w http.ResponseWriter, r *http.Request) {
//		ctx := appengine.NewContext(r)
//		sessions := session.NewCookieManager(gaesession.NewMemcacheStore(ctx))
//		defer sessions.Close() // if the handler leaves early
//
//		sess := sessions.Get(r)
//		if sess == nil {
//			sess = session.NewSession()
//			sessions.Add(sess, w)
//		}
//		visits, _ := sess.Attr("visits").(int)
//		sess.SetAttr("visits", visits+1)
//
//		sessions.Close() // saves what was changed
//		fmt.Fprintf(w, "Visits: %d\n", visits+1)
//	}
//
// Expired sessions stay in Datastore until they are purged: register
// PurgeExpiredSessFromDSFunc and let App Engine's cron call it, or give the
// property exp of the entities a TTL policy.
//
// Register the types that attributes hold with encoding/gob, as for every
// interface value that gob encodes.
//
// # What is promised
//
// "Saved", "removed" and "loaded" mean that the call returned and reported no
// error.
//
//   - No lost update. When requests overlap on one session and change different
//     attributes, all their changes survive, in Memcache and in Datastore. On the
//     same attribute the change that is saved last wins, even if it sets the
//     attribute back to what it was, or deletes it.
//   - No resurrection. A removed session never comes back: no request in flight,
//     no late background save, no refill of Memcache and no flush revives it. The
//     request in flight gets ErrRemoved; its other sessions are saved.
//   - Read your writes. After a save every load sees the change, on every
//     instance.
//   - Memcache may vanish. Losing it at any moment loses nothing that was saved.
//   - Datastore may be down. Sessions of up to 64 KiB live on in Memcache, and
//     OnError gets ErrNotBackedUp; loads see them. The next save of a session
//     brings Datastore up to date, and so does any load three seconds later. The
//     change of a larger session is not saved and gets ErrNotSaved.
//   - A request may die between any two calls. All of this holds for what was
//     saved.
//   - Reading is cheap. A request that only reads a session makes one call to
//     Memcache. Once per RefreshInterval such a request writes the access time,
//     and makes the calls of a change.
//   - Answers come in time. A Memcache that does not answer costs a request
//     CacheTimeout, and almost nothing once three requests have noticed: one
//     goroutine then asks it once a second whether it is back. A Datastore that
//     does not answer costs a change BackupTimeout, and reads of cached sessions
//     nothing. A request overruns its deadline by at most one second.
//
// AsyncDatastoreSave changes one thing: a change counts as saved when it is in
// Memcache. It is lost only if Memcache loses it and the instance dies before its
// background save has ended. With OnlyMemcache all of it holds for as long as
// Memcache keeps the session and the removal marker.
//
// # Errors
//
// The methods of session.Store return no errors, so OnError gets them. They wrap
// one of these:
//
//	ErrUnavailable   nobody can tell whether there is a session. Keep the cookie
//	                 as it is, and answer with status 503.
//	ErrUndecodable   there is a session that this instance cannot decode. Keep the
//	                 cookie as it is, and answer with status 503.
//	ErrNotBackedUp   Memcache has the change and Datastore does not. Loads see it.
//	ErrNotPublished  Datastore has the change, and Memcache may show an older
//	                 session for a while; the store tells it in the background.
//	ErrNotSaved      no service has the change, or nobody can tell. Close does not
//	                 try again.
//	ErrRemoved       the session was removed, or has ended.
//	ErrTooLarge      the session is too large. What was saved before stays.
//	ErrInvalidID     no session can have that id.
//
// A new session that Datastore has is saved; if Memcache fails meanwhile, OnError
// gets the error of Memcache alone.
//
// # How
//
// Every attribute knows when it was last changed. When two states of a session
// meet, in a transaction or in Memcache, each attribute takes the later change.
// There are no locks. A removed session leaves an empty entity behind for at
// least 24 hours, the longest time a request may take; so a request in flight can
// tell "removed" from "not saved yet". The package documentation of
// internal/tiered describes the protocol, next to the code.
//
// The store compares attributes with what it loaded, and does not write an
// unchanged session. It notices values that were changed in place (maps, slices,
// pointers). Setting an attribute to the value that was loaded is no change.
// Constant attributes are not compared.
//
// A session ends when it was not used for its timeout, at the same instant in
// both services, and at the latest MaxLifetime after it was created. The store
// writes the access time only once per RefreshInterval; so the stored instant is
// later than the timeout says, by that interval.
//
// The store has at most 90 calls to the services under way in a process, 60 of
// them to Datastore: google.golang.org/appengine/v2 opens 100 connections, and
// every call beyond them leaves a goroutine behind. At most 16 background saves
// run at once, and 1000 wait; a change for which there is no place is saved before
// Close returns.
//
// # Stored form
//
// The store keeps the forms of icza/gaesession, and the sessions that are there:
// in Memcache the session as memcache.Gob encodes it, under KeyPrefix and id, with
// flags 0; in Datastore a SessEntity whose key's name is the id. A trailer follows
// the session's bytes. It says when each attribute was changed. gob ignores it, so
// icza/gaesession reads what this package writes. Other codecs may not ignore
// trailing bytes; encoding/json does not. Here such a Codec never sees the
// trailer, but in instances of icza/gaesession it does: with such a Codec move
// all traffic at once.
//
// Memcache items with other flags are leases and removal markers; icza/gaesession
// cannot decode these, and asks Datastore.
//
// An item without a trailer is a session of icza/gaesession, or bytes of the app's
// own that look like one. If Datastore has no session of that id, the store saves
// it there only when a request changes it.
//
// # Limits
//
//   - KeyPrefix and id have at most 250 bytes. Ids that contain a NUL byte, begin
//     with "h:" or "owner:", or are not UTF-8 are malformed; the store makes no
//     calls for them.
//   - An encoded session has at most 896 KiB, less a few hundred bytes, less 24
//     bytes for each attribute. 128 KiB of the megabyte that Datastore takes stay
//     free for what other requests have changed meanwhile. A larger session, which
//     icza/gaesession may have saved, can be used and can shrink, but not grow.
//   - With OnlyMemcache an encoded session has at most 1 MiB, less as much.
//   - Timeouts and refresh intervals of more than 100 years count as 100 years.
//   - A timeout of more than 30 days works, but Memcache keeps an item for 30 days
//     at most; with OnlyMemcache the session ends then unless it is used.
//   - Close the store before you write the body: net/http sends what was written
//     after 4 KB at the latest, and App Engine's middleware when the handler
//     returns. A client that gets the answer earlier may ask again before the
//     change is saved, and not see it. Above all, the id of a new session must not
//     reach the client before Close has returned: if the client logs out while
//     Close is saving the session, the save may undo the logout.
//   - A change whose request died before Close returned may or may not be seen.
//   - After ErrNotPublished Memcache may show the older session until the process
//     has told it; if the process dies before, until the next change. If the save
//     deleted an attribute, and the next change comes more than an hour later, the
//     attribute may stay until Memcache drops the session.
//   - A request whose Memcache get fails sees what Datastore has. While Memcache
//     does not answer, a request does not see the asynchronous changes of other
//     instances.
//   - A logout that reported an error may show the session until the process has
//     told the services; if the process dies before, until the session ends.
//   - If App Engine applies a call after it reported a failure, later writes may be
//     overwritten.
//   - A session whose changes could not be saved in Datastore for longer than it
//     lives may lose its entity to a purge while a request saves it. It then lives
//     in Memcache alone, and its next change fails with ErrRemoved.
//   - Instances of icza/gaesession may overwrite changes that overlap theirs. What
//     they have overwritten in Datastore lives in Memcache alone until the next
//     change saves it again.
//   - An instance of an older version of your app drops the fields that its types
//     do not have, from every value of a session that it saves, even from values
//     that it does not change.
//   - With AsyncDatastoreSave: if Memcache was emptied between two changes of one
//     attribute, before the first was in Datastore, the clocks of the two
//     instances decide which is the later one.
//   - A request that is older than 24 hours may revive a removed session.
//   - A request that is still at work half a minute after its session has ended
//     cannot save it any more, and gets ErrRemoved.
//   - Datastore sustains about one change a second on one entity. Requests of one
//     instance that change one session at the same time share their transactions.
//     Those of several instances try again, 24 times at most; then the change is
//     kept in Memcache and ErrNotBackedUp is reported, as when Datastore is down.
//
// # Testing and running locally
//
// Package gaelocal is App Engine's Memcache and Datastore on this machine, in
// process or as a command. Nothing in an app changes for it.
package gaesession
