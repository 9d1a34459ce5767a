package scalargob

import (
	"bytes"
	"encoding/gob"
	"math"
	"math/bits"
	"reflect"

	"github.com/gaesession/gaesession/internal/gobstream"
)

// encodeAll is gob's way to encode a value.
func encodeAll(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

// The types of scalars, and gob's ids of them.
var types, ids = scalars()

func scalars() (types map[string]reflect.Type, ids map[string]int64) {
	types, ids = make(map[string]reflect.Type), make(map[string]int64)
	for _, v := range []any{false, 0, int8(0), int16(0), int32(0), int64(0), uint(0), uint8(0), uint16(0), uint32(0),
		uint64(0), uintptr(0), float32(0), 0.0, ""} {
		name := reflect.TypeOf(v).String()
		types[name] = reflect.TypeOf(v)
		ids[name], _, _ = number(reflect.ValueOf(v))
	}
	return types, ids
}

// AreScalars reports whether all values are booleans, numbers or strings, and of no
// type of the app's.
func AreScalars[K comparable](m map[K]any) bool {
	for _, v := range m {
		if !isScalar(v) {
			return false
		}
	}
	return true
}

func isScalar(v any) bool {
	switch v.(type) {
	case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, uintptr, float32, float64, string:
		return true
	}
	return false
}

// number returns the id of a scalar's type, a number, and perhaps a text.
func number(v reflect.Value) (id int64, x uint64, text string) {
	switch {
	case v.CanInt():
		return 2, gobstream.Zigzag(v.Int()), ""
	case v.CanUint():
		return 3, v.Uint(), ""
	case v.CanFloat():
		return 4, bits.ReverseBytes64(math.Float64bits(v.Float())), ""
	case v.Kind() == reflect.String:
		return 6, uint64(v.Len()), v.String()
	case v.Bool():
		return 1, 1, ""
	}
	return 1, 0, ""
}

// appendAttr appends a type's name and id, a length, a zero and a scalar.
func appendAttr(b []byte, scalar any) []byte {
	v := reflect.ValueOf(scalar)
	id, x, text := number(v)
	b = gobstream.AppendUint(gobstream.AppendText(b, v.Type().String()), gobstream.Zigzag(id))
	b = gobstream.AppendUint(b, uint64(1+gobstream.UintLen(x)+len(text)))
	return append(gobstream.AppendUint(append(b, 0), x), text...)
}

// A reader reads what is written here.
type reader struct{ gobstream.Reader }

// attr reads what appendAttr appends, and returns it if build. The reader is bad if
// that is no scalar.
func (r *reader) attr(build bool) (scalar any, isText bool) {
	typ := r.Text()
	id := ids[string(typ)]
	r.Bad = r.Int() != id || id == 0 || r.Bad
	isText = string(typ) == "string"
	value := reader{gobstream.Reader{Rest: r.Text()}}
	if !build || r.Bad {
		return nil, isText
	}
	if value.Bad = value.Uint() != 0 || value.Bad; isText {
		scalar = string(value.Text()) // as below, in fewer allocations
	} else {
		v := reflect.New(types[string(typ)]).Elem()
		value.scalar(v)
		scalar = v.Interface()
	}
	r.Bad = value.Bad || len(value.Rest) > 0
	return scalar, isText
}

// scalar reads v. The reader is bad if v cannot hold that.
func (r *reader) scalar(v reflect.Value) {
	x := r.Uint()
	switch {
	case v.Kind() == reflect.Bool:
		v.SetBool(x != 0)
	case v.CanInt():
		v.SetInt(gobstream.Unzigzag(x))
	case v.CanUint():
		v.SetUint(x)
	case v.CanFloat():
		v.SetFloat(math.Float64frombits(bits.ReverseBytes64(x)))
	default:
		v.SetString(string(r.Take(x)))
	}
	_, same, _ := number(v)
	r.Bad = r.Bad || same != x
}
