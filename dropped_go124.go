//go:build go1.24

package gaesession

import "runtime"

// whenUnreachable has s.dropped called when nobody can use w any more.
func whenUnreachable(w *watchedStore, s *memcacheStore) {
	runtime.AddCleanup(w, (*memcacheStore).dropped, s)
}
