package scsstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/scscodec"
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
	s := &Store{opt: *cmp.Or(o, &Options{})}
	s.opt.Codec = scscodec.Faster(cmp.Or[scs.Codec](s.opt.Codec, scs.GobCodec{}))
	prefix, kind := cmp.Or(s.opt.KeyPrefix, DefaultKeyPrefix), cmp.Or(s.opt.DSEntityName, DefaultDSEntityName)
	s.cache, s.backup = gae.Services(cache, backup,
		gae.Memcache{Prefix: prefix},
		gae.Datastore{Kind: kind, Prefix: prefix, Value: valueProperty, Expires: expiresProperty})
	return s
}

var _ scs.CtxStore = (*Store)(nil)

// FindCtx returns the session of that token, and whether there is one. In a request
// of Handler that the services were asked for once, it returns what was loaded or
// committed last.
//
// ErrUnavailable means that services fail and nobody can tell whether there is a
// session; ErrUndecodable that there is one, and that it is damaged. FindCtx reports
// the failure of a service that another service made up for. It copies the session
// back into the cache if that had lost it, and into the backup if that has lacked
// something of it for more than three seconds.
//
// A token that no session can have is no error: there is no such session.
func (s *Store) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	c, err := s.open(ctx, token)
	if c == nil || err != nil {
		return nil, false, err
	}
	s.report(ctx, "load session", token, c.Settle(ctx))
	if !c.Exists() || hasEnded(c) {
		return nil, false, nil
	}
	return bytes.Clone(c.Value()), true, nil
}

// CommitCtx saves the session of that token, until expiry. In a request of Handler
// only what changed since FindCtx is saved, key by key, and merged with what other
// requests saved meanwhile. Otherwise CommitCtx loads the session itself, and
// overwrites what it finds: for each key the last one to commit wins.
//
// A session that has not changed is written only if it would end too early: when a
// tenth of the time until expiry has passed since it was written.
//
// ErrRemoved: the session was deleted, or has ended, and is not saved.
// ErrNotSaved: the services have none of it, or nobody can tell; another CommitCtx
// of the same request tries again. ErrTooLarge: what was saved before stays. A
// change that one of the services has is no error here: OnError gets ErrNotBackedUp
// and ErrNotPublished.
func (s *Store) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	const doing = "save session"
	req := s.request(ctx)
	c, isNew := req.copy(token)
	if c == nil {
		return describe(doing, token, ErrInvalidID)
	}
	attrs, err := req.form.Attributes(b)
	if err != nil {
		return describe(doing, token, err)
	}
	if !isNew {
		if err = s.load(ctx, c, token); err != nil {
			return err
		}
	}
	if err = c.Add(isNew); err == nil {
		err = save(ctx, c, bytes.Clone(b), attrs, expiry)
	}
	// Without a change there was only a later expiry to save.
	if live.IsSaved(err) || c.IsStored() && !c.IsChanged() && !errors.Is(err, errCodec) {
		s.report(ctx, doing, token, err)
		return nil
	}
	return describe(doing, token, err)
}

// DeleteCtx removes the session of that token everywhere, for good, where there is
// one. With an error it may be seen for a while: the removal continues in the
// background, and may be repeated.
func (s *Store) DeleteCtx(ctx context.Context, token string) error {
	c, err := s.open(ctx, token)
	if c == nil || err == nil && !c.Exists() && !c.IsRemoved() {
		return nil
	}
	return describe("remove session", token, c.Remove(ctx))
}

// Find returns an error: the services need the context of a request, and a
// SessionManager calls FindCtx.
func (*Store) Find(string) ([]byte, bool, error) { return nil, false, errNoContext }

// Commit returns an error, as Find does.
func (*Store) Commit(string, []byte, time.Time) error { return errNoContext }

// Delete returns an error, as Find does.
func (*Store) Delete(string) error { return errNoContext }
