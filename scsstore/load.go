package scsstore

import (
	"bytes"
	"context"
	"errors"
	"math"
	"time"

	"github.com/gaesession/gaesession/internal/live"
)

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
	req := s.request(ctx)
	if !req.live.ValidID(token) {
		return nil, false, nil
	}
	c, _ := req.copy(token)
	if err := s.open(ctx, c, token); err != nil {
		return nil, false, err
	}
	if c.Exists() {
		if err := c.Settle(ctx); !errors.Is(err, ErrRemoved) {
			s.report(ctx, describe("load session", token, err))
		}
	}
	if !c.Exists() || hasEnded(c) {
		return nil, false, nil
	}
	return bytes.Clone(c.Value()), true, nil
}

// open loads the session of a copy, if nobody has. An error says that it cannot be
// told whether there is one.
func (s *Store) open(ctx context.Context, c *live.Copy, token string) error {
	err := describe("load session", token, c.Open(ctx, func([]byte) (map[string]any, error) { return nil, nil }))
	switch why := c.Err(); {
	case errors.Is(why, live.ErrOtherForm):
		return nil // it is somebody else's, and no session
	case why != nil:
		return describe("load session", token, why)
	}
	s.report(ctx, err)
	return nil
}

// The trailer's MaxAge is scs's deadline: for how many seconds the session lives
// after it was born.

// hasEnded reports whether the deadline of a session has passed.
func hasEnded(c *live.Copy) bool {
	seconds, ok := c.MaxAge()
	return ok && !time.Now().Before(c.Born().Add(time.Duration(seconds)*time.Second))
}

// maxAge is the MaxAge of a session that was born then.
func maxAge(deadline, born time.Time) *int32 {
	seconds := int32(max(math.MinInt32, min(math.Ceil(deadline.Sub(born).Seconds()), math.MaxInt32)))
	return &seconds
}
