// Package scalargob writes and reads the gob streams of sessions without gob, if
// all attributes are booleans, numbers or strings.
//
// A gob stream begins with definitions of types, its head. Most of gob's time
// goes into the head, though it is the same for all sessions of one kind. So a
// [Form] makes the head once, at the start: later, instances could number types
// differently. Scalars need no definitions, so a Form writes the rest, and reads
// it if it follows the same head. It leaves all other sessions to gob.
package scalargob

import (
	"bytes"
	"reflect"
	"time"

	"github.com/gaesession/gaesession/internal/gobstream"
)

// maxAttrs is how many attributes of one map a Form reads, so that it does not
// take long to find no scalar.
const maxAttrs = 24

var (
	attrsType = reflect.TypeFor[map[string]any]()
	mapType   = reflect.TypeFor[map[any]any]()
	timeType  = reflect.TypeFor[time.Time]()
)

// A Form is how gob writes values of one type: a struct whose fields are scalars,
// times and maps of attributes, or a map[any]any.
type Form struct {
	Head []byte // what begins every stream
	ID   int64  // gob's number of the type

	typ    reflect.Type // a pointer to the type
	fields []int        // those of a struct, by gob's numbers
}

// Of returns the form of what sample points to. It returns nil if gob writes that
// in another way: then gob has to do it all. No field of the sample may be zero,
// and each map needs one attribute.
func Of(sample any) *Form {
	v := reflect.ValueOf(sample)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return nil
	}
	f := &Form{typ: v.Type()}
	if t := f.typ.Elem(); t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			if field := t.Field(i); field.IsExported() {
				if !isKnown(field.Type) {
					return nil
				}
				f.fields = append(f.fields, i)
			}
		}
	} else if t != mapType {
		return nil
	}
	data, err := encodeAll(sample)
	r := gobstream.Reader{Rest: data, Bad: err != nil}
	for f.ID <= 0 && !r.Bad { // that of a definition is negative
		f.Head = data[:len(data)-len(r.Rest)]
		f.ID = (&gobstream.Reader{Rest: r.Text()}).Int()
	}
	again := reflect.New(f.typ.Elem()).Interface()
	if r.Bad || !bytes.Equal(f.Encode(sample), data) || !f.Decode(data, again) {
		return nil
	}
	return f
}

// isKnown reports whether a Form knows fields of that type.
func isKnown(t reflect.Type) bool {
	return t == attrsType || t == timeType || t.Kind() == reflect.String || reflect.Bool <= t.Kind() && t.Kind() <= reflect.Float64
}

// Has reports whether v points to a value of that form. None is of a nil form.
func (f *Form) Has(v any) bool { return f != nil && f.typ == reflect.TypeOf(v) }

// Encode returns the stream of what v points to, which is of that form, or nil if
// gob has to do it. A nil form leaves all to gob.
func (f *Form) Encode(v any) []byte {
	if f == nil {
		return nil
	}
	b := gobstream.AppendUint(make([]byte, 0, 400), gobstream.Zigzag(f.ID))
	if m, ok := v.(*map[any]any); ok {
		b = appendMap(append(b, 0), *m)
	} else {
		b = f.appendFields(b, reflect.ValueOf(v).Elem())
	}
	if b == nil {
		return nil
	}
	return gobstream.AppendText(append(make([]byte, 0, len(f.Head)+10+len(b)), f.Head...), b)
}

// appendMap returns nil if gob has to do it.
func appendMap(b []byte, m map[any]any) []byte {
	b = gobstream.AppendUint(b, uint64(len(m)))
	for k, v := range m {
		if _, ok := k.(string); !ok || !isScalar(v) {
			return nil
		}
		b = appendAttr(appendAttr(b, k), v)
	}
	return b
}

// appendFields returns nil if gob has to do it.
func (f *Form) appendFields(b []byte, v reflect.Value) []byte {
	distance := byte(0)
	for _, i := range f.fields {
		if distance++; v.Field(i).IsZero() {
			continue
		}
		b, distance = append(b, distance), 0
		switch field := v.Field(i).Addr().Interface().(type) {
		case *map[string]any:
			b = gobstream.AppendUint(b, uint64(len(*field)))
			for name, v := range *field {
				if !isScalar(v) {
					return nil
				}
				b = appendAttr(gobstream.AppendText(b, name), v)
			}
		case *time.Time:
			t, err := field.GobEncode()
			if err != nil {
				return nil
			}
			b = gobstream.AppendText(b, t)
		default:
			_, x, text := number(v.Field(i))
			b = append(gobstream.AppendUint(b, x), text...)
		}
	}
	return append(b, 0)
}

// Decode reads a stream into what v points to, which is of that form, whatever
// follows the value in the stream. It reports false if gob has to do it, and may
// have set what gob sets then.
func (f *Form) Decode(stream []byte, v any) bool {
	if f == nil {
		return false
	}
	message, ok := bytes.CutPrefix(stream, f.Head)
	// Little is built before all types have been seen: gob would do it again.
	return ok && f.decode(message, v, false) && f.decode(message, v, true)
}

// decode leaves out attributes unless build.
func (f *Form) decode(message []byte, v any, build bool) bool {
	r := reader{gobstream.Reader{Rest: message}}
	r.Rest = r.Text()
	r.Bad = r.Int() != f.ID || r.Bad
	if m, ok := v.(*map[any]any); ok {
		r.Bad = r.Uint() != 0 || r.Bad
		r.entries(m, build)
		return !r.Bad
	}
	for value, i := reflect.ValueOf(v).Elem(), -1; !r.Bad; {
		distance := r.Uint()
		if distance == 0 || distance > uint64(len(f.fields)-1-i) {
			return distance == 0 && !r.Bad
		}
		i += int(distance)
		switch field := value.Field(f.fields[i]); to := field.Addr().Interface().(type) {
		case *map[string]any:
			r.attrs(to, build)
		case *time.Time:
			t := r.Text()
			r.Bad = r.Bad || build && to.GobDecode(t) != nil
		default:
			r.scalar(field)
		}
	}
	return false
}

// entries reads into a map what is not in it yet, as gob does.
func (r *reader) entries(m *map[any]any, build bool) {
	n := r.count()
	if build && !r.Bad && *m == nil {
		*m = make(map[any]any, n)
	}
	for ; n > 0 && !r.Bad; n-- {
		key, isText := r.attr(build)
		value, _ := r.attr(build)
		if r.Bad = r.Bad || !isText; build && !r.Bad {
			(*m)[key] = value
		}
	}
}

func (r *reader) attrs(attrs *map[string]any, build bool) {
	n := r.count()
	if build && !r.Bad {
		*attrs = make(map[string]any, n)
	}
	for ; n > 0 && !r.Bad; n-- {
		name := r.Text()
		value, _ := r.attr(build)
		if build && !r.Bad {
			(*attrs)[string(name)] = value
		}
	}
}

func (r *reader) count() uint64 {
	n := r.Uint()
	r.Bad = r.Bad || n > maxAttrs
	return n
}
