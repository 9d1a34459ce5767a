package tiered

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

// An Owner is a hash of whom a session belongs to; zero: nobody.
type Owner [16]byte

// OwnerOf returns the Owner of that name, among those whose sessions have one
// scope; no name: nobody.
func OwnerOf(scope, name string) Owner {
	if name == "" {
		return Owner{}
	}
	return Owner(nameOf(scope + "\x00" + name))
}

// id is that of the owner's index. No session has such an id.
func (o Owner) id() string { return tier.OwnerPrefix + base64.RawURLEncoding.EncodeToString(o[:]) }

// An Ownership says whose a session is.
type Ownership struct {
	Owner Owner
	Label string // in the list of the owner's sessions; cut after 100 bytes
}

// A ref names a session of an owner, and opens nothing. A session keeps it when it
// gets another id.
type ref [12]byte

func refOf(id string) ref {
	sum := sha256.Sum256([]byte("ref:" + id))
	return ref(sum[:len(ref{})])
}

func (r ref) String() string { return base64.RawURLEncoding.EncodeToString(r[:]) }

// A listing is what an owner's index has of one session.
type listing struct {
	id    string
	ref   ref
	since micros // of the login
	until micros // the session ends then at the latest, unless its next save says otherwise
	label string
	// ending says that somebody removes the session, or has moved it.
	ending bool
}

// An index has an owner's sessions, in the order in which they were listed. It is
// a record of the backup that nobody caches, and changes in the same update as
// the records of the sessions. This is its stored form; all numbers are big
// endian, and times are microseconds since 1970:
//
//	magic            8 bytes
//	for each session:
//	  ending         1 byte, 0 or 1
//	  ref            12 bytes
//	  since, until   8 bytes each
//	  lengths        of the id, 2 bytes, and of the label, 1 byte
//	  id, label
//	checksum         CRC-32C of everything before it, 4 bytes
type index []listing

const (
	indexMagic  = "\x89gaeown\x01"
	listingHead = 1 + len(ref{}) + 8 + 8 + 2 + 1
	// maxLabel is how many bytes a label has.
	maxLabel = 100
	// indexGrace is how long a session stays listed after it must have ended.
	indexGrace = 24 * time.Hour
)

// openIndex returns what is in the record of an index.
func openIndex(r *tier.Record) (x index, err error) {
	if r == nil || len(r.Value) == 0 {
		return nil, nil
	}
	b := r.Value
	end := len(b) - crc32.Size
	if end < len(indexMagic) || string(b[:len(indexMagic)]) != indexMagic || binary.BigEndian.Uint32(b[end:]) != crc32.Checksum(b[:end], checksums) {
		return nil, fmt.Errorf("%w: the list of the owner's sessions: %w", tier.ErrUndecodable, errDamaged)
	}
	for in := reader(b[len(indexMagic):end]); len(in) > 0; {
		var l listing
		if len(in) < listingHead || len(in) < listingHead+int(binary.BigEndian.Uint16(in[listingHead-3:]))+int(in[listingHead-1]) {
			return nil, fmt.Errorf("%w: the list of the owner's sessions: %w", tier.ErrUndecodable, errDamaged)
		}
		l.ending = in.bytes(1)[0] != 0
		l.ref = ref(in.bytes(len(l.ref)))
		l.since, l.until = in.micros(), in.micros()
		id, label := binary.BigEndian.Uint16(in.bytes(2)), in.bytes(1)[0]
		l.id, l.label = string(in.bytes(int(id))), string(in.bytes(int(label)))
		x = append(x, l)
	}
	return x, nil
}

// record returns the index as the backup is to keep it. Where it does not fit, it
// goes without labels, the oldest first.
func (s *Store) indexRecord(o Owner, x index) (*tier.Record, error) {
	size := len(indexMagic) + crc32.Size
	expires := microsOf(time.Now())
	for _, l := range x {
		size += listingHead + len(l.id) + len(l.label)
		expires = max(expires, l.until)
	}
	limit := s.Backup.MaxValue(o.id())
	for i := 0; i < len(x) && size > limit; i++ {
		size -= len(x[i].label)
		x[i].label = ""
	}
	if size > limit {
		return nil, fmt.Errorf("%w: too many sessions of one owner", tier.ErrTooLarge)
	}
	b := append(make([]byte, 0, size), indexMagic...)
	for _, l := range x {
		if l.ending {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		b = append(b, l.ref[:]...)
		b = l.until.append(l.since.append(b))
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(l.id))), byte(len(l.label)))
		b = append(append(b, l.id...), l.label...)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, checksums))
	return &tier.Record{Value: b, Expires: expires.time().Add(indexGrace)}, nil
}

func (x index) find(id string) *listing {
	if i := slices.IndexFunc(x, func(l listing) bool { return l.id == id }); i >= 0 {
		return &x[i]
	}
	return nil
}

// list notes that a session has begun, or that it lives for longer. The session
// needs no other update of the index for as long again as it has still to live.
func (x *index) list(id string, st *state, label string) {
	now := microsOf(time.Now())
	st.listed = now + 2*(st.ends-now)
	if l := x.find(id); l != nil {
		l.since, l.until = min(l.since, now), st.listed
		return
	}
	*x = append(*x, listing{id: id, ref: refOf(id), since: now, until: st.listed, label: cut(label)})
}

// move notes that a session which was listed gets another id: it is the same login.
func (x *index) move(was listing, to string, st *state) {
	i := slices.IndexFunc(*x, func(l listing) bool { return l.id == was.id })
	was.id, was.ending = to, false
	*x = slices.Insert(*x, i+1, was)
	x.list(to, st, was.label)
}

// listed returns the record of the owner's index with the session in it.
func (s *Store) listed(current *tier.Record, id string, st *state, label string) (*tier.Record, error) {
	x, err := openIndex(current)
	if err != nil {
		return nil, err
	}
	x.list(id, st, label)
	return s.indexRecord(st.owner, x)
}

// claim makes a session of nobody's that of the owner whom a part names, and
// reports whether it was nobody's.
func (st *state) claim(parts []*part) (label string, claimed bool) {
	for _, p := range parts {
		if st.owner == (Owner{}) && p.change != nil && p.change.Owner != nil && p.change.Owner.Owner != (Owner{}) {
			st.owner, label, claimed = p.change.Owner.Owner, p.change.Owner.Label, true
		}
	}
	return label, claimed
}

// cut returns at most as much of a label as the index keeps.
func cut(label string) string {
	if len(label) <= maxLabel {
		return label
	}
	return strings.ToValidUTF8(label[:maxLabel], "")
}

// mustBeListed reports whether the session may live for longer than its owner's
// index says.
func (st *state) mustBeListed() bool { return st.owner != Owner{} && st.ends > st.listed }

// An unlistedError ends an update that has to change an owner's index as well.
type unlistedError struct{ owner Owner }

func (e *unlistedError) Error() string {
	return "the list of the owner's sessions has to be changed, too"
}

// unlisted returns the unlistedError in err; nil: there is none.
func unlisted(err error) *unlistedError {
	if err == nil {
		return nil
	}
	var missing *unlistedError
	errors.As(err, &missing)
	return missing
}

// ownerAttempts is how often an update is made until it has the indexes that it
// needs: those of the session's owner before and after.
const ownerAttempts = 3

// withIndexes calls f with owners, and again with each that f needs besides.
func withIndexes(owners []Owner, f func(owners []Owner) error) error {
	for range ownerAttempts {
		err := f(owners)
		missing := unlisted(err)
		if missing == nil {
			return err
		}
		owners = append(owners, missing.owner)
	}
	return tier.ErrContention
}

// changeIndex has f change an owner's index.
func (s *Store) changeIndex(ctx context.Context, o Owner, f func(x *index)) error {
	return s.update(ctx, []string{o.id()}, nil, func(current []*tier.Record) ([]*tier.Record, error) {
		x, err := openIndex(current[0])
		if err != nil {
			return nil, err
		}
		was := slices.Clone(x)
		if f(&x); slices.Equal(x, was) {
			return []*tier.Record{nil}, nil
		}
		next, err := s.indexRecord(o, x)
		return []*tier.Record{next}, err
	}, func() {})
}

// An Owned is a session of an owner.
type Owned struct {
	Key   string    // the id that the services know it by
	Ref   string    // names the session, also when it gets another id, and opens nothing
	Since time.Time // of the login
	Label string
}

func (l *listing) owned() Owned { return Owned{l.id, l.ref.String(), l.since.time(), l.label} }

// loadsAtOnce is how many sessions are loaded, or removed, at once.
const loadsAtOnce = 16

// Owned returns the sessions of an owner that live, the latest first. Those that are
// ending are removed in the background: whoever was to end them may have died.
// tier.ErrUnavailable: it cannot be told.
func (s *Store) Owned(ctx context.Context, o Owner) ([]Owned, error) {
	rec, err := s.read(ctx, o.id())
	if err != nil {
		return nil, with(tier.ErrUnavailable, err)
	}
	x, err := openIndex(rec)
	if err != nil {
		return nil, err
	}
	var ending index
	x = slices.DeleteFunc(x, func(l listing) bool {
		if l.ending {
			ending = append(ending, l)
		}
		return l.ending
	})
	s.tidy(ctx, o, ending, "")
	lives := make([]bool, len(x))
	var mu sync.Mutex
	inParallel(loadsAtOnce, len(x), func(i int) {
		l, lerr := s.Load(ctx, x[i].id)
		lives[i] = l != nil || errors.Is(lerr, tier.ErrUndecodable)
		if errors.Is(lerr, tier.ErrUnavailable) {
			mu.Lock()
			defer mu.Unlock()
			err = sessionid.Describe("load session", x[i].id, x[i].id, lerr)
		}
	})
	if err != nil {
		return nil, err
	}
	var all []Owned
	for i, l := range slices.Backward(x) {
		if lives[i] {
			all = append(all, l.owned())
		}
	}
	return all, nil
}

// End removes the sessions of an owner that match, for good. What End has begun
// it ends, also when the request has ended. Without an error no such session
// lives that had begun before: under no id, in no request in flight. With one End
// may be called again. The errors are those of Remove, for any of them.
func (s *Store) End(ctx context.Context, o Owner, match func(Owned) bool) error {
	ended, err := s.detached(ctx, func(ctx context.Context) error { return s.end(ctx, o, match) })
	if !ended {
		return fmt.Errorf("%w: it goes on in the background: %w", tier.ErrNotSaved, err)
	}
	return err
}

func (s *Store) end(ctx context.Context, o Owner, match func(Owned) bool) error {
	var ending index
	if err := s.changeIndex(ctx, o, func(x *index) {
		ending = nil
		for i := range *x {
			if l := &(*x)[i]; match(l.owned()) {
				//rule: owner-ending
				l.ending = true
				ending = append(ending, *l)
			}
		}
	}); err != nil {
		return with(tier.ErrNotSaved, err)
	}
	var (
		mu   sync.Mutex
		gone []string
		errs []error
	)
	inParallel(loadsAtOnce, len(ending), func(i int) {
		l := ending[i]
		err := s.remove(ctx, l.id, emptiedUntil(&Loaded{state: &state{ends: l.until}}))
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			gone = append(gone, l.id)
		} else {
			errs = append(errs, sessionid.Describe("remove session", l.id, l.id, err))
		}
	})
	if err := s.unlist(ctx, o, gone...); err != nil {
		s.Report(o.id(), err) // they are removed
	}
	return errors.Join(errs...)
}

// unlist forgets sessions of an owner that are removed. Where it fails, they stay
// listed until they must have ended.
func (s *Store) unlist(ctx context.Context, o Owner, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	return s.changeIndex(ctx, o, func(x *index) {
		*x = slices.DeleteFunc(*x, func(l listing) bool { return slices.Contains(ids, l.id) })
	})
}

// tidy ends, in the background, the sessions of which an owner has too many, and
// has those forgotten that somebody was removing, or that must have ended a day
// ago. A request that has moved one may have died before it has told the cache, so
// it is removed once more.
func (s *Store) tidy(ctx context.Context, o Owner, x index, but string) {
	var old, over, rest []string
	for _, l := range x {
		switch {
		case l.ending && l.id != but:
			old = append(old, l.id)
		case l.ending:
		case time.Since(l.until.time()) > indexGrace:
			over = append(over, l.id)
		default:
			rest = append(rest, l.id)
		}
	}
	tooMany := 0
	if s.MaxPerOwner > 0 {
		tooMany = max(len(rest)-s.MaxPerOwner, 0)
	}
	if len(old)+tooMany > 0 {
		s.saveInBackground(ctx, o.id(), func(ctx context.Context, s *Store) error {
			ends := slices.Concat(old, s.first(ctx, rest, tooMany))
			return s.end(ctx, o, func(l Owned) bool { return slices.Contains(ends, l.Key) })
		})
	}
	if len(over) > 0 {
		s.saveInBackground(ctx, o.id(), func(ctx context.Context, s *Store) error { return s.forget(ctx, o, over) })
	}
}

// first returns the n sessions that are to end first: those that do not live any
// more, and then the oldest.
func (s *Store) first(ctx context.Context, ids []string, n int) []string {
	if n == 0 {
		return nil
	}
	lives := make([]bool, len(ids))
	inParallel(loadsAtOnce, len(ids), func(i int) {
		l, err := s.Load(ctx, ids[i])
		lives[i] = l != nil || err != nil
	})
	var ended, living []string
	for i, id := range ids {
		if lives[i] {
			living = append(living, id)
		} else {
			ended = append(ended, id)
		}
	}
	//rule: owner-oldest
	return append(ended, living...)[:n]
}

// forget has those of the sessions listed no more that have no record. That time
// says they must have ended is not enough: the clock may be ahead.
func (s *Store) forget(ctx context.Context, o Owner, ids []string) error {
	var gone []string
	for _, id := range ids {
		rec, err := s.read(ctx, id)
		if err != nil {
			return err
		}
		if rec == nil || len(rec.Value) == 0 {
			gone = append(gone, id)
		}
	}
	return s.unlist(ctx, o, gone...)
}
