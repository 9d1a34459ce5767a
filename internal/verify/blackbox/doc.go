// Package blackbox measures what clients of the stores see who change one
// session at the same time, and knows nothing of how they work: the stores and
// gaelocal are used through what they export, as an app uses them. There is
// nothing but tests in it.
//
//	go test ./internal/verify/blackbox -v
//	go test ./internal/verify/blackbox -v -blackbox.changes=3000 -blackbox.seed=1
//
// Five clients share a session, and each has an attribute of its own. Each makes
// one request after another, with a fresh store, as if on another instance every
// time: it loads the session, and sets its attribute to a number not used before,
// deletes it, or sets it back to 0. After ten changes each they are done, and the
// next sessions are begun; twelve sessions are changed at a time. The calls take a
// tenth of what they take on App Engine, and half of it at random, so that
// requests overlap; the test fails when they do not. A request's context is
// cancelled when it has ended, as App Engine does. In half of the runs Memcache is
// emptied every three milliseconds.
//
// As nobody else changes a client's attribute, it is known what has to be seen:
// what the last acknowledged change made of it, which is one that reported no
// error. Counted are
//
//   - wrong: attributes that in the end, when the background saves have ended,
//     are something else, from Memcache or, after it was emptied, from Datastore;
//   - stale: loads on the way that show the client's own attribute as something
//     else. Where Memcache is emptied an asynchronous change may not be seen until
//     its background save has ended; these are counted apart, as unseen;
//   - refused: changes that reported an error, also later from the background;
//   - gone: loads that found no session.
//
// All of them have to be 0, but unseen. That the clients and the judge find lost
// updates is shown with a store that saves blindly.
//
// Setting an attribute to the value it was loaded with is no change, so clients do
// not do that.
package blackbox
