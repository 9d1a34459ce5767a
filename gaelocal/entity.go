package gaelocal

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

// Limits of Datastore, in bytes, as documented at
// https://cloud.google.com/datastore/docs/concepts/limits.
const (
	maxEntity        = 1<<20 - 4
	maxIndexedValue  = 1500
	maxUnindexedBlob = 1048487
	maxLinkValue     = 2083
)

// Meanings of properties that the checks depend on.
const (
	meaningLink        = 2
	meaningBlob        = 14
	meaningText        = 15
	meaningByteString  = 16
	meaningIndexValue  = 18
	meaningEntityProto = 19
)

// entity is a stored entity. It is never changed.
type entity struct {
	key     entityKey
	raw     []byte // the EntityProto
	indexed []indexedValue
}

// indexedValue is one value of an indexed property; a property with several
// values has several.
type indexedValue struct{ name, value string }

// newEntity makes an entity to store of a checked EntityProto with a complete
// key.
func newEntity(pb *wire.EntityProto) (*entity, *Error) {
	if proto.Size(pb) > maxEntity { // as the client sent it
		return nil, badRequest("entity is too big")
	}
	// Whatever the client sent as the entity group, it is the key's root.
	pb.EntityGroup = &wire.Path{Element: pb.GetKey().GetPath().GetElement()[:1]}
	raw, err := proto.Marshal(pb)
	if err != nil {
		return nil, &Error{Code: datastoreInternalError, Detail: "encoding an entity: " + err.Error()}
	}
	return indexEntity(pb, raw), nil
}

func indexEntity(pb *wire.EntityProto, raw []byte) *entity {
	e := &entity{key: encodeKey(pb.GetKey()), raw: raw}
	if props := pb.GetProperty(); len(props) > 0 {
		e.indexed = make([]indexedValue, len(props))
		for i, p := range props {
			e.indexed[i] = indexedValue{p.GetName(), encodeValue(p.GetValue())}
		}
	}
	return e
}

func reservedName(name string) bool {
	return len(name) >= 4 && strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__")
}

// checkEntity refuses what Datastore does not store.
func (d *datastore) checkEntity(pb *wire.EntityProto) *Error {
	if failed := d.checkKey(pb.GetKey(), false); failed != nil {
		return failed
	}
	for _, p := range pb.GetProperty() {
		if failed := checkProperty(p, true); failed != nil {
			return failed
		}
	}
	for _, p := range pb.GetRawProperty() {
		if failed := checkProperty(p, false); failed != nil {
			return failed
		}
	}
	return nil
}

// checkProperty answers with the texts of Google's development server, as they
// are spelled there.
func checkProperty(p *wire.Property, indexed bool) *Error {
	name, v := p.GetName(), p.GetValue()
	if !utf8.ValidString(name) {
		return badRequest("property name is not valid UTF-8.")
	}
	if reservedName(name) {
		return badRequest("cannot store entity with reserved property name '%s'", name)
	}
	blob, limit := false, maxIndexedValue
	switch p.GetMeaning() {
	case meaningIndexValue:
		return badRequest("Entities with incomplete properties cannot be written.")
	case meaningBlob, meaningText, meaningEntityProto:
		blob = true
		if indexed {
			return badRequest("BLOB, ENITY_PROTO or TEXT property %s must be in a raw_property field", name)
		}
		if v.StringValue == nil {
			return badRequest("BLOB / ENTITY_PROTO / TEXT raw property %smust have a string value", name)
		}
	}
	if !indexed {
		limit = maxUnindexedBlob
	}
	if p.GetMeaning() == meaningLink {
		limit = maxLinkValue
	}
	values := 0
	for _, set := range [...]bool{
		v.Int64Value != nil, v.BooleanValue != nil, v.StringValue != nil, v.DoubleValue != nil,
		v.Pointvalue != nil, v.Uservalue != nil, v.Referencevalue != nil,
	} {
		if set {
			values++
		}
	}
	if values > 1 {
		return badRequest("PropertyValue for %s has multiple value fields set", name)
	}
	if len(v.StringValue) > limit {
		return badRequest("Property %s is too long. Maximum length is %d.", name, limit)
	}
	if !blob && p.GetMeaning() != meaningByteString && !utf8.Valid(v.StringValue) {
		return badRequest("String property \"%s\" value is not valid UTF-8.", name)
	}
	return nil
}
