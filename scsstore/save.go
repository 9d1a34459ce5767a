package scsstore

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/gaesession/gaesession/internal/live"
)

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
	if !req.live.ValidID(token) {
		return describe(doing, token, ErrInvalidID)
	}
	attrs, err := form{req.codec}.Attributes(b)
	if err != nil {
		return describe(doing, token, err)
	}
	c, isNew := req.copy(token)
	if !isNew {
		if err := s.open(ctx, c, token); err != nil {
			return err
		}
	}
	if err = c.Add(isNew); err == nil {
		err = save(ctx, c, bytes.Clone(b), attrs, expiry)
	}
	err = describe(doing, token, err)
	// Without a change there was only a later expiry to save.
	if live.IsSaved(err) || c.IsStored() && !c.IsChanged() && !errors.Is(err, errCodec) {
		s.report(ctx, err)
		return nil
	}
	return err
}

func save(ctx context.Context, c *live.Copy, b []byte, attrs map[string]any, expiry time.Time) error {
	now := time.Now().Truncate(time.Microsecond)
	born := c.Born()
	if born.IsZero() {
		born = now
	}
	// That the session was used counts only if it would end too early.
	used := c.Used()
	if c.Ends().Before(expiry.Truncate(time.Microsecond)) {
		used = now
	}
	return c.Save(ctx, live.Draft{
		Encode: func(_ string, worth func(map[string]any) bool) ([]byte, bool, error) {
			if !worth(attrs) {
				return nil, false, nil
			}
			return b, true, nil
		},
		Lifetime: live.Lifetime{Used: used, Idle: expiry.Sub(used), Refresh: max(expiry.Sub(now)/10, 1), Born: born},
		MaxAge:   maxAge(deadlineOf(attrs), born),
		Again:    true,
	})
}

// DeleteCtx removes the session of that token everywhere, for good, where there is
// one. With an error it may be seen for a while: the removal continues in the
// background, and may be repeated.
func (s *Store) DeleteCtx(ctx context.Context, token string) error {
	req := s.request(ctx)
	if !req.live.ValidID(token) {
		return nil
	}
	c, _ := req.copy(token)
	err := s.open(ctx, c, token)
	if err == nil && !c.Exists() && !c.IsRemoved() {
		return nil
	}
	return describe("remove session", token, c.Remove(ctx))
}
