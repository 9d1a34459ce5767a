package gaesession

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/live"
)

// NewMemcacheStore returns a store with the default options, for one request.
func NewMemcacheStore(ctx context.Context) session.Store {
	return NewMemcacheStoreOptions(ctx, nil)
}

// NewMemcacheStoreOptions returns a store for one request, whose App Engine
// context ctx is; the store must not be used when the request has ended. It is
// safe for concurrent use by the request's goroutines. Close saves what was
// changed, so the app has to call it, which closing the session.Manager does. A
// store that the app lets go of with changes that no Close has saved is an error of
// the app: the first one that the garbage collector meets is written to the log of
// OnError's default, whatever OnError is. Of the first 16 stores of a process each
// is looked at, then one of 64. That needs Go 1.24.
//
// The options are copied; nil stands for the defaults.
//
// The store's methods:
//
//   - Get returns the session with that id, its access time set to now, or nil
//     when there is none, or when that cannot be told, which is reported. It asks
//     the services once for each id; later calls return the same Session value.
//     An id that the services do not take is no session's, and they are not
//     called for it.
//   - Add takes up a session that session.NewSession made, to be saved by Close.
//     Its id must not get to the client before Close has returned, and it must
//     not be added to another store as well.
//   - Remove removes the session for good, at once. When a service fails, which
//     is reported, the removal continues in the background; the request has no
//     such session any more in any case.
//   - Close saves new and changed sessions. Another call saves what was changed
//     since, and repeats nothing. The other methods may be called after it. That
//     a store with changes was dropped without Close is logged, once a process,
//     of some of the stores, where Go has runtime.AddCleanup.
func NewMemcacheStoreOptions(ctx context.Context, o *MemcacheStoreOptions) session.Store {
	return watch(newStore(ctx, o))
}

func newStore(ctx context.Context, o *MemcacheStoreOptions) *memcacheStore {
	s := &memcacheStore{}
	s.open(ctx, o)
	return s
}

type memcacheStore struct {
	services

	mu    sync.Mutex
	first *entry            // the only one, as a rule
	more  map[string]*entry // the others, by id; one that is to move under both ids
}

// An entry is a session of the request.
type entry struct {
	id   string
	copy *live.Copy

	// Guarded by the store's mutex.
	sess session.Session // that the app has; nil: none
}

// entry returns the entry for id, or nil if no session can have such an id.
func (s *memcacheStore) entry(id string) *entry {
	if !s.live.ValidID(id) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil && s.first.id == id {
		return s.first
	}
	if e := s.more[id]; e != nil {
		return e
	}
	e := &entry{id: id, copy: s.live.Copy(id)}
	if s.first == nil {
		s.first = e
	} else {
		s.also(id, e)
	}
	return e
}

// also makes id lead to an entry. s.mu is held.
func (s *memcacheStore) also(id string, e *entry) {
	if s.more == nil {
		s.more = make(map[string]*entry)
	}
	s.more[id] = e
}

// session returns what the app has of an entry's session; nil: there is none.
func (s *memcacheStore) session(e *entry) session.Session {
	if !e.copy.Exists() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.sess
}

// Get implements session.Store.
func (s *memcacheStore) Get(id string) session.Session {
	e := s.entry(id)
	if e == nil {
		return nil
	}
	err := s.load(e.copy, id, func(sess session.Session) {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.sess = sess
	})
	s.report("load session", id, err)
	return s.session(e)
}

// Add implements session.Store.
func (s *memcacheStore) Add(sess session.Session) {
	const doing = "add session"
	if sess == nil {
		s.report(doing, "", ErrInvalidID)
		return
	}
	id := sess.ID()
	e := s.entry(id)
	if e == nil {
		s.report(doing, id, ErrInvalidID)
		return
	}
	// A Get in parallel that finds the copy added has to find the session, too.
	s.mu.Lock()
	alone := e.sess == nil
	if alone {
		e.sess = sess
	}
	s.mu.Unlock()
	err := e.copy.Add(sess.New())
	s.report(doing, id, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		e.sess = sess
	case alone && e.sess == sess:
		e.sess = nil
	}
}

// RegenerateID has the store give a session of it a new id when it is closed, so
// that an id which was known before is useless: call it at login. The
// session ends under the old id in the same step in which it begins under the new
// one, and keeps its attributes, constant attributes, timeout and creation time,
// and what other requests save until then. Requests that save under the old id
// later get ErrRemoved reported.
//
// Store is one that NewMemcacheStore or NewMemcacheStoreOptions returned, sess a
// session of it. RegenerateID returns the session to continue with, whose ID is
// the new id, for the session.Manager's Add to send it to the client. When Close
// reports ErrNotSaved the session may still be under its old id; with Sessions the
// client gets no id that was not saved.
//
// The errors: ErrInvalidID for a session that the store does not have, ErrRemoved,
// ErrUnavailable and ErrUndecodable.
func RegenerateID(store session.Store, sess session.Session) (session.Session, error) {
	const doing = "regenerate id of session"
	s := unwatched(store)
	if s == nil {
		return nil, fmt.Errorf("gaesession: %s: %T is no store of this package", doing, store)
	}
	if sess == nil {
		return nil, describe(doing, "", ErrInvalidID)
	}
	id := sess.ID()
	e := s.entry(id)
	if e == nil {
		return nil, describe(doing, id, ErrInvalidID)
	}
	switch err := e.copy.Err(); {
	case err != nil:
		return nil, describe(doing, id, err)
	case e.copy.IsRemoved():
		return nil, describe(doing, id, ErrRemoved)
	case s.session(e) == nil:
		return nil, describe(doing, id, ErrInvalidID)
	}
	next := session.NewSession().ID()
	if strings.HasPrefix(id, live.HashedPrefix) {
		next = live.HashedPrefix + next
	}
	if err := e.copy.Regenerate(next); err != nil {
		return nil, describe(doing, id, err)
	}
	next = e.copy.NextID()
	s.mu.Lock()
	defer s.mu.Unlock()
	e.sess = newNamed(e.sess, next)
	s.also(next, e)
	return e.sess, nil
}

// Remove implements session.Store.
func (s *memcacheStore) Remove(sess session.Session) {
	const doing = "remove session"
	if sess == nil {
		s.report(doing, "", ErrInvalidID)
		return
	}
	id := sess.ID()
	e := s.entry(id)
	if e == nil {
		s.report(doing, id, ErrInvalidID)
		return
	}
	s.report(doing, id, e.copy.Remove(s.ctx))
}

// maxCloses is how many sessions Close saves at once.
const maxCloses = 16

// Close implements session.Store.
func (s *memcacheStore) Close() {
	s.mu.Lock()
	first, more := s.first, s.moreEntries()
	s.mu.Unlock()
	if first == nil {
		return
	}
	if len(more) == 0 {
		s.close(first)
		return
	}
	var saves sync.WaitGroup
	places := make(chan struct{}, maxCloses)
	for _, e := range append(more, first) {
		places <- struct{}{}
		saves.Add(1)
		go func() {
			defer func() { <-places; saves.Done() }()
			s.close(e)
		}()
	}
	saves.Wait()
}

// moreEntries returns all entries but the first. s.mu is held.
func (s *memcacheStore) moreEntries() (more []*entry) {
	for id, e := range s.more {
		if e.id == id {
			more = append(more, e)
		}
	}
	return more
}

// close saves what was changed in a session since it was loaded or saved.
func (s *memcacheStore) close(e *entry) {
	s.mu.Lock()
	sess := e.sess
	s.mu.Unlock()
	if sess != nil {
		s.report("save session", e.id, s.save(e.copy, sess, false, false))
	}
}

// RemoveID removes the session with that id for good, as the Remove of a store
// with these options does: also one that this instance cannot decode, for which
// Get returns nil. Where there is no session of that id it writes nothing. It
// returns ErrInvalidID, or why a service failed; then the session may still be
// there.
func RemoveID(ctx context.Context, id string, o *MemcacheStoreOptions) error {
	const doing = "remove session"
	s := newStore(ctx, o)
	if !s.live.ValidID(id) {
		return describe(doing, id, ErrInvalidID)
	}
	if err := s.live.RemoveID(s.ctx, id); err != nil && !errors.Is(err, ErrRemoved) {
		return describe(doing, id, err)
	}
	return nil
}

// Drain waits until the background work of this process has ended, and returns
// nil; or until ctx is done, and returns why. Background work is what
// AsyncDatastoreSave leaves to be saved, and what a service that failed is still
// to be told. Call Drain when the instance is told to stop: App Engine sends
// SIGTERM up to three seconds before it kills the process
// (https://cloud.google.com/appengine/docs/standard/how-instances-are-managed#shutdown).
// A save that does not end in time is lost only if Memcache loses the session
// before its next request, which saves it again.
func Drain(ctx context.Context) error { return live.Drain(ctx) }
