// Package live keeps one request's copies of sessions: what the request has
// loaded, what it has changed since, and what became of that. It is the floor
// between the protocol (package tiered), which knows bytes, names and times, and
// the adapters, which know an ecosystem's sessions and cookies. It does not know
// HTTP.
//
// # The states of a session
//
// An identity is a session as one request knows it: its id and its state.
//
//	unopened  nobody has looked for it yet
//	none      there is no session
//	fresh     the request made it; no service can have it
//	stored    the services have it, or may have it
//	removing  the request removed it, and the services failed
//	removed   the request removed it
//	ended     somebody else removed it, or its time is over
//
// A Copy is what one session value of the app was when it was loaded or saved
// last. Several copies may share one identity. Where it could not be told whether
// there is a session, or where this instance cannot read it, the copy has an
// error instead, and can be removed but not saved.
//
// # What a save is
//
// Save compares the session with what it was, deeply, since apps change values in
// place. What counts is what is stored: the form may not keep all of a value. So
// a changed session is encoded, decoded and compared again.
//
//	fresh                          create
//	a new id was drawn             move
//	something changed, or is due   update
//	nothing                        settle: refill the cache, save what is unsaved
//
// A save that was surely not made is made anew by the next one. One that may have
// been made keeps its time: the next Save tries the same change again, which
// applies once.
package live
