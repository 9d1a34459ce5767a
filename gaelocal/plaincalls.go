package gaelocal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// A client's call is always the same kind of HTTP/1.1 request on a connection
// that is kept open, and half of what such a call costs is net/http's
// generality. So plain calls are read and answered here. The first request on a
// connection that is anything else goes to net/http with the rest of the
// connection, none of it read: other methods and paths, bodies of unknown
// length, web pages, and calls whose hooks or latency have to end when the
// client goes away, which net/http notices.

const (
	headSize    = 4 << 10          // plain calls have shorter heads
	headTimeout = 10 * time.Second // of a head that has begun to arrive
)

// plainCalls serves the plain calls of the connections of a listener, and is the
// listener from which net/http gets the connections with other requests.
type plainCalls struct {
	server   *Server
	listener net.Listener
	others   chan net.Conn // for net/http
	failed   chan struct{} // closed after acceptErr is set
	ctx      context.Context
	cancel   context.CancelFunc

	acceptErr error

	mu    sync.Mutex
	conns map[net.Conn]bool // being served here
	ended bool
	wait  sync.WaitGroup // for the goroutines of run and of conns
}

func newPlainCalls(s *Server, l net.Listener) *plainCalls {
	p := &plainCalls{server: s, listener: l, others: make(chan net.Conn), failed: make(chan struct{}), conns: map[net.Conn]bool{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wait.Add(1)
	go p.run()
	return p
}

// run accepts connections until the listener is closed.
func (p *plainCalls) run() {
	defer p.wait.Done()
	pause := time.Duration(0)
	for {
		conn, err := p.listener.Accept()
		if err == nil {
			pause = 0
			p.begin(conn)
			continue
		}
		if !isTemporary(err) {
			p.acceptErr = err
			close(p.failed)
			return
		}
		// Out of file descriptors, most likely: as net/http does, try again
		// after a while.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-p.ctx.Done():
		}
	}
}

func isTemporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

func (p *plainCalls) begin(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		_ = conn.Close() // nothing was sent on it
		return
	}
	p.conns[conn] = true
	p.wait.Add(1)
	go p.serve(conn)
}

func (p *plainCalls) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// serve answers plain calls until another request or the end of the connection.
func (p *plainCalls) serve(conn net.Conn) {
	defer p.wait.Done()
	in := bufio.NewReaderSize(conn, headSize)
	var out []byte
	for {
		head, length, ok, err := readHead(conn, in)
		if err != nil {
			break
		}
		if !ok || p.server.controls.set() {
			p.forget(conn)
			select {
			case p.others <- &begunConn{conn, in}:
				return
			case <-p.ctx.Done():
			}
			break
		}
		if out, err = p.call(conn, in, head, length, out); err != nil {
			break
		}
	}
	p.forget(conn)
	_ = conn.Close() // the client is gone, or is to notice the end
}

// call reads the rest of a plain call, executes it and writes the answer with
// the help of out, which it returns for the next call.
func (p *plainCalls) call(conn net.Conn, in *bufio.Reader, head, length int, out []byte) ([]byte, error) {
	if !p.server.calls.begin() {
		return out, errors.New("the server has been closed")
	}
	defer p.server.calls.end()
	if _, err := in.Discard(head); err != nil {
		return out, err
	}
	body := bodies.Get().(*body)
	defer body.release()
	if err := body.read(in, length); err != nil {
		return out, err
	}
	answer, err := proto.Marshal(p.server.answer(p.ctx, body.b))
	if err != nil {
		return out, err
	}
	out = append(out[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nDate: "...)
	out = time.Now().UTC().AppendFormat(out, http.TimeFormat)
	out = append(out, "\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(answer)), 10)
	out = append(out, "\r\n\r\n"...)
	out = append(out, answer...)
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	if cap(out) > 1<<20 {
		out = nil
	}
	return out, nil
}

// read reads a body of known length. What it allocates grows with what arrives.
func (b *body) read(in io.Reader, length int) error {
	b.b = b.b[:0]
	for len(b.b) < length {
		if len(b.b) == cap(b.b) {
			b.b = append(b.b, 0)[:len(b.b)]
		}
		n, err := in.Read(b.b[len(b.b):min(cap(b.b), length)])
		b.b = b.b[:len(b.b)+n]
		if err != nil && len(b.b) < length {
			return err
		}
	}
	return nil
}

var callLine = []byte("POST " + apiPath + " HTTP/1.1\r\n")

// readHead waits for the head of a request and looks at it without reading it.
// It returns the length of the head and of the body of a plain call; for any
// other request ok is false.
func readHead(conn net.Conn, in *bufio.Reader) (head, length int, ok bool, err error) {
	if _, err := in.Peek(1); err != nil {
		return 0, 0, false, err // between two requests: no hurry
	}
	for late := false; ; {
		have, _ := in.Peek(in.Buffered())
		if i := bytes.Index(have, []byte("\r\n\r\n")); i >= 0 {
			if late {
				if err := conn.SetReadDeadline(time.Time{}); err != nil {
					return 0, 0, false, err
				}
			}
			head = i + len("\r\n\r\n")
			length, ok = plainCall(have[:head])
			return head, length, ok, nil
		}
		if len(have) == in.Size() {
			return 0, 0, false, nil
		}
		if !late {
			late = true
			if err := conn.SetReadDeadline(time.Now().Add(headTimeout)); err != nil {
				return 0, 0, false, err
			}
		}
		if _, err := in.Peek(len(have) + 1); err != nil {
			return 0, 0, false, fmt.Errorf("the head of a request: %w", err)
		}
	}
}

// plainCall tells whether a head is that of a plain call, and the length of its body.
func plainCall(head []byte) (length int, ok bool) {
	lines, ok := bytes.CutPrefix(head, callLine)
	if !ok {
		return 0, false
	}
	length, hosts := -1, 0
	for len(lines) > len("\r\n") {
		var line []byte
		line, lines, ok = bytes.Cut(lines, []byte("\r\n"))
		if !ok {
			return 0, false
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return 0, false
		}
		value = bytes.TrimSpace(value)
		switch {
		case isHeader(name, "content-length"):
			n, err := strconv.ParseUint(string(value), 10, 31)
			if err != nil || length >= 0 || n > maxBodySize {
				return 0, false
			}
			length = int(n)
		case isHeader(name, "host"):
			hosts++
		case isHeader(name, "content-type"), isHeader(name, "user-agent"), isHeader(name, "accept-encoding"),
			len(name) >= len("x-") && name[0]|0x20 == 'x' && name[1] == '-':
			// They make no difference.
		default:
			return 0, false
		}
	}
	return length, length >= 0 && hosts == 1
}

// isHeader tells whether name is a header's name, given in lower case.
func isHeader(name []byte, header string) bool {
	return len(name) == len(header) && bytes.EqualFold(name, []byte(header))
}

// set tells whether calls have hooks or latency.
func (c *controls) set() bool {
	hooks, latency := c.hooks.Load(), c.latency.Load()
	return hooks.Before != nil || hooks.After != nil || latency != nil && *latency != nil
}

// close ends everything that is served here. Calls must have ended.
func (p *plainCalls) close() {
	p.cancel()
	_ = p.listener.Close() // net/http has closed it by its own Close as well
	p.mu.Lock()
	p.ended = true
	for conn := range p.conns {
		_ = conn.Close() // makes its goroutine end
	}
	p.mu.Unlock()
	p.wait.Wait()
}

// Accept, Close and Addr are net.Listener, for net/http.

func (p *plainCalls) Accept() (net.Conn, error) {
	select {
	case conn := <-p.others:
		return conn, nil
	case <-p.failed:
		return nil, p.acceptErr
	}
}

func (p *plainCalls) Close() error   { return p.listener.Close() }
func (p *plainCalls) Addr() net.Addr { return p.listener.Addr() }

// begunConn is a connection of which something has been read ahead.
type begunConn struct {
	net.Conn
	in *bufio.Reader
}

func (c *begunConn) Read(b []byte) (int, error) {
	if c.in.Buffered() == 0 {
		return c.Conn.Read(b)
	}
	return c.in.Read(b)
}
