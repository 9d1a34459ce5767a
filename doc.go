// Package gaesession keeps sessions of github.com/icza/session on Google App
// Engine and elsewhere: in a cache for speed, backed up in a database so that
// nothing is lost. The cache is Memcache or Redis, the backup is Datastore.
//
// # Start
//
// An app has one [Sessions], whose [Sessions.Handler] goes around its router.
// On App Engine the zero value is enough:
//
//	var sessions gaesession.Sessions
//
//	func main() {
//		http.HandleFunc("GET /", home)
//		app := appengine.Middleware(sessions.Handler(http.DefaultServeMux))
//		log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), app))
//	}
//
// Elsewhere set [MemcacheStoreOptions.Cache] and [MemcacheStoreOptions.Backup]
// in its Options, to a cache of module rediscache and a backup of module
// clouddatastore, for example, and leave out appengine. [Sessions.Err] says at
// startup what cannot work. Register the types that attributes hold with
// encoding/gob; a value comes back as the type that was registered.
//
// # Read and change
//
// [Sessions.Get] returns the request's session, or nil if it has none. It loads
// the session at its first call; a request that does not call it makes no call
// to the services. Whatever the handler changes is saved before the first byte
// of the response's header leaves, values that were changed in place included:
//
//	func home(w http.ResponseWriter, r *http.Request) {
//		sess, err := sessions.Get(r)
//		if err != nil { // it cannot be told whether there is a session
//			http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
//			return
//		}
//		if sess != nil {
//			sess.SetAttr("seen", time.Now().Unix())
//		}
//	}
//
// [Sessions.Save] saves at once and returns the error. If a change cannot be
// saved, Handler answers instead of the app, with [Sessions.ErrorHandler] if
// that is set. A middleware that recovers from panics belongs outside of
// Handler: one that is inside makes a panic look like a normal return, which
// saves.
//
// # Log in and out
//
// To log in, call [Sessions.Renew]. It begins a session, or gives the one that
// the request has a new id, so that one planted in the browser before is useless,
// and loses nothing that other requests save meanwhile. To log out,
// [Sessions.Remove] the session. [RemoveID] ends a session by its id.
//
// If [Sessions.Owner] says whose a session is, a user can be logged out
// everywhere: [Sessions.SessionsOf] lists a user's sessions,
// [Sessions.RemoveRefs] ends some of them, [Sessions.RemoveOthers] all but the
// request's, and [Sessions.RemoveAll] all.
//
// A session ends when it was not used for its timeout, which is 30 minutes
// unless session.NewSessionOptions says otherwise, and at the latest
// [MemcacheStoreOptions.MaxLifetime] after it was created. [Cookie] says how
// the cookie looks.
//
// # Code that uses session.Manager
//
// [NewMemcacheStore] is a drop-in replacement for the one of icza/gaesession. A
// store belongs to one request. Open it with the request's context, and close
// it before the response's body is written, which saves what was changed:
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
// Get also returns nil when it cannot be told whether there is a session, which
// OnError is told: an app that begins a new session then logs the user out.
// [Sessions.Get] tells the two apart.
//
// Close the store before the first 4 KB are written, the first Flush and a
// Hijack: a client that has the response may ask again before the change is
// saved. Above all, the client must not get the id of a new session before
// Close has returned: if it logs out while Close saves the session, the save
// may undo the logout. A deferred Close also runs after a panic, and saves a
// change that is half made. [RegenerateID] gives a session of a store a new id.
// Or use [Sessions.Manager], and none of this matters.
//
// # Purge
//
// Expired sessions stay in Datastore until they are purged. Register
// [PurgeExpiredSessFromDSFunc] and let App Engine's cron call it, call
// [PurgeExpired], or give the property exp of the entities a TTL policy.
//
// # Test
//
// Package gaelocal is App Engine's Memcache and Datastore on your machine:
// gaelocal.StartForTest(t) in a test, and cmd/gaelocal for an app. Package
// tier/tiertest has a cache and a backup in memory.
//
// # Operate
//
// Call [Drain] when the process is told to stop. [MemcacheStoreOptions.OnError]
// and [MemcacheStoreOptions.Trace] say what happens. The errors
// [ErrUnavailable], [ErrUndecodable], [ErrNotSaved], [ErrNotBackedUp],
// [ErrNotPublished] and [ErrRemoved] say what became of a session.
//
// # What is promised
//
// "Saved", "removed" and "loaded" mean: the call returned and reported no
// error. Memcache stands for the cache and Datastore for the backup, whatever
// they are.
//
//   - No lost update. When requests overlap on one session and change different
//     attributes, all their changes survive, in Memcache and in Datastore. On
//     the same attribute the change that is saved last wins, even if it sets
//     the attribute back to what it was, or deletes it.
//   - No resurrection. A removed session never comes back: not from a request
//     that was in flight, not from a late background save, not from a refill of
//     Memcache, not after a flush. The request in flight gets [ErrRemoved].
//   - Read your writes. Once saved, every later load sees it, whichever
//     instance asks.
//   - Memcache may vanish. Evicting, flushing or losing it at any moment loses
//     nothing that was saved.
//   - Datastore may be down. Sessions of up to 64 KiB live on in Memcache,
//     [ErrNotBackedUp] is reported, and the next save of the session brings
//     Datastore up to date.
//   - A request may die between any two calls: all of this holds for what was
//     saved.
//   - A request that only reads a session makes one Memcache call. Once per
//     [MemcacheStoreOptions.RefreshInterval] such a request writes the access
//     time, and makes the calls of a change.
//   - Answers come in time. A Memcache that does not answer costs a request
//     [MemcacheStoreOptions.CacheTimeout], and almost nothing once three
//     requests have noticed: one goroutine then asks it once a second whether
//     it is back. A Datastore that does not answer costs a change
//     [MemcacheStoreOptions.BackupTimeout], and reads of cached sessions
//     nothing. A request overruns its deadline by at most one second.
//   - Ended everywhere. Once [Sessions.RemoveAll] has returned, no session of
//     that owner lives that had logged in before it began: under no id, in no
//     request in flight, after no flush.
//   - Unknown is not none. If it cannot be told whether there is a session,
//     [Sessions.Get] returns [ErrUnavailable], and the cookie stays.
//   - What a visitor sends as an id reads, changes and deletes nothing but
//     sessions.
//
// [MemcacheStoreOptions.AsyncDatastoreSave] changes one thing: a change counts
// as saved when it is in Memcache. It can be lost only if Memcache loses it and
// the instance dies before its background save has ended. With
// [MemcacheStoreOptions.OnlyMemcache] all of it holds for as long as Memcache
// keeps the session and the removal marker.
//
// # How
//
// Every attribute knows when it was last changed, and wherever two states of a
// session meet, in a transaction or in Memcache, each attribute takes the later
// change. There are no locks. A removed session leaves an empty entity behind,
// for 24 hours at least, the longest time a request may take; so a request in
// flight can tell "removed" from "not saved yet". The package documentation of
// internal/tiered describes the protocol, next to the code.
//
// Attributes are compared with what was loaded, so that an unchanged session is
// not written. Values that were changed in place (maps, slices, pointers) are
// noticed. Setting an attribute to the value that was loaded is no change.
// Constant attributes are not compared.
//
// A session ends when it was not used for its timeout, at the same instant in
// both services, and at the latest MaxLifetime after it was created. The access
// time is written only once per RefreshInterval; so the stored instant is later
// than the timeout says, by that interval.
//
// The store has at most 90 calls to the services under way in a process, 60 of
// them to Datastore: google.golang.org/appengine/v2 opens 100 connections, and
// every call beyond them leaves a goroutine behind. At most 16 background saves
// run at once, and 1000 wait; a change for which there is no place is saved
// before Close returns.
//
// # Stored form
//
// The stored form is that of icza/gaesession, whose sessions keep working: in
// Memcache the session as memcache.Gob encodes it, under KeyPrefix and id, with
// flags 0; in Datastore a [SessEntity] whose key's name is the id. Behind the
// session's bytes is a trailer that says when each attribute was changed. gob
// ignores it, so icza/gaesession reads what this package writes. With another
// Codec, and only while instances of icza/gaesession still run, move all
// traffic at once: their codec sees the trailer, and may refuse it, as
// encoding/json does.
//
// Memcache items with other flags are leases and removal markers;
// icza/gaesession cannot decode these, and asks Datastore.
//
// An item without a trailer is a session of icza/gaesession, or bytes of the
// app's own that look like one. If Datastore has no session of that id, the
// store saves it there only when a request changes it.
//
// # Limits
//
//   - KeyPrefix and id: 250 bytes. Ids with a NUL byte, ids that are not UTF-8,
//     and ids that begin with "h:" or "owner:" are malformed; services are not
//     called for them. Ids of the form __x__, which Datastore reserves, are
//     valid.
//   - An encoded session: about 896 KiB, less 24 bytes for each attribute; a
//     change leaves 128 KiB of the entity free. A larger session, which
//     icza/gaesession has saved, can be refreshed and reduced, but not grow.
//     With OnlyMemcache: 1 MiB, less a few hundred bytes.
//   - While Datastore is down, only sessions of up to 64 KiB live on in
//     Memcache; a change of a larger one is ErrNotSaved. With
//     AsyncDatastoreSave larger ones are saved before Close returns.
//   - Timeouts and refresh intervals of more than 100 years count as 100 years.
//   - A timeout of more than 30 days works, but Memcache keeps an item for 30
//     days at most; with OnlyMemcache the session ends then unless it is used.
//   - With Sessions, a client that goes away before the save begins has its
//     change saved in Memcache, and in Datastore by the session's next save;
//     until then OnError has ErrNotBackedUp. It gets no new id.
//   - While Datastore is down a login of an owner is ErrNotSaved, and so is a
//     new id.
//   - A session whose new id was saved, and whose response never reached the
//     client, is lost to it.
//   - A change whose request died before Close returned may or may not be seen.
//   - A save that reported ErrNotPublished may leave the older value in
//     Memcache until this process has told it, which continues in the
//     background; if the process dies before, until the next change. If the
//     save deleted an attribute, and the next change comes more than an hour
//     later, the attribute may stay until Memcache drops the session.
//   - A request whose Memcache get fails sees what Datastore has. While
//     Memcache is known to be down, that lacks asynchronous changes of other
//     instances.
//   - A logout that reported an error may show the session until the services
//     are told; if the process dies before, until the session ends.
//   - If App Engine applies a call after reporting it as failed, what came
//     between may be undone.
//   - A session whose changes could not be saved in Datastore for longer than
//     it lives may lose its entity to a purge at the moment it is saved. It
//     lives in Memcache until the next change, which ends it, with ErrRemoved.
//   - Instances of icza/gaesession may overwrite changes that overlap theirs.
//     What they have overwritten in Datastore lives in Memcache alone until the
//     next change saves it again.
//   - An instance of an older version of your app drops the fields that its
//     types do not have, from every value of a session that it saves, even from
//     values that it does not change.
//   - With AsyncDatastoreSave: if the second of two changes of one attribute could
//     not see the first, which only Memcache had, the clocks of the two instances
//     decide which is the later one. Its request had loaded the session before, or
//     Memcache was emptied, or did not answer it.
//   - A request that is older than 24 hours may revive a removed session.
//   - A request that is still at work half a minute after its session has ended
//     cannot save it any more, and gets ErrRemoved.
//   - Datastore takes about one change a second on one entity for long.
//     Requests of one instance that change one session at the same time share
//     their transactions. Those of several instances try again, 24 times at
//     most; then the change is kept in Memcache and an error reported, as when
//     Datastore is down.
package gaesession
