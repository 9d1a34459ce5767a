// Package linearizability records what concurrent clients see of sessions, and
// lets porcupine (github.com/anishathalye/porcupine) judge whether there is an
// order of all requests that explains it. There is nothing but tests in it.
//
//	go test ./internal/verify/linearizability -v
//	go test ./internal/verify/linearizability -v -linearizability.ops=30000 -linearizability.seed=1
//
// Eight clients make requests on four sessions at a time, each request with a
// store of its own as on an instance of its own: logins, reads, changes that set
// and delete attributes, refreshes of the access time, logouts. Calls are delayed
// at random, and in the runs that evict, Memcache is emptied or loses a session
// now and then. All on gaelocal, the mixed
// ones on Google's server, too.
//
// # Operations
//
// A login lasts from Add to the return of Close; nobody else knows the id before.
// A read is Get. A change is two operations: the read, and a write of only the
// attributes that the request changed, from the call of Close to its return, or
// to the end of its background save. ErrRemoved from Close means that the write was
// not made, as there was no session. From the background it means that the write was
// made, and has gone with the session. After any other reported error the write may
// take effect at any later time, or never. A logout is Remove.
//
// # What is judged
//
// Two things. What is promised for each load alone, and what is excused there,
// says package judge, as in the other tests. And there is to be one order that
// explains all of them: every attribute of a session is a register; no session is
// one of its values.
// There has to be an order of the writes, each within its time, such that every
// read returns what the last write left, or what a write under way has replaced
// or is going to leave. So what was saved is seen by every later read, nothing
// saved is lost, and nothing removed comes back; but while a write is under way
// some reads may see it and later ones not. An asynchronous write that Memcache
// has lost is under way until its background save has ended; its place in the
// order it has when Close returns.
//
// Attributes are set, deleted and set back to what they were at first in all runs.
package linearizability
