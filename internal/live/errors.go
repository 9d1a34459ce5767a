package live

import (
	"errors"

	"github.com/gaesession/gaesession/tier"
)

// IsSaved reports whether a save that ended with err has saved the session: in one
// of the services at least.
func IsSaved(err error) bool {
	return err == nil || (errors.Is(err, tier.ErrNotBackedUp) || errors.Is(err, tier.ErrNotPublished)) &&
		!errors.Is(err, tier.ErrNotSaved) && !errors.Is(err, tier.ErrRemoved)
}
