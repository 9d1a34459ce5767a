// Package gae is App Engine as the stores use it: Memcache as a [tier.Cache],
// Datastore as a [tier.Backup], the purge of what expired, and contexts that
// outlive their request.
//
// A call returns at the deadline of its context, and is not made after the
// context was cancelled. But a cancellation does not end a call that is under
// way: the appengine package looks at the deadline alone.
package gae
