package tier

import "errors"

// The errors that a service answers with, perhaps wrapped. Any other error means
// that the service failed, that the call may or may not have had its effect,
// and that it may be tried again.
var (
	// ErrContention is what Backup.Update returns when other writers were
	// faster and it gave up. Nothing was written.
	ErrContention = errors.New("too many concurrent changes of the session")

	// ErrNotWritten marks a failure of Backup.Update after which it is certain
	// that nothing was written, because no write was tried. The update may be
	// tried again.
	ErrNotWritten = errors.New("no write was tried")

	// ErrExists is what Backup.Insert returns when there is a record already.
	ErrExists = errors.New("session exists already")

	// ErrTooLarge means that a service does not take a value of that size.
	// Nothing was written, and trying again is in vain.
	ErrTooLarge = errors.New("session is too large")

	// ErrRejected means that the service does not take the call, and will not
	// take it when it is tried again: bad credentials, a record of another form.
	ErrRejected = errors.New("rejected by the service")

	// ErrUnreachable marks a failure to connect to the service: no call was
	// made. A circuit breaker counts it.
	ErrUnreachable = errors.New("the service cannot be reached")

	// ErrBusy means that the call was not made, because too many calls of this
	// process were under way until its context ended.
	ErrBusy = errors.New("too many calls are under way")
)

// The errors that a session store reports, each perhaps wrapped and joined with
// what the services answered. The stores export them under the same names.
var (
	// ErrRemoved means that the session was removed, by another request or before
	// in this one, or that it ended more than half a minute ago while this request
	// was at work. What this request changed in it is not saved.
	ErrRemoved = errors.New("session was removed")

	// ErrUnavailable means that services failed, so that nobody can tell
	// whether there is a session. The cookie should stay as it is.
	ErrUnavailable = errors.New("session services are unavailable")

	// ErrUndecodable means that there is a session, and that this instance
	// cannot decode it. The cookie should stay as it is.
	ErrUndecodable = errors.New("session cannot be decoded")

	// ErrNotBackedUp means that a change lives in the cache alone until the
	// backup answers again. Loads see it.
	ErrNotBackedUp = errors.New("saved in the cache, but not in the backup")

	// ErrNotPublished means that the backup has a change, and that the cache
	// may show an older session to other requests until it has been told, which
	// continues in the background. After a removal: the session may be seen for
	// a while.
	ErrNotPublished = errors.New("saved in the backup, but the cache does not know it yet")

	// ErrNotSaved means that a change is nowhere, or that nobody can tell where
	// it is. The same request may try again, and the change applies once.
	ErrNotSaved = errors.New("session was not saved")

	// ErrInvalidID means that no session can have an id, and that the services
	// were not called: it is empty, not UTF-8, contains a NUL byte, is too long,
	// or begins with "h:" or "owner:", under which other things are kept.
	ErrInvalidID = errors.New("malformed session id")
)
