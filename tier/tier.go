// Package tier has the two interfaces between the session stores and the
// services that keep sessions: a [Cache], which is fast and may forget, and a
// [Backup], which is durable and decides.
//
// The stores of gaesession and cascadestore use App Engine's Memcache and
// Datastore unless they are given others. Package tiertest has a suite that
// shows whether an implementation keeps the contracts written here.
package tier

import (
	"context"
	"errors"
	"time"
)

// The errors that a tier answers with, perhaps wrapped. Any other error means
// that the service failed, that the call may or may not have had its effect,
// and that it may be tried again.
var (
	// ErrContention is what Backup.Update answers when other writers were
	// faster and it gave up. Nothing was written.
	ErrContention = errors.New("too many concurrent changes of the session")

	// ErrNotWritten marks a failure of Backup.Update after which it is certain
	// that nothing was written, as no write was tried. It may be tried again.
	ErrNotWritten = errors.New("nothing was written")

	// ErrExists is what Backup.Insert answers when there is a record already.
	ErrExists = errors.New("session exists already")

	// ErrTooLarge means that the service does not take a value of that size.
	// Nothing was written, and trying again is in vain.
	ErrTooLarge = errors.New("session is too large")

	// ErrRejected means that the service does not take the call, and will not
	// when it is tried again: bad credentials, a record of another form.
	ErrRejected = errors.New("rejected by the service")
)

// A Record is a session as a Backup keeps it.
type Record struct {
	// Value is the session, or empty when the session was removed. A Backup
	// neither looks into it nor keeps the slice.
	Value []byte

	// Expires is when the record is no longer needed, to the microsecond.
	Expires time.Time

	// Token names this version of the record, where the service has versions.
	// It is the Backup's own, at most 64 bytes; empty: not known. Value and
	// Expires are written, Token is not.
	Token []byte
}

// A Backup is durable and strongly consistent: a read sees every write that
// was reported as done before the read began. Its methods may be called by
// several goroutines at once. They return when the context ends, and do not
// panic. A call that may have had its effect they do not make again by
// themselves.
//
// A Backup, or whoever cleans up behind it, may delete a record once its
// Expires is at least [PurgeGrace] ago.
type Backup interface {
	// Get returns the record under that id, with its Token if the service has
	// one; nil and no error when there is none.
	Get(ctx context.Context, id string) (*Record, error)

	// Put writes a record, whatever is there.
	Put(ctx context.Context, id string, r Record) error

	// Insert writes the first record under an id. ErrExists: there is one. A
	// service without conditional inserts may overwrite it instead.
	Insert(ctx context.Context, id string, r Record) error

	// Update replaces the record by what f makes of it, in one atomic step: f
	// is called with what is there (nil: nothing), and what it returns is
	// written only if that is still there then. When f returns nil and no
	// error, nothing is written; when it returns an error, nothing is written
	// and Update returns that error as it is.
	//
	// known is what is probably there; nil: no idea. Update may call f with it
	// before, or without, reading: a service with versions compares Token, one
	// without reads and compares Value and Expires. When it turns out that
	// something else is there, f is called again with that, and nothing of what
	// f returned before was or will be written. f calls no service and must not
	// change what it is given.
	//
	// When Update returns nil, what f returned last is there; its Token has
	// been set if the service has one. After ErrContention or ErrNotWritten
	// nothing was written; after any other error of the service something may
	// have been.
	//
	// No more than [UpdateTime] passes between f and the end of Update.
	Update(ctx context.Context, id string, known *Record, f func(current *Record) (*Record, error)) error

	// Fits reports whether the service takes a value of that many bytes.
	Fits(id string, size int) bool

	// ValidID reports whether the service takes that id.
	ValidID(id string) bool
}

const (
	// PurgeGrace is how long after its expiry a record is kept at least, for
	// clocks that differ, indexes that lag and updates under way.
	PurgeGrace = 5 * time.Minute

	// UpdateTime is how long an Update may take.
	UpdateTime = 270 * time.Second
)

// An Item is a session as a Cache keeps it. A Cache looks into neither field.
type Item struct {
	Flags uint32
	Value []byte

	// Token names the version of the item that Get returned, for
	// CompareAndSwap. It is the Cache's own.
	Token any
}

// An Outcome says what became of a CompareAndSwap that reported no error.
type Outcome int

const (
	Stored   Outcome = iota // the item was replaced
	Conflict                // another item, or another version of it, is there
	Absent                  // nothing is there
)

// A Cache is fast and may lose any item at any time, but never shows an older
// item again once it has shown, or taken, a newer one. Its methods may be
// called by several goroutines at once, and return when the context ends.
//
// A ttl is how long an item may be kept at most; less than a second may be
// rounded up to one. An item with a ttl of zero or less is not kept, but takes
// the place of what was there.
type Cache interface {
	// Get returns nil and no error when there is no item.
	Get(ctx context.Context, id string) (*Item, error)
	// Set stores the item, whatever is there.
	Set(ctx context.Context, id string, it Item, ttl time.Duration) error
	// Add stores the item if there is none, and reports whether it did.
	Add(ctx context.Context, id string, it Item, ttl time.Duration) (bool, error)
	// CompareAndSwap stores the item in place of the version that old.Token
	// names. The same value written again is another version.
	CompareAndSwap(ctx context.Context, id string, old *Item, it Item, ttl time.Duration) (Outcome, error)
	// Fits reports whether the cache takes a value of that many bytes.
	Fits(id string, size int) bool
	// ValidID reports whether the cache takes that id.
	ValidID(id string) bool
}

// None is a Cache that keeps nothing: with it, sessions live in the Backup
// alone. The stores know it, and make no calls for it.
var None Cache = none{}

type none struct{}

func (none) Get(context.Context, string) (*Item, error)                     { return nil, nil }
func (none) Set(context.Context, string, Item, time.Duration) error         { return nil }
func (none) Add(context.Context, string, Item, time.Duration) (bool, error) { return true, nil }
func (none) Fits(string, int) bool                                          { return false }
func (none) ValidID(string) bool                                            { return true }
func (none) CompareAndSwap(context.Context, string, *Item, Item, time.Duration) (Outcome, error) {
	return Absent, nil
}
