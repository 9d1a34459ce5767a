package gaesession

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/tier"
)

const defaultDSEntityName = "sess_"

// MemcacheStoreOptions are the options of a store. Zero values select the
// defaults.
type MemcacheStoreOptions struct {
	// KeyPrefix is put before a session's id to make its Memcache key. With the
	// id it may be 250 bytes long at most and must not contain a NUL byte; ids
	// that do not fit are malformed. The default is no prefix.
	//
	// The id is what a visitor's cookie says. Without a prefix it can name any
	// item of the namespace, so an app that also caches bytes which visitors
	// choose should set one: else such bytes could be taken for a session.
	// Use one prefix for one DSEntityName; see there.
	KeyPrefix string

	// Retries is how often a call to Memcache or Datastore is tried when the
	// service fails; 3 by default, 100 at most. Between the attempts the store
	// waits, from 10 ms on, longer each time, but never beyond the context's
	// deadline. When other requests' changes get ahead of one in Datastore, it is
	// tried up to 24 times more.
	Retries int

	// Codec turns a session into bytes and back. The default is
	// memcache.Gob. Marshal is called with the session's Mutex locked for
	// reading, so it must not call methods of the session that lock it. A panic
	// of the codec counts as its error.
	Codec *memcache.Codec

	// OnlyMemcache keeps sessions in Memcache alone. It may lose them at any
	// time, and a removed session stays removed for as long as Memcache keeps
	// the removal marker, 24 h at most. The default is to back sessions up in
	// Datastore.
	OnlyMemcache bool

	// AsyncDatastoreSave saves changes in Memcache before Close returns, and in
	// Datastore in a goroutine that may outlive the request; see Drain. New
	// sessions, and those that Memcache has lost or is getting back at that
	// moment, are saved in both before Close returns all the same. The default
	// is to save everything before Close returns. Not used with OnlyMemcache.
	AsyncDatastoreSave bool

	// DSEntityName is the kind of the session entities; "sess_" by default. Not
	// used with OnlyMemcache.
	//
	// Stores with one kind and several values of KeyPrefix share their sessions
	// in Datastore, but not in Memcache: a logout under one prefix leaves the
	// session that Memcache has under another. One kind, one prefix.
	DSEntityName string

	// Cache and Backup are where sessions are kept. Nil, the default, means App
	// Engine's: Memcache, with KeyPrefix, and Datastore, with DSEntityName.
	// Other services have prefixes and kinds of their own, and these two options
	// have no effect on them. With tier.None as Cache sessions live in the
	// Backup alone, and OnlyMemcache has no effect.
	Cache  tier.Cache
	Backup tier.Backup

	// RefreshInterval is how old the stored access time of a session may become
	// before a request that changes nothing else writes it again. Zero, the
	// default, means a tenth of the session's timeout; a negative value means
	// that every request writes it, as icza/gaesession does. A session that is
	// not used any more ends up to this much later than its timeout says, never
	// earlier, whatever interval other instances have.
	RefreshInterval time.Duration

	// CacheTimeout is how long one operation on the cache may take, with all
	// attempts; 500 ms by default, and half of the time that is left until the
	// context's deadline at most. After its first timeout a request does not call
	// the cache for a minute. BackupTimeout is how long one attempt at an operation on
	// the backup may take; 5 s by default. A timeout is not tried again.
	CacheTimeout, BackupTimeout time.Duration

	// MaxLifetime is how long a session lives after it was created, however often
	// it is used. The default is no limit.
	MaxLifetime time.Duration

	// Trace is told what the store does, for metrics and logs; nil, the default:
	// nobody is.
	Trace *tier.Trace

	// OnError is called with every error that session.Store's methods have no way to
	// return. It is called in the goroutine that met the error, for a background
	// save even after Close, and must be safe for concurrent use. The errors answer
	// errors.Is for the errors of this package and never contain a session id.
	// OnError should not use the store. A panic in it is logged together with the
	// error.
	//
	// The default writes one record at error level to log/slog's default logger. If
	// the app has set none, the record is an entry of Cloud Logging with severity
	// ERROR on App Engine, with the trace of the request, and on Cloud Run. One
	// kind of error visitors can cause as often as they like: their cookie names an
	// item of the app's own. The default counts these, and logs one a minute.
	OnError func(ctx context.Context, err error)
}

// withDefaults returns the options with their defaults filled in.
func (o *MemcacheStoreOptions) withDefaults() MemcacheStoreOptions {
	var c MemcacheStoreOptions
	if o != nil {
		c = *o
	}
	c.DSEntityName = cmp.Or(c.DSEntityName, defaultDSEntityName)
	c.Cache, c.Backup = gae.Services(c.Cache, c.Backup,
		gae.Memcache{Prefix: c.KeyPrefix},
		gae.Datastore{Kind: c.DSEntityName, Value: valueProperty, Expires: expiresProperty})
	if c.OnlyMemcache = c.OnlyMemcache && c.Cache != nil; c.OnlyMemcache {
		c.Backup = nil
	}
	return c
}

// longest is for ever: a timeout may say more.
const longest = 100 * 365 * 24 * time.Hour

// refreshInterval is RefreshInterval for a session of that timeout.
func (o *MemcacheStoreOptions) refreshInterval(timeout time.Duration) time.Duration {
	switch {
	case o.RefreshInterval > 0:
		return o.RefreshInterval
	case o.RefreshInterval < 0:
		return 0
	}
	return max(timeout/10, 0)
}
