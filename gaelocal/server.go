package gaelocal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// Options of a Server. The zero value is a server in memory on a free port.
type Options struct {
	// Addr is the address to listen at, "127.0.0.1:0" by default: loopback, any
	// free port. The server knows no authentication; keep it on loopback. Start
	// logs a warning if others than this machine can reach it. These must name
	// it by its IP address: a request to another host name gets status 403.
	Addr string

	// Data is the path of the file that keeps the Datastore's entities. Empty
	// means in memory. Memcache is always in memory.
	//
	// If the file does not exist, it is created, readable and writable for its
	// owner only. Start logs a warning if others have access to it.
	//
	// Start reads the whole file, and returns an error if it is damaged.
	Data string

	// AppID is the application id, "local" by default. GAE_APPLICATION is
	// "dev~" + AppID. Entities belong to the AppID they were stored under.
	AppID string

	// MemcacheSize is how many bytes of keys and values Memcache keeps before
	// it evicts the items least recently used; 64 MiB by default.
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
	patience  time.Duration // with a client that is slow to send or to receive
	http      *http.Server  // nil: Start did not make this Server
	served    chan error    // what http.Server.Serve returned, once

	closeOnce sync.Once
	closeErr  error
}

// Start starts a server. An error says in one sentence what is wrong: a port in
// use, a data file that is locked by another process or damaged.
func Start(o Options) (*Server, error) {
	o = o.withDefaults()
	if strings.Contains(o.AppID, "\x00") {
		return nil, fmt.Errorf("gaelocal: the application id %q has a NUL byte", o.AppID)
	}
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("gaelocal: cannot listen at %s: %w", o.Addr, err)
	}
	return serve(l, o, defaultPatience)
}

func (o Options) withDefaults() Options {
	if o.Addr == "" {
		o.Addr = defaultAddr
	}
	if o.AppID == "" {
		o.AppID = defaultAppID
	}
	if o.MemcacheSize <= 0 {
		o.MemcacheSize = defaultMemcacheSize
	}
	return o
}

// serve starts a server on a listener, which it closes if it fails.
func serve(l net.Listener, o Options, patience time.Duration) (*Server, error) {
	appID := "dev~" + o.AppID
	ds, err := openDatastore(appID, o.Data)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := &Server{
		appID:     appID,
		addr:      l.Addr().String(),
		memcache:  newMemcache(o.MemcacheSize),
		datastore: ds,
		patience:  patience,
		served:    make(chan error, 1),
	}
	s.SetHooks(o.Hooks)
	s.SetLatency(o.Latency)
	s.calls.init()
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serveHTTP),
		// No ReadTimeout: it would also end connections that are kept for the
		// next call. serveHTTP sets a deadline for each body.
		ReadHeaderTimeout: headTimeout,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		slog.Warn("gaelocal listens beyond this machine, and asks nobody who they are", "addr", s.addr)
	}
	go func() { s.served <- s.http.Serve(l) }()
	return s, nil
}

// Addr is the address the server listens at, as host:port.
func (s *Server) Addr() string { return s.addr }

// Close stops the server and closes the data file. Calls that have arrived
// whole end and are answered; those still arriving are cut off, and later ones
// fail. Close waits for hooks, so it must not be called by one. Closing again
// returns the same result. A Server that Start did not make has nothing to
// close.
func (s *Server) Close() error {
	if s.http == nil {
		return nil
	}
	s.closeOnce.Do(func() {
		s.calls.close()
		// Not Shutdown: what it waits for are requests that have not arrived
		// whole, and connections on which none has begun.
		errHTTP := s.http.Close()
		if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
			errHTTP = errors.Join(errHTTP, err)
		}
		if errHTTP != nil {
			errHTTP = fmt.Errorf("gaelocal: stopping the server at %s: %w", s.addr, errHTTP)
		}
		s.closeErr = errors.Join(errHTTP, s.datastore.close())
	})
	return s.closeErr
}

// FlushMemcache drops every item of every namespace, and the statistics.
func (s *Server) FlushMemcache() {
	if s.http == nil {
		return
	}
	s.memcache.flush()
}

// EvictMemcache drops one item, as Memcache may at any time, and reports
// whether it was there.
func (s *Server) EvictMemcache(namespace, key string) bool {
	return s.http != nil && s.memcache.evict(namespace, key)
}

// Call makes a call in this process, without HTTP: request and response are the
// service's messages in protobuf's wire format, ticket is the remote_api
// request_id and may be empty. Hooks and latency apply; everything happens on
// the caller's goroutine. An error is always an *Error.
func (s *Server) Call(ctx context.Context, service, method, ticket string, request []byte) (response []byte, err error) {
	if s.http == nil {
		return nil, rpcError(rpcUnknown, "the server has not been started")
	}
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
