package rediscache_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestTheContract(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, options := range map[string]redis.Options{
		"RESP3":                    {Protocol: 3},
		"RESP2":                    {Protocol: 2},
		"one connection, no retry": {PoolSize: 1, MaxRetries: -1},
	} {
		t.Run(name, func(t *testing.T) {
			options.Addr = s.addr()
			client := redis.NewClient(&options)
			defer client.Close()
			tiertest.TestCache(t, func(t *testing.T) tier.Cache { return newCache(t, client) })
		})
	}
	t.Run("Cluster", func(t *testing.T) {
		_, client := clusterOf(t, 3)
		tiertest.TestCache(t, func(t *testing.T) tier.Cache { return newCache(t, client) })
	})
}

// A server forgets scripts when it restarts, and when it is told to.
func TestScriptsThatAServerDoesNotKnowAreSentToIt(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.cache(t)
	c.set("id", "first")
	old := c.get("id")
	for name, call := range map[string]func(){
		"get":  func() { c.wants("id", "first", "after SCRIPT FLUSH") },
		"swap": func() { c.swap("id", old, "swapped", tier.Stored); c.set("id", "first"); old = c.get("id") },
		"set":  func() { c.set("other", "x"); c.wants("other", "x", "after SCRIPT FLUSH") },
		"add": func() {
			if added, err := c.Add(ctx, "added", text("x"), time.Hour); err != nil || !added {
				t.Errorf("add answers %t, %v", added, err)
			}
			c.wants("added", "x", "after SCRIPT FLUSH")
		},
		"add to an item": func() {
			if added, err := c.Add(ctx, "id", text("x"), time.Hour); err != nil || added {
				t.Errorf("add to an item answers %t, %v", added, err)
			}
			c.wants("id", "first", "after SCRIPT FLUSH")
		},
	} {
		s.do("script", "flush")
		call()
		if t.Failed() {
			t.Fatalf("in %s", name)
		}
	}
}

func TestKeysHaveThePrefixAndTheTTL(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	client := s.client(t)
	a, err := rediscache.New(ctx, client, &rediscache.Options{Prefix: "a:"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Set(ctx, "id", text("x"), 90*time.Second); err != nil {
		t.Fatal(err)
	}
	keyOfA := "a:" + strings.TrimPrefix(key("id"), rediscache.DefaultPrefix)
	if ttl := s.raw.PTTL(ctx, keyOfA).Val(); ttl < 80*time.Second || ttl > 90*time.Second {
		t.Errorf("the key has %v to live, want 90 s", ttl)
	}
	if err := a.Set(ctx, "short", text("x"), time.Millisecond+1); err != nil {
		t.Fatal(err)
	}
	newCache(t, client).wants("id", "", "without the prefix")
	if n := s.do("dbsize").(int64); n > 2 {
		t.Errorf("there are %d keys for two items", n)
	}
}

// Whoever may read an id is logged in with it.
func TestTheIDIsNowhereOnTheServer(t *testing.T) {
	t.Parallel()
	const id = "secret-session-id"
	s := newServer(t, "--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000")
	c := s.cache(t)
	if added, err := c.Add(ctx, id, text("x"), time.Hour); err != nil || !added {
		t.Fatalf("add answers %t, %v", added, err)
	}
	old := c.get(id)
	c.swap(id, old, "y", tier.Stored)
	c.swap(id, old, "z", tier.Conflict)
	c.set(id, "y")
	s.raw.Set(ctx, key(id), "of somebody else", 0)
	if _, err := c.Get(ctx, id); err == nil {
		t.Fatal("get: no error")
	}
	s.do("del", key(id))
	c.set(id, "y")

	keys := fmt.Sprint(s.do("keys", "*"))
	if keys != "["+key(id)+"]" {
		t.Errorf("the keys are %s", keys)
	}
	slow := fmt.Sprint(s.do("slowlog", "get", 10000))
	if !strings.Contains(slow, key(id)) {
		t.Error("the slow log has no call of the cache, so this test shows nothing")
	}
	for what, text := range map[string]string{"keys": keys, "slow log": slow, "value": s.raw.Get(ctx, key(id)).Val()} {
		if strings.Contains(text, "secret") {
			t.Errorf("the server's %s: %s", what, text)
		}
	}
}

// An item is stamped in the transaction that sets it. Where the server dies or
// refuses in between, what is left is no item, and in nobody's way.
func TestAnItemThatWasNeverStampedIsNone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.cache(t)
	c.set("id", "first")
	old := c.get("id")
	whole := s.raw.Get(ctx, key("id")).Val()
	left := strings.Repeat("-", 40) + "another version." + whole[56:]
	leave := func() { s.do("set", key("id"), left) }

	leave()
	c.wants("id", "", "with an item that was never stamped")
	leave()
	c.swap("id", old, "late", tier.Absent)
	c.wants("id", "", "after a swap of an item that was never stamped")
	leave()
	if added, err := c.Add(ctx, "id", text("added"), time.Hour); err != nil || !added {
		t.Errorf("add answers %t, %v", added, err)
	}
	c.wants("id", "added", "after an add")
	leave()
	c.set("id", "set")
	c.wants("id", "set", "after a set")
}

// A call whose answer is lost is an error, and is not made again: others may have
// changed what it stored, and that must stay.
func TestACallWhoseAnswerIsLostDoesNotUndoWhatCameAfterIt(t *testing.T) {
	t.Parallel()
	t.Run("one server", func(t *testing.T) {
		s := newServer(t)
		p := newProxy(t, s.addr())
		testLostAnswers(t, p, s.cache(t), newCache(t, newClient(t, p.addr())))
	})
	t.Run("Cluster", func(t *testing.T) {
		nodes, direct := clusterOf(t, 1)
		p := newProxy(t, nodes[0].addr())
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{p.addr()}, Dialer: dialer(p.addr)})
		t.Cleanup(func() { _ = client.Close() })
		testLostAnswers(t, p, newCache(t, direct), newCache(t, client))
	})
}

func testLostAnswers(t *testing.T, p *proxy, direct, c *cache) {
	lose := func(f func()) {
		c.set("warm", "x") // so that there is a connection, and the script is known
		p.loseAnswer(f)
	}
	// In other goroutines than the test's.
	swap := func(id, value string) {
		old, err := direct.Get(ctx, id)
		if err != nil || old == nil {
			t.Errorf("%s is not there when its answer is lost: %v", id, err)
			return
		}
		if outcome, err := direct.CompareAndSwap(ctx, id, old, text(value), time.Hour); err != nil || outcome != tier.Stored {
			t.Errorf("%s: compare-and-swap answers %d, %v", id, outcome, err)
		}
	}

	lose(func() { swap("set", "after it") })
	if err := c.Set(ctx, "set", text("it"), time.Hour); err == nil {
		t.Error("set: no error")
	}
	direct.wants("set", "after it", "after a set whose answer was lost")

	lose(func() {
		swap("add", "after it")
		if err := direct.Set(ctx, "add", text(""), 0); err != nil {
			t.Error(err)
		}
	})
	if added, err := c.Add(ctx, "add", text("it"), time.Hour); err == nil {
		t.Errorf("add: no error, but %t", added)
	}
	direct.wants("add", "", "after an add whose answer was lost")

	lose(func() {})
	if it, err := c.Get(ctx, "set"); err == nil && (it == nil || string(it.Value) != "after it") { // the client may repeat it
		t.Errorf("get: %v, want what is there", it)
	}

	// A conflict would say that the item was never there.
	for name, test := range map[string]struct {
		after func()
		then  string
		want  tier.Outcome
	}{
		"nothing":      {func() {}, "it", tier.Conflict},
		"another item": {func() { swap("swap", "after it") }, "after it", tier.Conflict},
		"none": {func() {
			if err := direct.Set(ctx, "swap", text(""), 0); err != nil {
				t.Error(err)
			}
		}, "", tier.Absent},
	} {
		c.set("swap", "before it")
		old := c.get("swap")
		lose(test.after)
		if outcome, err := c.CompareAndSwap(ctx, "swap", old, text("it"), time.Hour); err == nil || errors.Is(err, tier.ErrRejected) {
			t.Errorf("compare-and-swap with %s after it answers %d, %v, and may have had its effect", name, outcome, err)
		}
		direct.wants("swap", test.then, "after a swap whose answer was lost")
		c.swap("swap", old, "late", test.want)
		direct.wants("swap", test.then, "after a swap that its caller tried again")
	}
}

// A client of a Cluster asks the servers which commands have keys when it has to
// know, and may not be permitted to.
func TestAClusterClientThatDoesNotKnowTheCommands(t *testing.T) {
	t.Parallel()
	nodes, direct := clusterOf(t, 2)
	for _, s := range nodes {
		s.do("acl", "setuser", "app", "reset", "on", ">secret", "allkeys", "+@all", "-command")
	}
	for name, options := range map[string]*redis.ClusterOptions{
		"not yet":       {},
		"not permitted": {Username: "app", Password: "secret"},
		"does not ask":  {DisableRoutingPolicies: true},
	} {
		options.Addrs = []string{nodes[0].addr(), nodes[1].addr()}
		client := redis.NewClusterClient(options)
		t.Cleanup(func() { _ = client.Close() })
		d, c := newCache(t, direct), newCache(t, client)
		for _, id := range []string{"a", "b", "c"} { // in slots of both servers
			d.set(id, "first")
			c.swap(id, d.get(id), "second", tier.Stored)
			c.wants(id, "second", "after a swap by a client that knows the commands: "+name)
		}
	}
}

// A swap's transaction sets the item if there is nothing. So there must be
// something while another item is there or none is, whatever becomes of the script.
func TestASwapThatFindsAnotherItemStoresNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.cache(t)
	for name, test := range map[string]struct {
		before func()
		want   tier.Outcome
		then   string
	}{
		"another item": {func() { c.set("id", "another") }, tier.Conflict, "another"},
		"none":         {func() { s.do("del", key("id")) }, tier.Absent, ""},
		"none, and the server has forgotten the scripts": {func() { s.do("del", key("id")); s.do("script", "flush") }, tier.Absent, ""},
	} {
		for _, ttl := range []time.Duration{time.Hour, 0} {
			c.set("id", "first")
			old := c.get("id")
			test.before()
			got, err := c.CompareAndSwap(ctx, "id", old, text("late"), ttl)
			if err != nil || got != test.want {
				t.Errorf("%s: compare-and-swap answers %d, %v, want %d", name, got, err, test.want)
			}
			if s.exists("id") && test.then == "" {
				t.Errorf("%s: something is left", name)
			}
			c.wants("id", test.then, "after a swap that found "+name)
		}
	}
}

func TestASwapThatIsNotPermittedStoresNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	direct := s.cache(t)
	c := newCache(t, s.user(t, "+@all"))
	for _, command := range []string{"-getrange", "-del", "-eval", "-set"} {
		for _, there := range []bool{true, false} {
			direct.set("id", "first")
			old := direct.get("id")
			want := "another"
			direct.set("id", want)
			if !there {
				s.do("del", key("id"))
				want = ""
			}
			s.do("acl", "setuser", "app", "+@all", command)
			_, _ = c.CompareAndSwap(ctx, "id", old, text("late"), time.Hour) // some outcomes need no such command
			s.do("acl", "setuser", "app", "+@all")
			direct.wants("id", want, "after a swap with "+command)
		}
	}
}

// What a swap leaves where it finds nothing, should it die then, is in nobody's
// way, and soon gone.
func TestWhatASwapLeavesIsNoItem(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.cache(t)
	c.set("id", "first")
	old := c.get("id")
	leave := func() {
		s.do("del", key("id"))
		s.do("acl", "setuser", "default", "-evalsha")
		if _, err := c.CompareAndSwap(ctx, "id", old, text("late"), time.Hour); !errors.Is(err, tier.ErrRejected) {
			t.Fatalf("compare-and-swap: %v, want ErrRejected", err)
		}
		s.do("acl", "setuser", "default", "+@all")
		if ttl := s.raw.PTTL(ctx, key("id")).Val(); ttl <= 0 || ttl > time.Second {
			t.Errorf("what a swap left has %v to live", ttl)
		}
	}
	leave()
	c.wants("id", "", "after a swap that died")
	leave()
	if added, err := c.Add(ctx, "id", text("added"), time.Hour); err != nil || !added {
		t.Errorf("add answers %t, %v", added, err)
	}
	c.wants("id", "added", "after an add")
	leave()
	eventually(t, "what a swap left is gone", func() bool { return !s.exists("id") })
}

// Swaps rely on it: what a script has seen at the beginning of a transaction does
// not expire before its end.
func TestTimeStandsStillInATransaction(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const busy = `
local was = redis.call('EXISTS', KEYS[1])
for i = 1, ARGV[1] do redis.call('EXISTS', KEYS[1]) end
return was`
	for n := 50_000; ; n = min(2*n, 2_000_000) {
		s.do("set", "id", "x", "px", 20)
		began := time.Now()
		p := s.raw.TxPipeline()
		was := p.Eval(ctx, busy, []string{"id"}, n)
		set := p.Do(ctx, "set", "id", "y", "nx")
		_, _ = p.Exec(ctx) // the errors are with the commands
		there, err := was.Int()
		if err != nil {
			t.Fatal(err)
		}
		if there == 0 {
			continue // this machine was busy
		}
		if !errors.Is(set.Err(), redis.Nil) {
			t.Fatalf("a key expired in a transaction: set answers %v", set.Err())
		}
		if time.Since(began) > 60*time.Millisecond && s.do("exists", "id").(int64) == 0 {
			break
		}
	}
}

// A Set does not know of another fence before the server has answered.
func TestASetThatIsTheFirstToFindAnotherFence(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--appendonly", "yes")
	client := s.client(t)
	c := newCache(t, client)
	c.set("id", "older")
	for range 2 {
		s.kill()
		s.start()
		eventually(t, "the client is connected again", func() bool { return client.Ping(ctx).Err() == nil })
		c.set("id", "newer")
		c.wants("id", "newer", "after a set on a server that was restarted")
	}
}

func TestErrorsDoNotNameTheSession(t *testing.T) {
	t.Parallel()
	const id, value = "secret-session-id", "secret value"
	for _, command := range []string{"SET", "DEL", "GETRANGE", "SETRANGE"} {
		s := newServer(t, "--rename-command", command, "")
		c := s.cache(t)
		old := &tier.Item{Token: strings.Repeat("t", 56)}
		failed := 0
		check := func(call string, err error) {
			if err == nil {
				return
			}
			failed++
			if text := err.Error(); strings.Contains(text, "secret") || strings.Contains(text, key(id)) {
				t.Errorf("%s without %s: %v", call, command, err)
			}
			if !errors.Is(err, tier.ErrRejected) {
				t.Errorf("%s without %s: %v is not ErrRejected", call, command, err)
			}
		}
		check("set", c.Set(ctx, id, text(value), time.Hour))
		_, err := c.Get(ctx, id)
		check("get", err)
		s.raw.Do(ctx, "set", key(id), "something of somebody else")
		_, err = c.Get(ctx, id)
		check("get of what is no item", err)
		check("set without ttl", c.Set(ctx, id, text(value), 0))
		_, err = c.Add(ctx, id, text(value), time.Hour)
		check("add", err)
		_, err = c.CompareAndSwap(ctx, id, old, text(value), time.Hour)
		check("compare-and-swap", err)
		if failed == 0 {
			t.Errorf("nothing fails without %s", command)
		}
	}
}

func TestATokenOfAnotherCacheIsRefused(t *testing.T) {
	t.Parallel()
	c := newServer(t).cache(t)
	c.set("id", "x")
	for _, old := range []*tier.Item{nil, {}, {Token: 7}, {Token: "short"}} {
		if outcome, err := c.CompareAndSwap(ctx, "id", old, text("y"), time.Hour); !errors.Is(err, tier.ErrRejected) || outcome == tier.Stored {
			t.Errorf("compare-and-swap answers %d, %v, want ErrRejected", outcome, err)
		}
	}
	c.wants("id", "x", "after a swap with a wrong token")
}

func TestIDsAndValuesThatDoNotFit(t *testing.T) {
	t.Parallel()
	c := newServer(t).cache(t)
	for id, valid := range map[string]bool{"": false, "x": true, "\x00": true, strings.Repeat("x", 1<<20): true} {
		if c.ValidID(id) != valid {
			t.Errorf("an id of %d bytes: valid %t, want %t", len(id), !valid, valid)
		}
	}
	if !c.Fits("id", rediscache.MaxValue) || c.Fits("id", rediscache.MaxValue+1) {
		t.Errorf("MaxValue is not the largest value that fits")
	}
}
