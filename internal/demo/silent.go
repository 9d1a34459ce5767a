package demo

import (
	"net"
	"net/http"
	"sync"
)

// silentConns are the connections of a server on which nothing has been sent
// yet, as browsers open them in advance. http.Server.Shutdown waits for these as
// it does for requests, for five seconds.
type silentConns struct {
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// connState notes how a connection begins and goes on.
func (s *silentConns) connState(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(s.conns, conn)
	case s.closed:
		_ = conn.Close() // nobody has said anything on it
	default:
		if s.conns == nil {
			s.conns = map[net.Conn]bool{}
		}
		s.conns[conn] = true
	}
}

// close closes the silent connections, and those that come from now on.
func (s *silentConns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close() // as above
	}
}
