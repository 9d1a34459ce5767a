// Package soak lets many clients use the stores for a while on a gaelocal that
// fails calls, loses answers, forgets its Memcache and whose instances are
// killed, and then counts what was lost and what came back. There is nothing but
// a test in it.
//
//	go test ./internal/verify/soak -v                                  5 s, synchronous and asynchronous requests mixed
//	go test ./internal/verify/soak -v -soak=60s -soak.mode=async       longer; modes are sync, async and mixed
//	go test ./internal/verify/soak -v -soak=60s -soak.seed=1 -soak.log=/tmp/soak.txt
//	go test ./internal/verify/soak -v -soak=10m -soak.silences -timeout 20m   services fall silent, requests have deadlines
//	go test ./internal/verify/soak -v -run Crowd -crowd=30s                   200 clients without a pause, and what they leave
//
// # The load
//
// 200 clients, ten to an instance, make one request after another on 2,000
// sessions, half of them gaesession's and half cascadestore's, an eighth of them
// on twenty sessions that everybody wants: reads, changes (attributes are set,
// overwritten and deleted), refreshes of the access time, logouts and, in the place of a session that was removed, logins. Every
// request has a store of its own. One call of a hundred fails, and of another
// one the answer is lost, in whoever's name it is made; all take a random time.
// Every second Memcache is emptied. Twice a second an instance is killed: its
// goroutines end at their next call, or when the call they are in has returned,
// background saves included, and nobody hears what they did.
//
// With -soak.silences one of the services does not answer again and again, for
// up to twelve seconds. A call that comes meanwhile is carried out at once, when
// the silence ends, or never, and its answer, if any, comes in the end. Three
// requests of ten have a deadline, and two a client that goes away.
//
// # What is judged
//
// An attribute belongs to one client, which sets it to values of its own, deletes
// it and sets it back to what it was first. What every request did and when is
// noted, and package judge is asked about every load and every answer: what it
// promises, and what it excuses, is the same as in the other tests. With
// -soak.silences no request may end more than a second after its deadline, or
// take longer than the services' timeouts allow, and none may be told that there
// is no session when nobody can tell. In the end
// faults stop, every session is loaded, Memcache is emptied, and every session is
// loaded again.
package soak
