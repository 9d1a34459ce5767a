package rediscache_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

var ctx = context.Background()

// binary returns the server's program. Where there is none the test is skipped,
// or with GAESESSION_SDK=require in the environment fails.
func binary(tb testing.TB) string {
	tb.Helper()
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "there is neither redis-server nor valkey-server: apt-get install redis-server"
	if os.Getenv("GAESESSION_SDK") == "require" {
		tb.Fatal(missing)
	}
	tb.Skip(missing)
	return ""
}

// server is a Redis or Valkey server with a directory of its own.
type server struct {
	tb      testing.TB
	dir     string
	port    int
	args    []string
	process *exec.Cmd
	stdin   io.Closer
	raw     *redis.Client // to look behind the cache
}

// newServer starts a server, with arguments as on its command line.
func newServer(tb testing.TB, args ...string) *server {
	tb.Helper()
	s := &server{tb: tb, dir: tb.TempDir(), port: freePort(tb), args: args}
	s.raw = redis.NewClient(&redis.Options{Addr: s.addr(), MaxRetries: -1})
	tb.Cleanup(func() {
		s.kill()
		_ = s.raw.Close() // of a server that is gone
	})
	s.start()
	return s
}

// taken are the ports of all servers: the system may give one away again before its
// server listens.
var taken sync.Map

// freePort returns one that leaves room for a Cluster's second port above it.
func freePort(tb testing.TB) int {
	tb.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			tb.Fatal(err)
		}
		if _, again := taken.LoadOrStore(port, nil); port < 55000 && !again {
			return port
		}
	}
}

func (s *server) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// start starts the server on what is in its directory. It dies with the test,
// however that ends: the shell kills it when its input ends.
func (s *server) start() {
	s.tb.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer log.Close()
	s.process = exec.Command("sh", append(append([]string{"-c", `"$@" </dev/null & read _; kill -9 $!; wait $!`, "sh", binary(s.tb)}, s.args...),
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", s.dir, "--save", "")...)
	s.process.Stdout, s.process.Stderr = log, log
	if s.stdin, err = s.process.StdinPipe(); err != nil {
		s.tb.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		s.tb.Fatal(err)
	}
	eventually(s.tb, "the server answers", func() bool { return s.raw.Ping(ctx).Err() == nil })
}

// kill ends the server as kill -9 does.
func (s *server) kill() {
	if s.process != nil {
		_ = s.stdin.Close()
		_ = s.process.Wait() // it was killed
		s.process = nil
	}
}

// shutdown lets the server end by itself, and save what it has.
func (s *server) shutdown() {
	s.tb.Helper()
	_ = s.raw.ShutdownSave(ctx).Err() // it does not answer any more
	eventually(s.tb, "the server ends", func() bool { return s.raw.Ping(ctx).Err() != nil })
	s.kill()
}

// key returns the key of an id.
func key(id string) string {
	hash := sha256.Sum256([]byte(id))
	return "gaesession:" + hex.EncodeToString(hash[:])
}

// do runs a command on the server and returns its answer.
func (s *server) do(args ...any) any {
	s.tb.Helper()
	answer, err := s.raw.Do(ctx, args...).Result()
	if err != nil {
		s.tb.Fatalf("%v: %v", args, err)
	}
	return answer
}

// info returns a field of INFO.
func (s *server) info(section, field string) string {
	s.tb.Helper()
	for _, line := range strings.Split(s.do("info", section).(string), "\r\n") {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			return value
		}
	}
	s.tb.Fatalf("INFO %s has no %s", section, field)
	return ""
}

// holds reports whether the server has, whatever the cache makes of it, a
// string under the key of that id that ends so.
func (s *server) holds(id, end string) bool {
	s.tb.Helper()
	value, err := s.raw.Get(ctx, key(id)).Result()
	if err != nil && err != redis.Nil {
		s.tb.Fatal(err)
	}
	return err == nil && strings.HasSuffix(value, end)
}

func (s *server) has(tb testing.TB, id, end string) {
	tb.Helper()
	if !s.holds(id, end) {
		tb.Fatalf("the server does not have %q under %s, so this test shows nothing", end, id)
	}
}

// exists reports whether the server has anything under the key of that id.
func (s *server) exists(id string) bool {
	s.tb.Helper()
	return s.do("exists", key(id)).(int64) == 1
}

// client returns a client with go-redis's own settings.
func (s *server) client(tb testing.TB) *redis.Client { return newClient(tb, s.addr()) }

func newClient(tb testing.TB, addr string) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: addr})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// cache returns a cache on the server.
func (s *server) cache(tb testing.TB) *cache {
	tb.Helper()
	return newCache(tb, s.client(tb))
}

func newCache(tb testing.TB, client redis.UniversalClient) *cache {
	tb.Helper()
	c, err := rediscache.New(ctx, client, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &cache{tb, c}
}

// cache is a Cache with calls that fail the test.
type cache struct {
	tb testing.TB
	*rediscache.Cache
}

func text(s string) tier.Item { return tier.Item{Value: []byte(s)} }

func (c *cache) get(id string) *tier.Item {
	c.tb.Helper()
	it, err := c.Get(ctx, id)
	if err != nil {
		c.tb.Fatalf("get: %v", err)
	}
	return it
}

func (c *cache) set(id, value string) {
	c.tb.Helper()
	if err := c.Set(ctx, id, text(value), time.Hour); err != nil {
		c.tb.Fatalf("set: %v", err)
	}
}

func (c *cache) swap(id string, old *tier.Item, value string, want tier.Outcome) {
	c.tb.Helper()
	got, err := c.CompareAndSwap(ctx, id, old, text(value), time.Hour)
	if err != nil {
		c.tb.Fatalf("compare-and-swap: %v", err)
	}
	if got != want {
		c.tb.Fatalf("compare-and-swap answers %d, want %d", got, want)
	}
}

// wants fails unless that is what the cache has; "": nothing.
func (c *cache) wants(id, want, when string) {
	c.tb.Helper()
	got := ""
	if it := c.get(id); it != nil {
		got = string(it.Value)
	}
	if got != want {
		c.tb.Errorf("%s the cache has %q, want %q", when, got, want)
	}
}

func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for until := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			tb.Fatalf("not in 30 s: %s", what)
		}
	}
}

// proxy passes connections on to a server.
type proxy struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	resumed *sync.Cond
	stalled bool
	lose    func() // called once, instead of passing on the next answer
	conns   []net.Conn
}

func newProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{listener: l, target: target}
	p.resumed = sync.NewCond(&p.mu)
	go p.accept()
	tb.Cleanup(func() {
		_ = l.Close()
		p.stall(false)
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, conn := range p.conns {
			_ = conn.Close()
		}
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) port() string { _, port, _ := net.SplitHostPort(p.addr()); return port }

// stall makes the proxy hold back everything, or pass it on again.
func (p *proxy) stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = on
	p.resumed.Broadcast()
}

// loseAnswer makes the proxy drop the next answer of the server, and then close
// the connection it was for. Before it closes, it calls f.
func (p *proxy) loseAnswer(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = f
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		go p.pass(server, client, false)
		go p.pass(client, server, true)
	}
}

func (p *proxy) pass(to, from net.Conn, answers bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.stalled {
			p.resumed.Wait()
		}
		var lose func()
		if answers {
			lose, p.lose = p.lose, nil
		}
		p.mu.Unlock()
		if lose != nil {
			lose()
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// clusterOf starts a Cluster of that many masters and returns them with a client.
func clusterOf(tb testing.TB, n int) ([]*server, *redis.ClusterClient) {
	tb.Helper()
	const slots = 16384
	var nodes []*server
	var addrs []string
	for i := range n {
		s := newServer(tb, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
		args := []any{"cluster", "addslots"}
		for slot := slots * i / n; slot < slots*(i+1)/n; slot++ {
			args = append(args, slot)
		}
		s.do(args...)
		s.do("cluster", "set-config-epoch", i+1)
		if i > 0 {
			nodes[0].do("cluster", "meet", "127.0.0.1", s.port)
		}
		nodes, addrs = append(nodes, s), append(addrs, s.addr())
	}
	for _, s := range nodes {
		eventually(tb, "the cluster is complete", func() bool {
			info := s.do("cluster", "info").(string)
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n))
		})
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	tb.Cleanup(func() { _ = client.Close() })
	return nodes, client
}

// dialer returns a function that connects to where addr says.
func dialer(addr func() string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr())
	}
}
