// Package rediscache keeps sessions in Valkey or Redis, as the cache of a session
// store: it is a [tier.Cache]. Of Redis it takes 6.0.15, 6.2.5 or later: before,
// a key could expire in the middle of a transaction.
//
//	client := redis.NewClient(&redis.Options{Addr: "10.0.0.3:6379"})
//	cache, err := rediscache.New(ctx, client, nil)
//
// The client may be that of one server, of a Sentinel group
// ([redis.NewFailoverClient]) or of a Cluster. Every call is about one key. It
// takes one round trip, and a second one where it finds something it did not
// expect. Items have a random version in front of the value, so that a
// compare-and-swap tells a value that was written again from one that nobody
// touched. They expire to the millisecond. A call returns when its context ends.
//
// # A cache that goes back in time
//
// A cache may forget at any moment, but session stores rely on it never to show
// an older item over a newer one: else what was changed would be lost, and who
// logged out would be logged in again. Redis does show older items. It restarts
// from a snapshot that is minutes old; it fails over to a replica that has not
// received the last writes.
//
// So every item carries a fence: the replication id of the server that took it.
// Redis draws a new one when a server starts, whatever it has loaded, and when a
// replica is promoted, also if it was a master before. A call that reads or
// replaces an item asks for the id in the same transaction or script, and
// compares. An item with another fence is no item, whatever it says. (The id of
// the process, run_id, would not do: a server that is demoted and promoted again
// keeps it.)
//
// The price is that a restart and a failover empty the cache as a whole. Since
// nothing that is on a disk counts, persistence is of no use to it; turn it off
// (save "", appendonly no). Redis also draws a new id when the first replica
// connects, and again when the last one has been gone for repl-backlog-ttl, which
// is an hour. Either empties the cache as well. Moving a slot of a Cluster drops
// the items in it.
//
// BenchmarkBesidePlainRedis measures what all this costs beside plain GET and SET.
//
// Where a server does not let scripts read its replication id, [New] fails and
// says what to permit. Redis Enterprise and Redis Cloud do not: they have no
// INFO in scripts. New asks masters alone, and Redis does not replicate ACLs:
// give the replicas the same.
//
// # What is not covered
//
//   - Split brain. While two servers take themselves for the master of the same
//     keys, each shows what it was told; and when a promotion is undone, so that
//     the first master goes on as if nothing had happened, what the other one
//     took meanwhile is gone. Have Sentinel or the Cluster decide, and set
//     min-replicas-to-write so that a master that is alone stops writing. Sentinel
//     demotes the first master only after it has promoted the other one, in
//     SENTINEL FAILOVER too: until a client has followed, it reads the first one.
//   - A machine that is itself taken back, with the process running, and
//     operators who load older data into a running server (DEBUG RELOAD NOSAVE,
//     RESTORE). The id stays the same.
//   - A Cluster that moves a slot away from a server and back to it, while the
//     server that has it in between restarts from a snapshot. The first server
//     may then get back an item of its own that was replaced meanwhile.
//   - A write that arrives after its call has returned an error may undo what
//     came between. The package does not send a Set or an Add a second time when
//     the answer to it is lost.
//   - A [redis.Ring] is refused: it gives the keys of a server that it does not
//     reach to another one.
//
// Replicas are not read, whatever the client is told about that: what they answer
// is refused, "there is nothing" as well, since they may lag behind.
//
// # When the server is full
//
// Have it evict: allkeys-lru, or a volatile policy, since all items have an
// expiry. With noeviction it refuses what takes memory. A Set then returns an
// error and deletes what it was to replace; without its removal marker a session
// that was removed may be put into the cache again by a request that had read it
// before. A compare-and-swap returns an error and leaves what is there: older
// than what the caller has saved elsewhere.
//
// # Not Memcached
//
// There is no such package for Memcached, and none is planned: Google's
// Memorystore for Memcached ends on 2029-01-31, and the Go client for Memcached
// knows no contexts. Memorystore for Redis or Valkey takes its place.
package rediscache
