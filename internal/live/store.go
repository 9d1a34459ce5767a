package live

import (
	"context"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

// ErrOtherForm is in the error of an Open that found something under the id which
// nothing shows to be a session: an item of the app's own, as a rule, which a
// visitor has named. Visitors can have it reported as often as they like.
var ErrOtherForm = tiered.ErrOtherForm

// Tiers say which services keep a request's sessions, and how they are called. Here
// both services may be nil, less than one of Retries means 3, and more than 100 mean
// 100. Report gets a session's key.
type Tiers = tiered.Options

// Options say how a request's sessions are kept.
type Options struct {
	Form        Form
	Async       bool          // save changes in the backup in a goroutine
	MaxLifetime time.Duration // of a session, however often it is used; 0: no limit
	MaxLength   int           // bytes that a changed session may have; 0: no limit

	// OwnerScope has the owners of sessions told apart from those of other
	// sessions in the same services: the name of their cookie.
	OwnerScope string
}

// A Store is one request's way to its sessions. Its methods may be called by
// several goroutines at once.
type Store struct {
	tiers tiered.Store
	opt   Options
	err   error // why it cannot work
}

var errIncomparable = fmt.Errorf("%w: a Cache and a Backup must be comparable, as pointers are", tier.ErrUnavailable)

// New returns a Store for one request. One whose services are not comparable has
// errors in place of sessions: what a process knows of services, it knows them by.
func New(t Tiers, o Options) *Store {
	const retries, maxRetries = 3, 100
	if t.Retries < 1 {
		t.Retries = retries
	}
	t.Retries = min(t.Retries, maxRetries)
	s := &Store{tiers: tiered.Store{Options: t, Form: o.Form}, opt: o}
	if !isComparable(t.Cache) || !isComparable(t.Backup) {
		s.err = errIncomparable
	}
	return s
}

// Err says why the store cannot work: tier.ErrUnavailable if a service is not
// comparable.
func (s *Store) Err() error { return s.err }

func isComparable(v any) (is bool) {
	defer func() { _ = recover() }() // of the comparison; asking package reflect costs 2 us
	same := v
	return v == same
}

// Drain waits until no background work of this process is under way, or until
// ctx is done. A nil ctx never is.
func Drain(ctx context.Context) error {
	return tiered.Drain(OrBackground(ctx))
}

// OrBackground makes a nil context one that has no end.
func OrBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}

// ValidID reports whether a session may have that id: the services take its key,
// and nothing else is kept under such names.
func (s *Store) ValidID(id string) bool { return s.takes(id, Key(id)) }

func (s *Store) takes(id, key string) bool {
	return id != "" && !isReserved(id) &&
		(s.tiers.Cache == nil || s.tiers.Cache.ValidID(key)) && (s.tiers.Backup == nil || s.tiers.Backup.ValidID(key))
}

// keeps reports whether there is a service that keeps sessions.
func (s *Store) keeps() bool { return s.tiers.Cache != nil || s.tiers.Backup != nil }

// RemoveID removes the session of that id, where there is one. It writes nothing
// where there is none.
func (s *Store) RemoveID(ctx context.Context, id string) error {
	if s.err != nil {
		return s.err
	}
	key := Key(id)
	l, err := s.tiers.Load(ctx, key)
	if l == nil {
		return err // what nobody can decode may be the app's own
	}
	// What a service could not be told, or could not read, the removal makes up
	// for.
	return s.tiers.Remove(ctx, key, l)
}

// forever is longer than any session lives.
const forever = 100 * 365 * 24 * time.Hour

// A Lifetime says how long a session lives.
type Lifetime struct {
	Used    time.Time     // last access
	Idle    time.Duration // how long it lives when it is not used
	Refresh time.Duration // how old the stored access time may become
	Born    time.Time     // when it began; zero: not known
}

// end is when the session ends that is not used for idle after its last access.
// It is the one place that says when a session ends.
func (s *Store) end(l Lifetime, idle time.Duration) time.Time {
	ends := l.Used.Add(idle)
	if s.opt.MaxLifetime > 0 && !l.Born.IsZero() {
		if last := l.Born.Add(min(s.opt.MaxLifetime, forever)); last.Before(ends) {
			return last
		}
	}
	return ends
}

// isOver reports whether a session has lived for as long as any may, though an
// instance with another limit may have saved that it lives on.
func (s *Store) isOver(l *tiered.Loaded) bool {
	return s.opt.MaxLifetime > 0 && !l.Born().IsZero() && time.Since(l.Born()) >= min(s.opt.MaxLifetime, forever)
}

// storedEnd is when the services let go of the session. So that accesses which
// are not stored never end it early, that is one refresh later.
func (s *Store) storedEnd(l Lifetime) time.Time {
	return s.end(l, min(l.Idle, forever)+min(l.Refresh, forever))
}

// endsEarly reports whether the services would end the session too early, or have
// times of a clock that was far ahead.
func (s *Store) endsEarly(c *tiered.Loaded, l Lifetime) bool {
	return c.Ends().Before(s.end(l, min(l.Idle, forever)).Truncate(time.Microsecond)) || c.ClockWasAhead()
}

// needsRefresh reports whether the services have too old an access time of the
// session; that does not matter once it has come so close to its MaxLifetime that no
// use makes it live longer.
func (s *Store) needsRefresh(c *tiered.Loaded, l Lifetime) bool {
	was := l
	was.Used = c.Used()
	return !was.Used.IsZero() && l.Used.Sub(was.Used) >= l.Refresh && s.storedEnd(was).Before(s.storedEnd(l))
}
