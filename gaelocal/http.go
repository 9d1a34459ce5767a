package gaelocal

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

const (
	apiPath = "/rpc_http"
	maxBody = 32 << 20 // App Engine's limit of a request to memcache

	// headTimeout also ends connections on which no request has begun, so it is
	// longer than the 90 seconds for which appengine/v2 keeps one: a server
	// that hangs up first may do so just when a call is sent.
	headTimeout = 2 * time.Minute

	// defaultPatience is how long a body may take to arrive, and an answer to
	// leave.
	defaultPatience = 10 * time.Second
)

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	conn := http.NewResponseController(w)
	// net/http takes it back when the body has been read, or given up.
	if err := conn.SetReadDeadline(time.Now().Add(s.patience)); err != nil {
		return // the client is gone
	}
	refusal := refuse(r)
	switch {
	case refusal != "":
		http.Error(w, "gaelocal: "+refusal, http.StatusForbidden)
		return
	case r.URL.Path != apiPath:
		http.Error(w, "gaelocal serves App Engine's APIs at "+apiPath, http.StatusNotFound)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "gaelocal: only POST", http.StatusMethodNotAllowed)
		return
	}
	body, failed := readBody(w, r)
	if failed == nil {
		defer body.release()
	}
	// What has arrived whole is answered, and Close waits until it is.
	if !s.calls.begin() {
		http.Error(w, "gaelocal: the server has been closed", http.StatusServiceUnavailable)
		return
	}
	defer s.calls.end()
	var answer *wire.Response
	if failed != nil {
		answer = errorResponse(failed)
	} else {
		answer = s.answer(r.Context(), body.b)
	}
	writeAnswer(w, conn, answer, s.patience)
}

// refuse returns why a request is refused that a web page in the developer's
// browser may have made, and an app's client library never makes; otherwise it
// returns nothing. Browsers send Origin with each POST of a page, or say in
// Sec-Fetch-Site where the page is from. A page whose own host name leads to
// this machine (DNS rebinding) is of one site with the server, but has that name
// as the Host, and no address.
func refuse(r *http.Request) (reason string) {
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case r.Header.Get("Origin") != "", site == "cross-site", site == "same-site":
		return "not for web pages"
	case !isOwnHost(r):
		return "the request's Host is not this machine"
	}
	return ""
}

// isOwnHost reports whether a request's Host is loopback, or the address at
// which it has arrived, which is another one if Options.Addr says so.
func isOwnHost(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil { // no port
		host = strings.Trim(r.Host, "[]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return addr.Unmap().IsLoopback() || ok && addr.Unmap() == local.AddrPort().Addr().Unmap()
}

// writeAnswer writes an answer and sees it off, so that Close does not cut it.
func writeAnswer(w http.ResponseWriter, conn *http.ResponseController, answer *wire.Response, patience time.Duration) {
	b, err := proto.Marshal(answer)
	if err != nil {
		http.Error(w, "gaelocal: encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	// An error of the following calls means that the client is gone.
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if _, err := w.Write(b); err != nil {
		return
	}
	_ = conn.Flush()
}

// answer executes the call in the body of a request.
func (s *Server) answer(ctx context.Context, body []byte) *wire.Response {
	var req wire.Request
	if err := proto.Unmarshal(body, &req); err != nil {
		return errorResponse(rpcError(rpcParseError, "the remote_api request cannot be decoded: %v", err))
	}
	res, failed := s.call(ctx, req.GetServiceName(), req.GetMethod(), req.GetRequestId(), req.GetRequest())
	if failed != nil {
		return errorResponse(failed)
	}
	return &wire.Response{Response: res}
}

func errorResponse(e *Error) *wire.Response {
	if e.RPC {
		return &wire.Response{RpcError: &wire.RpcError{Code: &e.Code, Detail: &e.Detail}}
	}
	return &wire.Response{ApplicationError: &wire.ApplicationError{Code: &e.Code, Detail: &e.Detail}}
}

// A body is a request body in a buffer that is used again.
type body struct{ b []byte }

var bodies = sync.Pool{New: func() any { return &body{b: make([]byte, 0, 4096)} }}

// release gives the buffer back; large ones are left to the garbage collector.
func (b *body) release() {
	if cap(b.b) <= 1<<20 {
		bodies.Put(b)
	}
}

var errTooLarge = rpcError(rpcRequestTooLarge, "the request is larger than %d bytes", maxBody)

// readBody reads a body of at most maxBody bytes. What it allocates grows with
// what arrives, not with what the header announces.
func readBody(w http.ResponseWriter, r *http.Request) (*body, *Error) {
	if r.ContentLength > maxBody {
		return nil, errTooLarge
	}
	b := bodies.Get().(*body)
	b.b = b.b[:0]
	in := http.MaxBytesReader(w, r.Body, maxBody)
	for {
		if len(b.b) == cap(b.b) {
			b.b = append(b.b, 0)[:len(b.b)]
		}
		n, err := in.Read(b.b[len(b.b):cap(b.b)])
		b.b = b.b[:len(b.b)+n]
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return b, nil
		default:
			b.release()
			if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
				return nil, errTooLarge
			}
			return nil, rpcError(rpcParseError, "the request cannot be read: %v", err)
		}
	}
}
