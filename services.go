package gaesession

import (
	"context"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/live"
)

// services are one request's way to its sessions. They must not be copied.
type services struct {
	ctx  context.Context
	opt  MemcacheStoreOptions
	form form
	live *live.Store

	owners *owners // nil: sessions have none
}

// open makes the services those of a request. It calls none of them.
func (s *services) open(ctx context.Context, o *MemcacheStoreOptions) {
	s.ctx, s.opt = live.OrBackground(ctx), o.withDefaults()
	s.form = form{newCodec(s.opt.Codec)}
	s.live = live.New(live.Tiers{
		Cache:         s.opt.Cache,
		Backup:        s.opt.Backup,
		Retries:       s.opt.Retries,
		CacheTimeout:  s.opt.CacheTimeout,
		BackupTimeout: s.opt.BackupTimeout,
		Trace:         s.opt.Trace,
		MaxPerOwner:   s.owners.max(),
		Background:    gae.Background,
		Shared:        gae.Shared,
		Report:        func(key string, err error) { s.report("save session", key, err) },
	}, live.Options{
		Form:        s.form,
		Async:       s.opt.AsyncDatastoreSave,
		MaxLifetime: s.opt.MaxLifetime,
		OwnerScope:  s.owners.scope(),
	})
}

// load opens a copy of the session of that id. Loaded gets the session, if there
// is one and nobody has opened the copy yet.
func (s *services) load(c *live.Copy, id string, loaded func(session.Session)) error {
	key := c.Key()
	return c.Open(s.ctx, func(value []byte) (map[string]any, error) {
		sess, err := s.form.open(id, key, value)
		if err != nil {
			return nil, err
		}
		scalars := scalarsOf(sess)
		sess.Access()
		loaded(sess)
		return scalars, nil
	})
}

// save saves what was changed in a session since it was loaded or saved. With again
// it tries again what has failed. Late says that the client's cookie cannot be set any
// more.
func (s *services) save(c *live.Copy, sess session.Session, again, late bool) error {
	d, err := s.draft(sess)
	if err != nil {
		return err
	}
	if d.Again = again; late {
		// So long ago that the next use in time is noted, and sets the cookie.
		d.Noted = d.Used.Truncate(d.Refresh).Add(-d.Refresh)
	}
	return c.Save(s.ctx, d)
}

// draft is a session as the app has it.
func (s *services) draft(sess session.Session) (live.Draft, error) {
	sess = unwrap(sess)
	used, err := accessed(sess)
	if err != nil {
		return live.Draft{}, err
	}
	timeout := sess.Timeout()
	d := live.Draft{
		Encode: func(key string, worth func(attrs map[string]any) bool) ([]byte, map[string]any, error) {
			return s.form.encodeIf(sess, key, worth)
		},
		Lifetime: live.Lifetime{Used: used, Idle: timeout, Refresh: s.opt.refreshInterval(timeout), Born: sess.Created()},
	}
	if s.owners != nil {
		d.Owner, d.Label, d.NewID, d.Only = s.ownerOf, live.Ask(s.owners.sessions.Label, s.form.codec.decode), s.owners.newID, s.form.only
	}
	return d, nil
}
