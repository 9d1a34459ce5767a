package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// sentinelOf starts a Sentinel that monitors the master, and returns it with a client.
func sentinelOf(tb testing.TB, master *server) (*server, *redis.Client) {
	tb.Helper()
	config := filepath.Join(tb.TempDir(), "sentinel.conf") // which a Sentinel rewrites
	text := fmt.Sprintf("sentinel monitor m 127.0.0.1 %d 1\nsentinel down-after-milliseconds m 200\nsentinel failover-timeout m 2000\n", master.port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	s := newServer(tb, config, "--sentinel")
	o := rediscache.ClientOptions("")
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: "m", SentinelAddrs: []string{s.addr()}, ContextTimeoutEnabled: o.ContextTimeoutEnabled, MaxRetries: o.MaxRetries,
		DialerRetries: o.DialerRetries, DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		PoolTimeout: o.PoolTimeout, PipelinePoolSize: o.PipelinePoolSize,
	})
	tb.Cleanup(func() { _ = client.Close() })
	return s, client
}

// They answer as Redis does where there is nothing, and the client wraps that.
func TestSentinelsThatDoNotKnowTheMasterAreNoReasonToSayThatThereIsNothing(t *testing.T) {
	t.Parallel()
	master := newServer(t)
	sentinel, client := sentinelOf(t, master)
	c := newCache(t, client)
	c.set("id", "x")
	old := c.get("id")
	sentinel.do("sentinel", "remove", "m")
	master.do("client", "kill", "type", "normal", "skipme", "yes")
	for name, call := range c.calls(old) {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		if err := call(limited); !errors.Is(err, tier.ErrUnreachable) || errors.Is(err, tier.ErrRejected) {
			t.Errorf("%s: %v, want ErrUnreachable", name, err)
		}
		cancel()
	}
	master.has(t, "id", "x")
}
