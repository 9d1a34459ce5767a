package tiered

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrRemoved means that the session was removed, here or by another
	// request, or has expired, and that the change was therefore not saved.
	ErrRemoved = errors.New("session was removed")

	// ErrTooLarge means that the session's value does not fit into the service
	// that has to hold it. What was saved before stays as it was.
	ErrTooLarge = errors.New("session is too large")

	// ErrUnavailable means that services failed, so that it cannot be told
	// whether there is a session.
	ErrUnavailable = errors.New("session services are unavailable")

	// ErrContention is what a [Backup] answers when its transaction was not
	// committed because another one was.
	ErrContention = errors.New("too many concurrent changes of the session")
)

// A Record is a session as a backup keeps it.
type Record struct {
	Value   []byte    // the session; empty: it was removed
	Expires time.Time // from then on there is no session
}

// An Item is a session as a cache keeps it. What its flags and value mean is
// said in item.go.
type Item struct {
	Flags uint32
	Value []byte

	// Token is the cache's own: it identifies the version of the item that Get
	// returned for CompareAndSwap.
	Token any
}

// Outcome says what became of a CompareAndSwap that reported no error.
type Outcome int

const (
	Stored   Outcome = iota // the item was replaced
	Conflict                // another item, or another version of it, is there
	Absent                  // nothing is there
)

// A Cache is fast and may lose anything at any time. Every method may be
// called by several goroutines at once. A ttl is how long the item may be
// kept at most, at a precision of one second.
type Cache interface {
	// Get returns nil and no error when there is no item.
	Get(ctx context.Context, id string) (*Item, error)
	Set(ctx context.Context, id string, it Item, ttl time.Duration) error
	// Add stores the item if there is none, and tells whether it did.
	Add(ctx context.Context, id string, it Item, ttl time.Duration) (bool, error)
	// CompareAndSwap stores the item in place of the version old.Token names.
	CompareAndSwap(ctx context.Context, id string, old *Item, it Item, ttl time.Duration) (Outcome, error)
	// Delete reports no error when there is no item.
	Delete(ctx context.Context, id string) error
	// Fits tells whether the cache takes a value of that many bytes.
	Fits(id string, size int) bool
}

// PurgeGrace is how long after its expiry a record is purged at the earliest: it
// is left to clocks that differ, to indexes that lag and to transactions under
// way.
const PurgeGrace = 5 * time.Minute

// A Backup is durable and strongly consistent: it decides what is true. It may
// lose a record whose expiry is more than [PurgeGrace] ago, whatever is done with
// the record meanwhile.
type Backup interface {
	// Get returns nil and no error when there is no record.
	Get(ctx context.Context, id string) (*Record, error)
	Put(ctx context.Context, id string, r Record) error
	// Transact runs one attempt of a transaction: it reads the record (nil when
	// there is none), calls f with it and writes what f returns (nil: nothing).
	// An error of f is returned as it is and nothing is written. ErrContention:
	// another transaction came first, nothing was written. Between the read and
	// the commit there are 270 s at most.
	Transact(ctx context.Context, id string, f func(current *Record) (*Record, error)) error
	// Fits tells whether the backup takes a value of that many bytes.
	Fits(id string, size int) bool
}
