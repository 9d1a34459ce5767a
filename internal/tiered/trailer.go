package tiered

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The stored form of a state is its value followed by a trailer. All numbers are
// big endian; times are microseconds since 1970, 0 if there is none:
//
//	used, ends, born, swept, listed  8 bytes each
//	MaxAge                   4 bytes, seconds
//	key                      the first 16 bytes of SHA-256 of the session's id
//	owner                    the first 16 bytes of SHA-256 of whose cookie and name it is, or 0
//	number of cells          4 bytes
//	cells                    name and stamp, 16 and 8 bytes each, by name
//	aged                     a bit a cell, lowest bit first
//	in an item only:
//	  marks                  1 byte: 1 used or ends unsaved, 2 all unsaved, 4 legacy
//	  tries, next            1 and 8 bytes
//	  seal                   8 bytes
//	  unsaved                a bit a cell, lowest bit first
//	  token                  the rest
//	length                   of the trailer so far, 4 bytes
//	checksum                 CRC-32C of everything before it, 4 bytes
//	magic                    8 bytes
//
// gob ignores what follows the value it decodes.
const (
	trailerMagic = "\x89gaeses\x02"
	trailerEnd   = 4 + 4 + len(trailerMagic)
	trailerHead  = 5*8 + 4 + len(name{}) + len(Owner{}) + 4
	cellSize     = len(name{}) + 8
	itemHead     = 1 + 1 + 8 + len(nonce{})

	markUse    = 1
	markAll    = 2
	markLegacy = 4
)

var (
	checksums = crc32.MakeTable(crc32.Castagnoli)

	// errDamaged means that bytes with a trailer cannot be what was written.
	errDamaged = errors.New("damaged session")

	// errOtherKey means that the bytes were written under another id.
	errOtherKey = fmt.Errorf("%w: it belongs to another id", errDamaged)
)

func appendBits(b []byte, cells []cell, bit func(cell) bool) []byte {
	at := len(b)
	b = append(b, make([]byte, (len(cells)+7)/8)...)
	for i, c := range cells {
		if bit(c) {
			b[at+i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// trailerSize is how many bytes the stored form of an item adds to the value.
func (st *state) trailerSize() int {
	return trailerHead + len(st.cells)*cellSize + itemHead + 2*((len(st.cells)+7)/8) + len(st.token) + trailerEnd
}

// encode returns the stored form under that id, of an item or of a record.
func (st *state) encode(id string, item bool) []byte {
	b := make([]byte, 0, len(st.value)+st.trailerSize())
	b = append(b, st.value...)
	for _, t := range [...]micros{st.used, st.ends, st.born, st.swept, st.listed} {
		b = t.append(b)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(st.maxAge))
	key := nameOf(id)
	b = append(b, key[:]...)
	b = append(b, st.owner[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(st.cells)))
	for _, c := range st.cells {
		b = append(b, c.name[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(c.at))
	}
	b = appendBits(b, st.cells, func(c cell) bool { return c.aged })
	if item {
		var marks byte
		if st.unsavedUse {
			marks |= markUse
		}
		if st.unsavedAll {
			marks |= markAll
		}
		if st.legacy {
			marks |= markLegacy
		}
		b = append(b, marks, st.tries)
		b = st.next.append(b)
		b = append(b, st.seal[:]...)
		b = appendBits(b, st.cells, func(c cell) bool { return c.unsaved })
		b = append(b, st.token...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(b)-len(st.value)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, checksums))
	return append(b, trailerMagic...)
}

// A reader takes a trailer apart. Its bytes were counted before.
type reader []byte

func (r *reader) bytes(n int) []byte {
	b := (*r)[:n]
	*r = (*r)[n:]
	return b
}

func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.bytes(4)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.bytes(8)) }

func (r *reader) micros() micros { return micros(r.uint64()) }

func (r *reader) bits(cells []cell, set func(c *cell, bit bool)) {
	b := r.bytes((len(cells) + 7) / 8)
	for i := range cells {
		set(&cells[i], b[i/8]>>(i%8)&1 != 0)
	}
}

// decode takes a stored form apart that is kept under that id. hasTrailer is
// false for bytes that were written without one.
func decode(id string, b []byte) (st *state, hasTrailer bool, err error) {
	if len(b) < trailerEnd || !bytes.HasSuffix(b, []byte(trailerMagic)) {
		return nil, false, nil
	}
	end := b[len(b)-trailerEnd:]
	rest := b[:len(b)-trailerEnd]
	size := uint64(binary.BigEndian.Uint32(end))
	sum := binary.BigEndian.Uint32(end[4:])
	if size > uint64(len(rest)) || size < uint64(trailerHead) || crc32.Checksum(b[:len(b)-trailerEnd+4], checksums) != sum {
		return nil, true, errDamaged
	}
	r := reader(rest[len(rest)-int(size):])
	st = &state{value: rest[:len(rest)-int(size)]}
	st.used, st.ends, st.born, st.swept, st.listed = r.micros(), r.micros(), r.micros(), r.micros(), r.micros()
	st.maxAge = int32(r.uint32())
	if name(r.bytes(len(name{}))) != nameOf(id) {
		return nil, true, errOtherKey
	}
	st.owner = Owner(r.bytes(len(Owner{})))
	count := uint64(r.uint32())
	if len(st.value) == 0 || count > uint64(len(r)/cellSize) {
		return nil, true, errDamaged
	}
	bits := (int(count) + 7) / 8
	if len(r) < int(count)*cellSize+bits {
		return nil, true, errDamaged
	}
	st.cells = make([]cell, count)
	for i := range st.cells {
		st.cells[i] = cell{name: name(r.bytes(len(name{}))), at: stamp(r.uint64())}
	}
	r.bits(st.cells, func(c *cell, bit bool) { c.aged = bit })
	if len(r) == 0 {
		return st, true, nil // a record
	}
	if len(r) < itemHead+bits {
		return nil, true, errDamaged
	}
	marks := r.bytes(2)
	st.unsavedUse, st.unsavedAll, st.tries = marks[0]&markUse != 0, marks[0]&markAll != 0, marks[1]
	st.legacy = marks[0]&markLegacy != 0
	st.next = r.micros()
	st.seal = nonce(r.bytes(len(nonce{})))
	r.bits(st.cells, func(c *cell, bit bool) { c.unsaved = bit })
	st.token = r
	return st, true, nil
}

// open returns the state that is stored as b under that id. Bytes without a
// trailer were written by icza/gaesession or dsoprea's store: all attributes,
// and the absence of others, were last changed when the session was last used.
// Nothing says that the backup has them.
func (s *Store) open(id string, b []byte) (*state, error) {
	st, hasTrailer, err := decode(id, b)
	if err != nil {
		return nil, err
	}
	if !hasTrailer {
		if st, err = s.openLegacy(b); err != nil {
			return nil, err
		}
	}
	st.distrustFuture()
	return st, nil
}

func (s *Store) openLegacy(b []byte) (*state, error) {
	if len(b) == 0 {
		return nil, errDamaged
	}
	info, err := s.Form.Inspect(b)
	if err != nil {
		return nil, mergeError(err)
	}
	at := stampOf(info.Used)
	st := &state{
		value: b, used: microsOf(info.Used), ends: microsOf(info.Ends), absent: at,
		unsavedAll: true, unsavedUse: true, legacy: true,
	}
	if at != 0 {
		st.absent |= deletedBit
		st.next = st.used.add(saveAfter)
	}
	cells := make([]cell, len(info.Names))
	for i, n := range info.Names {
		cells[i] = cell{name: nameOf(n), at: at, unsaved: true}
	}
	st.set(cells)
	return st, nil
}
