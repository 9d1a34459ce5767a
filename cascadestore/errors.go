package cascadestore

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/gorilla/securecookie"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/internal/web"
	"github.com/gaesession/gaesession/tier"
)

// The errors that methods return and Logger gets wrap one or more of these, or what a
// service or the serializer answered. Package tier says more of each.
var (
	ErrRemoved      = tier.ErrRemoved      // the session was removed, or has ended: the change is not saved
	ErrUnavailable  = tier.ErrUnavailable  // nobody can tell whether there is a session
	ErrUndecodable  = tier.ErrUndecodable  // there is a session, and this instance cannot decode it
	ErrNotBackedUp  = tier.ErrNotBackedUp  // the cache alone has the change, until the backup answers again
	ErrNotPublished = tier.ErrNotPublished // the backup has the change, and the cache may show an older session for a while
	ErrNotSaved     = tier.ErrNotSaved     // no service has the change, or nobody can tell; another Save of the request tries again

	// ErrValueTooBig means that the serialized session is longer than
	// SetMaxLength allows, or than the services take that have to hold it. What
	// was saved before stays as it was.
	ErrValueTooBig = errors.New("the value to store for the session is too big")

	// ErrHeaderSent means that a new session, or a new id, cannot reach the client
	// any more, since the response's header has left without its cookie. Nothing
	// was saved, and a session keeps its old id. Only Handler knows when that is.
	ErrHeaderSent = web.ErrHeaderSent
)

var (
	errNoBackend  = errors.New("no backend chosen, or one that is unknown")
	errNoKeys     = errors.New("no authentication key given")
	errShortKey   = errors.New("authentication key is too short")
	errInvalidID  = tier.ErrInvalidID
	errNoTier     = errors.New("no cache (tier.None stands for none) or no backup given")
	errNoSession  = errors.New("session is nil")
	errNotMade    = errors.New("a store has to be made with NewCascadeStore")
	errSerializer = errors.New("serializer")
)

// An Error is an error of this package with a stack trace. Every error that a
// method returns is one, or unwraps to one. Neither its text nor the trace
// contains a session id.
type Error struct {
	err   error
	stack []uintptr
}

// Error returns the text, without the stack trace.
func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns the error without the stack trace.
func (e *Error) Unwrap() error { return e.err }

// StackTrace returns the program counters of the calls that led to the error,
// for runtime.CallersFrames. Error reporters look for a method of this name.
func (e *Error) StackTrace() []uintptr { return e.stack }

// Format makes %+v print the stack trace behind the text, a function and its
// place in the source a call.
func (e *Error) Format(s fmt.State, verb rune) {
	if verb == 'v' && s.Flag('+') {
		_, _ = io.WriteString(s, e.Error()+"\n"+e.stackText()) // fmt reports what s does
		return
	}
	fmt.Fprintf(s, fmt.FormatString(s, verb), e.Error())
}

func (e *Error) stackText() string {
	var b strings.Builder
	for frames := runtime.CallersFrames(e.stack); ; {
		f, more := frames.Next()
		fmt.Fprintf(&b, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return b.String()
		}
	}
}

// maxFrames is how many calls a stack trace has at most.
const maxFrames = 32

// trace gives err a stack trace that begins where the function was called that
// calls trace. An error that has a trace keeps it.
func trace(err error) error {
	var traced *Error
	if err == nil || errors.As(err, &traced) {
		return err
	}
	return traceHere(err)
}

func traceHere(err error) *Error {
	stack := make([]uintptr, maxFrames)
	const skip = 4 // runtime.Callers, traceHere, trace and its caller
	return &Error{err, stack[:runtime.Callers(skip, stack)]}
}

// describe wraps err for the outside. Id is a session's id or its key.
func describe(doing, id string, err error) error {
	if err == nil {
		return nil // at no cost
	}
	if errors.Is(err, tier.ErrTooLarge) && !errors.Is(err, ErrValueTooBig) {
		err = fmt.Errorf("%w: %w", ErrValueTooBig, err)
	}
	return trace(live.Describe("cascadestore", doing, id, err))
}

// hash is what logs say instead of an id.
func hash(id string) string { return sessionid.Hash(live.Key(id)) }

// A constructionError is why a store cannot be used.
type constructionError struct{ err error }

func (e constructionError) Error() string {
	return "cascadestore: " + strings.ReplaceAll(e.err.Error(), "\n", "; ")
}
func (e constructionError) Unwrap() error { return e.err }

// A cookieError is what securecookie says of a cookie. Like that it is a
// securecookie.Error itself, and not only wraps one; it also answers errors.Is
// and errors.As, and has a stack trace.
type cookieError struct {
	securecookie.MultiError
	traced *Error
}

func (e cookieError) Unwrap() []error               { return append([]error{e.traced}, e.MultiError...) }
func (e cookieError) StackTrace() []uintptr         { return e.traced.StackTrace() }
func (e cookieError) Format(s fmt.State, verb rune) { e.traced.Format(s, verb) }

func describeCookie(err error) error {
	var multi securecookie.MultiError
	if !errors.As(err, &multi) {
		multi = securecookie.MultiError{err}
	}
	return cookieError{multi, traceHere(multi)}
}
