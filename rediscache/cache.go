package rediscache

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
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
	// Prefix begins every key. Stores that share a database and keep different
	// things need different ones. Empty means DefaultPrefix.
	Prefix string

	// Logger receives a record, once a minute at most, when a call finds
	// something under its key that is no item. Nil means slog.Default().
	Logger *slog.Logger
}

// A Cache keeps sessions in Redis or Valkey.
type Cache struct {
	client  redis.UniversalClient
	cluster bool // or may be one
	prefix  string
	logger  *slog.Logger
	checked atomic.Bool // a server has been found fit

	mu      sync.Mutex
	foreign int64 // calls that found something that is no item
	logged  time.Time
}

var _ tier.Cache = (*Cache)(nil)

// New returns a cache on the server, the Sentinel group or the Cluster that the
// client talks to. It makes no call, and the context has no effect: an app starts
// while the server is away. See [Cache.Check]. New fails with [tier.ErrRejected]
// when there is no client, or when the client is a [redis.Ring].
//
// The client stays the caller's, who closes it when the cache is no longer used.
// [ClientOptions] returns options that suit a cache.
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
	_, one := client.(*redis.Client)
	return &Cache{client: client, cluster: !one, prefix: cmp.Or(o.Prefix, DefaultPrefix), logger: o.Logger}, nil
}

// Check asks the server, or every master of the Cluster, whether it can keep a
// cache. An app calls it at startup if it should not start otherwise. Apps need
// not call it: the first call asks its server the same, and so does every call
// until one server has been found fit.
//
// Check fails with [tier.ErrRejected], and a text that says what to change, when
// the server is too old or does not permit what the cache needs, and with
// [tier.ErrUnreachable] when there is no connection.
func (c *Cache) Check(ctx context.Context) error {
	check := func(ctx context.Context, client redis.UniversalClient) error {
		if err := checkServer(ctx, client); err != nil {
			return err
		}
		p := client.TxPipeline()
		checkScript.EvalSha(ctx, p, nil)
		return unfit(exec(ctx, p))
	}
	_, err := within(ctx, func() (struct{}, error) {
		if cluster, ok := c.client.(*redis.ClusterClient); ok {
			return struct{}{}, cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error { return check(ctx, master) })
		}
		return struct{}{}, check(ctx, c.client)
	})
	if err == nil {
		c.checked.Store(true)
	}
	return c.wrap(ctx, "check", "", err)
}

// checkServer asks one server, in a Cluster the one of the key, for its fence and
// version.
func checkServer(ctx context.Context, client redis.UniversalClient, keys ...string) error {
	version, err := checkScript.Eval(ctx, client, keys).Text()
	if err == nil && tooOld(version) {
		return fmt.Errorf("%w: in Redis %s a key may expire in the middle of a transaction; use 6.0.15, 6.2.5 or later", tier.ErrRejected, version)
	}
	return unfit(err)
}

// unfit says what to change where a server refuses what the cache needs.
func unfit(err error) error {
	if !redis.HasErrorPrefix(err, noFence) && !(refusal(err) && rejected.MatchString(err.Error())) {
		return err
	}
	return fmt.Errorf("%w: the server does not let scripts and transactions read its replication id, without which older sessions "+
		"could come back after a restart or a failover; permit the commands EVAL, EVALSHA, MULTI, EXEC, INFO, GET, SET, DEL, GETRANGE "+
		"and SETRANGE (in an ACL: +eval +evalsha +multi +exec +info +get +set +del +getrange +setrange), or use a service that has "+
		"them: %w", tier.ErrRejected, err)
}

func tooOld(version string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n < 3 {
		return false // of a server that has other numbers
	}
	v := 10000*major + 100*minor + patch
	return v < 6_00_15 || 6_01_00 <= v && v < 6_02_05
}

// call makes a call about an id. The first one asks whether the server is fit.
func call[T any](ctx context.Context, c *Cache, op, id string, f func(key string) (T, error)) (T, error) {
	hash := sha256.Sum256([]byte(id))
	key := c.prefix + hex.EncodeToString(hash[:])
	result, err := within(ctx, func() (T, error) {
		if !c.checked.Load() {
			if err := checkServer(ctx, c.client, key); err != nil {
				var none T
				return none, err
			}
			c.checked.Store(true)
		}
		return f(key)
	})
	return result, c.wrap(ctx, op, key, err)
}

// Get returns the item under that id, or nil.
func (c *Cache) Get(ctx context.Context, id string) (*tier.Item, error) {
	return call(ctx, c, "get", id, func(key string) (*tier.Item, error) { return c.get(ctx, key) })
}

// get asks for what is there and for the server's fence in one transaction, so
// that both are of the same server at the same moment, in a Cluster too.
func (c *Cache) get(ctx context.Context, key string) (*tier.Item, error) {
	p := c.client.TxPipeline()
	reading := p.Get(ctx, key)
	asking := c.ask(ctx, p, key)
	err := exec(ctx, p)
	if err != nil && !refusal(err) {
		return nil, err
	}
	item, _ := reading.Bytes() // empty if there is none
	if fence := masterFence(asking); err == nil && fence != "" {
		if errors.Is(reading.Err(), redis.Nil) {
			return nil, nil
		}
		if len(item) >= itemLen && string(item[:fenceLen]) == fence {
			return parse(item), nil
		}
	}
	// What is there has to go or is no item, or this is a replica, or the server is
	// full and takes no transactions: the script knows what to do or say.
	answer, err := readScript.Run(ctx, c.client, []string{key}).Text()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse([]byte(answer)), nil
}

// parse returns the item that those bytes are.
func parse(item []byte) *tier.Item {
	return &tier.Item{
		Flags: binary.BigEndian.Uint32(item[headLen:]),
		Value: item[itemLen:],
		Token: string(item[:headLen]),
	}
}

// ask adds to a transaction on a key the question for the server's replication.
// In a Cluster a script asks, since that can have the key: until the client has
// learned from the server which commands have keys, and some never do, it takes
// what INFO is asked for as a second key, and refuses the transaction.
func (c *Cache) ask(ctx context.Context, p redis.Pipeliner, key string) *redis.Cmd {
	if c.cluster {
		return p.Eval(ctx, infoScript, []string{key})
	}
	return p.Do(ctx, "info", "replication")
}

// Set stores the item, whatever item is there. When the server refuses that,
// because it is full for instance, Set asks it to delete what is there, and
// returns an error.
func (c *Cache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	item, err := newItem(unstamped, it)
	if err != nil {
		return c.wrap(ctx, "set", "", err)
	}
	_, err = call(ctx, c, "set", id, func(key string) (struct{}, error) {
		defer item.free()
		return struct{}{}, c.set(ctx, key, item, ttl)
	})
	return err
}

func (c *Cache) set(ctx context.Context, key string, item *buffer, ttl time.Duration) error {
	if ttl <= 0 {
		return c.remove(ctx, key)
	}
	outcome, err := c.settle(ctx, key, func(p redis.Pipeliner) {
		p.Eval(ctx, dropScript, []string{key})
		add(ctx, p, key, item, ttl)
	}, item.head())
	if refusal(err) {
		_ = c.remove(ctx, key) // what is reported is that the item was not stored
	}
	if err == nil && outcome != tier.Stored {
		err = errors.New("the item was not stored")
	}
	return err
}

// remove deletes the item.
func (c *Cache) remove(ctx context.Context, key string) error {
	err := removeScript.Run(ctx, c.client, []string{key}).Err()
	if errors.Is(err, redis.Nil) {
		return nil // there is none
	}
	return err
}

// Add stores the item if there is none.
func (c *Cache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	item, err := newItem(unstamped, it)
	if err != nil {
		return false, c.wrap(ctx, "add", "", err)
	}
	return call(ctx, c, "add", id, func(key string) (bool, error) {
		defer item.free()
		if ttl <= 0 {
			there, err := c.get(ctx, key)
			return there == nil && err == nil, err
		}
		// The first attempt deletes what is in the way but is no item any more.
		for range 5 {
			outcome, err := c.settle(ctx, key, func(p redis.Pipeliner) { add(ctx, p, key, item, ttl) }, item.head())
			if err != nil || outcome != tier.Absent {
				return err == nil && outcome == tier.Stored, err
			}
		}
		return false, errors.New("too many changes of the item at once")
	})
}

// add adds to a transaction that the key is set if there is nothing.
func add(ctx context.Context, p redis.Pipeliner, key string, item *buffer, ttl time.Duration) {
	p.Do(ctx, "set", key, item.bytes, "px", milliseconds(ttl), "nx")
}

// settle runs settleScript in a transaction, after the commands that before adds.
//
// The client does not repeat a transaction whose answer was lost: that would
// overwrite what others wrote since.
func (c *Cache) settle(ctx context.Context, key string, before func(redis.Pipeliner), head ...any) (tier.Outcome, error) {
	for _, run := range []func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd{settleScript.EvalSha, settleScript.Eval} {
		p := c.client.TxPipeline()
		if before != nil {
			before(p)
		}
		answer := run(ctx, p, []string{key}, head...)
		err := exec(ctx, p)
		if !redis.HasErrorPrefix(err, "NOSCRIPT") {
			outcome, _ := answer.Int() // if there is no error
			return tier.Outcome(outcome), err
		}
	}
	return tier.Conflict, errors.New("the server takes no scripts")
}

// exec makes a transaction. It returns why it failed: a command that was refused
// has the reason, the others only that there was one. Nil is no failure.
func exec(ctx context.Context, p redis.Pipeliner) error {
	commands, _ := p.Exec(ctx) // the errors are with the commands
	var first error
	for _, command := range commands {
		err := command.Err()
		if err == nil || errors.Is(err, redis.Nil) {
			continue
		}
		if first == nil || redis.HasErrorPrefix(first, "EXECABORT") {
			first = err
		}
	}
	return first
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
	item, err := newItem(head[:fenceLen], it)
	if err != nil {
		return tier.Conflict, c.wrap(ctx, op, "", err)
	}
	return call(ctx, c, op, id, func(key string) (tier.Outcome, error) {
		defer item.free()
		return c.swap(ctx, key, head, item, ttl)
	})
}

// swap replaces the item with the head old, and otherwise finds out why not. In
// one transaction a script clears the key if that item is there, and else sees to
// it that there is something; then the item is set if there is nothing. The new
// item has the fence of the old one: if that is not the server's any more, neither
// is an item.
func (c *Cache) swap(ctx context.Context, key, old string, item *buffer, ttl time.Duration) (tier.Outcome, error) {
	p := c.client.TxPipeline()
	clearing := p.Eval(ctx, clearScript, []string{key}, old)
	if ttl > 0 {
		add(ctx, p, key, item, ttl)
	}
	asking := c.ask(ctx, p, key)
	if err := exec(ctx, p); err != nil {
		return tier.Conflict, err
	}
	if cleared, _ := clearing.Int(); cleared == 1 && masterFence(asking) == old[:fenceLen] {
		return tier.Stored, nil
	}
	return c.settle(ctx, key, nil)
}

// Fits reports whether a value has MaxValue bytes at most.
func (c *Cache) Fits(_ string, size int) bool { return size <= MaxValue }

// ValidID reports whether an id has a byte at least. They may be any.
func (c *Cache) ValidID(id string) bool { return id != "" }

// Foreign returns how many calls have found something under their key that is no
// item. Somebody else writes keys with the prefix of this cache.
func (c *Cache) Foreign() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.foreign
}

// foundForeign counts a call that found something that is no item.
func (c *Cache) foundForeign(ctx context.Context, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.foreign++
	if now := time.Now(); now.Sub(c.logged) >= time.Minute {
		c.logged = now
		cmp.Or(c.logger, slog.Default()).ErrorContext(ctx, "rediscache: there is something under a key of the cache that is no session; "+
			"it is neither used nor replaced", "key", key, "calls", c.foreign)
	}
}

// A buffer has the bytes of an item that is sent. It is used again: else every
// call would leave the garbage collector as much as it sends.
type buffer struct{ bytes []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func (b *buffer) head() []byte { return b.bytes[:headLen] }

// free lets others use the buffer. Large ones are not kept.
func (b *buffer) free() {
	if cap(b.bytes) <= 64<<10 {
		buffers.Put(b)
	}
}

// newItem returns a new version as it is kept.
func newItem(fence string, it tier.Item) (*buffer, error) {
	if len(it.Value) > MaxValue {
		return nil, tier.ErrTooLarge
	}
	var version [headLen - fenceLen]byte
	if _, err := rand.Read(version[:]); err != nil {
		return nil, err
	}
	b := buffers.Get().(*buffer)
	b.bytes = append(b.bytes[:0], fence...)
	b.bytes = append(b.bytes, version[:]...)
	b.bytes = binary.BigEndian.AppendUint32(b.bytes, it.Flags)
	b.bytes = append(b.bytes, it.Value...)
	return b, nil
}

// masterFence returns the fence of the server that said this of its replication,
// or "" if it is no master: a replica has its master's, but lags behind it.
func masterFence(answer *redis.Cmd) string {
	info, _ := answer.Text() // empty if there is none
	_, id, ok := strings.Cut(info, "\nmaster_replid:")
	if !ok || len(id) < fenceLen || !strings.Contains(info, "\nrole:master\r") {
		return ""
	}
	return id[:fenceLen]
}

// milliseconds returns a ttl as Redis takes it, rounded up.
func milliseconds(ttl time.Duration) int64 { return int64((ttl-1)/time.Millisecond) + 1 }
