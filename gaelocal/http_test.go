package gaelocal_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/wire"
)

// wireConn is a connection on which a test writes what it likes.
type wireConn struct {
	t   *testing.T
	out net.Conn
	in  *bufio.Reader
}

func dial(t *testing.T, s *gaelocal.Server) *wireConn {
	t.Helper()
	return dialAt(t, s.Addr())
}

func dialAt(t *testing.T, addr string) *wireConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	noError(t, err)
	t.Cleanup(func() { conn.Close() })
	noError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return &wireConn{t, conn, bufio.NewReader(conn)}
}

func (c *wireConn) write(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.out, text)
	noError(c.t, err)
}

func (c *wireConn) status() int {
	c.t.Helper()
	response, err := http.ReadResponse(c.in, nil)
	noError(c.t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	noError(c.t, err)
	return response.StatusCode
}

// wantEnd waits for the server to hang up, and drops what it says before.
func (c *wireConn) wantEnd(name string) {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.in)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("the %s connection was not ended", name)
	}
}

// halfCall writes a call that stops in its body, and waits until the server has
// begun to read that.
func (c *wireConn) halfCall() {
	c.t.Helper()
	c.write("POST /rpc_http HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
	if line, err := c.in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		c.t.Fatalf("the server answered %q, %v, want that it waits for the body", line, err)
	}
	c.write("half")
}

func wireCall(t *testing.T, service, method string, request proto.Message) string {
	t.Helper()
	inner, err := proto.Marshal(request)
	noError(t, err)
	body, err := proto.Marshal(&wire.Request{ServiceName: &service, Method: &method, Request: append([]byte{}, inner...)})
	noError(t, err)
	return fmt.Sprintf("POST /rpc_http HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// startOn starts a server with that much patience, and closes it after the test.
func startOn(t *testing.T, l net.Listener, patience time.Duration) *gaelocal.Server {
	t.Helper()
	s, err := gaelocal.StartOn(l, gaelocal.Options{}, patience)
	noError(t, err)
	t.Cleanup(func() { noError(t, s.Close()) })
	return s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	return l
}

func TestCloseEndsConnectionsWithoutACall(t *testing.T) {
	s := startOn(t, listen(t), time.Minute)
	unused, begun, half, used := dial(t, s), dial(t, s), dial(t, s), dial(t, s)
	begun.write("POST /rpc")
	half.halfCall()
	used.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if got := used.status(); got != http.StatusNotFound {
		t.Errorf("status %d, want %d", got, http.StatusNotFound)
	}
	noError(t, s.Close())
	for name, c := range map[string]*wireConn{"unused": unused, "begun": begun, "half": half, "used": used} {
		c.wantEnd(name)
	}
}

func TestARequestThatStopsHalfWayIsGivenUp(t *testing.T) {
	t.Parallel()
	s := startOn(t, listen(t), 50*time.Millisecond)
	call, other := dial(t, s), dial(t, s)
	call.halfCall()
	other.write("POST /other HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
	call.wantEnd("call's")
	other.wantEnd("other")
}

func TestACallMayTakeLongerThanItsBody(t *testing.T) {
	t.Parallel()
	const patience = 250 * time.Millisecond
	s := startOn(t, listen(t), patience)
	s.SetHooks(gaelocal.Hooks{Before: func(ctx context.Context, _ gaelocal.Call) error {
		select {
		case <-time.After(2 * patience):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	for range 2 { // the second on a connection whose deadlines have passed
		response, err := postCall(s, "memcache", "Stats", nil)
		noError(t, err)
		if response.RpcError != nil {
			t.Errorf("the call's error is %v, want none", response.RpcError)
		}
	}
}

func TestAnAnswerThatNobodyReadsDoesNotKeepCloseWaiting(t *testing.T) {
	t.Parallel()
	s := startOn(t, listen(t), 50*time.Millisecond)
	var get wire.MemcacheGetRequest
	for i := range 32 { // more than fits between two sockets
		key := []byte{byte('a' + i)}
		get.Key = append(get.Key, key)
		set, err := proto.Marshal(&wire.MemcacheSetRequest{Item: []*wire.MemcacheSetRequest_Item{{Key: key, Value: make([]byte, 1<<20-1000)}}})
		noError(t, err)
		_, err = s.Call(context.Background(), "memcache", "Set", "", set)
		noError(t, err)
	}
	executed := make(chan bool)
	s.SetHooks(gaelocal.Hooks{After: func(context.Context, gaelocal.Call) error { close(executed); return nil }})
	dial(t, s).write(wireCall(t, "memcache", "Get", &get))
	<-executed
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		noError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("Close still waits after a minute")
	}
}

// logged returns what is logged while f runs.
func logged(f func()) string {
	before, output, flags := slog.Default(), log.Writer(), log.Flags()
	defer func() {
		slog.SetDefault(before)
		log.SetOutput(output) // slog has redirected log as well
		log.SetFlags(flags)
	}()
	var text bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&text, nil)))
	f()
	return text.String()
}

// elsewhere is a listener that claims another address than its own.
type elsewhere struct {
	net.Listener
	ip net.IP
}

func (l elsewhere) Addr() net.Addr { return &net.TCPAddr{IP: l.ip, Port: 8080} }

func (l elsewhere) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return elsewhereConn{conn, l.Addr()}, err
}

type elsewhereConn struct {
	net.Conn
	local net.Addr
}

func (c elsewhereConn) LocalAddr() net.Addr { return c.local }

func TestListeningBeyondThisMachineIsWarnedOf(t *testing.T) {
	for address, warned := range map[string]bool{
		"127.0.0.1": false, "127.1.2.3": false, "::1": false,
		"0.0.0.0": true, "::": true, "192.0.2.1": true, "2001:db8::1": true,
	} {
		log := logged(func() { startOn(t, elsewhere{listen(t), net.ParseIP(address)}, time.Second) })
		if got := strings.Count(log, "\n") == 1 && strings.Contains(log, "level=WARN") && strings.Contains(log, address); got != warned {
			t.Errorf("listening at %s logs %q; want a warning: %v", address, log, warned)
		}
		if !warned && log != "" {
			t.Errorf("listening at %s logs %q, want nothing", address, log)
		}
	}
}

func TestADataFileThatOthersCanOpenIsWarnedOf(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access rights are not in a file's mode")
	}
	path := dataFile(t)
	open := func() { withData(t, gaelocal.Options{Data: path}, func(*gaelocal.Server, context.Context) {}) }
	if log := logged(open); log != "" {
		t.Errorf("a new file logs %q, want nothing", log)
	}
	info, err := os.Stat(path)
	noError(t, err)
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("a new file has mode %v, want 0600", got)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602} {
		noError(t, os.Chmod(path, mode))
		log := logged(open)
		if strings.Count(log, "\n") != 1 || !strings.Contains(log, "level=WARN") || !strings.Contains(log, path) {
			t.Errorf("mode %v logs %q, want one warning that names the file", mode, log)
		}
	}
}

func TestOnlyAppsAreServed(t *testing.T) {
	s, _ := startLocal(t, gaelocal.Options{})
	port := s.Addr()[strings.LastIndex(s.Addr(), ":"):]
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	for _, c := range []struct {
		method, path, host string // an empty host is the server's address
		header             http.Header
		want               int
	}{
		{"GET", "/rpc_http", "", nil, http.StatusMethodNotAllowed},
		{"POST", "/other", "", nil, http.StatusNotFound},
		{"POST", "/rpc_http", "", header("Origin", "https://somebody.example"), http.StatusForbidden},
		{"POST", "/rpc_http", "", header("Origin", "null"), http.StatusForbidden},
		{"POST", "/rpc_http", "", header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		{"POST", "/rpc_http", "", header("Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		{"GET", "/", "", header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		{"POST", "/rpc_http", "", header("Sec-Fetch-Site", "none"), http.StatusOK},
		{"POST", "/rpc_http", "", nil, http.StatusOK},
		{"POST", "/rpc_http", "localhost", nil, http.StatusOK},
		{"POST", "/rpc_http", "LocalHost" + port, nil, http.StatusOK},
		{"POST", "/rpc_http", "127.8.9.10:1", nil, http.StatusOK},
		{"POST", "/rpc_http", "[::1]", nil, http.StatusOK},
		{"POST", "/rpc_http", "[::1]" + port, nil, http.StatusOK},
		{"POST", "/rpc_http", "[::ffff:127.0.0.1]" + port, nil, http.StatusOK},
		{"POST", "/rpc_http", "somebody.example" + port, nil, http.StatusForbidden},
		{"POST", "/rpc_http", "localhost.somebody.example", nil, http.StatusForbidden},
		{"POST", "/rpc_http", "127.0.0.1.somebody.example", nil, http.StatusForbidden},
		{"POST", "/rpc_http", "0.0.0.0" + port, nil, http.StatusForbidden},
		{"POST", "/rpc_http", "192.0.2.1" + port, nil, http.StatusForbidden},
		{"POST", "/rpc_http", "[2001:db8::1]" + port, nil, http.StatusForbidden},
		{"GET", "/", "somebody.example", nil, http.StatusForbidden},
	} {
		r, err := http.NewRequest(c.method, "http://"+s.Addr()+c.path, nil)
		noError(t, err)
		r.Host = c.host
		for name := range c.header {
			r.Header.Set(name, c.header.Get(name))
		}
		response, err := http.DefaultClient.Do(r)
		noError(t, err)
		response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%s %s with host %q and header %v: status %d, want %d", c.method, c.path, c.host, c.header, response.StatusCode, c.want)
		}
	}
}

func TestAServerBeyondLoopbackIsReachedByItsAddress(t *testing.T) {
	l := listen(t)
	startOn(t, elsewhere{l, net.IPv4(192, 0, 2, 1)}, time.Minute)
	for host, want := range map[string]int{
		"192.0.2.1:8080":        http.StatusNotFound,
		"192.0.2.2:8080":        http.StatusForbidden,
		"somebody.example:8080": http.StatusForbidden,
	} {
		c := dialAt(t, l.Addr().String())
		c.write("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		if got := c.status(); got != want {
			t.Errorf("host %s: status %d, want %d", host, got, want)
		}
	}
}
