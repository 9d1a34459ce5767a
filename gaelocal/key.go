package gaelocal

import (
	"encoding/binary"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/gaesession/gaesession/internal/wire"
)

// Keys and property values are encoded as strings that compare, byte by byte,
// as Datastore orders what they stand for.

// entityKey is a key: its namespace and path, encoded. The application is the
// server's own and left out. An ancestor's encoding is a prefix of its
// descendants', so a key sorts before them.
type entityKey struct {
	path string // the whole key
	root string // the part of path that names the entity group: namespace and first element
	kind string // the part that names namespace and kind of the last element, see kindKey
}

const (
	tagID   = 1 // ids sort before names
	tagName = 2
)

const (
	escapedZero = "\x00\xff"
	escapedEnd  = "\x00\x01"
)

// appendEscaped appends s so that it ends itself and keeps its order.
func appendEscaped(b []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, 0)
		if i < 0 {
			break
		}
		b = append(b, s[:i]...)
		b = append(b, escapedZero...)
		s = s[i+1:]
	}
	b = append(b, s...)
	return append(b, escapedEnd...)
}

func appendInt64(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(v)^(1<<63))
}

func appendFloat64(b []byte, v float64) []byte {
	u := math.Float64bits(v)
	if u>>63 != 0 {
		u = ^u
	} else {
		u |= 1 << 63
	}
	return binary.BigEndian.AppendUint64(b, u)
}

// A pathElement is a part of a key, as both Reference and ReferenceValue have
// it.
type pathElement interface {
	GetType() string
	GetId() int64
	GetName() string
}

func appendElement(b []byte, e pathElement) []byte {
	b = appendEscaped(b, e.GetType())
	if name := e.GetName(); name != "" {
		return appendEscaped(append(b, tagName), name)
	}
	return appendInt64(append(b, tagID), e.GetId())
}

// kindKey names a kind in a namespace.
func kindKey(namespace, kind string) string {
	b := make([]byte, 0, len(namespace)+len(kind)+4)
	return string(appendEscaped(appendEscaped(b, namespace), kind))
}

func encodeKey(ref *wire.Reference) entityKey {
	elements := ref.GetPath().GetElement()
	b := make([]byte, 0, 64)
	b = appendEscaped(b, ref.GetNameSpace())
	root := 0
	for i, e := range elements {
		b = appendElement(b, e)
		if i == 0 {
			root = len(b)
		}
	}
	path := string(b)
	return entityKey{
		path: path,
		root: path[:root],
		kind: kindKey(ref.GetNameSpace(), elements[len(elements)-1].GetType()),
	}
}

// complete reports whether the last element of a key has an id or a name.
func complete(ref *wire.Reference) bool {
	elements := ref.GetPath().GetElement()
	last := elements[len(elements)-1]
	return last.GetId() != 0 || last.GetName() != ""
}

// checkApp refuses another application's data.
func (d *datastore) checkApp(app string) *Error {
	if app != d.appID {
		return badRequest("app \"%s\" cannot access app \"%s\"'s data", d.appID, app)
	}
	return nil
}

// checkKey refuses keys that name nothing. The last element may go without an
// id and a name unless needComplete.
func (d *datastore) checkKey(ref *wire.Reference, needComplete bool) *Error {
	if failed := d.checkApp(ref.GetApp()); failed != nil {
		return failed
	}
	elements := ref.GetPath().GetElement()
	if len(elements) == 0 {
		return badRequest("key's path cannot be empty")
	}
	for i, e := range elements {
		if e.GetId() == 0 && e.GetName() == "" && (needComplete || i < len(elements)-1) {
			return badRequest("missing key id/name")
		}
		if e.Id != nil && e.Name != nil {
			return badRequest("each key path element should have id or name but not both: kind %q", e.GetType())
		}
		if !utf8.ValidString(e.GetType()) {
			return badRequest("key path element type is not valid UTF-8.")
		}
		if !utf8.ValidString(e.GetName()) {
			return badRequest("key path element name is not valid UTF-8.")
		}
	}
	return nil
}

// encodeValue encodes a property's value. Values of different types sort by the
// number of their field in PropertyValue; no value sorts first.
func encodeValue(v *wire.PropertyValue) string {
	switch {
	case v.Int64Value != nil:
		return string(appendInt64([]byte{1}, v.GetInt64Value()))
	case v.BooleanValue != nil:
		if v.GetBooleanValue() {
			return "\x02\x01"
		}
		return "\x02\x00"
	case v.StringValue != nil:
		return "\x03" + string(v.StringValue)
	case v.DoubleValue != nil:
		return string(appendFloat64([]byte{4}, v.GetDoubleValue()))
	case v.Pointvalue != nil:
		return string(appendFloat64(appendFloat64([]byte{5}, v.Pointvalue.GetX()), v.Pointvalue.GetY()))
	case v.Uservalue != nil:
		return string(appendEscaped(appendEscaped([]byte{8}, v.Uservalue.GetEmail()), v.Uservalue.GetAuthDomain()))
	case v.Referencevalue != nil:
		b := appendEscaped([]byte{12}, v.Referencevalue.GetApp())
		b = appendEscaped(b, v.Referencevalue.GetNameSpace())
		for _, e := range v.Referencevalue.GetPathelement() {
			b = appendElement(b, e)
		}
		return string(b)
	default:
		return ""
	}
}

// referencePath encodes a key that is a property's value the way encodeKey
// does.
func referencePath(v *wire.PropertyValue_ReferenceValue) string {
	b := appendEscaped(make([]byte, 0, 64), v.GetNameSpace())
	for _, e := range v.GetPathelement() {
		b = appendElement(b, e)
	}
	return string(b)
}
