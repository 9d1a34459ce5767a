// Package gaelocal serves App Engine's Memcache and Datastore on this machine,
// for development and tests: an HTTP server on loopback that speaks what App
// Engine's runtime speaks, POST /rpc_http with a remote_api request around a
// service call. Nothing has to be installed, and it starts within milliseconds.
//
//	server, err := gaelocal.Start(gaelocal.Options{Data: "sessions.db"})
//	...
//	defer server.Close()
//	restore, err := server.Setenv()
//	...
//	defer restore()
//
// From then on google.golang.org/appengine/v2's memcache and datastore packages
// work in this process, with any context. They find the server through the
// environment variables API_HOST and API_PORT; no code of the app changes. For
// an app in a process of its own there is the command of the same name:
//
//	gaelocal -data sessions.db -- go run ./myapp
//
// # What there is
//
// memcache: Get, Set with its four policies, Delete, Increment, BatchIncrement,
// FlushAll, Stats; for compare-and-swap, for peek; expiry, namespaces, eviction
// of what was used least recently.
//
// datastore_v3: Put, Get, Delete, AllocateIds, BeginTransaction, Commit,
// Rollback, RunQuery, Next, Count; queries by kind, ancestor, filters and
// orders on indexed properties and on __key__, keys only, projections, limits,
// offsets, cursors; datastore.Namespaces, whatever namespace the query is made
// in. Everything is strongly consistent. A transaction sees each entity group as
// it was when it first read it and none of its own writes; its commit fails if a
// group that it has read was changed meanwhile, be it by a transaction or not.
//
// Any other service or method answers App Engine's own "call not found" error.
//
// With Options.Data a write is in the file, synced, before it is answered, and
// all entities are in memory as well. Writes that come at the same time share
// one sync. A file belongs to one process at a time; damage is found when it is
// opened.
//
// # For tests
//
// StartForTest is one line at the beginning of a test:
//
//	func TestCheckout(t *testing.T) {
//		server := gaelocal.StartForTest(t)
//		...
//
// Hooks see every call, can fail it before or after it is applied, and can hold
// it up while something else happens. Latency delays calls; AppEngineLatency is
// a model of the real services. FlushMemcache and EvictMemcache take from
// Memcache what it may lose at any time. Server.Call makes a call without HTTP,
// on the caller's goroutine, and asks time.Now for the time, so that it works
// in a bubble of testing/synctest.
//
// # Limits
//
// Requests of 32 MiB; Memcache keys of 250 bytes and values of 1 MiB less 323
// bytes; entities of 1 MiB less 4 bytes, indexed strings of 1500 bytes; 25
// entity groups in a transaction; 300 results and 1000 skipped ones in an
// answer to a query; 10,000 transactions and 1,000 unread queries at a time, of
// which the oldest are forgotten first.
//
// # What it is not
//
// It is no service for others: there is no authentication, it belongs on
// loopback. Requests that a web page in a browser may have made get status 403.
// It does not demand composite indexes, which App Engine does (index.yaml), has
// no quotas and is never eventually consistent.
//
// # Differences to Google's development server
//
// Answers are compared with those of dev_appserver.py. These differ:
//
//   - Where that answers with an exception of its Python code, which clients
//     see as an unknown error, gaelocal answers with an error that says what is
//     wrong, or with what App Engine documents: memcache's INVALID_VALUE for too
//     large values, BAD_REQUEST "entity is too big", "call not found". Requests
//     to datastore_v3 may be larger than 1 MiB, and properties that are keys or
//     points can be projected.
//   - Memcache keys above 250 bytes are refused, and a Set of several items of
//     which one is too large stores none of them.
//   - Increment does not take underscores within a number.
//   - Memcache's Stats count items that Increment has made.
//   - Queries of the metadata kinds __kind__, __property__ and __entity_group__
//     are refused, and those of __namespace__ answer only namespaces that have
//     entities; that server answers those that ever had any.
//   - The answers of Put, Delete, Get and Commit have no versions and costs, which
//     clients in Go do not read, and datastore_v3 has a Count.
//   - A query that asks for no batch size gets 300 results at once, not 20.
//   - Properties of a projected entity come in the order in which they were
//     stored. Values that are keys sort with a parent before its children, in
//     every namespace.
//   - A cursor is readable only to gaelocal. One of a query that is ordered by a
//     property with several values can be continued; that server refuses it.
//   - Null bounds a range as any other value does; that server takes it for no
//     bound. An index.yaml, and so properties called n, y, no or yes in ordered
//     queries, are no trouble.
//   - A Set with an unknown policy stores nothing, and a request without a
//     required field is refused; that server stores, or takes an empty value.
package gaelocal
