package gaelocal_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gaesession/gaesession/gaelocal"
)

// remoteRequest is a remote_api request of these parts.
func remoteRequest(service, method string, request []byte) []byte {
	var b []byte
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), service)
	b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), method)
	return protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), request)
}

func fuzzedServer(f *testing.F) *gaelocal.Server {
	s, err := gaelocal.Start(gaelocal.Options{})
	noError(f, err)
	f.Cleanup(func() { noError(f, s.Close()) })
	return s
}

func FuzzRPCBody(f *testing.F) {
	for name, request := range localRequests(f) {
		service, method, _ := strings.Cut(name, " ")
		f.Add(remoteRequest(service, method, request))
	}
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	s := fuzzedServer(f)
	url := "http://" + s.Addr() + "/rpc_http"
	f.Fuzz(func(t *testing.T, body []byte) {
		resp, err := http.Post(url, "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("got status %d, want 200 or 400", resp.StatusCode)
		}
	})
}

// Whatever a client sends on a connection, it gets answers of HTTP, or none,
// and the next client is served.
func FuzzConnection(f *testing.F) {
	body := remoteRequest("memcache", "Stats", nil)
	plain := fmt.Sprintf("POST /rpc_http HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	f.Add([]byte(plain))
	f.Add([]byte(plain + plain))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + plain))
	f.Add([]byte("POST /rpc_http HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"))
	f.Add([]byte("POST /rpc_http HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n"))
	f.Add([]byte("POST /rpc_http HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n"))
	f.Add([]byte("POST /rpc_http HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"))
	f.Add([]byte("\r\n\r\n\r\n"))
	s := fuzzedServer(f)
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatalf("the next client is not served: %v", err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(sent); err != nil {
			return // it has closed the connection
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return
		}
		answers := bufio.NewReader(conn)
		for {
			if _, err := answers.Peek(1); err != nil {
				if e, ok := err.(net.Error); ok && e.Timeout() {
					t.Errorf("no answer and no end of the connection to %q", sent)
				}
				return
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("to %q: %v", sent, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return // cut off: the connection was closed
			}
		}
	})
}
