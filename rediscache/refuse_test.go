package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// refused fails unless a check of the cache fails for good, says what to do, and
// so does a call.
func refused(t *testing.T, client redis.UniversalClient, says string) {
	t.Helper()
	c := newCache(t, client)
	_, err := c.Get(ctx, "id")
	for what, err := range map[string]error{"check": c.Check(ctx), "get": err} {
		if !errors.Is(err, tier.ErrRejected) {
			t.Errorf("%s: %v, want ErrRejected", what, err)
			continue
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %q does not say %q", what, err, says)
		}
		if n := strings.Count(err.Error(), tier.ErrRejected.Error()); n != 1 {
			t.Errorf("%s: %q says %d times that the service rejects it", what, err, n)
		}
	}
}

// user returns a client that may only run the given commands, on the keys of a
// cache.
func (s *server) user(t *testing.T, permissions ...any) *redis.Client {
	t.Helper()
	s.do(append([]any{"acl", "setuser", "app", "reset", "on", ">secret", "~gaesession:*"}, permissions...)...)
	client := redis.NewClient(&redis.Options{Addr: s.addr(), Username: "app", Password: "secret"})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestNewNeedsNoServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	client := s.client(t)
	s.kill()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	rc, err := rediscache.New(ended, client, nil)
	if err != nil {
		t.Fatalf("New without a server: %v", err)
	}
	c := &cache{t, rc}
	if _, err := c.Get(ctx, "id"); !errors.Is(err, tier.ErrUnreachable) {
		t.Errorf("get without a server: %v, want ErrUnreachable", err)
	}
	if err := c.Check(ctx); !errors.Is(err, tier.ErrUnreachable) {
		t.Errorf("check without a server: %v, want ErrUnreachable", err)
	}
	s.start()
	eventually(t, "the client is connected", func() bool { return client.Ping(ctx).Err() == nil })
	c.set("id", "x")
	c.wants("id", "x", "when there is a server")
	if err := c.Check(ctx); err != nil {
		t.Errorf("check when there is a server: %v", err)
	}
}

func TestNewRefusesWhatWillNeverWork(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": "127.0.0.1:1"}})
	t.Cleanup(func() { _ = ring.Close() })
	for says, clients := range map[string][]redis.UniversalClient{
		"client": {nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)},
		"Ring":   {ring},
	} {
		for _, client := range clients {
			if _, err := rediscache.New(ctx, client, nil); !errors.Is(err, tier.ErrRejected) || !strings.Contains(err.Error(), says) {
				t.Errorf("New with %#v: %v, want ErrRejected", client, err)
			}
		}
	}
}

// The client does not tell the commands of a pipeline that it could not log in.
func TestCredentialsThatBecomeWrongAreRejected(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	client := s.user(t, "+@all")
	c := newCache(t, client)
	c.set("id", "x")
	old := c.get("id")
	s.do("acl", "setuser", "app", "resetpass", ">another")
	for name, call := range c.calls(old) {
		s.do("client", "kill", "user", "app")
		if err := call(ctx); !errors.Is(err, tier.ErrRejected) {
			t.Errorf("%s: %v, want ErrRejected", name, err)
		}
	}
}

// fails is a hook that sends no pipeline.
type fails struct{ err error }

func (fails) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (fails) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (f fails) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { return f.err }
}

func TestACallReturnsTheErrorOfAHook(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	client := s.client(t)
	c := newCache(t, client)
	c.set("id", "x")
	old, hook := c.get("id"), fails{errors.New("a hook's")}
	client.AddHook(hook)
	for name, call := range c.calls(old) {
		if err := call(ctx); name != "set without ttl" && !errors.Is(err, hook.err) { // it needs no pipeline
			t.Errorf("%s: %v, want the hook's error", name, err)
		}
	}
}

func TestACacheNeedsTheReplicationID(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	refused(t, s.user(t, "+@all", "-info"), "+info")
	refused(t, s.user(t, "+@all", "-eval"), "+eval")
	refused(t, newServer(t, "--rename-command", "INFO", "").client(t), "INFO")
	refused(t, newServer(t, "--rename-command", "EVAL", "").client(t), "EVAL")
	for _, command := range []string{"-evalsha", "-multi"} {
		if err := newCache(t, s.user(t, "+@all", command)).Check(ctx); !errors.Is(err, tier.ErrRejected) {
			t.Errorf("check with %s: %v, want ErrRejected", command, err)
		}
	}
}

// A call asks whether the server is fit until it is.
func TestAServerThatBecomesFit(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newCache(t, s.user(t, "+@all", "-info"))
	for range 2 {
		if err := c.Set(ctx, "id", text("x"), time.Hour); !errors.Is(err, tier.ErrRejected) || !strings.Contains(err.Error(), "+info") {
			t.Errorf("set: %v, want ErrRejected and what to permit", err)
		}
	}
	s.do("acl", "setuser", "app", "+info")
	c.set("id", "x")
	c.wants("id", "x", "when the server is fit")
}

// reports replaces what a server says in INFO.
type reports struct{ version, replicationID string }

func (r reports) DialHook(next redis.DialHook) redis.DialHook { return next }
func (r reports) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "eval" || cmd.Name() == "evalsha" {
			// The script runs on what INFO would have answered.
			call := cmd.Args()
			info := fmt.Sprintf("local info = '# Replication\\r\\nrole:master\\r\\nmaster_replid:%s\\r\\n'\n", r.replicationID)
			script := strings.Replace(call[1].(string), "local info = redis.call('INFO', 'replication')", info, 1)
			call[1] = strings.Replace(script, "redis.call('INFO', 'server')", fmt.Sprintf("'\\nredis_version:%s\\r\\n'", r.version), 1)
		}
		return next(ctx, cmd)
	}
}
func (r reports) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestACacheNeedsAWellFormedReplicationID(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, id := range []string{"", "7", strings.Repeat("7", 39), strings.Repeat("7", 41), strings.Repeat("-", 40)} {
		client := s.client(t)
		client.AddHook(reports{"7.0.0", id})
		refused(t, client, "+info")
	}
	client := s.client(t)
	client.AddHook(reports{"7.0.0", strings.Repeat("7", 40)})
	newCache(t, client).wants("id", "", "on a server that is fit")
}

func TestACacheNeedsAServerWhereTimeStandsStill(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for version, fit := range map[string]bool{
		"5.0.14": false, "6.0.14": false, "6.0.15": true, "6.0.20": true, "6.2.0": false, "6.2.4": false, "6.2.5": true,
		"7.0.15": true, "8.0.0": true, "255.255.255": true, "": true, "of another kind": true,
	} {
		client := s.client(t)
		client.AddHook(reports{version, strings.Repeat("7", 40)})
		if fit {
			newCache(t, client).wants("id", "", "on version "+version)
			continue
		}
		refused(t, client, "6.2.5")
	}
}

func TestTheCommandsThatCheckNamesAreEnough(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, call := range []string{"EVAL", "EVALSHA", "MULTI", "EXEC", "INFO", "GET", "SET", "DEL", "GETRANGE", "SETRANGE"} {
		refused(t, s.user(t, "+@all", "-info"), call)
	}
	client := s.user(t, "+eval", "+evalsha", "+multi", "+exec", "+info", "+get", "+set", "+del", "+getrange", "+setrange")
	c := newCache(t, client)
	if err := c.Check(ctx); err != nil {
		t.Errorf("check: %v", err)
	}
	tiertest.TestCache(t, func(t *testing.T) tier.Cache { return &cache{t, c.Cache} })
	s.do("set", key("id"), "something of somebody else")
	if _, err := c.Get(ctx, "id"); !errors.Is(err, tier.ErrRejected) || strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("get of what is no item: %v", err)
	}
}

func TestCheckAsksEveryMasterOfACluster(t *testing.T) {
	t.Parallel()
	nodes, client := clusterOf(t, 2)
	c := newCache(t, client)
	for _, s := range nodes {
		if err := c.Check(ctx); err != nil {
			t.Errorf("check: %v", err)
		}
		s.do("acl", "setuser", "default", "-info")
		if err := c.Check(ctx); !errors.Is(err, tier.ErrRejected) {
			t.Errorf("check of a Cluster with a master that does not permit INFO: %v, want ErrRejected", err)
		}
		s.do("acl", "setuser", "default", "+info")
	}
}

// What somebody else has put under a key is never used, deleted or replaced.
func TestWhatIsNoItemIsLeftAlone(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("a", 40)
	for name, put := range map[string][]any{
		"an empty string": {"set", ""},
		"a short string":  {"set", "5"},
		"59 bytes":        {"set", hex + strings.Repeat("x", 19)},
		"a long string":   {"set", strings.Repeat("important", 100)},
		"39 digits":       {"set", hex[:39] + strings.Repeat("x", 100)},
		"capitals":        {"set", strings.ToUpper(hex) + strings.Repeat("x", 100)},
		"a list":          {"rpush", "x"},
		"a hash":          {"hset", "field", strings.Repeat("x", 100)},
		"a set":           {"sadd", "x"},
		"a sorted set":    {"zadd", "1", "x"},
		"a stream":        {"xadd", "*", "field", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			var log strings.Builder
			rc, err := rediscache.New(ctx, s.client(t), &rediscache.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			c := &cache{t, rc}
			c.set("id", "first")
			old := c.get("id")
			s.do("del", key("id"))
			s.do(append([]any{put[0], key("id")}, put[1:]...)...)
			was := s.raw.Dump(ctx, key("id")).Val()
			calls := map[string]func() error{
				"get":              func() error { _, err := c.Get(ctx, "id"); return err },
				"set":              func() error { return c.Set(ctx, "id", text("x"), time.Hour) },
				"set without ttl":  func() error { return c.Set(ctx, "id", text("x"), 0) },
				"add":              func() error { _, err := c.Add(ctx, "id", text("x"), time.Hour); return err },
				"add without ttl":  func() error { _, err := c.Add(ctx, "id", text("x"), 0); return err },
				"compare-and-swap": func() error { _, err := c.CompareAndSwap(ctx, "id", old, text("x"), time.Hour); return err },
			}
			if name == "an empty string" { // which GETRANGE does not tell from nothing
				delete(calls, "get")
				delete(calls, "add without ttl")
			}
			for call, f := range calls {
				err := f()
				if !errors.Is(err, tier.ErrRejected) {
					t.Errorf("%s: %v, want ErrRejected", call, err)
				} else if strings.Contains(err.Error(), key("id")) || strings.Contains(err.Error(), "important") {
					t.Errorf("%s: %q says what is there", call, err)
				}
				if is := s.raw.Dump(ctx, key("id")).Val(); is != was {
					t.Fatalf("%s has changed what is there", call)
				}
			}
			if n := c.Foreign(); n != int64(len(calls)) {
				t.Errorf("%d calls were counted, want %d", n, len(calls))
			}
			if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), key("id")) {
				t.Errorf("logged, want one line with the key:\n%s", log.String())
			}
			s.do("del", key("id"))
			c.set("id", "x")
			c.wants("id", "x", "when it is gone")
		})
	}
}

// counted is a connection that counts what comes.
type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

func TestNoMoreIsReadThanAnItemMayHave(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var bytes atomic.Int64
	c, _ := newBatches(t, s, func(o *redis.Options) {
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return counted{conn, &bytes}, err
		}
	})
	c.set("id", "x")
	item, err := s.raw.Get(ctx, key("id")).Result()
	if err != nil {
		t.Fatal(err)
	}
	for name, first := range map[string]string{"that is no item": "", "with the form of an item": item} {
		s.do("set", key("id"), first+strings.Repeat("x", 5<<20))
		bytes.Store(0)
		if it, err := c.Get(ctx, "id"); err == nil || it != nil {
			t.Errorf("get of 5 MB %s: %v, %v, want an error", name, it, err)
		}
		if n := bytes.Load(); n > 2*rediscache.MaxValue+10<<10 {
			t.Errorf("get of 5 MB %s has read %d bytes", name, n)
		}
	}
	s.do("set", key("id"), "")
	c.wants("id", "", "where an empty string is")
	largest := strings.Repeat("x", rediscache.MaxValue)
	s.do("del", key("id"))
	c.set("id", largest)
	c.wants("id", largest, "after a set of the largest value")
}

func TestPermissionsThatAreTakenAwayLater(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newCache(t, s.user(t, "+@all"))
	c.set("id", "x")
	old := c.get("id")
	calls := map[string]func() error{
		"get": func() error { _, err := c.Get(ctx, "id"); return err },
		"set": func() error { return c.Set(ctx, "other", text("y"), time.Hour) },
		"add": func() error { _, err := c.Add(ctx, "id", text("y"), time.Hour); return err },
		"compare-and-swap": func() error {
			_, err := c.CompareAndSwap(ctx, "id", &tier.Item{Token: strings.Repeat("x", 56)}, text("y"), time.Hour)
			return err
		},
	}
	for command, needed := range map[string][]string{
		"-info":     {"get", "set", "add", "compare-and-swap"},
		"-multi":    {"set", "add", "compare-and-swap", "get"}, // see checkServer
		"-set":      {"set", "add", "compare-and-swap"},
		"-getrange": {"add", "compare-and-swap", "get"},
		"-evalsha":  {"add", "compare-and-swap"},
		"-eval":     {"compare-and-swap"},
	} {
		s.do("acl", "setuser", "app", "+@all", command)
		for _, call := range needed {
			if err := calls[call](); !errors.Is(err, tier.ErrRejected) {
				t.Errorf("%s with %s: %v, want ErrRejected", call, command, err)
			}
		}
	}
	s.do("acl", "setuser", "app", "+@all")
	c.wants("id", "x", "when all is permitted again")
	c.swap("id", old, "z", tier.Stored)
}

// A server that cannot write its snapshot, or one that has become a replica,
// refuses writes. A replica is not read either.
func TestAServerThatRefusesWrites(t *testing.T) {
	t.Parallel()
	refuses := func(t *testing.T, c *cache, says string) {
		t.Helper()
		old := &tier.Item{Token: strings.Repeat("a", 40) + strings.Repeat("x", 16)}
		for call, f := range c.calls(old) {
			if call == "get" || call == "check" {
				continue
			}
			err := f(ctx)
			if err == nil || !strings.Contains(err.Error(), says) || errors.Is(err, tier.ErrRejected) || errors.Is(err, tier.ErrUnreachable) {
				t.Errorf("%s: %v, want %s, and that it may be tried again", call, err, says)
			}
		}
	}
	t.Run("MISCONF", func(t *testing.T) {
		t.Parallel()
		s := newServer(t)
		c := s.cache(t)
		c.set("id", "x")
		if err := os.MkdirAll(filepath.Join(s.dir, "dump.rdb", "x"), 0o755); err != nil { // so that no snapshot can be written
			t.Fatal(err)
		}
		s.do("config", "set", "save", "3600 1")
		s.do("bgsave")
		eventually(t, "the snapshot fails", func() bool { return s.info("persistence", "rdb_last_bgsave_status") == "err" })
		refuses(t, c, "MISCONF")
		c.wants("id", "x", "while the server refuses writes")
		c.wants("new", "", "while the server refuses writes")
		s.do("config", "set", "stop-writes-on-bgsave-error", "no")
		c.set("id", "y")
		c.wants("id", "y", "when the server takes writes again")
	})
	t.Run("a replica", func(t *testing.T) {
		t.Parallel()
		s, master := newServer(t), newServer(t)
		c := s.cache(t)
		c.set("id", "x")
		s.do("replicaof", "127.0.0.1", master.port)
		refuses(t, c, "replica")
		for _, id := range []string{"id", "new"} {
			if it, err := c.Get(ctx, id); err == nil {
				t.Errorf("get of %s on a replica: no error, but %v", id, it)
			}
		}
		s.do("replicaof", "no", "one")
		c.set("id", "y")
		c.wants("id", "y", "when the server is a master again")
	})
}

// A full server that evicts nothing refuses a set. What the set was to replace
// must not be shown again: it may be a session that was removed.
func TestAFullServerThatEvictsNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--maxmemory-policy", "noeviction")
	c := s.cache(t)
	for _, id := range []string{"removed", "changed"} {
		c.set(id, "older")
	}
	old := c.get("changed")
	s.do("config", "set", "maxmemory", "1")
	full := func(call string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error, although the server is full", call)
		} else if !strings.Contains(err.Error(), "OOM") || errors.Is(err, tier.ErrRejected) || errors.Is(err, tier.ErrTooLarge) {
			t.Errorf("%s: %v, want what the server said, and that it may be tried again", call, err)
		}
	}
	s.cache(t).wants("changed", "older", "with a cache that is opened on a full server")
	full("set", c.Set(ctx, "removed", text("marker"), time.Hour))
	c.wants("removed", "", "after a set that was refused")
	_, err := c.Add(ctx, "new", text("x"), time.Hour)
	full("add", err)
	c.wants("new", "", "after an add that was refused")
	_, err = c.CompareAndSwap(ctx, "changed", old, text("newer"), time.Hour)
	full("compare-and-swap", err)
	c.wants("changed", "older", "after a swap that was refused")
	if err := c.Set(ctx, "changed", text(""), 0); err != nil {
		t.Errorf("set without ttl: %v", err)
	}
	c.wants("changed", "", "after a set without ttl")

	s.do("config", "set", "maxmemory", "0")
	c.set("removed", "marker")
	c.wants("removed", "marker", "when there is room again")
}

func TestAFullServerThatEvicts(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"allkeys-lru", "volatile-lru"} {
		s := newServer(t, "--maxmemory", "4mb", "--maxmemory-policy", policy)
		c := s.cache(t)
		newest := map[string]string{}
		value := func(n int) string { return strconv.Itoa(n) + strings.Repeat("x", 4000) }
		shown := 0
		for n := range 2000 {
			id := strconv.Itoa(rand.IntN(1500))
			newest[id] = value(n)
			if it := c.get(id); it == nil {
				if added, err := c.Add(ctx, id, text(newest[id]), time.Hour); err != nil || !added {
					t.Fatalf("%s: add answers %t, %v", policy, added, err)
				}
			} else {
				shown++
				outcome, err := c.CompareAndSwap(ctx, id, it, text(newest[id]), time.Hour)
				if err != nil || outcome == tier.Conflict {
					t.Fatalf("%s: compare-and-swap answers %d, %v", policy, outcome, err)
				}
			}
			if it := c.get(id); it != nil && string(it.Value) != newest[id] {
				t.Fatalf("%s: an older item is shown", policy)
			}
		}
		kept := 0
		for id, want := range newest {
			if it := c.get(id); it != nil {
				kept++
				if string(it.Value) != want {
					t.Errorf("%s: an older item is shown", policy)
				}
			}
		}
		if kept == 0 || kept == len(newest) || shown == 0 {
			t.Errorf("%s: %d of %d items were kept, %d swapped: this shows nothing", policy, kept, len(newest), shown)
		}
	}
}
