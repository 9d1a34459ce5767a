// Package tiered keeps sessions in a fast cache that may forget anything at any
// time, and in a durable backup, so that requests which overlap on one session
// lose nothing. It works on bytes, names and times, and asks its caller's Form
// what the bytes mean. It knows neither sessions nor the services.
//
// # Words
//
// A session has attributes, and each attribute has a stamp that orders its
// changes. The rule of the whole protocol is:
//
//	Wherever two states of a session meet, each attribute takes the later change.
//
// It does not matter who lets two states meet, how often, or in which order. So a
// change that is tried twice applies once, a save that comes late gives way by
// itself, and no request waits for another: there are no locks.
//
// A record is what the backup has of a session. The backup decides what is true.
// An emptied record says that the session was removed; a missing one says
// nothing. The token of a record names its version.
//
// An item is what the cache has of a session. Its flags say what it is:
//
//	0  value    the session; it may be ahead of the record
//	1  lease    a refill is under way. An orphan lease belongs to no refill: it
//	            ends the refill whose lease it replaces, and blocks new refills
//	            until it expires
//	2  removed  the removal marker: there is no session any more
//
// Unsaved is what an item has and the record lacks. To refill is to put a session
// back into the cache after the cache has lost it. To publish is to make the item
// contain what was committed to the record. To compare-and-swap is to replace an
// item only if it is still the one that was read.
//
// # Stamps and times
//
// A stamp is the wall clock of the instance, in microseconds, but always later
// than every stamp in the state that the change was made from: a clock that is
// behind does not make a change lose against that state. A synchronous change
// draws its stamp in the transaction, later than all that is in the record. Once a
// change may have been applied it keeps its stamp. Random low bits keep any two
// changes apart. After the last stamp, in 2112, a change is refused.
//
// Stamps order, and nothing else. Clocks may be wrong by any amount, so no
// decision about passing time rests on a stamp:
//
//   - When the session was last used, and when it ends, only ever become later: a
//     request that took an hour must not end a session. A stored use, or beginning,
//     that lies more than an hour ahead is that of a wrong clock: whoever reads it
//     replaces it by its own time, and the end by as much, and the next save writes
//     that, and lists the session of an owner again.
//   - A tombstone, the stamp of a deletion, is forgotten by the second sweep that
//     sees it. Sweeps are an hour apart. A sweep that seems to have been in the
//     future makes the hour begin again.
//   - An item says when the next attempt to save it is due, and how often that was
//     tried. A time that is further away than the interval between attempts is
//     due now.
//
// # Names and keys
//
// A name is the first half of SHA-256 of what the adapter calls an attribute, so
// nobody can make two attributes collide. A stored session also has that hash of
// its id. Bytes that were stored under another id are refused before anything in
// them is decoded.
//
// # The stored form
//
// Record and item have the same form: the session's bytes, followed by a trailer,
// which trailer.go describes. In an item the trailer also says what is unsaved,
// when to try next to save it, who has sealed it (see Move), and the token of the
// latest record that it contains.
//
// Bytes without a trailer were written by icza/gaesession or dsoprea's store. All
// their attributes, and the absence of the others, were last changed when the
// session was last used; dsoprea's store does not keep when that was, so its
// sessions are older than any other. An item without a trailer counts as unsaved
// as a whole, but only a change saves it in a backup that has no record: anybody's
// bytes may lie under the id. When a request reads an item and then the record,
// what is later in the item counts as unsaved, too: an old instance has
// overwritten it in the record.
//
// # Nothing unsaved is dropped
//
// What an item has unsaved is nowhere else. Whoever replaces an item either puts a
// value there that contains all of it, or has committed it before, or ends the
// session. If the commit fails, the item stays, and the publish has failed. An
// item that this instance cannot decode stays as well: another one may be able to.
//
// # Sizes
//
// A session that lives in the cache alone has at most half of the reserve, which
// is 128 KiB or an eighth of a record. Larger ones are saved synchronously, and are
// not kept while the backup is down. A change leaves the reserve free in the
// record: whoever makes a session larger than that gets [tier.ErrTooLarge] before
// anything is written. What others have unsaved does not count against it, and
// neither does a session that is not larger than it was. So whatever was
// acknowledged fits the record.
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
//	1  cache add       in parallel
//	   backup insert
//
// If the insert fails, the item is swapped for one that is unsaved as a whole. If
// the backup has a record under the id, an orphan lease replaces the item.
//
// # Update
//
//	1  backup update   apply what the loaded item had unsaved, and then the change,
//	                   to the record
//	2  publish
//
// If the token of the record is known, the update begins with a guess: "if the
// record is still that one, write this". If the guess would be refused, there is
// none. Every retry goes without.
//
// In the update an emptied record means [tier.ErrRemoved], and the cache gets the
// removal marker. A missing record is created if the session was never backed up
// or something of it is unsaved; otherwise it means ErrRemoved, too, but the cache
// gets no marker: somebody may be creating it.
//
// If the backup fails, the change is put into the cache's item, unsaved:
// [tier.ErrNotBackedUp]. Without an item that takes it the change is nowhere, or
// nobody can tell: [tier.ErrNotSaved].
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
//	                   place of a lease, an orphan lease
//	                   … again from 2 after a conflict
//
// Where there is nothing, the removal marker or an orphan lease, nothing is put:
// whoever refills next reads what was committed. What is later in the item than in
// what was committed stays unsaved. A refill's lease is never replaced by a value:
// that could be older than what the refill has read. Nothing is ever deleted from
// the cache. A session that is too large for the cache leaves an orphan lease
// there, once nothing of the item is unsaved.
//
// A publish is late if the item has something saved that is later than what was
// committed and that the request had not loaded: another request has committed
// since. An old instance may have overwritten the record before that. So a late
// publish marks nothing as saved, and what it brings is unsaved.
//
// # Update, asynchronously
//
//	1  cache swap      the loaded item for one with the change in it, unsaved, and
//	                   with what the loaded one had unsaved; after a conflict: get,
//	                   apply to what is there, swap
//
// Then, in the background, all that is unsaved in that item is saved as by Update.
// Where the cache has no value, or a sealed one, it is Update from the beginning.
// 16 background saves are under way in a process and 1,000 wait; where there is no
// place for more, the request saves by itself.
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
//	1  cache set       the removal marker, in parallel
//	   backup put      the emptied record
//	2  cache set       the removal marker again: it ends a refill that has read the
//	                   record before
//
// A removal ends what it has begun, also when its request has ended. The emptied
// record stays for 24 hours, the longest that a request may run, or an hour longer
// than the session would have lived, if that is longer: by then an item that a
// failed call has left is gone, too.
//
// # Move
//
// A session gets a new id. Until step 2 nothing has changed for anybody.
//
//	1  cache swap      the old item for the same, sealed: from now on asynchronous
//	                   changes are made as synchronous ones. Where there is no
//	                   value: an orphan lease
//	   cache add       a lease under the new id, in parallel
//	2  backup update   in one step: empty the old record, and put the new one with
//	                   what the record, the item's unsaved part and the change say
//	   cache get       the lease's token, in parallel
//	3  cache set       the removal marker for the old id
//	   cache swap      the lease for the session
//
// A seal is its owner's nonce and has no time. A move that is given up ends its own
// seal, but not one that it has put in place of another move's, which may still be
// under way. A seal that is left behind makes asynchronous changes synchronous until
// the item goes, and nothing else.
//
// Nobody else can put a record under the new id. So after a lost answer a move is
// recognised by reading that record. While it is not known the old id is the one to
// keep, and another attempt asks first. If none comes before the request has ended,
// the background empties the record of the new id, which nobody knows: a commit
// that takes effect later would have to replace that record, and is refused. With
// the backup down a session does not move, and nothing is kept under the old id.
//
// Without a backup the new item is added first, and then the marker replaces the
// version of the old one that the new one contains.
//
// # Owners
//
// A session may have an owner, in its trailer. An owner's index is a record of the
// backup that lists the owner's sessions; nobody caches it. It changes in the same
// update as the sessions' records, so a session that has an owner is in the owner's
// index, and a read costs nothing more.
//
//	log in      a session of nobody's moves, and one of another owner's. A new one
//	            begins like a move that has no old id. The update lists the session
//	move        the update also lists the new id, and says that the old one is
//	            ending. It is refused if that is ending already
//	end all     1  backup update  all that the index has are ending
//	            2  remove         each of them, 16 at once
//	            3  backup update  they are listed no more
//	log out     remove; in the background, backup update: it is listed no more
//
// Why no session survives: whatever is listed before step 1 is removed, or moves
// before step 1, and then the index has the new id, or after it, and is refused. If
// End dies after step 1, its sessions are removed by the next End, by a login, in the
// background of a listing, and one by one where they are to move. So an old id stays
// listed, as ending, until one of these has removed it once more: the request that has
// moved the session may not have told the cache yet.
//
// A session is listed until a time. A save that makes it live for longer than that
// changes the index in the same update, and lists it for twice as long as it lives;
// the trailer says until when. So an index outlives what it lists, by a day. As a
// record that has expired may be listed in again, a purge deletes an index in a
// transaction, if it is still expired.
//
// # Together
//
// Requests of one process that change one session at the same time take turns:
// one is at work, and what those want that wait is then done in one update. A
// request whose context ends waits for a second at most; the update goes on.
//
// # In time
//
// calls.go alone decides how long a call may take and whether it is made. An
// operation on the cache has CacheTimeout, and half of the request's time at most;
// an attempt at one on the backup has BackupTimeout. What took too long is not
// tried again. After its first timeout a request does not call the cache for a
// minute, which is longer than most requests last.
// Three timeouts or failed connections in a row open the cache's breaker: then no
// request of the process calls it, until a probe is answered.
//
// What a skipped or failed call should have told the cache is pending: this process
// tells it in the background for as long as it lives, 10,000 sessions at most,
// removals before publications. It does so in rounds, a second apart while services
// fail; a round ends early after three failures in a row, so that services which
// are down are not asked for every session. Why that breaks no promise:
//
//   - A publish that was skipped leaves an older item to other instances, and the
//     request has said so (ErrNotPublished). This instance reads item and record
//     while something is pending, and joins them.
//   - A refill cannot put an older record over a newer item: it swaps its own
//     lease, which whoever commits and reaches the cache has ended, and what a
//     refill reads after an unpublished commit contains that commit.
//   - A pending publication reads the item first and the record after it, so what
//     it brings is not older than the item says is saved; and it swaps that item.
//   - A swap whose outcome is not known takes effect late only where the item is
//     still the one it was to replace.
//   - A late removal marker meets a session that has ended for good.
//   - A late lease ends by itself. A late add of a new session counts as a failed
//     publication, which then makes the item contain the record.
//   - While a removal is pending, no load of this process shows the session.
//
// # Without a backup, without a cache
//
// Without a backup, Create adds, Update swaps and Remove sets the marker. Without
// a cache, only the backup's steps are left.
//
// # Where the promise ends
//
//   - A call that reported ErrNotPublished may leave the older value in the cache
//     until the process has told it; if the process dies before, until the next
//     change. If the call deleted an attribute, and the next change comes more than
//     an hour later, the attribute may stay until the item ends.
//   - A request whose cache get fails sees what the backup has. With the breaker
//     open it does not see asynchronous changes of other instances.
//   - A removal that returned an error may show the session until the services are
//     told; if the process dies before, until its item ends.
//   - A put or set that a service applies after it has reported failure may undo
//     what came between.
//   - Nobody may use an id before its creation has returned.
//   - A request that dies after the commit of a move leaves a session that nobody
//     knows, and an old item that is read until its next refresh. A session that has
//     moved though its request could not know it is removed.
//   - A session of an owner which an instance without owners has created, or which
//     began before the app said whose sessions are, is listed once it is saved.
//   - If the cache does not answer, a move goes on; an asynchronous change that was
//     acknowledged at that moment may be lost.
//   - A session that was unsaved for longer than it lives may lose its record to a
//     purge at the moment it is saved or removed. It lives in the cache until its
//     next change, which ends it, with ErrRemoved.
//   - Old instances may overwrite changes that overlap theirs. What they have
//     overwritten in the record lives in the cache alone until the next change
//     saves it again. An attribute that they delete may come back, if a new
//     instance has set it before and has not published that yet. Those of dsoprea's store do not say when: a request that had
//     loaded the session before may then overwrite what the old one has written,
//     with what it had loaded. Old instances know no reserve.
//   - An instance of an older version of the app drops what its types do not have
//     from the values that it saves, also from those that it has not changed.
//   - A request that is older than 24 hours may revive a removed session.
//   - An asynchronous change is lost if the cache loses it and the instance dies
//     before its background save has ended. After two losses of the cache in a row
//     with asynchronous changes in flight one of them may be too large for the
//     record; so may a merge by a Form that compresses.
//   - The clocks of two instances decide which of two changes of one attribute is
//     the later, if the first was in the cache alone and the second could not see
//     it there: it had loaded the session before, the cache was emptied, or its
//     cache get failed. They also decide if the second had loaded the session
//     before, and is tried again because a call failed that may have had its
//     effect.
//   - Two clocks that are ahead by different amounts, more than an hour each, may
//     forget a deletion early.
//   - A session that ended more than half a minute ago is not saved any more,
//     unless something of it was unsaved: a purge may be deleting the record.
//   - Without a backup, a removal is final for as long as the cache keeps the
//     marker, 24 hours at most.
package tiered
