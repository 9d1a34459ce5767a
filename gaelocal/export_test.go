package gaelocal

import (
	"net"
	"time"
)

// CheckPages is the check of a data file before it is opened.
var CheckPages = checkPages

// StartOn is Start with a listener of the test's own, and with another patience
// for clients that are slow to send or to receive.
func StartOn(l net.Listener, o Options, patience time.Duration) (*Server, error) {
	return serve(l, o.withDefaults(), patience)
}
