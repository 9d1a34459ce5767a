// Package soak lets many clients use the stores for a while on a gaelocal that
// fails calls, loses answers, forgets its Memcache and whose instances are
// killed, and then counts what was lost and what came back. There is nothing but
// a test in it.
//
//	go test ./internal/soak -v                                  10 s, synchronous and asynchronous requests mixed
//	go test ./internal/soak -v -soak=60s -soak.mode=async       longer; modes are sync, async and mixed
//	go test ./internal/soak -v -soak=60s -soak.seed=1 -soak.log=/tmp/soak.txt
//
// # The load
//
// 200 clients, ten to an instance, make one request after another on 2,000
// sessions, an eighth of them on twenty sessions that everybody wants: reads,
// changes (attributes are set, overwritten and deleted), refreshes of the access
// time, logouts and, in the place of a session that was removed, logins. Every
// request has a store of its own. One call of a hundred fails, and of another
// one the answer is lost, in whoever's name it is made; all take a random time.
// Every second Memcache is emptied. Twice a second an instance is killed: its
// goroutines end at their next call, or when the call they are in has returned,
// background saves included, and nobody hears what they did.
//
// # What is counted
//
// An attribute belongs to one client, which numbers its changes, so that it is
// known what everyone has to see. A change is acknowledged when the request
// reported no error and, if its save went on in the background, when that has
// ended without one. In the end faults stop, Memcache is read, emptied, and
// Datastore is read:
//
//   - lost: an acknowledged change that is not there, or a session that nobody
//     has removed.
//   - resurrected: a session whose logout was acknowledged, and that is there.
//   - stale: a read on the way that missed a synchronous change which was
//     acknowledged before the read began, or that found no session, or one
//     removed before, where it should not.
//
// A change with a reported error, or of an instance that died before it was
// acknowledged, may be there or not, and its client does not use that attribute
// again.
package soak
