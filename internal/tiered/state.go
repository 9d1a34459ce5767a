package tiered

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// micros is a time as it is stored: microseconds since 1970; zero: there is none.
type micros int64

func microsOf(t time.Time) micros {
	if t.IsZero() {
		return 0
	}
	return micros(t.UnixMicro())
}

func (m micros) time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(m))
}

func (m micros) add(d time.Duration) micros { return m + micros(d.Microseconds()) }

func (m micros) append(b []byte) []byte { return binary.BigEndian.AppendUint64(b, uint64(m)) }

// A stamp orders the changes of one attribute: microseconds since 1970 in the
// upper 52 bits (until 2112), then 11 random bits, which keep any two changes
// apart, and in the lowest bit whether the change deleted the attribute.
//
// A stamp only orders. Clocks may be wrong by any amount, so nothing decides by
// a stamp how much time has passed.
type stamp uint64

const (
	stampShift       = 12
	lastMicro        = 1<<(64-stampShift) - 1
	deletedBit stamp = 1
	firstStamp stamp = 2 // later than zero, earlier than any time
)

// errEndOfTime means that no stamp is left that is later than the one before.
var errEndOfTime = errors.New("the clock, or the clock of an earlier change, is at the end of the range of times, in 2112")

func stampOf(t time.Time) stamp {
	return stamp(min(max(t.UnixMicro(), 0), lastMicro)) << stampShift
}

// draw returns a stamp for a change that is made now, later than every stamp it
// has seen.
func draw(now time.Time, seen stamp) (stamp, error) {
	//rule: last-stamp
	if now.UnixMicro() > lastMicro || seen>>stampShift == lastMicro {
		return 0, errEndOfTime
	}
	at := max(stampOf(now), (seen>>stampShift+1)<<stampShift)
	return at | stamp(rand.Uint64N(1<<stampShift))&^deletedBit, nil
}

// A name stands for an attribute: the first half of SHA-256 of what the adapter
// calls it. Nobody can make two names collide.
type name [16]byte

// maxAgeName is the name of the session's own MaxAge, which is no attribute but
// is merged like one. No attribute's name has this hash.
var maxAgeName name

func nameOf(attribute string) name {
	sum := sha256.Sum256([]byte(attribute))
	return name(sum[:len(name{})])
}

func (n name) compare(o name) int { return bytes.Compare(n[:], o[:]) }

// A cell says when one attribute was last changed. The cell of a deleted
// attribute is kept for a while: a tombstone.
type cell struct {
	name    name
	at      stamp
	unsaved bool // in an item: the backup lacks this change
	aged    bool // a tombstone that the last sweep has seen
}

func (c cell) isTombstone() bool { return c.at&deletedBit != 0 }

// A state is a session as one of the services has it: the bytes that the
// adapter made, and when each attribute in them was changed.
type state struct {
	value []byte
	cells []cell // by name
	// absent is when attributes were last changed that have no cell.
	absent stamp
	used   micros // last access
	ends   micros // from then on there is no session; zero: not known
	born   micros // when the session began; zero: not known
	swept  micros // when tombstones were last looked through
	maxAge int32  // the session's own MaxAge in seconds, if it has a cell
	owner  Owner  // whose it is; zero: nobody's, or not known
	listed micros // until then the owner's index needs no change for it; zero: it is not listed

	// clockWasAhead says that the stored used or born lay so far in the future that
	// the times were replaced by what this instance's clock says.
	clockWasAhead bool

	// isOld says that deletions may have been forgotten since the request has
	// loaded the session: its bytes may have attributes that are in no cell.
	isOld bool

	// of is the state that this one was made of, and which it contains; nil: not known.
	of *state

	// In an item only.
	// legacy says that the bytes had no trailer, and that no request has changed
	// them since. Somebody else's bytes may lie under the id.
	legacy     bool
	unsavedUse bool   // the backup lacks used or ends
	unsavedAll bool   // the backup may have no record of the session
	next       micros // when to try next to save what is unsaved
	tries      uint8  // how often that was tried
	seal       nonce  // of the request that moves the session; zero: none
	token      []byte // of the latest record that this contains
}

// at returns when an attribute was last changed, and whether it has a cell.
func (st *state) at(n name) (stamp, bool) {
	if i, ok := st.find(n); ok {
		return st.cells[i].at, true
	}
	return st.absent, false
}

func (st *state) find(n name) (int, bool) {
	return slices.BinarySearchFunc(st.cells, n, func(c cell, n name) int { return c.name.compare(n) })
}

// set puts cells, in any order, in place of those with their names.
func (st *state) set(cells []cell) { st.cells = ordered(slices.Concat(st.cells, cells)) }

// ordered returns cells by name, in the same array. Of several with one name the
// last one counts.
func ordered(all []cell) []cell {
	slices.SortStableFunc(all, func(a, b cell) int { return a.name.compare(b.name) })
	last := all[:0]
	for _, c := range all {
		if n := len(last); n > 0 && last[n-1].name == c.name {
			last[n-1] = c
			continue
		}
		last = append(last, c)
	}
	return last
}

// latest returns the latest stamp in the state.
func (st *state) latest() stamp {
	at := st.absent
	for _, c := range st.cells {
		at = max(at, c.at)
	}
	return at
}

// unsaved reports whether the backup lacks something.
func (st *state) unsaved() bool {
	return st.unsavedAll || st.unsavedUse || slices.ContainsFunc(st.cells, func(c cell) bool { return c.unsaved })
}

// markSaved marks the state as the backup has it once all of it was committed,
// and returns it.
func (st *state) markSaved() *state {
	st.legacy, st.unsavedUse, st.unsavedAll, st.next, st.tries, st.seal = false, false, false, 0, 0, nonce{}
	for i := range st.cells {
		st.cells[i].unsaved = false
	}
	return st
}

const (
	// saveAfter is how long a change may be unsaved before requests other than
	// the one that made it save it.
	saveAfter = 3 * time.Second
	// saveAtLeast is the longest time between such attempts.
	saveAtLeast = time.Minute
)

// interval is the time to the next attempt after so many of them.
func interval(tries uint8) time.Duration {
	return min(saveAfter<<min(tries, 10), saveAtLeast)
}

// dueAfter makes the next attempt to save the state due after one more interval.
func (st *state) dueAfter(tries uint8) {
	st.next, st.tries = microsOf(time.Now().Add(interval(tries))), tries
}

// isDue reports whether the next attempt to save the state is due. A time that
// is further away than the interval is that of a clock that was ahead.
func (st *state) isDue() bool {
	now := microsOf(time.Now())
	//rule: due
	return now >= st.next || st.next > now.add(interval(st.tries))
}

// sweepTime is how long a tombstone is kept at least.
const sweepTime = time.Hour

// sweep forgets the tombstones that an earlier sweep, an hour ago or more, has
// seen; those that are unsaved only if there is no backup that needs them. When
// the earlier one seems to have been in the future, its clock was ahead, and the
// hour begins again.
func (st *state) sweep(noBackup bool) {
	if !slices.ContainsFunc(st.cells, cell.isTombstone) {
		st.swept = 0
		return
	}
	now := microsOf(time.Now())
	switch {
	//rule: swept
	case st.swept == 0 || st.swept > now:
		st.swept = now
		for i := range st.cells {
			st.cells[i].aged = false
		}
	case now > st.swept.add(sweepTime):
		st.swept = now
		st.cells = slices.DeleteFunc(st.cells, func(c cell) bool { return c.isTombstone() && c.aged && (noBackup || !c.unsaved) })
		for i, c := range st.cells {
			st.cells[i].aged = c.isTombstone()
		}
	}
}

// clockTolerance is how far the clocks of two instances may differ before one
// of them counts as wrong.
const clockTolerance = time.Hour

// distrustFuture replaces the times that a clock which was far ahead has left. The
// owner's index may have such times as well, so the next save lists the session again.
func (st *state) distrustFuture() {
	now := microsOf(time.Now())
	//rule: distrust
	if max(st.used, st.born) <= now.add(clockTolerance) {
		return
	}
	if st.ends != 0 && st.used > now {
		st.ends = now + max(st.ends-st.used, 0)
	}
	st.used, st.born, st.listed = min(st.used, now), min(st.born, now), 0
	st.clockWasAhead = true
}

// isLive reports whether the session has not ended.
func (st *state) isLive() bool { return st.ends == 0 || microsOf(time.Now()) < st.ends }

// clone returns a copy whose cells can be changed.
func (st *state) clone() *state {
	n := *st
	n.cells = slices.Clone(st.cells)
	return &n
}

// sameCells reports whether both have the same version of every attribute.
func (st *state) sameCells(o *state) bool {
	return st.absent == o.absent && slices.EqualFunc(st.cells, o.cells, func(a, b cell) bool {
		return a.name == b.name && a.at == b.at
	})
}
