package tiered

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A stamp says when an attribute was last changed: microseconds since 1970 in
// the upper 52 bits (until the year 2112), then 11 random bits, which keep any
// two changes apart, and in the lowest bit whether the change deleted it.
type stamp uint64

const (
	stampShift         = 12
	deletedBit   stamp = 1
	firstStamp   stamp = 2         // later than zero, earlier than any time
	tombstoneTTL       = time.Hour // how long a deletion is remembered
)

func stampOf(t time.Time) stamp {
	return stamp(max(t.UnixMicro(), 0)) << stampShift
}

func (s stamp) time() time.Time { return time.UnixMicro(int64(s >> stampShift)) }

// draw returns a stamp for a change made now, later than every one it has seen.
func draw(now time.Time, seen stamp) stamp {
	at := max(stampOf(now), (seen>>stampShift+1)<<stampShift)
	return at | stamp(rand.Uint64N(1<<stampShift))&^deletedBit
}

// A cell is when one attribute was last changed. The cell of a deleted
// attribute is kept for a while: a tombstone.
type cell struct {
	name    uint64 // hash of the attribute's name
	at      stamp
	unsaved bool // in an item: the backup lacks this change
}

func hashOf(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return h.Sum64()
}

// A state is a session as one of the services has it: the bytes the codec made,
// and when what was changed in them.
type state struct {
	value []byte
	cells []cell // by name
	// absent is when attributes were last changed that have no cell.
	absent stamp
	used   time.Time // last access
	ends   time.Time // from then on there is no session

	// In an item only.
	unsavedUse bool      // the backup lacks used or ends
	whole      bool      // the backup may have no record of the session
	next       time.Time // when to try next to save what is unsaved
	sealed     time.Time // until then no asynchronous change: the session moves
	token      []byte    // the backup's, of the latest record that this contains

	// In what was committed only.
	before *state // what the request that committed it had loaded
}

// at returns when an attribute was last changed, and whether it has a cell.
func (st *state) at(name uint64) (stamp, bool) {
	if i, ok := st.find(name); ok {
		return st.cells[i].at, true
	}
	return st.absent, false
}

func (st *state) find(name uint64) (int, bool) {
	return slices.BinarySearchFunc(st.cells, name, func(c cell, name uint64) int {
		return cmp.Compare(c.name, name)
	})
}

// set puts a cell in the place of the one with its name.
func (st *state) set(c cell) {
	i, ok := st.find(c.name)
	if !ok {
		st.cells = slices.Insert(st.cells, i, cell{})
	}
	st.cells[i] = c
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
	return st.whole || st.unsavedUse || slices.ContainsFunc(st.cells, func(c cell) bool { return c.unsaved })
}

// unsavedSince returns when the oldest change was made that the backup lacks.
func (st *state) unsavedSince() time.Time {
	since := stamp(math.MaxUint64)
	for _, c := range st.cells {
		if c.unsaved {
			since = min(since, c.at)
		}
	}
	if since == math.MaxUint64 {
		return st.used
	}
	return since.time()
}

// saved marks the state as the backup has it once all of it was committed, and
// returns it.
func (st *state) saved() *state {
	st.unsavedUse, st.whole, st.next, st.sealed = false, false, time.Time{}, time.Time{}
	for i := range st.cells {
		st.cells[i].unsaved = false
	}
	return st
}

// forget forgets the deletions that were made long ago.
func (st *state) forget() {
	st.cells = slices.DeleteFunc(st.cells, cell.isOldDeletion)
}

func (c cell) isOldDeletion() bool {
	return c.at&deletedBit != 0 && time.Since(c.at.time()) > tombstoneTTL
}

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

// The stored form of a state is its value, and behind that a trailer, all
// numbers big endian:
//
//	used, ends        microseconds since 1970, 8 bytes each
//	number of cells   4 bytes
//	cells             hash and stamp, 8 bytes each, by hash
//	in an item only:
//	  marks           1 byte: 1 used or ends unsaved, 2 unsaved as a whole
//	  next, sealed    microseconds since 1970, 0: never; 8 bytes each
//	  unsaved         a bit a cell, lowest bit first
//	  token           the rest
//	length            of the trailer so far, 4 bytes
//	checksum          CRC-32C of everything before it, 4 bytes
//	magic             8 bytes
//
// gob ignores what follows the value it decodes.
const (
	trailerMagic = "\x89gaeses\x01"
	trailerEnd   = 4 + 4 + len(trailerMagic)
	trailerHead  = 8 + 8 + 4
	cellSize     = 8 + 8
	itemHead     = 1 + 8 + 8

	markUse   = 1
	markWhole = 2
)

var checksums = crc32.MakeTable(crc32.Castagnoli)

var errDamaged = errors.New("damaged session")

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.BigEndian.AppendUint64(b, 0)
	}
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixMicro()))
}

func timeAt(b []byte) time.Time {
	us := int64(binary.BigEndian.Uint64(b))
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us)
}

// encode returns the stored form, that of an item or of a record.
func (st *state) encode(item bool) []byte {
	marks := (len(st.cells) + 7) / 8
	b := make([]byte, 0, len(st.value)+trailerHead+len(st.cells)*cellSize+itemHead+marks+len(st.token)+trailerEnd)
	b = append(b, st.value...)
	b = appendTime(b, st.used)
	b = appendTime(b, st.ends)
	b = binary.BigEndian.AppendUint32(b, uint32(len(st.cells)))
	for _, c := range st.cells {
		b = binary.BigEndian.AppendUint64(b, c.name)
		b = binary.BigEndian.AppendUint64(b, uint64(c.at))
	}
	if item {
		var flags byte
		if st.unsavedUse {
			flags |= markUse
		}
		if st.whole {
			flags |= markWhole
		}
		b = append(b, flags)
		b = appendTime(b, st.next)
		b = appendTime(b, st.sealed)
		at := len(b)
		b = append(b, make([]byte, marks)...)
		for i, c := range st.cells {
			if c.unsaved {
				b[at+i/8] |= 1 << (i % 8)
			}
		}
		b = append(b, st.token...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(b)-len(st.value)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, checksums))
	return append(b, trailerMagic...)
}

// decode takes a stored form apart. hasTrailer is false for bytes that were
// written without one.
func decode(b []byte) (st *state, hasTrailer bool, err error) {
	if len(b) < trailerEnd || !bytes.HasSuffix(b, []byte(trailerMagic)) {
		return nil, false, nil
	}
	end := b[len(b)-trailerEnd:]
	rest := b[:len(b)-trailerEnd]
	size := uint64(binary.BigEndian.Uint32(end))
	sum := binary.BigEndian.Uint32(end[4:])
	if size > uint64(len(rest)) || size < trailerHead || crc32.Checksum(b[:len(b)-trailerEnd+4], checksums) != sum {
		return nil, true, errDamaged
	}
	value, t := rest[:len(rest)-int(size)], rest[len(rest)-int(size):]
	st = &state{value: value, used: timeAt(t), ends: timeAt(t[8:])}
	count := uint64(binary.BigEndian.Uint32(t[16:]))
	t = t[trailerHead:]
	if len(value) == 0 || count > uint64(len(t)/cellSize) {
		return nil, true, errDamaged
	}
	st.cells = make([]cell, count)
	for i := range st.cells {
		st.cells[i] = cell{name: binary.BigEndian.Uint64(t), at: stamp(binary.BigEndian.Uint64(t[8:]))}
		t = t[cellSize:]
	}
	if len(t) == 0 {
		return st, true, nil // a record
	}
	marks := (len(st.cells) + 7) / 8
	if len(t) < itemHead+marks {
		return nil, true, errDamaged
	}
	st.unsavedUse, st.whole = t[0]&markUse != 0, t[0]&markWhole != 0
	st.next, st.sealed = timeAt(t[1:]), timeAt(t[9:])
	t = t[itemHead:]
	for i := range st.cells {
		st.cells[i].unsaved = t[i/8]>>(i%8)&1 != 0
	}
	st.token = t[marks:]
	return st, true, nil
}

// open returns the state that is stored as b. Bytes without a trailer were
// written by icza/gaesession or dsoprea's store: all attributes, and the
// absence of others, were last changed when the session was last used. Nothing
// says that the backup has that.
func (s *Store) open(b []byte) (*state, error) {
	st, hasTrailer, err := decode(b)
	if err != nil || hasTrailer {
		return st, err
	}
	info, err := s.Inspect(b)
	if err != nil {
		return nil, err
	}
	at := stampOf(info.Used)
	st = &state{value: b, used: info.Used, ends: info.Ends, absent: at, whole: true, unsavedUse: true}
	if at != 0 {
		st.absent |= deletedBit
	}
	for _, name := range info.Names {
		st.set(cell{name: hashOf(name), at: at, unsaved: true})
	}
	return st, nil
}

// join returns into with what from has later: of each attribute the later
// change, and the later use and end. changed is false when that is into.
//
// With all unset, what from says is saved counts only where into has a cell,
// too: else it could bring back what into has forgotten the deletion of.
func (s *Store) join(into, from *state, all bool) (joined *state, changed bool, err error) {
	n := into.clone()
	for _, c := range from.cells {
		at, known := into.at(c.name)
		switch {
		case c.at > at && (all || known || c.unsaved || from.whole || at != 0):
			n.set(c)
			changed = true
		case !known && at > c.at:
			n.set(cell{name: c.name, at: at})
		}
	}
	if from.absent != 0 {
		for _, c := range into.cells {
			if at, known := from.at(c.name); !known && at > c.at {
				n.set(cell{name: c.name, at: at, unsaved: true})
				changed = true
			}
		}
	}
	if from.ends.After(into.ends) {
		n.ends = from.ends
	}
	if from.used.After(into.used) {
		n.used = from.used
		changed = true
	}
	if !changed {
		return n, !n.ends.Equal(into.ends), nil
	}
	if n.sameCells(from) && n.used.Equal(from.used) {
		n.value = from.value
		return n, true, nil
	}
	n.value, err = s.Merge(into.value, from.value, func(name string) bool {
		h := hashOf(name)
		now, _ := n.at(h)
		was, _ := into.at(h)
		return now != was // then it is as from has it
	})
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errMerge, err)
	}
	return n, true, nil
}

// record returns the state as the backup is to keep it.
func (st *state) record() *tier.Record {
	return &tier.Record{Value: st.encode(false), Expires: st.ends, Token: st.token}
}
