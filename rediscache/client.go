package rediscache

import (
	"time"

	"github.com/redis/go-redis/v9"
)

// ClientOptions returns options for a client that serves a cache alone. Add
// credentials, TLSConfig, DB and PoolSize as the server needs them.
// [redis.FailoverOptions] and [redis.ClusterOptions] have fields of the same
// names, for Sentinel and Cluster.
//
//   - ContextTimeoutEnabled: a connection is free again at the deadline of its
//     call, and not only at ReadTimeout.
//   - MaxRetries -1, DialerRetries 1: nothing is tried twice. The session stores
//     try again where that helps, and else turn to the backup.
//   - DialTimeout, ReadTimeout and WriteTimeout, 1 s, are for calls without a
//     deadline. They are longer than the 500 ms that the stores grant a call, so
//     that the stores see their own timeout, which tells them that the server is
//     silent.
//   - PoolTimeout 250 ms: when all connections are in use, the stores have the rest
//     of the 500 ms.
//   - PipelinePoolSize -1: every call is a transaction, so there is one pool.
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
	}
}
