package gaelocal

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

// Queries of kind __namespace__ answer which namespaces have entities, whatever
// namespace they are made in. A result has nothing but a key, whose name is the
// namespace. The default namespace, which has no name, has an id.
const (
	namespaceKind      = "__namespace__"
	defaultNamespaceID = 1
)

// namespaces returns the results of a query of all namespaces.
func (d *datastore) namespaces(query *wire.Query) ([]*entity, *Error) {
	var results []*entity
	for _, namespace := range d.store.namespaces() {
		element := &wire.Path_Element{Type: proto.String(namespaceKind)}
		if namespace == "" {
			element.Id = proto.Int64(defaultNamespaceID)
		} else {
			element.Name = &namespace
		}
		e, failed := newEntity(&wire.EntityProto{Key: &wire.Reference{
			App: query.App, NameSpace: query.NameSpace, Path: &wire.Path{Element: []*wire.Path_Element{element}},
		}})
		if failed != nil {
			return nil, failed
		}
		results = append(results, e)
	}
	return results, nil
}

// namespaces returns the namespaces that have entities, in any order.
func (s *store) namespaces() (names []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	found := make(map[string]bool) // by their encoding
	for root, g := range s.groups {
		if name, _, _ := strings.Cut(root, escapedEnd); len(g.entities) > 0 && !found[name] {
			found[name] = true
			names = append(names, strings.ReplaceAll(name, escapedZero, "\x00"))
		}
	}
	return names
}

// checkNamespaces checks a query of namespaces, which takes ranges of keys and
// their order alone.
func checkNamespaces(q *wire.Query, n *normalized) *Error {
	if q.GetKind() != namespaceKind {
		return nil
	}
	if q.Transaction != nil {
		return badRequest("transactional queries on \"%s\" not allowed", namespaceKind)
	}
	if q.Ancestor != nil {
		return badRequest("ancestor queries on %s not allowed", namespaceKind)
	}
	if len(n.exists) > 0 || slices.ContainsFunc(n.filters, func(f *wire.Query_Filter) bool {
		return f.GetProperty()[0].GetName() != keyProperty
	}) {
		return badRequest("Only comparison filters on %s supported", keyProperty)
	}
	if len(n.orders) > 0 && n.orders[0] != (order{property: keyProperty}) {
		return badRequest("Only ascending order on %s supported", keyProperty)
	}
	for _, f := range n.filters {
		path := f.GetProperty()[0].GetValue().GetReferencevalue().GetPathelement()
		if len(path) != 1 || path[0].GetType() != namespaceKind || path[0].GetName() == "" && path[0].GetId() != defaultNamespaceID {
			return badRequest("invalid Key for %s table", namespaceKind)
		}
	}
	return nil
}
