// Package cascadestore keeps gorilla/sessions on App Engine: in Memcache for
// speed, backed up in Datastore so that nothing is lost. It is a drop-in
// replacement for github.com/dsoprea/goappenginesessioncascade, with the same
// names, types and stored format. NewTieredStore keeps sessions in other services.
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
// # What is promised
//
// With DistributedBackends. Saved and removed mean that Save returned no error.
//
//   - No lost update. When requests overlap and change different keys, all their
//     changes survive. On the same key the change that is saved last wins, also
//     when it sets the key back to what it was, or deletes it. All flashes are one
//     key, and a change inside of a map, slice or pointer is a change of its key.
//   - No resurrection. A removed session does not come back, whatever is in
//     flight. A request that saves it gets ErrRemoved, and no cookie; its id is not
//     used again.
//   - Read your writes. Every later load sees what was saved, whichever instance
//     asks.
//   - Memcache may lose anything at any time.
//   - Datastore may be down. Sessions of up to 64 KiB live on in Memcache; Save
//     returns ErrNotBackedUp and writes the cookie. The next change of the session
//     brings Datastore up to date, and so does any load three seconds later. A new
//     id is ErrNotSaved meanwhile, and the session keeps its old one.
//   - A request may die between any two calls.
//
// The package documentation of internal/tiered says where this ends.
//
// # Backends
//
// With MemcacheBackend alone a session is lost when Memcache loses it, and a
// removed one stays removed for as long as Memcache keeps the removal marker,
// 24 hours at most. With DatastoreBackend alone every load is a Datastore call.
//
// RequestBackend keeps sessions with the request. Beside the services it makes
// further calls of New in a request cost nothing, but they do not see what other
// requests change meanwhile. There is little to gain, as Get loads a session
// once per request anyway.
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
// A session ends MaxAge after it was saved last: in the browser, in the
// signature of its cookie, and in the services, which keep it for a tenth of
// MaxAge longer. Saving a session that has not changed writes the cookie, but
// writes to the services only once per tenth of MaxAge.
//
// If read-only requests never call Save, a session ends MaxAge after its last
// change.
//
// A session keeps the Options.MaxAge that the app has chosen for it, in later
// requests as well. In the services the latest end counts that a request has
// saved, so that a slow request ends no session early. After MaxAge was lowered a
// session ends by the new one, counted from its latest save.
//
// # Stored format
//
// In Datastore a session is an entity of kind Session. Its key's name is the
// prefix and the id; its properties are Value and ExpiresAt, which is indexed. In
// Memcache the key is the same. The value is, in both, what the serializer made
// of Values, and behind that a trailer, which says when each key was changed
// last. gob ignores it, so that the original package can read what is saved here;
// encoding/json does not. The entity of a removed session has an empty Value, and
// stays for 24 hours, or for an hour longer than the session would have lived,
// whichever is longer. A Memcache item that is no session has flags other than 0.
//
// What the original has stored is read as it is. Everything saved here counts as
// later than that; where the services differ, Datastore's entity decides.
// Instances of the original overwrite what other requests have saved since they
// loaded the session.
//
// # Security
//
// The cookie has nothing in it but the id, 256 random bits, signed and, with a
// second key, encrypted. An id that is not signed is not looked for. Ids are
// never logged and are in no error's text; a short hash stands for them. New apps
// should set HttpOnly, Secure and SameSite in the store's Options: the defaults
// are the original's, and set none of them. Call RegenerateID when somebody
// logs in.
//
// An authentication key should have 32 bytes or more. A shorter one works, as
// with the original; NewCascadeStore logs a warning, and StrictErr returns an
// error. To change a key without logging anybody out, put a new pair in front and
// keep the old one behind it:
//
//	store := cascadestore.NewCascadeStore(backends, newKey, nil, oldKey)
//
// If a stored session cannot be decoded, because a newer version of the app has
// saved it for example, New returns a new session and ErrUndecodable. Removing
// that one removes the stored one; Save and RegenerateID return the error again.
//
// A request that was in flight while the session got a new id, and that changed
// nothing, writes the cookie it came with, as with every gorilla store. If its
// answer arrives last, the browser goes on with the old id, which leads to a new
// session. Requests that only read should not call Save if they can overlap with
// a login.
//
// # Differences from gorilla's FilesystemStore
//
//   - A cookie whose session is gone gives a new session with a new id, and no
//     error.
//   - A MaxAge of 0 is a cookie for as long as the browser runs, and
//     DefaultMaxAge in the services, not a removal.
//   - A session has its id before it is saved.
package cascadestore
