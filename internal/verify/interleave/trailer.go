//go:build go1.25

package interleave

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

// A trailer is what stands behind the bytes of a session. Its form is described
// in internal/tiered/record.go, and read here from that description.
type trailer struct {
	value      []byte
	isMissing  bool // the library before this one wrote the session
	used, ends time.Time
	cells      []cell

	isItem       bool
	marks        byte
	next, sealed time.Time
	version      string // of the record that the backup has
	unsavedSince time.Time
}

type cell struct {
	name    string // of the attribute
	stamp   uint64
	unsaved bool
}

const trailerMagic = "\x89gaeses\x01"

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
	tr.used, tr.ends = at(), at()
	tr.cells = make([]cell, binary.BigEndian.Uint32(r))
	r = r[4:]
	for i := range tr.cells {
		tr.cells[i] = cell{name: attributeOf(number()), stamp: number()}
	}
	if len(r) == 0 {
		return tr, nil
	}
	tr.isItem, tr.marks = true, r[0]
	r = r[1:]
	tr.next, tr.sealed = at(), at()
	for i, c := range tr.cells {
		if r[i/8]>>(i%8)&1 == 0 {
			continue
		}
		tr.cells[i].unsaved = true
		if since := time.UnixMicro(int64(c.stamp >> 12)); tr.unsavedSince.IsZero() || since.Before(tr.unsavedSince) {
			tr.unsavedSince = since
		}
	}
	tr.version = string(r[(len(tr.cells)+7)/8:])
	return tr, nil
}

// isUnsaved reports whether Datastore lacks something of the item.
func (tr *trailer) isUnsaved() bool {
	return tr.isMissing || tr.marks != 0 || slices.ContainsFunc(tr.cells, func(c cell) bool { return c.unsaved })
}

// attributes are the names that the cells are hashes of.
var attributes = func() map[uint64]string {
	names := map[uint64]string{}
	for _, name := range []string{"a", "b", "c", "z"} {
		for _, prefix := range []string{"", "string "} { // the latter cascadestore's
			h := fnv.New64a()
			h.Write([]byte(prefix + name))
			names[h.Sum64()] = name
		}
	}
	return names
}()

func attributeOf(hash uint64) string {
	if name, ok := attributes[hash]; ok {
		return name
	}
	return fmt.Sprintf("%x", hash)
}
