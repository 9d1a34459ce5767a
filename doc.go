// Package gaesession keeps sessions of github.com/icza/session on Google App
// Engine: in Memcache for speed, backed up in Datastore so that nothing is lost.
//
// Sessions are for apps. Their Handler opens a request's session when the app asks
// for it, saves it before the response's header leaves, and keeps the cookie:
//
//	var sessions gaesession.Sessions
//
//	func main() {
//		http.ListenAndServe(addr, appengine.Middleware(sessions.Handler(mux)))
//	}
//
//	func handler(w http.ResponseWriter, r *http.Request) {
//		sess, err := sessions.Get(r)
//		if err != nil { // nobody can tell; the cookie stays
//			http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
//			return
//		}
//		if sess != nil {
//			sess.SetAttr("seen", time.Now().Unix()) // saved before the header leaves
//		}
//	}
//
// To log in, Add a session of session.NewSession, or call RegenerateID if the
// request has a session already; to log out, Remove it.
//
// A store is for code that uses session.Manager already. It belongs to one
// request. Open it with the request's context, and close it before the answer's
// body is written, which saves what was changed:
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
// Types that attributes hold have to be registered with encoding/gob, as for
// every interface value that gob encodes.
//
// # What is promised
//
// "Saved", "removed" and "loaded" mean: the call returned and reported no error.
//
//   - No lost update. When requests overlap on one session and change different
//     attributes, all their changes survive, in Memcache and in Datastore. On the
//     same attribute the change that is saved last wins, also when it sets the
//     attribute back to what it was, or deletes it.
//   - No resurrection. A removed session never comes back: not from a request
//     that was in flight, not from a late background save, not from a refill of
//     Memcache, not after a flush. The request in flight gets ErrRemoved
//     reported; its other sessions are saved.
//   - Read your writes. Once saved, every later load sees it, whichever instance
//     asks.
//   - Memcache may vanish. Evicting, flushing or losing it at any moment loses
//     nothing that was saved.
//   - Datastore may be down. Sessions of up to 64 KiB live on in Memcache,
//     ErrNotBackedUp is reported, and the next save of the session brings Datastore
//     up to date.
//   - A request may die between any two calls: all of this holds for what was
//     saved.
//   - A request that only reads a session makes one Memcache call. Once per
//     RefreshInterval such a request writes the access time, and makes the calls
//     of a change.
//   - Answers come in time. A Memcache that does not answer costs a request
//     CacheTimeout, and almost nothing once three requests have noticed: one
//     goroutine then asks it once a second whether it is back. A Datastore that
//     does not answer costs a change BackupTimeout, and reads of cached sessions
//     nothing. A request overruns its deadline by at most one second.
//
// AsyncDatastoreSave changes one thing: a change counts as saved when it is in
// Memcache. It can be lost only if Memcache loses it and the instance dies before
// its background save has ended. With OnlyMemcache all of it holds for as long as
// Memcache keeps the session and the removal marker.
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
// run at once, and 1000 wait; a change for which there is no place is saved before
// Close returns.
//
// # Stored form
//
// The forms of icza/gaesession are kept, and its sessions go on: in Memcache the
// session as memcache.Gob encodes it, under KeyPrefix and id, with flags 0; in
// Datastore a SessEntity whose key's name is the id. Behind the session's bytes
// stands a trailer that says when each attribute was changed. gob ignores it, so
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
//   - KeyPrefix and id: 250 bytes. Ids with a NUL byte, ids that are not UTF-8, and
//     ids that begin with "h:" or "owner:" are malformed; services are not called
//     for them. Ids of the form __x__, which Datastore reserves, are valid.
//   - An encoded session: about 896 KiB, less 24 bytes for each attribute; a
//     change leaves 128 KiB of the entity free. A larger session, which
//     icza/gaesession has saved, can be refreshed and reduced, but not grow. With
//     OnlyMemcache: 1 MiB, less a few hundred bytes.
//   - While Datastore is down, only sessions of up to 64 KiB live on in Memcache;
//     a change of a larger one is ErrNotSaved. With AsyncDatastoreSave larger ones
//     are saved before Close returns.
//   - Timeouts and refresh intervals of more than 100 years count as 100 years.
//   - A timeout of more than 30 days works, but Memcache keeps an item for 30 days
//     at most; with OnlyMemcache the session ends then unless it is used.
//   - Without Sessions, close the store before the body is written: net/http sends
//     what has been written after 4 KB at the latest, and App Engine's middleware
//     when the handler returns. A client that gets the answer earlier may ask again
//     before the change is saved, and not see it. Above all, the id of a new session
//     must not get to the client before Close has returned: if the client logs out
//     while Close is saving the session, the save may undo the logout.
//   - With Sessions, a client that goes away before the save begins has its change
//     saved in Memcache, and in Datastore by the session's next save; until then
//     OnError has ErrNotBackedUp. It gets no new id.
//   - A session whose new id was saved, and whose response never reached the client,
//     is lost to it.
//   - A change whose request died before Close returned may or may not be seen.
//   - A save that reported ErrNotPublished may leave the older value in Memcache
//     until this process has told it, which continues in the background; if the
//     process dies before, until the next change. If the save deleted an attribute,
//     and the next change comes more than an hour later, the attribute may stay
//     until Memcache drops the session.
//   - A request whose Memcache get fails sees what Datastore has. While Memcache is
//     known to be down, that lacks asynchronous changes of other instances.
//   - A logout that reported an error may show the session until the services are
//     told; if the process dies before, until the session ends.
//   - If App Engine applies a call after reporting it as failed, what came between
//     may be undone.
//   - A session whose changes could not be saved in Datastore for longer than it
//     lives may lose its entity to a purge at the moment it is saved. It lives in
//     Memcache until the next change, which ends it, with ErrRemoved.
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
//   - Datastore takes about one change a second on one entity for long. Requests
//     of one instance that change one session at the same time share their
//     transactions. Those of several instances try again, 24 times at most; then
//     the change is kept in Memcache and an error reported, as when Datastore is
//     down.
//
// # Testing and running locally
//
// Package gaelocal is App Engine's Memcache and Datastore on this machine, in
// process or as a command. Nothing in an app changes for it.
package gaesession
