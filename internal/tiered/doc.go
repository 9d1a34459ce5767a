// Package tiered keeps sessions in a fast cache that may forget anything at any
// time, and in a durable backup, so that requests which overlap on one session
// lose nothing. It knows bytes, expiry times and a function that merges; it
// does not know what a session is, nor which services it talks to.
//
// The backup decides what is true. The cache never lies: what it shows as a
// value is what the backup holds, or is marked as ahead of it.
//
// # The cache's items
//
// An item's flags say what it is:
//
//	0  value    in step with the backup
//	1  lock     a nonce, and the value it took the place of; somebody is
//	            changing or refilling
//	2  removed  there is no session any more
//	3  ahead    a value the backup does not have yet, the backup's value it
//	            derives from (its base), and the nonces of the background
//	            saves it contains; only the latest can be missing in the base
//	4  settled  a value in step with the backup, and the nonces of the latest
//	            background saves it contains
//
// An empty record in the backup says that the session was removed. It needs no
// cache to be final, and it tells "removed" from "not saved yet".
//
// # Load
//
// Cache get. A value or ahead item is the session; removed means there is none.
// With anything else, or an error, the backup is asked: no record, an empty one
// or one past its expiry means there is none. When the backup fails and a lock
// holds the value it took the place of, that value is the session: whoever owns
// the lock has not reported success. When a lock holds an item that is ahead,
// that is the session, and the backup is not asked, which would not know it yet.
//
// # Refill
//
// After a load that found nothing in the cache: add a lock, read the backup,
// get the lock back, compare-and-swap it for what was read. Whoever changes or
// removes the session meanwhile breaks the lock, and nothing is cached.
//
// # Create
//
// Cache set and backup put, side by side. If the put fails, the cache's item is
// set again as ahead, with an empty base.
//
// # Update
//
//  1. Compare-and-swap a lock for the item the session was loaded from (add it,
//     when it was loaded from the backup), and get it back for its token. Where
//     others were faster, the change is first rebased on what they put there;
//     but not one that was made from the backup on a value that stands on the
//     backup alone: a lock may hold a value older than what the backup showed,
//     and a change that puts an attribute back to what it was there (deletes
//     it, say) would vanish.
//     This goes on beside the beginning of the transaction.
//  2. Transaction on the backup: read; an empty record: ErrRemoved; none:
//     ErrRemoved, unless the base is empty, or the lock took the place of an
//     item that is ahead: that has outlived its record, which was purged. Other
//     than the base: merge; write; commit. Contention is retried with jittered
//     exponential backoff.
//     A record that expired half a minute ago or more, of a session the cache
//     does not have, is emptied, and the answer is ErrRemoved. Otherwise a purge
//     that has found the record might take the change with it, as it deletes
//     without looking again; it leaves a record alone for longer than a
//     transaction can take.
//  3. Compare-and-swap the lock for what was committed. If the lock is no longer
//     ours: delete the item.
//
// If the backup fails, the lock is swapped for the change marked as ahead, and
// the error is returned. This is done only where the lock took the place of a
// value: then nothing that others saved can be missing in it. If the change is
// refused (removed, too large), the lock is swapped for the removal marker, or
// for what it took the place of.
//
// # Update, asynchronously
//
// Compare-and-swap the change, marked as ahead, for the item the session was
// loaded from, rebasing as above. It names its own save and those that the item
// names. Then, in a goroutine, the transaction of step 2. In it, after the read,
// the cache is asked again. An item that names this save and is settled, or names
// a later one, says that the backup has it: nothing is left to do. A lock that
// holds it is waited for, as its owner saves it. When the item is gone, the
// backup may have this save already and what others made of it, so what the
// backup has wins where both changed the same. After the commit the item is
// swapped for what was committed if it is still the one this save put. A lock
// that holds it is left to its owner; anything else may stand on what the backup
// held before, and is swapped for a lock of one second.
//
// Where there is no item to build on, or it is ahead itself, the synchronous way
// is taken: what is ahead may reach the backup at any time, and without knowing
// whether it has, a change that undoes it could not be told from none. For the
// same reason a change waits up to two seconds for the owner of a lock that holds
// an item which is ahead.
//
// # Remove
//
// The backup's record is emptied beside a set of the removal marker; then the
// marker is set once more, which ends any refill that read the backup before.
//
// # Take
//
// An Update that leaves nothing behind, for a session that moves to another id:
// the lock, a transaction that empties the record and keeps what was in it,
// merged with the change, and a set of the removal marker. So no change that
// others saved falls between a load and the removal. If its request dies after
// the commit, the cache may show a change that overlapped; whoever goes on from
// that gets ErrRemoved.
//
// # Merge
//
// Always of three: what the change was made from, the change, and what is there
// now. Against the cache's item the first is the value that was loaded; against
// the backup's record it is the base. So an item that is ahead carries its base.
// A change made from an item that is ahead is two: first the difference between
// base and item, as far as the backup has nothing newer, then the change.
//
// The change is kept as it was made, and applied last to whatever is there. What
// it was rebased on may have done the same and be gone by then; taken for the
// difference to that, the change would be none.
//
// # Without a backup
//
// No locks: Create is a set, Update a loop of compare-and-swap and merge, Remove
// a set of the removal marker.
//
// # Where the promise ends
//
//   - A change whose request died before Update returned may or may not be seen,
//     and, when it overlapped another, may be seen only after the next change.
//   - A cache that fails the calls of one change and answers others may show
//     them the value before it until the next change. The change reports this.
//   - Create takes for granted that nobody uses the id before it returns.
//   - A lock put over an item that is ahead holds its value, but an owner that
//     dies there takes a change with it that no backup had, one minute later.
//   - Background saves that overlap on one part of a session are put in order
//     by the cache; when it was emptied in between, could not be asked, the item
//     was deleted because changes broke each other's locks, or a lock lasted
//     longer than such a save waits for it (3 s), either may win. Then a late
//     save may also undo a change that put something back to what it was before
//     the save: the backup does not tell "not changed" from "changed back".
//     After failed calls a synchronous change that was made from an item ahead
//     of the backup may do the same.
//   - A session that was ahead until its record had expired, as the backup was
//     down or a background save had died, may be deleted from the backup by a
//     purge at the moment it is saved there at last. The cache has it then.
//   - Without a backup a removal is final for as long as the cache keeps the
//     marker, 24 h at most.
package tiered
