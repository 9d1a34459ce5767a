package peers

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A server is a Redis or Valkey server with a directory of its own.
type server struct {
	tb   testing.TB
	addr string
	raw  *redis.Client
}

// newServer starts a server. Where there is none the test is skipped, or with
// GAESESSION_SDK=require in the environment fails.
func newServer(tb testing.TB) *server {
	tb.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		path, err = exec.LookPath("valkey-server")
	}
	if err != nil {
		const missing = "there is neither redis-server nor valkey-server: apt-get install redis-server"
		if os.Getenv("GAESESSION_SDK") == "require" {
			tb.Fatal(missing)
		}
		tb.Skip(missing)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &server{tb: tb, addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.addr)
	dir := tb.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	// The server dies with the test, however that ends: the shell kills it when its
	// input ends.
	process := exec.Command("sh", "-c", `"$@" </dev/null & read _; kill -9 $!; wait $!`, "sh",
		path, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "")
	process.Stdout, process.Stderr = log, log
	stdin, err := process.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := process.Start(); err != nil {
		tb.Fatal(err)
	}
	s.raw = redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1})
	tb.Cleanup(func() {
		_, _ = s.raw.Close(), stdin.Close()
		_ = process.Wait() // it was killed
	})
	for until := time.Now().Add(30 * time.Second); s.raw.Ping(context.Background()).Err() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			tb.Fatal("the server does not answer in 30 s")
		}
	}
	return s
}

// silence stops the server: it takes connections and calls, and answers nothing
// until speak is called.
func (s *server) silence() (speak func()) {
	s.tb.Helper()
	info, err := s.raw.Info(context.Background(), "server").Result()
	if err != nil {
		s.tb.Fatal(err)
	}
	_, info, _ = strings.Cut(info, "process_id:")
	text, _, _ := strings.Cut(info, "\r\n")
	pid, err := strconv.Atoi(text)
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		s.tb.Fatal(err)
	}
	speak = sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // it is there until the test ends
	s.tb.Cleanup(speak)
	return speak
}
