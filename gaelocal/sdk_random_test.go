package gaelocal_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"pgregory.net/rapid"
)

var randomFor = flag.Duration("sdk.random", 2*time.Second, "how long TestRandomCallsAnswerAlike begins new streams of calls; 0: -rapid.checks of them, however long they take")

// randomSeed makes every run of the tests one of the same streams: what a new
// one may find is to be looked for on purpose.
var randomSeed = flag.Uint64("sdk.random.seed", 1, "the seed of TestRandomCallsAnswerAlike, unless -rapid.seed names one; 0: a new one")

// A stream is a sequence of calls that both servers get in turn. Its state is
// what an app would hold: items for compare-and-swap, open transactions, ids.
type stream struct {
	google, local *caller
	calls         *atomic.Int64
	failed        *atomic.Bool // a stream has failed and is being made smaller
}

// A caller is one server's half of a stream.
type caller struct {
	*script
	items map[string]*memcache.Item
	open  map[string]*transaction
	ids   []*datastore.Key // allocated, so not the same on both servers
}

func newCaller(side side, space string) *caller {
	return &caller{newScript(side, space), map[string]*memcache.Item{}, map[string]*transaction{}, nil}
}

// call makes the same call on both servers and compares what they note.
func (s *stream) call(t *rapid.T, what string, run func(*caller)) {
	for _, c := range []*caller{s.google, s.local} {
		c.notes = nil
		run(c)
	}
	s.calls.Add(1)
	before := t.Failed()
	compare(t, "gaelocal", s.local.notes, "google", s.google.notes)
	if t.Failed() && !before {
		s.failed.Store(true)
		t.Fatalf("after: %s", what)
	}
}

func (s *stream) close() {
	for _, c := range []*caller{s.google, s.local} {
		for name, open := range c.open {
			_ = open.rollback() // its outcome was compared before, or does not matter any more
			delete(c.open, name)
		}
	}
}

var streams atomic.Int64 // each has a namespace of its own

func TestRandomCallsAnswerAlike(t *testing.T) {
	googleSide, localSide := google(t), local(t)
	if f := flag.Lookup("rapid.seed"); f.Value.String() == "0" {
		if err := f.Value.Set(fmt.Sprint(*randomSeed)); err != nil {
			t.Fatal(err)
		}
	}
	var calls atomic.Int64
	var failed atomic.Bool
	began := time.Now()
	deadline := began.Add(*randomFor)
	rapid.Check(t, func(t *rapid.T) {
		if *randomFor > 0 && time.Now().After(deadline) && !failed.Load() {
			return
		}
		space := fmt.Sprintf("r%d", streams.Add(1))
		s := &stream{newCaller(googleSide, space), newCaller(localSide, space), &calls, &failed}
		defer s.close()
		s.call(t, "flush", func(c *caller) { c.ask("flush", memcache.Flush(c.ctx())) })
		t.Repeat(s.actions())
	})
	t.Logf("%d calls compared in %d streams, %s", calls.Load(), streams.Load(), time.Since(began).Round(time.Millisecond))
}

func (s *stream) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"memcache get":       s.memcacheGet,
		"memcache set":       s.memcacheSet,
		"memcache swap":      s.memcacheSwap,
		"memcache increment": s.memcacheIncrement,
		"memcache delete":    s.memcacheDelete,
		"memcache stats":     s.memcacheStats,
		"put":                s.put,
		"put more":           s.put,
		"put several":        s.putSeveral,
		"put incomplete":     s.putIncomplete,
		"get":                s.get,
		"delete":             s.delete,
		"begin":              s.begin,
		"in transaction":     s.inTransaction,
		"in transaction too": s.inTransaction,
		"end":                s.end,
		"query":              s.query,
		"query more":         s.query,
		"query most":         s.query,
		"pages":              s.pages,
	}
}

func oneOf[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

var (
	cacheKeys   = []string{"a", "b", "c", "d"}
	cacheValues = []string{"", "1", "41", "x", "18446744073709551615", "long value of some bytes"}
)

func drawItem(t *rapid.T) *memcache.Item {
	return &memcache.Item{
		Key:        oneOf(t, "key", cacheKeys...),
		Value:      []byte(oneOf(t, "value", cacheValues...)),
		Flags:      oneOf(t, "flags", uint32(0), 1, 7, math.MaxUint32),
		Expiration: oneOf(t, "expiration", 0, 0, time.Hour, 31*24*time.Hour, time.Millisecond, 40*365*24*time.Hour),
	}
}

func copied(item *memcache.Item) *memcache.Item { c := *item; return &c }

func (s *stream) memcacheGet(t *rapid.T) {
	keys := rapid.SliceOfN(rapid.SampledFrom(cacheKeys), 1, 3).Draw(t, "keys")
	peek := rapid.Bool().Draw(t, "peek")
	s.call(t, fmt.Sprint("get ", keys), func(c *caller) {
		read := memcache.GetMulti
		if peek {
			read = memcache.PeekMulti
		}
		got, err := read(c.ctx(), keys)
		c.ask(fmt.Sprint("get ", keys), err)
		for _, key := range sortedNames(got) {
			c.items[key] = got[key]
			c.note("%s: %s, expires in %s, accessed %s ago", key, itemText(got[key], nil),
				fromNow(got[key].Timestamps.Expiration), fromNow(got[key].Timestamps.LastAccess))
		}
	})
}

func (s *stream) memcacheSet(t *rapid.T) {
	item := drawItem(t)
	switch policy := oneOf(t, "policy", policySet, policySet, policyAdd, policyReplace); policy {
	case policySet:
		s.call(t, "set", func(c *caller) {
			c.ask("set "+item.Key, memcache.Set(c.ctx(), copied(item)))
		})
	case policyAdd:
		s.call(t, "add", func(c *caller) {
			c.ask("add "+item.Key, memcache.Add(c.ctx(), copied(item)))
		})
	case policyReplace:
		s.call(t, "replace", func(c *caller) {
			c.raw("replace "+item.Key, "memcache", "Set", setRequest(c.space, item.Key, string(item.Value), policyReplace))
		})
	}
}

func (s *stream) memcacheSwap(t *rapid.T) {
	item := drawItem(t)
	s.call(t, "compare and swap", func(c *caller) {
		held := c.items[item.Key]
		if held == nil {
			return
		}
		held.Value, held.Flags, held.Expiration = item.Value, item.Flags, item.Expiration
		c.ask("compare and swap "+item.Key, memcache.CompareAndSwap(c.ctx(), held))
	})
}

func (s *stream) memcacheIncrement(t *rapid.T) {
	key, delta := oneOf(t, "key", cacheKeys...), oneOf(t, "delta", int64(0), 1, -1, 100, -100, math.MaxInt64, math.MinInt64+1)
	initial, existing := oneOf(t, "initial", uint64(0), 5, math.MaxUint64), rapid.Bool().Draw(t, "existing")
	s.call(t, "increment", func(c *caller) {
		if existing {
			n, err := memcache.IncrementExisting(c.ctx(), key, delta)
			c.note("increment existing %s by %d: %d %s", key, delta, n, errorText(err))
			return
		}
		n, err := memcache.Increment(c.ctx(), key, delta, initial)
		c.note("increment %s by %d from %d: %d %s", key, delta, initial, n, errorText(err))
	})
}

func (s *stream) memcacheDelete(t *rapid.T) {
	keys := rapid.SliceOfN(rapid.SampledFrom(cacheKeys), 1, 2).Draw(t, "keys")
	flush := oneOf(t, "flush", false, false, false, true)
	s.call(t, "delete or flush", func(c *caller) {
		if flush {
			c.ask("flush", memcache.Flush(c.ctx()))
			return
		}
		c.ask(fmt.Sprint("delete ", keys), memcache.DeleteMulti(c.ctx(), keys))
	})
}

// Counters of hits and misses; Google's server leaves out of the items and
// bytes what an increment created.
func (s *stream) memcacheStats(t *rapid.T) {
	s.call(t, "stats", func(c *caller) {
		got, err := memcache.Stats(c.ctx())
		if err != nil {
			c.ask("stats", err)
			return
		}
		c.note("stats: hits %d misses %d byte hits %d", got.Hits, got.Misses, got.ByteHits)
	})
}

// A path is a key before it has a namespace: kinds and names or ids from the
// root.
type path []struct {
	kind string
	name string
	id   int64
}

var paths = []path{
	{{"A", "x", 0}},
	{{"A", "y", 0}},
	{{"A", "", 1}},
	{{"A", "", 2}},
	{{"A", "", -3}},
	{{"B", "x", 0}},
	{{"B", "long name of a key", 0}},
	{{"A", "x", 0}, {"B", "x", 0}},
	{{"A", "x", 0}, {"A", "z", 0}},
	{{"A", "x", 0}, {"A", "z", 0}, {"B", "", 7}},
	{{"A", "", 1}, {"B", "x", 0}},
	{{"A", "xx", 0}, {"B", "x", 0}},
}

func (c *caller) path(p path) *datastore.Key {
	var key *datastore.Key
	for _, element := range p {
		key = c.key(element.kind, element.name, element.id, key)
	}
	return key
}

// keyValue stands for a key until it is known in which namespace.
type keyValue struct{ path path }

var propertyValues = []any{nil, int64(0), int64(1), int64(2), int64(-7), int64(math.MaxInt64), true, false, "", "a", "ab", "b", "ü",
	datastore.ByteString("ab"), datastore.ByteString("\xff\x00"), 0.0, 1.0, -2.5, math.Inf(1), time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC),
	appengine.GeoPoint{Lat: 1, Lng: 2}, appengine.GeoPoint{Lat: 1, Lng: -2}, appengine.BlobKey("ab"), keyValue{paths[1]}, keyValue{paths[7]}}

// Names that YAML does not take for booleans: Google's server writes an
// index.yaml that it cannot read again when a property is called n or y.
var propertyNames = []string{"p", "q", "r"}

type properties []datastore.Property

func drawProperties(t *rapid.T) properties {
	var drawn properties
	for _, name := range propertyNames {
		count := oneOf(t, "values of "+name, 0, 1, 1, 1, 2, 3)
		noIndex := oneOf(t, "noindex", false, false, false, true)
		for i := 0; i < count; i++ {
			value := oneOf(t, "value", propertyValues...)
			drawn = append(drawn, datastore.Property{Name: name, Value: value, NoIndex: noIndex, Multiple: count > 1})
		}
	}
	return drawn
}

func (c *caller) entity(from properties) *datastore.PropertyList {
	list := make(datastore.PropertyList, len(from))
	for i, p := range from {
		p.Value = c.value(p.Value)
		list[i] = p
	}
	return &list
}

func (c *caller) value(value any) any {
	if key, ok := value.(keyValue); ok {
		return c.path(key.path)
	}
	return value
}

func (s *stream) put(t *rapid.T) {
	path, properties := oneOf(t, "key", paths...), drawProperties(t)
	s.call(t, "put", func(c *caller) {
		got, err := datastore.Put(c.ctx(), c.path(path), c.entity(properties))
		c.note("put %s %s: %s", keyText(c.path(path)), entityText(*c.entity(properties)), putText(got, err))
	})
}

func (s *stream) putSeveral(t *rapid.T) {
	chosen := rapid.SliceOfN(rapid.SampledFrom(paths), 1, 4).Draw(t, "keys")
	var all []properties
	for range chosen {
		all = append(all, drawProperties(t))
	}
	s.call(t, "put several", func(c *caller) {
		var keys []*datastore.Key
		var lists []datastore.PropertyList
		for i, path := range chosen {
			keys, lists = append(keys, c.path(path)), append(lists, *c.entity(all[i]))
		}
		got, err := datastore.PutMulti(c.ctx(), keys, lists)
		c.note("put %s: %s %s", keysText(keys), keysText(got), errorText(err))
	})
}

func (s *stream) putIncomplete(t *rapid.T) {
	properties, below := drawProperties(t), rapid.Bool().Draw(t, "below")
	parent := oneOf(t, "parent", paths...)
	s.call(t, "put incomplete", func(c *caller) {
		// In a namespace of their own: the order of allocated ids is nobody's
		// promise.
		beside := newCaller(c.side, c.space+"-ids")
		var above *datastore.Key
		if below {
			above = beside.path(parent)
		}
		got, err := datastore.Put(c.ctx(), beside.key("A", "", 0, above), beside.entity(properties))
		c.note("put incomplete: %s", idText(got, err))
		if err == nil {
			c.ids = append(c.ids, got)
		}
	})
}

func (s *stream) get(t *rapid.T) {
	chosen := rapid.SliceOfN(rapid.SampledFrom(paths), 1, 4).Draw(t, "keys")
	auto := oneOf(t, "allocated", -1, 0, 1)
	s.call(t, "get", func(c *caller) {
		if auto >= 0 && auto < len(c.ids) {
			c.note("get allocated %d: %s", auto, getText(c.ctx(), c.ids[auto]))
			return
		}
		c.getSeveral(c.ctx(), chosen)
	})
}

func (c *caller) getSeveral(ctx context.Context, chosen []path) {
	var keys []*datastore.Key
	for _, path := range chosen {
		keys = append(keys, c.path(path))
	}
	got := make([]datastore.PropertyList, len(keys))
	err := datastore.GetMulti(ctx, keys, got)
	c.ask("get "+keysText(keys), err)
	for _, properties := range got {
		c.note("%s", entityText(properties))
	}
}

func (s *stream) delete(t *rapid.T) {
	chosen := rapid.SliceOfN(rapid.SampledFrom(paths), 1, 2).Draw(t, "keys")
	s.call(t, "delete", func(c *caller) {
		var keys []*datastore.Key
		for _, path := range chosen {
			keys = append(keys, c.path(path))
		}
		c.ask("delete "+keysText(keys), datastore.DeleteMulti(c.ctx(), keys))
	})
}

var transactionNames = []string{"t", "u", "v"}

func (s *stream) begin(t *rapid.T) {
	name := oneOf(t, "transaction", transactionNames...)
	options := datastore.TransactionOptions{XG: rapid.Bool().Draw(t, "cross group"), ReadOnly: oneOf(t, "read only", false, false, false, true)}
	if s.google.open[name] != nil {
		return
	}
	s.call(t, "begin", func(c *caller) {
		options := options
		c.open[name] = c.begin(&options)
		c.note("begin %s %+v", name, options)
	})
}

func (s *stream) inTransaction(t *rapid.T) {
	name := oneOf(t, "transaction", transactionNames...)
	what := oneOf(t, "what", "get", "get", "put", "put", "delete", "query")
	chosen := rapid.SliceOfN(rapid.SampledFrom(paths), 1, 2).Draw(t, "keys")
	properties := drawProperties(t)
	query := drawQuery(t, true)
	if s.google.open[name] == nil {
		return
	}
	s.call(t, name+" "+what, func(c *caller) {
		c.open[name].do(func(tx context.Context) {
			switch what {
			case "get":
				c.getSeveral(tx, chosen)
			case "put":
				got, err := datastore.Put(tx, c.path(chosen[0]), c.entity(properties))
				c.note("put %s %s: %s", keyText(c.path(chosen[0])), entityText(*c.entity(properties)), putText(got, err))
			case "delete":
				c.ask("delete "+keyText(c.path(chosen[0])), datastore.Delete(tx, c.path(chosen[0])))
			case "query":
				c.run(tx, query)
			}
		})
	})
}

func (s *stream) end(t *rapid.T) {
	name := oneOf(t, "transaction", transactionNames...)
	rollback := oneOf(t, "rollback", false, false, false, true)
	if s.google.open[name] == nil {
		return
	}
	s.call(t, name+" ends", func(c *caller) {
		open := c.open[name]
		delete(c.open, name)
		if rollback {
			c.ask(name+" rolls back", open.rollback())
			return
		}
		c.ask(name+" commits", open.commit())
	})
}

// A question is a query before it has a namespace.
type question struct {
	kind     string
	ancestor path
	filters  []questionFilter
	orders   []string
	project  []string
	distinct bool
	keysOnly bool
	limit    int
	offset   int
	batch    int
}

type questionFilter struct {
	text  string
	value any
}

func (q question) String() string {
	return fmt.Sprintf("kind %q ancestor %v filters %v orders %v project %v distinct %v keys only %v limit %d offset %d batch %d",
		q.kind, q.ancestor, q.filters, q.orders, q.project, q.distinct, q.keysOnly, q.limit, q.offset, q.batch)
}

// prefix marks the notes about projections, some of which Google's server
// cannot answer.
func (q question) prefix() string {
	if q.project != nil {
		return "projection: "
	}
	return ""
}

// filterValues are the values that the client can filter by.
var filterValues = []any{nil, int64(0), int64(1), int64(-7), int64(math.MaxInt64), true, false, "", "a", "ab", "ü", 0.0, 1.0, -2.5,
	time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC), appengine.GeoPoint{Lat: 1, Lng: 2}, appengine.BlobKey("ab"), keyValue{paths[1]}, keyValue{paths[7]}}

// ranges are without null: Google's server takes a null that bounds a range for
// no bound at all.
var ranges = filterValues[1:]

func drawQuery(t *rapid.T, ancestor bool) question {
	q := question{kind: oneOf(t, "kind", "A", "A", "A", "B", ""), limit: -1}
	if ancestor || oneOf(t, "ancestor", false, false, true) {
		q.ancestor = oneOf(t, "ancestor key", paths...)
	}
	inequality := oneOf(t, "inequality on", append([]string{"", "__key__"}, propertyNames...)...)
	for i := oneOf(t, "filters", 0, 0, 1, 1, 2); i > 0; i-- {
		name := oneOf(t, "filter on", propertyNames...)
		value := oneOf(t, "value", filterValues...)
		if value == nil && name == inequality {
			continue // see ranges
		}
		q.filters = append(q.filters, questionFilter{name + " =", value})
	}
	if inequality != "" {
		for i := oneOf(t, "inequalities", 0, 1, 1, 2); i > 0; i-- {
			value := oneOf(t, "value", ranges...)
			if inequality == "__key__" {
				value = keyValue{oneOf(t, "key", paths...)}
			}
			q.filters = append(q.filters, questionFilter{inequality + oneOf(t, "operator", " <", " <=", " >", " >=", " ="), value})
		}
	}
	if oneOf(t, "ordered", false, true) {
		if inequality != "" && oneOf(t, "in order", true, true, true, true, false) {
			q.orders = append(q.orders, oneOf(t, "direction", "", "-")+inequality)
		}
		for i := oneOf(t, "orders", 0, 1, 1, 2); i > 0; i-- {
			q.orders = append(q.orders, oneOf(t, "direction", "", "-")+oneOf(t, "order by", "p", "q", "r", "__key__"))
		}
	}
	switch oneOf(t, "result", "entities", "entities", "keys", "projection") {
	case "keys":
		q.keysOnly = true
	case "projection":
		q.project = rapid.SliceOfNDistinct(rapid.SampledFrom(propertyNames), 1, 2, func(name string) string { return name }).Draw(t, "project")
		q.distinct = rapid.Bool().Draw(t, "distinct")
	}
	q.limit = oneOf(t, "limit", -1, -1, -1, 0, 1, 3)
	q.offset = oneOf(t, "offset", 0, 0, 0, 1, 4)
	q.batch = oneOf(t, "batch", 0, 0, 1, 3)
	return q
}

func (c *caller) build(q question) *datastore.Query {
	query := datastore.NewQuery(q.kind).Limit(q.limit).Offset(q.offset)
	if q.ancestor != nil {
		query = query.Ancestor(c.path(q.ancestor))
	}
	for _, f := range q.filters {
		query = query.Filter(f.text, c.value(f.value))
	}
	for _, order := range q.orders {
		query = query.Order(order)
	}
	if q.project != nil {
		query = query.Project(q.project...)
		if q.distinct {
			query = query.Distinct()
		}
	}
	if q.keysOnly {
		query = query.KeysOnly()
	}
	if q.batch > 0 {
		query = query.BatchSize(q.batch)
	}
	return query
}

func (c *caller) run(ctx context.Context, q question) {
	var got []datastore.PropertyList
	query := c.build(q)
	keys, err := query.GetAll(ctx, &got)
	c.note("%s%d results: %s", q.prefix(), len(keys), errorText(err))
	for i, key := range keys {
		text := keyText(key)
		if i < len(got) {
			text += entityText(got[i])
		}
		c.note("%s", text)
	}
	n, err := query.Count(ctx)
	c.note("%scount %d %s", q.prefix(), n, errorText(err))
}

func (s *stream) query(t *rapid.T) {
	q := drawQuery(t, false)
	s.call(t, q.String(), func(c *caller) { c.run(c.ctx(), q) })
}

// pages walks a query through its cursors, between which an entity may change.
func (s *stream) pages(t *rapid.T) {
	q := drawQuery(t, false)
	q.limit = oneOf(t, "page", 1, 2, 3)
	path, properties := oneOf(t, "key", paths...), drawProperties(t)
	change := rapid.Bool().Draw(t, "change")
	s.call(t, "pages of "+q.String(), func(c *caller) {
		change := change
		put := func() {
			if !change {
				return
			}
			change = false
			_, err := datastore.Put(c.ctx(), c.path(path), c.entity(properties))
			c.ask("put between pages", err)
		}
		defer put() // also where one server refuses the query, and the other does not
		query := c.build(q)
		for page := 0; page < 5; page++ {
			it := query.Run(c.ctx())
			results := 0
			for {
				var got datastore.PropertyList
				key, err := it.Next(&got)
				if err == datastore.Done {
					break
				}
				if err != nil {
					c.ask(fmt.Sprint(q.prefix(), "page ", page), err)
					return
				}
				results++
				c.note("%spage %d: %s%s", q.prefix(), page, keyText(key), entityText(got))
			}
			cursor, err := it.Cursor()
			if err != nil {
				c.ask("cursor", err)
				return
			}
			if results == 0 {
				c.note("%spage %d: nothing", q.prefix(), page)
				return
			}
			put() // after the first page
			next := q
			next.offset = 0
			query = c.build(next).Start(cursor)
		}
	})
}
