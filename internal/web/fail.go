package web

import (
	"errors"
	"net/http"
	"slices"

	"github.com/gaesession/gaesession/tier"
)

// ErrHeaderSent means that a new session, or a new id, cannot reach the client any
// more, since the response's header has left without its cookie.
var ErrHeaderSent = errors.New("the header has left, and the cookie cannot be set any more")

// Fail answers that a session could not be saved because of err: with status 409 if
// the session was removed meanwhile; 500 for tier.ErrTooLarge, ErrHeaderSent and
// other faults of the app; and 503 otherwise.
func Fail(w http.ResponseWriter, err error, faults ...error) {
	status := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, tier.ErrRemoved):
		status = http.StatusConflict
	case slices.ContainsFunc(append(faults, tier.ErrTooLarge, ErrHeaderSent), func(f error) bool { return errors.Is(err, f) }):
		status = http.StatusInternalServerError
	}
	http.Error(w, "The session could not be saved.", status)
}
