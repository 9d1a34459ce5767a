package rediscache

import (
	"time"

	"github.com/redis/go-redis/v9"
)

// ClientOptions returns options for a client that serves only the cache. Add
// credentials, TLSConfig, DB and PoolSize as the server requires. For Sentinel and
// Cluster, copy the fields to [redis.FailoverOptions] or [redis.ClusterOptions],
// where they have the same names.
//
//   - ContextTimeoutEnabled: a call to a silent server holds its connection until
//     the call's deadline, not until ReadTimeout. A call with a deadline also needs
//     no second goroutine then.
//   - MaxRetries -1 and DialerRetries 1: the client tries everything once. The
//     session stores try again where that helps, and otherwise use the backup.
//   - DialTimeout, ReadTimeout, WriteTimeout: 1 s. They are longer than the 500 ms
//     that the session stores allow a call by default, so that their own timeout
//     comes first: it tells their circuit breaker that the server is silent.
//   - DisableIdentity: a new connection takes one round trip less, within the time of the
//     call that needs it.
//   - PoolTimeout: 250 ms. If all connections are in use, the stores can use the
//     backup within the same 500 ms.
//   - PipelinePoolSize -1: nearly all calls are pipelines, which share one pool
//     with the others.
func ClientOptions(addr string) *redis.Options {
	return &redis.Options{
		Addr:                  addr,
		ContextTimeoutEnabled: true,
		MaxRetries:            -1,
		DialerRetries:         1,
		DialTimeout:           time.Second,
		ReadTimeout:           time.Second,
		WriteTimeout:          time.Second,
		PoolTimeout:           250 * time.Millisecond,
		PipelinePoolSize:      -1,
		DisableIdentity:       true,
	}
}
