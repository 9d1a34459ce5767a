// Package rediscache keeps sessions in Redis or Valkey, as the cache of a session
// store: it is a [tier.Cache].
//
//	client := redis.NewClient(rediscache.ClientOptions("10.0.0.3:6379"))
//	cache, err := rediscache.New(ctx, client, nil)
//
// The client may be that of one server, of a Sentinel group
// ([redis.NewFailoverClient]) or of a Cluster.
//
// # What it stores
//
// An item is a string: 60 bytes of the package, then the session store's value,
// as it is. It expires to the millisecond. Its key is [Options].Prefix, then
// SHA-256 of the session's id in hexadecimal. The id itself is nowhere: not in
// keys, in the slow log, in MONITOR, in errors or in logs. The values are not
// encrypted: whoever may read them can read the sessions.
//
// The package deletes and overwrites nothing but items. If there is anything else
// under a key of the cache, every call about it fails with [tier.ErrRejected], and
// leaves it alone. [Cache.Foreign] counts these calls, and [Options].Logger is
// told once a minute at most.
//
// A call takes one round trip, and a second one where it finds something that it
// did not expect. It is about one key. The first call of a Cache takes one more,
// to ask whether the server is fit.
//
// # What the server must offer
//
// Redis 6.0.15, 6.2.5 or later, or Valkey: before, a key could expire in the
// middle of a transaction. The client's user needs the commands EVAL, EVALSHA,
// MULTI, EXEC, INFO, GET, SET, DEL, GETRANGE and SETRANGE on the keys of the cache:
//
//	ACL SETUSER app on >password ~gaesession:* +eval +evalsha +multi +exec +info +get +set +del +getrange +setrange
//
// Scripts must be permitted to run INFO; Redis Enterprise and Redis Cloud do not
// permit it. On a server that is not fit, calls fail with [tier.ErrRejected] and
// say what to permit. [Cache.Check] finds that out at startup. It asks masters
// alone, and Redis does not replicate ACLs: give the replicas the same.
//
// Turn persistence off (save "", appendonly no). The cache does not use what a
// server loads when it starts.
//
// Whoever can write to the server can forge sessions, and whoever can read it can
// read them. Set Password, or Username and Password, in the client's options, and
// TLSConfig wherever the connection leaves the machine or a network that you
// trust. Wrong credentials are [tier.ErrRejected].
//
// # The client
//
// [ClientOptions] returns options for a client that serves a cache alone, and says
// what each is for. With any other options the promises below hold as well, but
// connections to a server that does not answer are in use for longer.
//
// A call ends with its context, whatever the client and its dialer do. What it
// began then goes on behind the scenes, in a goroutine, while it holds a
// connection: until the server answers, or until the deadline of the context
// (ContextTimeoutEnabled) or ReadTimeout. A call that waits for a connection, or
// between two attempts of the client, ends at once. So there are never more such
// goroutines than connections: PoolSize (10 per CPU unless set) and, from go-redis
// 9.23 on, PipelinePoolSize (10 unless set). A dial that was given up goes on
// until DialTimeout; these are no more than PoolSize either. Do not turn the
// timeouts off.
//
// The package tries nothing a second time. Nor does the client, with
// [ClientOptions]. With others it repeats what it has not sent yet, and reads.
//
// # When the server fails
//
//   - It is silent. A call returns the context's error when its context ends. The
//     session stores give a call 500 ms, and after a few such calls make none until
//     the server answers again.
//   - It is down. A call fails with [tier.ErrUnreachable] when a connection is
//     refused, cannot be made within DialTimeout, or the host has no address, and
//     when no Sentinel can be reached. A pool whose connections are all in use is
//     not that, but [redis.ErrPoolTimeout].
//   - An answer is lost. The call fails, and may have had its effect, perhaps only
//     after it has returned.
//   - It refuses writes and answers reads: it cannot write a snapshot (MISCONF), or
//     has too few replicas (NOREPLICAS). Set, Add and CompareAndSwap fail and change
//     nothing. Get shows what is there, which may be older than what the session
//     store has saved in the backup, and includes sessions that were removed since.
//     The session stores repeat what was refused in the background, until the
//     server takes it.
//   - It is full and evicts nothing (noeviction). Add and CompareAndSwap fail and
//     change nothing, as above. Set fails, and deletes the item that it was to
//     replace: a session that was removed is gone, but without its removal marker a
//     request that had read it before may put it back into the cache. Have the
//     server evict: allkeys-lru, or a volatile policy, since all items expire.
//   - It has become a replica. All calls fail, reads as well, since a replica may
//     lag behind. Sentinel and Cluster lead the client to the new master. Elsewhere
//     the client connects again, by its address, when a Get has failed.
//   - It was restarted, or its replica was promoted. The cache is empty.
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
// replica is promoted, even if it was a master before. A call that reads or
// replaces an item asks for the id in the same transaction or script, and
// compares. An item with another fence is no item, whatever it says, and is
// deleted. (The id of the process, run_id, would not do: a server that is demoted
// and promoted again keeps it.)
//
// The price is that a restart and a failover empty the cache as a whole. Redis
// also draws a new id when the first replica connects, and again when the last one
// has been gone for repl-backlog-ttl, which is an hour. Either empties the cache
// as well. Moving a slot of a Cluster drops the items in it.
//
// BenchmarkBesidePlainRedis measures what all this costs beside plain GET and SET.
//
// # Limits
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
//     came between.
//   - A [redis.Ring] is refused: it gives the keys of a server that it does not
//     reach to another one.
//   - Values have [MaxValue] bytes at most. Ids may have any length but zero.
//   - Memcached. There is no such package for it, and none is planned: Google's
//     Memorystore for Memcached ends on 2029-01-31, and the Go client for Memcached
//     knows no contexts. Use Memorystore for Redis or Valkey instead.
package rediscache
