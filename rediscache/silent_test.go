package rediscache_test

import (
	"context"
	"errors"
	"net"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/auth"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// silence stops the server: it takes connections and calls, and answers nothing
// until speak is called.
func (s *server) silence() (speak func()) {
	s.tb.Helper()
	pid, err := strconv.Atoi(s.info("server", "process_id"))
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		s.tb.Fatal(err)
	}
	speak = sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	s.tb.Cleanup(speak)
	return speak
}

// calls are all that a cache can be asked, on an item old under "id".
func (c *cache) calls(old *tier.Item) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"get":             func(ctx context.Context) error { _, err := c.Get(ctx, "id"); return err },
		"set":             func(ctx context.Context) error { return c.Set(ctx, "id", text("y"), time.Hour) },
		"set without ttl": func(ctx context.Context) error { return c.Set(ctx, "id", text("y"), 0) },
		"add":             func(ctx context.Context) error { _, err := c.Add(ctx, "new", text("y"), time.Hour); return err },
		"compare-and-swap": func(ctx context.Context) error {
			_, err := c.CompareAndSwap(ctx, "id", old, text("y"), time.Hour)
			return err
		},
		"check": c.Check,
	}
}

// endsInTime fails unless every call ends with its context.
func endsInTime(t *testing.T, c *cache, old *tier.Item) {
	t.Helper()
	for name, call := range c.calls(old) {
		for kind, want := range map[string]error{"cancelled": context.Canceled, "timeout": context.DeadlineExceeded} {
			ctx, cancel := context.WithCancel(ctx)
			if kind == "timeout" {
				ctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
			} else {
				time.AfterFunc(20*time.Millisecond, cancel)
			}
			ended := make(chan error, 1)
			go func() { ended <- call(ctx) }()
			select {
			case err := <-ended:
				if !errors.Is(err, want) || errors.Is(err, tier.ErrUnreachable) {
					t.Errorf("%s, %s: got %v, want %v", name, kind, err, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s, %s: does not end", name, kind)
			}
			cancel()
		}
	}
}

// behind returns how many calls go on behind the scenes.
func behind() int {
	stacks := make([]byte, 16<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "rediscache.makeCalls(")
}

// These tests count goroutines, so they are not run in parallel.

func TestACallEndsWithItsContextWhileTheServerIsSilent(t *testing.T) {
	s := newServer(t)
	recommended := rediscache.ClientOptions(s.addr())
	recommended.ReadTimeout, recommended.WriteTimeout = time.Minute, time.Minute // so that they end no call
	for name, options := range map[string]*redis.Options{
		"default options": {Addr: s.addr(), ReadTimeout: time.Minute},
		"ClientOptions":   recommended,
		"no timeouts":     {Addr: s.addr(), ReadTimeout: -1, WriteTimeout: -1, PoolSize: 100},
	} {
		t.Run(name, func(t *testing.T) {
			client := redis.NewClient(options)
			t.Cleanup(func() { _ = client.Close() })
			c := newCache(t, client)
			c.set("id", "x")
			old := c.get("id")
			speak := s.silence()
			endsInTime(t, c, old)
			speak()
			eventually(t, "what goes on behind the scenes ends", func() bool { return behind() == 0 })
			c.set("id", "z")
			c.wants("id", "z", "when the server answers again")
		})
	}
}

// The goroutine of another call would wait for more of them, so it would be there.
func TestACallWithADeadlineNeedsNoOtherGoroutine(t *testing.T) {
	s := newServer(t)
	client := redis.NewClient(rediscache.ClientOptions(s.addr()))
	t.Cleanup(func() { _ = client.Close() })
	c := newCache(t, client)
	c.set("id", "x")
	calls := c.calls(c.get("id"))
	delete(calls, "check")
	eventually(t, "no other goroutine is there", func() bool { return behind() == 0 })
	speak := s.silence()
	for name, call := range calls {
		for kind, want := range map[string]error{"cancelled": context.Canceled, "timeout": context.DeadlineExceeded} {
			ctx, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
			if kind == "cancelled" {
				time.AfterFunc(time.Millisecond, cancel)
			}
			if err := call(ctx); !errors.Is(err, want) {
				t.Errorf("%s, %s: got %v, want %v", name, kind, err, want)
			}
			if n := behind(); n > 0 {
				t.Errorf("%s, %s: %d other goroutines", name, kind, n)
			}
			cancel()
		}
	}
	speak()
	eventually(t, "the server answers again", func() bool { _, err := c.Get(ctx, "id"); return err == nil })
}

// The client's timeout comes before the deadline.
func TestACallThatWasCancelledSaysSo(t *testing.T) {
	s := newServer(t)
	options := rediscache.ClientOptions(s.addr())
	options.ReadTimeout = 100 * time.Millisecond
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	c := newCache(t, client)
	c.set("id", "x")
	s.silence()
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := c.Get(ctx, "id"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Packets that are lost: no connection is made, and none is refused.
func TestACallEndsWithItsContextWhileNoDialEnds(t *testing.T) {
	s := newServer(t)
	for name, deaf := range map[string]bool{"a dialer that knows contexts": false, "a dialer that knows none": true} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			lost := make(chan struct{})
			close(lost)
			stop := func() { mu.Lock(); lost = make(chan struct{}); mu.Unlock() }
			goOn := func() { mu.Lock(); close(lost); mu.Unlock() }
			options := rediscache.ClientOptions(s.addr())
			options.ConnMaxIdleTime, options.DialTimeout = time.Nanosecond, time.Minute
			options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				wait, done := lost, ctx.Done()
				mu.Unlock()
				if deaf {
					done = nil
				}
				select {
				case <-wait:
				case <-done:
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			client := redis.NewClient(options)
			t.Cleanup(func() { _ = client.Close() })
			c := newCache(t, client)
			c.set("id", "x")
			old := c.get("id")
			stop()
			endsInTime(t, c, old)
			goOn()
			eventually(t, "what goes on behind the scenes ends", func() bool { return behind() == 0 })
			eventually(t, "the cache works", func() bool { it, err := c.Get(ctx, "id"); return err == nil && it != nil })
		})
	}
}

// A function of the app's may wait for something else, as for a token of the server's.
func TestACallEndsWithItsContextWhileAFunctionOfTheAppDoesNot(t *testing.T) {
	s := newServer(t)
	for name, set := range map[string]func(o *redis.Options, wait func()){
		"CredentialsProvider": func(o *redis.Options, wait func()) {
			o.CredentialsProvider = func() (string, string) { wait(); return "", "" }
		},
		"CredentialsProviderContext": func(o *redis.Options, wait func()) {
			o.CredentialsProviderContext = func(context.Context) (string, string, error) { wait(); return "", "", nil }
		},
		"StreamingCredentialsProvider": func(o *redis.Options, wait func()) { o.StreamingCredentialsProvider = subscription(wait) },
		"OnConnect": func(o *redis.Options, wait func()) {
			o.OnConnect = func(context.Context, *redis.Conn) error { wait(); return nil }
		},
		"Limiter": func(o *redis.Options, wait func()) { o.Limiter = limiter(wait) },
	} {
		t.Run(name, func(t *testing.T) {
			goOn := make(chan struct{})
			options := rediscache.ClientOptions(s.addr())
			set(options, func() { <-goOn })
			client := redis.NewClient(options)
			t.Cleanup(func() { _ = client.Close() })
			t.Cleanup(func() { eventually(t, "what goes on behind the scenes ends", func() bool { return behind() == 0 }) })
			t.Cleanup(func() { close(goOn) })
			endsInTime(t, newCache(t, client), &tier.Item{Token: strings.Repeat("x", 56)})
		})
	}
}

// A subscription waits before it says that there are no credentials.
type subscription func()

func (wait subscription) Subscribe(auth.CredentialsListener) (auth.Credentials, auth.UnsubscribeFunc, error) {
	wait()
	return nil, nil, errors.New("no credentials")
}

// A limiter waits before it lets a call pass.
type limiter func()

func (wait limiter) Allow() error  { wait(); return nil }
func (limiter) ReportResult(error) {}

// A call that was given up holds a connection. One that waited for a connection
// ends. So there are no more of them than connections.
func TestCallsThatWereGivenUpAreNoMoreThanConnections(t *testing.T) {
	s := newServer(t)
	const connections = 5
	client := redis.NewClient(&redis.Options{Addr: s.addr(), PoolSize: connections, PipelinePoolSize: -1, ReadTimeout: time.Hour})
	t.Cleanup(func() { _ = client.Close() })
	c := newCache(t, client)
	c.set("id", "x")
	speak := s.silence()
	before := runtime.NumGoroutine()
	for range 5 {
		var all sync.WaitGroup
		for range 60 {
			all.Add(1)
			go func() {
				defer all.Done()
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				if _, err := c.Get(ctx, "id"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("get: %v", err)
				}
			}()
		}
		all.Wait()
		eventually(t, "calls without a connection end", func() bool { return behind() <= connections })
	}
	if n := runtime.NumGoroutine() - before; n > 3*connections {
		t.Errorf("300 calls have left %d goroutines, with %d connections", n, connections)
	}
	speak()
	eventually(t, "what goes on behind the scenes ends", func() bool { return behind() == 0 })
}

// A breaker counts connections that fail, and not calls that a busy pool or the
// caller's own deadline ended.
func TestConnectionsThatFailAreUnreachable(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.kill()
	open := func(o *redis.Options) *cache {
		client := redis.NewClient(o)
		t.Cleanup(func() { _ = client.Close() })
		return newCache(t, client)
	}
	timeout := rediscache.ClientOptions(s.addr())
	timeout.DialTimeout = 10 * time.Millisecond
	timeout.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		<-ctx.Done()
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	sentinel := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{s.addr()}, DialerRetries: 1, MaxRetries: -1})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{s.addr()}, DialerRetries: 1, MaxRetries: -1})
	t.Cleanup(func() { _, _ = sentinel.Close(), cluster.Close() })
	for name, c := range map[string]*cache{
		"refused":                     open(rediscache.ClientOptions(s.addr())),
		"refused, default options":    open(&redis.Options{Addr: s.addr()}),
		"a dial timeout":              open(timeout),
		"a name that is not known":    open(rediscache.ClientOptions("no-such-host.invalid:6379")),
		"Sentinels that are all away": newCache(t, sentinel),
		"a Cluster that is away":      newCache(t, cluster),
	} {
		for call, f := range c.calls(&tier.Item{Token: strings.Repeat("x", 56)}) {
			if err := f(ctx); !errors.Is(err, tier.ErrUnreachable) || errors.Is(err, tier.ErrRejected) {
				t.Errorf("%s: %s: %v, want ErrUnreachable", name, call, err)
			}
		}
	}
}

func TestABusyPoolIsNotUnreachable(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	options := rediscache.ClientOptions(s.addr())
	options.PoolSize, options.PoolTimeout, options.ReadTimeout = 1, 10*time.Millisecond, time.Hour
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	c := newCache(t, client)
	c.set("id", "x")
	speak := s.silence()
	busy := make(chan error, 1)
	go func() { _, err := c.Get(ctx, "id"); busy <- err }()
	eventually(t, "the connection is in use", func() bool { return client.PoolStats().IdleConns == 0 })
	if _, err := c.Get(ctx, "id"); !errors.Is(err, tier.ErrBusy) || errors.Is(err, tier.ErrUnreachable) {
		t.Errorf("get without a free connection: %v, want ErrBusy", err)
	}
	speak()
	if err := <-busy; err != nil {
		t.Errorf("get of a silent server that answers at last: %v", err)
	}
}

func TestWrongCredentialsAreRejected(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("config", "set", "requirepass", "secret")
	for _, password := range []string{"", "wrong"} {
		options := rediscache.ClientOptions(s.addr())
		options.Password = password
		client := redis.NewClient(options)
		t.Cleanup(func() { _ = client.Close() })
		if _, err := newCache(t, client).Get(ctx, "id"); !errors.Is(err, tier.ErrRejected) || strings.Contains(err.Error(), "permit") {
			t.Errorf("get with the password %q: %v, want ErrRejected, and nothing of permissions", password, err)
		}
	}
}

func TestTheOptionsOfSentinelAndClusterClientsHaveTheSameNames(t *testing.T) {
	t.Parallel()
	recommended := reflect.ValueOf(*rediscache.ClientOptions(""))
	for i := range recommended.NumField() {
		field := recommended.Type().Field(i)
		if recommended.Field(i).IsZero() {
			continue
		}
		for _, other := range []any{redis.FailoverOptions{}, redis.ClusterOptions{}} {
			if same, ok := reflect.TypeOf(other).FieldByName(field.Name); !ok || same.Type != field.Type {
				t.Errorf("%T has no %s", other, field.Name)
			}
		}
	}
}
