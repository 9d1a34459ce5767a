// Package cascadestore keeps gorilla/sessions on App Engine: in Memcache for
// speed, backed up in Datastore so that nothing is lost. It takes the place of
// github.com/dsoprea/goappenginesessioncascade, with the same names, types and
// stored format.
//
//	var store = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, key)
//
//	func handle(w http.ResponseWriter, r *http.Request) {
//		session, err := store.Get(r, "session")
//		…
//		session.Values["visits"] = visits + 1
//		err = session.Save(r, w)
//		…
//	}
//
// The request's context has to be one that App Engine's APIs know: on App Engine
// wrap the app's handler with appengine.Middleware, or call appengine.Main.
//
// # Backends
//
// A session is looked for in the request, then in Memcache, then in Datastore,
// in those that were chosen, and what a slower one has is put into the faster
// ones. It is saved in all of them.
//
// With DistributedBackends both services are kept in step by the protocol that
// the package documentation of internal/tiered describes. With "saved" meaning
// that Save returned no error:
//
//   - Requests that overlap and change different keys lose nothing. Of changes
//     to one key the one that is saved last wins, and flashes are one key. A
//     change inside of a value, of a map, slice or pointer, is a change of its
//     key.
//   - A removed session does not come back, whatever is in flight. Who saves it
//     gets ErrRemoved, and no cookie; its id is not used again.
//   - What was saved is seen by every later load.
//   - Memcache may lose anything at any time.
//   - While Datastore is down sessions live on in Memcache; Save returns the
//     error and writes the cookie. The next request that loads the session
//     brings Datastore up to date.
//   - A request may die between any two calls.
//
// With MemcacheBackend alone a session is lost when Memcache loses it, and a
// removed one stays removed for as long as Memcache keeps the removal marker,
// 24 hours at most. With DatastoreBackend alone every load is a Datastore call.
//
// RequestBackend alone keeps sessions no longer than the request. With the
// services beside it, further calls of New in a request cost nothing, but they
// give the session as this request loaded or saved it last: what other requests
// change meanwhile is not seen. Nothing is lost by that, as changes are merged
// when they are saved; yet gorilla's registry, which Get uses, already makes
// sure that a request loads a session once, so there is little to gain.
//
// # Calls
//
// How many calls to the services a request makes, after and including the load:
//
//	                         both  Memcache  Datastore
//	no cookie, forged cookie    0         0          0
//	new session                 2         1          1
//	read                        1         1          1
//	read, and Save unchanged    1         1          1
//	change                      8         2          5
//	read, evicted               6                    1
//	change, evicted            15                    5
//	unknown id                  2         1          1
//	removal                     4         2          2
//	RegenerateID and Save      10         3          6
//
// # Expiry
//
// A session ends MaxAge after it was saved last, in the services, in the browser
// and in the signature of the cookie. Save writes the expiry into the services
// again when a tenth of MaxAge has passed since it was, or when MaxAge is
// another one; so that this ends no session early, the services get a tenth
// more than MaxAge. Who never calls Save in requests that only read has sessions
// that end MaxAge after the last change.
//
// # Stored format
//
// In Datastore a session is an entity of kind Session; its key's name is the
// prefix and the id, its properties are Value and ExpiresAt, which is indexed.
// The entity of a removed session has an empty Value, for 24 hours. In Memcache
// the key is the same, and the value what the serializer made of Values. Flags,
// which the original ignores, say what else an item may be, and carry the
// expiry. Both are read as the original wrote them. The original must not serve
// beside this package: it writes without regard to what others saved.
//
// An app of the original's that kept sessions in Memcache alone and chooses
// Datastore as well loses those sessions at their next change, as it looks as
// if they had been removed from Datastore.
//
// # Security
//
// The cookie has nothing in it but the id, 256 random bits, signed and, with a
// second key, encrypted. An id that is not signed is not looked for. Ids are
// never logged and are in no error's text; a short hash stands for them. New
// apps should set HttpOnly, Secure and SameSite in the store's Options; the
// defaults are the original's, which has none of them. Call RegenerateID when
// somebody logs in.
//
// A request that was in flight while the session got a new id, or was removed
// and another one was made, and that changed nothing, writes the cookie it came
// with, as with every gorilla store. If its answer is the last to arrive the
// browser goes on with the old id, which leads to a new session. Requests that
// only read should not call Save when they can overlap with a login.
//
// # Differences from gorilla's FilesystemStore
//
//   - A cookie whose session is gone gives a new session with a new id, and no
//     error.
//   - A MaxAge of 0 is a cookie for as long as the browser runs, and DefaultMaxAge
//     in the services, not a removal.
//   - A session has its id before it is saved.
package cascadestore
