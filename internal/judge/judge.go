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
// these are the constants of type Sentence, and there is no other excuse.
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

	// Clocks excuses the order of two changes where the cache was emptied between
	// them and the instances' clocks differ.
	Clocks Sentence = "Where the cache was emptied between two changes of the same attribute before the first was backed up, the clocks of the two instances decide which is the later."

	// FailedPublish is Clocks for a change that others did not see, because it
	// failed.
	FailedPublish Sentence = "a call that reported a failed publish may leave the older value in the cache until the next change"

	// OnlyCache excuses everything without a backup once the cache was lost.
	OnlyCache Sentence = "OnlyMemcache: P4 and P5 do not apply, P2 holds while the cache keeps the removal marker."

	// Blind excuses that a load misses what is in the cache alone.
	Blind Sentence = "a request whose cache get fails sees what the backup has"

	// Moving excuses that nothing is left of a session that was being moved.
	Moving Sentence = "a request that dies inside RegenerateID ends the session"

	// FailedLogout excuses that a session is seen whose record is emptied.
	FailedLogout Sentence = "a logout that returned an error may show the session until its item ends"

	// Overdue excuses a session that was unsaved for as long as it lives.
	Overdue Sentence = "a session that was unsaved for longer than it lives may lose its record to a purge at the moment it is saved, and lives in the cache until the next change"

	// Old excuses what an instance of the library before this one overwrote.
	Old Sentence = "old instances may overwrite changes that overlap them, and what they overwrote lives in the cache alone until the next change"
)

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
	Removes bool // or gives it another id
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

	// Kept: the backup refused the change, which then was put into the cache.
	Kept bool

	Used   time.Time // when it used the session, if it did
	Latest time.Time // not later than that
}

// A Session is its history, and what it was at first.
type Session struct {
	Requests []*Request
	Losses   []Time // when the cache lost the session
	Timeout  time.Duration

	// Slack is how long after Timeout it may still be there.
	Slack time.Duration

	OnlyCache bool
	Timeless  bool // the library before this one does not say when the session was used
	Overdue   bool // it was unsaved for longer than it lives
}

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
		if !changes || r.Saving == 0 {
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
		return slices.ContainsFunc(must, func(r *Request) bool { return r != w && s.precedes(w, r) })
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

// isSkewed reports whether the instances' clocks differ. A change is later than
// what it has seen, so it may have its time from another one's clock.
func (s *Session) isSkewed() bool {
	return slices.ContainsFunc(s.Requests, func(r *Request) bool { return r.Skew != 0 })
}

// has reports whether the load has to see what r did.
func (s *Session) has(r *Request, l Load) bool {
	saved := r.Saving != 0 && r.Closed != 0 && r.Closed < l.Began && !r.Gone                       // Saved
	inCache := !l.Blind && !s.lostSince(r.Saving, l.Ended) && !s.isRemoving(l) && !s.isRewritten() // Blind, Old
	switch {
	case !saved, s.overwrittenByOld(r):
		return false
	case s.OnlyCache && s.lostSince(r.Saving, l.Ended): // OnlyCache
		return false
	case s.Overdue && (l.Blind || s.lostSince(0, l.Ended)): // Overdue
		return false
	case r.Failed:
		return r.Kept && inCache && !s.lostSince(r.Began, l.Ended) // Down
	case r.Async && (r.Late || !(r.Ended != 0 && r.Ended < l.Began)):
		return inCache // Unsaved, Down
	}
	return true
}

func (s *Session) lostSince(since, until Time) bool {
	return slices.ContainsFunc(s.Losses, func(t Time) bool { return since <= t && t <= until })
}

// precedes reports whether b's change is later than a's for certain.
func (s *Session) precedes(a, b *Request) bool {
	if a.Closed == 0 || b.Saving == 0 || a.Closed >= b.Saving {
		return false
	}
	if (a.Old || b.Old) && overlap(a, b) {
		return false // Old
	}
	inCacheAlone := a.Failed || a.Late || a.Async && (a.Ended == 0 || a.Ended >= b.Saving)
	if a.Failed && a.Closed >= b.Began {
		return false // FailedPublish: b had loaded before, and need not have seen it
	}
	unseen := a.Failed || inCacheAlone && (s.lostSince(a.Saving, b.Closed) || s.isRewritten())
	return !unseen || !s.isSkewed() // FailedPublish, Clocks, Old
}

// overwrittenByOld reports whether an old instance may have overwritten what r
// did, or r is one and a request that overlaps has saved the session.
func (s *Session) overwrittenByOld(r *Request) bool {
	overwrites := func(o *Request) bool { return o.Began != 0 && !o.Gone && o != r }
	return slices.ContainsFunc(s.Requests, func(o *Request) bool {
		if (o.Old || r.Old) && overwrites(o) && overlap(o, r) {
			return true // Old
		}
		// What the old instance wrote gives way to everything, also to what
		// others had loaded before.
		return s.Timeless && o.Old && overwrites(o) && slices.ContainsFunc(s.Requests, func(b *Request) bool {
			return overwrites(b) && b.Began <= r.Closed && overlap(o, b) // Old
		})
	})
}

// isRewritten reports whether an old instance has written the session, without
// saying what the backup lacks.
func (s *Session) isRewritten() bool {
	return slices.ContainsFunc(s.Requests, func(r *Request) bool { return r.Old && r.Saving != 0 && !r.Gone })
}

func overlap(a, b *Request) bool {
	end := func(r *Request) Time {
		if r.Ended == 0 {
			return Never
		}
		return r.Ended
	}
	return a.Began <= end(b) && b.Began <= end(a)
}

// owed returns a request that has saved the session so that the load has to
// find it, nil when there is none.
func (s *Session) owed(l Load) *Request {
	if s.isRemoving(l) {
		return nil // Moving, FailedLogout
	}
	var by *Request
	var used time.Time
	for _, r := range s.Requests {
		if r.Old || !s.has(r, l) {
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

// isRemoving reports whether a removal has begun: from then on nothing is in the
// cache for certain.
func (s *Session) isRemoving(l Load) bool {
	return slices.ContainsFunc(s.Requests, func(r *Request) bool {
		return r.Removes && r.Saving.within(l.Ended) && !r.Gone
	})
}

// removedBy returns a request whose removal was acknowledged before the load.
func (s *Session) removedBy(l Load) *Request {
	for _, r := range s.Requests {
		if !r.Removes || r.Gone || r.Failed || r.Closed == 0 || r.Closed >= l.Began || s.overwrittenByOld(r) {
			continue
		}
		if s.OnlyCache && s.lostSince(r.Saving, l.Ended) {
			continue // OnlyCache
		}
		return r
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
	if r.Failed || r.Gone || r.Saving == 0 || !r.Saves && !r.Removes {
		return nil
	}
	if s.removedBy(Load{Began: r.Saving, Ended: r.Closed}) != nil && (!r.Removes || r.Creates) {
		return fmt.Errorf("P2: a change was made to a removed session, and nobody was told")
	}
	return nil
}
