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
	"time"
)

// A Record is a session as a Backup keeps it.
type Record struct {
	// Value is the session, or empty when the session was removed. A Backup
	// does not look into it.
	Value []byte

	// Expires is when the record is no longer needed, to the microsecond.
	Expires time.Time

	// Token names this version of the record. The Backup draws it, it has 1 to
	// 64 bytes, and no Backup of another kind takes it for one of its own. It may
	// stand for the content: the same Value and Expires, written again, may have
	// the same Token. Whoever writes a record leaves Token empty.
	Token []byte
}

// A Guess is what a caller of Backup.Update expects to find, and what it then
// wants to be there. It saves a call where it is right.
type Guess struct {
	Token []byte  // of the record that is expected; empty: there is none
	Next  *Record // what is to replace it
}

// A Backup is durable and strongly consistent: a read sees every write that
// was reported as done before the read began. Its methods may be called by
// several goroutines at once. They return when the context ends, and do not
// panic. They do not repeat a call that may have had its effect.
//
// A Backup keeps no slice and no pointer that it is given, and hands on none
// that it keeps. Nobody may tell a record by its address.
//
// A Backup is comparable with ==, as a pointer is, and equal ones keep the same
// sessions. The stores refuse to work with one that is not comparable.
//
// A Backup, or whoever cleans up behind it, may delete a record once its
// Expires is at least [PurgeGrace] ago.
type Backup interface {
	// Get returns the record under that id, with its Token; nil and no error
	// when there is none.
	Get(ctx context.Context, id string) (*Record, error)

	// Put writes a record, whatever is there.
	Put(ctx context.Context, id string, r Record) error

	// Insert writes the first record under an id. ErrExists: there is one. A
	// service without conditional inserts may overwrite it instead.
	Insert(ctx context.Context, id string, r Record) error

	// Update replaces the records under ids by what f makes of them, in one
	// atomic step: all of them or none. The ids differ from each other. A Get may
	// show some of them new and others old until Update has returned; f is never
	// given such a mixture if what it returns is written.
	//
	// f is called with what is there, in the order of ids; nil: there is no
	// record. It returns what is to be there, in the same order; nil: the record
	// stays what it is. What it returns is written only if every record that it
	// replaces is still what f was given. Otherwise f is called again, and
	// nothing of what it returned before was or will be written. When f returns
	// an error, nothing is written and Update returns that error as it is. When
	// it replaces nothing, nothing is written. f calls no service and does not
	// change what it is given.
	//
	// With a guess there is one id. If the record is still guess.Token, guess.Next
	// is written and f is not called. Otherwise f is called with what is there,
	// and nothing of guess was or will be written. A Token that is none of this
	// Backup's is a wrong guess.
	//
	// When Update returns nil, what f returned last is there, or guess.Next if f
	// was not called, and each record that was written has its Token set. After
	// ErrContention or ErrNotWritten nothing was written; after any other error
	// of the service something may have been: all of it or nothing.
	//
	// No more than [UpdateTime] passes between the call of f, or of Update with a
	// guess, and the end of Update.
	Update(ctx context.Context, ids []string, guess *Guess, f func(current []*Record) ([]*Record, error)) error

	// MaxValue returns how many bytes the Value of a record under that id may
	// have.
	MaxValue(id string) int

	// ValidID reports whether the service takes that id.
	ValidID(id string) bool
}

// ContentTokens is implemented by a Backup whose tokens stand for the content of
// a record. It saves the first change after a session's creation a call.
type ContentTokens interface {
	// TokenOf returns the Token that the record has once it is written.
	TokenOf(r Record) []byte
}

const (
	// OwnerPrefix begins the ids of records that list an owner's sessions, and of no
	// others. Such a record may be written again long after it has expired. So a
	// purge deletes it in a transaction, and only if it still is expired then.
	OwnerPrefix = "owner:"

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
// called by several goroutines at once, and return when the context ends: at its
// deadline, and when it is cancelled by its deadline at the latest.
//
// A Cache is comparable with ==, as a pointer is, and equal ones keep the same
// sessions. The stores refuse to work with one that is not comparable.
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
