package tier

import (
	"context"
	"time"
)

// A Trace is a set of functions that a store calls while it works, for metrics
// and logs, in the manner of net/http/httptrace. Any of them may be nil. They
// are called by the goroutine that does the work, several at once, and must
// return soon. What they are given never contains a session's id.
type Trace struct {
	// Call is called after each operation on a service, attempts included.
	Call func(ctx context.Context, c Call)
	// Loaded is called when a session was looked for.
	Loaded func(ctx context.Context, l Load)
	// Saved is called when an update of the backup has ended.
	Saved func(ctx context.Context, s Save)
	// Breaker is called when the cache's circuit breaker opens or closes.
	Breaker func(ctx context.Context, open bool)
	// Pending is called when the number of removals and changes changes of which
	// the cache is still to be told, with their number and with how many were
	// given up.
	Pending func(ctx context.Context, waiting, givenUp int)
}

// A Call is what is known of an operation on a service.
type Call struct {
	Service   string // "cache" or "backup"
	Operation string // "get", "set", "add", "compare-and-swap", "put", "insert" or "update"
	Session   string // a short hash of the session's id
	Duration  time.Duration
	Outcome   string // "found", "none", "stored", "conflict", "absent", "error" or "skipped"
	Err       error  // of the last attempt
}

// A Load says where a session was found.
type Load struct {
	Session string // a short hash of the session's id
	From    string // "cache", "backup", "none" or "unknown"
}

// A Save is an update of the backup.
type Save struct {
	Session string // a short hash of the session's id
	Changes int    // of how many requests
	Bytes   int    // that the record has; 0: nothing was written
	Err     error
}
