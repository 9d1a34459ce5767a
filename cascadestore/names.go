package cascadestore

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
)

// The keys of a session's Values are of any type. Two requests have to agree on
// what is one key: after decoding, a pointer is another one, and a NaN is not
// equal to itself. So a key goes by a name that says its type and content.

// textName begins the names of keys that are strings.
const textName = "string "

// nameOf returns the name of a key, the same one on every instance.
func nameOf(key any) string {
	if s, ok := key.(string); ok {
		return textName + s
	}
	return string(appendName(nil, reflect.ValueOf(key), 0))
}

// deepest is how deep a key is looked into: it may point to itself.
const deepest = 16

func appendName(b []byte, v reflect.Value, depth int) []byte {
	if !v.IsValid() || depth > deepest {
		return append(b, "nil"...)
	}
	if depth == 0 {
		b = append(appendType(b, v.Type()), ' ')
	}
	if text, ok := marshal(v); ok {
		return strconv.AppendQuote(b, string(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(b, v.Uint(), 10)
	case reflect.Float32, reflect.Float64:
		return strconv.AppendFloat(b, v.Float()+0, 'g', -1, 64) // -0 is 0, as in a map
	case reflect.Complex64, reflect.Complex128:
		return fmt.Append(b, v.Complex()+0)
	case reflect.String:
		return strconv.AppendQuote(b, v.String())
	case reflect.Pointer:
		return appendName(append(b, '&'), v.Elem(), depth+1)
	case reflect.Interface:
		if v.IsNil() {
			return append(b, "nil"...)
		}
		b = append(appendType(b, v.Elem().Type()), ' ')
		return appendName(b, v.Elem(), depth+1)
	case reflect.Array:
		b = append(b, '[')
		for i := range v.Len() {
			b = append(appendName(b, v.Index(i), depth+1), ',')
		}
		return append(b, ']')
	case reflect.Struct:
		b = append(b, '{')
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() { // serializers leave out the others
				b = append(appendName(b, v.Field(i), depth+1), ',')
			}
		}
		return append(b, '}')
	}
	return b // what no serializer keeps
}

// marshal returns the content of what knows how to write itself, as a time does,
// whose fields are not exported.
func marshal(v reflect.Value) (b []byte, ok bool) {
	if !v.CanInterface() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, false
	}
	defer func() {
		if recover() != nil { // of a method of the app
			b, ok = nil, false
		}
	}()
	var err error
	switch key := v.Interface().(type) {
	case encoding.BinaryMarshaler:
		b, err = key.MarshalBinary()
	case encoding.TextMarshaler:
		b, err = key.MarshalText()
	default:
		return nil, false
	}
	return b, err == nil
}

// appendType appends the name of a type, which it shares at most with one that
// another function of the same package declares. Type.String would not do: of a
// package's path it has the last element alone. Type.Name has the full paths in
// type arguments.
func appendType(b []byte, t reflect.Type) []byte {
	if t.Name() != "" {
		return appendQualified(b, t.PkgPath(), t.Name())
	}
	switch t.Kind() {
	case reflect.Pointer:
		return appendType(append(b, '*'), t.Elem())
	case reflect.Slice:
		return appendType(append(b, "[]"...), t.Elem())
	case reflect.Array:
		return appendType(fmt.Appendf(b, "[%d]", t.Len()), t.Elem())
	case reflect.Map:
		return appendType(append(appendType(append(b, "map["...), t.Key()), ']'), t.Elem())
	case reflect.Chan:
		return appendType(fmt.Appendf(b, "%v ", t.ChanDir()), t.Elem())
	case reflect.Func:
		return appendSignature(append(b, "func"...), t)
	case reflect.Interface:
		b = append(b, "interface{"...)
		for i := range t.NumMethod() {
			m := t.Method(i)
			b = append(appendSignature(appendQualified(b, m.PkgPath, m.Name), m.Type), ';')
		}
	case reflect.Struct:
		b = append(b, "struct{"...)
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Anonymous {
				b = append(b, "embedded "...)
			}
			b = append(appendType(append(appendQualified(b, f.PkgPath, f.Name), ' '), f.Type), ' ')
			b = append(strconv.AppendQuote(b, string(f.Tag)), ';')
		}
	}
	return append(b, '}')
}

// appendQualified appends a name behind the path of the package it belongs to,
// if there is one: exported fields and methods, and int, belong to none.
func appendQualified(b []byte, path, name string) []byte {
	if path != "" {
		b = append(append(b, path...), '.')
	}
	return append(b, name...)
}

func appendSignature(b []byte, t reflect.Type) []byte {
	b = append(b, '(')
	for i := range t.NumIn() {
		if t.IsVariadic() && i == t.NumIn()-1 {
			b = append(b, "..."...)
		}
		b = append(appendType(b, t.In(i)), ',')
	}
	b = append(b, ")("...)
	for i := range t.NumOut() {
		b = append(appendType(b, t.Out(i)), ',')
	}
	return append(b, ')')
}
