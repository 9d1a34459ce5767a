package cascadestore

import (
	"errors"
	"fmt"

	"github.com/gorilla/securecookie"

	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

var (
	// ErrValueTooBig means that the serialized session is longer than
	// SetMaxLength allows, or than the services take that have to hold it. What
	// was saved before stays as it was.
	ErrValueTooBig = errors.New("the value to store for the session is too big")

	// ErrRemoved means that a session was removed by another request, or before
	// in this one, or that it expired more than half a minute ago while this
	// request went on, and that what this request changed in it is not saved. No
	// cookie is written then.
	ErrRemoved = tiered.ErrRemoved
)

var (
	errNoBackend  = errors.New("no backend chosen, or one that is unknown")
	errInvalidID  = errors.New("malformed session id")
	errNoTier     = errors.New("no cache (tier.None stands for none) or no backup given")
	errNoSession  = errors.New("session is nil")
	errSerializer = errors.New("serializer")
)

// refused tells an error after which nothing was saved from that of a service
// that failed, beside which another service may have the session.
func refused(err error) bool {
	return errors.Is(err, ErrRemoved) || errors.Is(err, ErrValueTooBig) ||
		errors.Is(err, errSerializer) || errors.Is(err, errInvalidID)
}

// describe wraps err for the outside.
func describe(doing, id string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, tier.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrValueTooBig, err)
	}
	return sessionid.Describe("cascadestore: "+doing, id, err)
}

// A cookieError is what securecookie says of a cookie, made to answer errors.Is
// and errors.As as well. It is a securecookie.Error, too.
type cookieError struct {
	securecookie.MultiError
}

func (e cookieError) Unwrap() []error {
	return append([]error{e.MultiError}, e.MultiError...)
}

func describeCookie(err error) error {
	var multi securecookie.MultiError
	if errors.As(err, &multi) {
		return cookieError{multi}
	}
	return err
}

// textOf is err's text for a log, without the id; nil when there is no error.
func textOf(id string, err error) any {
	if err == nil {
		return nil
	}
	text, _ := sessionid.Redact(err.Error(), id)
	return text
}
