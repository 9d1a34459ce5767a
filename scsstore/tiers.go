package scsstore

import (
	"cmp"
	"context"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/scscodec"
	"github.com/gaesession/gaesession/tier"
)

// The properties of a session in Datastore.
const (
	valueProperty   = "val"
	expiresProperty = "exp"
)

// retries is how often a call that fails is tried.
const retries = 3

// setDefaults fills in the options and the services that were left out.
func (s *Store) setDefaults() {
	s.opt.KeyPrefix = cmp.Or(s.opt.KeyPrefix, DefaultKeyPrefix)
	s.opt.DSEntityName = cmp.Or(s.opt.DSEntityName, DefaultDSEntityName)
	if s.opt.Codec == nil {
		s.opt.Codec = scs.GobCodec{}
	}
	s.opt.Codec = scscodec.Faster(s.opt.Codec)
	if s.opt.OnError == nil {
		s.opt.OnError = logError
	}
	switch s.cache {
	case nil:
		s.cache = gae.Memcache{Prefix: s.opt.KeyPrefix}
	case tier.None:
		s.cache = nil
	}
	if s.backup == nil {
		s.backup = gae.Datastore{Kind: s.opt.DSEntityName, Prefix: s.opt.KeyPrefix, Value: valueProperty, Expires: expiresProperty}
	}
}

// liveStore returns one request's way to its sessions.
func (s *Store) liveStore(ctx context.Context, f form) *live.Store {
	return live.New(live.Options{
		Cache:         s.cache,
		Backup:        s.backup,
		Form:          f,
		Retries:       retries,
		CacheTimeout:  s.opt.CacheTimeout,
		BackupTimeout: s.opt.BackupTimeout,
		Trace:         s.opt.Trace,
		Background:    gae.Background,
		Report:        func(key string, err error) { s.report(ctx, describe("save session", key, err)) },
		Shared:        func() any { return gae.Shared(ctx, s.cache, s.backup) },
	})
}

// Drain waits until nothing of this process is at work in the background: what
// a service that failed is still to be told of sessions. Call it before the
// process ends. It returns ctx's error if that ends first; a nil ctx never does.
func Drain(ctx context.Context) error { return live.Drain(ctx) }
