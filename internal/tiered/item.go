package tiered

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// kind says what an item of the cache is; it is stored as the item's flags. Zero
// keeps items readable that were written without this package.
type kind uint32

const (
	value       kind = iota // a session
	lease                   // a refill is under way; or an orphan lease
	removed                 // there is no session any more
	damaged                 // read, never written: nobody can tell what it is
	undecodable             // read, never written: another instance may be able to decode it
	absent                  // nothing is there
)

// A nonce says whose an item or a seal is. No two requests draw the same one.
type nonce [8]byte

func newNonce() (n nonce) {
	// crypto/rand.Read does not fail on any platform Go supports: it ends the
	// program instead.
	_, _ = rand.Read(n[:])
	return n
}

const (
	// leaseTTL ends the lease of a request that has died.
	leaseTTL = time.Minute
	// moveLeaseTTL is longer than the update of a move may take.
	moveLeaseTTL = tier.UpdateTime + 30*time.Second
	// removedTTL keeps the removal marker and the emptied record for as long as
	// the longest request may run: 24 hours, on App Engine with manual scaling.
	// https://cloud.google.com/appengine/docs/standard/how-instances-are-managed#instance_scaling
	removedTTL = 24 * time.Hour
)

// An item is what the cache has under an id.
type item struct {
	kind  kind
	state *state // of a value
	nonce nonce  // of a lease or a removal marker; zero: an orphan lease, or a marker of Remove
	own   bool   // a lease of the caller's own
	raw   *tier.Item
	err   error // of a damaged or undecodable item: why
}

// is reports whether the item is known and of that kind.
func (it *item) is(k kind) bool { return it != nil && it.kind == k }

func (s *Store) decodeItem(id string, raw *tier.Item) *item {
	it := &item{kind: kind(raw.Flags), raw: raw}
	switch it.kind {
	case lease, removed:
		copy(it.nonce[:], raw.Value)
	case value:
		switch it.state, it.err = s.open(id, raw.Value); {
		case errors.Is(it.err, errMerge):
			it.kind = undecodable
		case it.err != nil:
			it.kind = damaged
		}
	default:
		it.kind, it.err = damaged, fmt.Errorf("%w: flags %d", errDamaged, raw.Flags)
	}
	return it
}

// An entry is what is to be put into the cache.
type entry struct {
	tier.Item
	ttl time.Duration
}

// newEntry returns a lease or a removal marker that its owner can tell from
// others.
func newEntry(k kind, ttl time.Duration) *entry {
	n := newNonce()
	return &entry{tier.Item{Flags: uint32(k), Value: n[:]}, ttl}
}

var (
	// orphanLease ends the refill whose lease it replaces, and keeps others away
	// until it expires.
	orphanLease   = &entry{tier.Item{Flags: uint32(lease)}, leaseTTL}
	removalMarker = &entry{tier.Item{Flags: uint32(removed)}, removedTTL}
)

// entryOf returns a state as an entry; nil if the cache does not take it.
func (s *Store) entryOf(id string, st *state) *entry {
	v := st.encode(id, true)
	if !s.Cache.Fits(id, len(v)) {
		return nil
	}
	ttl := removedTTL
	if st.ends != 0 {
		ttl = time.Until(st.ends.time())
	}
	return &entry{tier.Item{Flags: uint32(value), Value: v}, ttl}
}
