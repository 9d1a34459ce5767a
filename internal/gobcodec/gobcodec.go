// Package gobcodec is memcache.Gob, but faster with sessions.
//
// A gob stream begins with definitions of types, its head. Most of gob's time
// goes into the head, though it is the same for all sessions. So it is made
// once, at the start: later, instances could number types differently. If all
// attributes are booleans, numbers or strings, which need no definitions, the
// rest is written here, and it is read here if it follows the same head. All
// other sessions are left to gob, and so is a stream with anything unusual.
package gobcodec

import (
	"bytes"
	"maps"
	"reflect"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"
)

// Marshal encodes v as memcache.Gob does.
func Marshal(v any) ([]byte, error) {
	if reflect.TypeOf(v) == sessionType && id > 0 {
		if data := encode(reflect.ValueOf(v).Elem()); data != nil {
			return data, nil
		}
	}
	return memcache.Gob.Marshal(v)
}

// Scalars returns a copy of the session's attributes as Marshal has them, and
// when it was accessed, unless an attribute is more than a boolean, a number or
// a string. The session must not be changed meanwhile.
func Scalars(sess session.Session) (attrs map[string]any, accessed time.Time, ok bool) {
	if reflect.TypeOf(sess) != sessionType || id <= 0 {
		return nil, time.Time{}, false
	}
	v := reflect.ValueOf(sess).Elem()
	if !allScalars(v.Field(4)) {
		return nil, time.Time{}, false
	}
	accessed, _ = v.Field(2).Interface().(time.Time)
	attrs, ok = v.Field(4).Interface().(map[string]any)
	return maps.Clone(attrs), accessed, ok
}

// UnmarshalSession decodes a session as memcache.Gob does, whatever follows it.
func UnmarshalSession(data []byte) (session.Session, error) {
	sess := session.NewSession()
	value, ok := bytes.CutPrefix(data, head)
	// Little is built before all types have been seen: gob would do it again.
	if ok && id > 0 && decode(value, sess, false) && decode(value, sess, true) {
		return sess, nil
	}
	return sess, memcache.Gob.Unmarshal(data, sess)
}

var sessionType = reflect.TypeOf(session.NewSession())
var head, id = makeHead() // the id is gob's number of the session struct

// makeHead returns 0 if icza/session has another number of fields than it had.
func makeHead() (head []byte, id int64) {
	data, err := memcache.Gob.Marshal(session.NewSession())
	r := reader{rest: data, bad: err != nil || sessionType.Elem().NumField() != 7}
	for id <= 0 && !r.bad {
		head = data[:len(data)-len(r.rest)]
		id = (&reader{rest: r.text()}).int() // that of a definition is negative
	}
	return head, id
}

// encode returns nil if gob has to do it.
func encode(sess reflect.Value) []byte {
	if !allScalars(sess.Field(3)) || !allScalars(sess.Field(4)) {
		return nil
	}
	b, distance := appendUint(make([]byte, 0, 400), zigzag(id)), byte(0)
	for i := range 6 {
		if distance++; sess.Field(i).IsZero() {
			continue
		}
		b, distance = append(b, distance), 0
		switch f := sess.Field(i).Addr().Interface().(type) {
		case *map[string]any:
			b = appendUint(b, uint64(len(*f)))
			for name, v := range *f {
				b = appendAttr(appendText(b, name), reflect.ValueOf(v))
			}
		case *time.Time:
			t, err := f.GobEncode()
			if err != nil {
				return nil
			}
			b = appendText(b, t)
		default:
			_, x, text := number(sess.Field(i))
			b = append(appendUint(b, x), text...)
		}
	}
	return appendText(append(make([]byte, 0, len(head)+10+len(b)), head...), append(b, 0))
}

// decode reports false if gob has to do it. It leaves attributes unless build.
func decode(data []byte, session any, build bool) bool {
	sess, r := reflect.ValueOf(session).Elem(), reader{rest: data}
	r.rest = r.text()
	r.bad = r.bad || r.int() != id
	for i := -1; !r.bad; {
		distance := r.uint()
		if distance == 0 || distance > uint64(5-i) {
			return distance == 0 && !r.bad
		}
		switch i += int(distance); f := sess.Field(i).Addr().Interface().(type) {
		case *map[string]any:
			r.attrs(f, build)
		case *time.Time:
			t := r.text()
			r.bad = r.bad || build && f.GobDecode(t) != nil
		default:
			r.scalar(sess.Field(i))
		}
	}
	return false
}

// attrs accepts 24 at most, so that it does not take long to find no scalar.
func (r *reader) attrs(attrs *map[string]any, build bool) {
	n := r.uint()
	if r.bad = r.bad || n > 24; build && !r.bad {
		*attrs = make(map[string]any, n)
	}
	for ; n > 0 && !r.bad; n-- {
		name, typ := r.text(), r.text()
		id := ids[string(typ)]
		r.bad = r.int() != id || id == 0 || r.bad
		value := reader{rest: r.text()}
		if build && !r.bad {
			v := reflect.New(types[string(typ)]).Elem()
			value.bad = value.uint() != 0
			value.scalar(v)
			(*attrs)[string(name)] = v.Interface()
			r.bad = value.bad || len(value.rest) > 0
		}
	}
}
