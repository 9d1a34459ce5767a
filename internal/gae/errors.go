package gae

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

// The appengine package keeps the type of its API errors to itself; their text
// says "API error CODE (SERVICE: NAME)".
const (
	badRequest   = "API error 1 (datastore_v3: BAD_REQUEST)"
	concurrent   = "API error 2 (datastore_v3: CONCURRENT_TRANSACTION)"
	invalidValue = "API error 6 (memcache: INVALID_VALUE)"
)

var (
	oversized = regexp.MustCompile(`too (big|large|long)|longer than|maximum (allowed )?size`)

	// unreachable is what its HTTP client says when it got no connection.
	unreachable = regexp.MustCompile(`service bridge HTTP failed: Post "[^"]*": dial `)
)

// classify wraps an error of the appengine package in the sentinel of package
// tier that it is, if any.
func classify(err error) error {
	if err == nil {
		return nil
	}
	switch text := err.Error(); {
	case strings.Contains(text, concurrent):
		return fmt.Errorf("%w: %w", tier.ErrContention, err)
	case strings.Contains(text, invalidValue),
		strings.Contains(text, badRequest) && oversized.MatchString(text):
		return retry.Permanent(fmt.Errorf("%w: %w", tier.ErrTooLarge, err))
	case strings.Contains(text, badRequest):
		return retry.Permanent(fmt.Errorf("%w: %w", tier.ErrRejected, err))
	case unreachable.MatchString(text):
		return fmt.Errorf("%w: %w", tier.ErrUnreachable, err)
	}
	return err
}

// tooLarge returns the error for a value that is larger than the service takes by
// itself. Such a call is not made: it may be too large for the API, whose error
// does not tell why.
func tooLarge(size int) error {
	return retry.Permanent(fmt.Errorf("%w: %d bytes", tier.ErrTooLarge, size))
}
