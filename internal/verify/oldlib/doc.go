// Package oldlib stands in for the libraries that this one takes the place of,
// in tests of sessions that both serve: a request that loads and saves as theirs
// do. It was written from what their source shows, and shares no code with it.
// Only tests may import it.
//
// # github.com/icza/gaesession/v2
//
// Looked up at its last commit, 0d774a9 of July 2023. A Store does what its store
// does:
//
//   - Memcache has the session as the codec encodes it, memcache.Gob by default,
//     under KeyPrefix and id, with flags 0, for the session's timeout from the
//     moment it is saved. The flags are not read. A timeout of more than 30 days
//     is a time in the past to Memcache, which then keeps nothing.
//   - Datastore has an entity of kind "sess_" whose key's name is the id, with the
//     properties exp, which is the access time and the timeout, and val, the same
//     bytes. An entity with a further property cannot be loaded.
//   - Get asks Memcache up to Retries times, without a pause, also when the item
//     is there and cannot be decoded; only a miss ends that. Then it asks
//     Datastore, up to Retries times. An entity that has expired is deleted, one
//     that cannot be decoded is no session. What was found is not put into
//     Memcache. Either way the session's access time is now.
//   - OnlyMemcache does not keep Get from asking Datastore.
//   - Add sets the Memcache item at once. When that fails the store forgets the
//     session, which is never saved, and nobody hears of it.
//   - Close saves every session that was got or added, changed or not: it sets
//     the Memcache item, blindly, then puts the entity, blindly. There is no save
//     that leaves Datastore out; but each of the two calls may fail, or the
//     request end between them, and the other one stays.
//   - With AsyncDatastoreSave Close returns after Memcache and puts the entity in
//     a goroutine, with the request's context. That is cancelled when the handler
//     has returned, and App Engine's client begins no call then; so the put
//     arrives only if it began before, which it does not when Close is the last
//     that the handler does.
//   - Remove deletes the Memcache item, and then, without a second attempt, the
//     entity. When Memcache fails, the entity stays and Close saves the session.
//
// # github.com/dsoprea/goappenginesessioncascade
//
// Looked up at its last commit, 446e702 of October 2016; it is no module. A
// Cascade does what its store does with an id that a cookie has brought:
//
//   - Memcache has the Values as the serializer encodes them, gob by default,
//     under the prefix "session." and the id, with flags 0, for MaxAge. The flags
//     are not read.
//   - Datastore has an entity of kind "Session" whose key's name is the same key,
//     with the properties Value, the same bytes, and ExpiresAt. There is no time
//     of the last use.
//   - A load asks Memcache once. When the call fails, or the item cannot be
//     decoded, Datastore is not asked: there is no session. After a miss it asks
//     Datastore once; what is found there is not put into Memcache.
//   - When there is no session, for whatever reason, the app gets an empty one
//     under the id of the cookie, and no error. Saving it overwrites what the
//     services have, also of a session that was removed.
//   - A save writes all of Values, changed or not, without regard to what is
//     there: Memcache first, then Datastore, once each. When Memcache fails
//     Datastore is not written.
//   - A removal deletes the Memcache item, then the entity. When Memcache fails
//     the entity stays, and when Datastore fails nobody hears of it.
package oldlib
