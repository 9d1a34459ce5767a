// Package scsstore keeps the sessions of github.com/alexedwards/scs: in a cache for
// speed, backed up in a database so that nothing is lost. On Google App Engine these
// are Memcache and Datastore, elsewhere Redis or Valkey and the Cloud Datastore API,
// or services of your own.
//
// An app that uses scs changes its store, and one line around its handler:
//
//	sessions := scs.New()
//	store := scsstore.New(nil, nil, nil) // App Engine's services
//	sessions.Store = store
//
//	http.ListenAndServe(addr, appengine.Middleware(store.Handler(sessions, mux)))
//
// Handler replaces sessions.LoadAndSave. Everything else stays as scs documents it:
// Put and Get, RenewToken at login, Destroy at logout, Lifetime, IdleTimeout,
// RememberMe, HashTokenInStore, and any Codec.
//
// Elsewhere give New the services, and leave out appengine.Middleware. Package tier
// has the two interfaces; the modules rediscache and clouddatastore implement them:
//
//	store := scsstore.New(cache, backup, nil)
//
// Expired sessions stay in Datastore until they are purged: register PurgeHandler
// and let App Engine's cron call it, or give the property exp of the entities a TTL
// policy. Call Drain before the process ends.
//
// # What is promised
//
// In requests of Handler. "Saved" and "removed" mean that the commit, or Destroy,
// returned no error.
//
//   - No lost update. When requests overlap and change different keys, all their
//     changes survive. On the same key the change that is saved last wins, even if
//     it sets the key back to what it was, or removes it. A change inside of a map,
//     slice or pointer is a change of its key. The deadline is merged as a key is.
//   - No resurrection. A destroyed session does not come back, whatever is in
//     flight: a commit of its token is ErrRemoved and sets no cookie.
//   - Read your writes. After a save every load sees the change, on every
//     instance.
//   - The cache may lose anything at any time.
//   - The backup may be down. Sessions of up to 64 KiB live on in the cache: OnError
//     gets ErrNotBackedUp, and the app's answer goes out. The next change of the
//     session brings the backup up to date, and so does any load three seconds later.
//   - A request may die between any two calls.
//   - A read makes one call to the cache.
//   - Answers come in time. A service that does not answer costs a request
//     CacheTimeout or BackupTimeout; a cache that is known to be down costs almost
//     nothing. A request overruns its deadline by at most one second.
//   - Unknown is not none. When nobody can tell whether there is a session, the app
//     does not serve the request, and the cookie stays as it is.
//   - A cookie can name nothing but a session.
//
// With scs's own LoadAndSave in place of Handler nothing is merged: a commit
// overwrites whatever others have saved since its request began, as with any other
// store of scs. The rest holds, destroyed sessions included; but each of the store's
// calls may take as long as a request of Handler. Use Handler for every manager of a
// store, or for none.
//
// The package documentation of internal/tiered says where this ends. One limit
// concerns every rolling deploy: an instance of an older version of your app drops
// the fields that its types do not have, from every value of a session that it
// saves, even from values that it does not change. With scs.GobCodec it cannot load
// a session that holds a type which it has not registered.
//
// With any store scs commits once: at the first WriteHeader or Write, or when the
// handler returns. What a handler changes after that is not saved, and a Flush
// before it sends the header without the cookie of a new session.
//
// # Errors
//
// The manager's ErrorFunc gets the errors of a load and of a commit; Destroy,
// RenewToken and MergeSession return theirs. They answer errors.Is for these:
//
//	ErrUnavailable   nobody can tell whether there is a session. Answer with status
//	                 503; the cookie stays as it is.
//	ErrNotSaved      no service has the change, or nobody can tell. Answer with
//	                 status 503. Within one request the change applies once,
//	                 however often you commit it.
//	ErrRemoved       the session was destroyed, or has ended, while the request was
//	                 at work. Treat the user as logged out.
//	ErrTooLarge      the session is too large. What was saved before stays.
//	ErrUndecodable   there is a session, and it is damaged. The cookie stays.
//	ErrNotPublished  from Destroy: the session may be seen for a while; the store
//	                 tells the cache in the background.
//
// Options.OnError gets the rest, for a log: that a service failed and another one
// made up for it, ErrNotBackedUp and ErrNotPublished of a commit, and the failure of
// a commit that had only a later expiry to save.
//
// scs's ErrorFunc is called when the app begins to write. What the app writes then
// follows the error's page, so apps should change sessions before they write.
//
// # Calls
//
// How many calls to the services a request makes, its load included:
//
//	                     both  no cache  both, LoadAndSave
//	no cookie               0         0                  0
//	new session             2         1                  7
//	read                    1         1                  1
//	set to what it was      1         1                  2
//	change                  6         5                  7
//	read, evicted           6         1                  6
//	change, evicted        12         5                 12
//	unknown token           2         1                  2
//	Destroy                 4         2                  5
//	RenewToken              6         3                 12
//
// # Expiry
//
// A session ends at its deadline, at most a second later: Lifetime after it was
// created, or when SetDeadline says. With an IdleTimeout it also ends when it was not
// used for that long, and up to a tenth of that later. scs commits at every request
// then; the store writes only once per tenth of IdleTimeout. A lower IdleTimeout
// counts for sessions from when their time was written last under the higher one: of
// several such ends the latest counts, so that a slow request ends no session early.
//
// # Tokens
//
// RenewToken is a removal and a new session, as in scs: what a request in flight
// saves under the old token gets ErrRemoved, and a request that dies between the two
// logs the user out. Call it at login all the same.
//
// With HashTokenInStore the services get a hash of the token. Otherwise who reads
// their keys can take over sessions. Tokens that begin with "h:" or "owner:" are none.
// Tokens are in no error and in no log; a short hash stands for them.
//
// The store does not implement scs.IterableStore: it would hand out everybody's
// tokens.
//
// # Stored format
//
// In Datastore a session is an entity of kind DefaultDSEntityName. Its key's name is
// the prefix and the token; its properties are val and exp, which is indexed. In
// Memcache the key is the same. The value is, in both, what the Codec made of the
// session, followed by a trailer that says when each key was last changed. The entity
// of a removed session has an empty value, and stays for 24 hours, or for an hour
// longer than the session would have lived, whichever is longer.
//
// A session has at most 896 KiB in Datastore, less a few hundred bytes, less 24
// bytes for each key: 128 KiB stay free for what other requests have changed
// meanwhile.
package scsstore
