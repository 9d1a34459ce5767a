package demo

import (
	"net"
	"net/http"
	"sync"
)

// Silent are the connections of a server on which nothing has been sent yet, as
// browsers open them in advance. http.Server.Shutdown waits for these as it does
// for requests, for five seconds. The zero value is ready for use: ConnState is
// the server's, and Close is to be registered with RegisterOnShutdown.
type Silent struct {
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// ConnState notes how a connection begins and goes on.
func (s *Silent) ConnState(conn net.Conn, state http.ConnState) {
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

// Close closes the silent connections, and those that come from now on.
func (s *Silent) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close() // as above
	}
}
