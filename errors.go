package gaesession

import (
	"context"
	"errors"
	"fmt"

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
	ErrNotSaved     = tier.ErrNotSaved     // no service has the change, or nobody can tell; Close does not try again
	ErrTooLarge     = tier.ErrTooLarge     // the encoded session does not fit: what was saved before stays as it was
	ErrInvalidID    = tier.ErrInvalidID    // no session can have the id, and the services were not called
)

// otherForms counts the errors that visitors can cause as often as they like.
var otherForms cloudlog.Rare

// logError is the default of OnError.
func logError(ctx context.Context, err error) {
	if !errors.Is(err, live.ErrOtherForm) {
		cloudlog.Error(ctx, err)
	} else if times, isDue := otherForms.Count(); isDue {
		cloudlog.Default().ErrorContext(ctx, "session store", "error", err, "times", times)
	}
}

// report hands err, which came up while doing what, to OnError. No lock may be
// held, and nothing wait for the caller.
func (s *services) report(doing, id string, err error) {
	if err == nil {
		return
	}
	s.notify(describe(doing, id, err))
}

// notify hands an error that is described already to OnError.
func (s *services) notify(err error) { cloudlog.Hand(s.ctx, err, s.opt.OnError, logError) }

// describe wraps err for the outside; nil stays nil. Id is a session's id or its key.
func describe(doing, id string, err error) error {
	if errors.Is(err, ErrInvalidID) {
		return fmt.Errorf("gaesession: %s: %w", doing, err)
	}
	return live.Describe("gaesession", doing, id, err)
}
