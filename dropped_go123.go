//go:build !go1.24

package gaesession

// whenUnreachable does nothing: a finalizer, which is what older versions of Go
// have, would keep a store for ever that leads to itself.
func whenUnreachable(*watchedStore, *memcacheStore) {}
