package live

import (
	"errors"

	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

// IsSaved reports whether a save that ended with err has saved the session: in one
// of the services at least.
func IsSaved(err error) bool {
	return err == nil || (errors.Is(err, tier.ErrNotBackedUp) || errors.Is(err, tier.ErrNotPublished)) &&
		!errors.Is(err, tier.ErrNotSaved) && !errors.Is(err, tier.ErrRemoved)
}

// Describe wraps err for the app: with the adapter that was doing something, and
// with a hash of the session's key. Id is a session's id or its key. Nil stays nil.
func Describe(adapter, doing, id string, err error) error {
	if err == nil {
		return nil
	}
	return sessionid.Describe(adapter+": "+doing, id, Key(id), err)
}
