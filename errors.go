package gaesession

import (
	"context"
	"errors"
	"fmt"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

// The errors that OnError gets wrap one or more of these, or what a service or
// the codec answered.
var (
	// ErrRemoved means that a session was removed by another request, or before
	// in this one, or that it expired more than half a minute ago while this
	// request was at work. What this request changed in it is not saved.
	ErrRemoved = tier.ErrRemoved

	// ErrUnavailable means that services failed, so that nobody can tell whether
	// there is a session. The cookie should stay as it is.
	ErrUnavailable = tier.ErrUnavailable

	// ErrUndecodable means that there is a session which this instance cannot
	// decode. The cookie should stay as it is.
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
	// Close does not try again.
	ErrNotSaved = tier.ErrNotSaved

	// ErrTooLarge means that the encoded session does not fit: into Memcache
	// with OnlyMemcache, otherwise into Datastore, of which a change leaves 128
	// KiB free. What was saved before stays as it was in both.
	ErrTooLarge = tier.ErrTooLarge

	// ErrInvalidID means that no session can have an id, and that the services
	// were not called: it is empty, not UTF-8, contains a NUL byte, is too long,
	// or begins with "h:" or "owner:", under which other things are kept.
	ErrInvalidID = tier.ErrInvalidID
)

// otherForms counts the errors that visitors can cause as often as they like.
var otherForms cloudlog.Rare

// logError is the default of OnError.
func logError(ctx context.Context, err error) {
	if !errors.Is(err, live.ErrOtherForm) {
		cloudlog.Error(ctx, err)
	} else if times, isDue := otherForms.Count(); isDue {
		cloudlog.Error(ctx, err, "times", times)
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
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrInvalidID) {
		return fmt.Errorf("gaesession: %s: %w", doing, err)
	}
	return sessionid.Describe("gaesession: "+doing, id, live.Key(id), err)
}
