package rediscache

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
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

	// fence is the one that the server had when a Set last asked for it, at first
	// nobody's; nil in a Cluster, where each server has its own.
	fence atomic.Pointer[string]
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
	c := &Cache{client: client, prefix: o.Prefix}
	if _, one := client.(*redis.Client); one {
		nobodys := unstamped
		c.fence.Store(&nobodys)
	}
	return c, nil
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

// checkServer returns an error if scripts or transactions on that server are not
// told the fence.
func checkServer(ctx context.Context, client redis.UniversalClient) error {
	const need = "the server does not let scripts and transactions read its replication id, without which older sessions could come " +
		"back after a restart or a failover; permit the commands EVAL, EVALSHA, MULTI, EXEC, INFO, GET, SET, DEL, GETRANGE and SETRANGE " +
		"(in an ACL: +eval +evalsha +multi +exec +info +get +set +del +getrange +setrange), or use a service that has them"
	check := func(fence string, err error) error {
		switch {
		case err != nil && refusal(err) && !passing.MatchString(err.Error()):
			return fmt.Errorf("%w: %s: %w", tier.ErrRejected, need, err)
		case err != nil:
			return err
		case !replicationID.MatchString(fence):
			return fmt.Errorf("%w: %s", tier.ErrRejected, need)
		}
		return nil
	}
	for _, run := range []evaluator{fenceScript.Eval, fenceScript.EvalSha} {
		if err := check(run(ctx, client, nil).Text()); err != nil {
			return err
		}
	}
	p := client.TxPipeline()
	asking := p.Do(ctx, "info", "replication")
	_, _ = p.Exec(ctx) // the error is with the command
	return check(masterFence(asking), asking.Err())
}

// An evaluator runs a script.
type evaluator = func(ctx context.Context, on redis.Scripter, keys []string, args ...any) *redis.Cmd

// Get returns the item under that id, or nil.
func (c *Cache) Get(ctx context.Context, id string) (*tier.Item, error) {
	item, err := within(ctx, func() (*tier.Item, error) { return c.get(ctx, c.prefix+id) })
	return item, wrap("get", err)
}

// get asks for what is there and for the server's fence in one transaction, so
// that both are of the same server at the same moment, in a Cluster too.
func (c *Cache) get(ctx context.Context, key string) (*tier.Item, error) {
	p := c.client.TxPipeline()
	reading := p.Get(ctx, key)
	asking := c.ask(ctx, p, key)
	_, _ = p.Exec(ctx) // the errors are with the commands

	err := firstError(reading, asking)
	if err != nil && !refusal(err) && !answerLost(ctx, err) {
		return nil, err
	}
	if fence := masterFence(asking); err == nil && fence != "" {
		item, err := reading.Bytes()
		if errors.Is(err, redis.Nil) {
			return nil, nil
		}
		if err == nil && len(item) >= fenceLen && string(item[:fenceLen]) == fence {
			return parse(item)
		}
	}
	// What is there is no item and has to go, or this is a replica, or the call
	// failed: the script knows what to do or say, and the client repeats it.
	item, err := readScript.Run(ctx, c.client, []string{key}).Text()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse([]byte(item))
}

// ask adds to a transaction on a key the question for the server's replication.
// In a Cluster a script asks, since that can have the key: until the client has
// learned from the server which commands have keys, and some never do, it takes
// what INFO is asked for as a second key, and refuses the transaction.
func (c *Cache) ask(ctx context.Context, p redis.Pipeliner, key string) *redis.Cmd {
	if c.fence.Load() == nil {
		return p.Eval(ctx, infoScript, []string{key})
	}
	return p.Do(ctx, "info", "replication")
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
		defer item.free()
		if ttl <= 0 {
			return struct{}{}, c.client.Del(ctx, key).Err()
		}
		err := c.set(ctx, key, item.bytes, ttl)
		if refusal(err) {
			// Also if the context has ended. What is reported is that the item was not stored.
			_ = c.client.Del(context.WithoutCancel(ctx), key).Err()
		}
		return struct{}{}, err
	})
	return wrap("set", err)
}

// set sets the key to an item with the fence that the server had when it was
// last asked, and asks again in the same transaction. If the server has another
// one now, what was set is no item, and never becomes one, since the server's
// fences do not come back. So it may be set again, and stamped.
func (c *Cache) set(ctx context.Context, key string, item []byte, ttl time.Duration) error {
	if known := c.fence.Load(); known != nil {
		copy(item, *known)
		p := c.client.TxPipeline()
		setting := p.Do(ctx, "set", key, item, "px", milliseconds(ttl))
		asking := c.ask(ctx, p, key)
		_, _ = p.Exec(ctx) // the errors are with the commands
		if err := firstError(setting, asking); err != nil {
			return err
		}
		fence := masterFence(asking)
		if fence == *known {
			return nil
		}
		if fence != "" {
			c.fence.Store(&fence)
		}
		copy(item, unstamped)
	}
	_, _, err := c.put(ctx, key, item, ttl)
	return err
}

// Add stores the item if there is none.
func (c *Cache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	key := c.prefix + id
	item, err := newItem(unstamped, it)
	if err != nil {
		return false, wrap("add", err)
	}
	added, err := within(ctx, func() (bool, error) {
		defer item.free()
		if ttl <= 0 {
			there, err := c.get(ctx, key)
			return there == nil, err
		}
		// The first attempt deletes what is in the way but is no item.
		for range 5 {
			set, stamp, err := c.put(ctx, key, item.bytes, ttl, "nx")
			if err != nil || set || stamp >= 0 {
				return set || stamp > 0, err
			}
		}
		return false, errors.New("too many changes of the item at once")
	})
	return added && err == nil, wrap("add", err)
}

// put sets the key and stamps the item in one transaction. It returns whether
// it was set and what stampScript answered. What is set without options is the
// item for sure; otherwise the script has to look.
//
// The client does not repeat a transaction whose answer was lost: that would
// overwrite what others wrote since.
func (c *Cache) put(ctx context.Context, key string, item []byte, ttl time.Duration, options ...any) (set bool, stamp int, err error) {
	args := append([]any{"set", key, item, "px", milliseconds(ttl)}, options...)
	var head []any
	if len(options) > 0 {
		head = append(head, item[:headLen])
	}
	for _, run := range []evaluator{stampScript.EvalSha, stampScript.Eval} {
		p := c.client.TxPipeline()
		setting := p.Do(ctx, args...)
		stamping := run(ctx, p, []string{key}, head...)
		_, _ = p.Exec(ctx) // the errors are with the commands

		set = setting.Err() == nil
		stamp, _ = stamping.Int()
		err = firstError(setting, stamping)
		if !redis.HasErrorPrefix(err, "NOSCRIPT") {
			break
		}
	}
	return set, stamp, err
}

// firstError returns why a transaction failed. A command that was refused has
// the reason, the others only that there was one. Nil is no failure.
func firstError(commands ...redis.Cmder) error {
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
		return tier.Conflict, wrap(op, fmt.Errorf("%w: the token is not of this cache", tier.ErrRejected))
	}
	item, err := newItem(head[:fenceLen], it)
	if err != nil {
		return tier.Conflict, wrap(op, err)
	}
	outcome, err := within(ctx, func() (tier.Outcome, error) {
		defer item.free()
		return c.swap(ctx, c.prefix+id, head, item.bytes, ttl)
	})
	if err != nil {
		return tier.Conflict, wrap(op, err)
	}
	return outcome, nil
}

// swap replaces the item with the head old, and otherwise finds out why not.
func (c *Cache) swap(ctx context.Context, key, old string, item []byte, ttl time.Duration) (tier.Outcome, error) {
	swapped, err := c.replace(ctx, key, old, item, ttl)
	lost := err
	if answerLost(ctx, err) {
		// Should the item be there already, it is not the old one, and this attempt
		// does nothing.
		swapped, err = c.replace(ctx, key, old, item, ttl)
	}
	if err != nil {
		return tier.Conflict, err
	}
	if swapped {
		return tier.Stored, nil
	}
	outcome, err := settleScript.Run(ctx, c.client, []string{key}, item[:headLen]).Int()
	if err == nil && lost != nil && tier.Outcome(outcome) != tier.Stored {
		// The first attempt may have stored the item, and others may have built on
		// it. A conflict would say that it did not.
		err = lost
	}
	return tier.Outcome(outcome), err
}

// replace sets the key if the item with the head old is there, and reports
// whether it was. In one transaction a script clears the key if so, and else sees
// to it that there is something; then the item is set if there is nothing. So the
// value does not go through the script. The new item has the fence of the old one:
// if that is not the server's any more, neither is an item.
//
// The script is sent each time. A server that was told only its name, and does
// not know it, would set the item nevertheless.
func (c *Cache) replace(ctx context.Context, key, old string, item []byte, ttl time.Duration) (bool, error) {
	p := c.client.TxPipeline()
	clearing := p.Eval(ctx, clearScript, []string{key}, old)
	commands := []redis.Cmder{clearing}
	if ttl > 0 {
		commands = append(commands, p.Do(ctx, "set", key, item, "px", milliseconds(ttl), "nx"))
	}
	asking := c.ask(ctx, p, key)
	_, _ = p.Exec(ctx) // the errors are with the commands
	if err := firstError(append(commands, asking)...); err != nil {
		return false, err
	}
	cleared, err := clearing.Int()
	return cleared == 1 && masterFence(asking) == old[:fenceLen], err
}

// Fits reports whether a value has MaxValue bytes at most.
func (c *Cache) Fits(_ string, size int) bool { return size <= MaxValue }

// ValidID reports whether an id has 1 to MaxID bytes. They may be any.
func (c *Cache) ValidID(id string) bool { return 0 < len(id) && len(id) <= MaxID }

// A buffer has the bytes of an item that is sent. It is used again: else every
// call would leave the garbage collector as much as it sends.
type buffer struct{ bytes []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

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

// milliseconds returns a ttl as Redis takes it: zero if it is zero or less,
// otherwise rounded up.
func milliseconds(ttl time.Duration) int64 {
	if ttl <= 0 {
		return 0
	}
	return int64((ttl-1)/time.Millisecond) + 1
}
