package rediscache

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/tier"
)

const (
	// MaxValue is the largest value that a Cache takes, in bytes. Redis itself
	// takes 512 MB, but serves nobody else while it copies them.
	MaxValue = 1 << 20

	// DefaultPrefix begins every key unless Options say otherwise.
	DefaultPrefix = "gaesession:"
)

// Options are the options of New.
type Options struct {
	// Prefix begins every key. Caches with different sessions need different
	// prefixes in one database. Empty means DefaultPrefix.
	Prefix string

	// Logger receives a record, at most once a minute, when a call finds anything
	// but an item under its key. Nil means slog.Default().
	Logger *slog.Logger
}

// A Cache keeps sessions in Redis or Valkey.
type Cache struct {
	client            redis.UniversalClient
	cluster           bool // the client may be that of a Cluster
	observesDeadlines bool // the client does
	prefix            string
	logger            *slog.Logger
	batches           batches
	checked           atomic.Bool // one check has succeeded

	mu      sync.Mutex
	foreign int64     // calls that found anything but an item
	logged  time.Time // when that was last logged
}

var _ tier.Cache = (*Cache)(nil)

// New returns a cache on the server, the Sentinel group or the Cluster that the
// client connects to. It makes no call and does not use the context, so an app can
// start while the server is down. To find out at startup, see [Cache.Check].
//
// New returns [tier.ErrRejected] if the client is nil or a [redis.Ring].
//
// The caller closes the client when it no longer uses the cache. [ClientOptions]
// returns options for it.
func New(_ context.Context, client redis.UniversalClient, o *Options) (*Cache, error) {
	if o == nil {
		o = &Options{}
	}
	if v := reflect.ValueOf(client); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("rediscache: new: %w: there is no client", tier.ErrRejected)
	}
	if _, ring := client.(*redis.Ring); ring {
		return nil, fmt.Errorf("rediscache: new: %w: a redis.Ring gives the keys of a server that it does not reach to another one, and "+
			"shows what the first one had when that is back; use one server, Sentinel or Redis Cluster", tier.ErrRejected)
	}
	one, ok := client.(*redis.Client)
	c := &Cache{
		client: client, cluster: !ok, observesDeadlines: observesDeadlines(client),
		prefix: cmp.Or(o.Prefix, DefaultPrefix), logger: o.Logger,
		batches: batches{collect: runtime.Gosched},
	}
	if ok {
		c.batches.turns, c.batches.timeout = make(chan struct{}, one.Options().PoolSize), one.Options().PoolTimeout
	}
	return c, nil
}

// call makes a call about a key. If the context has a deadline that the client
// observes, it needs no other goroutine.
func call[T any](ctx context.Context, c *Cache, op, key string, f func() (T, error)) (result T, err error) {
	if _, ok := ctx.Deadline(); ok && c.observesDeadlines {
		if err = ctx.Err(); err == nil {
			result, err = checked(ctx, c, key, f)
			err = ended(ctx, err)
		}
	} else {
		result, err = within(ctx, func() (T, error) { return checked(ctx, c, key, f) })
	}
	return result, c.wrap(ctx, op, key, err)
}

// checked makes a call after a check of the server if none has succeeded.
func checked[T any](ctx context.Context, c *Cache, key string, f func() (T, error)) (T, error) {
	if !c.checked.Load() {
		if err := checkServer(ctx, c.client, key); err != nil {
			var none T
			return none, err
		}
		c.checked.Store(true)
	}
	return f()
}

// key returns the key of an id.
func (c *Cache) key(id string) string {
	var key [128]byte
	hash := sha256.Sum256([]byte(id))
	return string(hex.AppendEncode(append(key[:0], c.prefix...), hash[:]))
}

// Get returns the item under that id, or nil.
func (c *Cache) Get(ctx context.Context, id string) (*tier.Item, error) {
	key := c.key(id)
	return call(ctx, c, "get", key, func() (*tier.Item, error) { return c.get(ctx, key) })
}

// get reads the key, and then asks the server for its fence. An item with that fence
// was valid when it was read: a server that was no master for a while, and may have
// had older items meanwhile, has another fence since.
func (c *Cache) get(ctx context.Context, key string) (*tier.Item, error) {
	reading := redis.NewStringCmd(ctx, "getrange", key, 0, maxItem) // one byte more, and no more than that
	fence, err := c.send(ctx, key, false, 0, reading)
	if err != nil && (!refusal(err) || denied.MatchString(err.Error())) {
		return nil, err
	}
	if err == nil && fence != "" {
		item := reading.Val()
		if item == "" {
			return nil, nil
		}
		if isOf(item, key) && item[:fenceLen] == fence {
			value, _ := reading.Bytes() // the same bytes
			return parse(item[:headLen], value[headLen:]), nil
		}
	}
	// The script handles the rest: an item with another fence, anything but an item,
	// a replica, and a full Cluster, which takes no transactions.
	answer, err := readScript.Run(ctx, c.client, []string{key}).Text()
	if err != nil || answer == "" {
		return nil, err
	}
	if !isOf(answer, key) {
		return nil, errors.New("this is no item of the key, or the answer to another call")
	}
	return parse(answer[:headLen], []byte(answer[headLen:])), nil
}

// ask returns INFO replication for a transaction on a key. In a Cluster a script asks,
// because a script can name the key: until the client has learned from the server
// which commands have keys, and some clients never do, it takes the argument of INFO
// for a second key and refuses the transaction.
func (c *Cache) ask(ctx context.Context, key string) *redis.StringCmd {
	if c.cluster {
		return redis.NewStringCmd(ctx, "eval", infoScript, 1, key)
	}
	return redis.NewStringCmd(ctx, "info", "replication")
}

// Set stores the item, whatever item is there. If the server refuses, for instance
// because it is full, Set deletes the item that is there and returns an error.
func (c *Cache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	key := c.key(id)
	item, err := newItem(unstamped, key, it)
	if err != nil {
		return c.wrap(ctx, "set", "", err)
	}
	_, err = call(ctx, c, "set", key, func() (struct{}, error) {
		defer item.free()
		return struct{}{}, c.set(ctx, key, item, ttl)
	})
	return err
}

func (c *Cache) set(ctx context.Context, key string, item *buffer, ttl time.Duration) error {
	if ttl <= 0 {
		return c.remove(ctx, key)
	}
	outcome, err := c.put(ctx, key, item, ttl, true)
	if refusal(err) {
		_ = c.remove(ctx, key) // err says already that the item was not stored
	}
	if err == nil && outcome != tier.Stored {
		err = errors.New("the item was not stored")
	}
	return err
}

// remove deletes the item.
func (c *Cache) remove(ctx context.Context, key string) error {
	return removeScript.Run(ctx, c.client, []string{key}).Err()
}

// Add stores the item if there is none.
func (c *Cache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	key := c.key(id)
	item, err := newItem(unstamped, key, it)
	if err != nil {
		return false, c.wrap(ctx, "add", "", err)
	}
	return call(ctx, c, "add", key, func() (bool, error) {
		defer item.free()
		if ttl <= 0 {
			there, err := c.get(ctx, key)
			return there == nil && err == nil, err
		}
		// The first attempt deletes an item with another fence, and does not add.
		for range 5 {
			outcome, err := c.put(ctx, key, item, ttl, false)
			if err != nil || outcome != tier.Absent {
				return err == nil && outcome == tier.Stored, err
			}
		}
		return false, errors.New("too many changes of the item at once")
	})
}

// add returns the command that sets the key if there is nothing.
func add(ctx context.Context, key string, item *buffer, ttl time.Duration) *redis.Cmd {
	return redis.NewCmd(ctx, "set", key, item.bytes, "px", milliseconds(ttl), "nx")
}

// put stores and stamps the item in one transaction, if the key is free. With drop
// it first deletes the item that is there.
//
// The client does not repeat a transaction after it has sent it. A second attempt
// could overwrite what others have written since.
func (c *Cache) put(ctx context.Context, key string, item *buffer, ttl time.Duration, drop bool) (tier.Outcome, error) {
	var err error
	for _, settle := range []func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd{settleScript.EvalSha, settleScript.Eval} {
		p := c.client.TxPipeline()
		if drop {
			p.Eval(ctx, dropScript, []string{key})
		}
		_ = p.Process(ctx, add(ctx, key, item, ttl)) // which queues it
		answer := settle(ctx, p, []string{key}, item.bytes[:headLen])
		if err = failure(execute(ctx, p)); err == nil {
			return outcomeOf(answer)
		}
		if !redis.HasErrorPrefix(err, "NOSCRIPT") {
			break
		}
	}
	return tier.Conflict, err
}

// outcomeOf returns what settleScript has answered.
func outcomeOf(answer *redis.Cmd) (tier.Outcome, error) {
	outcome, err := answer.Int()
	return tier.Outcome(outcome), err
}

// CompareAndSwap stores the item in place of the version that old.Token names.
func (c *Cache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	const op = "compare-and-swap"
	head, ok := "", false
	if old != nil {
		head, ok = old.Token.(string)
	}
	if !ok || len(head) != headLen {
		return tier.Conflict, c.wrap(ctx, op, "", fmt.Errorf("%w: the token is not of this cache", tier.ErrRejected))
	}
	key := c.key(id)
	item, err := newItem(head[:fenceLen], key, it)
	if err != nil {
		return tier.Conflict, c.wrap(ctx, op, "", err)
	}
	return call(ctx, c, op, key, func() (tier.Outcome, error) {
		outcome, err := c.swap(ctx, key, head, item, ttl)
		if err == nil {
			item.free() // otherwise its bytes may still be sent
		}
		return outcome, err
	})
}

// swap replaces the item with the head old. In one transaction, clearScript frees
// the key if that item is there and otherwise makes sure that it is not free, and
// SET NX stores the new item. The new item has the fence of the old one: if the
// server's fence is another one, neither is valid.
func (c *Cache) swap(ctx context.Context, key, old string, item *buffer, ttl time.Duration) (tier.Outcome, error) {
	clearing := redis.NewCmd(ctx, "eval", clearScript, 1, key, old)
	commands := []redis.Cmder{clearing}
	if ttl > 0 {
		commands = append(commands, add(ctx, key, item, ttl))
	}
	fence, err := c.send(ctx, key, true, len(item.bytes), commands...)
	if err != nil {
		return tier.Conflict, err
	}
	if cleared, _ := clearing.Int(); cleared == 1 && fence == old[:fenceLen] {
		return tier.Stored, nil
	}
	return outcomeOf(settleScript.Run(ctx, c.client, []string{key}))
}

// Fits reports whether a value has MaxValue bytes at most.
func (c *Cache) Fits(_ string, size int) bool { return size <= MaxValue }

// ValidID reports whether an id is not empty.
func (c *Cache) ValidID(id string) bool { return id != "" }
