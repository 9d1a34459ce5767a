package gaelocal

import (
	"slices"
	"sort"
	"strings"
)

// indexes keeps entities in the order of their keys and of their properties,
// kind by kind. An index begins to exist with the first query that wants it.
type indexes struct{ kinds map[string]*kindIndex }

// kindIndex has the indexes of one kind in one namespace.
type kindIndex struct {
	keys       *rows
	properties map[string]*rows
}

func newIndexes() indexes { return indexes{kinds: make(map[string]*kindIndex)} }

func (x *indexes) add(e *entity) {
	k := x.kinds[e.key.kind]
	if k == nil {
		return
	}
	k.keys.insert(row{e: e})
	for _, v := range e.indexed {
		if r := k.properties[v.name]; r != nil {
			r.insert(row{v.value, e})
		}
	}
}

func (x *indexes) remove(e *entity) {
	k := x.kinds[e.key.kind]
	if k == nil {
		return
	}
	k.keys.remove(row{e: e})
	for _, v := range e.indexed {
		if r := k.properties[v.name]; r != nil {
			r.remove(row{v.value, e})
		}
	}
}

// get returns the index of a property, or of the keys if property is empty; nil
// if it does not exist yet.
func (x *indexes) get(kind, property string) *rows {
	k := x.kinds[kind]
	switch {
	case k == nil:
		return nil
	case property == "":
		return k.keys
	default:
		return k.properties[property]
	}
}

// build makes the index that get did not find.
func (x *indexes) build(groups map[string]*group, kind, property string) {
	k := x.kinds[kind]
	if k == nil {
		var all []row
		for _, g := range groups {
			for _, e := range g.entities {
				if e.key.kind == kind {
					all = append(all, row{e: e})
				}
			}
		}
		k = &kindIndex{keys: newRows(all), properties: make(map[string]*rows)}
		x.kinds[kind] = k
	}
	if property == "" || k.properties[property] != nil {
		return
	}
	var all []row
	k.keys.from("", "", func(r row) bool {
		for _, v := range r.e.indexed {
			if v.name == property {
				all = append(all, row{v.value, r.e})
			}
		}
		return true
	})
	k.properties[property] = newRows(all)
}

// row is an entity at one value of a property.
type row struct {
	value string
	e     *entity
}

func (r row) compare(value, path string) int {
	if c := strings.Compare(r.value, value); c != 0 {
		return c
	}
	return strings.Compare(r.e.key.path, path)
}

func compareRows(a, b row) int { return a.compare(b.value, b.e.key.path) }

// rows is an ordered set of rows, by value and key, in chunks small enough to
// be moved when a row comes or goes. No chunk is empty.
type rows struct{ chunks [][]row }

const (
	newChunkRows = 256 // rows in a chunk of a new index
	maxChunkRows = 512 // rows in a chunk before it is split
)

func newRows(all []row) *rows {
	slices.SortFunc(all, compareRows)
	all = slices.CompactFunc(all, func(a, b row) bool { return compareRows(a, b) == 0 })
	r := &rows{}
	for part := range slices.Chunk(all, newChunkRows) {
		r.chunks = append(r.chunks, slices.Clone(part))
	}
	return r
}

// seek returns where the first row is that is not below value and path; past
// the last chunk if there is none.
func (r *rows) seek(value, path string) (chunk, i int) {
	chunk = sort.Search(len(r.chunks), func(n int) bool {
		c := r.chunks[n]
		return c[len(c)-1].compare(value, path) >= 0
	})
	if chunk == len(r.chunks) {
		return chunk, 0
	}
	c := r.chunks[chunk]
	return chunk, sort.Search(len(c), func(n int) bool { return c[n].compare(value, path) >= 0 })
}

func (r *rows) insert(in row) {
	chunk, i := r.seek(in.value, in.e.key.path)
	if chunk == len(r.chunks) {
		if chunk == 0 {
			r.chunks = [][]row{{in}}
			return
		}
		chunk--
		i = len(r.chunks[chunk])
	}
	c := r.chunks[chunk]
	if i < len(c) && compareRows(c[i], in) == 0 {
		c[i] = in
		return
	}
	c = slices.Insert(c, i, in)
	r.chunks[chunk] = c
	if len(c) > maxChunkRows {
		half := len(c) / 2
		r.chunks = slices.Insert(r.chunks, chunk+1, slices.Clone(c[half:]))
		clear(c[half:])
		r.chunks[chunk] = c[:half]
	}
}

func (r *rows) remove(out row) {
	chunk, i := r.seek(out.value, out.e.key.path)
	if chunk == len(r.chunks) || compareRows(r.chunks[chunk][i], out) != 0 {
		return
	}
	if len(r.chunks[chunk]) == 1 {
		r.chunks = slices.Delete(r.chunks, chunk, chunk+1)
		return
	}
	r.chunks[chunk] = slices.Delete(r.chunks[chunk], i, i+1)
}

// from calls f for the rows from value and path on, in order, until it returns
// false.
func (r *rows) from(value, path string, f func(row) bool) {
	chunk, i := r.seek(value, path)
	for ; chunk < len(r.chunks); chunk++ {
		for _, row := range r.chunks[chunk][i:] {
			if !f(row) {
				return
			}
		}
		i = 0
	}
}
