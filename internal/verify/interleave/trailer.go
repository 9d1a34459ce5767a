//go:build go1.25

package interleave

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A trailer is what stands behind the bytes of a session. Its form is described
// in internal/tiered/trailer.go, and read here from that description.
type trailer struct {
	value                   []byte
	isMissing               bool // the library before this one wrote the session
	used, ends, born, swept time.Time
	listed                  time.Time // until when the owner's index has the session
	maxAge                  uint32
	owner                   string
	cells                   []cell

	isItem  bool
	marks   byte
	tries   byte
	next    time.Time
	seal    string // of the request that moves the session; zeros: none
	version string // of the record that the backup has
}

type cell struct {
	name    string // of the attribute
	stamp   uint64
	aged    bool
	unsaved bool
}

// nameSize is that of the hash of a name.
const nameSize = 16

const trailerMagic = "\x89gaeses\x02"

var errTrailer = errors.New("interleave: a trailer that cannot be read")

func parseTrailer(b []byte) (tr trailer, err error) {
	if !bytes.HasSuffix(b, []byte(trailerMagic)) {
		return trailer{value: b, isMissing: true}, nil
	}
	defer func() {
		if recover() != nil {
			err = errTrailer
		}
	}()
	end := len(b) - len(trailerMagic) - 8
	size := int(binary.BigEndian.Uint32(b[end:]))
	tr.value = b[: end-size : end-size]
	r := b[end-size : end]
	number := func() uint64 {
		n := binary.BigEndian.Uint64(r)
		r = r[8:]
		return n
	}
	at := func() time.Time {
		if us := number(); us != 0 {
			return time.UnixMicro(int64(us))
		}
		return time.Time{}
	}
	text := func(n int) string {
		s := string(r[:n])
		r = r[n:]
		return s
	}
	length := func() uint32 { return binary.BigEndian.Uint32([]byte(text(4))) }
	bits := func(set func(c *cell)) {
		b := text((len(tr.cells) + 7) / 8)
		for i := range tr.cells {
			if b[i/8]>>(i%8)&1 != 0 {
				set(&tr.cells[i])
			}
		}
	}
	tr.used, tr.ends, tr.born, tr.swept, tr.listed = at(), at(), at(), at(), at()
	tr.maxAge = length()
	_ = text(nameSize) // the key
	tr.owner = text(nameSize)
	tr.cells = make([]cell, length())
	for i := range tr.cells {
		tr.cells[i] = cell{name: attributeOf(text(nameSize)), stamp: number()}
	}
	bits(func(c *cell) { c.aged = true })
	if len(r) == 0 {
		return tr, nil
	}
	tr.isItem, tr.marks, tr.tries = true, r[0], r[1]
	r = r[2:]
	tr.next = at()
	tr.seal = text(8)
	bits(func(c *cell) { c.unsaved = true })
	tr.version = string(r)
	return tr, nil
}

// isSealed reports whether a request moves the session, or has died in it.
func (tr *trailer) isSealed() bool { return tr.isItem && tr.seal != string(make([]byte, 8)) }

// isUnsaved reports whether Datastore lacks something of the item.
func (tr *trailer) isUnsaved() bool {
	return tr.isMissing || tr.marks != 0 || slices.ContainsFunc(tr.cells, func(c cell) bool { return c.unsaved })
}

// attributes are the names that the cells are hashes of.
var attributes = func() map[string]string {
	names := map[string]string{string(make([]byte, nameSize)): "MaxAge"}
	for _, name := range []string{"a", "b", "c", "z"} {
		for _, prefix := range []string{"", "string ", "key "} { // the latter cascadestore's and scsstore's
			sum := sha256.Sum256([]byte(prefix + name))
			names[string(sum[:nameSize])] = name
		}
	}
	return names
}()

func attributeOf(hash string) string {
	if name, ok := attributes[hash]; ok {
		return name
	}
	return fmt.Sprintf("%x", hash)
}
