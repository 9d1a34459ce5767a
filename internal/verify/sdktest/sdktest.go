// Package sdktest gives tests Google's own development server, the
// dev_appserver.py of the Cloud SDK, as the reference for what App Engine's
// Memcache and Datastore answer.
//
// The server is started the first time a test asks for it and shared by all
// tests of the binary, because a start takes three to five seconds:
//
//	func TestMain(m *testing.M) { sdktest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		ctx := sdktest.Start(t).Context()
//		err := memcache.Set(ctx, item)
//		…
//	}
//
// Where no SDK is installed the test is skipped. With GAESESSION_SDK=require in
// the environment it fails instead, for machines that are meant to have one;
// with GAESESSION_SDK=off it is skipped even where there is one.
//
// The Datastore of the server is the SQLite stub, strongly consistent. State is
// shared by all tests of a binary: use a namespace per test. Memcache's flush
// and statistics know no namespaces.
package sdktest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/aetest"
)

const (
	// AppID is the application's id. Datastore keys carry "dev~" + AppID.
	AppID = "testapp"

	// Env is the environment variable that says what to do about the SDK:
	// "require", "off", or nothing.
	Env = "GAESESSION_SDK"

	// EnvLog is the environment variable with the path of a file that gets the
	// server's log. Without it the log is dropped.
	EnvLog = "GAESESSION_SDK_LOG"
)

// Server is a running development server.
type Server struct {
	instance aetest.Instance
	pid      int
	startup  time.Duration
	reaper   *reaper

	closing  sync.Once
	closeErr error
}

var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Start returns the server shared by all tests of the binary, which it starts
// when it is the first to ask. Without an SDK it skips or, see [Env], fails tb.
// [Main] or [Shutdown] ends the server.
func Start(tb testing.TB) *Server {
	tb.Helper()
	need(tb)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = New()
	}
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server
}

// need skips tb, or fails it, where there is no server to start.
func need(tb testing.TB) {
	tb.Helper()
	if os.Getenv(Env) == "off" {
		tb.Skipf("%s=off: not compared with Google's server", Env)
	}
	if _, err := find(); err != nil {
		if os.Getenv(Env) == "require" {
			tb.Fatalf("%s=require, but %v", Env, err)
		}
		tb.Skipf("not compared with Google's server: %v", err)
	}
}

// Main runs the tests of m, ends the shared server and exits: the body of a
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if err := Shutdown(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}

// Shutdown ends the shared server if it was started. A later [Start] starts
// another one.
func Shutdown() error {
	shared.Lock()
	defer shared.Unlock()
	server := shared.server
	shared.server, shared.err = nil, nil
	if server == nil {
		return nil
	}
	return server.Close()
}

// New starts a server of the caller's own. Start is what tests want; New is for
// those that need an empty server or measure how long the start takes. While it
// runs, the PATH, standard output and standard error of this process are
// others.
func New() (*Server, error) {
	sdk, err := find()
	if err != nil {
		return nil, err
	}
	restore, err := sdk.prepareProcess()
	if err != nil {
		return nil, fmt.Errorf("start Google's server: %w", err)
	}
	defer restore()

	before := children(os.Getpid())
	began := time.Now()
	useEmulator := false
	instance, err := aetest.NewInstance(&aetest.Options{
		AppID:                       AppID,
		StronglyConsistentDatastore: true,
		SupportDatastoreEmulator:    &useEmulator,
		StartupTimeout:              5 * time.Minute, // three seconds are usual
	})
	if err != nil {
		return nil, fmt.Errorf("start Google's server: %w", err)
	}
	server := &Server{instance: instance, startup: time.Since(began)}
	for pid := range children(os.Getpid()) {
		if !before[pid] {
			server.pid = pid
		}
	}
	server.reaper = newReaper(server.pid)
	return server, nil
}

// Close asks the server to quit and kills it if it does not. It is idempotent.
// A process that ends without Close takes the server with it.
func (s *Server) Close() error {
	s.closing.Do(func() {
		if err := s.instance.Close(); err != nil && !exited(err) {
			s.closeErr = fmt.Errorf("end Google's server: %w", err)
		}
		s.reaper.dismiss()
	})
	return s.closeErr
}

// exited reports whether err only says how the server ended: with what status,
// or that it was too slow to quit and was killed.
func exited(err error) bool {
	var status *exec.ExitError
	return errors.As(err, &status) || err.Error() == "timeout killing child process"
}

// Context returns the context of a new request whose API calls go to the
// server. The optional argument is the namespace of its calls.
func (s *Server) Context(namespace ...string) context.Context {
	request, err := s.instance.NewRequest(http.MethodGet, "/", nil)
	if err != nil {
		panic(fmt.Sprintf("sdktest: constant request refused: %v", err))
	}
	ctx := appengine.NewContext(request)
	for _, name := range namespace {
		if ctx, err = appengine.Namespace(ctx, name); err != nil {
			panic(fmt.Sprintf("sdktest: %v", err))
		}
	}
	return ctx
}

// StartupTime is how long the server took until it could be called.
func (s *Server) StartupTime() time.Duration { return s.startup }

// Pid is the process id of the server, 0 where there is no /proc.
func (s *Server) Pid() int { return s.pid }

// RSS is the resident memory of the server and the processes it started, in
// bytes.
func (s *Server) RSS() (int64, error) { return RSS(s.pid) }

// RSS is the resident memory of a process and all its descendants, in bytes, as
// /proc says.
func RSS(pid int) (int64, error) {
	if pid <= 0 {
		return 0, errors.New("resident memory: process unknown")
	}
	total, err := residentOf(pid)
	if err != nil {
		return 0, err
	}
	for child := range children(pid) {
		// A child may end between the two looks.
		bytes, err := RSS(child)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		total += bytes
	}
	return total, nil
}

func residentOf(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		rest, ok := strings.CutPrefix(line, "VmRSS:")
		if !ok {
			continue
		}
		kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("resident memory: %w", err)
		}
		return kilobytes << 10, nil
	}
	return 0, nil // a zombie has none
}

// children are the processes whose parent is pid.
func children(pid int) map[int]bool {
	found := map[int]bool{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return found
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// "pid (name) state ppid …", where the name may contain anything.
		_, rest, _ := strings.Cut(string(stat), "(")
		if i := strings.LastIndex(rest, ")"); i >= 0 {
			rest = rest[i+1:]
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			found[child] = true
		}
	}
	return found
}
