package tiered

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// kind is what an item in the cache is; it is stored as the item's flags.
// Zero keeps items readable that were written without this package.
type kind uint32

const (
	value   kind = iota // in step with the backup
	lock                // somebody is changing or refilling
	removed             // there is no session any more
	ahead               // a value the backup does not have yet
	settled             // a value in step that tells what background saves it contains
)

// IsSession tells from an item's flags whether it is a session, and lives as
// long as that, rather than a lock or a removal marker.
func IsSession(flags uint32) bool {
	switch kind(flags) {
	case value, ahead, settled:
		return true
	}
	return false
}

// A nonce names one lock or one save. Nobody else ever draws it.
type nonce [8]byte

func newNonce() (n nonce) {
	// crypto/rand.Read does not fail on any platform Go supports: it ends the
	// program instead.
	_, _ = rand.Read(n[:])
	return n
}

const (
	// maxPending bounds the saves an item names that is read.
	maxPending = 32

	// maxSettled bounds the saves a settled item names: the latest ones, as
	// others have ended long ago.
	maxSettled = 16
)

// item is a decoded Item.
type item struct {
	kind  kind
	value []byte // value, ahead, settled: the session

	// base is the backup's value that an item which is ahead derives from,
	// empty when the backup has none.
	base []byte
	// pending names the saves that an item which is ahead or settled contains,
	// the latest one last.
	pending []nonce

	nonce nonce // lock: whose it is
	// held is what the lock took the place of, when that was a value.
	held *item

	raw *Item // as the cache returned it
}

// Encoded forms:
//
//	value    the session's bytes
//	lock     nonce [flags of the held item (4 bytes, big endian), its bytes]
//	removed  nothing
//	ahead    number of pending saves, their nonces, length of base, base, value
//	         (numbers as unsigned varints)
//	settled  number of saves, their nonces, value

func encode(it *item) Item {
	switch it.kind {
	case lock:
		b := it.nonce[:]
		if it.held != nil {
			held := encode(it.held)
			b = binary.BigEndian.AppendUint32(slices.Clone(b), held.Flags)
			b = append(b, held.Value...)
		}
		return Item{Flags: uint32(lock), Value: b}
	case ahead, settled:
		b := make([]byte, 0, it.size())
		b = binary.AppendUvarint(b, uint64(len(it.pending)))
		for _, n := range it.pending {
			b = append(b, n[:]...)
		}
		if it.kind == ahead {
			b = binary.AppendUvarint(b, uint64(len(it.base)))
			b = append(b, it.base...)
		}
		b = append(b, it.value...)
		return Item{Flags: uint32(it.kind), Value: b}
	default:
		return Item{Flags: uint32(it.kind), Value: it.value}
	}
}

// size is how many bytes encode makes of it, or a few more.
func (it *item) size() int {
	switch {
	case it.kind == lock && it.held != nil:
		return len(nonce{}) + 4 + it.held.size()
	case it.kind == lock:
		return len(nonce{})
	case it.kind == ahead, it.kind == settled:
		return 2*binary.MaxVarintLen64 + len(it.pending)*len(nonce{}) + len(it.base) + len(it.value)
	}
	return len(it.value)
}

var errItem = errors.New("damaged cache item")

func decode(raw *Item) (*item, error) {
	it, err := decodeBody(kind(raw.Flags), raw.Value, true)
	if err != nil {
		return nil, err
	}
	it.raw = raw
	return it, nil
}

func decodeBody(k kind, b []byte, mayHold bool) (*item, error) {
	it := &item{kind: k}
	switch k {
	case value:
		if len(b) == 0 {
			return nil, errItem
		}
		it.value = b
	case removed:
	case lock:
		if !mayHold || copy(it.nonce[:], b) < len(nonce{}) {
			return nil, errItem
		}
		b = b[len(nonce{}):]
		if len(b) == 0 {
			break
		}
		if len(b) < 4 {
			return nil, errItem
		}
		held, err := decodeBody(kind(binary.BigEndian.Uint32(b)), b[4:], false)
		if err != nil {
			return nil, err
		}
		if held.kind == removed {
			return nil, errItem
		}
		it.held = held
	case ahead, settled:
		count, n := binary.Uvarint(b)
		if n <= 0 || count > maxPending || uint64(len(b)-n) < count*uint64(len(nonce{})) {
			return nil, errItem
		}
		b = b[n:]
		it.pending = make([]nonce, count)
		for i := range it.pending {
			b = b[copy(it.pending[i][:], b):]
		}
		it.value = b
		if k == ahead {
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return nil, errItem
			}
			it.base, it.value = b[n:n+int(size)], b[n+int(size):]
		}
		if len(it.value) == 0 {
			return nil, errItem
		}
	default:
		return nil, fmt.Errorf("%w: unknown flags %d", errItem, k)
	}
	return it, nil
}

// session is the item that holds the session's value: the item itself or what
// a lock holds; nil when neither does.
func (it *item) session() *item {
	switch {
	case it == nil:
		return nil
	case it.kind == lock:
		return it.held
	case it.kind == removed:
		return nil
	}
	return it
}

// inStep returns an item for a value that the backup has, and that contains
// these background saves.
func inStep(v []byte, saves []nonce) *item {
	if len(saves) == 0 {
		return &item{kind: value, value: v}
	}
	return &item{kind: settled, value: v, pending: saves[max(0, len(saves)-maxSettled):]}
}

func (it *item) isInStep() bool { return it.kind == value || it.kind == settled }

// backup is the backup's value that a value, ahead or settled item stands on.
func (it *item) backup() []byte {
	if it.kind == ahead {
		return it.base
	}
	return it.value
}

func (it *item) contains(n nonce) bool { return slices.Contains(it.pending, n) }

// hasSaved tells that the backup's value that the item stands on contains the
// save: of an item that is ahead only the latest save can be missing in it.
func (it *item) hasSaved(n nonce) bool {
	return it.contains(n) && (it.isInStep() || !it.isLatest(n))
}

func (it *item) isLatest(n nonce) bool {
	return len(it.pending) > 0 && it.pending[len(it.pending)-1] == n
}

func (it *item) sameValue(v []byte) bool { return bytes.Equal(it.value, v) }
