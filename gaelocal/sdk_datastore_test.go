package gaelocal_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/protobuf/encoding/protowire"
)

var datastoreScripts = map[string]func(*script){
	"datastore/values":                      datastoreValues,
	"datastore/missing":                     datastoreMissing,
	"datastore/delete":                      datastoreDelete,
	"datastore/keys":                        datastoreKeys,
	"datastore/incomplete keys":             datastoreIncompleteKeys,
	"datastore/allocate":                    datastoreAllocate,
	"datastore/sizes":                       datastoreSizes,
	"datastore/batches":                     datastoreBatches,
	"datastore/namespaces":                  datastoreNamespaces,
	"datastore/wire":                        datastoreWire,
	"datastore/transaction":                 datastoreTransaction,
	"datastore/transaction conflicts":       datastoreConflicts,
	"datastore/transaction limits":          datastoreTransactionLimits,
	"datastore/transaction queries":         datastoreTransactionQueries,
	"datastore/query filters":               queryFilters,
	"datastore/query orders":                queryOrders,
	"datastore/query types":                 queryTypes,
	"datastore/query key values":            queryKeyValues,
	"datastore/query lists":                 queryLists,
	"datastore/query keys":                  queryKeys,
	"datastore/query ancestors":             queryAncestors,
	"datastore/query pages":                 queryPages,
	"datastore/query cursors":               queryCursors,
	"datastore/query cursors after changes": queryCursorsAfterChanges,
	"datastore/query projection":            queryProjection,
	"datastore/query errors":                queryErrors,
	"datastore/query metadata":              queryMetadata,
	"datastore/query namespaces":            queryNamespaces,
	"datastore/query large":                 queryLarge,
}

func property(name string, value any) datastore.Property {
	return datastore.Property{Name: name, Value: value}
}

func unindexed(name string, value any) datastore.Property {
	return datastore.Property{Name: name, Value: value, NoIndex: true}
}

func entity(properties ...datastore.Property) *datastore.PropertyList {
	list := datastore.PropertyList(properties)
	return &list
}

func putText(key *datastore.Key, err error) string {
	if err != nil {
		return errorText(err)
	}
	return "ok " + keyText(key)
}

func (s *script) put(key *datastore.Key, properties ...datastore.Property) {
	list := entity(properties...)
	got, err := datastore.Put(s.ctx(), key, list)
	s.note("put %s %s: %s", keyText(key), entityText(*list), putText(got, err))
}

// fill puts entities whose answers are not of interest.
func (s *script) fill(key *datastore.Key, properties ...datastore.Property) {
	if _, err := datastore.Put(s.ctx(), key, entity(properties...)); err != nil {
		s.note("put %s: %s", keyText(key), errorText(err))
	}
}

func getText(ctx context.Context, key *datastore.Key) string {
	var got datastore.PropertyList
	if err := datastore.Get(ctx, key, &got); err != nil {
		return errorText(err)
	}
	return entityText(got)
}

func (s *script) get(key *datastore.Key) { s.note("get %s: %s", keyText(key), getText(s.ctx(), key)) }

func datastoreValues(s *script) {
	when := time.Date(2001, 2, 3, 4, 5, 6, 7008000, time.UTC)
	link := s.key("Other", "x", 0, s.key("Parent", "", 5, nil))
	values := []any{int64(0), int64(math.MinInt64), int64(math.MaxInt64), true, false, "", "text", "snow ☃", 0.0, -1.5,
		math.Inf(1), math.MaxFloat64, when, time.Unix(0, 0), datastore.ByteString("\x00\xff"),
		appengine.GeoPoint{Lat: 1, Lng: -2}, appengine.BlobKey("blob"), link, nil}
	for i, value := range values {
		key := s.key("V", fmt.Sprint("v", i), 0, nil)
		s.put(key, property("p", value))
		s.get(key)
		s.put(key, unindexed("p", value))
		s.get(key)
	}
	s.put(s.key("V", "bytes", 0, nil), unindexed("b", []byte("\x00\xff")))
	s.get(s.key("V", "bytes", 0, nil))
	s.put(s.key("V", "nothing", 0, nil))
	s.get(s.key("V", "nothing", 0, nil))
	s.put(s.key("V", "several", 0, nil), property("z", int64(1)), unindexed("y", "u"), property("x", true),
		datastore.Property{Name: "l", Value: int64(3), Multiple: true}, unindexed("w", []byte("w")),
		datastore.Property{Name: "l", Value: "a", Multiple: true}, datastore.Property{Name: "l", Value: int64(3), Multiple: true})
	s.get(s.key("V", "several", 0, nil))
	s.put(s.key("V", "several", 0, nil), property("only", int64(1)))
	s.get(s.key("V", "several", 0, nil))
	s.put(s.key("V", "twice", 0, nil), property("p", int64(1)), property("p", int64(2)))
	s.get(s.key("V", "twice", 0, nil))
	s.put(s.key("V", "n", 0, nil), property("", int64(1)))
	s.get(s.key("V", "n", 0, nil))
	s.put(s.key("V", "n", 0, nil), property("__p__", int64(1)))
	s.put(s.key("V", "n", 0, nil), property("__key__", int64(1)))
	s.put(s.key("V", "n", 0, nil), property("__p", int64(1)), property("a.b", "dots"), property("a b", "space"), property("ü", "umlaut"))
	s.get(s.key("V", "n", 0, nil))
	s.put(s.key("V", "n", 0, nil), property(strings.Repeat("p", 1500), int64(1)))
	s.put(s.key("V", "n", 0, nil), property(strings.Repeat("p", 1501), int64(1)))
	s.put(s.key("V", "n", 0, nil), property("utf8", "\xff"))
	s.put(s.key("V", "n", 0, nil), unindexed("utf8", "\xff"))
}

func datastoreMissing(s *script) {
	a, b := s.key("K", "a", 0, nil), s.key("K", "b", 0, nil)
	s.get(a)
	s.put(b, property("num", int64(1)))
	got := make([]datastore.PropertyList, 4)
	err := datastore.GetMulti(s.ctx(), []*datastore.Key{a, b, a, b}, got)
	s.ask("get several", err)
	for _, properties := range got {
		s.note("%s", entityText(properties))
	}
	s.ask("get none", datastore.GetMulti(s.ctx(), nil, []datastore.PropertyList{}))
	s.get(s.key("K", "", 1, nil))
	s.get(s.key("K", "", 1, b))
	s.get(s.key("K", "a", 0, b))
	s.get(s.key("K", "", 0, nil))
	s.get(s.key("", "a", 0, nil))
}

func datastoreDelete(s *script) {
	a, b := s.key("K", "a", 0, nil), s.key("K", "b", 0, nil)
	child := s.key("K", "c", 0, a)
	s.ask("delete missing", datastore.Delete(s.ctx(), a))
	s.put(a, property("num", int64(1)))
	s.put(child, property("num", int64(2)))
	s.ask("delete several", datastore.DeleteMulti(s.ctx(), []*datastore.Key{a, b, a}))
	s.get(a)
	s.get(child)
	s.ask("delete none", datastore.DeleteMulti(s.ctx(), nil))
	s.ask("delete incomplete", datastore.Delete(s.ctx(), s.key("K", "", 0, nil)))
}

func datastoreKeys(s *script) {
	try := func(key *datastore.Key) {
		s.put(key, property("num", int64(1)))
		s.get(key)
		s.ask("delete", datastore.Delete(s.ctx(), key))
	}
	for _, name := range []string{"a", "a/b", "a\x00b", "1", "ключ", "\xff", "__name__", "__1__", "__", "____", "_",
		strings.Repeat("n", 500), strings.Repeat("n", 501), strings.Repeat("n", 1500), strings.Repeat("n", 1501)} {
		try(s.key("K", name, 0, nil))
	}
	for _, kind := range []string{"a/b", "ключ", "\xff", "__kind__", "__my__", "__x", "1", strings.Repeat("k", 1500), strings.Repeat("k", 1501)} {
		try(s.key(kind, "a", 0, nil))
	}
	for _, id := range []int64{1, -1, math.MaxInt64, math.MinInt64, 1 << 53} {
		try(s.key("K", "", id, nil))
	}
	deep := s.key("K", "a", 0, nil)
	for i := 0; i < 99; i++ {
		deep = s.key("K", "a", 0, deep)
	}
	try(deep)
	deep = s.key("K", "a", 0, deep)
	try(deep)
	try(s.key("K", "a", 0, s.key("__kind__", "a", 0, nil)))
	try(s.key("K", "a", 0, s.key("", "a", 0, nil)))
	try(s.key("K", "a", 0, s.key("K", "", 0, nil)))
	try(s.key("K", "a", 1, nil))
	foreign := message{}.bytes(13, "dev~other").bytes(14, string(message{}.group(1, message{}.bytes(2, "K").bytes(4, "a"))))
	s.raw("get of another application", "datastore_v3", "Get", message{}.bytes(1, string(foreign)))
	s.raw("delete of another application", "datastore_v3", "Delete", message{}.bytes(6, string(foreign)))
}

// idText hides the number of an allocated id.
func idText(key *datastore.Key, err error) string {
	if err != nil {
		return errorText(err)
	}
	return fmt.Sprintf("kind %s, parent %s, id>0 %v, no name %v", key.Kind(), keyText(key.Parent()), key.IntID() > 0, key.StringID() == "")
}

func datastoreIncompleteKeys(s *script) {
	parent := s.key("P", "p", 0, nil)
	one, err := datastore.Put(s.ctx(), s.key("K", "", 0, nil), entity(property("num", int64(1))))
	s.note("put: %s", idText(one, err))
	two, err := datastore.Put(s.ctx(), s.key("K", "", 0, parent), entity(property("num", int64(2))))
	s.note("put below parent: %s", idText(two, err))
	keys, err := datastore.PutMulti(s.ctx(), []*datastore.Key{s.key("K", "", 0, nil), s.key("K", "x", 0, nil), s.key("K", "", 0, nil)},
		[]datastore.PropertyList{{property("num", int64(3))}, {property("num", int64(4))}, {property("num", int64(5))}})
	if err != nil || len(keys) != 3 {
		s.note("put several: %s", errorText(err))
		return
	}
	s.note("put several: %s; %s; %s", idText(keys[0], nil), keyText(keys[1]), idText(keys[2], nil))
	if one != nil && two != nil {
		s.note("got: %s %s %s", getText(s.ctx(), one), getText(s.ctx(), two), getText(s.ctx(), keys[2]))
		s.note("all ids differ: %v", one.IntID() != keys[0].IntID() && keys[0].IntID() != keys[2].IntID() && one.IntID() != keys[2].IntID())
	}
	s.put(s.key("K", "", 0, s.key("K", "", 0, nil)), property("num", int64(1)))
}

func datastoreAllocate(s *script) {
	low, high, err := datastore.AllocateIDs(s.ctx(), "K", nil, 10)
	s.note("allocate: %d ids, positive %v, %s", high-low, low > 0, errorText(err))
	low2, high2, err := datastore.AllocateIDs(s.ctx(), "K", s.key("P", "p", 0, nil), 3)
	s.note("allocate below parent: %d ids, positive %v, %s", high2-low2, low2 > 0, errorText(err))
	again, _, err := datastore.AllocateIDs(s.ctx(), "K", nil, 1)
	s.note("allocate again: outside the first range %v, %s", again >= high || again < low, errorText(err))
	_, _, err = datastore.AllocateIDs(s.ctx(), "", nil, 1)
	s.ask("allocate without kind", err)
	// Ranges are placed above what has been given out, which nobody can know.
	above := max(high, high2, again+1) + 1_000_000
	s.note("allocate range: %T", datastore.AllocateIDRange(s.ctx(), "Range", nil, above, above+9))
	s.note("allocate the range again: %T", datastore.AllocateIDRange(s.ctx(), "Range", nil, above, above+9))
	s.fill(s.key("Range", "", above+105, nil), property("num", int64(1)))
	s.note("allocate a range with an entity: %T", datastore.AllocateIDRange(s.ctx(), "Range", nil, above+100, above+109))
	after, _, err := datastore.AllocateIDs(s.ctx(), "Range", nil, 1)
	s.note("allocate after the ranges: outside them %v %s", after < above || after > above+109, errorText(err))
	path := func() message {
		inner := message{}.bytes(2, "K")
		return message{}.bytes(13, "dev~testapp").bytes(20, s.space).bytes(14, string(message{}.group(1, inner)))
	}
	for _, sizes := range []message{message{}.varint(2, 0), nil, message{}.varint(3, 1)} {
		response, err := call(s.ctx(), "datastore_v3", "AllocateIds", append(message{}.bytes(1, string(path())), sizes...))
		s.note("%s: fields %s %s", sizes.text(), fieldNumbers(response), errorText(err))
	}
	s.raw("negative size", "datastore_v3", "AllocateIds", message{}.bytes(1, string(path())).varint(2, math.MaxUint64))
	s.raw("size and max", "datastore_v3", "AllocateIds", message{}.bytes(1, string(path())).varint(2, 1).varint(3, 1))
}

func datastoreSizes(s *script) {
	k := s.key("K", "a", 0, nil)
	for _, size := range []int{1500, 1501} {
		s.put(k, property("p", strings.Repeat("x", size)))
		s.put(k, property("p", datastore.ByteString(strings.Repeat("x", size))))
	}
	for _, size := range []int{1<<20 - 200, 1 << 20, 1<<20 + 100, 1<<20 + 1000, 1<<20 + 100_000} {
		s.put(k, unindexed("p", make([]byte, size)))
		s.put(k, unindexed("p", strings.Repeat("x", size)))
	}
	s.put(k, unindexed("p", make([]byte, 600_000)), unindexed("q", make([]byte, 600_000)))
	s.get(k)
	// The entity group counts as the client sends it: for a child only.
	long := s.key("K", strings.Repeat("n", 400), 0, nil)
	for _, size := range []int{1048105, 1048106} {
		s.put(long, unindexed("p", make([]byte, size)))
	}
	child := s.key("K", "a", 0, long)
	for _, size := range []int{1047688, 1047689} {
		s.put(child, unindexed("p", make([]byte, size)))
	}
	half := make([]byte, 900_000)
	keys := make([]*datastore.Key, 20)
	lists := make([]datastore.PropertyList, len(keys))
	for i := range keys {
		keys[i], lists[i] = s.key("K", fmt.Sprint("big", i), 0, nil), datastore.PropertyList{unindexed("p", half)}
	}
	_, err := datastore.PutMulti(s.ctx(), keys, lists)
	s.ask("put 18 MB", err)
}

func datastoreBatches(s *script) {
	for _, count := range []int{500, 501, 1001} {
		keys := make([]*datastore.Key, count)
		lists := make([]datastore.PropertyList, count)
		for i := range keys {
			keys[i], lists[i] = s.key("K", "", int64(i+1), nil), datastore.PropertyList{property("num", int64(i))}
		}
		_, err := datastore.PutMulti(s.ctx(), keys, lists)
		s.ask(fmt.Sprint("put ", count), err)
		s.ask(fmt.Sprint("get ", count), datastore.GetMulti(s.ctx(), keys, make([]datastore.PropertyList, count)))
		s.ask(fmt.Sprint("delete ", count), datastore.DeleteMulti(s.ctx(), keys))
	}
	a := s.key("K", "same", 0, nil)
	keys, err := datastore.PutMulti(s.ctx(), []*datastore.Key{a, a}, []datastore.PropertyList{{property("num", int64(1))}, {property("num", int64(2))}})
	s.note("put one key twice: %s %s", keysText(keys), errorText(err))
	s.get(a)
	_, err = datastore.PutMulti(s.ctx(), []*datastore.Key{s.key("K", "good", 0, nil), s.key("K", "bad", 0, nil)},
		[]datastore.PropertyList{{property("num", int64(1))}, {property("p", strings.Repeat("x", 1501))}})
	s.ask("put good and bad", err)
	s.get(s.key("K", "good", 0, nil))
}

func datastoreNamespaces(s *script) {
	other := s.side.context(s.space + "-other")
	s.put(s.key("K", "a", 0, nil), property("num", int64(1)))
	s.note("other namespace: %s", getText(other, datastore.NewKey(other, "K", "a", 0, nil)))
	// A key has the namespace of the context it was made with.
	s.note("key used with another context: %s", getText(other, s.key("K", "a", 0, nil)))
	n, err := datastore.NewQuery("K").Count(other)
	s.note("query: %d %s", n, errorText(err))
	_, err = datastore.NewQuery("K").Ancestor(s.key("K", "a", 0, nil)).Count(other)
	s.ask("ancestor of another namespace", err)
	_, err = datastore.NewQuery("K").Filter("__key__ =", s.key("K", "a", 0, nil)).Count(other)
	s.ask("filter with a key of another namespace", err)
	_, err = datastore.Put(other, datastore.NewKey(other, "K", "a", 0, nil), entity(property("k", s.key("K", "a", 0, nil))))
	s.ask("a property that is a key of another namespace", err)
	s.note("got: %s", getText(other, datastore.NewKey(other, "K", "a", 0, nil)))
}

// fieldNumbers tells which fields a message has and how many of each.
func fieldNumbers(m message) string {
	counts := map[protowire.Number]int{}
	var order []protowire.Number
	for rest := []byte(m); len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return "not a message"
		}
		rest = rest[n:]
		size := protowire.ConsumeFieldValue(number, kind, rest)
		if size < 0 {
			return "not a message"
		}
		rest = rest[size:]
		if counts[number] == 0 {
			order = append(order, number)
		}
		counts[number]++
	}
	var texts []string
	for _, number := range order {
		texts = append(texts, fmt.Sprintf("%d×%d", number, counts[number]))
	}
	return strings.Join(texts, " ")
}

func datastoreWire(s *script) {
	path := func(kind, name string) string {
		inner := message{}.bytes(2, kind)
		if name != "" {
			inner = inner.bytes(4, name)
		}
		return string(message{}.group(1, inner))
	}
	reference := func(kind, name string) string {
		return string(message{}.bytes(13, "dev~testapp").bytes(20, s.space).bytes(14, path(kind, name)))
	}
	number := string(message{}.varint(1, 1))
	entity := func(kind, name string, more ...func(message) message) string {
		m := message{}.bytes(13, reference(kind, name)).bytes(16, path(kind, name)).
			bytes(14, string(message{}.bytes(3, "num").varint(4, 0).bytes(5, number)))
		for _, add := range more {
			m = add(m)
		}
		return string(m)
	}
	ask := func(what, method string, request message) message {
		response, err := call(s.ctx(), "datastore_v3", method, request)
		s.note("%s: fields %s, %s", what, fieldNumbers(response), errorText(err))
		return response
	}
	ask("put", "Put", message{}.bytes(1, entity("K", "a")))
	ask("put nothing", "Put", message{})
	ask("put without entity group", "Put", message{}.bytes(1, string(message{}.bytes(13, reference("K", "b")).
		bytes(14, string(message{}.bytes(3, "num").varint(4, 0).bytes(5, number))))))
	ask("put with the group of another", "Put", message{}.bytes(1, string(message{}.bytes(13, reference("K", "c")).bytes(16, path("K", "zzz")))))
	ask("put with index value meaning", "Put", message{}.bytes(1, entity("K", "a", func(m message) message {
		return m.bytes(14, string(message{}.varint(1, 18).bytes(3, "x").varint(4, 0).bytes(5, number)))
	})))
	ask("put indexed text", "Put", message{}.bytes(1, entity("K", "a", func(m message) message {
		return m.bytes(14, string(message{}.varint(1, 15).bytes(3, "x").varint(4, 0).bytes(5, string(message{}.bytes(3, "text")))))
	})))
	ask("put a blob without bytes", "Put", message{}.bytes(1, entity("K", "a", func(m message) message {
		return m.bytes(15, string(message{}.varint(1, 14).bytes(3, "x").varint(4, 0).bytes(5, number)))
	})))
	ask("put two values in one", "Put", message{}.bytes(1, entity("K", "a", func(m message) message {
		return m.bytes(14, string(message{}.bytes(3, "x").varint(4, 0).bytes(5, string(message{}.varint(1, 1).varint(2, 1)))))
	})))
	ask("put without app", "Put", message{}.bytes(1, string(message{}.bytes(13, string(message{}.bytes(14, path("K", "a")))).bytes(16, path("K", "a")))))
	ask("put of another app", "Put", message{}.bytes(1, string(message{}.bytes(13, string(message{}.bytes(13, "dev~other").bytes(14, path("K", "a")))).bytes(16, path("K", "a")))))
	ask("put with empty path", "Put", message{}.bytes(1, string(message{}.bytes(13, string(message{}.bytes(13, "dev~testapp").bytes(14, ""))).bytes(16, ""))))
	ask("put with id and name", "Put", message{}.bytes(1, string(message{}.bytes(13, string(message{}.bytes(13, "dev~testapp").
		bytes(14, string(message{}.group(1, message{}.bytes(2, "K").varint(3, 1).bytes(4, "a")))))).bytes(16, ""))))
	ask("put with id 0", "Put", message{}.bytes(1, string(message{}.bytes(13, string(message{}.bytes(13, "dev~testapp").bytes(20, s.space).
		bytes(14, string(message{}.group(1, message{}.bytes(2, "K").varint(3, 0)))))).bytes(16, ""))))
	ask("get", "Get", message{}.bytes(1, reference("K", "a")))
	ask("get missing", "Get", message{}.bytes(1, reference("K", "none")))
	ask("get nothing", "Get", message{})
	ask("get incomplete", "Get", message{}.bytes(1, reference("K", "")))
	ask("get in an unknown transaction", "Get", message{}.bytes(1, reference("K", "a")).bytes(2, string(message{}.fixed64(1, 12345).bytes(2, "dev~testapp"))))
	ask("put in an unknown transaction", "Put", message{}.bytes(1, entity("K", "a")).bytes(2, string(message{}.fixed64(1, 12345).bytes(2, "dev~testapp"))))
	ask("delete in an unknown transaction", "Delete", message{}.bytes(6, reference("K", "a")).bytes(5, string(message{}.fixed64(1, 12345).bytes(2, "dev~testapp"))))
	ask("delete", "Delete", message{}.bytes(6, reference("K", "a")))
	ask("delete nothing", "Delete", message{})
	ask("delete incomplete", "Delete", message{}.bytes(6, reference("K", "")))
	ask("commit unknown", "Commit", message{}.fixed64(1, 12345).bytes(2, "dev~testapp"))
	ask("rollback unknown", "Rollback", message{}.fixed64(1, 12345).bytes(2, "dev~testapp"))
	begun := ask("begin", "BeginTransaction", message{}.bytes(1, "dev~testapp"))
	ask("begin for another app", "BeginTransaction", message{}.bytes(1, "dev~other"))
	ask("rollback", "Rollback", begun)
	ask("rollback again", "Rollback", begun)
	ask("commit after rollback", "Commit", begun)
	begun = ask("begin", "BeginTransaction", message{}.bytes(1, "dev~testapp"))
	ask("commit empty", "Commit", begun)
	ask("commit again", "Commit", begun)
	ask("rollback after commit", "Rollback", begun)
	begun = ask("begin", "BeginTransaction", message{}.bytes(1, "dev~testapp"))
	ask("put in it", "Put", message{}.bytes(1, entity("K", "t")).bytes(2, string(begun)))
	ask("delete in it", "Delete", message{}.bytes(6, reference("K", "t")).bytes(5, string(begun)))
	ask("put in it again", "Put", message{}.bytes(1, entity("K", "t")).bytes(2, string(begun)))
	ask("commit", "Commit", begun)
	ask("query for another app", "RunQuery", message{}.bytes(1, "dev~other").bytes(3, "K"))
	ask("query without app", "RunQuery", message{}.bytes(3, "K"))
	ask("next of an unknown cursor", "Next", message{}.bytes(1, string(message{}.fixed64(1, 12345).bytes(2, "dev~testapp"))))
	ask("count", "Count", message{}.bytes(1, "dev~testapp").bytes(29, s.space).bytes(3, "K"))
	ask("unknown method", "Touchy", message{})
	_, err := call(s.ctx(), "datastore_v3", "GetIndices", message{}.bytes(1, "dev~testapp"))
	s.ask("indices", err) // how many there are depends on all queries so far
	ask("not a message", "Get", message("\xff\xff\xff"))
	for i := 0; i < 25; i++ {
		s.fill(s.key("W", "", int64(i+1), nil), property("num", int64(i)))
	}
	query := message{}.bytes(1, "dev~testapp").bytes(29, s.space).bytes(3, "W")
	run := func(what string, request message) message { return s.fields(what, "RunQuery", request) }
	next := func(what string, of message, count, offset uint64) {
		for raw := []byte(of); len(raw) > 0; {
			number, kind, n := protowire.ConsumeTag(raw)
			size := protowire.ConsumeFieldValue(number, kind, raw[n:])
			if number == 1 {
				cursor, _ := protowire.ConsumeBytes(raw[n : n+size])
				response, err := call(s.ctx(), "datastore_v3", "Next", message{}.bytes(1, string(cursor)).varint(2, count).varint(4, offset))
				s.resultFields(what, response, err)
				return
			}
			raw = raw[n+size:]
		}
		s.note("%s: no cursor", what)
	}
	run("all", query)
	all := run("count 10", query.varint(23, 10))
	next("next 10", all, 10, 0)
	next("next 10 again", all, 10, 0)
	next("next after the end", all, 10, 0)
	exact := run("count 25", query.varint(23, 25))
	next("next after all", exact, 10, 0)
	skip := run("count 5 offset 3", query.varint(23, 5).varint(12, 3))
	next("next 2 offset 4", skip, 2, 4)
	run("limit 5", query.varint(16, 5))
	run("limit 0", query.varint(16, 0))
	run("count 0", query.varint(23, 0))
	run("offset 30", query.varint(12, 30))
	limited := run("limit 10 count 4", query.varint(16, 10).varint(23, 4))
	next("next 4", limited, 4, 0)
	next("next 4", limited, 4, 0)
	next("next 4", limited, 4, 0)
	run("keys only", query.varint(21, 1).varint(16, 2))
	run("negative limit", query.varint(16, math.MaxUint64))
	run("negative offset", query.varint(12, math.MaxUint64))
}

// fields sends a query and notes the answer's fields.
func (s *script) fields(what, method string, request message) message {
	response, err := call(s.ctx(), "datastore_v3", method, request)
	s.resultFields(what, response, err)
	return response
}

// resultFields notes a QueryResult without its entities and opaque parts.
func (s *script) resultFields(what string, response message, err error) {
	if err != nil {
		s.ask(what, err)
		return
	}
	results, rest := 0, ""
	for raw := []byte(response); len(raw) > 0; {
		number, kind, n := protowire.ConsumeTag(raw)
		size := protowire.ConsumeFieldValue(number, kind, raw[n:])
		if n < 0 || size < 0 {
			break
		}
		switch number {
		case 2:
			results++
		case 1, 3, 4, 7, 9:
			value := raw[n : n+size]
			if number == 1 {
				rest += " cursor"
			} else {
				v, _ := protowire.ConsumeVarint(value)
				rest += fmt.Sprintf(" %d:%d", number, v)
			}
		}
		raw = raw[n+size:]
	}
	s.note("%s: %d results%s", what, results, rest)
}

// A running transaction of the client package, which a script steps through.
type transaction struct {
	steps chan func(context.Context) error
	noted chan struct{}
	ended chan error
}

var errRollback = errors.New("rolled back by the script")

func (s *script) begin(options *datastore.TransactionOptions) *transaction {
	t := &transaction{make(chan func(context.Context) error), make(chan struct{}), make(chan error, 1)}
	if options == nil {
		options = &datastore.TransactionOptions{}
	}
	options.Attempts = 1
	ctx := s.ctx()
	begun := make(chan struct{})
	go func() {
		first := true
		t.ended <- datastore.RunInTransaction(ctx, func(tx context.Context) error {
			if first {
				first = false
				close(begun)
			}
			for step := range t.steps {
				err := step(tx)
				if errors.Is(err, errRollback) {
					return err
				}
				t.noted <- struct{}{}
			}
			return nil
		}, options)
	}()
	select {
	case <-begun:
	case err := <-t.ended:
		s.ask("begin", err)
		t.ended <- err
		close(t.noted)
		t.steps = nil
	}
	return t
}

func (t *transaction) do(step func(context.Context)) {
	if t.steps == nil {
		return
	}
	t.steps <- func(tx context.Context) error { step(tx); return nil }
	<-t.noted
}

func (t *transaction) commit() error {
	if t.steps != nil {
		close(t.steps)
	}
	return <-t.ended
}

func (t *transaction) rollback() error {
	if t.steps != nil {
		t.steps <- func(context.Context) error { return errRollback }
	}
	return <-t.ended
}

func (s *script) txGet(name string, t *transaction, key *datastore.Key) {
	t.do(func(tx context.Context) { s.note("%s gets %s: %s", name, keyText(key), getText(tx, key)) })
}

func (s *script) txPut(name string, t *transaction, key *datastore.Key, n int) {
	t.do(func(tx context.Context) {
		got, err := datastore.Put(tx, key, entity(property("num", int64(n))))
		text := putText(got, err)
		if key.Incomplete() {
			text = idText(got, err)
		}
		s.note("%s puts %s %d: %s", name, keyText(key), n, text)
	})
}

func (s *script) txDelete(name string, t *transaction, key *datastore.Key) {
	t.do(func(tx context.Context) {
		s.note("%s deletes %s: %s", name, keyText(key), errorText(datastore.Delete(tx, key)))
	})
}

func datastoreTransaction(s *script) {
	a, b := s.key("K", "a", 0, nil), s.key("K", "b", 0, nil)
	child := s.key("K", "c", 0, a)
	s.put(a, property("num", int64(1)))
	t := s.begin(nil)
	s.txGet("t", t, a)
	s.txPut("t", t, a, 2)
	s.txGet("t", t, a) // does not see its own write
	s.get(a)
	s.txPut("t", t, child, 3)
	s.ask("commit", t.commit())
	s.get(a)
	s.get(child)

	t = s.begin(nil)
	s.txPut("t", t, a, 9)
	s.txDelete("t", t, child)
	s.ask("rollback", t.rollback())
	s.get(a)
	s.get(child)

	t = s.begin(nil)
	s.txPut("t", t, a, 10)
	s.txDelete("t", t, a)
	s.ask("put then delete", t.commit())
	s.get(a)
	t = s.begin(nil)
	s.txDelete("t", t, a)
	s.txPut("t", t, a, 11)
	s.ask("delete then put", t.commit())
	s.get(a)

	t = s.begin(nil)
	s.ask("nothing at all", t.commit())
	t = s.begin(nil)
	s.txGet("t", t, a)
	s.ask("only a get", t.commit())
	t = s.begin(nil)
	s.txPut("t", t, s.key("K", "", 0, a), 12)
	s.ask("incomplete key", t.commit())
	t = s.begin(nil)
	s.txDelete("t", t, s.key("K", "none", 0, nil))
	s.ask("delete of a missing entity", t.commit())

	t = s.begin(nil)
	s.txGet("t", t, a)
	s.txGet("t", t, b)
	s.txPut("t", t, b, 1)
	s.ask("two groups", t.commit())
	s.get(b)
	t = s.begin(nil)
	s.txPut("t", t, a, 20)
	s.txPut("t", t, b, 20)
	s.ask("two groups, put first", t.commit())
	s.get(a)
	t = s.begin(&datastore.TransactionOptions{XG: true})
	s.txGet("t", t, a)
	s.txGet("t", t, b)
	s.txPut("t", t, a, 30)
	s.txPut("t", t, b, 30)
	s.ask("two groups, allowed", t.commit())
	s.get(a)
	s.get(b)

	t = s.begin(&datastore.TransactionOptions{ReadOnly: true})
	s.txGet("t", t, a)
	s.txPut("t", t, a, 40)
	s.txDelete("t", t, a)
	s.ask("read only", t.commit())
	s.get(a)

	t = s.begin(nil)
	t.do(func(tx context.Context) {
		s.ask("nested", datastore.RunInTransaction(tx, func(context.Context) error { return nil }, nil))
		_, err := datastore.Put(tx, a, entity(property("p", strings.Repeat("x", 1501))))
		s.ask("a bad put", err)
	})
	s.txPut("t", t, a, 50)
	s.ask("commit after a bad put", t.commit())
	s.get(a)

	var held context.Context
	t = s.begin(nil)
	t.do(func(tx context.Context) { held = tx })
	s.ask("commit", t.commit())
	s.note("context of an ended transaction: %s", getText(held, a))

	attempts := 0
	s.ask("conflict at every attempt", datastore.RunInTransaction(s.ctx(), func(tx context.Context) error {
		attempts++
		getText(tx, a)
		s.fill(a, property("num", int64(attempts)))
		_, err := datastore.Put(tx, a, entity(property("num", int64(100))))
		return err
	}, nil))
	s.note("attempts: %d", attempts)
	s.get(a)
	attempts = 0
	s.ask("conflict at the first attempt", datastore.RunInTransaction(s.ctx(), func(tx context.Context) error {
		attempts++
		getText(tx, a)
		if attempts == 1 {
			s.fill(a, property("num", int64(attempts)))
		}
		_, err := datastore.Put(tx, a, entity(property("num", int64(100))))
		return err
	}, nil))
	s.note("attempts: %d", attempts)
	s.get(a)
}

func datastoreConflicts(s *script) {
	a, b, child := s.key("K", "a", 0, nil), s.key("K", "b", 0, nil), s.key("K", "c", 0, s.key("K", "a", 0, nil))
	reset := func() {
		s.fill(a, property("num", int64(1)))
		s.fill(b, property("num", int64(1)))
		if err := datastore.Delete(s.ctx(), child); err != nil {
			s.ask("delete", err)
		}
	}
	both := &datastore.TransactionOptions{XG: true}
	story := func(title string, options *datastore.TransactionOptions, tell func(t, u *transaction)) {
		reset()
		s.note("— %s", title)
		t, u := s.begin(options), s.begin(options)
		tell(t, u)
		s.get(a)
		s.get(b)
		s.get(child)
	}
	end := func(name string, t *transaction) { s.ask(name+" commits", t.commit()) }

	story("both read and write", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txGet("u", u, a)
		s.txPut("t", t, a, 2)
		s.txPut("u", u, a, 3)
		end("t", t)
		end("u", u)
	})
	story("second reads after the first committed", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txPut("t", t, a, 2)
		end("t", t)
		s.txGet("u", u, a)
		s.txPut("u", u, a, 3)
		end("u", u)
	})
	story("blind writes", nil, func(t, u *transaction) {
		s.txPut("t", t, a, 2)
		s.txPut("u", u, a, 3)
		end("u", u)
		end("t", t)
	})
	story("one reads, one writes blindly", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txPut("u", u, a, 3)
		end("u", u)
		s.txGet("t", t, a)
		s.txPut("t", t, a, 2)
		end("t", t)
	})
	story("reader commits nothing", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txPut("u", u, a, 3)
		end("u", u)
		s.txGet("t", t, a)
		end("t", t)
	})
	story("read only beside a writer", &datastore.TransactionOptions{ReadOnly: true}, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.fill(a, property("num", int64(7)))
		s.txGet("t", t, a)
		end("t", t)
		s.txGet("u", u, a)
		end("u", u)
	})
	story("write outside between", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.put(a, property("num", int64(9)))
		s.txGet("t", t, a)
		s.txPut("t", t, a, 2)
		end("t", t)
		end("u", u)
	})
	story("the same value written outside between", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.put(a, property("num", int64(1)))
		s.txPut("t", t, a, 2)
		end("t", t)
		end("u", u)
	})
	story("deleted outside between", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.ask("delete", datastore.Delete(s.ctx(), a))
		s.txPut("t", t, a, 2)
		end("t", t)
		end("u", u)
	})
	story("a missing entity deleted outside between", nil, func(t, u *transaction) {
		s.txGet("t", t, child)
		s.ask("delete", datastore.Delete(s.ctx(), child))
		s.txPut("t", t, child, 2)
		end("t", t)
		end("u", u)
	})
	story("both create", nil, func(t, u *transaction) {
		s.txGet("t", t, child)
		s.txGet("u", u, child)
		s.txPut("t", t, child, 2)
		s.txPut("u", u, child, 3)
		end("t", t)
		end("u", u)
	})
	story("same group, different entities", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txGet("u", u, child)
		s.txPut("t", t, a, 2)
		s.txPut("u", u, child, 3)
		end("t", t)
		end("u", u)
	})
	story("different groups", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txGet("u", u, b)
		s.txPut("t", t, a, 2)
		s.txPut("u", u, b, 3)
		end("t", t)
		end("u", u)
	})
	story("write skew", both, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txGet("u", u, b)
		s.txPut("t", t, b, 2)
		s.txPut("u", u, a, 3)
		end("t", t)
		end("u", u)
	})
	story("second group read after it changed", both, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.put(b, property("num", int64(5)))
		s.txGet("t", t, b)
		s.txPut("t", t, a, 2)
		end("t", t)
		end("u", u)
	})
	story("second group read after the first changed", both, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.put(a, property("num", int64(5)))
		s.txGet("t", t, b)
		s.txGet("t", t, b)
		s.txPut("t", t, b, 2)
		end("t", t)
		end("u", u)
	})
	story("rollback frees", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txGet("u", u, a)
		s.txPut("t", t, a, 2)
		s.ask("t", t.rollback())
		s.txPut("u", u, a, 3)
		end("u", u)
	})
	story("delete against put", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txGet("u", u, a)
		s.txDelete("t", t, a)
		s.txPut("u", u, a, 3)
		end("t", t)
		end("u", u)
	})
	story("query against put", nil, func(t, u *transaction) {
		t.do(func(tx context.Context) {
			n, err := datastore.NewQuery("K").Ancestor(a).Count(tx)
			s.note("t counts %d %s", n, errorText(err))
		})
		s.put(child, property("num", int64(4)))
		s.txPut("t", t, a, 2)
		end("t", t)
		end("u", u)
	})
	story("read then write of another entity, read changed by transaction", nil, func(t, u *transaction) {
		s.txGet("t", t, a)
		s.txPut("u", u, child, 5)
		end("u", u)
		s.txPut("t", t, child, 2)
		end("t", t)
	})
}

func datastoreTransactionLimits(s *script) {
	groups := func(count int) {
		t := s.begin(&datastore.TransactionOptions{XG: true})
		for i := 0; i < count; i++ {
			key := s.key("G", "", int64(i+1), nil)
			t.do(func(tx context.Context) {
				if _, err := datastore.Put(tx, key, entity(property("num", int64(count)))); err != nil {
					s.ask(fmt.Sprint("put in group ", i+1), err)
				}
			})
		}
		s.ask(fmt.Sprint(count, " groups"), t.commit())
		s.get(s.key("G", "", 1, nil))
	}
	groups(5)
	groups(25)
	groups(26)
	t := s.begin(&datastore.TransactionOptions{XG: true})
	t.do(func(tx context.Context) {
		keys := make([]*datastore.Key, 26)
		for i := range keys {
			keys[i] = s.key("G", "", int64(i+1), nil)
		}
		s.ask("get of 26 groups", datastore.GetMulti(tx, keys, make([]datastore.PropertyList, len(keys))))
	})
	s.ask("commit", t.commit())
	t = s.begin(nil)
	t.do(func(tx context.Context) {
		keys := make([]*datastore.Key, 600)
		lists := make([]datastore.PropertyList, len(keys))
		for i := range keys {
			keys[i] = s.key("G", "", int64(i+1), s.key("R", "r", 0, nil))
			lists[i] = datastore.PropertyList{property("num", int64(i))}
		}
		_, err := datastore.PutMulti(tx, keys, lists)
		s.ask("put of 600 in a transaction", err)
	})
	s.ask("commit", t.commit())
}

func datastoreTransactionQueries(s *script) {
	a := s.key("K", "a", 0, nil)
	s.fill(a, property("num", int64(1)))
	s.fill(s.key("K", "b", 0, a), property("num", int64(2)))
	t := s.begin(nil)
	t.do(func(tx context.Context) {
		keys, err := datastore.NewQuery("K").Ancestor(a).KeysOnly().GetAll(tx, nil)
		s.note("query: %s %s", keysText(keys), errorText(err))
		_, err = datastore.NewQuery("K").KeysOnly().GetAll(tx, nil)
		s.ask("query without ancestor", err)
		_, err = datastore.Put(tx, s.key("K", "c", 0, a), entity(property("num", int64(3))))
		s.ask("put", err)
		keys, err = datastore.NewQuery("K").Ancestor(a).KeysOnly().GetAll(tx, nil)
		s.note("query does not see the put: %s %s", keysText(keys), errorText(err))
	})
	s.fill(s.key("K", "d", 0, a), property("num", int64(4)))
	t.do(func(tx context.Context) {
		keys, err := datastore.NewQuery("K").Ancestor(a).Filter("num >", 0).Order("-num").KeysOnly().GetAll(tx, nil)
		s.note("query sees the snapshot: %s %s", keysText(keys), errorText(err))
	})
	s.ask("commit", t.commit())
	keys, err := datastore.NewQuery("K").Ancestor(a).KeysOnly().GetAll(s.ctx(), nil)
	s.note("after: %s %s", keysText(keys), errorText(err))
}
