package clouddatastore

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/tier"
)

var errInvalidID = fmt.Errorf("clouddatastore: %w: session id that Datastore does not take as a key's name", tier.ErrRejected)

var tooLarge = regexp.MustCompile(`too (big|large|long)|longer than|(maximum|allowed) (entity )?size`)

// describe turns what a call answered into an error of this package, with the
// sentinel that it stands for and without the sessions' ids. The code stays. sent
// is false when gRPC has not sent the call.
func describe(what string, ids []string, sent bool, err error) error {
	if err == nil {
		return nil
	}
	code, message := status.Code(err), status.Convert(err).Message()
	sentinel := sentinelOf(code, message, sent)
	if slices.ContainsFunc(ids, func(id string) bool { return quotes(message, id) }) {
		message = "message withheld, it may name the session"
	}
	err = fmt.Errorf("clouddatastore: %s: %w", what, status.Error(code, message))
	if sentinel != nil {
		err = fmt.Errorf("%w: %w", sentinel, err)
	}
	return err
}

// notWritten marks the error of an update that has not tried to write.
func notWritten(err error) error { return fmt.Errorf("%w: %w", tier.ErrNotWritten, err) }

func sentinelOf(code codes.Code, message string, sent bool) error {
	if !sent && (code == codes.Unavailable || code == codes.Unauthenticated) {
		return tier.ErrUnreachable // no connection, or no access token for the call
	}
	switch code {
	case codes.Aborted:
		return tier.ErrContention
	case codes.InvalidArgument:
		switch {
		case tooLarge.MatchString(message):
			return tier.ErrTooLarge
		case strings.Contains(strings.ToLower(message), "transaction"): // that it was closed, say
			return tier.ErrContention
		}
		return tier.ErrRejected
	case codes.PermissionDenied, codes.Unauthenticated, codes.NotFound, codes.FailedPrecondition, codes.Unimplemented:
		return tier.ErrRejected
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return nil
}

// quotes reports whether a message may have a part of the id in it that helps to
// guess the rest: eight characters in a row. It assumes so if the id is not plain,
// since a message may quote such an id in another form.
func quotes(message, id string) bool {
	const part = 8
	if strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\<>&%`, r) }) {
		return true
	}
	for i := 0; i == 0 || i+part <= len(id); i++ {
		if id != "" && strings.Contains(message, id[i:min(i+part, len(id))]) {
			return true
		}
	}
	return false
}
