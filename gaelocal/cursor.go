package gaelocal

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

// A compiled cursor holds the position after a result: for each order of the
// query the name of the property and the result's value, encoded, and whether
// the position is before these values for someone who reads upwards. It fits
// any query whose orders name the same properties, in whatever direction.
//
// start_key, a field that is opaque to clients, holds cursorVersion, then the
// flag, then names and values in turn, each with its length before it.

const cursorVersion = 1

// absent stands in a position for a property that the query orders by and the
// cursor does not have. It is no value: those start with a small number.
const absent = "\xff"

// cursorProperties are the properties whose values a cursor of the query has.
func (p *plan) cursorProperties() []string {
	if len(p.groupBy) > 0 {
		return p.groupBy
	}
	names := make([]string, len(p.orders))
	for i, o := range p.orders {
		names[i] = o.property
	}
	return names
}

func (p *plan) encodeCursor(at *position) *wire.CompiledCursor {
	if at == nil {
		return &wire.CompiledCursor{}
	}
	upwards := at.before != p.orders[0].down
	b := []byte{cursorVersion, 0}
	if upwards {
		b[1] = 1
	}
	names := p.cursorProperties()
	for i, o := range p.orders {
		if slices.Contains(names, o.property) && at.values[i] != absent {
			b = protowire.AppendString(b, o.property)
			b = protowire.AppendString(b, at.values[i])
		}
	}
	return &wire.CompiledCursor{Position: &wire.CompiledCursor_Position{StartKey: b, StartInclusive: proto.Bool(at.before)}}
}

// decodeCursor returns nil for a cursor that does not say anything.
func (p *plan) decodeCursor(c *wire.CompiledCursor) (*position, *Error) {
	if c == nil {
		return nil, nil
	}
	names := p.cursorProperties()
	if c.Position == nil {
		if len(c.ProtoReflect().GetUnknown()) > 0 {
			return nil, badRequest("Cursor does not match query: missing values for %s", nameSet(names))
		}
		return nil, nil
	}
	b := c.GetPosition().GetStartKey()
	if len(b) < 2 || b[0] != cursorVersion {
		return nil, badRequest("Cursor does not match query: it is not a cursor of gaelocal")
	}
	upwards := b[1] == 1
	values := make(map[string]string)
	for b = b[2:]; len(b) > 0; {
		name, n := protowire.ConsumeString(b)
		if n < 0 {
			return nil, badRequest("Cursor does not match query: it is cut off")
		}
		value, m := protowire.ConsumeString(b[n:])
		if m < 0 {
			return nil, badRequest("Cursor does not match query: it is cut off")
		}
		if !slices.Contains(names, name) {
			return nil, badRequest("Cursor does not match query: extra value %s", name)
		}
		values[name] = value
		b = b[n+m:]
	}
	at := &position{values: make([]string, len(p.orders)), before: upwards != p.orders[0].down}
	var missing []string
	for _, name := range names {
		if _, ok := values[name]; !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, badRequest("Cursor does not match query: missing values for %s", nameSet(missing))
	}
	for i, o := range p.orders {
		value, ok := values[o.property]
		if !ok {
			value = absent
		}
		at.values[i] = value
	}
	return at, nil
}

func nameSet(names []string) string {
	return "{'" + strings.Join(names, "', '") + "'}"
}
