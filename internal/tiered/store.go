package tiered

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// The defaults of a Store's times.
const (
	DefaultCacheTimeout  = 500 * time.Millisecond
	DefaultBackupTimeout = 5 * time.Second
)

// Options say which services keep sessions, and how they are called.
type Options struct {
	// Either may be nil, not both.
	Cache  tier.Cache // comparable
	Backup tier.Backup

	// Retries is how often a call that fails is tried; less than one means one.
	Retries int
	// CacheTimeout is how long one operation on the cache may take, with all
	// attempts; BackupTimeout is that of one attempt at an operation on the
	// backup. Zero means the default.
	CacheTimeout, BackupTimeout time.Duration

	// Background returns a context of no request, in which a save in the background
	// is tried again that a service refused in the request's own, and in which what
	// is pending is told. Nil, or a nil context: services answer in the name of a
	// request only.
	Background func(ctx context.Context) context.Context

	// Report gets the errors that no method returns: those of background work,
	// and of a service whose failure another one made up for.
	Report func(id string, err error)

	// Shared names the services, and the namespace of a request. Stores of this
	// process with an equal name commit the changes of one session together, and
	// share what is pending. Nil, or a nil name: each on its own.
	Shared func(ctx context.Context, c tier.Cache, b tier.Backup) any

	// MaxPerOwner is how many sessions an owner may have; 0: no limit.
	MaxPerOwner int

	// Trace is told what the store does; nil: nobody is.
	Trace *tier.Trace
}

// A Store is one request's way to the services that keep sessions. Its methods may
// be called by several goroutines at once. It must not be copied.
type Store struct {
	Options
	Form Form

	cacheGone atomic.Int64 // until then, in Unix nanoseconds, this request does not call the cache
	graceUsed atomic.Bool  // this request has had its second, see finishing
}

// A Form knows what the bytes of a session mean.
type Form interface {
	// Inspect says what is in a session that was stored without a trailer.
	Inspect(value []byte) (Info, error)

	// Merge returns into with the attributes that take names as from has them:
	// set to the same, or deleted. The result has the later of both access
	// times, if a session has one. It changes and keeps no argument.
	Merge(into, from []byte, take func(attribute string) bool) ([]byte, error)

	// Rename returns the session as it is stored under another id.
	Rename(value []byte, id string) ([]byte, error)
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
	Born    time.Time // when the session began, if nothing stored says so
	MaxAge  *int32    // the session's own MaxAge in seconds; nil: as it was
	// Owner says whose the session is with the change; nil: as it was. Only a
	// session that is created or moved can get another owner.
	Owner *Ownership
}

// Loaded is a session as a request has it: what its change starts from.
type Loaded struct {
	state *state
	item  *item // what the cache has: a value, something to be replaced by a refill, or nil: not known
	// cached says that the cache had the session, though the request does not
	// hold its item any more.
	cached bool
	at     time.Time // when it was loaded; zero: just now
	err    error     // the stored bytes are not this session
}

// Value is the session's bytes.
func (l *Loaded) Value() []byte { return l.state.value }

// Err says why the stored bytes cannot be this session; nil: nothing speaks
// against it. Such a session can be removed, and nothing else.
func (l *Loaded) Err() error { return l.err }

// IsCached reports whether the bytes are the cache's.
func (l *Loaded) IsCached() bool { return l.item.is(value) }

// IsLegacy reports whether the bytes were stored without a trailer, and nobody
// has changed them since.
func (l *Loaded) IsLegacy() bool { return l.state.legacy }

// Used, Ends and Born are the times of the session; zero: not known.
func (l *Loaded) Used() time.Time { return l.state.used.time() }
func (l *Loaded) Ends() time.Time { return l.state.ends.time() }
func (l *Loaded) Born() time.Time { return l.state.born.time() }

// Owner is whose the session is, as far as that is stored.
func (l *Loaded) Owner() Owner { return l.state.owner }

// IsListedUntil reports whether a session of that owner needs no change of the
// owner's index to live until then.
func (l *Loaded) IsListedUntil(o Owner, ends time.Time) bool {
	return l.state.owner == o && microsOf(ends) <= l.state.listed
}

// MaxAge is the session's own MaxAge in seconds, if it has one.
func (l *Loaded) MaxAge() (seconds int32, ok bool) {
	_, ok = l.state.find(maxAgeName)
	return l.state.maxAge, ok
}

// ClockWasAhead reports whether the stored times are those of a clock that was
// far ahead, and have to be written again.
func (l *Loaded) ClockWasAhead() bool { return l.state.clockWasAhead }

// isOld reports whether deletions that were made since may be forgotten.
func (l *Loaded) isOld() bool { return !l.at.IsZero() && time.Since(l.at) > sweepTime }

// Unknown is a session that the services may have, or may have had.
func Unknown() *Loaded { return &Loaded{state: &state{unsavedAll: true}} }

// Private is a session that no service has, and none will have.
func Private(c *Change) *Loaded {
	st := &state{value: c.Value, used: microsOf(c.Used), ends: microsOf(c.Ends), born: microsOf(c.Born)}
	if c.MaxAge != nil {
		st.maxAge = *c.MaxAge
		st.set([]cell{{name: maxAgeName, at: firstStamp}})
	}
	return &Loaded{state: st}
}

// Elsewhere is the session under another id, of which nothing is known but what
// it was when it was loaded.
func (l *Loaded) Elsewhere() *Loaded {
	st := l.state.clone()
	st.token = nil
	return &Loaded{state: st, cached: l.cached || l.IsCached(), at: l.at}
}

// isRefusal reports whether an error says no to a change, while the services are
// well.
func isRefusal(err error) bool {
	return errors.Is(err, tier.ErrRemoved) || errors.Is(err, tier.ErrTooLarge) ||
		errors.Is(err, errMerge) || errors.Is(err, errEndOfTime) || unlisted(err) != nil
}

// finishTime is what a request is granted for its last calls when its context
// has ended, once.
const finishTime = time.Second

// finishing returns ctx or, when ctx has ended, a context for the last calls of
// a change.
func (s *Store) finishing(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil || s.graceUsed.Swap(true) {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), finishTime)
}

// background returns a Store for work that does not end with the request.
func (s *Store) background() *Store { return &Store{Options: s.Options, Form: s.Form} }

func (s *Store) shared(ctx context.Context) any {
	if s.Shared == nil {
		return nil
	}
	return s.Shared(ctx, s.Cache, s.Backup)
}

// notSaved is the error of a change that no service has taken.
func notSaved(err error) error {
	if isRefusal(err) {
		return err
	}
	return with(tier.ErrNotSaved, err)
}

// with adds a sentinel to the error of a service.
func with(sentinel, err error) error {
	if err == nil || errors.Is(err, sentinel) {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}
