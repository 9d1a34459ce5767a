package gaetest

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Goroutines remembers what goroutines there are, and returns a function that
// fails tb when there are others which do not end. Those that serve kept
// connections to a service do not count.
func Goroutines(tb testing.TB) (check func()) {
	known := []goleak.Option{
		goleak.IgnoreCurrent(),
		goleak.IgnoreAnyFunction("net/http.(*Transport).dialConnFor"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
	}
	return func() {
		tb.Helper()
		// On a busy machine a goroutine may take a while to its end.
		for until := time.Now().Add(time.Minute); ; {
			err := goleak.Find(known...)
			if err == nil {
				return
			}
			if time.Now().After(until) {
				tb.Error(err)
				return
			}
		}
	}
}
