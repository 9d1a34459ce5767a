package gaesession

import (
	"errors"
	"runtime"
	"sync/atomic"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/cloudlog"
)

// Stores that are looked at when the app lets go of them. To look at each one would
// cost more than a read may.
const (
	watchFirst = 16
	watchEvery = 64
)

var (
	stores        atomic.Uint64 // how many this process has made
	dropWasLogged atomic.Bool
	errDropped    = errors.New("gaesession: changes of a session were lost: nobody called Close of its store, or of the session.Manager, " +
		"after them. This is logged once, and other requests may lose changes as well")
)

// A watchedStore is what an app has of a store that is looked at: nothing else of
// the store leads to it.
type watchedStore struct{ *memcacheStore }

// Close implements session.Store. The store is not let go of before it has ended.
func (w *watchedStore) Close() {
	w.memcacheStore.Close()
	runtime.KeepAlive(w)
}

// watch returns what the app is to have of a store.
func watch(s *memcacheStore) session.Store {
	if n := stores.Add(1); n > watchFirst && n%watchEvery != 0 || dropWasLogged.Load() {
		return s
	}
	w := &watchedStore{s}
	whenUnreachable(w, s)
	return w
}

// unwatched returns the store that an app's store is; nil: it is another one.
func unwatched(store session.Store) *memcacheStore {
	switch s := store.(type) {
	case *memcacheStore:
		return s
	case *watchedStore:
		return s.memcacheStore
	}
	return nil
}

// dropped logs, once, that the app has let go of a store with unsaved changes.
func (s *memcacheStore) dropped() {
	if !dropWasLogged.Load() && s.hasUnsaved() && dropWasLogged.CompareAndSwap(false, true) {
		cloudlog.Default().ErrorContext(s.ctx, "session store", "error", errDropped)
	}
}

// hasUnsaved reports whether a session has a change that no Close has tried to save.
func (s *memcacheStore) hasUnsaved() bool {
	s.mu.Lock()
	entries := s.moreEntries()
	if s.first != nil {
		entries = append(entries, s.first)
	}
	had := make([]session.Session, len(entries))
	for i, e := range entries {
		had[i] = e.sess
	}
	s.mu.Unlock()
	for i, e := range entries {
		if had[i] == nil {
			continue
		}
		if d, err := s.draft(had[i]); err == nil && e.copy.HasUnsaved(d) {
			return true
		}
	}
	return false
}
