// Package interleave proves by trying that the stores keep their promises: it
// runs the real store, one goroutine for each request, holds every request at
// each of its calls to App Engine, and decides which call is made next, in every
// order there is. Between the calls it may empty Memcache, stop a request for
// good, make a call fail, make it and lose its answer, or let time pass. The
// stores are that of the root package and cascadestore's on both services, used
// as an app uses them: what either has of its own is in one file (gaesession_test.go,
// cascade_test.go), and all else is the same for both.
//
// There is nothing but tests in it. They need testing/synctest, which knows when
// every goroutine of a schedule waits, so that the set of calls that can be made
// next is exact, and which simulates time.
//
//	go test ./internal/interleave                                a part of it, under a minute
//	go test ./internal/interleave -timeout 24h -explore.full     every schedule there is
//	go test ./internal/interleave -timeout 24h -explore.full -explore.only='evicted async'
//	go test ./internal/interleave -timeout 24h -explore.full -explore.only=cascade -explore.time=1h
//	go test ./internal/interleave -run Walks -explore.walks=100000 -explore.seed=1
//	go test ./internal/interleave -run Replay -v -explore.trace='cached change:a+logout: 0.get 1.get flush ...'
//	go test ./internal/interleave -run Replay -v -explore.trace='cached change:a+regenerate cascade: 0.get ...'
//
// # What is explored
//
// A scenario is the state that a session is in, and what the requests do that
// overlap on it. A schedule is a list of choices: which call is made next, or
// what happens instead. The search goes depth first and begins every schedule
// anew, as the state of goroutines cannot be put back. Two schedules that lead
// to the same state are followed up once: a request's state is what its calls
// were answered, so the state of all is the answers of each, what the services
// hold, and what the judge has to remember; nonces, CAS ids and times are
// renamed by the order in which they come up. A call that nobody else can notice
// (the beginning of a transaction, a put inside of it, a rollback) is made as
// soon as it can be made.
//
// A background save that waits for the owner of a lock asks again and again; how
// often is taken for the same as long as anybody else can go on. Where what
// comes next depends on how long the store has waited, and it waits for random
// times, a schedule may not come out as before. Such ones are tried again, and
// counted as not repeatable when that does not help.
//
// A scenario on cascadestore's store has the word cascade in its name. There a
// request has the session's signed cookie, calls New, changes Values or Options or
// calls RegenerateID, and then Save; "again" saves again after an error. What
// Save answers as a cookie is looked at, too. That store tries a call three
// times, and nothing outside of it can change that, so there are two more events:
// a call fails as often as it is tried (down), or is made, has its answer lost
// and fails from then on (cut); others may go on between the attempts. New brings
// the services up to date itself, so two requests that also change something have
// thousands of schedules where Datastore or Memcache is behind; a plain go test
// leaves those pairs out, -explore.full does not.
//
// Left out: the retry of a background save in a context of its own, as that goes
// to the service without passing here; gob, as sessions are encoded as JSON here,
// which is quicker and the same every time; two sessions in one request;
// cascadestore's other combinations of backends; requests with the id that
// RegenerateID made, before the request that called it has returned.
//
// # What is judged
//
// Every load on the way, and at the end of every schedule a load, what Datastore
// holds, a request that touches the session, a load after Memcache was emptied,
// and one more change. What may be seen is said in judge_test.go.
package interleave
