package gaesession

import (
	"context"
	"errors"
	"fmt"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

// The errors that OnError gets wrap one of these, or what a service or the
// codec answered.
var (
	// ErrRemoved means that a session was removed by another request, or before
	// in this one, or that it expired more than half a minute ago while this
	// request went on, and that what this request changed in it is not saved.
	ErrRemoved = tiered.ErrRemoved

	// ErrTooLarge means that the encoded session does not fit: into Memcache
	// with OnlyMemcache, otherwise into Datastore. What was saved before stays
	// as it was in both.
	ErrTooLarge = tier.ErrTooLarge

	// ErrInvalidID means that the services do not take a session id, and were
	// not called: it is empty, not UTF-8, contains a NUL byte or is too long, or
	// has the form __x__, which Datastore reserves.
	ErrInvalidID = errors.New("malformed session id")

	errOtherID = errors.New("stored session has another id")
)

func logError(ctx context.Context, err error) {
	cloudlog.Default().ErrorContext(ctx, "session store", "error", err)
}

// report hands err, which came up while doing what, to OnError. No lock may be
// held, and nothing wait for the caller.
func (s *memcacheStore) report(doing, id string, err error) {
	if err == nil {
		return
	}
	err = describe(doing, id, err)
	defer func() {
		// In a background save nobody else would, and the instance would end.
		if p := recover(); p != nil {
			logError(s.ctx, err)
			logError(s.ctx, fmt.Errorf("gaesession: OnError: panic: %v", p))
		}
	}()
	s.opt.OnError(s.ctx, err)
}

// describe wraps err for the outside.
func describe(doing, id string, err error) error {
	if errors.Is(err, ErrInvalidID) {
		return fmt.Errorf("gaesession: %s: %w", doing, err)
	}
	return sessionid.Describe("gaesession: "+doing, id, err)
}
