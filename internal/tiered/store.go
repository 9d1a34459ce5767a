package tiered

import (
	"context"
	"errors"
	"time"

	"github.com/gaesession/gaesession/tier"
)

var (
	// ErrRemoved means that the session was removed, here or by another
	// request, or has expired, and that the change was therefore not saved.
	ErrRemoved = errors.New("session was removed")

	// ErrUnavailable means that services failed, so that it cannot be told
	// whether there is a session.
	ErrUnavailable = errors.New("session services are unavailable")

	// errMerge marks the errors of Inspect and Merge.
	errMerge = errors.New("merge")
)

// A Store keeps sessions in a cache and a backup. Either may be nil, not both.
// Its methods may be called by several goroutines at once.
type Store struct {
	Cache  tier.Cache
	Backup tier.Backup

	// Inspect says what is in a session that was stored without a trailer.
	Inspect func(value []byte) (Info, error)

	// Merge returns into with the attributes that take names as from has them:
	// set to the same, or deleted. The result has the later of both access
	// times, if a session has one. No argument may be changed or kept.
	Merge func(into, from []byte, take func(name string) bool) ([]byte, error)

	// Retries is how often a call that fails is tried; less than one means one.
	Retries int

	// Background returns the context in which background work is tried again
	// when a service refused it in the request's own; nil, or a nil context: it
	// is not tried again.
	Background func(ctx context.Context) context.Context

	// Report gets the errors that no method returns: those of background work,
	// and of a service whose failure another one made up for.
	Report func(id string, err error)

	// Shared names the services and the namespace: changes of one session, by
	// stores of this process with an equal name, are committed together. Nil,
	// or a nil name: each on its own.
	Shared func() any
}

// An Info is what the bytes of a session say of it.
type Info struct {
	Names []string  // of its attributes
	Used  time.Time // last access; zero: not known, and older than any
	Ends  time.Time // zero: not known
}

// A Change is what a request has made of a session.
type Change struct {
	Value   []byte    // the session with the change
	Set     []string  // the attributes it has set
	Deleted []string  // the attributes it has deleted
	Used    time.Time // last access
	Ends    time.Time // from then on there is no session
}

// Loaded is a session as a request has it: what its change starts from.
type Loaded struct {
	state *state
	item  *item        // the cache's item that state is of; nil: none
	known *tier.Record // what the backup holds; see record
	// cached says that the cache had the session, though the request does not
	// hold its item any more.
	cached bool
	at     time.Time // when it was loaded; zero: just now
	fill   *item     // what a refill has to replace; a nil raw: nothing
}

// isOld reports whether deletions that were made since may be forgotten.
func (l *Loaded) isOld() bool { return !l.at.IsZero() && time.Since(l.at) > tombstoneTTL }

// Value is the session.
func (l *Loaded) Value() []byte { return l.state.value }

// FromCache reports whether the cache had it.
func (l *Loaded) FromCache() bool { return l.item != nil }

// Ends is when the session ends that is not used any more; zero: not known.
func (l *Loaded) Ends() time.Time { return l.state.ends }

// New is a session that may have been saved before, by a call that reported an
// error, or may not be known to any service.
func New() *Loaded {
	return &Loaded{state: &state{whole: true}}
}

// Saved is a session that is saved nowhere but in the request.
func Saved(c Change) *Loaded {
	return &Loaded{state: &state{value: c.Value, used: c.Used, ends: c.Ends}}
}

// removedTTL keeps the removal marker and the emptied record for as long as the
// longest request may run: 24 h, on App Engine with manual scaling.
const removedTTL = 24 * time.Hour

// finishTime is what is left for the last calls of a change when the request's
// context has ended meanwhile.
const finishTime = 5 * time.Second

// finishing returns ctx, or what is granted to the last calls of a change when
// ctx has ended.
func finishing(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), finishTime)
}

// isRefusal tells an error that says no to a change from a failing service.
func isRefusal(err error) bool {
	return errors.Is(err, ErrRemoved) || errors.Is(err, tier.ErrTooLarge) || errors.Is(err, errMerge)
}
