package rediscache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/tier"
)

const (
	// MaxValue is the largest value that a Cache takes, in bytes. Redis itself
	// takes 512 MB, but serves nobody else while it copies them.
	MaxValue = 1 << 20

	// MaxID is the longest id that a Cache takes, in bytes.
	MaxID = 1024
)

// Options are the options of New.
type Options struct {
	// Prefix is put before the ids to make the keys. Stores that share a
	// database and keep different things need different ones.
	Prefix string
}

// A Cache keeps sessions in Redis or Valkey.
type Cache struct {
	client redis.UniversalClient
	prefix string
}

var _ tier.Cache = (*Cache)(nil)

var replicationID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// New returns a cache on the server, the Sentinel group or the Cluster that the
// client talks to. It asks the server, or every master of the Cluster, for its
// replication id, and fails with [tier.ErrRejected] where a script may not do
// that, or when the client is a [redis.Ring].
//
// The client stays the caller's, who closes it when the cache is no longer used.
// A call that is given up because its context ended goes on behind the scenes
// until the client's own timeouts end it: do not turn these off.
func New(ctx context.Context, client redis.UniversalClient, o *Options) (*Cache, error) {
	if o == nil {
		o = &Options{}
	}
	_, err := within(ctx, func() (struct{}, error) { return struct{}{}, checkServers(ctx, client) })
	if err != nil {
		return nil, wrap("new", err)
	}
	return &Cache{client, o.Prefix}, nil
}

func checkServers(ctx context.Context, client redis.UniversalClient) error {
	switch client := client.(type) {
	case nil:
		return fmt.Errorf("%w: there is no client", tier.ErrRejected)
	case *redis.Ring:
		return fmt.Errorf("%w: a redis.Ring gives the keys of a server that it does not reach to another one, and shows what the "+
			"first one had when that is back; use one server, Sentinel or Redis Cluster", tier.ErrRejected)
	case *redis.ClusterClient:
		return client.ForEachMaster(ctx, func(ctx context.Context, client *redis.Client) error {
			return checkServer(ctx, client)
		})
	default:
		return checkServer(ctx, client)
	}
}

// checkServer returns an error if scripts on that server are not told the fence.
func checkServer(ctx context.Context, client redis.Scripter) error {
	const need = "the server does not let scripts read its replication id, without which older sessions could come back " +
		"after a restart or a failover; permit the commands EVAL, EVALSHA, MULTI, EXEC, INFO, GET, SET, DEL, GETRANGE and SETRANGE " +
		"(in an ACL: +eval +evalsha +multi +exec +info +get +set +del +getrange +setrange), or use a service that has them"
	for _, run := range []evaluator{fenceScript.Eval, fenceScript.EvalSha} {
		id, err := run(ctx, client, nil).Text()
		switch {
		case err != nil && refusal(err) && !passing.MatchString(err.Error()):
			return fmt.Errorf("%w: %s: %w", tier.ErrRejected, need, err)
		case err != nil:
			return err
		case !replicationID.MatchString(id):
			return fmt.Errorf("%w: %s", tier.ErrRejected, need)
		}
	}
	return nil
}

// An evaluator runs a script.
type evaluator = func(ctx context.Context, on redis.Scripter, keys []string, args ...any) *redis.Cmd

// Get returns the item under that id, or nil.
func (c *Cache) Get(ctx context.Context, id string) (*tier.Item, error) {
	item, err := within(ctx, func() (*tier.Item, error) { return c.get(ctx, c.prefix+id) })
	return item, wrap("get", err)
}

// get asks a script for the head of an item that counts and, in the same round
// trip, Redis for the whole of what is there. A head names one item for ever, so
// it does not matter when exactly either was answered.
func (c *Cache) get(ctx context.Context, key string) (*tier.Item, error) {
	p := c.client.Pipeline()
	counts := readScript.EvalSha(ctx, p, []string{key}, headLen-1)
	whole := p.Get(ctx, key)
	_, _ = p.Exec(ctx) // the errors are with the commands

	head, err := counts.Text()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err == nil:
		item, err := whole.Bytes()
		if err == nil && bytes.HasPrefix(item, []byte(head)) {
			return parse(item)
		}
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
	case !redis.HasErrorPrefix(err, "NOSCRIPT"):
		return nil, err
	}
	// Something changed in between, or that server does not know the script yet.
	item, err := readScript.Run(ctx, c.client, []string{key}, -1).Text()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse([]byte(item))
}

// Set stores the item, whatever is there. When the server refuses it, because
// it is full for instance, it is asked to delete what is there.
func (c *Cache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	key := c.prefix + id
	item, err := newItem(unstamped, it)
	if err != nil {
		return wrap("set", err)
	}
	_, err = within(ctx, func() (struct{}, error) {
		if ttl <= 0 {
			return struct{}{}, c.client.Del(ctx, key).Err()
		}
		_, _, err := c.put(ctx, key, item, ttl)
		if refusal(err) {
			_ = c.client.Del(ctx, key).Err() // what is reported is that the item was not stored
		}
		return struct{}{}, err
	})
	return wrap("set", err)
}

// Add stores the item if there is none.
func (c *Cache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	key := c.prefix + id
	item, err := newItem(unstamped, it)
	if err != nil {
		return false, wrap("add", err)
	}
	added, err := within(ctx, func() (bool, error) {
		if ttl <= 0 {
			there, err := c.get(ctx, key)
			return there == nil, err
		}
		// The first attempt deletes what is in the way but is no item.
		for range 5 {
			set, stamp, err := c.put(ctx, key, item, ttl, "nx")
			if err != nil || set || stamp >= 0 {
				return set || stamp > 0, err
			}
		}
		return false, errors.New("too many changes of the item at once")
	})
	return added && err == nil, wrap("add", err)
}

// put sets the key and stamps the item in one transaction. It returns whether
// it was set and what stampScript answered.
//
// The client does not repeat a transaction whose answer was lost: that would
// overwrite what others wrote since.
func (c *Cache) put(ctx context.Context, key string, item []byte, ttl time.Duration, options ...any) (set bool, stamp int, err error) {
	args := append([]any{"set", key, item, "px", milliseconds(ttl)}, options...)
	head := item[:headLen]
	for _, run := range []evaluator{stampScript.EvalSha, stampScript.Eval} {
		p := c.client.TxPipeline()
		setting := p.Do(ctx, args...)
		stamping := run(ctx, p, []string{key}, head)
		_, _ = p.Exec(ctx) // the errors are with the commands

		setErr := setting.Err()
		set = setErr == nil
		stamp, err = stamping.Int()
		if !set && !errors.Is(setErr, redis.Nil) && (err == nil || !redis.HasErrorPrefix(setErr, "EXECABORT")) {
			err = setErr // EXECABORT: the other one says why
		}
		if !redis.HasErrorPrefix(err, "NOSCRIPT") {
			break
		}
	}
	return set, stamp, err
}

// CompareAndSwap stores the item in place of the version that old.Token names.
func (c *Cache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	const op = "compare-and-swap"
	head, ok := "", false
	if old != nil {
		head, ok = old.Token.(string)
	}
	if !ok || len(head) != headLen {
		return tier.Conflict, wrap(op, fmt.Errorf("%w: the token is not of this cache", tier.ErrRejected))
	}
	item, err := newItem(head[:fenceLen], it)
	if err != nil {
		return tier.Conflict, wrap(op, err)
	}
	outcome, err := within(ctx, func() (int, error) {
		return swapScript.Run(ctx, c.client, []string{c.prefix + id}, head, item, milliseconds(ttl)).Int()
	})
	if err != nil {
		return tier.Conflict, wrap(op, err)
	}
	return tier.Outcome(outcome), nil
}

// Fits reports whether a value has MaxValue bytes at most.
func (c *Cache) Fits(_ string, size int) bool { return size <= MaxValue }

// ValidID reports whether an id has 1 to MaxID bytes. They may be any.
func (c *Cache) ValidID(id string) bool { return 0 < len(id) && len(id) <= MaxID }

// newItem returns a new version as it is kept.
func newItem(fence string, it tier.Item) ([]byte, error) {
	if len(it.Value) > MaxValue {
		return nil, tier.ErrTooLarge
	}
	item := make([]byte, itemLen+len(it.Value))
	copy(item, fence)
	if _, err := rand.Read(item[fenceLen:headLen]); err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(item[headLen:], it.Flags)
	copy(item[itemLen:], it.Value)
	return item, nil
}

// parse is the reverse of newItem.
func parse(item []byte) (*tier.Item, error) {
	if len(item) < itemLen {
		return nil, fmt.Errorf("%w: an item of another form", tier.ErrRejected)
	}
	return &tier.Item{
		Flags: binary.BigEndian.Uint32(item[headLen:]),
		Value: item[itemLen:],
		Token: string(item[:headLen]),
	}, nil
}

// milliseconds returns a ttl as Redis takes it: zero if it is zero or less,
// otherwise rounded up.
func milliseconds(ttl time.Duration) int64 {
	if ttl <= 0 {
		return 0
	}
	return int64((ttl-1)/time.Millisecond) + 1
}
