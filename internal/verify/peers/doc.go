// Package peers compares the stores with those that other libraries have for
// Redis: one small app on each, the same requests to all. There is nothing but
// tests in it; it is a module of its own so that nobody else needs those libraries.
//
// Without flags the tests take a few seconds, and check that the stores lose
// nothing and bring no session back. Times are compared with -peers.rounds, on a
// machine that does nothing else:
//
//	go test -run 'Table|Silent|Operations' -peers.rounds=20 -v
//
// Requests go straight to the app's handler, without a connection, and their
// contexts can be cancelled, as those of net/http can. With -peers.http those whose
// times are compared go over connections on this machine, to a server of net/http in
// the same process, which takes most of the time then.
package peers
