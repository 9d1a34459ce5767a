// Package tiered keeps sessions in a fast cache that may forget anything at any
// time, and in a durable backup, so that requests which overlap on one session
// lose nothing. It knows bytes, names, times and a function that merges; it does
// not know what a session is, nor which services it talks to.
//
// # Words
//
// A session has attributes, and each of them has a time: when it was last
// changed. The rule of the whole protocol is:
//
//	Wherever two states of a session meet, each attribute takes the later change.
//
// It does not matter who lets two states meet, how often, or in which order. So a
// change that is tried twice applies once, a save that comes late gives way by
// itself, and nobody has to wait for anybody: there are no locks.
//
// A record is what the backup has of a session. The backup decides what is true.
// An emptied record says that the session was removed; a missing one says
// nothing.
//
// An item is what the cache has of a session. Its flags say what it is:
//
//	0  value    the session; it may be ahead of the record
//	1  lease    somebody is refilling the cache. Nobody's lease is one that no
//	            refill owns: it ends the refill whose lease it replaces, and keeps
//	            others away for as long as a refill may take
//	2  removed  there is no session any more
//
// Unsaved is what an item has and the record lacks. To refill is to put a session
// back into the cache that had lost it. To publish is to make the item contain
// what was committed to the record. To compare-and-swap is to replace an item
// only if it is still the one that was read.
//
// # Times
//
// A time is the wall clock of the instance, in microseconds. It is always later
// than every time in the state that the change was made from: so a clock that is
// behind does not make a change lose against that state. A synchronous change
// draws its time in the transaction, later than all that is in the record. Once a
// change may have been applied it keeps its time. Random low bits keep any two
// changes apart. The time of a deletion is kept for an hour.
//
// When the session was last used, and when it ends, only ever become later: a
// request that took an hour must not end a session.
//
// # The stored form
//
// Record and item have the same form: the session's bytes, and behind them a
// trailer with the times, which record.go describes. In an item the trailer also
// says what is unsaved, when to try next to save it, until when the session is
// sealed (see Take), and the backup's own token of the record.
//
// Bytes without a trailer were written by icza/gaesession or dsoprea's store. All
// their attributes, and the absence of the others, were last changed when the
// session was last used; dsoprea's store does not keep when that was, so its
// sessions are older than any other. An item without a trailer counts as unsaved
// as a whole. When a request reads an item and then the record, what is later in
// the item counts as unsaved, too: an old instance has overwritten it in the
// record.
//
// # Load
//
//	1  cache get       a value is the session; removed: there is none
//	2  backup get      after nothing, a lease, an error or a damaged item
//
// # Refill
//
// After a load that found nothing in the cache, or a damaged item:
//
//	1  cache add       a lease (a swap, in place of a damaged item)
//	2  cache get       its token; if it is not our lease, nothing is cached
//	3  backup get
//	4  cache swap      the lease for what the backup has, if it is still there
//
// # Create
//
//	1  cache add       beside
//	   backup insert
//
// If the insert fails, the item is swapped for one that is unsaved as a whole.
//
// # Update
//
//	1  backup update   apply what the loaded item had unsaved, and then the change,
//	                   to the record
//	2  publish
//
// In the update an emptied record means [ErrRemoved], and the cache gets the
// removal marker. A missing record is created if the session was never backed up
// or something of it is unsaved; otherwise it means ErrRemoved, too, but the cache
// gets no marker: somebody may be creating it.
//
// If the backup fails, the change is put into the cache's item, unsaved, and the
// error is returned. Without an item there is only the error.
//
// If the load found nothing in the cache, or a damaged item, the request first
// puts a lease there and gets it, as for a refill, and then publishes by swapping
// its lease for what it has committed.
//
// # Publish
//
//	1  cache swap      the loaded item for what was committed
//	2  cache get       after a conflict, or if the session was not loaded from the
//	                   cache: what is there now?
//	3  cache swap      in place of a value, the later of each attribute of both; in
//	                   place of a lease, nobody's lease
//	                   … again from 2 after a conflict
//
// Where there is nothing, the removal marker or nobody's lease, nothing is put:
// whoever refills next reads what was committed. What is later in the item than in
// what was committed stays unsaved. Somebody's lease is never replaced by a
// value: that could be older than what the refill has read. Nothing is ever
// deleted from the cache: that could take unsaved changes with it. A session
// that is too large for the cache leaves nobody's lease there.
//
// A publish is late if the item has something saved that is later than what was
// committed and that the request had not loaded: another request has committed
// since. An old instance may have overwritten the record before that. So a late
// publish marks nothing as saved, and what it brings is unsaved.
//
// If publishing fails, the error is returned, and publishing is tried again in the
// background.
//
// # Update, asynchronously
//
//	1  cache swap      the loaded item for one with the change in it, unsaved, and
//	                   with what the loaded one had unsaved; after a conflict: get,
//	                   apply to what is there, swap
//
// Then, in the background, all that is unsaved in that item is saved as by Update.
// Where the cache has no value, or a sealed one, it is Update from the beginning.
//
// # Settle
//
// A request that has nothing to change refills, or saves what has been unsaved
// for more than three seconds: the request that was to save it has died. First it
// swaps the time of the next attempt into the item, and saves only if that
// succeeds; the time between attempts doubles, up to a minute. So an outage of the
// backup does not make every read a failing update.
//
// # Remove
//
//	1  cache set       the removal marker, beside
//	   backup put      the emptied record
//	2  cache set       the removal marker again: it ends a refill that has read the
//	                   record before
//
// The emptied record stays for 24 hours, the longest that a request may run, or an
// hour longer than the session would have lived, if that is longer: by then an
// item that a failed call has left is gone, too.
//
// # Take
//
// For a session that moves to another id:
//
//	1  cache swap      the item for the same, sealed: from now on asynchronous
//	                   changes are made as synchronous ones. Where there is no
//	                   value: nobody's lease
//	2  backup update   apply what the item has unsaved, and the change; keep that,
//	                   and empty the record
//	3  cache set       the removal marker
//
// # Together
//
// Requests of one process that change one session at the same time take turns:
// one is at work, and the first of those that wait then does what all of them
// want, in one update.
//
// # Without a backup, without a cache
//
// Without a backup, Create adds, Update swaps and Remove sets the marker. Without
// a cache, only the backup's steps are left.
//
// # Where the promise ends
//
//   - A call that reported a failed publish may leave the older value in the cache
//     until the next change. If the call deleted an attribute, and the next change
//     comes more than an hour later, the attribute may stay until the item ends.
//   - A request whose cache get fails sees what the backup has.
//   - A removal that returned an error may show the session until its item ends.
//   - A put or set that a service applies after it has reported failure may undo
//     what came between.
//   - Nobody may use an id before its creation has returned.
//   - A request that dies inside Take ends the session.
//   - A session that was unsaved for longer than it lives may lose its record to a
//     purge at the moment it is saved or removed. It lives in the cache until its
//     next change, which ends it, with ErrRemoved.
//   - Old instances may overwrite changes that overlap theirs. What they have
//     overwritten in the record lives in the cache alone until the next change
//     saves it again. Those of dsoprea's store do not say when: a request that had
//     loaded the session before may then overwrite what the old one has written,
//     with what it had loaded.
//   - A request that is older than 24 hours may revive a removed session.
//   - An asynchronous change is lost if the cache loses it and the instance dies
//     before its background save has ended.
//   - The clocks of two instances decide which of two changes of one attribute is
//     the later, if the first was in the cache alone and the second could not see
//     it there: it had loaded the session before, or the cache was emptied. They
//     also decide if the second had loaded the session before, and is tried again
//     because a call failed that may have had its effect.
//   - A session that ended more than half a minute ago is not saved any more,
//     unless something of it was unsaved: a purge may be deleting the record.
//   - Without a backup, a removal is final for as long as the cache keeps the
//     marker, 24 hours at most.
package tiered
