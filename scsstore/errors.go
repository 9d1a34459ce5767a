package scsstore

import (
	"context"
	"errors"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

var (
	// ErrRemoved means that the session was removed, by another request or before
	// in this one, or that it expired more than half a minute ago while this
	// request was at work. What this request changed in it is not saved.
	ErrRemoved = tier.ErrRemoved

	// ErrUnavailable means that services failed, so that nobody can tell whether
	// there is a session. The cookie stays as it is.
	ErrUnavailable = tier.ErrUnavailable

	// ErrUndecodable means that there is a session which this instance cannot
	// decode. The cookie stays as it is.
	ErrUndecodable = tier.ErrUndecodable

	// ErrNotBackedUp means that a change lives in the cache alone until the backup
	// answers again. Loads see it.
	ErrNotBackedUp = tier.ErrNotBackedUp

	// ErrNotPublished means that the backup has a change, and that the cache may
	// show an older session to other requests until it has been told, which
	// continues in the background. After a removal: the session may be seen for a
	// while.
	ErrNotPublished = tier.ErrNotPublished

	// ErrNotSaved means that a change is in no service, or that nobody can tell.
	// Another commit of the same request tries again, and the change applies once.
	ErrNotSaved = tier.ErrNotSaved

	// ErrTooLarge means that the encoded session does not fit into the backup, of
	// which a change leaves 128 KiB free. What was saved before stays as it was.
	ErrTooLarge = tier.ErrTooLarge

	// ErrInvalidID means that no session can have a token, and that the services
	// were not called: it is empty, not UTF-8, contains a NUL byte, is too long, or
	// begins with "h:" or "owner:", under which other things are kept.
	ErrInvalidID = tier.ErrInvalidID
)

var (
	errNoContext = errors.New("scsstore: the services need the context of a request: call FindCtx, CommitCtx and DeleteCtx")
	errNoSession = errors.New("no session of this package")
	errCodec     = errors.New("codec")
)

// report hands err to OnError.
func (s *Store) report(ctx context.Context, err error) {
	if err != nil {
		cloudlog.Hand(ctx, err, s.opt.OnError, logError)
	}
}

func logError(ctx context.Context, err error) { cloudlog.Error(ctx, err) }

// describe wraps err for the outside.
func describe(doing, token string, err error) error {
	if err == nil {
		return nil
	}
	return sessionid.Describe("scsstore: "+doing, token, live.Key(token), err)
}
