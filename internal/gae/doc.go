// Package gae is App Engine as the stores use it: Memcache as a [tier.Cache],
// Datastore as a [tier.Backup], the purge of what expired, and contexts that
// outlive their request.
//
// A call ends with the deadline of its context. Once it is under way it does not
// end when the context is cancelled: the appengine package offers no way to.
package gae
