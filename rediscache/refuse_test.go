package rediscache_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// refused fails unless New refuses the client, and says what to do.
func refused(t *testing.T, client redis.UniversalClient, says string) {
	t.Helper()
	_, err := rediscache.New(ctx, client, nil)
	if !errors.Is(err, tier.ErrRejected) {
		t.Fatalf("New: %v, want ErrRejected", err)
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("New: %q does not say %q", err, says)
	}
	if n := strings.Count(err.Error(), tier.ErrRejected.Error()); n != 1 {
		t.Errorf("New: %q says %d times that the service rejects it", err, n)
	}
}

// user returns a client that may only run the given commands.
func (s *server) user(t *testing.T, permissions ...any) *redis.Client {
	t.Helper()
	s.do(append([]any{"acl", "setuser", "app", "reset", "on", ">secret", "allkeys"}, permissions...)...)
	client := redis.NewClient(&redis.Options{Addr: s.addr(), Username: "app", Password: "secret"})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestNewNeedsTheReplicationID(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	refused(t, s.user(t, "+@all", "-info"), "+info")
	refused(t, s.user(t, "+@all", "-eval"), "+eval")
	refused(t, s.user(t, "+@all", "-evalsha"), "+evalsha")
	refused(t, s.user(t, "+@all", "-multi"), "+multi")
	refused(t, newServer(t, "--rename-command", "INFO", "").client(t), "INFO")
	refused(t, newServer(t, "--rename-command", "EVAL", "").client(t), "EVAL")
}

// answers replaces the answers of scripts.
type answers struct{ is string }

func (a answers) DialHook(next redis.DialHook) redis.DialHook { return next }
func (a answers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (a answers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if script, ok := cmd.(*redis.Cmd); ok {
			script.SetVal(a.is)
		}
		return err
	}
}

func TestNewNeedsAWellFormedReplicationID(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, id := range []string{"", "7", strings.Repeat("7", 39), strings.Repeat("7", 41), strings.Repeat("-", 40)} {
		client := s.client(t)
		client.AddHook(answers{id})
		refused(t, client, "+info")
	}
	client := s.client(t)
	client.AddHook(answers{strings.Repeat("7", 40)})
	newCache(t, client)
}

func TestTheCommandsThatNewNamesAreEnough(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, call := range []string{"EVAL", "EVALSHA", "MULTI", "EXEC", "INFO", "GET", "SET", "DEL", "GETRANGE", "SETRANGE"} {
		refused(t, s.user(t, "+@all", "-info"), call)
	}
	client := s.user(t, "+eval", "+evalsha", "+multi", "+exec", "+info", "+get", "+set", "+del", "+getrange", "+setrange")
	c := newCache(t, client)
	tiertest.TestCache(t, func(t *testing.T) tier.Cache { return &cache{t, c.Cache} })
}

func TestNewChecksEveryMasterOfACluster(t *testing.T) {
	t.Parallel()
	nodes, client := clusterOf(t, 2)
	for _, s := range nodes {
		newCache(t, client)
		s.do("acl", "setuser", "default", "-info")
		refused(t, client, "+info")
		s.do("acl", "setuser", "default", "+info")
	}
}

func TestNewRefusesWhatWouldGoBack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": s.addr()}})
	t.Cleanup(func() { _ = ring.Close() })
	refused(t, ring, "Ring")
	refused(t, nil, "client")

	_, replica, _ := replicas(t)
	if _, err := rediscache.New(ctx, replica.client(t), nil); err == nil || errors.Is(err, tier.ErrRejected) || !strings.Contains(err.Error(), "replica") {
		t.Errorf("New on a replica: %v", err)
	}
}

// A server that cannot be reached now may be later.
func TestNewWithoutAServerIsNotForGood(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: l.Addr().String(), DialerRetries: 1, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	if _, err := rediscache.New(ctx, client, nil); err == nil || errors.Is(err, tier.ErrRejected) {
		t.Errorf("New without a server: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := rediscache.New(ended, client, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("New with a cancelled context: %v", err)
	}
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
		"-multi":    {"set", "add", "compare-and-swap"},
		"-set":      {"set", "add", "compare-and-swap"},
		"-getrange": {"add", "compare-and-swap"},
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
	c.swap("id", old, "z", tier.Stored)
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

// cancels ends a context when the first transaction has been answered.
type cancels struct{ cancel context.CancelFunc }

func (c cancels) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (c cancels) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (c cancels) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		defer c.cancel()
		return next(ctx, cmds)
	}
}

func TestASetThatIsRefusedWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--maxmemory-policy", "noeviction")
	client := s.client(t)
	c := newCache(t, client)
	c.set("removed", "older")
	s.do("config", "set", "maxmemory", "1")
	ended, cancel := context.WithCancel(ctx)
	client.AddHook(cancels{cancel})
	if err := c.Set(ended, "removed", text("marker"), time.Hour); err == nil {
		t.Error("set: no error, although the server is full")
	}
	eventually(t, "what was to be replaced is deleted", func() bool { return s.do("exists", "removed").(int64) == 0 })
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
