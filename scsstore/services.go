package scsstore

import (
	"cmp"
	"context"
	"errors"
	"math"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/live"
)

// The properties of a session in Datastore.
const valueProperty, expiresProperty = "val", "exp"

// newRequest returns a request that knows of no session yet.
func (s *Store) newRequest(ctx context.Context, codec scs.Codec) *request {
	return &request{form: form{codec}, copies: make(map[string]*live.Copy), live: live.New(live.Tiers{
		Cache:         s.cache,
		Backup:        s.backup,
		CacheTimeout:  s.opt.CacheTimeout,
		BackupTimeout: s.opt.BackupTimeout,
		Trace:         s.opt.Trace,
		Background:    gae.Background,
		Report:        func(key string, err error) { s.report(ctx, "save session", key, err) },
		Shared:        gae.Shared,
	}, live.Options{Form: form{codec}})}
}

// open returns the request's copy of a session, and loads it, if nobody has; nil: no
// session can have that token. An error says that nobody can tell whether there is one.
func (s *Store) open(ctx context.Context, token string) (*live.Copy, error) {
	c, _ := s.request(ctx).copy(token)
	if c == nil {
		return nil, nil
	}
	return c, s.load(ctx, c, token)
}

func (s *Store) load(ctx context.Context, c *live.Copy, token string) error {
	err := c.Open(ctx, nil)
	switch why := c.Err(); {
	case why == nil:
		s.report(ctx, "load session", token, err)
	case !errors.Is(why, live.ErrOtherForm): // which is somebody else's, and no session
		return describe("load session", token, why)
	}
	return nil
}

// save saves what b says of a session, which are those attributes, until expiry.
func save(ctx context.Context, c *live.Copy, b []byte, attrs map[string]any, expiry time.Time) error {
	now := time.Now().Truncate(time.Microsecond)
	born := cmp.Or(c.Born(), now)
	// That the session was used counts only if it would end too early.
	used := c.Used()
	if c.Ends().Before(expiry.Truncate(time.Microsecond)) {
		used = now
	}
	return c.Save(ctx, live.Draft{
		Encode: func(_ string, worth func(map[string]any) bool) ([]byte, map[string]any, error) {
			if !worth(attrs) {
				return nil, nil, nil
			}
			return b, attrs, nil
		},
		Lifetime: live.Lifetime{Used: used, Idle: expiry.Sub(used), Refresh: max(expiry.Sub(now)/10, 1), Born: born},
		MaxAge:   maxAge(attrs, born),
		Again:    true,
	})
}

// The trailer's MaxAge is scs's deadline: for how many seconds the session lives
// after it was born.

// hasEnded reports whether the deadline of a session has passed.
func hasEnded(c *live.Copy) bool {
	seconds, ok := c.MaxAge()
	return ok && !time.Now().Before(c.Born().Add(time.Duration(seconds)*time.Second))
}

// maxAge is the MaxAge of a session that was born then.
func maxAge(attrs map[string]any, born time.Time) *int32 {
	deadline, _ := attrs[deadlineName].(time.Time)
	seconds := int32(max(math.MinInt32, min(math.Ceil(deadline.Sub(born).Seconds()), math.MaxInt32)))
	return &seconds
}

// Drain waits until nothing of this process is at work in the background: what
// a service that failed is still to be told of sessions. Call it before the
// process ends. It returns ctx's error if that ends first; a nil ctx never does.
func Drain(ctx context.Context) error { return live.Drain(ctx) }
