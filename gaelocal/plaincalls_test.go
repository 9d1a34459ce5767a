package gaelocal_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/gaelocal/internal/wire"
)

// A connection to a server on which a test writes what it likes.
type wireConn struct {
	t   *testing.T
	out net.Conn
	in  *bufio.Reader
}

func dial(t *testing.T, s *gaelocal.Server) *wireConn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
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

// statsCall is a call of memcache's Stats with the given headers.
func statsCall(t *testing.T, headers ...string) string {
	body, err := proto.Marshal(&wire.Request{ServiceName: proto.String("memcache"), Method: proto.String("Stats"), Request: []byte{}})
	noError(t, err)
	return fmt.Sprintf("POST /rpc_http HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s", len(body), strings.Join(headers, ""), body)
}

func TestOneConnectionTakesCallsAndOtherRequests(t *testing.T) {
	s, _ := startLocal(t, gaelocal.Options{})
	c := dial(t, s)
	for i, step := range []struct {
		request string
		want    int
	}{
		{statsCall(t), 200},
		{statsCall(t, "X-Anything: 1\r\n", "User-Agent: x\r\n"), 200},
		{statsCall(t) + statsCall(t), 200}, // two at once; the answer to the second is read next
		{"", 200},
		{statsCall(t, "Origin: https://somebody.example\r\n"), 403},
		{statsCall(t), 200},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		{statsCall(t), 200},
	} {
		if step.request != "" {
			c.write(step.request)
		}
		if got := c.status(); got != step.want {
			t.Fatalf("request %d: status %d, want %d", i, got, step.want)
		}
	}
}

func TestUnusualHeadsAreLeftToNetHTTP(t *testing.T) {
	for name, head := range map[string]struct {
		text string
		want int
	}{
		"no host":            {"POST /rpc_http HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400},
		"two lengths":        {"POST /rpc_http HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12", 400},
		"negative length":    {"POST /rpc_http HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
		"length not a count": {"POST /rpc_http HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n1", 400},
		"no name":            {"POST /rpc_http HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400},
		"chunks":             {"POST /rpc_http HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200},
		"long head":          {"POST /rpc_http HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nX-Long: " + strings.Repeat("x", 5000) + "\r\n\r\n", 200},
		"web page":           {"POST /rpc_http HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\noRIGIN: https://x.example\r\n\r\n", 403},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := startLocal(t, gaelocal.Options{})
			c := dial(t, s)
			c.write(head.text)
			if got := c.status(); got != head.want {
				t.Errorf("status %d, want %d", got, head.want)
			}
		})
	}
}

func TestACallMayArriveByteByByte(t *testing.T) {
	s, _ := startLocal(t, gaelocal.Options{})
	c := dial(t, s)
	for _, b := range []byte(statsCall(t)) {
		c.write(string(b))
	}
	if got := c.status(); got != 200 {
		t.Errorf("status %d, want 200", got)
	}
}

func TestCloseEndsIdleConnections(t *testing.T) {
	s, _ := startLocal(t, gaelocal.Options{})
	idle, begun, other := dial(t, s), dial(t, s), dial(t, s)
	begun.write("POST /rpc")
	other.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if got := other.status(); got != 404 {
		t.Errorf("status %d, want 404", got)
	}
	noError(t, s.Close())
	for name, c := range map[string]*wireConn{"idle": idle, "begun": begun, "other": other} {
		if _, err := c.in.ReadByte(); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s connection after Close: %v, want its end", name, err)
		}
	}
}
