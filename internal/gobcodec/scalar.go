package gobcodec

import (
	"encoding/binary"
	"math"
	"math/bits"
	"reflect"
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
		return 2, zigzag(v.Int()), ""
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
	start := appendUint([]byte{0}, x)
	b = appendUint(appendText(b, v.Type().String()), zigzag(id))
	b = appendUint(b, uint64(len(start)+len(text)))
	return append(append(b, start...), text...)
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(appendUint(b, uint64(len(text))), text...)
}

// appendUint appends a small x as it is, others behind their negative length.
func appendUint(b []byte, x uint64) []byte {
	if x <= 0x7f {
		return append(b, byte(x))
	}
	n := (bits.Len64(x) + 7) / 8
	return append(append(b, byte(-n)), binary.BigEndian.AppendUint64(nil, x)[8-n:]...)
}

// A reader reads what is appended here. Once bad, it reads nothing of use.
type reader struct {
	rest []byte
	bad  bool
}

// scalar reads v. The reader is bad if v cannot hold that.
func (r *reader) scalar(v reflect.Value) {
	x := r.uint()
	switch {
	case v.Kind() == reflect.Bool:
		v.SetBool(x != 0)
	case v.CanInt():
		v.SetInt(unzigzag(x))
	case v.CanUint():
		v.SetUint(x)
	case v.CanFloat():
		v.SetFloat(math.Float64frombits(bits.ReverseBytes64(x)))
	default:
		v.SetString(string(r.take(x)))
	}
	_, same, _ := number(v)
	r.bad = r.bad || same != x
}

func zigzag(x int64) uint64    { return uint64(x)<<1 ^ uint64(x>>63) }
func unzigzag(x uint64) int64  { return int64(x>>1) ^ -int64(x&1) }
func (r *reader) int() int64   { return unzigzag(r.uint()) }
func (r *reader) text() []byte { return r.take(r.uint()) }

func (r *reader) uint() (x uint64) {
	if len(r.rest) > 0 && r.rest[0] <= 0x7f {
		x, r.rest = uint64(r.rest[0]), r.rest[1:]
		return x
	}
	number := r.take(1)
	if len(number) > 0 {
		number = r.take(256 - uint64(number[0]))
	}
	r.bad = r.bad || len(number) > 8
	for _, b := range number {
		x = x<<8 | uint64(b)
	}
	return x
}

func (r *reader) take(n uint64) []byte {
	taken := r.rest[:min(n, uint64(len(r.rest)))]
	r.rest, r.bad = r.rest[len(taken):], r.bad || uint64(len(taken)) < n
	return taken
}
