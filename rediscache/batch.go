package rediscache

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A batch is the commands of calls that are made at the same moment, followed by one
// question for the server's fence. They share one round trip, which costs client and
// server more than the commands do.
//
// The first call of a batch lets the goroutines run that are ready to run, which takes
// no time if there are none. Then it sends what they have added. No call waits for one
// that has not been made, nor for a batch that has been sent, unless batches use all
// connections: then calls add to the next batch until one of them is free.
type batch struct {
	deadline time.Time // of the first call
	latest   time.Time // deadline of a call that may add to it
	calls    int
	bytes    int  // that they write
	writes   bool // some do
	commands []redis.Cmder

	// What follows is set by the time done is closed.
	done   chan struct{}    // nil: there is one call
	asking *redis.StringCmd // the question; nil: the client has panicked
}

const (
	maxCalls = 64       // of a batch
	maxBytes = 64 << 10 // that a batch writes

	// maxRead is how much a batch may read before there are no batches for a while, so
	// that no call waits long for other ones' large items.
	maxRead    = 1 << 20
	afterLarge = 100 * time.Millisecond

	// slack is how much earlier a batch may time out than a call that has added to it.
	// It is at most a tenth of the time that the batch has: another call's short time is
	// no reason to fail.
	slack = 50 * time.Millisecond

	// patience is how long a call lets others run for each call of its batch. If they take
	// longer, they have more to do than to make calls, and for aloneFor times as long no
	// call lets others run.
	patience = time.Millisecond
	aloneFor = 8
)

// batches makes batches.
type batches struct {
	collect func()        // lets other goroutines run
	turns   chan struct{} // has an element for each connection that a batch uses
	timeout time.Duration // of waiting for a turn

	mu    sync.Mutex
	open  *batch    // to which calls add their commands
	alone time.Time // until when calls open no batch
}

// send sends the commands of a call about a key, and the question for the fence after
// them. If any of them writes, all are one transaction. It returns the fence, or "" if
// the server is no master, and why one of the commands has failed.
//
// If the context ends first, it returns the context's error, and the commands may be
// executed later: what they refer to must not change.
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
		began := time.Now()
		c.batches.collect()
		took := time.Since(began)
		busy := c.batches.takeTurn(deadline)
		c.batches.close(took)
		c.sendBatch(ctx, key, b, busy)
	default:
		select {
		case <-b.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if b.asking == nil {
		return "", errPanicked
	}
	if err = failure(append(commands, b.asking)); timedOut(err) && !time.Now().Before(b.deadline) {
		<-ctx.Done() // so that the call ends with its context, which may be slack later
	}
	return masterFence(b.asking), err
}

// join adds commands to the open batch. If there is none, it opens one, and first is
// true. It returns nil if the commands go alone.
func (s *batches) join(deadline time.Time, writes bool, bytes int, commands []redis.Cmder) (b *batch, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b = s.open
	switch {
	case b == nil && time.Now().Before(s.alone):
		return nil, false
	case b == nil:
		latest := deadline.Add(min(slack, time.Until(deadline)/10))
		b, first = &batch{deadline: deadline, latest: latest}, true
		s.open = b
	case b.calls == maxCalls || b.bytes+bytes > maxBytes || deadline.After(b.latest):
		return nil, false
	case b.done == nil:
		b.done = make(chan struct{})
	}
	b.calls++
	b.bytes += bytes
	b.writes = b.writes || writes
	b.commands = append(b.commands, commands...)
	return b, first
}

// takeTurn waits for a connection that no batch uses. If none becomes free in time, it
// returns an error.
func (s *batches) takeTurn(deadline time.Time) error {
	select {
	case s.turns <- struct{}{}:
		return nil
	default:
	}
	wait, busy := time.Until(deadline), context.DeadlineExceeded
	if s.timeout < wait {
		wait, busy = s.timeout, redis.ErrPoolTimeout
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case s.turns <- struct{}{}:
		return nil
	case <-timer.C:
		return busy
	}
}

// close makes the open batch ready to be sent, after others were allowed to run for
// that long.
func (s *batches) close(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if took > patience*time.Duration(s.open.calls) {
		s.alone = time.Now().Add(aloneFor * took)
	}
	s.open = nil
}

// pause makes calls open no batch for that long.
func (s *batches) pause(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alone = time.Now().Add(d)
}

// sendBatch sends a batch, and ends its turn, unless it got none. It is the first call
// that sends it, but if the context of that one is cancelled, the others get their
// answers all the same.
func (c *Cache) sendBatch(ctx context.Context, key string, b *batch, busy error) {
	if b.done != nil {
		defer close(b.done)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(context.WithoutCancel(ctx), b.deadline)
		defer cancel()
	}
	if busy != nil {
		b.asking = c.ask(ctx, key)
		b.asking.SetErr(busy)
		return
	}
	defer func() { <-c.batches.turns }()
	b.asking = c.exec(ctx, key, b.writes, b.commands)
	if b.calls > 1 && b.read() > maxRead {
		c.batches.pause(afterLarge)
	}
}

// read returns how many bytes the commands of a batch have read.
func (b *batch) read() (n int) {
	for _, command := range b.commands {
		if get, ok := command.(*redis.StringCmd); ok {
			n += len(get.Val())
		}
	}
	return n
}

// sendAlone sends the commands of one call.
func (c *Cache) sendAlone(ctx context.Context, key string, writes bool, commands []redis.Cmder) (fence string, err error) {
	asking := c.exec(ctx, key, writes, commands)
	return masterFence(asking), failure(append(commands, asking))
}

// exec sends commands and the question for the fence, and returns the latter. In a
// Cluster, which may send commands to several servers, they are always one transaction.
func (c *Cache) exec(ctx context.Context, key string, writes bool, commands []redis.Cmder) *redis.StringCmd {
	p := c.client.Pipeline()
	if writes || c.cluster {
		p = c.client.TxPipeline()
	}
	asking := c.ask(ctx, key)
	_ = p.BatchProcess(ctx, commands...) // which queues them
	_ = p.Process(ctx, asking)
	execute(ctx, p)
	return asking
}

// execute executes the commands of a pipeline, and returns them with their errors. If a
// hook fails, the server refuses the credentials of a new connection, or Sentinels know
// no master, the client says so to none of them. Then the last one gets the error.
func execute(ctx context.Context, p redis.Pipeliner) []redis.Cmder {
	commands, err := p.Exec(ctx)
	isNil := func(command redis.Cmder) bool { return errors.Is(command.Err(), redis.Nil) }
	if err != nil && failure(commands) == nil && !(errors.Is(err, redis.Nil) && slices.ContainsFunc(commands, isNil)) {
		commands[len(commands)-1].SetErr(err)
	}
	return commands
}

// failure returns why commands have failed. If the server refused one of a
// transaction, that one has the reason, and the others have EXECABORT. So if it refuses
// a write, the reads of its batch fail as well, and get asks again.
//
// redis.Nil is an answer, but not to the last command, which is a question or a script.
// Then it says that the client is not connected: Sentinels know no master.
func failure(commands []redis.Cmder) error {
	var first error
	for i, command := range commands {
		err := command.Err()
		if err == nil || errors.Is(err, redis.Nil) && i < len(commands)-1 {
			continue
		}
		if first == nil || redis.HasErrorPrefix(first, "EXECABORT") {
			first = err
		}
	}
	return first
}

// timedOut reports whether a client has waited in vain.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
