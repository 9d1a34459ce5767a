package gaelocal

import "fmt"

// Error is what a call answers instead of a result.
//
// With RPC it is an error of the call itself (remote_api's rpc_error), which
// google.golang.org/appengine/v2 returns as an internal.CallError; without, it
// is an error of the service (application_error), returned as an
// internal.APIError, whose codes each service defines for itself.
type Error struct {
	Code   int32
	Detail string
	RPC    bool
}

// Error names the kind of error, its code and its detail.
func (e *Error) Error() string {
	kind := "application error"
	if e.RPC {
		kind = "rpc error"
	}
	if e.Detail == "" {
		return fmt.Sprintf("gaelocal: %s %d", kind, e.Code)
	}
	return fmt.Sprintf("gaelocal: %s %d: %s", kind, e.Code, e.Detail)
}

// Codes of remote_api's RpcError.
const (
	rpcUnknown         = 0
	rpcCallNotFound    = 1
	rpcParseError      = 2
	rpcRequestTooLarge = 5
	rpcCancelled       = 10
)

// Codes of memcache's MemcacheServiceError.
const (
	memcacheUnspecifiedError = 1
	memcacheInvalidValue     = 6
)

// Codes of datastore_v3's Error.
const (
	datastoreBadRequest            = 1
	datastoreConcurrentTransaction = 2
	datastoreInternalError         = 3
)

func rpcError(code int32, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...), RPC: true}
}

func badRequest(format string, args ...any) *Error {
	return &Error{Code: datastoreBadRequest, Detail: fmt.Sprintf(format, args...)}
}

func callNotFound(service, method string) *Error {
	return rpcError(rpcCallNotFound, "gaelocal does not serve %.100q.%.100q", service, method)
}
