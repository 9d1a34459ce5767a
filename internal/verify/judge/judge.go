// Package judge says whether what was seen of a session keeps the promises of
// the design. It is the one judge of the explorer, its random walks, the
// linearizability tests and the soak: they note what every request did and when,
// and ask it about every load. Only tests may import it.
//
// A change has to be there, or a later one of the same attribute, once it is
// saved: P1 and P3, and P4 when the cache is lost. Of one that is not saved either
// may be seen: P6. Nobody sees a session once its removal is acknowledged: P2. And
// a session that was saved is there until somebody begins to remove it, or it
// was not used for its timeout.
//
// What is not expected of a load is excused by one sentence of the design each:
// these are the constants of type Sentence, and there is no other excuse. Each has
// a condition without which it excuses nothing (see may), a test can forbid it
// (Session.Never), and Excuses says which a load needs.
package judge

import (
	"fmt"
	"slices"
	"time"
)

// A Sentence of the design excuses something.
type Sentence string

const (
	// Saved says which changes count: a request that died, or reported an error,
	// has saved nothing.
	Saved Sentence = "The words saved, removed and loaded mean that the call returned and reported no error."

	// Unsaved excuses an asynchronous change that is in the cache alone: until its
	// background save has ended it may be out of sight, and it may be lost for good
	// if that was the end of its instance.
	Unsaved Sentence = "It can be lost only if the cache loses it and the instance dies before its background save has ended."

	// Down is Unsaved for a change whose save the backup has refused.
	Down Sentence = "Sessions go on living in the cache, the error is reported, and the next save of the session brings the backup up to date."

	// Clocks excuses the order of two changes where the second could not see the
	// first, which was in the cache alone: the cache was emptied between them, the
	// session was loaded for the second before, or its load could not ask the cache.
	// Or the second was loaded before and is tried again with its first time. And the
	// time of the first may be ahead of the clock of the second.
	Clocks Sentence = "The clocks of two instances decide which of two changes of one attribute is the later, if the first was in the cache alone and the second could not see it there."

	// FailedPublish excuses the order of two changes where the second was made
	// from what the first had left in the cache.
	FailedPublish Sentence = "a call that reported a failed publish may leave the older value in the cache until the next change"

	// OnlyCache excuses everything without a backup once the cache was lost.
	OnlyCache Sentence = "OnlyMemcache: P4 and P5 do not apply, P2 holds while the cache keeps the removal marker."

	// Blind excuses that a load misses what is in the cache alone, and that a
	// request does not take that along to another id.
	Blind Sentence = "a request whose cache get fails sees what the backup has"

	// Moving excuses that there is no session under the id it was to have, nor
	// under the one that it had.
	Moving Sentence = "A session whose move was committed, and whose answer never reached the client, is lost with what was in it."

	// FailedLogout excuses that a session is seen whose record is emptied.
	FailedLogout Sentence = "a logout that returned an error may show the session until its item ends"

	// Overdue excuses a session that was unsaved for as long as it lives.
	Overdue Sentence = "a session that was unsaved for longer than it lives may lose its record to a purge at the moment it is saved, and lives in the cache until the next change"

	// Timeless excuses that what an old instance had loaded and wrote back gives
	// way to what the backup has, and to what a request in flight had loaded
	// before.
	Timeless Sentence = "dsoprea's sessions carry no time: theirs is older than any"

	// Old excuses what an instance of the library before this one overwrote. Two
	// requests overlap, too, if one looks as if by its clock.
	Old Sentence = "old instances may overwrite changes that overlap them, and what they overwrote lives in the cache alone until the next change"
)

// excuses are all sentences that excuse something, the most special first.
var excuses = []Sentence{Timeless, Old, Overdue, Moving, FailedLogout, FailedPublish, Clocks, Blind, Down, Unsaved, OnlyCache}

// A Time is a position in the order of what happened. Zero: not yet.
type Time int64

// Never is later than everything.
const Never Time = 1<<63 - 1

// within reports whether t has come, not later than at.
func (t Time) within(at Time) bool { return t != 0 && t <= at }

// A Request is what one request did to the session.
type Request struct {
	// Sets are the attributes it changes; empty: it deletes the attribute.
	Sets map[string]string

	Creates bool
	Removes bool
	Moves   bool // gives it another id; Sets are what it has there
	EndsAll bool // it ends all sessions of an owner
	Spares  bool // but the one that it is about
	Async   bool // it counts as saved when it is in the cache
	Old     bool // it is one of the library before this one
	Saves   bool // it wrote something, if only when the session was used
	Skew    time.Duration

	Began  Time // to load
	Saving Time // began to save, or to remove
	Closed Time // returned
	Ended  Time // its background work has ended, too

	Failed bool // it reported an error when it returned
	Late   bool // it reported an error from the background
	Gone   bool // it found no session, or did not learn of one

	// Unpublished: it reported an error, as the cache did not know of its change,
	// and the cache was told later.
	Unpublished bool
	// Kept: the backup refused the change, which then was put into the cache.
	Kept bool
	// CacheOK: no call to the cache failed that was made for it.
	CacheOK bool
	// Blind: the backup alone answered its load, as its cache get had failed.
	Blind bool
	// Retried: a call to save failed, so that the change keeps the time it had.
	Retried bool
	// Moved is when the backup has made a move: until then the session is under
	// the id that it had.
	Moved Time
	// Died is when its instance was killed: from then on it makes no call.
	Died Time

	Used   time.Time // when it used the session, if it did
	Latest time.Time // not later than that
}

// A Session is its history, and what it was at first.
type Session struct {
	Requests []*Request
	Losses   []Loss
	Timeout  time.Duration

	// Slack is how long after Timeout it may still be there.
	Slack time.Duration

	OnlyCache bool
	Timeless  bool // the library before this one does not say when the session was used
	Overdue   bool // it was unsaved for longer than it lives, and a purge is at work

	// Never are sentences that may excuse nothing here.
	Never []Sentence
}

// A Loss is the time in which the cache loses the session: somebody makes it do
// so, at some moment from Began to Ended.
type Loss struct{ Began, Ended Time }

// LossAt is a loss at a moment that is known.
func LossAt(at Time) Loss { return Loss{at, at} }

// A Load is what somebody has seen of the session.
type Load struct {
	Began, Ended Time
	Since, Wall  time.Time // the same by the clock
	None         bool      // no session
	Attrs        map[string]string
	Blind        bool // only the backup was asked
}

// Check returns what is wrong with what a load has seen.
func (s *Session) Check(l Load) error {
	if l.None {
		if by := s.owed(l); by != nil {
			return fmt.Errorf("P1: no session, and nobody has removed it")
		}
		return nil
	}
	if r := s.removedBy(l); r != nil {
		return fmt.Errorf("P2: a session that was removed before: %v", l.Attrs)
	}
	if s.isOver(l) {
		return fmt.Errorf("a session that has ended: %v", l.Attrs)
	}
	for _, name := range s.names(l) {
		if err := s.attribute(name, l.Attrs[name], l); err != nil {
			return err
		}
	}
	return nil
}

// Excuses returns the sentences that a load needs so that Check finds nothing
// wrong with it: without any one of them it would.
func (s *Session) Excuses(l Load) (needed []Sentence) {
	strict := *s
	if strict.Never = excuses; strict.Check(l) == nil {
		return nil
	}
	strict.Never = slices.Clone(s.Never)
	for _, by := range excuses {
		if slices.Contains(s.Never, by) {
			continue
		}
		strict.Never = append(strict.Never, by)
		if strict.Check(l) != nil {
			strict.Never = strict.Never[:len(strict.Never)-1]
			needed = append(needed, by)
		}
	}
	return needed
}

// may reports whether a sentence can excuse anything in this history.
func (s *Session) may(by Sentence) bool {
	if slices.Contains(s.Never, by) {
		return false
	}
	any := func(f func(r *Request) bool) bool { return slices.ContainsFunc(s.Requests, f) }
	switch by {
	case Unsaved:
		return any(func(r *Request) bool { return r.Async })
	case Down:
		return any(func(r *Request) bool { return r.Kept || r.Late })
	case Clocks:
		return any(func(r *Request) bool { return r.Skew != s.Requests[0].Skew })
	case FailedPublish:
		return any((*Request).hasFailedPublish)
	case OnlyCache:
		return s.OnlyCache
	case FailedLogout:
		return any(func(r *Request) bool { return (r.Removes || r.Moves) && r.Failed })
	case Moving:
		return any(func(r *Request) bool { return r.Moves && (r.Failed || r.Closed == 0) })
	case Overdue:
		return s.Overdue
	case Timeless:
		return s.Timeless && any(func(r *Request) bool { return r.Old && !r.Gone })
	case Old:
		return any(func(r *Request) bool { return r.Old && !r.Gone })
	}
	return true
}

// hasFailedPublish reports whether others may not have seen in the cache what the
// backup has of r.
func (r *Request) hasFailedPublish() bool {
	return (r.Failed || r.Unpublished) && !r.Kept && !r.CacheOK
}

// names are all that an attribute may have.
func (s *Session) names(l Load) []string {
	seen := map[string]bool{}
	for name := range l.Attrs {
		seen[name] = true
	}
	for _, r := range s.Requests {
		for name := range r.Sets {
			seen[name] = true
		}
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// attribute returns what is wrong with one attribute: a value that nobody gave
// it, or that a later change had overwritten before.
func (s *Session) attribute(name, got string, l Load) error {
	var must []*Request // one of them, or a later one
	var from []*Request // who may have set it to that
	for _, r := range s.Requests {
		to, changes := r.Sets[name]
		if !changes || r.Saving == 0 || r.Moves {
			continue
		}
		if s.has(r, l) && s.lasts(r, l) {
			must = append(must, r)
		}
		if to == got && r.Saving <= l.Ended {
			from = append(from, r)
		}
	}
	overwritten := func(w *Request) bool {
		return slices.ContainsFunc(must, func(r *Request) bool { return r != w && s.precedes(w, r, l) })
	}
	for _, w := range from {
		if !overwritten(w) {
			return nil
		}
	}
	if got == "" && len(must) == 0 {
		return nil // nothing at first
	}
	return fmt.Errorf("P1, P3: attribute %s is %q, of %d changes that it may be of, and %d were saved", name, got, len(from), len(must))
}

// lasts reports whether the session was used again and again since r used it:
// without that nobody has to keep it for longer than the timeout.
func (s *Session) lasts(r *Request, l Load) bool {
	until := r.Used.Add(s.Timeout)
	for extended := true; extended && !l.Wall.Before(until); {
		extended = false
		for _, q := range s.Requests {
			if end := q.Used.Add(s.Timeout); q.Used.Before(until) && end.After(until) && s.has(q, l) {
				until, extended = end, true
			}
		}
	}
	return l.Wall.Before(until)
}

// has reports whether the load has to see what r did.
func (s *Session) has(r *Request, l Load) bool {
	switch {
	case r.Saving == 0 || r.Closed == 0 || r.Closed >= l.Began || r.Gone || r.Failed && !r.Kept: // Saved
		return false
	case s.may(Old) && s.overwritten(r, l):
		return false
	case s.may(Timeless) && s.gaveWay(r, l):
		return false
	case s.may(OnlyCache) && s.lostSince(r.Saving, l.Ended):
		return false
	case s.may(Overdue) && (l.Blind || s.lostSince(0, l.Ended)):
		return false
	case !s.isAlone(r, l.Began, l):
		return true
	}
	lost := Unsaved
	if r.Failed || r.Late {
		lost = Down
	}
	return !(l.Blind && s.may(Blind)) &&
		!(s.may(lost) && s.lostSince(r.kept(), l.Ended)) &&
		!s.isRewritten(r, l)
}

// kept is from when on r's change is in the cache, if the backup lacks it: what
// the cache loses before its request has nowhere to keep it.
func (r *Request) kept() Time {
	if r.Failed {
		return r.Began
	}
	return r.Saving
}

// isAlone reports whether the backup may lack what r did: until its own save of
// it has ended, or the next save of the session by a request that has loaded it.
func (s *Session) isAlone(r *Request, at Time, l Load) bool {
	if !r.Failed && !r.Late && (!r.Async || r.Ended != 0 && r.Ended < at) {
		return false
	}
	return !slices.ContainsFunc(s.Requests, func(q *Request) bool {
		end := q.Closed
		if q.Async {
			end = q.Ended
		}
		return q.Began > r.Closed && end != 0 && end < at && q.Saves && q.CacheOK &&
			!q.Removes && !q.Moves && !q.Failed && !q.Late && !q.Gone && !q.Old && !s.lostSince(r.kept(), end) &&
			!s.isRewritten(r, l) && !(s.may(Old) && s.overwritten(q, l))
	})
}

// lostSince reports whether the cache may have lost the session between the two.
func (s *Session) lostSince(since, until Time) bool {
	return slices.ContainsFunc(s.Losses, func(l Loss) bool { return since <= l.Ended && l.Began <= until })
}

// precedes reports whether b's change is later than a's for certain.
func (s *Session) precedes(a, b *Request, l Load) bool {
	switch {
	case a.Closed == 0 || b.Saving == 0 || a.Closed >= b.Saving:
		return false
	case (a.Old || b.Old) && s.overlap(a, b) && s.may(Old):
		return false
	case a.hasFailedPublish() && (a.Closed >= b.Began || s.lead(a, b) > 0) && s.may(FailedPublish):
		return false // b was made from the item that a had left
	case s.lead(a, b) <= 0:
		return true
	case b.Retried && a.Closed >= b.Began && s.may(Clocks):
		return false // b was made before it was tried again, without seeing a
	case !s.isAlone(a, b.Saving, l):
		return true
	}
	until := b.Closed
	if a.Ended != 0 && !a.Failed && !a.Late {
		until = min(until, a.Ended)
	}
	return !(s.may(Clocks) && (a.Closed >= b.Began || b.Blind || s.lostSince(a.Saving, until))) &&
		!s.isRewritten(a, l)
}

// lead is how far the time of a's change may be ahead of b's clock. A change is
// later than what it has seen, so it may have its time from another one's clock.
func (s *Session) lead(a, b *Request) time.Duration {
	ahead := a.Skew
	for _, q := range s.Requests {
		if q.Saving.within(a.Closed) {
			ahead = max(ahead, q.Skew)
		}
	}
	return ahead - b.Skew
}

// overwritten reports whether an old instance may have overwritten what r did, or
// r is one and a request that overlaps has saved the session.
func (s *Session) overwritten(r *Request, l Load) bool {
	return slices.ContainsFunc(s.Requests, func(o *Request) bool {
		// One of this library may have saved something when it loaded.
		wrote := o.Old && o.Saving.within(l.Ended) || r.Old && !o.Old && o.Began.within(l.Ended)
		return wrote && o != r && !o.Gone && s.overlap(o, r)
	})
}

// gaveWay reports whether an old instance has written what r did, or may have,
// and somebody was at work then who had loaded the session before.
func (s *Session) gaveWay(r *Request, l Load) bool {
	return slices.ContainsFunc(s.Requests, func(o *Request) bool {
		return o.Old && !o.Gone && o.Saving.within(l.Ended) && slices.ContainsFunc(s.Requests, func(b *Request) bool {
			return b != r && !b.Old && !b.Gone && b.Began <= r.Closed && b.End() >= o.Saving
		})
	})
}

// isRewritten reports whether an old instance has written the session since r did
// so, from what the backup had (its cache get failed, or found a removal), or so
// that what the backup has counts.
func (s *Session) isRewritten(r *Request, l Load) bool {
	return slices.ContainsFunc(s.Requests, func(o *Request) bool {
		return o.Old && o.Saving.within(l.Ended) && !o.Gone && o.End() >= r.Began &&
			((!o.CacheOK || s.isRemoving(o.End())) && s.may(Old) || s.may(Timeless))
	})
}

// End is when a request makes its last call.
func (r *Request) End() Time {
	switch {
	case r.Ended != 0:
		return r.Ended
	case r.Died != 0:
		return r.Died
	}
	return Never
}

// overlap reports whether two requests overlap, or the later one by its clock
// may look as if it were the earlier one.
func (s *Session) overlap(a, b *Request) bool {
	if a.Began > b.Began {
		a, b = b, a
	}
	return b.Began <= a.End() || b.Used.Sub(a.Latest) < s.lead(a, b)
}

// owed returns a request that has saved the session so that the load has to
// find it, nil when there is none.
func (s *Session) owed(l Load) *Request {
	if s.isRemoving(l.Ended) {
		return nil // Saved: of a removal that is not acknowledged either may be seen
	}
	var by *Request
	var used time.Time
	for _, r := range s.Requests {
		if r.Old || r.Moves || !s.has(r, l) {
			continue
		}
		if r.Creates || r.Saves {
			by = r
		}
		// Without a save the end that was stored then is late enough, but
		// maybe not in the backup.
		if (r.Saves || !l.Blind && !s.lostSince(0, l.Ended)) && r.Used.After(used) {
			used = r.Used
		}
	}
	if by == nil || !l.Wall.Before(used.Add(s.Timeout)) {
		return nil
	}
	return by
}

// isRemoving reports whether a removal has begun, or the backup has moved the
// session: from then on nobody has to find it.
func (s *Session) isRemoving(at Time) bool {
	return slices.ContainsFunc(s.Requests, func(r *Request) bool {
		return !r.Gone && (r.Removes && r.Saving.within(at) || r.Moved.within(at))
	})
}

// removedBy returns a request whose removal was acknowledged before the load.
func (s *Session) removedBy(l Load) *Request {
	for _, r := range s.Requests {
		switch {
		case !r.Removes && !r.Moves || r.Gone || r.Closed == 0 || r.Closed >= l.Began: // Saved
		case r.Failed && s.may(FailedLogout):
		case s.may(Old) && s.overwritten(r, l):
		case s.may(OnlyCache) && s.lostSince(r.Saving, l.Ended):
		case s.may(Overdue): // the emptied record is a record, too
		default:
			return r
		}
	}
	return nil
}

// isOver reports whether the session must have ended by itself.
func (s *Session) isOver(l Load) bool {
	var used time.Time
	for _, r := range s.Requests {
		if !r.Gone && r.Latest.After(used) {
			used = r.Latest
		}
	}
	return !used.IsZero() && s.Timeout > 0 && l.Since.After(used.Add(s.Timeout+s.Slack))
}

// CheckMoved returns what is wrong with what a load has seen under the id that a
// request gave the session: it has to be there if the request returned without
// an error, and to have what was saved under the old id by then. Whoever
// changes it later gets an error.
func (s *Session) CheckMoved(by *Request, l Load) error {
	if l.None {
		if !s.may(Moving) || by.Closed != 0 && !by.Failed {
			return fmt.Errorf("P1: no session under its new id")
		}
		return nil
	}
	closed := by.Closed
	if closed == 0 {
		closed = Never
	}
	moved := *s
	moved.Requests = nil
	for _, r := range s.Requests {
		if r.Removes || r.Began > closed || r.Moves && r != by {
			continue
		}
		then := *r
		then.Moves, then.Moved = false, 0 // here it is a change
		// What fails meanwhile may come too late to move along, and so may what
		// an old instance writes.
		then.Kept = r.Kept && r.Closed < by.Saving
		then.Failed = r.Failed || r.Old && s.overlap(r, by)
		moved.Requests = append(moved.Requests, &then)
	}
	// Once it has moved the backup has all of it.
	moved.Losses = slices.DeleteFunc(slices.Clone(s.Losses), func(l Loss) bool { return l.Began > closed })
	l.Blind = !by.CacheOK
	return moved.Check(l)
}

// CheckRefusal returns what is wrong with ErrRemoved as the answer to r: there
// was a session, and nobody removed it.
func (s *Session) CheckRefusal(r *Request, wall time.Time) error {
	until := r.Ended
	if until == 0 {
		until = Never
	}
	if s.owed(Load{Began: r.Began, Ended: until, Wall: wall}) != nil {
		return fmt.Errorf("P1: a change was refused, and nobody has removed the session")
	}
	return nil
}

// CheckSuccess returns what is wrong with a request that reported no error.
func (s *Session) CheckSuccess(r *Request) error {
	if r.Failed || r.Gone || r.Saving == 0 || !r.Saves && !r.Removes && !r.Moves {
		return nil
	}
	if s.removedBy(Load{Began: r.Saving, Ended: r.Closed}) != nil && (!r.Removes || r.Creates) {
		return fmt.Errorf("P2: a change was made to a removed session, and nobody was told")
	}
	return nil
}
