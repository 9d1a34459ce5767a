// Package interleave proves by trying that the stores keep their promises: it
// runs the real store, one goroutine for each request, holds every request at
// each of its calls to the services, and decides which is made next, in every
// order there is. Between the calls it may empty the cache, stop a request for
// good, make a call fail, or make it and lose its answer, have a cache not answer
// in time, end the request's context inside a call, make a service fail for one
// request or for all, or let time pass. The stores are those of the root
// package, of cascadestore and of scsstore on both services, and the root package's
// Sessions, used as an app uses them; and the protocol alone. What each has of its own
// is in one file (gaesession.go, sessions.go, cascade.go, scs.go, bare.go); all else is
// the same.
//
// The services are App Engine's, or a cache that goes back in time, as a Redis
// server does that restarts from a snapshot, with the fence of package rediscache
// around it; and any database that a test gives it (see [Database]): so the tests
// of _cloud_demo run all of this on package clouddatastore, with a database that
// compares versions and with one that locks what a transaction has read.
//
// Only tests may import it. It needs testing/synctest, which knows when every
// goroutine of a schedule waits, so that the set of calls that can be made next is
// exact, and which simulates time.
//
//	go test ./internal/verify/interleave                                a part of it, in some ten seconds
//	go test ./internal/verify/interleave -timeout 24h -explore.full     every schedule there is
//	go test ./internal/verify/interleave -timeout 24h -explore.full -explore.events=0 -explore.part=0/4
//	go test ./internal/verify/interleave -timeout 24h -explore.full -explore.only='evicted async'
//	go test ./internal/verify/interleave -timeout 24h -explore.full -explore.events=1 -explore.switches=1 -explore.part=0/151 -v
//	go test ./internal/verify/interleave -run Walks -explore.walks=100000 -explore.seed=1
//	go test ./internal/verify/interleave -run Rule -explore.rules -v    each rule of the protocol left out
//	cd _cloud_demo && go test . -run 'Schedule|Walks' -explore.full    the same on the Cloud Datastore API
//	go test ./internal/verify/interleave -run Replay -v -explore.trace='cached change:a+logout: 0.get 1.get flush ...'
//
// # What is explored
//
// A scenario is the state that a session is in, and what the requests do that
// overlap on it. Each is on an instance of its own, so that none shares work with
// another; with ~shared behind its name it is on one with the others of that
// kind. The clock of an instance may be half a minute ~ahead or ~behind when it
// changes something, and "old" requests load and save as the libraries do that
// this one is a drop-in replacement for. Behind that, words say which services it is on:
// "redis" is the cache that goes back, "versions" and "locks" the two databases of
// _cloud_demo. On "small" services a few kilobytes reach the limits of items and
// records, and #5000 behind a change says how many bytes longer its value is.
// With "two" each request works on another session of the same store as well; the
// events are then those that no error tells of. Backups copy what they are given and
// what they hand on.
//
// With "owned" the session is Alice's, and in the index of her sessions; other
// sessions are nobody's until somebody logs in ("own", "claim"), and "enter" begins
// another one of hers. "endall" ends all of them from outside, "logout-all" does so
// from a request of the session, which logs out as well, and "others" spares the
// request's own. With "most=2" she may have two, and a login beyond that ends the
// oldest. In the state "brief" the next use has to be listed, and in "lapsed" her index
// has expired, so that a purge deletes it unless somebody logs in.
//
// A schedule is a list of choices: which call is made next, or what happens
// instead. The search goes depth first and begins every schedule anew, as the
// state of goroutines cannot be put back. Two schedules that lead to the same
// state are followed up once: a request's state is what its calls were answered,
// so the state of all is the answers of each, what the services hold, and what
// the judge has to remember. Nonces and CAS ids are renamed by the order in which
// they come up, the times of changes by their rank, and other times are told to
// the minute. A call that nobody else can notice (the beginning of a transaction,
// a put inside of it, a rollback, and what fails anyway as its service is down) is
// made as soon as it can be made. With owners a "~" behind a call says that a request
// has left it to the background. But the first call of a save is not hidden, as it
// tells when the save began. On a Database that call may have the time of the
// change in it already: there a request pauses before it saves.
//
// # Switches
//
// All pairs with an event are thousands of scenarios of up to minutes each. With
// -explore.switches=N only those schedules are run that leave a request at most N
// times though it could make another call, for a call of another one. Nothing else
// counts: to leave a request that has returned, has crashed or waits for a lock, or
// an event that is about no call. A call that is made to fail is a call of its
// request. The calls that a request makes in parallel come in every order. What it
// has left to the background, once it has returned, is as another request: for an
// asynchronous change that is where the mistakes are. Each event is tried at each
// point of these schedules.
//
// This is the bound on context switches of Musuvathi and Qadeer (PLDI 2007): most
// mistakes need few. The schedules with the fewest come first, so a state is reached
// with as many switches left as there can be, and a violation is found with as few as
// it takes. A known state is followed up again only after a call of another request,
// as it costs a switch to leave that. Of the rules of the protocol that schedules show
// (-explore.rules) ten are found without a switch once they are left out, ten with
// one, and the last with two. Of the schedules of a pair with an event about a
// twentieth have no switch, a quarter to a third at most one, and two thirds or more
// at most two.
//
// A scenario on cascadestore's store has the word cascade in its name, one on
// scsstore's the word scs, one on Sessions the word sessions, one on the protocol
// alone the word bare. On cascadestore's a request has the session's
// signed cookie, calls New, changes Values or Options or calls RegenerateID, and
// then Save, which moves the session; what Save answers as a cookie is looked at
// as well. "again" saves again after [tier.ErrNotSaved]. On Sessions and on scsstore's
// a request goes through Handler. Sessions hashes the ids; scs has an IdleTimeout, so
// that it commits at each request, and "refresh" sets a later deadline. Where sessions
// have owners an attribute says whose they are.
//
// Left out: the retry of a background save in a context of its own, as that goes
// to the service without passing here; gob in the root package and in scsstore, as
// sessions are encoded as JSON there, which is quicker; RenewToken, which is a logout
// and a login; cascadestore's
// other combinations of backends; requests with the id that RegenerateID made,
// before the request that called it has returned.
//
// # What is judged
//
// Every load on the way, every error that is reported, and at the end of every
// schedule a load, what the backup holds, what was pending once the services
// answer again, a request that touches the session, one more change, and loads
// after the cache was emptied. A change may be refused for its size only if it
// takes from the reserve, and never once it was acknowledged. After every write a
// session that lives has to be in its owner's index, and to be whose the app says; one
// that has ended is not there again. A login has another id, also to a session that is
// gone, of which it takes nothing along. And once all of Alice's have ended, none is
// left that had logged in before. What may be seen is said in
// package judge, which the other tests use, too; the scenario tells it which of
// its excuses can excuse nothing there.
package interleave
