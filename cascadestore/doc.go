// Package cascadestore keeps sessions of github.com/gorilla/sessions on Google
// App Engine and elsewhere: in a cache for speed, backed up in a database so
// that nothing is lost. It is a drop-in replacement for
// github.com/dsoprea/goappenginesessioncascade, with the same names, types and
// stored format.
//
// # Start
//
// An app has one store, in a variable. [NewCascadeStore] makes one on App
// Engine's Memcache and Datastore, [NewTieredStore] one on other services:
//
//	var store = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, key)
//
//	func main() {
//		store.Options.HttpOnly, store.Options.Secure = true, true
//		store.Options.SameSite = http.SameSiteLaxMode
//		if err := store.StrictErr(); err != nil {
//			log.Fatal(err)
//		}
//		http.HandleFunc("/", count)
//		app := appengine.Middleware(store.Handler(http.DefaultServeMux))
//		log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), app))
//	}
//
// [CascadeStore.StrictErr] reports keys and environment variables that cannot
// be used. App Engine's APIs have to know the request's context: wrap the app's
// handler with appengine.Middleware, or call appengine.Main. Register your own
// types in Values with encoding/gob.
//
// # Read and change
//
// Get loads a session once per request. [CascadeStore.Handler] saves what the
// request has changed, before the header of the response leaves:
//
//	func count(w http.ResponseWriter, r *http.Request) {
//		session, err := store.Get(r, "session")
//		…
//		visits, _ := session.Values["visits"].(int)
//		session.Values["visits"] = visits + 1
//	}
//
// Without Handler, or to learn whether it worked, call Save before the
// response's body is written, as it sets the cookie:
//
//	err = session.Save(r, w)
//
// A session has at most 4096 bytes unless [CascadeStore.SetMaxLength] says
// otherwise. A middleware that recovers from panics belongs outside of Handler.
//
// # Log in and out
//
// To log in set a value, call [CascadeStore.RegenerateID], and Save: the
// session moves to a new id, and one that was planted in the browser before is
// useless. To log out set session.Options.MaxAge to -1 and Save, which removes
// the session for good.
//
// # Purge
//
// Expired entities stay until they are purged: register [PurgeHandler] and let
// App Engine's cron call it, call [PurgeExpired], or give the property
// ExpiresAt a TTL policy.
//
// # Test
//
// Package gaelocal is App Engine's Memcache and Datastore on your machine:
// gaelocal.StartForTest(t) in a test. Package tier/tiertest has a cache and a
// backup in memory, for NewTieredStore.
//
// # Operate
//
// Call [Drain] when the process is told to stop. [CascadeStore.Logger] gets
// what no method returns, [CascadeStore.Trace] is told what the store does, for
// metrics.
//
// # Errors
//
// Errors answer errors.Is for these:
//
//	ErrUnavailable   it cannot be told whether there is a session. Answer with status
//	                 503; the cookie stays as it is.
//	ErrUndecodable   there is a session that this instance cannot decode. Answer
//	                 with status 503; the cookie stays as it is.
//	ErrNotBackedUp   Memcache has the change and Datastore does not. Log it and
//	                 continue: loads see the change.
//	ErrNotPublished  Datastore has the change, and Memcache may show an older
//	                 session for a while; the store tells it in the background. Log
//	                 it and continue.
//	ErrNotSaved      no service has the change, or it cannot be told. Save again, or
//	                 answer with status 503. Within one request the change applies
//	                 once, however often you save it.
//	ErrRemoved       the session was removed, or has ended. Treat the user as
//	                 logged out.
//	ErrValueTooBig   the session is too large. What was saved before stays.
//
// After an error of New other than securecookie's, you can remove the session
// but not save it: Save returns the error again.
//
// # What is promised
//
// With [DistributedBackends]. "Saved" and "removed" mean that Save returned no
// error. Memcache stands for the cache and Datastore for the backup, whatever
// they are.
//
//   - No lost update. When requests overlap and change different keys, all
//     their changes survive. On the same key the change that is saved last
//     wins, even if it sets the key back to what it was, or deletes it. All
//     flashes are one key, and a change inside of a map, slice or pointer is a
//     change of its key.
//   - No resurrection. A removed session does not come back, whatever is in
//     flight. Every later Save of it returns [ErrRemoved] and writes no cookie;
//     its id is not used again.
//   - Read your writes. After a save every load sees the change, on every
//     instance.
//   - Memcache may lose anything at any time.
//   - Datastore may be down. Sessions of up to 64 KiB live on in Memcache: Save
//     returns [ErrNotBackedUp] and writes the cookie. The next change of the
//     session brings Datastore up to date, and so does any load three seconds
//     later. For a larger session, or one with a new id, Save returns
//     [ErrNotSaved].
//   - A request may die between any two calls.
//   - Answers come in time. A service that does not answer costs a request
//     CacheTimeout or BackupTimeout; a Memcache that is known to be down costs
//     almost nothing. A request overruns its deadline by at most one second.
//
// # Limits
//
// The package documentation of internal/tiered says where the promises end. One
// limit concerns every rolling deploy: an instance of an older version of your
// app drops the fields that its types do not have, from every value of a
// session that it saves, even from values that it does not change.
//
// # Backends
//
// With MemcacheBackend alone a session is lost when Memcache loses it, and a
// removed one stays removed for as long as Memcache keeps the removal marker,
// 24 hours at most. With DatastoreBackend alone every load is a Datastore call.
//
// RequestBackend keeps sessions with the request. Together with the services it
// makes further calls of New in a request cost nothing, but they do not see
// what other requests change meanwhile. There is little to gain, as Get loads a
// session once per request anyway.
//
// # Calls
//
// How many calls to the services a request makes, its load included:
//
//	                         both  Memcache  Datastore
//	no cookie, forged cookie    0         0          0
//	new session                 2         1          1
//	read                        1         1          1
//	read, and Save unchanged    1         1          1
//	change                      6         2          5
//	read, evicted               6                    1
//	change, evicted            12                    5
//	unknown id                  2         1          1
//	removal                     4         2          2
//	RegenerateID and Save      10         3          5
//
// # Expiry
//
// A session ends MaxAge after it was saved last, both in the browser and in the
// services, which keep it for a tenth of MaxAge longer, and at the latest
// MaxLifetime after it was created. Saving a session that has not changed
// writes the cookie, but writes to the services only once per tenth of MaxAge.
// [CascadeStore.Handler] writes neither of a session that has not changed, and
// writes the cookie again with the first change in each tenth of MaxAge.
//
// If read-only requests never call Save, a session ends MaxAge after its last
// change.
//
// MaxAge is the store's, see SetMaxAge, or what the app has set in the
// session's own Options: the session remembers that. The signature of the
// cookie has no age: the services know when a session was saved last. So a
// lower MaxAge of the store counts for existing sessions as well, and a higher
// one for those that are saved from then on.
//
// Of several ends that requests have saved the latest counts, so that a slow
// request ends no session early.
//
// # Stored format
//
// In Datastore a session is an entity of kind Session. Its key's name is the
// prefix and the id; its properties are Value and ExpiresAt, which is indexed.
// In Memcache the key is the same. The value is, in both, what the serializer
// made of Values, followed by a trailer that says when each key was last
// changed. gob ignores it, so that the original package can read what is saved
// here; encoding/json does not. The entity of a removed session has an empty
// Value, and stays for 24 hours, or for an hour longer than the session would
// have lived, whichever is longer. A Memcache item that is no session has flags
// other than 0.
//
// The store reads what the original has stored. Everything saved here counts as
// later than that; where the services differ, Datastore's entity decides.
// Instances of the original overwrite what other requests have saved since they
// loaded the session.
//
// A session has at most 896 KiB in Datastore, less a few hundred bytes, less 24
// bytes for each key: 128 KiB stay free for what other requests have changed
// meanwhile. SetMaxLength sets a lower limit, 4096 bytes by default, for what
// one request saves.
//
// # Security
//
// The cookie contains only the id, 256 random bits, signed and, with a second
// key, encrypted. The store never looks for an id that is not signed. Ids are
// in no log and in no error's text; a short hash stands for them. New apps
// should set HttpOnly, Secure and SameSite in the store's Options: the defaults
// are the original's, and set none of them.
//
// Call RegenerateID when a user logs in. The next Save then moves the session
// to a new id in one step, and writes the cookie. Until then nothing has
// changed, so a request that dies before loses nothing. If that Save fails, the
// browser keeps the old cookie and the session its old ID, and you can save
// again. A request that dies after the move was committed, and before the
// browser has the new cookie, ends the session for the user.
//
// A request that was in flight meanwhile, and that changed nothing, writes the
// cookie it came with, as with every gorilla store. If its answer arrives last,
// the browser keeps the old id, which leads to a new session. Requests that
// only read should not call Save if they can overlap with a login.
//
// An authentication key has at least 32 bytes. A shorter one works, as it did
// with the original package, but whoever has a cookie may guess it; the store
// logs a warning at startup. To replace a key without logging anybody out, put
// the new pair in front of the old one, and remove the old one once no session
// of that time is left:
//
//	store := cascadestore.NewCascadeStore(backends, newKey, nil, oldKey, nil)
//
// # Differences from gorilla's FilesystemStore
//
//   - A cookie whose session is gone gives a new session with a new id, and no
//     error.
//   - A MaxAge of 0 makes a cookie that ends with the browser's session, and
//     DefaultMaxAge in the services. It is no removal.
//   - A session has its id before it is saved.
//   - A session keeps the MaxAge that the app has set in its Options.
//   - Where a browser sends several cookies of the name, the first three are
//     tried.
package cascadestore
