package gaelocal_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/appengine/v2/memcache"
)

// Set policies of memcache_service.proto. The Go client has no replace.
const (
	policySet     = 1
	policyAdd     = 2
	policyReplace = 3
	policyCAS     = 4
)

var memcacheScripts = map[string]func(*script){
	"memcache/policies":    memcachePolicies,
	"memcache/cas":         memcacheCAS,
	"memcache/increment":   memcacheIncrement,
	"memcache/delete":      memcacheDelete,
	"memcache/expiry":      memcacheExpiry,
	"memcache/peek":        memcachePeek,
	"memcache/namespaces":  memcacheNamespaces,
	"memcache/limits":      memcacheLimits,
	"memcache/stats":       memcacheStats,
	"memcache/multi":       memcacheMulti,
	"memcache/wire":        memcacheWire,
	"memcache/delete lock": memcacheDeleteLock,
}

func item(key, value string) *memcache.Item {
	return &memcache.Item{Key: key, Value: []byte(value)}
}

// setRequest is a MemcacheSetRequest of one item.
func setRequest(space, key, value string, policy uint64, more ...func(message) message) message {
	inner := message{}.bytes(2, key).bytes(3, value).varint(5, policy)
	for _, add := range more {
		inner = add(inner)
	}
	return message{}.group(1, inner).bytes(7, space)
}

func (s *script) memcacheGet(key string) {
	s.note("get %s: %s", brief(key), itemText(memcache.Get(s.ctx(), key)))
}

func (s *script) memcacheSet(key, value string) {
	s.ask(fmt.Sprintf("set %s to %s", brief(key), brief(value)), memcache.Set(s.ctx(), item(key, value)))
}

func (s *script) raw(what, service, method string, request message) {
	response, err := call(s.ctx(), service, method, request)
	if err != nil {
		s.ask(what, err)
		return
	}
	s.note("%s: %s", what, response.text())
}

func memcachePolicies(s *script) {
	s.memcacheGet("k")
	s.raw("replace absent", "memcache", "Set", setRequest(s.space, "k", "1", policyReplace))
	s.ask("add absent", memcache.Add(s.ctx(), &memcache.Item{Key: "k", Value: []byte("2"), Flags: 7}))
	s.memcacheGet("k")
	s.ask("add present", memcache.Add(s.ctx(), item("k", "3")))
	s.memcacheGet("k")
	s.raw("replace present", "memcache", "Set", setRequest(s.space, "k", "4", policyReplace))
	s.memcacheGet("k")
	s.ask("set", memcache.Set(s.ctx(), &memcache.Item{Key: "k", Value: []byte("5"), Flags: 1<<32 - 1}))
	s.memcacheGet("k")
	s.ask("set empty value", memcache.Set(s.ctx(), item("k", "")))
	s.memcacheGet("k")
	s.raw("unknown policy 9", "memcache", "Set", setRequest(s.space, "k", "6", 9))
	s.memcacheGet("k")
	s.raw("no policy", "memcache", "Set", message{}.group(1, message{}.bytes(2, "k").bytes(3, "7")).bytes(7, s.space))
	s.memcacheGet("k")
}

func memcacheCAS(s *script) {
	get := func() *memcache.Item {
		item, err := memcache.Get(s.ctx(), "k")
		if err != nil {
			s.ask("get for cas", err)
			return &memcache.Item{Key: "k"}
		}
		return item
	}
	swap := func(what string, item *memcache.Item, value string) {
		item.Value = []byte(value)
		s.ask(what, memcache.CompareAndSwap(s.ctx(), item))
		s.memcacheGet("k")
	}
	s.memcacheSet("k", "1")
	first := get()
	second := get()
	swap("cas", first, "2")
	swap("cas with the id of before", second, "3")
	swap("the same id once more", first, "4")

	held := get()
	s.memcacheSet("k", "2") // the value that is there already
	swap("cas after set of the same value", held, "5")

	held = get()
	s.ask("delete", memcache.Delete(s.ctx(), "k"))
	swap("cas after delete", held, "6")
	s.memcacheSet("k", "7")
	swap("cas after delete and set", held, "8")

	held = get()
	s.ask("flush", memcache.Flush(s.ctx()))
	swap("cas after flush", held, "9")
	s.memcacheSet("k", "10")
	swap("cas after flush and set", held, "11")

	s.memcacheSet("k", "1")
	held = get()
	n, err := memcache.Increment(s.ctx(), "k", 4, 0)
	s.note("increment: %d %s", n, errorText(err))
	swap("cas after increment", held, "12")

	s.ask("delete", memcache.Delete(s.ctx(), "fresh"))
	s.ask("cas of an item never got", memcache.CompareAndSwap(s.ctx(), item("fresh", "1")))
	s.ask("cas of an item never got, present", memcache.CompareAndSwap(s.ctx(), item("k", "1")))
	s.raw("cas id 0 given, present", "memcache", "Set", setRequest(s.space, "k", "1", policyCAS,
		func(m message) message { return m.fixed64(8, 0).varint(9, 1) }))
	s.raw("set with a stale cas id", "memcache", "Set", setRequest(s.space, "k", "set", policySet,
		func(m message) message { return m.fixed64(8, 1).varint(9, 1) }))
	s.memcacheGet("k")

	held = get()
	held.Flags = 3
	swap("cas changes flags", held, "flags")
	held = get()
	s.memcacheSet("other", "1")
	held.Key = "other"
	s.ask("cas under another key", memcache.CompareAndSwap(s.ctx(), held))
}

func memcacheIncrement(s *script) {
	increment := func(key string, delta int64, initial uint64) {
		n, err := memcache.Increment(s.ctx(), key, delta, initial)
		s.note("increment %s by %d from %d: %d %s", key, delta, initial, n, errorText(err))
		s.memcacheGet(key)
	}
	existing := func(key string, delta int64) {
		n, err := memcache.IncrementExisting(s.ctx(), key, delta)
		s.note("increment existing %s by %d: %d %s", key, delta, n, errorText(err))
	}
	increment("new", 1, 10)
	increment("new", 0, 10)
	increment("new", -5, 10)
	increment("new", -100, 10)
	increment("down", -3, 10)
	existing("absent", 1)
	existing("new", 7)
	increment("big", 1, 1<<64-1)
	increment("big2", 2, 1<<64-1)
	increment("big3", 1<<63-1, 1<<63)
	for _, value := range []string{"", "x", "-1", " 5", "5 ", "5.0", "007", "+3", "1_000", "0x10", "18446744073709551615",
		"18446744073709551616", "99999999999999999999999", "\t8\n", "٣", "5\x00"} {
		s.ask("set", memcache.Set(s.ctx(), &memcache.Item{Key: "n", Value: []byte(value), Flags: 9}))
		existing("n", 1)
		s.memcacheGet("n")
	}
	s.raw("batch", "memcache", "BatchIncrement", message{}.bytes(1, s.space).
		bytes(2, string(message{}.bytes(1, "b1").varint(2, 5).varint(5, 1))).
		bytes(2, string(message{}.bytes(1, "b2").varint(2, 5))).
		bytes(2, string(message{}.bytes(1, "n").varint(2, 5))).
		bytes(2, string(message{}.bytes(1, "b1").varint(2, 2).varint(3, 2))))
	s.raw("defaults", "memcache", "Increment", message{}.bytes(1, "b1").bytes(4, s.space))
	s.raw("initial flags", "memcache", "Increment", message{}.bytes(1, "f").bytes(4, s.space).varint(5, 3).fixed32(6, 77))
	s.memcacheGet("f")
	s.ask("add after increment", memcache.Add(s.ctx(), item("f", "taken?")))
	s.ask("delete after increment", memcache.Delete(s.ctx(), "f"))
	s.memcacheGet("f")
}

func memcacheDelete(s *script) {
	s.ask("delete absent", memcache.Delete(s.ctx(), "k"))
	s.memcacheSet("k", "1")
	s.memcacheSet("k2", "1")
	s.ask("delete several", memcache.DeleteMulti(s.ctx(), []string{"k", "none", "k2", "k"}))
	s.memcacheGet("k")
	s.memcacheGet("k2")
	s.ask("delete none", memcache.DeleteMulti(s.ctx(), nil))
	s.ask("delete absent again", memcache.DeleteMulti(s.ctx(), []string{"k", "k2"}))
}

// A delete with a time keeps the key from being added for that long; the Go
// client cannot ask for it.
func memcacheDeleteLock(s *script) {
	s.memcacheSet("k", "1")
	s.raw("delete for 100 s", "memcache", "Delete", message{}.group(1, message{}.bytes(2, "k").fixed32(3, 100)).bytes(4, s.space))
	s.memcacheGet("k")
	s.ask("add", memcache.Add(s.ctx(), item("k", "2")))
	s.memcacheGet("k")
	s.raw("replace", "memcache", "Set", setRequest(s.space, "k", "3", policyReplace))
	s.memcacheGet("k")
	s.ask("set", memcache.Set(s.ctx(), item("k", "4")))
	s.memcacheGet("k")
}

// memcacheExpiry notes what items do before and after their end. Items of a
// second's life may end too early on a busy machine: then it begins again, and
// they live longer.
func memcacheExpiry(s *script) {
	before := len(s.notes)
	for life := time.Second; !memcacheExpiryWithin(s, life); life *= 2 {
		s.notes = s.notes[:before]
		if err := memcache.Flush(s.ctx()); err != nil {
			s.ask("flush", err)
			return
		}
	}
}

// memcacheExpiryWithin reports whether it was quick enough for items that live
// so long, which the notes call a second.
func memcacheExpiryWithin(s *script, life time.Duration) (quick bool) {
	set := func(key string, expiration time.Duration) {
		item := &memcache.Item{Key: key, Value: []byte("v"), Expiration: expiration}
		if expiration == time.Second {
			item.Expiration = life
		}
		s.ask(fmt.Sprintf("set %s for %s", key, expiration), memcache.Set(s.ctx(), item))
	}
	began := time.Now()
	absolute := func(key string, at time.Time) {
		s.raw("set "+key+" until a time", "memcache", "Set", setRequest(s.space, key, "v", policySet,
			func(m message) message { return m.fixed32(6, uint32(at.Unix())) }))
	}
	set("at once", time.Millisecond)
	set("negative", -time.Second)
	set("second", time.Second)
	set("counter", time.Second)
	set("replaced", time.Second)
	set("hour", time.Hour)
	set("30 days", 30*24*time.Hour)
	set("31 days", 31*24*time.Hour)
	set("40 years", 40*365*24*time.Hour)
	absolute("in an hour", time.Now().Add(time.Hour))
	absolute("a minute ago", time.Now().Add(-time.Minute))
	for _, key := range []string{"at once", "negative", "second", "hour", "30 days", "31 days", "40 years", "in an hour", "a minute ago"} {
		s.memcacheGet(key)
	}
	s.ask("add over expired", memcache.Add(s.ctx(), item("at once", "2")))
	s.ask("delete expired", memcache.Delete(s.ctx(), "negative"))
	held, err := memcache.Get(s.ctx(), "second")
	s.ask("get for cas", err)
	s.memcacheSet("replaced", "forever")
	n, err := memcache.IncrementExisting(s.ctx(), "hour", 1)
	s.note("increment: %d %s", n, errorText(err))
	s.ask("set", memcache.Set(s.ctx(), &memcache.Item{Key: "counter", Value: []byte("5"), Expiration: life}))
	n, err = memcache.IncrementExisting(s.ctx(), "counter", 1)
	s.note("increment keeps expiry: %d %s", n, errorText(err))
	if time.Since(began) >= life {
		return false
	}
	time.Sleep(life + 100*time.Millisecond)
	for _, key := range []string{"second", "counter", "replaced", "hour"} {
		s.memcacheGet(key)
	}
	if held != nil {
		s.ask("cas after expiry", memcache.CompareAndSwap(s.ctx(), held))
	}
	n, err = memcache.Increment(s.ctx(), "counter", 1, 100)
	s.note("increment expired: %d %s", n, errorText(err))
	s.raw("replace expired", "memcache", "Set", setRequest(s.space, "second", "v", policyReplace))
	s.ask("delete expired", memcache.Delete(s.ctx(), "second"))
	return true
}

// fromNow returns a time in whole minutes from now.
func fromNow(t *time.Time) string {
	if t == nil {
		return "none"
	}
	return time.Until(*t).Round(time.Minute).String()
}

func memcachePeek(s *script) {
	peek := func(key string) {
		item, err := memcache.Peek(s.ctx(), key)
		if err != nil {
			s.ask("peek "+key, err)
			return
		}
		s.note("peek %s: %s, expires in %s, accessed %s ago", key, itemText(item, nil),
			fromNow(item.Timestamps.Expiration), fromNow(item.Timestamps.LastAccess))
	}
	peek("k")
	s.memcacheSet("k", "1")
	peek("k")
	s.ask("set", memcache.Set(s.ctx(), &memcache.Item{Key: "e", Value: []byte("1"), Expiration: time.Hour}))
	peek("e")
	got, err := memcache.Get(s.ctx(), "e")
	if err != nil {
		s.ask("get", err)
	} else {
		s.note("get has no timestamps: %v %v", got.Timestamps.Expiration == nil, got.Timestamps.LastAccess == nil)
	}
	item, err := memcache.Peek(s.ctx(), "k")
	if err == nil {
		item.Value = []byte("2")
		s.ask("cas after peek", memcache.CompareAndSwap(s.ctx(), item))
	}
	peek("k")
	s.raw("peek on the wire, delete lock", "memcache", "Delete", message{}.group(1, message{}.bytes(2, "k").fixed32(3, 3600)).bytes(4, s.space))
	response, err := call(s.ctx(), "memcache", "Get", message{}.bytes(1, "k").bytes(2, s.space).varint(6, 1))
	s.note("peek locked: %s %s", response.text(8), errorText(err))
}

func memcacheNamespaces(s *script) {
	other := s.space + "-other"
	s.memcacheSet("k", "1")
	s.note("other namespace: %s", itemText(memcache.Get(s.side.context(other), "k")))
	s.note("no namespace: %s", itemText(memcache.Get(s.side.context(), "k")))
	s.ask("add elsewhere", memcache.Add(s.side.context(other), item("k", "2")))
	s.ask("delete nowhere", memcache.Delete(s.side.context(), "k"))
	s.memcacheGet("k")
	s.ask("flush in another namespace", memcache.Flush(s.side.context(other)))
	s.memcacheGet("k")
}

func memcacheLimits(s *script) {
	for _, key := range []string{"", strings.Repeat("k", 250), strings.Repeat("k", 251), strings.Repeat("k", 1000), "a b", "a\x00b", "a\nb", "ключ", "\xff\xfe"} {
		s.memcacheSet(key, "1")
		s.memcacheGet(key)
		s.ask("delete", memcache.Delete(s.ctx(), key))
		n, err := memcache.Increment(s.ctx(), key, 1, 0)
		s.note("increment: %d %s", n, errorText(err))
	}
	for _, size := range []int{1 << 20, 1<<20 - 250 - 73, 1<<20 - 250 - 73 + 1, 1<<20 + 1} {
		s.ask("delete", memcache.Delete(s.ctx(), "k"))
		s.memcacheSet("k", strings.Repeat("v", size))
		s.memcacheGet("k")
		s.ask("add", memcache.Add(s.ctx(), item("k", strings.Repeat("w", size))))
		s.memcacheGet("k")
	}
	s.memcacheSet("small", "1")
	s.ask("small and too large together", memcache.SetMulti(s.ctx(), []*memcache.Item{
		item("s1", "1"), item("large", strings.Repeat("v", 1<<20+1)), item("s2", "1")}))
	s.memcacheGet("s1")
	s.memcacheGet("s2")
	s.memcacheGet("large")
	s.memcacheSet("small", strings.Repeat("v", 1<<20+1))
	s.memcacheGet("small")
}

func memcacheStats(s *script) {
	stats := func(what string) {
		got, err := memcache.Stats(s.ctx())
		if err != nil {
			s.ask("stats "+what, err)
			return
		}
		s.note("stats %s: hits %d misses %d byte hits %d items %d bytes %d", what, got.Hits, got.Misses, got.ByteHits, got.Items, got.Bytes)
	}
	s.ask("flush", memcache.Flush(s.ctx()))
	stats("after flush")
	s.memcacheSet("key", "value")
	s.memcacheSet("key2", "value2")
	stats("after two sets")
	s.memcacheGet("key")
	s.memcacheGet("none")
	_, err := memcache.GetMulti(s.ctx(), []string{"key", "key2", "none", "key"})
	s.ask("get several", err)
	stats("after gets")
	_, err = memcache.Peek(s.ctx(), "key")
	s.ask("peek", err)
	stats("after peek")
	s.memcacheSet("key", "longer value")
	stats("after overwriting")
	s.ask("delete", memcache.Delete(s.ctx(), "key"))
	stats("after delete")
	n, err := memcache.IncrementExisting(s.ctx(), "none", 1)
	s.note("increment: %d %s", n, errorText(err))
	stats("after failed increment")
	s.ask("add", memcache.Add(s.ctx(), item("key2", "x")))
	stats("after failed add")
	s.ask("set", memcache.Set(s.ctx(), &memcache.Item{Key: "e", Value: []byte("1"), Expiration: time.Millisecond}))
	s.memcacheGet("e")
	stats("after an expired get")
	s.ask("flush", memcache.Flush(s.ctx()))
	stats("after flush")
}

func memcacheMulti(s *script) {
	s.ask("set", memcache.SetMulti(s.ctx(), []*memcache.Item{item("a", "1"), item("b", "2"), item("a", "3")}))
	s.ask("add", memcache.AddMulti(s.ctx(), []*memcache.Item{item("a", "4"), item("c", "5"), item("c", "6")}))
	got, err := memcache.GetMulti(s.ctx(), []string{"a", "b", "c", "d", "a"})
	s.ask("get", err)
	for _, key := range sortedNames(got) {
		s.note("%s: %s", key, itemText(got[key], nil))
	}
	if a, b, c := got["a"], got["b"], got["c"]; a != nil && b != nil && c != nil {
		s.memcacheSet("b", "changed")
		s.ask("delete", memcache.Delete(s.ctx(), "c"))
		a.Value, b.Value, c.Value = []byte("x"), []byte("y"), []byte("z")
		s.ask("cas", memcache.CompareAndSwapMulti(s.ctx(), []*memcache.Item{a, b, c, a}))
	}
	for _, key := range []string{"a", "b", "c"} {
		s.memcacheGet(key)
	}
	s.ask("set nothing", memcache.SetMulti(s.ctx(), nil))
	many := make([]*memcache.Item, 500)
	for i := range many {
		many[i] = item(fmt.Sprint("many", i), "1")
	}
	s.ask("set many", memcache.SetMulti(s.ctx(), many))
}

func memcacheWire(s *script) {
	s.memcacheSet("k", "1")
	hide := func(what, method string, request message) {
		response, err := call(s.ctx(), "memcache", method, request)
		if err != nil {
			s.ask(what, err)
			return
		}
		s.note("%s: %s", what, response.text(5)) // 5 is the CAS id
	}
	hide("get", "Get", message{}.bytes(1, "k").bytes(2, s.space))
	hide("get for cas", "Get", message{}.bytes(1, "k").bytes(2, s.space).varint(4, 1))
	hide("get nothing", "Get", message{}.bytes(2, s.space))
	hide("get absent", "Get", message{}.bytes(1, "none").bytes(2, s.space))
	hide("get without namespace", "Get", message{}.bytes(1, "k"))
	hide("set", "Set", setRequest(s.space, "k", "2", policySet))
	hide("set nothing", "Set", message{}.bytes(7, s.space))
	hide("delete", "Delete", message{}.group(1, message{}.bytes(2, "k")).bytes(4, s.space))
	hide("delete nothing", "Delete", message{}.bytes(4, s.space))
	hide("flush", "FlushAll", message{})
	hide("unknown method", "Touch", message{})
	hide("set without value", "Set", message{}.group(1, message{}.bytes(2, "k")).bytes(7, s.space))
	hide("increment without key", "Increment", message{}.bytes(4, s.space).varint(2, 1))
	hide("not a message", "Get", message("\xff\xff\xff"))
	hide("cut off", "Set", setRequest(s.space, "k", "2", policySet)[:4])
	response, err := call(s.ctx(), "nothing", "Get", message{})
	s.note("unknown service: %s %s", response.text(), errorText(err))
	response, err = call(s.ctx(), "", "", message{})
	s.note("no service: %s %s", response.text(), errorText(err))
	done, cancel := context.WithCancel(s.ctx())
	cancel()
	s.ask("context ended", memcache.Set(done, item("k", "1")))
}
