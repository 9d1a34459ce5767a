package rediscache

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A batch is the commands of calls that are made at the same time, and one question
// for the fence of the server. All of them take one round trip: most of what a call
// costs is not its command but its way to the server and back.
//
// No call waits for others. The first one of a batch lets the goroutines run that are
// ready to run, which costs nothing if there are none, and then sends what they have
// added.
type batch struct {
	commands []redis.Cmder
	calls    int
	writes   bool // some commands do
	bytes    int
	deadline time.Time // of the call that sends the batch

	done chan struct{} // is closed after the batch has been sent
	// What follows is set then.
	asking *redis.StringCmd // the question for the fence
	again  bool             // the server has executed nothing: each call repeats its commands alone
}

const (
	maxCalls = 64       // of a batch
	maxBytes = 64 << 10 // of a batch's writes, so that no call waits long for another one's

	// slack is how much earlier than its own deadline a call may end because
	// another call has sent its commands.
	slack = 50 * time.Millisecond
)

// collect lets others add to a batch. Tests replace it.
var collect = runtime.Gosched

// batches are those of a cache.
type batches struct {
	mu   sync.Mutex
	open *batch // to which calls may add their commands
}

// send sends the commands of a call about a key, and asks the server for its fence
// after them; "": it is no master. It returns why a command or the question failed. If
// commands write, all are one transaction. It returns when the context ends, and the
// commands may have their effect later.
func (c *Cache) send(ctx context.Context, key string, writes bool, bytes int, commands ...redis.Cmder) (fence string, err error) {
	deadline, ok := ctx.Deadline()
	if !ok || !c.observesDeadlines || bytes > maxBytes {
		return c.sendAlone(ctx, key, writes, commands)
	}
	b, first := c.batches.join(deadline, writes, bytes, commands)
	switch {
	case b == nil:
		return c.sendAlone(ctx, key, writes, commands)
	case first:
		collect()
		c.batches.close(b)
		c.sendBatch(ctx, key, b)
	default:
		select {
		case <-b.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if b.again {
		return c.sendAlone(ctx, key, writes, commands)
	}
	if b.asking == nil {
		return "", errors.New("the client panicked in another call")
	}
	if err = failure(append(commands, b.asking)); timedOut(err) {
		<-ctx.Done() // which is not later than slack
	}
	return masterFence(b.asking), err
}

// join adds commands to the open batch. If there is none, it opens one, and first is
// true. It returns nil if they do not go together.
func (s *batches) join(deadline time.Time, writes bool, bytes int, commands []redis.Cmder) (b *batch, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, first = s.open, s.open == nil; first {
		b = &batch{deadline: deadline}
		s.open = b
	} else if b.calls == maxCalls || b.bytes+bytes > maxBytes || deadline.After(b.deadline.Add(slack)) {
		return nil, false
	}
	if b.calls == 1 {
		b.done = make(chan struct{})
	}
	b.calls++
	b.commands = append(b.commands, commands...)
	b.writes = b.writes || writes
	b.bytes += bytes
	return b, first
}

// close makes sure that nobody adds to a batch any more.
func (s *batches) close(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = nil
}

// sendBatch sends a batch, on behalf of the call that has opened it. That one's client
// may go, and the others wait all the same.
func (c *Cache) sendBatch(ctx context.Context, key string, b *batch) {
	if b.calls > 1 {
		defer close(b.done)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(context.WithoutCancel(ctx), b.deadline)
		defer cancel()
	}
	asking := c.exec(ctx, key, b.writes, b.commands)
	b.again = b.calls > 1 && redis.HasErrorPrefix(asking.Err(), "EXECABORT")
	b.asking = asking
}

// sendAlone sends the commands of a call.
func (c *Cache) sendAlone(ctx context.Context, key string, writes bool, commands []redis.Cmder) (fence string, err error) {
	asking := c.exec(ctx, key, writes, commands)
	return masterFence(asking), failure(append(commands, asking))
}

// exec sends commands and INFO replication, and returns the latter. In a Cluster, which
// may send commands to several servers, they are always one transaction.
func (c *Cache) exec(ctx context.Context, key string, writes bool, commands []redis.Cmder) *redis.StringCmd {
	p := c.client.Pipeline()
	if writes || c.cluster {
		p = c.client.TxPipeline()
	}
	asking := c.ask(ctx, key)
	_ = p.BatchProcess(ctx, commands...) // which queues them
	_ = p.Process(ctx, asking)
	_, _ = p.Exec(ctx) // the errors are with the commands
	return asking
}

// timedOut reports whether a client has waited in vain.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
