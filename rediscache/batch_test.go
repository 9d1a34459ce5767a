package rediscache_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// pipelines counts what calls of a client send in a pipeline. If panics is set, the next one panics.
type pipelines struct {
	sent   atomic.Int64
	panics atomic.Bool
	before func() // is called before each
}

func (*pipelines) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*pipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (p *pipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		if commands[0].Name() != "client" { // which a new connection says of itself
			p.sent.Add(1)
		}
		if p.before != nil {
			p.before()
		}
		if p.panics.CompareAndSwap(true, false) {
			panic("a hook")
		}
		return next(ctx, commands)
	}
}

// newBatches returns a cache with the recommended options and its pipelines.
func newBatches(t *testing.T, s *server, change ...func(o *redis.Options)) (*cache, *pipelines) {
	t.Helper()
	o := rediscache.ClientOptions(s.addr())
	for _, c := range change {
		c(o)
	}
	client, p := redis.NewClient(o), &pipelines{}
	t.Cleanup(func() { _ = client.Close() })
	client.AddHook(p)
	c := newCache(t, client)
	if err := c.Check(ctx); err != nil {
		t.Fatal(err)
	}
	return c, p
}

// together makes calls in one batch. The first one sends it, and the others add to it
// in their order.
func (c *cache) together(calls ...func(ctx context.Context)) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var all sync.WaitGroup
	collected := false
	c.Collect(func() {
		collected = true
		for i, call := range calls[1:] {
			all.Add(1)
			go func() {
				defer all.Done()
				call(ctx)
			}()
			eventually(c.tb, "a call is in the batch", func() bool { return c.Calls() == i+2 })
		}
		c.Collect(func() {})
	})
	calls[0](ctx)
	if all.Wait(); !collected {
		c.tb.Error("there was no batch, so this test shows nothing")
	}
}

func TestCallsOfOneMomentShareARoundTrip(t *testing.T) {
	t.Parallel()
	c, p := newBatches(t, newServer(t))
	const n = 20
	calls := make([]func(context.Context), n)
	for i := range calls {
		id := fmt.Sprint("id", i)
		c.set(id, "value of "+id)
		calls[i] = func(ctx context.Context) {
			if it, err := c.Get(ctx, id); err != nil || it == nil || string(it.Value) != "value of "+id {
				t.Errorf("get of %s: %v, %v", id, it, err)
			}
		}
	}
	p.sent.Store(0)
	c.together(calls...)
	if n := p.sent.Load(); n != 1 {
		t.Errorf("%d pipelines, want 1", n)
	}
}

func TestEachCallOfABatchHasItsOwnOutcome(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c, p := newBatches(t, s)
	c.set("read", "r")
	c.set("swapped", "old")
	c.set("changed", "first")
	swapped, changed := c.get("swapped"), c.get("changed")
	c.set("changed", "second")
	c.set("gone", "g")
	gone := c.get("gone")
	s.do("del", key("gone"))
	s.do("set", key("foreign"), "something else")
	s.do("lpush", key("list"), "something else")
	p.sent.Store(0)
	swap := func(id string, old *tier.Item, want tier.Outcome) func(context.Context) {
		return func(ctx context.Context) {
			if got, err := c.CompareAndSwap(ctx, id, old, text("new"), time.Hour); err != nil || got != want {
				t.Errorf("compare-and-swap of %s: %v, %v, want %v", id, got, err, want)
			}
		}
	}
	get := func(id, want string) func(context.Context) {
		return func(ctx context.Context) {
			it, err := c.Get(ctx, id)
			switch {
			case want == "rejected":
				if !errors.Is(err, tier.ErrRejected) {
					t.Errorf("get of %s: %v, want ErrRejected", id, err)
				}
			case err != nil || (it == nil) != (want == "") || it != nil && string(it.Value) != want:
				t.Errorf("get of %s: %v, %v, want %q", id, it, err, want)
			}
		}
	}
	c.together(
		get("read", "r"), swap("changed", changed, tier.Conflict), swap("swapped", swapped, tier.Stored), get("none", ""),
		swap("gone", gone, tier.Absent), get("foreign", "rejected"), get("list", "rejected"), get("swapped", "new"),
	)
	// One for all of them, and none of the scripts is sent in a pipeline.
	if n := p.sent.Load(); n != 1 {
		t.Errorf("%d pipelines, want 1", n)
	}
	c.wants("changed", "second", "after the batch")
	c.wants("swapped", "new", "after the batch")
	if !s.holds("foreign", "something else") {
		t.Error("what is no item was replaced")
	}
}

// Both calls of two on one item are sent before the first is answered.
func TestOneOfTwoSwapsInABatchWins(t *testing.T) {
	t.Parallel()
	c, _ := newBatches(t, newServer(t))
	c.set("id", "old")
	old := c.get("id")
	var stored, conflicts atomic.Int64
	swap := func(ctx context.Context) {
		switch outcome, err := c.CompareAndSwap(ctx, "id", old, text("new"), time.Hour); {
		case err != nil:
			t.Error(err)
		case outcome == tier.Stored:
			stored.Add(1)
		case outcome == tier.Conflict:
			conflicts.Add(1)
		}
	}
	c.together(swap, swap, swap)
	if stored.Load() != 1 || conflicts.Load() != 2 {
		t.Errorf("%d swaps were stored and %d met a conflict, want 1 and 2", stored.Load(), conflicts.Load())
	}
}

// A server that is full refuses the whole transaction of a batch for one write.
func TestARefusedWriteDoesNotRefuseTheReadsOfItsBatch(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c, _ := newBatches(t, s)
	c.set("id", "x")
	old := c.get("id")
	s.do("config", "set", "maxmemory", "1")
	read := func(ctx context.Context) {
		if it, err := c.Get(ctx, "id"); err != nil || it == nil || string(it.Value) != "x" {
			t.Errorf("get beside a refused write: %v, %v", it, err)
		}
	}
	c.together(read, func(ctx context.Context) {
		if _, err := c.CompareAndSwap(ctx, "id", old, text("y"), time.Hour); err == nil || !strings.Contains(err.Error(), "OOM") {
			t.Errorf("compare-and-swap on a full server: %v, want its error", err)
		}
	}, read)
	s.do("config", "set", "maxmemory", "0")
	c.wants("id", "x", "after the refusal")
}

func TestItemsOfAnotherFenceAreInvalidInABatch(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--enable-debug-command", "yes")
	c, _ := newBatches(t, s)
	for _, id := range []string{"a", "b"} {
		c.set(id, "old")
	}
	old := c.get("b")
	s.do("debug", "change-repl-id")
	c.together(func(ctx context.Context) {
		if it, err := c.Get(ctx, "a"); err != nil || it != nil {
			t.Errorf("get: %v, %v, want none", it, err)
		}
	}, func(ctx context.Context) {
		if outcome, err := c.CompareAndSwap(ctx, "b", old, text("new"), time.Hour); err != nil || outcome != tier.Absent {
			t.Errorf("compare-and-swap: %v, %v, want that there is none", outcome, err)
		}
	})
}

// The first call sends for all of them.
func TestACallThatIsCancelledDoesNotCancelOthersOfItsBatch(t *testing.T) {
	t.Parallel()
	c, _ := newBatches(t, newServer(t))
	c.set("id", "x")
	first, cancel := context.WithTimeout(ctx, time.Minute)
	c.together(func(context.Context) {
		if _, err := c.Get(first, "id"); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the first call: %v", err)
		}
	}, func(ctx context.Context) {
		cancel()
		if it, err := c.Get(ctx, "id"); err != nil || it == nil {
			t.Errorf("another call of its batch: %v, %v", it, err)
		}
	})
}

// Each ends with its own context, the first one at its deadline.
func TestCallsOfABatchEndWithTheirContextsWhileTheServerIsSilent(t *testing.T) {
	s := newServer(t)
	c, _ := newBatches(t, s, func(o *redis.Options) { o.ReadTimeout = time.Minute })
	c.set("id", "x")
	old := c.get("id")
	speak := s.silence()
	// A busy machine may take long to make the calls, which all are to be in the batch.
	const first = 3 * time.Second
	began := time.Now()
	call := func(name string, limit, cancelled time.Duration, want error) func(context.Context) {
		return func(ctx context.Context) {
			ctx, cancel := context.WithDeadline(ctx, began.Add(limit))
			defer cancel()
			if cancelled > 0 {
				time.AfterFunc(time.Until(began.Add(cancelled)), cancel)
			}
			_, err := c.CompareAndSwap(ctx, "id", old, text("y"), time.Hour)
			if !errors.Is(err, want) || errors.Is(err, tier.ErrUnreachable) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			took, early := time.Since(began), limit < first || cancelled > 0
			if ctx.Err() == nil || early && took >= first || took > limit+10*time.Second {
				t.Errorf("%s ended after %v, not with its context", name, took)
			}
		}
	}
	c.together(
		call("the first", first, 0, context.DeadlineExceeded),
		call("one with an earlier deadline", first/2, 0, context.DeadlineExceeded),
		call("one that is cancelled", first, first/2, context.Canceled),
		call("one with a somewhat later deadline", first+30*time.Millisecond, 0, context.DeadlineExceeded),
	)
	speak()
	eventually(t, "the cache works", func() bool { it, err := c.Get(ctx, "id"); return err == nil && it != nil })
}

// Another one's timeout is not its own, and nobody waits long for another one's bytes.
func TestACallThatDoesNotFitIntoABatchGoesAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	minute, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	hour, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	get := func(ctx context.Context, c *cache, _ *tier.Item) {
		if _, err := c.Get(ctx, "id"); err != nil {
			t.Errorf("get: %v", err)
		}
	}
	swap := func(size int) func(context.Context, *cache, *tier.Item) {
		return func(ctx context.Context, c *cache, old *tier.Item) {
			if _, err := c.CompareAndSwap(ctx, "id", old, tier.Item{Value: make([]byte, size)}, time.Hour); err != nil {
				t.Errorf("compare-and-swap: %v", err)
			}
		}
	}
	for name, test := range map[string]struct {
		another, alone func(context.Context, *cache, *tier.Item)
		others         int // in the batch
		ctx            context.Context
	}{
		"a much later deadline":        {get, get, 1, hour},
		"the 65th":                     {get, get, 63, minute},
		"more than 64 KB":              {swap(40 << 10), swap(40 << 10), 1, minute},
		"an item of more than 64 KB":   {get, swap(70 << 10), 0, minute},
		"64 KB are not too much, once": {get, swap(60 << 10), -1, minute},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := newBatches(t, s)
			c.set("id", "x")
			old := c.get("id")
			if test.others < 1 {
				opens := false
				c.Collect(func() { opens = true })
				if test.alone(test.ctx, c, old); opens != (test.others < 0) {
					t.Errorf("it opens a batch: %v", opens)
				}
				return
			}
			var others sync.WaitGroup
			collected := false
			c.Collect(func() {
				collected = true
				for i := range test.others {
					others.Add(1)
					go func() {
						defer others.Done()
						test.another(minute, c, old)
					}()
					eventually(t, "a call is in the batch", func() bool { return c.Calls() == i+2 })
				}
				p.sent.Store(0)
				ctx, cancel := context.WithCancel(test.ctx)
				defer cancel()
				defer time.AfterFunc(10*time.Second, cancel).Stop()
				test.alone(ctx, c, old)
				if p.sent.Load() == 0 {
					t.Error("it is not sent before the batch")
				}
			})
			get(minute, c, old)
			others.Wait()
			if !collected {
				t.Error("there was no batch, so this test shows nothing")
			}
		})
	}
}

// How much a batch reads is known afterwards only.
func TestAfterABatchOfLargeReadsCallsGoAlone(t *testing.T) {
	t.Parallel()
	for size, alone := range map[int]bool{600 << 10: true, 10 << 10: false} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c, p := newBatches(t, newServer(t))
			c.set("id", strings.Repeat("x", size))
			p.before = c.OpenBatches // after the others have taken their time
			get := func(ctx context.Context) {
				if it, err := c.Get(ctx, "id"); err != nil || len(it.Value) != size {
					t.Errorf("get: %v, %v", it, err)
				}
			}
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			opened := false
			for again := true; again; {
				began := time.Now()
				opened = false
				c.together(get, get)
				c.Collect(func() { opened = true })
				get(ctx)
				again = alone && opened && time.Since(began) >= 100*time.Millisecond // the machine is too busy
			}
			if opened == alone {
				t.Errorf("the next call opens a batch: %v, want %v", opened, !alone)
			}
			eventually(t, "a call opens a batch", func() bool { get(ctx); return opened })
		})
	}
}

// It would fail with a batch that ends much earlier than its own time.
func TestACallDoesNotShareTheShortTimeOfAnother(t *testing.T) {
	t.Parallel()
	c, p := newBatches(t, newServer(t))
	c.set("id", "x")
	attempt := func() (sent int64) {
		short, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
		defer cancel()
		deadline, _ := short.Deadline()
		longer, cancel := context.WithDeadline(ctx, deadline.Add(45*time.Millisecond))
		defer cancel()
		c.Collect(func() {
			p.sent.Store(0)
			_, _ = c.Get(longer, "id")
			sent = p.sent.Load()
		})
		_, _ = c.Get(short, "id")
		return sent
	}
	sent := int64(0)
	for n := 0; sent == 0 && n < 10; n++ { // a busy machine may take longer
		sent = attempt()
	}
	if sent != 1 {
		t.Errorf("a call that has longer has sent %d pipelines itself, want 1", sent)
	}
}

func TestAPanicOfTheClientReachesTheCallThatSends(t *testing.T) {
	t.Parallel()
	c, p := newBatches(t, newServer(t))
	c.set("id", "x")
	old := c.get("id")
	p.panics.Store(true)
	c.together(func(ctx context.Context) {
		defer func() {
			if recover() == nil {
				t.Error("the first call does not panic")
			}
		}()
		_, _ = c.Get(ctx, "id")
	}, func(ctx context.Context) {
		if _, err := c.CompareAndSwap(ctx, "id", old, text("y"), time.Hour); err == nil {
			t.Error("another call returns no error")
		}
	})
	c.wants("id", "x", "after a panic")
}

// first returns what holds the first pipeline until goOn is closed.
func first(p *pipelines, sent chan<- struct{}, goOn <-chan struct{}) func() {
	return func() {
		if p.sent.Load() == 1 {
			sent <- struct{}{}
			<-goOn
		}
	}
}

// Each would wait for the connection alone.
func TestCallsThatWaitForAConnectionShareARoundTrip(t *testing.T) {
	t.Parallel()
	const calls = 5
	c, p := newBatches(t, newServer(t), func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 1, time.Minute })
	c.set("id", "x")
	c.Collect(func() {})
	goOn, sent := make(chan struct{}), make(chan struct{})
	p.sent.Store(0)
	p.before = first(p, sent, goOn)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var all sync.WaitGroup
	get := func() {
		defer all.Done()
		if it, err := c.Get(ctx, "id"); err != nil || it == nil {
			t.Errorf("get: %v, %v", it, err)
		}
	}
	all.Add(1 + calls)
	go get()
	<-sent
	for i := range calls {
		go get()
		eventually(t, "a call is in the batch", func() bool { return c.Calls() == i+1 })
	}
	close(goOn)
	all.Wait()
	if n := p.sent.Load(); n != 2 {
		t.Errorf("%d pipelines, want 2", n)
	}
}

func TestABatchThatGetsNoConnectionIsBusyOrEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	for want, timeout := range map[error]time.Duration{tier.ErrBusy: 10 * time.Millisecond, context.DeadlineExceeded: time.Minute} {
		c, p := newBatches(t, newServer(t), func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 1, timeout })
		c.Collect(func() {})
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		goOn, sent, ended := make(chan struct{}), make(chan struct{}), make(chan error)
		p.sent.Store(0)
		p.before = first(p, sent, goOn)
		get := func(ctx context.Context) error { _, err := c.Get(ctx, "id"); return err }
		go func() { ended <- get(ctx) }()
		<-sent
		limited, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if err := get(limited); !errors.Is(err, want) {
			t.Errorf("get: %v, want %v", err, want)
		}
		close(goOn)
		if err := <-ended; err != nil {
			t.Errorf("the call that has the connection: %v", err)
		}
		if err := get(ctx); err != nil {
			t.Errorf("a call when the connection is free: %v", err)
		}
	}
}

// A handler's panic ends its request, and not the process.
func TestAPanicOfTheClientReachesACallThatNeedsAnotherGoroutine(t *testing.T) {
	t.Parallel()
	client, p := newServer(t).client(t), &pipelines{}
	client.AddHook(p)
	c := newCache(t, client)
	c.set("id", "x")
	p.panics.Store(true)
	cancellable, cancel := context.WithCancel(ctx)
	defer cancel()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the call does not panic")
			}
		}()
		_, _ = c.Get(cancellable, "id")
	}()
	c.wants("id", "x", "after a panic")
}

// Otherwise every call of a busy process would wait for all its goroutines.
func TestCallsLetNobodyRunAfterThatTookLong(t *testing.T) {
	t.Parallel()
	c, _ := newBatches(t, newServer(t))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	const long = 50 * time.Millisecond
	var slept, again time.Time
	c.Collect(func() {
		if slept.IsZero() {
			time.Sleep(long)
			slept = time.Now()
		} else if again.IsZero() {
			again = time.Now()
		}
	})
	eventually(t, "a call lets others run again", func() bool {
		if _, err := c.Get(ctx, "id"); err != nil {
			t.Error(err)
		}
		return !again.IsZero()
	})
	if alone := again.Sub(slept); alone < 2*long {
		t.Errorf("after %v of others calls have gone alone for %v only", long, alone)
	}
}

func TestWhetherLettingOthersRunTookLongDependsOnTheirCalls(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		calls int
		took  time.Duration
		alone bool
	}{
		{1, 200 * time.Microsecond, false},
		{1, 15 * time.Second, true},
		{64, 15 * time.Millisecond, false},
		{64, 15 * time.Second, true},
	} {
		if alone := rediscache.AloneAfter(test.calls, test.took); alone != test.alone {
			t.Errorf("after a batch of %d in %v calls go alone: %v", test.calls, test.took, alone)
		}
	}
}

// bytewise is a connection whose answers come byte by byte, and one to which the client
// does not look before it uses it again, as with TLS.
type bytewise struct{ net.Conn }

func (c bytewise) Read(p []byte) (int, error) { return c.Conn.Read(p[:1]) }

// The client does not read what follows the refusal of MULTI.
func TestNoCallGetsTheAnswerOfAnother(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.do("acl", "setuser", "default", "+@all")
	c, _ := newBatches(t, s, func(o *redis.Options) {
		o.PoolSize = 1
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return bytewise{conn}, err
		}
	})
	get := func(id string) func(context.Context) {
		return func(ctx context.Context) {
			if it, err := c.Get(ctx, id); err == nil || it != nil {
				t.Errorf("get of %s: %v, %v, want an error", id, it, err)
			}
		}
	}
	ids := []string{"a", "b", "c"}
	var calls []func(context.Context)
	for _, id := range ids {
		c.set(id, "value of "+id)
		calls = append(calls, get(id))
	}
	old := c.get("c")
	s.do("acl", "setuser", "default", "-multi")
	c.together(append(calls, func(ctx context.Context) {
		if _, err := c.CompareAndSwap(ctx, "c", old, text("new"), time.Hour); !errors.Is(err, tier.ErrRejected) {
			t.Errorf("compare-and-swap: %v, want ErrRejected", err)
		}
	})...)
	for _, id := range ids {
		get(id)(ctx)
	}
	s.do("acl", "setuser", "default", "+multi")
	for _, id := range ids[:2] {
		eventually(t, "all is permitted again", func() bool { _, err := c.Get(ctx, id); return err == nil })
		c.wants(id, "value of "+id, "when all is permitted again")
	}
}
