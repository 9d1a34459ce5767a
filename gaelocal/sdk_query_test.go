package gaelocal_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
)

// all runs a query to its end and notes keys and entities.
func (s *script) all(what string, query *datastore.Query) {
	var got []datastore.PropertyList
	keys, err := query.GetAll(s.ctx(), &got)
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = strings.TrimPrefix(keyText(key), s.space+"|")
		if i < len(got) {
			texts[i] += entityText(got[i])
		}
	}
	s.note("%s: %d [%s] %s", what, len(keys), strings.Join(texts, " "), errorText(err))
}

func (s *script) keys(what string, query *datastore.Query) {
	keys, err := query.KeysOnly().GetAll(s.ctx(), nil)
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = strings.TrimPrefix(keyText(key), s.space+"|")
	}
	s.note("%s: %d [%s] %s", what, len(keys), strings.Join(texts, " "), errorText(err))
}

func (s *script) count(what string, query *datastore.Query) {
	n, err := query.Count(s.ctx())
	s.note("count %s: %d %s", what, n, errorText(err))
}

func (s *script) fillNumbers() {
	for i := 0; i < 10; i++ {
		s.fill(s.key("Num", fmt.Sprintf("n%d", i), 0, nil), property("a", int64(i%3)), property("b", int64(i)), property("c", fmt.Sprint("s", 9-i)), unindexed("u", int64(i)))
	}
	s.fill(s.key("Num", "without", 0, nil), property("c", "s5"))
	s.fill(s.key("M", "other kind", 0, nil), property("a", int64(1)), property("b", int64(1)))
}

func queryFilters(s *script) {
	s.fillNumbers()
	n := datastore.NewQuery("Num")
	s.keys("all", n)
	s.all("all with entities", n.Limit(2))
	for _, f := range []string{"b <", "b <=", "b =", "b >=", "b >"} {
		s.keys(f+" 4", n.Filter(f, 4))
		s.count(f+" 4", n.Filter(f, 4))
	}
	s.keys("a = 1", n.Filter("a =", 1))
	s.keys("a = 1 and b > 3", n.Filter("a =", 1).Filter("b >", 3))
	s.keys("a = 1 and b = 4", n.Filter("a =", 1).Filter("b =", 4))
	s.keys("a = 1 and a = 2", n.Filter("a =", 1).Filter("a =", 2))
	s.keys("b between", n.Filter("b >", 2).Filter("b <=", 6))
	s.keys("b empty range", n.Filter("b >", 6).Filter("b <", 2))
	s.keys("b twice the same", n.Filter("b >", 2).Filter("b >", 5))
	s.keys("c = s5", n.Filter("c =", "s5"))
	s.keys("c >= s5", n.Filter("c >=", "s5"))
	s.keys("unindexed", n.Filter("u =", 1))
	s.keys("no such property", n.Filter("zzz =", 1))
	s.keys("no such kind", datastore.NewQuery("Nope").Filter("b >", 1))
	s.keys("other type", n.Filter("b =", "4"))
	s.keys("other type, range", n.Filter("b >", "4"))
	s.keys("range over all types", n.Filter("b <", "4"))
	s.keys("null", n.Filter("b =", nil))
	s.keys("kindless", datastore.NewQuery(""))
	s.keys("kindless filter", datastore.NewQuery("").Filter("b =", 1))
	s.keys("= and > on one", n.Filter("b =", 4).Filter("b >", 1))
	s.keys("= and > on one, empty", n.Filter("b =", 4).Filter("b >", 5))
	s.keys("two equals and order", n.Filter("a =", 1).Filter("c =", "s5").Order("-b"))
	s.keys("equal and key range", n.Filter("a =", 1).Filter("__key__ >", s.key("Num", "n3", 0, nil)))
}

func queryOrders(s *script) {
	s.fillNumbers()
	n := datastore.NewQuery("Num")
	for _, orders := range [][]string{{"b"}, {"-b"}, {"a", "b"}, {"a", "-b"}, {"-a", "b"}, {"-a", "-b"}, {"c"}, {"-c"}, {"a", "c"},
		{"__key__"}, {"-__key__"}, {"a", "__key__"}, {"a", "-__key__"}, {"-a", "-__key__"}, {"__key__", "a"}, {"u"}, {"zzz"}, {"a"}, {"-a"}, {"b", "b"}, {"a", "b", "c"}} {
		q := n
		for _, order := range orders {
			q = q.Order(order)
		}
		s.keys(strings.Join(orders, ","), q)
	}
	s.keys("filter b > 2 order b", n.Filter("b >", 2).Order("b"))
	s.keys("filter b > 2 order -b", n.Filter("b >", 2).Order("-b"))
	s.keys("filter a = 1 order -b", n.Filter("a =", 1).Order("-b"))
	s.keys("filter a = 1 order a", n.Filter("a =", 1).Order("a"))
	s.keys("filter a = 1 order -a, b", n.Filter("a =", 1).Order("-a").Order("b"))
	s.keys("filter b > 2 order b, c", n.Filter("b >", 2).Order("b").Order("c"))
	s.keys("filter a > 0 order -a, -b", n.Filter("a >", 0).Order("-a").Order("-b"))
	s.keys("kindless order key", datastore.NewQuery("").Order("__key__"))
	s.keys("kindless order -key", datastore.NewQuery("").Order("-__key__"))
}

func queryTypes(s *script) {
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	values := []any{nil, int64(-5), int64(0), int64(7), int64(math.MaxInt64), when, false, true, "", "a", "ab", "b", "ü", "\x00",
		datastore.ByteString("aa"), datastore.ByteString("\xff"), -2.5, 0.0, 3.0, math.Inf(1), math.Inf(-1),
		appengine.GeoPoint{Lat: 1, Lng: 2}, appengine.GeoPoint{Lat: 1, Lng: -2}, appengine.GeoPoint{Lat: -1, Lng: 5},
		appengine.BlobKey("bk"), s.key("Z", "z", 0, nil), s.key("Z", "", 9, nil), s.key("A", "x", 0, s.key("Z", "y", 0, nil)), s.key("A", "x", 0, nil)}
	for i, value := range values {
		s.fill(s.key("T", fmt.Sprintf("t%02d", i), 0, nil), property("p", value))
	}
	t := datastore.NewQuery("T")
	s.keys("order p", t.Order("p"))
	s.keys("order -p", t.Order("-p"))
	for i, value := range values {
		if value == nil {
			continue
		}
		name := fmt.Sprintf("%T(%v)", value, i)
		s.keys(name+" =", t.Filter("p =", value))
		s.keys(name+" <", t.Filter("p <", value))
		s.keys(name+" >=", t.Filter("p >=", value))
	}
	s.fill(s.key("F", "nan", 0, nil), property("p", math.NaN()))
	s.fill(s.key("F", "zero", 0, nil), property("p", 0.0))
	s.fill(s.key("F", "negative zero", 0, nil), property("p", math.Copysign(0, -1)))
	s.keys("floats = 0", datastore.NewQuery("F").Filter("p =", 0.0))
	s.keys("floats", datastore.NewQuery("F").Order("p"))
}

// Keys as values, where one is below another.
func queryKeyValues(s *script) {
	root := s.key("Z", "z", 0, nil)
	for i, key := range []*datastore.Key{root, s.key("A", "x", 0, root), s.key("A", "x", 0, s.key("A", "x", 0, root)), s.key("Z", "zz", 0, nil)} {
		s.fill(s.key("T", fmt.Sprint("t", i), 0, nil), property("p", key))
	}
	t := datastore.NewQuery("T")
	s.keys("key values", t.Order("p"))
	s.keys("key values above", t.Filter("p >", root))
	s.keys("key values equal", t.Filter("p =", root))
}

func queryLists(s *script) {
	list := func(name string, values ...any) {
		var properties []datastore.Property
		for _, value := range values {
			properties = append(properties, datastore.Property{Name: "l", Value: value, Multiple: true})
		}
		s.fill(s.key("L", name, 0, nil), properties...)
	}
	list("a", int64(1), int64(5), int64(9))
	list("b", int64(2), int64(3))
	list("c", int64(4))
	list("d")
	list("e", int64(5), "five", 5.0, nil)
	list("f", int64(3), int64(3), int64(7))
	l := datastore.NewQuery("L")
	s.keys("order", l.Order("l"))
	s.keys("order down", l.Order("-l"))
	s.keys("= 5", l.Filter("l =", 5))
	s.keys("= 5 and = 1", l.Filter("l =", 5).Filter("l =", 1))
	s.keys("> 2", l.Filter("l >", 2))
	s.keys("> 2 and < 4", l.Filter("l >", 2).Filter("l <", 4))
	s.keys("> 5 and < 9", l.Filter("l >", 5).Filter("l <", 9))
	s.keys("> 2 down", l.Filter("l >", 2).Order("-l"))
	s.keys("= 5 and > 5", l.Filter("l =", 5).Filter("l >", 5))
	s.keys("= 5 ordered", l.Filter("l =", 5).Order("l"))
	s.count("order", l.Order("l"))
	s.all("entities", l.Filter("l =", 3))
	s.keys("limit", l.Order("l").Limit(2))
	s.keys("offset", l.Order("l").Offset(2))
	page := l.Order("l").Limit(2).Run(s.ctx())
	for i := 0; i < 2; i++ {
		if _, err := page.Next(&datastore.PropertyList{}); err != nil {
			s.ask("next", err)
		}
	}
	if cursor, err := page.Cursor(); err != nil {
		s.ask("cursor", err)
	} else {
		s.keys("page 2", l.Order("l").Start(cursor))
	}
	s.all("project", l.Project("l"))
	s.all("project distinct", l.Project("l").Distinct())
}

func queryKeys(s *script) {
	s.fillNumbers()
	for i := 1; i <= 3; i++ {
		s.fill(s.key("Num", "", int64(i), nil), property("b", int64(i)))
	}
	s.fill(s.key("Num", "child", 0, s.key("Num", "n3", 0, nil)), property("b", int64(1)))
	s.fill(s.key("Num", "child", 0, s.key("M", "n3", 0, nil)), property("b", int64(1)))
	n := datastore.NewQuery("Num")
	s.keys("all", n)
	for _, key := range []*datastore.Key{s.key("Num", "n3", 0, nil), s.key("Num", "", 2, nil), s.key("M", "x", 0, nil), s.key("Z", "x", 0, nil),
		s.key("Num", "child", 0, s.key("Num", "n3", 0, nil)), s.key("Num", "absent", 0, nil)} {
		for _, op := range []string{"<", "<=", "=", ">=", ">"} {
			s.keys(op+keyText(key), n.Filter("__key__ "+op, key))
		}
	}
	s.keys("range", n.Filter("__key__ >", s.key("Num", "n3", 0, nil)).Filter("__key__ <", s.key("Num", "n6", 0, nil)))
	s.keys("range down", n.Filter("__key__ >", s.key("Num", "n3", 0, nil)).Order("-__key__"))
	s.keys("kindless range", datastore.NewQuery("").Filter("__key__ >", s.key("Num", "n8", 0, nil)))
	s.keys("key = and b =", n.Filter("__key__ =", s.key("Num", "n3", 0, nil)).Filter("b =", 3))
	s.keys("incomplete key", n.Filter("__key__ >", s.key("Num", "", 0, nil)))
	s.keys("not a key", n.Filter("__key__ =", "n3"))
	s.keys("not a key either", n.Filter("__key__ >", 3))
}

func queryAncestors(s *script) {
	root := s.key("R", "r", 0, nil)
	child := s.key("C", "c", 0, root)
	grandchild := s.key("C", "g", 0, child)
	other := s.key("C", "c", 0, s.key("R", "rr", 0, nil))
	for i, key := range []*datastore.Key{root, child, grandchild, other, s.key("C", "", 5, root), s.key("R", "r", 0, child)} {
		s.fill(key, property("num", int64(i)))
	}
	for _, ancestor := range []*datastore.Key{root, child, grandchild, other, s.key("R", "none", 0, nil), s.key("R", "", 1, nil)} {
		s.keys("kind C below "+keyText(ancestor), datastore.NewQuery("C").Ancestor(ancestor))
		s.keys("kind R below "+keyText(ancestor), datastore.NewQuery("R").Ancestor(ancestor))
		s.keys("any below "+keyText(ancestor), datastore.NewQuery("").Ancestor(ancestor))
	}
	s.keys("filter", datastore.NewQuery("C").Ancestor(root).Filter("num >", 1))
	s.keys("filter and order", datastore.NewQuery("C").Ancestor(root).Filter("num >", 0).Order("-num"))
	s.keys("order", datastore.NewQuery("C").Ancestor(root).Order("-num"))
	s.keys("key order down", datastore.NewQuery("C").Ancestor(root).Order("-__key__"))
	s.keys("key range", datastore.NewQuery("").Ancestor(root).Filter("__key__ >", root))
	s.keys("eventual", datastore.NewQuery("C").Ancestor(root).EventualConsistency())
	s.keys("incomplete ancestor", datastore.NewQuery("C").Ancestor(s.key("R", "", 0, nil)))
	s.count("below", datastore.NewQuery("").Ancestor(root))
}

func queryPages(s *script) {
	s.fillNumbers()
	n := datastore.NewQuery("Num").Order("b")
	for _, page := range [][2]int{{0, 0}, {0, 3}, {3, 3}, {8, 5}, {10, 5}, {50, 5}, {3, -1}, {0, -1}} {
		q := n.Offset(page[0]).Limit(page[1])
		s.keys(fmt.Sprintf("offset %d limit %d", page[0], page[1]), q)
		s.count(fmt.Sprintf("offset %d limit %d", page[0], page[1]), q)
	}
	for _, size := range []int{1, 3, 10, 100} {
		s.keys(fmt.Sprint("batch ", size), n.BatchSize(size))
		s.keys(fmt.Sprint("batch and limit ", size), n.BatchSize(size).Limit(7).Offset(2))
	}
	s.keys("negative offset", n.Offset(-1))
}

// walk takes a query page by page through its cursors.
func (s *script) walk(what string, query *datastore.Query, size int) {
	page := query.Limit(size)
	for i := 0; i < 20; i++ {
		it := page.Run(s.ctx())
		var texts []string
		for {
			var properties datastore.PropertyList
			key, err := it.Next(&properties)
			if err == datastore.Done {
				break
			}
			if err != nil {
				s.note("%s: page %d: %s", what, i, errorText(err))
				return
			}
			texts = append(texts, strings.TrimPrefix(keyText(key), s.space+"|"))
		}
		s.note("%s: page %d: %s", what, i, strings.Join(texts, " "))
		cursor, err := it.Cursor()
		if err != nil {
			s.note("%s: cursor: %s", what, errorText(err))
			return
		}
		// Through its text, as an app would hand it on.
		if cursor, err = datastore.DecodeCursor(cursor.String()); err != nil {
			s.note("%s: cursor: %s", what, errorText(err))
			return
		}
		if len(texts) == 0 {
			return
		}
		page = query.Limit(size).Start(cursor)
	}
}

func queryCursors(s *script) {
	s.fillNumbers()
	n := datastore.NewQuery("Num")
	s.walk("keys", n, 3)
	s.walk("keys only", n.KeysOnly(), 4)
	s.walk("order b", n.Order("b"), 3)
	s.walk("order -b", n.Order("-b"), 4)
	s.walk("order a, -b", n.Order("a").Order("-b"), 2)
	s.walk("order a", n.Order("a"), 2)
	s.walk("order -a", n.Order("-a"), 2)
	s.walk("filter", n.Filter("a =", 1), 2)
	s.walk("filter and order", n.Filter("a =", 1).Order("-b"), 2)
	s.walk("range", n.Filter("b >", 2), 3)
	s.walk("key range", n.Filter("__key__ >", s.key("Num", "n3", 0, nil)), 3)
	s.walk("kindless", datastore.NewQuery(""), 5)
	s.walk("project", n.Project("b"), 4)
	s.walk("exact", n.Order("b"), 10)
	s.walk("nothing", n.Filter("b =", 99), 2)

	// Start and end, and every position of an iterator.
	var cursors []datastore.Cursor
	it := n.Order("b").Run(s.ctx())
	for i := 0; ; i++ {
		cursor, err := it.Cursor()
		if err != nil {
			s.ask("cursor", err)
			return
		}
		cursors = append(cursors, cursor)
		if _, err := it.Next(&datastore.PropertyList{}); err != nil {
			s.ask("next", err)
			break
		}
	}
	for i, from := range cursors {
		s.keys(fmt.Sprint("from ", i), n.Order("b").Start(from))
		s.keys(fmt.Sprint("until ", i), n.Order("b").End(from))
		s.keys(fmt.Sprint("down from ", i), n.Order("-b").Start(from))
		s.keys(fmt.Sprint("from with offset ", i), n.Order("b").Start(from).Offset(1).Limit(2))
		s.count(fmt.Sprint("from ", i), n.Order("b").Start(from))
	}
	if len(cursors) > 7 {
		s.keys("from 3 until 7", n.Order("b").Start(cursors[3]).End(cursors[7]))
		s.keys("from 7 until 3", n.Order("b").Start(cursors[7]).End(cursors[3]))
		s.keys("cursor of another order", n.Order("c").Start(cursors[3]))
		s.keys("cursor of no order", n.Start(cursors[3]))
		s.keys("cursor of another kind", datastore.NewQuery("M").Order("b").Start(cursors[3]))
		s.keys("cursor with a filter more", n.Filter("a =", 1).Order("b").Start(cursors[3]))
	}
	it = n.Order("b").Offset(3).Limit(2).Run(s.ctx())
	cursor, err := it.Cursor()
	s.ask("cursor before the first result, with an offset", err)
	if err == nil {
		s.keys("from there", n.Order("b").Start(cursor))
	}
	_, err = datastore.DecodeCursor("nonsense")
	s.ask("nonsense", err)
	if cursor, err := datastore.DecodeCursor("CgA"); err != nil {
		s.ask("CgA", err)
	} else {
		s.keys("from CgA", n.Order("b").Start(cursor))
	}
}

func queryCursorsAfterChanges(s *script) {
	for i := 0; i < 10; i += 2 {
		s.fill(s.key("Num", fmt.Sprint("n", i), 0, nil), property("b", int64(i)))
	}
	n := datastore.NewQuery("Num").Order("b")
	it := n.Limit(2).Run(s.ctx())
	for i := 0; i < 2; i++ {
		if _, err := it.Next(&datastore.PropertyList{}); err != nil {
			s.ask("next", err)
		}
	}
	cursor, err := it.Cursor()
	if err != nil {
		s.ask("cursor", err)
		return
	}
	s.keys("unchanged", n.Start(cursor))
	s.fill(s.key("Num", "n3", 0, nil), property("b", int64(3)))
	s.fill(s.key("Num", "n1", 0, nil), property("b", int64(1)))
	s.keys("one before and one after", n.Start(cursor))
	s.ask("delete", datastore.Delete(s.ctx(), s.key("Num", "n2", 0, nil)))
	s.keys("the entity at the cursor deleted", n.Start(cursor))
	s.fill(s.key("Num", "n8", 0, nil), property("b", int64(0)))
	s.keys("one moved before", n.Start(cursor))
	s.fill(s.key("Num", "n25", 0, nil), property("b", int64(2)))
	s.fill(s.key("Num", "n15", 0, nil), property("b", int64(2)))
	s.keys("the same value, before and after by key", n.Start(cursor))
}

func queryProjection(s *script) {
	s.fillNumbers()
	n := datastore.NewQuery("Num")
	s.all("b", n.Project("b"))
	s.all("a, b", n.Project("a", "b"))
	s.all("b, a", n.Project("b", "a"))
	s.all("a distinct", n.Project("a").Distinct())
	s.all("a, c distinct on a", n.Project("a", "c").DistinctOn("a").Order("a"))
	s.all("a, c distinct on a down", n.Project("a", "c").DistinctOn("a").Order("-a").Order("-c"))
	s.all("unindexed", n.Project("u"))
	s.all("unknown", n.Project("zzz"))
	s.all("with filter", n.Project("b").Filter("a =", 1))
	s.all("with range", n.Project("b").Filter("b >", 5))
	s.all("with order", n.Project("a").Order("-b"))
	s.all("with equality on it", n.Project("a").Filter("a =", 1))
	s.all("limit", n.Project("b").Order("-b").Limit(3).Offset(1))
	s.all("key", n.Project("__key__"))
	s.all("twice", n.Project("b", "b"))
	s.all("keys only too", n.Project("b").KeysOnly())
	s.count("b", n.Project("b"))
	s.count("distinct", n.Project("a").Distinct())
	s.all("distinct on what is not projected", n.Project("a").DistinctOn("b"))
	s.all("order before group", n.Project("a", "b").DistinctOn("a").Order("b"))
	when := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	s.fill(s.key("V", "v", 0, nil), property("t", when), property("f", 1.5), property("s", "x"), property("k", s.key("Num", "n1", 0, nil)),
		property("bo", true), property("z", nil), property("bs", datastore.ByteString("\xff")), property("g", appengine.GeoPoint{Lat: 1, Lng: 2}))
	for _, name := range []string{"t", "f", "s", "k", "bo", "z", "bs", "g"} {
		s.all(name, datastore.NewQuery("V").Project(name))
	}
}

func queryErrors(s *script) {
	s.fillNumbers()
	n := datastore.NewQuery("Num")
	s.keys("inequality on two", n.Filter("a >", 0).Filter("b >", 0))
	s.keys("order before inequality", n.Filter("b >", 0).Order("a"))
	s.keys("order before inequality, with the property later", n.Filter("b >", 0).Order("a").Order("b"))
	s.keys("inequality on a property and the key", n.Filter("b >", 0).Filter("__key__ >", s.key("Num", "n3", 0, nil)))
	s.keys("key inequality, other order", n.Filter("__key__ >", s.key("Num", "n3", 0, nil)).Order("b"))
	s.keys("kindless with order", datastore.NewQuery("").Order("b"))
	s.keys("kindless with filter", datastore.NewQuery("").Filter("a >", 0))
	s.keys("empty filter", n.Filter("", 1))
	s.keys("unknown operator", n.Filter("a !=", 1))
	s.keys("empty order", n.Order(""))
	s.keys("plus order", n.Order("+a"))
	s.keys("struct as a value", n.Filter("a =", struct{}{}))
	s.keys("reserved property", n.Filter("__x__ =", 1))
	s.keys("order by a reserved property", n.Order("__x__"))
	s.keys("long string", n.Filter("c =", strings.Repeat("x", 1501)))
	many := n
	for i := 0; i < 101; i++ {
		many = many.Filter("a =", i)
	}
	s.keys("101 filters", many)
	s.keys("100 filters", func() *datastore.Query {
		q := n
		for i := 0; i < 100; i++ {
			q = q.Filter("a =", 1)
		}
		return q
	}())
	s.keys("reserved kind", datastore.NewQuery("__my__"))
	s.keys("bad utf-8", n.Filter("c =", "\xff"))
	s.keys("ancestor of another kind of namespace", n.Ancestor(datastore.NewKey(s.side.context("elsewhere"), "Num", "n1", 0, nil)))
	s.fields("IN on the wire", "RunQuery", message{}.bytes(1, "dev~testapp").bytes(29, s.space).bytes(3, "Num").
		group(4, message{}.varint(6, 6).bytes(14, string(message{}.bytes(3, "a").varint(4, 0).bytes(5, string(message{}.varint(1, 1)))))))
	s.raw("a filter of two properties", "datastore_v3", "RunQuery", message{}.bytes(1, "dev~testapp").bytes(29, s.space).bytes(3, "Num").
		group(4, message{}.varint(6, 5).bytes(14, string(message{}.bytes(3, "a").varint(4, 0).bytes(5, string(message{}.varint(1, 1))))).
			bytes(14, string(message{}.bytes(3, "b").varint(4, 0).bytes(5, string(message{}.varint(1, 1)))))))
	s.fields("a search", "RunQuery", message{}.bytes(1, "dev~testapp").bytes(29, s.space).bytes(3, "Nope").bytes(8, "find me"))
}

func queryMetadata(s *script) {
	s.fillNumbers()
	s.keys("kinds", datastore.NewQuery("__kind__"))
	s.keys("kinds from", datastore.NewQuery("__kind__").Filter("__key__ >", s.key("__kind__", "M", 0, nil)))
	s.keys("properties", datastore.NewQuery("__property__"))
	s.all("properties of a kind", datastore.NewQuery("__property__").Ancestor(s.key("__kind__", "M", 0, nil)))
}

func queryNamespaces(s *script) {
	first, last := s.space+"-1", s.space+"-2"
	for _, name := range []string{"", first, last} {
		ctx := s.side.context(name)
		_, err := datastore.Put(ctx, datastore.NewKey(ctx, "Tenant", "t", 0, nil), entity(property("num", int64(1))))
		s.ask("put", err)
	}
	at := func(name string, id int64) *datastore.Key { return s.key("__namespace__", name, id, nil) }
	n := datastore.NewQuery("__namespace__")
	in := n.Filter("__key__ >=", at(first, 0)).Filter("__key__ <=", at(last, 0)) // other scripts use others
	s.keys("namespaces", in)
	s.all("namespaces with entities", in)
	s.count("namespaces", in)
	s.keys("the default one", n.Filter("__key__ =", at("", 1)))
	s.keys("before names", n.Filter("__key__ <", at("-", 0)))
	s.keys("one", n.Filter("__key__ =", at(first, 0)))
	s.keys("none", n.Filter("__key__ =", at("nobody", 0)))
	s.keys("from", in.Filter("__key__ >", at(first, 0)))
	s.keys("limit", in.Limit(1))
	s.keys("offset", in.Offset(1))
	s.keys("order", in.Order("__key__"))
	s.walk("namespaces page by page", in.KeysOnly(), 1)

	s.keys("descending", in.Order("-__key__"))
	s.keys("order of a property", n.Order("num"))
	s.keys("filter of a property", n.Filter("num =", 1))
	s.all("projection", n.Project("num"))
	s.keys("ancestor", n.Ancestor(at(first, 0)))
	s.keys("key of another kind", n.Filter("__key__ >", s.key("Tenant", "t", 0, nil)))
	s.keys("another id", n.Filter("__key__ =", at("", 2)))
	s.keys("key below", n.Filter("__key__ =", s.key("__namespace__", "b", 0, at(first, 0))))
	s.ask("in a transaction", datastore.RunInTransaction(s.ctx(), func(ctx context.Context) error {
		_, err := n.Ancestor(at(first, 0)).KeysOnly().GetAll(ctx, nil)
		return err
	}, nil))

	ctx := s.side.context(first)
	keys, err := n.Filter("__key__ =", datastore.NewKey(ctx, "__namespace__", last, 0, nil)).KeysOnly().GetAll(ctx, nil)
	s.note("asked in a namespace: %s %s", keysText(keys), errorText(err))
	names, err := datastore.Namespaces(s.side.context())
	s.note("all: %t %t %s", slices.Contains(names, ""), slices.Contains(names, last), errorText(err))
	ctx = s.side.context(last)
	s.ask("delete", datastore.Delete(ctx, datastore.NewKey(ctx, "Tenant", "t", 0, nil)))
	s.keys("one without entities", n.Filter("__key__ =", at(last, 0)))
}

func queryLarge(s *script) {
	const total = 1250
	for start := 0; start < total; start += 250 {
		keys := make([]*datastore.Key, 250)
		lists := make([]datastore.PropertyList, len(keys))
		for i := range keys {
			keys[i], lists[i] = s.key("Big", "", int64(start+i+1), nil), datastore.PropertyList{property("num", int64(start+i)), property("m", int64((start+i)%7))}
		}
		if _, err := datastore.PutMulti(s.ctx(), keys, lists); err != nil {
			s.ask("put", err)
			return
		}
	}
	big := datastore.NewQuery("Big")
	total2 := func(what string, q *datastore.Query) {
		keys, err := q.KeysOnly().GetAll(s.ctx(), nil)
		first, last := "", ""
		if len(keys) > 0 {
			first, last = keyText(keys[0]), keyText(keys[len(keys)-1])
		}
		s.note("%s: %d from %s to %s %s", what, len(keys), first, last, errorText(err))
	}
	total2("all", big)
	total2("order -n", big.Order("-num"))
	total2("limit 1100", big.Limit(1100))
	total2("offset 1100", big.Offset(1100))
	total2("m = 3", big.Filter("m =", 3))
	total2("batch 1000", big.BatchSize(1000))
	total2("offset 1240 of batch 5", big.Offset(1240).BatchSize(5))
	s.count("all", big)
	s.count("limit 1100", big.Limit(1100))
	s.count("offset 1100", big.Offset(1100))
	s.count("m = 3", big.Filter("m =", 3))
	s.walk("pages of 700", big, 700)
}
