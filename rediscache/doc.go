// Package rediscache keeps sessions in Valkey or Redis, as the cache of a session
// store: it implements [tier.Cache].
//
//	client := redis.NewClient(rediscache.ClientOptions("10.0.0.3:6379"))
//	cache, err := rediscache.New(ctx, client, nil)
//
// The client may be that of one server, of a Sentinel group
// ([redis.NewFailoverClient]) or of a Cluster.
//
// # What it stores
//
// An item is a string: 60 bytes of this package, followed by the session store's
// value, unchanged. It expires to the millisecond. Its key is [Options].Prefix
// followed by the SHA-256 of the session's id in hexadecimal. The id itself appears
// nowhere: not in keys or values, not in SLOWLOG or MONITOR, not in errors or logs.
// Values are not encrypted, so whoever can read them can read the sessions.
//
// The package deletes and overwrites nothing but items. If a key of the cache holds
// anything else, every call for it returns [tier.ErrRejected] and leaves it alone; only
// a Get of an empty string finds nothing. [Cache.Foreign] counts these calls, and
// [Options].Logger receives a record at most once a minute. A Get reads no more than the
// largest item has, whatever is there.
//
// An item also names the end of its key, and a Get compares it. So if a client gives a
// call the answer to another one, Get returns an error, and not another user's session.
//
// Every call is about one key. It takes one round trip, and a second one if it finds
// something unexpected. The first call of a Cache takes two more, to check the
// server. BenchmarkBesidePlainRedis compares the calls with plain GET and SET.
//
// Get and CompareAndSwap share a round trip with others that are made at the same
// moment, 64 at most, if the client observes deadlines (see below). No call waits for
// others to come: before it sends, it lets the goroutines run that are ready to run. If
// these take longer than 1 ms for each call, calls go alone for 8 times as long, and for
// 100 ms after calls that have read more than 1 MB together. While all connections are
// in use, the calls that wait for one share the next round trip. The benchmark shows
// what sharing saves.
//
// # What the server must offer
//
// The cache needs Valkey, or Redis 6.0.15, 6.2.5 or later. In earlier versions a key
// may expire in the middle of a transaction. The client's user needs these commands
// on the keys of the cache:
//
//	ACL SETUSER app on >password ~gaesession:* +eval +evalsha +multi +exec +info +get +set +del +getrange +setrange
//
// Scripts must be allowed to run INFO. Redis Enterprise and Redis Cloud do not allow
// it. If the server lacks any of this, calls return [tier.ErrRejected] with a text
// that says what to permit. [Cache.Check] finds out at startup. It checks masters
// only, and Redis does not replicate ACLs: give replicas the same ACLs. Once it
// refuses EVAL, MULTI, EXEC or INFO later, all calls return ErrRejected until it permits
// them again.
//
// Turn persistence off (save "", appendonly no). The cache uses nothing that a server
// loads when it starts.
//
// Whoever can write to the server can forge sessions. Set Password, or Username and
// Password, in the client's options, and set TLSConfig unless the connection stays
// within a network that you trust. Wrong credentials are [tier.ErrRejected].
//
// With TLS the client does not notice that the server has closed a connection which is
// not in use: the next call on it returns an error. So after a restart of the server as
// many calls may fail as there were connections. A certificate that expires leaves
// connections as they are; new ones are [tier.ErrUnreachable] until it is renewed.
//
// # The client
//
// [ClientOptions] returns the recommended options and explains each. The cache keeps
// its promises with any other options, but a silent server then holds connections
// for longer, and a failed connection takes longer to be noticed.
//
// If the client is that of one server and has ContextTimeoutEnabled, and no function
// of the app's for credentials, OnConnect or Limiter, a call whose context has a
// deadline returns by then, and leaves nothing behind but, if it shares a round trip,
// its commands, which another call may still send. If its context is cancelled earlier,
// while the server is silent, it still waits for the deadline or for the client's
// timeout. The session stores give every call a deadline.
//
// Any other call returns when its context ends, even if the client or its dialer does
// not. If it holds a connection at that moment, it continues in the background until
// the server answers or until the client's timeout: the context's deadline with
// ContextTimeoutEnabled, ReadTimeout without. If it waits for a connection or between
// two attempts of the client, it ends at once. So the goroutines left behind are
// never more than the client's connections: PoolSize (by default 10 per CPU), and
// PipelinePoolSize (by default 10) from go-redis 9.23 on, per server. An abandoned
// dial continues until DialTimeout; PoolSize also limits these. Do not turn the
// timeouts off.
//
// Calls that share a round trip also share its failure, for instance of the connection:
// one connection that is dead may open the session stores' circuit breaker for a second,
// as three calls that time out do. They do not share what the server refuses one of them, nor a cancelled context. Hooks
// of the client (AddHook) see the commands of all of them as one pipeline, under the
// context of the first call without its cancellation. A hook that blocks delays the
// call that sends beyond its deadline, whatever options the client has.
//
// A new connection takes two round trips with ClientOptions, beside those of TCP, TLS
// and, with Sentinel, the question for the master: one to greet the server, and the one
// of the call. They count for the call's time, and a connection that is not ready by then
// is thrown away. So a cache that is further than 250 ms a round trip is of no use with
// the stores' 500 ms; set their CacheTimeout to three round trips at least.
//
// The package never retries. A client with MaxRetries above zero, which is
// go-redis's default, repeats what it could not send, and also reads and deletions
// whose answer was lost, which does no harm.
//
// # When the server fails
//
//   - It is silent. A call returns the context's error when the context ends, or, as
//     said above, at its deadline. The session stores allow a call 500 ms by default,
//     and after three timeouts in a row make no calls until the server answers a probe.
//   - It is down. Calls return [tier.ErrUnreachable] if the connection is refused or
//     not made within DialTimeout, if the host name has no address, if the server's
//     certificate is not accepted, or if no Sentinel can be reached or knows the master.
//   - Calls come faster than it answers. If no connection of the pool becomes free
//     within PoolTimeout, a call returns [tier.ErrBusy].
//   - It loads its data, or is busy with somebody's script. A call returns what it says.
//     While it pauses writes (CLIENT PAUSE, FAILOVER), they time out, and so do reads
//     that share their round trip.
//   - An answer is lost. The call returns an error. It may have had its effect, or
//     may still have it.
//   - It refuses writes but answers reads: it cannot write its snapshot (MISCONF) or
//     has too few replicas (NOREPLICAS). Set, Add and CompareAndSwap return an error
//     and change nothing. Get returns what is there, although that may be older than
//     the backup, or a session that was removed since. The session stores repeat
//     refused writes in the background until the server takes them.
//   - It is full and evicts nothing (noeviction). Add and CompareAndSwap return an
//     error and change nothing, as above. Set returns an error and deletes the item
//     that it was to replace. A removed session is then gone, but without its removal
//     marker, so a request that had read it before may put it back into the cache.
//     Let the server evict: allkeys-lru, or a volatile policy, since all items expire.
//   - It has become a replica. All calls return an error, including reads, because a
//     replica may lag behind. Sentinel and Cluster lead the client to the new master.
//     Elsewhere a Get that fails closes its connection, and the client dials again.
//   - It has been restarted, or a replica has been promoted. The cache is empty. With a
//     backup a failover of Sentinel costs no change and no logout, whatever the replica
//     lacked; until the client has followed, requests use the backup. Without one all
//     sessions have ended.
//
// # A cache that goes back in time
//
// A cache may forget at any moment, but it must never show an older item over a newer
// one: changes would be lost, and users who logged out would be logged in again. Redis
// does show older items. It restarts from a snapshot that is minutes old, or fails over
// to a replica that has not received the last writes.
//
// So every item carries a fence: the replication id of the server that took it. Redis
// draws a new id when a server starts, whatever it has loaded, and when a replica is
// promoted, even if it was a master before. A call that replaces an item asks for the id
// in the same transaction or script, and compares. A Get asks right after it has read
// the item, on the same connection: the id that a master has then, it had when the item
// with that id was read. An item with another fence is invalid, and the call deletes it.
// (The id of the process, run_id, would not do: a server that is demoted and promoted
// again keeps it.)
//
// The price is that a restart or a failover empties the whole cache. Redis also draws a
// new id when the first replica connects, and again when the last one has been gone for
// repl-backlog-ttl, which is an hour by default. Either empties the cache. Moving a slot
// of a Cluster drops the items in it.
//
// # Limits
//
//   - Split brain. While two servers both act as master of the same keys, each shows
//     what it was told. If a promotion is undone and the first master continues, what
//     the other one took meanwhile is gone. Let Sentinel or the Cluster decide, and set
//     min-replicas-to-write so that a master that is alone stops writing. Sentinel, even
//     with SENTINEL FAILOVER, demotes the first master only after it has promoted the
//     other one: until a client has followed, it reads the first one.
//   - A machine that is taken back in time with the process running, and operators who
//     load older data into a running server (DEBUG RELOAD NOSAVE, RESTORE). The id stays
//     the same.
//   - A Cluster that moves a slot away from a server and back, while the server that has
//     it in between restarts from a snapshot. The first server may get back an item that
//     was replaced meanwhile.
//   - A write that takes effect after its call has returned an error may undo what came
//     in between.
//   - A proxy that spreads the commands of one connection over several servers, to have
//     replicas answer reads for example, shows older items. Let the client connect to
//     the master itself.
//   - A [redis.Ring] is refused: it gives the keys of a server that it cannot reach to
//     another one.
//   - Values have at most [MaxValue] bytes.
//   - There is no such package for Memcached, and none is planned: Google's Memorystore
//     for Memcached ends on 2029-01-31, and the Go client for Memcached knows no contexts.
//     Use Memorystore for Redis or Valkey.
package rediscache
