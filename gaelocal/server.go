package gaelocal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/gaelocal/internal/wire"
)

// Options of a Server. The zero value is a server in memory on a free port.
type Options struct {
	// Addr is the address to listen at, "127.0.0.1:0" by default: loopback,
	// any free port. The server knows no authentication; keep it on loopback.
	Addr string

	// Data is the path of the file that keeps the Datastore's entities, created
	// when it does not exist. Empty means in memory. Memcache is always in memory.
	Data string

	// AppID is the application id, "local" by default. GAE_APPLICATION is
	// "dev~" + AppID. Entities belong to the AppID they were stored under.
	AppID string

	// MemcacheSize is how many bytes of keys and values Memcache keeps before it
	// evicts the items least recently used; 64 MiB by default.
	MemcacheSize int64

	// Latency, when set, says how long to wait before a call is executed.
	// AppEngineLatency is a model of the real services.
	Latency func(Call) time.Duration

	// Hooks are called around every call.
	Hooks Hooks
}

const (
	defaultAddr         = "127.0.0.1:0"
	defaultAppID        = "local"
	defaultMemcacheSize = 64 << 20

	apiPath     = "/rpc_http"
	maxBodySize = 32 << 20 // App Engine's limit of a request to memcache
)

// Server serves App Engine's Memcache and Datastore. Its methods may be called
// from any goroutine.
type Server struct {
	appID     string // with the "dev~" partition
	addr      string
	memcache  *memcache
	datastore *datastore
	controls  controls
	calls     inFlight
	plain     *plainCalls
	http      *http.Server // for requests that are not plain calls
	served    chan error   // what http.Server.Serve returned, once

	closeOnce sync.Once
	closeErr  error
}

// Start starts a server. An error says in one sentence what is wrong: a port in
// use, a data file that is locked by another process or damaged.
func Start(o Options) (*Server, error) {
	if o.Addr == "" {
		o.Addr = defaultAddr
	}
	if o.AppID == "" {
		o.AppID = defaultAppID
	}
	if o.MemcacheSize <= 0 {
		o.MemcacheSize = defaultMemcacheSize
	}
	if strings.Contains(o.AppID, "\x00") {
		return nil, fmt.Errorf("gaelocal: the application id %q has a NUL byte", o.AppID)
	}
	appID := "dev~" + o.AppID
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("gaelocal: cannot listen at %s: %w", o.Addr, err)
	}
	ds, err := openDatastore(appID, o.Data)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := &Server{
		appID:     appID,
		addr:      l.Addr().String(),
		memcache:  newMemcache(o.MemcacheSize),
		datastore: ds,
		served:    make(chan error, 1),
	}
	s.SetHooks(o.Hooks)
	s.SetLatency(o.Latency)
	s.calls.init()
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	s.plain = newPlainCalls(s, l)
	go func() { s.served <- s.http.Serve(s.plain) }()
	return s, nil
}

// Addr is the address the server listens at, as host:port.
func (s *Server) Addr() string { return s.addr }

// Close stops the server: calls in flight end and are answered, later ones
// fail, and the data file is closed. It waits for hooks, so it must not be called
// by one. Closing again returns the same result. A Server that Start did not
// make has nothing to close.
func (s *Server) Close() error {
	if s.http == nil {
		return nil
	}
	s.closeOnce.Do(func() {
		s.calls.close()
		errHTTP := s.http.Close()
		if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
			errHTTP = errors.Join(errHTTP, err)
		}
		s.plain.close()
		if errHTTP != nil {
			errHTTP = fmt.Errorf("gaelocal: stopping the server at %s: %w", s.addr, errHTTP)
		}
		s.closeErr = errors.Join(errHTTP, s.datastore.close())
	})
	return s.closeErr
}

// FlushMemcache drops every item of every namespace, and the statistics.
func (s *Server) FlushMemcache() { s.memcache.flush() }

// EvictMemcache drops one item, as Memcache may at any time, and tells whether
// it was there.
func (s *Server) EvictMemcache(namespace, key string) bool {
	return s.memcache.evict(namespace, key)
}

// Call makes a call in this process, without HTTP: request and response are the
// service's messages in protobuf's wire format, ticket is the remote_api
// request_id and may be empty. Hooks and latency apply; everything happens on
// the caller's goroutine. An error is always an *Error.
func (s *Server) Call(ctx context.Context, service, method, ticket string, request []byte) (response []byte, err error) {
	if !s.calls.begin() {
		return nil, rpcError(rpcUnknown, "the server has been closed")
	}
	defer s.calls.end()
	res, callErr := s.call(ctx, service, method, ticket, request)
	if callErr != nil {
		return nil, callErr
	}
	return res, nil
}

// An operation is a call that has been understood.
type operation struct {
	namespace     string
	inTransaction bool
	run           func() (proto.Message, *Error)
}

func (s *Server) call(ctx context.Context, service, method, ticket string, request []byte) ([]byte, *Error) {
	var op operation
	var failed *Error
	switch service {
	case "memcache":
		op, failed = s.memcache.operation(method, request)
	case "datastore_v3":
		op, failed = s.datastore.operation(method, request)
	default:
		failed = callNotFound(service, method)
	}
	if failed != nil {
		return nil, failed
	}
	hooks := s.controls.hooks.Load()
	c := Call{Service: service, Method: method, Namespace: op.namespace, InTransaction: op.inTransaction, Ticket: ticket}
	if failed := s.wait(ctx, c); failed != nil {
		return nil, failed
	}
	if hooks.Before != nil {
		if err := hooks.Before(ctx, c); err != nil {
			return nil, hookError(err)
		}
	}
	res, failed := op.run()
	if failed != nil {
		return nil, failed
	}
	if hooks.After != nil {
		if err := hooks.After(ctx, c); err != nil {
			return nil, hookError(err)
		}
	}
	b, err := proto.Marshal(res)
	if err != nil {
		return nil, rpcError(rpcUnknown, "encoding the answer of %s.%s: %v", service, method, err)
	}
	return b, nil
}

// understand reads a service's request into req, to be executed by run.
func understand[Q, R proto.Message](service, method string, request []byte, req Q, run func(Q) (R, *Error)) (operation, *Error) {
	if err := proto.Unmarshal(request, req); err != nil {
		return operation{}, rpcError(rpcParseError, "the request of %s.%s cannot be decoded: %v", service, method, err)
	}
	return operation{run: func() (proto.Message, *Error) { return run(req) }}, nil
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.calls.begin() {
		http.Error(w, "gaelocal: the server has been closed", http.StatusServiceUnavailable)
		return
	}
	defer s.calls.end()
	switch {
	case r.URL.Path != apiPath:
		http.Error(w, "gaelocal serves App Engine's APIs at "+apiPath, http.StatusNotFound)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "gaelocal: only POST", http.StatusMethodNotAllowed)
		return
	case r.Header.Get("Origin") != "":
		// An app's client library never sends it; a web page of somebody
		// else's, open in the developer's browser, always does.
		http.Error(w, "gaelocal: not for web pages", http.StatusForbidden)
		return
	}
	var answer *wire.Response
	if body, failed := readBody(w, r); failed != nil {
		answer = errorResponse(failed)
	} else {
		answer = s.answer(r.Context(), body.b)
		body.release()
	}
	b, err := proto.Marshal(answer)
	if err != nil {
		http.Error(w, "gaelocal: encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if _, err := w.Write(b); err != nil {
		return // the caller is gone
	}
	// The whole answer leaves before the call counts as ended, so that Close
	// does not cut it off. An error means that the caller is gone.
	_ = http.NewResponseController(w).Flush()
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

// readBody reads a body of at most maxBodySize bytes. What it allocates grows
// with what arrives, not with what the header announces.
func readBody(w http.ResponseWriter, r *http.Request) (*body, *Error) {
	if r.ContentLength > maxBodySize {
		return nil, errTooLarge
	}
	b := bodies.Get().(*body)
	b.b = b.b[:0]
	in := http.MaxBytesReader(w, r.Body, maxBodySize)
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

var errTooLarge = rpcError(rpcRequestTooLarge, "the request is larger than %d bytes", maxBodySize)

// inFlight counts the calls being executed. (Not a sync.WaitGroup: calls may
// come from several bubbles of testing/synctest, and from none.)
type inFlight struct {
	mu     sync.Mutex
	idle   sync.Cond
	n      int
	closed bool
}

func (f *inFlight) init() { f.idle.L = &f.mu }

// begin counts a call in, unless close was called.
func (f *inFlight) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.n++
	return true
}

func (f *inFlight) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 && f.closed {
		f.idle.Broadcast()
	}
}

// close lets no further call begin and waits for those begun.
func (f *inFlight) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for f.n > 0 {
		f.idle.Wait()
	}
}
