package scsstore

import (
	"context"
	"errors"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/tier"
)

// The errors that methods return and OnError gets wrap one or more of these, or what
// a service or the codec answered. Package tier says more of each.
var (
	ErrRemoved      = tier.ErrRemoved      // the session was removed, or has ended: the change is not saved
	ErrUnavailable  = tier.ErrUnavailable  // nobody can tell whether there is a session
	ErrUndecodable  = tier.ErrUndecodable  // there is a session, and this instance cannot decode it
	ErrNotBackedUp  = tier.ErrNotBackedUp  // the cache alone has the change, until the backup answers again
	ErrNotPublished = tier.ErrNotPublished // the backup has the change, and the cache may show an older session for a while
	ErrNotSaved     = tier.ErrNotSaved     // no service has the change, or nobody can tell; another commit of the request tries again
	ErrTooLarge     = tier.ErrTooLarge     // the encoded session does not fit: what was saved before stays as it was
	ErrInvalidID    = tier.ErrInvalidID    // no session can have the token, and the services were not called
)

var (
	errNoContext = errors.New("scsstore: the services need the context of a request: call FindCtx, CommitCtx and DeleteCtx")
	errNoSession = errors.New("no session of this package")
	errCodec     = errors.New("codec")
)

// report hands err, which came up while doing what, to OnError.
func (s *Store) report(ctx context.Context, doing, token string, err error) {
	if err != nil {
		cloudlog.Hand(ctx, describe(doing, token, err), s.opt.OnError, cloudlog.Error)
	}
}

// describe wraps err for the outside; nil stays nil. Token is one or its key.
func describe(doing, token string, err error) error {
	return live.Describe("scsstore", doing, token, err)
}
