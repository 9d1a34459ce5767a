package gaelocal

import (
	"slices"
	"strings"

	"github.com/gaesession/gaesession/internal/wire"
)

const (
	keyProperty = "__key__"

	// maxComponents is how many filters, orders and ancestors a query may have:
	// the limit of Google's development server.
	maxComponents = 63
)

// plan is a query that has been checked: what to match and how to order it.
type plan struct {
	namespace string
	kind      string // as kindKey has it; empty: all kinds
	ancestor  string // the encoded key; empty: none
	root      string // of the ancestor's entity group
	filters   []filter
	orders    []order // the last is always by key
	keysOnly  bool
	project   []string // names of projected properties, sorted
	groupBy   []string
}

// filter is what the values of one property must satisfy. The zero value asks
// for any value.
type filter struct {
	property string
	equal    []string
	low      bound
	high     bound
}

type bound struct {
	value     string
	inclusive bool
	set       bool
}

type order struct {
	property string
	down     bool
}

func isInequality(op wire.Query_Filter_Operator) bool {
	switch op {
	case wire.Query_Filter_LESS_THAN, wire.Query_Filter_LESS_THAN_OR_EQUAL,
		wire.Query_Filter_GREATER_THAN, wire.Query_Filter_GREATER_THAN_OR_EQUAL:
		return true
	default:
		return false
	}
}

// plan checks a query the way Google's development server does.
func (d *datastore) plan(q *wire.Query) (*plan, *Error) {
	if failed := d.checkApp(q.GetApp()); failed != nil {
		return nil, failed
	}
	if reservedName(q.GetKind()) && metadataKind(q.GetKind()) {
		return nil, badRequest("gaelocal has no such metadata: queries of kind %s are not supported", q.GetKind())
	}
	p := &plan{
		namespace: q.GetNameSpace(),
		keysOnly:  q.GetKeysOnly(),
		project:   q.GetPropertyName(),
		groupBy:   q.GetGroupByPropertyName(),
	}
	if q.Kind != nil {
		p.kind = kindKey(q.GetNameSpace(), q.GetKind())
	}
	n, failed := normalize(q)
	if failed != nil {
		return nil, failed
	}
	if failed := d.checkQuery(q, n); failed != nil {
		return nil, failed
	}
	if q.Ancestor != nil {
		key := encodeKey(q.GetAncestor())
		p.ancestor, p.root = key.path, key.root
	}
	p.filters = n.merged()
	p.orders = n.implied()
	slices.Sort(p.project)
	return p, nil
}

// metadataKind reports whether Datastore answers queries of a kind from what it
// knows about the stored entities, and gaelocal does not. It answers those of
// __namespace__.
func metadataKind(kind string) bool {
	switch kind {
	case "__kind__", "__property__", "__entity_group__":
		return true
	default:
		return false
	}
}

// normalized is a query's filters and orders without those that say nothing.
type normalized struct {
	filters []*wire.Query_Filter
	exists  []string // further properties that must have a value, sorted
	orders  []order
}

func normalize(q *wire.Query) (*normalized, *Error) {
	n := &normalized{}
	equal, inequal := map[string]bool{}, map[string]bool{}
	for _, f := range q.GetFilter() {
		if len(f.GetProperty()) != 1 {
			return nil, badRequest("Filter has %d properties, expected 1", len(f.GetProperty()))
		}
		name := f.GetProperty()[0].GetName()
		switch {
		case f.GetOp() == wire.Query_Filter_IN: // of one value
			f.Op = wire.Query_Filter_EQUAL.Enum()
			equal[name] = true
		case f.GetOp() == wire.Query_Filter_EQUAL:
			equal[name] = true
		case isInequality(f.GetOp()):
			inequal[name] = true
		}
		if f.GetOp() != wire.Query_Filter_EXISTS {
			n.filters = append(n.filters, f)
		}
	}
	known := map[string]bool{} // properties about which no more need be said
	for name := range equal {
		if !inequal[name] {
			known[name] = true
		}
	}
	keyed := known[keyProperty]
	ended := keyed
	for _, o := range q.GetOrder() {
		name := o.GetProperty()
		if known[name] {
			continue
		}
		known[name] = true
		if !ended {
			n.orders = append(n.orders, order{name, o.GetDirection() == wire.Query_Order_DESCENDING})
		}
		ended = ended || name == keyProperty // keys are unique
	}
	for name := range inequal {
		known[name] = true
	}
	exists := slices.Clone(q.GetPropertyName())
	for _, f := range q.GetFilter() {
		if f.GetOp() == wire.Query_Filter_EXISTS {
			exists = append(exists, f.GetProperty()[0].GetName())
		}
	}
	for _, name := range exists {
		if !known[name] {
			known[name] = true
			n.exists = append(n.exists, name)
		}
	}
	slices.Sort(n.exists)
	return n, nil
}

// checkQuery checks what Datastore checks, in its order: the first error is
// answered.
func (d *datastore) checkQuery(q *wire.Query, n *normalized) *Error {
	for _, check := range []func(*wire.Query, *normalized) *Error{
		checkProjection, checkShape, d.checkAncestor, checkGrouping, checkFilters, checkInequality, checkKindless, checkNamespaces,
	} {
		if failed := check(q, n); failed != nil {
			return failed
		}
	}
	return nil
}

func checkProjection(q *wire.Query, _ *normalized) *Error {
	names := q.GetPropertyName()
	for i, name := range names {
		switch {
		case q.GetKeysOnly():
			return badRequest("projection and keys_only cannot both be set")
		case reservedName(name):
			return badRequest("projections are not supported for the property: %s", name)
		case slices.Contains(names[:i], name):
			return badRequest("cannot project a property multiple times")
		}
	}
	return nil
}

func checkShape(q *wire.Query, n *normalized) *Error {
	if q.Transaction != nil && q.Ancestor == nil {
		return badRequest("Only ancestor queries are allowed inside transactions.")
	}
	components := len(n.filters) + len(n.exists) + len(n.orders)
	if q.Ancestor != nil {
		components++
	}
	if components > maxComponents {
		return badRequest("query is too large. may not have more than %d filters + sort orders ancestor total", maxComponents)
	}
	return nil
}

func (d *datastore) checkAncestor(q *wire.Query, _ *normalized) *Error {
	a := q.GetAncestor()
	switch {
	case a == nil:
		return nil
	case a.GetApp() != q.GetApp():
		return badRequest("query app is %s but ancestor app is %s", q.GetApp(), a.GetApp())
	case a.GetNameSpace() != q.GetNameSpace():
		return badRequest("query namespace is %s but ancestor namespace is %s", q.GetNameSpace(), a.GetNameSpace())
	}
	return d.checkKey(a, true)
}

func checkGrouping(q *wire.Query, n *normalized) *Error {
	group := slices.Compact(slices.Sorted(slices.Values(q.GetGroupByPropertyName())))
	for _, o := range n.orders[:min(len(group), len(n.orders))] {
		if !slices.Contains(group, o.property) {
			return badRequest("items in the group by clause must be specified first in the ordering")
		}
	}
	return nil
}

// checkFilters checks each filter beside the query, and that only one property
// has inequalities.
func checkFilters(q *wire.Query, n *normalized) *Error {
	inequality, _ := n.inequality()
	for _, f := range n.filters {
		p := f.GetProperty()[0]
		name := p.GetName()
		if name == keyProperty {
			ref := p.GetValue().Referencevalue
			switch {
			case ref == nil:
				return badRequest("%s filter value must be a Key", keyProperty)
			case ref.GetApp() != q.GetApp():
				return badRequest("%s filter app is %s but query app is %s", keyProperty, ref.GetApp(), q.GetApp())
			case ref.GetNameSpace() != q.GetNameSpace():
				return badRequest("%s filter namespace is %s but query namespace is %s", keyProperty, ref.GetNameSpace(), q.GetNameSpace())
			}
		}
		switch {
		case f.GetOp() == wire.Query_Filter_EQUAL && slices.Contains(q.GetPropertyName(), name):
			return badRequest("cannot use projection on a property with an equality filter")
		case isInequality(f.GetOp()) && name != inequality:
			return badRequest("Only one inequality filter per query is supported. Encountered both %s and %s", inequality, name)
		}
	}
	return nil
}

// inequality returns the property of the first inequality.
func (n *normalized) inequality() (property string, found bool) {
	for _, f := range n.filters {
		if isInequality(f.GetOp()) {
			return f.GetProperty()[0].GetName(), true
		}
	}
	return "", false
}

func checkInequality(q *wire.Query, n *normalized) *Error {
	inequality, found := n.inequality()
	if !found {
		return nil
	}
	if len(n.orders) > 0 && n.orders[0].property != inequality {
		return badRequest("The first sort property must be the same as the property to which the inequality filter is applied.  "+
			"In your query the first sort property is %s but the inequality filter is on %s", n.orders[0].property, inequality)
	}
	group := q.GetGroupByPropertyName()
	if len(group) > 0 && len(n.orders) == 0 && !slices.Contains(group, inequality) {
		return badRequest("Inequality filter on %s must also be a group by property when group by properties are set.", inequality)
	}
	return nil
}

// checkKindless checks a query of all kinds.
func checkKindless(q *wire.Query, n *normalized) *Error {
	if q.Kind != nil {
		return nil
	}
	named := len(n.exists) > 0
	for _, f := range n.filters {
		named = named || f.GetProperty()[0].GetName() != keyProperty
	}
	if named {
		return badRequest("kind is required for non-__key__ filters")
	}
	for _, o := range n.orders {
		if o.property != keyProperty || o.down {
			return badRequest("kind is required for all orders except __key__ ascending")
		}
	}
	return nil
}

// merged returns one filter for each property that is filtered or ordered by.
func (n *normalized) merged() []filter {
	var merged []filter
	at := func(name string) *filter {
		for i := range merged {
			if merged[i].property == name {
				return &merged[i]
			}
		}
		merged = append(merged, filter{property: name})
		return &merged[len(merged)-1]
	}
	for _, in := range n.filters {
		p := in.GetProperty()[0]
		f := at(p.GetName())
		value := encodeValue(p.GetValue())
		if p.GetName() == keyProperty {
			value = referencePath(p.GetValue().Referencevalue)
		}
		switch in.GetOp() {
		case wire.Query_Filter_EQUAL:
			f.equal = append(f.equal, value)
		case wire.Query_Filter_GREATER_THAN:
			f.low = tighter(f.low, bound{value, false, true}, 1)
		case wire.Query_Filter_GREATER_THAN_OR_EQUAL:
			f.low = tighter(f.low, bound{value, true, true}, 1)
		case wire.Query_Filter_LESS_THAN:
			f.high = tighter(f.high, bound{value, false, true}, -1)
		case wire.Query_Filter_LESS_THAN_OR_EQUAL:
			f.high = tighter(f.high, bound{value, true, true}, -1)
		}
	}
	for _, name := range n.exists {
		at(name)
	}
	for _, o := range n.orders {
		at(o.property)
	}
	return merged
}

// tighter returns the narrower of two bounds; sign is 1 for lower bounds, -1
// for upper ones.
func tighter(a, b bound, sign int) bound {
	switch c := strings.Compare(a.value, b.value) * sign; {
	case !a.set, c < 0, c == 0 && a.inclusive:
		return b
	default:
		return a
	}
}

// implied returns the orders with those added that make the order complete.
func (n *normalized) implied() []order {
	orders := n.orders
	if len(orders) == 0 {
		for _, f := range n.filters {
			if isInequality(f.GetOp()) {
				orders = append(orders, order{property: f.GetProperty()[0].GetName()})
				break
			}
		}
	}
	for _, name := range n.exists {
		orders = append(orders, order{property: name})
	}
	if len(orders) == 0 || orders[len(orders)-1].property != keyProperty {
		orders = append(orders, order{property: keyProperty})
	}
	return orders
}

// inRange reports whether a value lies between the bounds.
func (f *filter) inRange(value string) bool {
	if f.low.set {
		if c := strings.Compare(value, f.low.value); c < 0 || c == 0 && !f.low.inclusive {
			return false
		}
	}
	if f.high.set {
		if c := strings.Compare(value, f.high.value); c > 0 || c == 0 && !f.high.inclusive {
			return false
		}
	}
	return true
}

// match reports whether the values of e satisfy the filter: each value asked
// for is there and in range, or, if none is asked for, some value is in range.
func (f *filter) match(e *entity) bool {
	for _, want := range f.equal {
		if !f.inRange(want) {
			return false
		}
		found := false
		eachValue(e, f.property, func(value string) { found = found || value == want })
		if !found {
			return false
		}
	}
	if len(f.equal) > 0 {
		return true
	}
	found := false
	eachValue(e, f.property, func(value string) { found = found || f.inRange(value) })
	return found
}

// admits reports whether the filter lets one value of a property count for the
// order.
func (f *filter) admits(value string) bool {
	return f.inRange(value) && (len(f.equal) == 0 || slices.Contains(f.equal, value))
}

func eachValue(e *entity, property string, f func(value string)) {
	if property == keyProperty {
		f(e.key.path)
		return
	}
	for _, v := range e.indexed {
		if v.name == property {
			f(v.value)
		}
	}
}

func (p *plan) filter(property string) *filter {
	for i := range p.filters {
		if p.filters[i].property == property {
			return &p.filters[i]
		}
	}
	return nil
}

// match reports whether e is a result, apart from kind and ancestor.
func (p *plan) match(e *entity) bool {
	for i := range p.filters {
		if !p.filters[i].match(e) {
			return false
		}
	}
	return true
}

// sortValue is the value by which e takes its place in an order: of several,
// the first in the direction of the order.
func (p *plan) sortValue(e *entity, o order) string {
	if o.property == keyProperty {
		return e.key.path
	}
	f := p.filter(o.property)
	best, any := "", false
	eachValue(e, o.property, func(value string) {
		if f != nil && !f.admits(value) {
			return
		}
		if !any || o.down && value > best || !o.down && value < best {
			best, any = value, true
		}
	})
	return best
}
