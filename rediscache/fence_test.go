package rediscache_test

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// The cache has forgotten what a server has that went back in time: an item
// that was replaced, one that was removed, and one that is as it was.
func TestAServerThatGoesBackShowsNothingOlder(t *testing.T) {
	t.Parallel()
	appendOnly := []string{"--appendonly", "yes", "--appendfsync", "always"}
	for name, way := range map[string]struct {
		args  []string
		back  func(*server)
		older bool // the server has what was replaced
	}{
		"killed, and back with a snapshot": {nil, (*server).kill, true},
		"shut down, and back with an older snapshot": {nil, func(s *server) {
			snapshot := filepath.Join(s.dir, "dump.rdb")
			older, err := os.ReadFile(snapshot)
			if err != nil {
				t.Fatal(err)
			}
			s.shutdown()
			if err := os.WriteFile(snapshot, older, 0o600); err != nil {
				t.Fatal(err)
			}
		}, true},
		"shut down, and back with all it had": {nil, (*server).shutdown, false},
		"killed, and back with its log":       {appendOnly, (*server).kill, false},
		"shut down, and back with its log":    {appendOnly, (*server).shutdown, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, way.args...)
			c := s.cache(t)
			for _, id := range []string{"replaced", "removed", "as it was"} {
				c.set(id, "older")
			}
			older := c.get("replaced")
			s.do("save")
			c.set("replaced", "newer")
			if err := c.Set(ctx, "removed", text(""), 0); err != nil {
				t.Fatal(err)
			}
			way.back(s)
			s.start()
			if way.older {
				s.has(t, "replaced", "older")
				s.has(t, "removed", "older")
			}
			s.has(t, "as it was", "older")

			// A swap may find the version that it is to replace, but that is
			// no item.
			c.swap("replaced", older, "older and changed", tier.Absent)
			c.swap("removed", older, "late", tier.Absent)
			for _, id := range []string{"replaced", "removed", "as it was"} {
				if id == "removed" && s.exists(id) {
					t.Error("what is absent once is still there, and could be there again")
				}
				c.wants(id, "", id+", after the server went back,")
				if s.exists(id) {
					t.Errorf("%s: what is no item any more is still there, and could become one again", id)
				}
			}
			c.set("replaced", "new")
			c.wants("replaced", "new", "after a set")
			if added, err := c.Add(ctx, "removed", text("new"), time.Hour); err != nil || !added {
				t.Errorf("add answers %t, %v", added, err)
			}
		})
	}
}

// replicas starts a master, and a replica of it behind a proxy.
func replicas(t *testing.T) (master, replica *server, link *proxy) {
	t.Helper()
	master, replica = newServer(t), newServer(t)
	master.do("config", "set", "repl-diskless-sync-delay", "0")
	link = newProxy(t, master.addr())
	replica.do("replicaof", "127.0.0.1", link.port())
	eventually(t, "the replica is connected", func() bool { return replica.info("replication", "master_link_status") == "up" })
	return master, replica, link
}

func TestAReplicaThatLagsAndIsPromotedShowsNothingOlder(t *testing.T) {
	t.Parallel()
	master, replica, link := replicas(t)
	c := master.cache(t)
	c.set("id", "older")
	old := c.get("id")
	eventually(t, "the replica has the item", func() bool { return replica.holds("id", "older") })
	link.stall(true)
	c.set("id", "newer")
	master.kill()
	replica.do("replicaof", "no", "one")
	replica.has(t, "id", "older")

	promoted := replica.cache(t)
	promoted.swap("id", old, "older and changed", tier.Absent)
	promoted.wants("id", "", "after the promotion")
	promoted.set("id", "newest")
	promoted.wants("id", "newest", "after the promotion and a set")
}

// A server that is master again has another fence than when it was one before,
// although its process is the same.
func TestAMasterThatIsMasterAgainShowsNothingOlder(t *testing.T) {
	t.Parallel()
	first, second, _ := replicas(t)
	a := first.cache(t)
	a.set("id", "older")
	eventually(t, "the replica has the item", func() bool { return second.holds("id", "older") })

	back := newProxy(t, second.addr())
	back.stall(true) // the first server never gets what the second one takes
	second.do("replicaof", "no", "one")
	first.do("replicaof", "127.0.0.1", back.port())
	b := second.cache(t)
	b.wants("id", "", "after the promotion")
	b.set("id", "newer")

	first.do("replicaof", "no", "one")
	first.has(t, "id", "older")
	a.wants("id", "", "after the first server is master again")
}

// A replica has its master's fence, and lags.
func TestAReplicaIsNotRead(t *testing.T) {
	t.Parallel()
	master, replica, link := replicas(t)
	c := master.cache(t)
	c.set("id", "older")
	eventually(t, "the replica has the item", func() bool { return replica.holds("id", "older") })

	r, _ := replica.cacheUnchecked(t, master)
	link.stall(true)
	c.set("id", "newer")
	if it, err := r.Get(ctx, "id"); err == nil {
		t.Errorf("the replica shows %v", it)
	}
	if _, err := r.Get(ctx, "no such id"); err == nil {
		t.Error("the replica says that there is nothing")
	}
	old := c.get("id")
	if outcome, err := r.CompareAndSwap(ctx, "id", old, text("x"), time.Hour); err == nil {
		t.Errorf("compare-and-swap on a replica answers %d", outcome)
	}
	if added, err := r.Add(ctx, "id", text("x"), time.Hour); err == nil {
		t.Errorf("add on a replica answers %t", added)
	}
	for _, readOnly := range []string{"yes", "no"} {
		replica.do("config", "set", "replica-read-only", readOnly)
		for range 2 {
			if err := r.Set(ctx, "id", text("x"), time.Hour); err == nil {
				t.Errorf("set on a replica returns no error, read-only: %s", readOnly)
			}
			if it, err := r.Get(ctx, "id"); err == nil {
				t.Errorf("the replica shows %v, read-only: %s", it, readOnly)
			}
		}
	}
}

// Where an address leads to another server after a failover, connections to the
// first one must not stay.
func TestAClientLeavesAServerThatHasBecomeAReplica(t *testing.T) {
	t.Parallel()
	first, second := newServer(t), newServer(t)
	var moved atomic.Bool
	options := rediscache.ClientOptions(first.addr())
	options.Dialer = dialer(func() string {
		if moved.Load() {
			return second.addr()
		}
		return first.addr()
	})
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	c := newCache(t, client)
	c.set("id", "x")
	first.do("replicaof", "127.0.0.1", second.port)
	moved.Store(true)
	if it, err := c.Get(ctx, "id"); err == nil {
		t.Errorf("get on the replica: no error, but %v", it)
	}
	c.wants("id", "", "on the new master")
	c.set("id", "y")
	second.has(t, "id", "y")
}

// cacheUnchecked returns a cache, and its client, which talked to another server when
// the cache checked it, as before a failover.
func (s *server) cacheUnchecked(t *testing.T, before *server) (*cache, *redis.Client) {
	t.Helper()
	var moved atomic.Bool
	client := redis.NewClient(&redis.Options{Addr: before.addr(), MaxRetries: -1, Dialer: dialer(func() string {
		if moved.Load() {
			return s.addr()
		}
		return before.addr()
	}), ConnMaxIdleTime: time.Nanosecond})
	t.Cleanup(func() { _ = client.Close() })
	c := newCache(t, client)
	if err := c.Check(ctx); err != nil {
		t.Fatal(err)
	}
	moved.Store(true)
	return c, client
}

// inBetween is a hook that runs between the commands of a pipeline.
type inBetween func()

func (inBetween) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (inBetween) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (run inBetween) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		var err error
		for i := range commands {
			if i > 0 {
				run()
			}
			err = cmp.Or(err, next(ctx, commands[i:i+1]))
		}
		return err
	}
}

// A Get reads the item and the fence one after the other.
func TestAReplicaThatIsPromotedDuringAGetShowsNothingOlder(t *testing.T) {
	t.Parallel()
	master, replica, link := replicas(t)
	c := master.cache(t)
	c.set("id", "older")
	eventually(t, "the replica has the item", func() bool { return replica.holds("id", "older") })
	link.stall(true)
	c.set("id", "newer")

	r, client := replica.cacheUnchecked(t, master)
	replica.has(t, "id", "older")
	client.AddHook(inBetween(func() { replica.do("replicaof", "no", "one") }))
	r.wants("id", "", "during the promotion")
}

func TestAMasterThatIsDemotedDuringAGetShowsNothingOlder(t *testing.T) {
	t.Parallel()
	first, second, link := replicas(t)
	client := first.client(t)
	c := newCache(t, client)
	c.set("id", "older")
	eventually(t, "the replica has the item", func() bool { return second.holds("id", "older") })
	link.stall(true)
	c.set("id", "newer")
	second.do("config", "set", "repl-diskless-sync-delay", "0")
	second.do("replicaof", "no", "one")

	demoted := false
	client.AddHook(inBetween(func() {
		demoted = true
		first.do("replicaof", "127.0.0.1", second.port)
		eventually(t, "the first server is a replica", func() bool { return first.holds("id", "older") })
	}))
	if it, err := c.Get(ctx, "id"); err == nil && (it == nil || string(it.Value) != "newer") || !demoted {
		t.Errorf("got %v, %v, want the newer item or an error", it, err)
	}
}

func TestAClusterThatMovesSlotsShowsNothingOlder(t *testing.T) {
	t.Parallel()
	nodes, client := clusterOf(t, 2)
	c := newCache(t, client)
	const id = "id"
	slot := nodes[0].do("cluster", "keyslot", key(id)).(int64)
	from, to := nodes[0], nodes[1]
	if slot >= 16384/2 {
		from, to = to, from
	}
	fromID, toID := from.do("cluster", "myid"), to.do("cluster", "myid")
	move := func(from, to *server, fromID, toID any) {
		t.Helper()
		to.do("cluster", "setslot", slot, "importing", fromID)
		from.do("cluster", "setslot", slot, "migrating", toID)
		from.do("migrate", "127.0.0.1", to.port, key(id), 0, 5000)
		for _, s := range []*server{to, from} {
			s.do("cluster", "setslot", slot, "node", toID)
		}
	}

	c.set(id, "older")
	move(from, to, fromID, toID)
	to.has(t, id, "older")
	c.wants(id, "", "after its slot was moved")
	c.set(id, "newer")
	c.wants(id, "newer", "after its slot was moved and a set")
	if err := c.Set(ctx, id, text(""), 0); err != nil {
		t.Fatal(err)
	}
	c.set(id, "newest")
	move(to, from, toID, fromID)
	c.wants(id, "", "after its slot was moved back")

	// What was no item once stays none.
	c.set(id, "older")
	move(from, to, fromID, toID)
	c.wants(id, "", "after its slot was moved")
	if to.exists(id) {
		t.Error("what is no item any more is still there, and would become one when the slot is moved back")
	}
}

func TestCallsWhileAClusterMovesTheirSlot(t *testing.T) {
	t.Parallel()
	nodes, client := clusterOf(t, 2)
	c := newCache(t, client)
	const id = "id"
	slot := nodes[0].do("cluster", "keyslot", key(id)).(int64)
	from, to := nodes[0], nodes[1]
	if slot >= 16384/2 {
		from, to = to, from
	}
	toID := to.do("cluster", "myid")
	to.do("cluster", "setslot", slot, "importing", from.do("cluster", "myid"))
	from.do("cluster", "setslot", slot, "migrating", toID)

	// The key is not there, so the old server sends clients to the new one.
	c.set(id, "set")
	c.wants(id, "set", "after a set")
	c.swap(id, c.get(id), "swapped", tier.Stored)
	c.wants(id, "swapped", "after a swap")
	if added, err := c.Add(ctx, id, text("added"), time.Hour); err != nil || added {
		t.Errorf("add to an item answers %t, %v", added, err)
	}
	if err := c.Set(ctx, id, text(""), 0); err != nil {
		t.Fatal(err)
	}
	if added, err := c.Add(ctx, id, text("added"), time.Hour); err != nil || !added {
		t.Errorf("add answers %t, %v", added, err)
	}
	for _, s := range []*server{to, from} {
		s.do("cluster", "setslot", slot, "node", toID)
	}
	to.has(t, id, "added")
	c.wants(id, "added", "after the slot was moved")
}

// Numbers that grow are stored and read while the server goes back, again and
// again. Whoever reads sees none that is older than one shown or taken before.
func TestNothingOlderIsShownWhileAServerGoesBackUnderLoad(t *testing.T) {
	t.Parallel()
	const rounds, readers = 5, 3
	s := newServer(t)
	c := s.cache(t)
	const id = "id"
	var newest atomic.Int64
	var shown, failed, nothing atomic.Int64
	taken := func(n int64) {
		for is := newest.Load(); is < n && !newest.CompareAndSwap(is, n); is = newest.Load() {
		}
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	work := func(step func() error) {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := step(); err != nil {
					failed.Add(1)
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	n := int64(0)
	work(func() error {
		n++
		it, err := c.Get(ctx, id)
		if err != nil {
			return err
		}
		next := text(strconv.FormatInt(n, 10))
		if it == nil {
			added, err := c.Add(ctx, id, next, time.Hour)
			if err == nil && added {
				taken(n)
			}
			return err
		}
		if n%3 == 0 {
			err := c.Set(ctx, id, next, time.Hour)
			if err == nil {
				taken(n)
			}
			return err
		}
		outcome, err := c.CompareAndSwap(ctx, id, it, next, time.Hour)
		if err == nil && outcome == tier.Stored {
			taken(n)
		}
		return err
	})
	for range readers {
		work(func() error {
			least := newest.Load()
			it, err := c.Get(ctx, id)
			if err != nil {
				return err
			}
			if it == nil {
				nothing.Add(1)
				return nil
			}
			got, err := strconv.ParseInt(string(it.Value), 10, 64)
			if err != nil {
				t.Error(err)
			}
			if got < least {
				t.Errorf("number %d was shown after number %d had been shown or taken", got, least)
			}
			taken(got)
			shown.Add(1)
			return nil
		})
	}
	for range rounds {
		progress := func(n int64) {
			from := shown.Load()
			eventually(t, "items are shown", func() bool { return shown.Load() > from+n })
		}
		progress(50)
		s.do("save")
		progress(50)
		s.kill()
		s.start()
	}
	before := shown.Load()
	eventually(t, "items are shown in the end", func() bool { return shown.Load() > before+50 })
	close(stop)
	all.Wait()
	t.Logf("%d items shown, %d times nothing, %d calls failed", shown.Load(), nothing.Load(), failed.Load())
}

// Redis draws a new replication id, too, when the first replica connects.
func TestTheFirstReplicaEmptiesTheCache(t *testing.T) {
	t.Parallel()
	master := newServer(t)
	master.do("config", "set", "repl-diskless-sync-delay", "0")
	c := master.cache(t)
	c.set("id", "x")
	connect := func() {
		replica := newServer(t)
		replica.do("replicaof", "127.0.0.1", master.port)
		eventually(t, "the replica is connected", func() bool { return replica.info("replication", "master_link_status") == "up" })
	}
	connect()
	c.wants("id", "", "after the first replica connected")
	c.set("id", "y")
	connect()
	c.wants("id", "y", "after the second replica connected")
}
