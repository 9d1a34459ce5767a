package gaelocal

import (
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

// Limits of an answer to a query. Up to maxResults and maxSkipped they are
// those of Google's datastore_stub_util.py.
const (
	maxResults     = 300
	maxSkipped     = 1000
	maxResultBytes = 2_000_000

	// maxCombinations is Datastore's limit of an entity's index entries.
	maxCombinations = 20000

	// Results kept for queries that are not read to their end. Those begun
	// first are forgotten first.
	maxRetained = 4 << 20
	maxRunning  = 1000
)

// result is a result of a query.
type result struct {
	e *entity

	// values are those that the orders sort by; nil if they are the entity's
	// own, see plan.sortValue.
	values []string

	// projected are the values of the projected properties.
	projected []string
}

// position is a place between results: before or after where the values would
// be.
type position struct {
	values []string // one for each order; empty: before everything
	before bool
}

// running is a query whose results are decided, but not all answered.
type running struct {
	plan    *plan
	compile bool
	results []result
	start   *position // where the results begin

	mu     sync.Mutex // guards what follows
	next   int        // the first result not yet answered or skipped
	offset int        // how many results still to skip
	count  int        // how many results to answer if a call does not say
}

// queries are those with results left to answer.
type queries struct {
	mu       sync.Mutex
	last     uint64
	running  map[uint64]*running
	begun    []uint64 // ids in order; some may be gone from running
	retained int      // results in running
}

func (q *queries) init() { q.running = make(map[uint64]*running) }

// keep remembers r for Next and returns its id.
func (q *queries) keep(r *running) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last++
	q.running[q.last] = r
	q.begun = append(q.begun, q.last)
	q.retained += len(r.results)
	for len(q.begun) > 0 {
		oldest := q.begun[0]
		if old := q.running[oldest]; old != nil {
			if oldest == q.last || len(q.running) <= maxRunning && q.retained <= maxRetained {
				break
			}
			q.drop(oldest)
		}
		q.begun = q.begun[1:]
	}
	return q.last
}

// drop forgets a query. The caller holds the lock.
func (q *queries) drop(id uint64) {
	if r := q.running[id]; r != nil {
		q.retained -= len(r.results)
		delete(q.running, id)
	}
}

func (d *datastore) runQuery(req *wire.Query) (*wire.QueryResult, *Error) {
	r, failed := d.run(req)
	if failed != nil {
		return nil, failed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	res, failed := d.batch(r, r.count, r.compile)
	if failed != nil {
		return nil, failed
	}
	if res.GetMoreResults() {
		res.Cursor = &wire.Cursor{Cursor: proto.Uint64(d.queries.keep(r)), App: &d.appID}
	}
	return res, nil
}

func (d *datastore) next(req *wire.NextRequest) (*wire.QueryResult, *Error) {
	if failed := d.checkApp(req.GetCursor().GetApp()); failed != nil {
		return nil, failed
	}
	id := req.GetCursor().GetCursor()
	d.queries.mu.Lock()
	r := d.queries.running[id]
	d.queries.mu.Unlock()
	if r == nil {
		return nil, badRequest("Cursor %d not found", id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Offset != nil && int(req.GetOffset()) != r.offset {
		return nil, badRequest("Invalid offset provided. Got %d expected %d.", req.GetOffset(), r.offset)
	}
	count := r.count
	if req.Count != nil && req.GetCount() >= 0 {
		count = int(req.GetCount())
	}
	res, failed := d.batch(r, count, req.GetCompile())
	if failed != nil {
		return nil, failed
	}
	if res.GetMoreResults() {
		res.Cursor = req.Cursor
	} else {
		d.queries.mu.Lock()
		d.queries.drop(id)
		d.queries.mu.Unlock()
	}
	return res, nil
}

func (d *datastore) countResults(req *wire.Query) (*wire.Integer64Proto, *Error) {
	r, failed := d.run(req)
	if failed != nil {
		return nil, failed
	}
	return &wire.Integer64Proto{Value: proto.Int64(int64(max(0, len(r.results)-r.offset)))}, nil
}

// run decides the results of a query.
func (d *datastore) run(req *wire.Query) (*running, *Error) {
	p, failed := d.plan(req)
	if failed != nil {
		return nil, failed
	}
	if req.GetOffset() < 0 {
		return nil, badRequest("Offset must be >= 0")
	}
	r := &running{plan: p, compile: req.GetCompile(), offset: int(req.GetOffset()), count: maxResults}
	switch {
	case req.Count != nil:
		r.count = int(req.GetCount())
	case req.Limit != nil:
		r.count = int(req.GetLimit())
	}
	if r.count < 0 {
		r.count = maxResults
	}
	if r.start, failed = p.decodeCursor(req.GetCompiledCursor()); failed != nil {
		return nil, failed
	}
	end, failed := p.decodeCursor(req.GetEndCompiledCursor())
	if failed != nil {
		return nil, failed
	}
	if req.EndCompiledCursor != nil && end == nil {
		return r, nil // a cursor at the very beginning
	}
	wanted := -1
	if req.Limit != nil && req.GetLimit() >= 0 {
		wanted = int(req.GetLimit()) + r.offset
	}
	search := &search{plan: p, start: r.start, end: end, wanted: wanted}
	if req.GetKind() == namespaceKind {
		namespaces, failed := d.namespaces(req)
		if failed != nil {
			return nil, failed
		}
		for _, e := range namespaces {
			search.add(e, nil, "")
		}
	} else if pb := req.GetTransaction(); pb != nil {
		t, failed := d.transaction(pb)
		if failed != nil {
			return nil, failed
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		entities, failed := t.read(d.store, p.root)
		if failed != nil {
			return nil, failed
		}
		search.group(entities)
	} else {
		d.store.search(search)
	}
	if search.failed != nil {
		return nil, search.failed
	}
	r.results = search.finish()
	return r, nil
}

// search collects the results of a plan.
type search struct {
	plan   *plan
	start  *position // nil: the beginning
	end    *position // nil: the end
	wanted int       // no more results than that; negative: all

	ordered bool // entities come in the order of the results
	results []result
	failed  *Error
}

// add takes an entity that has the plan's kind and ancestor and, if by is not
// nil, comes from the index of that order at the value. It reports whether more
// are wanted.
func (s *search) add(e *entity, by *order, value string) bool {
	if !s.plan.match(e) {
		return true
	}
	if len(s.plan.project) > 0 {
		if by == nil || s.plan.sortValue(e, *by) == value { // once for each entity
			var more []result
			more, s.failed = s.plan.combinations(e)
			s.results = append(s.results, more...)
		}
		return s.failed == nil
	}
	if by != nil && s.plan.sortValue(e, *by) != value {
		return true // it has its place at another value
	}
	r := result{e: e}
	if s.start != nil && s.plan.isBefore(r, s.start) {
		return true
	}
	if s.end != nil && !s.plan.isBefore(r, s.end) {
		return !s.ordered
	}
	if !s.ordered {
		r.values = s.plan.sortValues(e)
	}
	s.results = append(s.results, r)
	return !s.ordered || s.wanted < 0 || len(s.results) < s.wanted
}

// group searches one entity group below the plan's ancestor.
func (s *search) group(entities []*entity) {
	p := s.plan
	s.ordered = len(p.orders) == 1 && !p.orders[0].down && len(p.project) == 0
	i, _ := find(entities, p.ancestor)
	for ; i < len(entities) && strings.HasPrefix(entities[i].key.path, p.ancestor); i++ {
		if e := entities[i]; p.kind == "" || e.key.kind == p.kind {
			if !s.add(e, nil, "") {
				return
			}
		}
	}
}

// search looks for results in what is stored now.
func (s *store) search(in *search) {
	p := in.plan
	switch {
	case in.wanted == 0:
	case p.ancestor != "":
		entities, _ := s.snapshot(p.root)
		in.group(entities)
	case p.kind != "":
		s.searchKind(in)
	default:
		s.mu.RLock()
		defer s.mu.RUnlock()
		prefix := string(appendEscaped(nil, p.namespace))
		for root, g := range s.groups {
			if strings.HasPrefix(root, prefix) {
				for _, e := range g.entities {
					if !in.add(e, nil, "") {
						return
					}
				}
			}
		}
	}
}

// searchKind looks for results in the index that fits best.
func (s *store) searchKind(in *search) {
	p := in.plan
	by := p.orders[0]
	property, from, to := by.property, bound{}, bound{}
	in.ordered = !by.down && (by.property == keyProperty || len(p.orders) == 2 && p.orders[1] == order{keyProperty, false})
	if f := p.filter(by.property); f != nil {
		from, to = f.low, f.high
	}
	var indexOrder *order
	if by.property == keyProperty {
		property = ""
	} else {
		indexOrder = &by
	}
	for _, f := range p.filters {
		if len(f.equal) > 0 && f.property != keyProperty {
			// All results are at one value, in the order of their keys.
			in.ordered = len(p.orders) == 1 && !by.down
			property, indexOrder = f.property, nil
			from = bound{f.equal[0], true, true}
			to = from
			break
		}
	}
	in.ordered = in.ordered && len(p.project) == 0
	rows := s.index(p.kind, property)
	defer s.mu.RUnlock()
	value, path := from.value, ""
	if property == "" {
		value, path = "", from.value
	}
	if in.ordered && in.start != nil {
		// Nothing before the cursor can be a result.
		last := len(in.start.values) - 1
		switch {
		case indexOrder != nil:
			if v := in.start.values[0]; v >= value {
				value, path = v, in.start.values[last]
			}
		default:
			path = max(path, in.start.values[last])
		}
	}
	rows.from(value, path, func(r row) bool {
		at := r.value
		if property == "" {
			at = r.e.key.path
		}
		if to.set && at > to.value {
			return false
		}
		return in.add(r.e, indexOrder, r.value)
	})
}

// index returns an index, and the read lock of s held.
func (s *store) index(kind, property string) *rows {
	for {
		s.mu.RLock()
		if r := s.indexes.get(kind, property); r != nil {
			return r
		}
		s.mu.RUnlock()
		s.mu.Lock()
		s.indexes.build(s.groups, kind, property)
		s.mu.Unlock()
	}
}

// finish sorts and cuts what was found.
func (s *search) finish() []result {
	if !s.ordered {
		slices.SortFunc(s.results, s.plan.compare)
	}
	if len(s.plan.groupBy) > 0 {
		s.results = s.plan.distinct(s.results)
	}
	if len(s.plan.project) > 0 { // add left these to us
		s.results = slices.DeleteFunc(s.results, func(r result) bool {
			return s.start != nil && s.plan.isBefore(r, s.start) || s.end != nil && !s.plan.isBefore(r, s.end)
		})
	}
	if s.wanted >= 0 && len(s.results) > s.wanted {
		s.results = slices.Clip(s.results[:s.wanted])
	}
	return s.results
}

// value is the value by which a result takes its place in the i-th order.
func (p *plan) value(r result, i int) string {
	if r.values != nil {
		return r.values[i]
	}
	return p.sortValue(r.e, p.orders[i])
}

func (p *plan) sortValues(e *entity) []string {
	values := make([]string, len(p.orders))
	for i, o := range p.orders {
		values[i] = p.sortValue(e, o)
	}
	return values
}

func (p *plan) compare(a, b result) int {
	for i, o := range p.orders {
		c := strings.Compare(p.value(a, i), p.value(b, i))
		if c != 0 && o.down {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return strings.Compare(a.e.key.path, b.e.key.path)
}

// isBefore reports whether a result lies before a position.
func (p *plan) isBefore(r result, at *position) bool {
	for i, o := range p.orders {
		if at.values[i] == absent {
			continue
		}
		c := strings.Compare(p.value(r, i), at.values[i])
		if c != 0 && o.down {
			c = -c
		}
		if c != 0 {
			return c < 0
		}
	}
	return !at.before
}

// combinations returns the results of a projection that an entity yields: one
// for each combination of values of the properties in question.
func (p *plan) combinations(e *entity) ([]result, *Error) {
	names := slices.Clone(p.project)
	for _, o := range p.orders {
		if o.property != keyProperty && !slices.Contains(names, o.property) {
			names = append(names, o.property)
		}
	}
	tuples := [][]string{nil}
	for _, name := range names {
		f := p.filter(name)
		var values []string
		eachValue(e, name, func(value string) {
			if (f == nil || f.admits(value)) && !slices.Contains(values, value) {
				values = append(values, value)
			}
		})
		if len(tuples)*len(values) > maxCombinations {
			return nil, badRequest("an entity has more than %d combinations of the projected properties", maxCombinations)
		}
		var longer [][]string
		for _, tuple := range tuples {
			for _, value := range values {
				longer = append(longer, append(slices.Clip(tuple), value))
			}
		}
		tuples = longer
	}
	results := make([]result, 0, len(tuples))
	for _, tuple := range tuples {
		values := make([]string, len(p.orders))
		for i, o := range p.orders {
			if o.property == keyProperty {
				values[i] = e.key.path
			} else {
				values[i] = tuple[slices.Index(names, o.property)]
			}
		}
		results = append(results, result{e, values, tuple[:len(p.project)]})
	}
	return results, nil
}

// distinct keeps the first result of each group.
func (p *plan) distinct(results []result) []result {
	seen := make(map[string]bool)
	return slices.DeleteFunc(results, func(r result) bool {
		var group []byte
		for _, name := range p.groupBy {
			if i := slices.Index(p.project, name); i >= 0 {
				group = appendEscaped(group, r.projected[i])
			}
		}
		if seen[string(group)] {
			return true
		}
		seen[string(group)] = true
		return false
	})
}

// batch answers the next results of r. The caller holds its lock.
func (d *datastore) batch(r *running, count int, compile bool) (*wire.QueryResult, *Error) {
	res := &wire.QueryResult{KeysOnly: &r.plan.keysOnly}
	offset := min(r.offset, len(r.results)-r.next)
	skipped := min(offset, maxSkipped)
	if skipped > 0 {
		r.next += skipped
		r.offset -= skipped
		res.SkippedResults = proto.Int32(int32(skipped))
	}
	if skipped == offset {
		bytes := 0
		for n := min(count, maxResults, len(r.results)-r.next); n > 0 && bytes < maxResultBytes; n-- {
			raw, failed := r.plan.answer(r.results[r.next])
			if failed != nil {
				return nil, failed
			}
			res.Result = append(res.Result, raw)
			bytes += len(raw)
			r.next++
		}
	}
	res.MoreResults = proto.Bool(r.next < len(r.results))
	if compile {
		at := r.start
		if r.next > 0 {
			last := r.results[r.next-1]
			values := last.values
			if values == nil {
				values = r.plan.sortValues(last.e)
			}
			at = &position{values: values}
		}
		res.CompiledCursor = r.plan.encodeCursor(at)
	}
	return res, nil
}

// Fields of EntityProto.
const (
	entityFieldKey      = 13
	entityFieldProperty = 14
	entityFieldGroup    = 16
)

// answer encodes a result: the entity, its key, or the projected properties.
func (p *plan) answer(r result) ([]byte, *Error) {
	if !p.keysOnly && len(p.project) == 0 {
		return r.e.raw, nil
	}
	var out []byte
	answered := make([]bool, len(p.project))
	for in := r.e.raw; len(in) > 0; {
		field, kind, n := protowire.ConsumeTag(in)
		if n < 0 {
			return nil, damaged(protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(field, kind, in[n:])
		if size < 0 {
			return nil, damaged(protowire.ParseError(size))
		}
		whole := in[:n+size]
		switch {
		case field == entityFieldKey:
			out = append(out, whole...)
		case field == entityFieldProperty && len(p.project) > 0:
			value, _ := protowire.ConsumeBytes(in[n:])
			i, projected, err := p.projectProperty(r, value)
			if err != nil {
				return nil, damaged(err)
			}
			if projected != nil && !answered[i] {
				answered[i] = true
				out = protowire.AppendTag(out, entityFieldProperty, protowire.BytesType)
				out = protowire.AppendBytes(out, projected)
			}
		}
		in = in[n+size:]
	}
	out = protowire.AppendTag(out, entityFieldGroup, protowire.BytesType)
	return protowire.AppendBytes(out, nil), nil
}

func damaged(err error) *Error {
	return &Error{Code: datastoreInternalError, Detail: "decoding a stored entity: " + err.Error()}
}

// projectProperty returns a property of an entity as a projection shows it, and
// which of the projected ones it is; nil if the result does not have it.
func (p *plan) projectProperty(r result, raw []byte) (int, []byte, error) {
	var property wire.Property
	if err := proto.Unmarshal(raw, &property); err != nil {
		return 0, nil, err
	}
	i, ok := slices.BinarySearch(p.project, property.GetName())
	if !ok || encodeValue(property.GetValue()) != r.projected[i] {
		return 0, nil, nil
	}
	out, err := proto.Marshal(&wire.Property{
		Name:     property.Name,
		Meaning:  proto.Int32(meaningIndexValue),
		Multiple: proto.Bool(false),
		Value:    property.Value,
	})
	return i, out, err
}
