// Package gaesession keeps sessions of github.com/icza/session on Google App
// Engine: in Memcache for speed, backed up in Datastore so that nothing is lost.
//
// A store belongs to one request. Open it with the request's context, and close
// it before the answer's body is written, which saves what was changed:
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
// Saved, removed and loaded mean that the call returned and no error was
// reported.
//
//   - No lost update. Requests that overlap on one session and change different
//     attributes all survive, in Memcache and in Datastore. On the same
//     attribute the last one saved wins.
//   - No resurrection. A removed session never comes back: not from a request
//     that was in flight, not from a late background save, not from a cache
//     refill, not after a flush. The request in flight gets ErrRemoved reported;
//     its other sessions are saved.
//   - Read your writes. Once saved, every later load sees it, whichever instance
//     asks.
//   - Memcache may vanish. Evicting or flushing it at any moment loses nothing
//     that was saved.
//   - Datastore may be down. Sessions go on living in Memcache, the error is
//     reported, and the next request that touches the session brings Datastore
//     up to date.
//   - A request may die between any two calls, and the first two promises hold.
//   - A request that only reads a session makes one Memcache call; once per
//     RefreshInterval it makes those of a change.
//
// With OnlyMemcache all of it holds for as long as Memcache keeps the session
// and the removal marker. With AsyncDatastoreSave a change is durable when its
// background save has ended, and lives in Memcache, marked as ahead of
// Datastore, until then; whoever touches the session next repairs it.
//
// # How
//
// Datastore decides, and Memcache is a cache that never lies. The protocol is
// described in the package documentation of internal/tiered, next to the code.
// In short: who changes a session puts a lock in place of its Memcache item,
// changes the entity in a transaction, merging attribute by attribute with what
// others changed meanwhile, and swaps the lock for what was committed. Who finds
// a lock asks Datastore. A removed session leaves an empty entity behind for 24
// hours, the longest time a request may take, so that a request in flight can
// tell "removed" from "not saved yet".
//
// Attributes are compared with what was loaded, so that an unchanged session is
// not written; values that were changed in place (maps, slices, pointers) are
// noticed. Constant attributes are not compared.
//
// A session ends when it was not used for its timeout, at the same instant in
// both services. As its access time is written once per RefreshInterval only,
// the stored instant is that much later.
//
// # Stored form
//
// The forms of icza/gaesession are kept, and its sessions go on: in Memcache the
// session as memcache.Gob encodes it, under KeyPrefix and id, with flags 0; in
// Datastore a SessEntity whose key's name is the id. Memcache items with other
// flags are locks, removal markers and values that are, or were a moment ago,
// ahead of Datastore; icza/gaesession
// takes these for damaged, and asks Datastore.
//
// # Limits
//
//   - KeyPrefix and id: 250 bytes. Ids with a NUL byte, or of the form __x__, and
//     ids that are not UTF-8 are malformed; services are not called for them.
//   - An encoded session: 1 MiB less a few hundred bytes. One that fits Datastore
//     but not Memcache, whose overhead is larger, is kept in Datastore alone.
//   - Timeouts and refresh intervals of more than 100 years count as 100 years.
//   - A timeout of more than 30 days works, but Memcache keeps an item for 30 days
//     at most; with OnlyMemcache the session ends then unless it is used.
//   - Close the store before the body is written: net/http sends what has been
//     written after 4 KB at the latest, and App Engine's middleware when the
//     handler returns. A client that gets the answer earlier may ask again before
//     the change is saved, and not see it. In particular the id of a new session
//     must not get to the client before Close has returned: a logout that such a
//     client makes while Close is saving the session may be undone by it.
//   - A change whose request died before Close returned may or may not be seen,
//     and, when it overlapped another, may be seen only after the next change or
//     flush.
//   - A Memcache that fails the calls of one change and answers other requests
//     may show them the value before it until the next change. The change
//     reports the error.
//   - With AsyncDatastoreSave one background save of a session is under way at a
//     time; a change that finds another one is saved before Close returns.
//     Memcache puts them in order. When it was emptied in between, or requests
//     broke each other's locks, a background save that ends late may win over a
//     change of the same attribute that was made after it, or undo a deletion of
//     it. A background save whose instance was killed is repaired from Memcache;
//     if a synchronous change has locked the item meanwhile and dies, too, it is
//     lost.
//   - While changes of a session are being saved, loads may see one of them and
//     not see it in turn, until it is saved.
//   - Datastore takes about one change a second on one entity for long. Requests
//     that change one session at the same time are retried, 24 times at most.
//
// # Testing and running locally
//
// Package gaelocal is App Engine's Memcache and Datastore on this machine, in
// process or as a command. Nothing in an app changes for it.
package gaesession
