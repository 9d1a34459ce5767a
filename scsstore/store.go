package scsstore

import (
	"context"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/tier"
)

const (
	// DefaultKeyPrefix is put before the token to make a session's key.
	DefaultKeyPrefix = "scs."
	// DefaultDSEntityName is the kind of the session entities.
	DefaultDSEntityName = "ScsSession"
)

// Options are the options of a store. The zero value of a field stands for its
// default.
type Options struct {
	// KeyPrefix is put before a session's token to make its key, in Memcache and
	// in Datastore; DefaultKeyPrefix by default. The token is what a visitor's
	// cookie says, so nothing else should be kept under keys that begin so.
	KeyPrefix string

	// DSEntityName is the kind of the session entities in Datastore;
	// DefaultDSEntityName by default.
	DSEntityName string

	// Codec is the SessionManager's own. Handler goes by the manager, and
	// CommitCtx without Handler by this one. The default is scs.GobCodec, which is
	// also that of scs.New. A panic of the codec counts as its error.
	Codec scs.Codec

	// CacheTimeout is how long one operation on the cache may take, with all
	// attempts; 500 ms by default, and half of the time that is left until the
	// context's deadline at most. BackupTimeout is how long one attempt at an
	// operation on the backup may take; 5 s by default. A timeout is not tried
	// again.
	CacheTimeout, BackupTimeout time.Duration

	// Trace is told what the store does, for metrics and logs; nil, the default:
	// nobody is.
	Trace *tier.Trace

	// OnError gets every error that no method returns: the failure of a service
	// that another one made up for, ErrNotBackedUp and ErrNotPublished of a commit,
	// and the failure of a commit that had nothing to save but a later expiry. It
	// must be safe for concurrent use, and may be called when the request has
	// ended. The errors answer errors.Is for the errors of this package and never
	// contain a token. A panic in OnError is logged together with the error.
	//
	// The default writes one record at error level to log/slog's default logger. If
	// the app has set none, the record is an entry of Cloud Logging with severity
	// ERROR on App Engine, with the trace of the request, and on Cloud Run.
	OnError func(ctx context.Context, err error)
}

// A Store is a store for an scs.SessionManager. New makes one. A store may be used
// by several requests, and several goroutines of a request, at once. It must not
// be copied.
type Store struct {
	opt    Options
	cache  tier.Cache // nil: none
	backup tier.Backup
}

// New returns a store on these services. A nil cache is App Engine's Memcache, a
// nil backup App Engine's Datastore; tier.None is no cache. Other services than App
// Engine's have prefixes and kinds of their own: KeyPrefix and DSEntityName have no
// effect on them. The options are copied; nil stands for the defaults.
func New(cache tier.Cache, backup tier.Backup, o *Options) *Store {
	s := &Store{cache: cache, backup: backup}
	if o != nil {
		s.opt = *o
	}
	s.setDefaults()
	return s
}

var _ scs.CtxStore = (*Store)(nil)

// Find returns an error: the services need the context of a request, and a
// SessionManager calls FindCtx.
func (*Store) Find(string) ([]byte, bool, error) { return nil, false, errNoContext }

// Commit returns an error, as Find does.
func (*Store) Commit(string, []byte, time.Time) error { return errNoContext }

// Delete returns an error, as Find does.
func (*Store) Delete(string) error { return errNoContext }
