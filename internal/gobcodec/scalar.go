package gobcodec

import (
	"math"
	"math/bits"
	"reflect"

	"github.com/gaesession/gaesession/internal/gobstream"
)

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

func allScalars(attrs map[string]any) bool {
	for _, v := range attrs {
		switch v.(type) {
		case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, uintptr, float32, float64, string:
		default:
			return false
		}
	}
	return true
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
func appendAttr(b []byte, v reflect.Value) []byte {
	id, x, text := number(v)
	start := gobstream.AppendUint([]byte{0}, x)
	b = gobstream.AppendUint(gobstream.AppendText(b, v.Type().String()), gobstream.Zigzag(id))
	b = gobstream.AppendUint(b, uint64(len(start)+len(text)))
	return append(append(b, start...), text...)
}

// A reader reads what is written here.
type reader struct{ gobstream.Reader }

func newReader(b []byte) reader { return reader{gobstream.Reader{Rest: b}} }

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
