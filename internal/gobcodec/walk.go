package gobcodec

import (
	"errors"
	"io"
)

// The walk follows a gob stream along its types as a decoder does, and builds nothing. The format is described in the
// package documentation of encoding/gob.

// Reasons to refuse a stream. A gob decoder fails on the first four as well, unless it skips the place.
var (
	errTruncated = io.ErrUnexpectedEOF
	errCount     = errors.New("count exceeds the input")
	errNumber    = errors.New("bad number")
	errBroken    = errors.New("contents do not fit their types")
	// A gob decoder may accept these; no encoder writes them.
	errStrange = errors.New("not as an encoder writes it")
)

// errUnknown means a kind of type definition that this package has not heard of. Only gob can tell whether it is right.
var errUnknown = errors.New("unknown type definition")

// maxDepth is how deeply values may be nested, as deep as gob allows values it skips.
const maxDepth = 10000

const maxName = 1024 // gob's limit for the name of a type held by an interface

type kind uint8

const (
	kindNone      kind = iota
	kindNumber         // bool, integers, floats: one unsigned integer
	kindComplex        // two of them
	kindBytes          // length and bytes: string, []byte, whatever encodes itself
	kindInterface      // name, type id, length, value
	kindStruct         // field deltas and values, ended by a zero
	kindMap            // count, keys and elements in turn
	kindSlice          // count, elements
	kindArray          // the same, its count being part of the type
)

// Ids of the types every gob decoder knows, and the first id for others.
const (
	idBool      = 1
	idInt       = 2
	idUint      = 3
	idFloat     = 4
	idBytes     = 5
	idString    = 6
	idComplex   = 7
	idInterface = 8
	firstUserID = 64
)

// A wire is a type as its definition describes it.
type wire struct {
	kind      kind
	key, elem int32
	length    uint64  // of an array
	fields    []int32 // types of a struct's fields
}

// definitions are the types of a stream by id.
type definitions map[int32]wire

// A walker stands at a position in a gob stream.
type walker struct {
	rest []byte // the messages after the current one
	buf  []byte // the current message
	pos  int
	// end is where the part ends that the last length was about: the message, or inside it the value of an interface up to
	// its end or its next definition.
	end   int
	held  int // interfaces around the current value
	depth int
	// nils tells of interfaces holding nil. Gob goes astray on one in a field that it skips.
	nils   bool
	prefix definitions // shared: never changed while a value is walked
	inner  definitions // those met inside the value
}

// valueOffset returns the offset of the value message in data: the length of the definitions before it.
func valueOffset(data []byte) (int, error) {
	w := walker{rest: data}
	for {
		at := len(data) - len(w.rest)
		if err := w.nextMessage(); err != nil {
			return 0, err
		}
		id, err := w.typeID()
		if err != nil {
			return 0, err
		}
		if id >= 0 {
			return at, nil
		}
	}
}

// readDefinitions reads a prefix: messages with one definition each.
func readDefinitions(prefix []byte) (definitions, error) {
	w := walker{rest: prefix, inner: definitions{}}
	for len(w.rest) > 0 {
		if err := w.nextMessage(); err != nil {
			return nil, err
		}
		id, err := w.typeID()
		if err != nil {
			return nil, err
		}
		if id >= 0 {
			return nil, errBroken
		}
		if err := w.define(-id); err != nil {
			return nil, err
		}
		if w.pos != w.end {
			return nil, errBroken
		}
	}
	return w.inner, nil
}

// walkValue walks the value that stream begins with. It returns the length of its first message, and whether it is simple:
// all in that message, and sure to leave a decoder with the definitions it had.
func walkValue(types definitions, stream []byte) (length int, simple bool, err error) {
	w := walker{rest: stream, prefix: types}
	if err := w.nextMessage(); err != nil {
		return 0, false, err
	}
	length = len(stream) - len(w.rest)
	id, err := w.typeID()
	if err != nil {
		return 0, false, err
	}
	if err := w.topValue(id); err != nil {
		return 0, false, err
	}
	return length, w.inner == nil && !w.nils, nil
}

// nextMessage enters the next message.
func (w *walker) nextMessage() error {
	w.buf, w.pos = w.rest, 0
	w.end = len(w.buf)
	n, err := w.uint()
	if err != nil {
		return err
	}
	if n > uint64(len(w.buf)-w.pos) {
		return errTruncated
	}
	start := w.pos
	w.pos, w.end = 0, int(n)
	w.buf, w.rest = w.buf[start:start+int(n)], w.buf[start+int(n):]
	return nil
}

// uint reads an unsigned integer: a byte up to 127, or the negated count of the bytes that follow, high byte first.
func (w *walker) uint() (uint64, error) {
	if w.pos >= len(w.buf) {
		return 0, errTruncated
	}
	b := w.buf[w.pos]
	w.pos++
	if b <= 0x7f {
		return uint64(b), nil
	}
	n := -int(int8(b))
	if n > 8 {
		return 0, errNumber
	}
	if n > len(w.buf)-w.pos {
		return 0, errTruncated
	}
	var x uint64
	for _, b := range w.buf[w.pos : w.pos+n] {
		x = x<<8 | uint64(b)
	}
	w.pos += n
	return x, nil
}

// int reads a signed integer: the sign is the lowest bit.
func (w *walker) int() (int64, error) {
	x, err := w.uint()
	if x&1 != 0 {
		return ^int64(x >> 1), err
	}
	return int64(x >> 1), err
}

// typeID reads a type id. Like gob it uses the low 32 bits.
func (w *walker) typeID() (int32, error) {
	x, err := w.int()
	return int32(x), err
}

// count reads a number of things of at least one byte each.
func (w *walker) count() (int, error) {
	n, err := w.uint()
	if err != nil {
		return 0, err
	}
	if n > uint64(len(w.buf)-w.pos) {
		return 0, errCount
	}
	return int(n), nil
}

// skip passes a length and as many bytes.
func (w *walker) skip() error {
	n, err := w.count()
	w.pos += n
	return err
}

// topValue walks a value that is not part of another: a struct, or anything else behind a zero.
func (w *walker) topValue(id int32) error {
	if t, err := w.typeOf(id); err != nil {
		return err
	} else if t.kind != kindStruct {
		zero, err := w.uint()
		if err != nil {
			return err
		}
		if zero != 0 {
			return errBroken
		}
	}
	return w.value(id)
}

// typeOf returns what is known about the type id.
func (w *walker) typeOf(id int32) (wire, error) {
	switch id {
	case idBool, idInt, idUint, idFloat:
		return wire{kind: kindNumber}, nil
	case idBytes, idString:
		return wire{kind: kindBytes}, nil
	case idComplex:
		return wire{kind: kindComplex}, nil
	case idInterface:
		return wire{kind: kindInterface}, nil
	}
	if t, ok := w.prefix[id]; ok {
		return t, nil
	}
	if t, ok := w.inner[id]; ok {
		return t, nil
	}
	if id > idInterface && id < firstUserID {
		return wire{}, errStrange
	}
	return wire{}, errBroken
}

// value walks a value of the type id.
func (w *walker) value(id int32) error {
	t, err := w.typeOf(id)
	if err != nil {
		return err
	}
	if w.depth++; w.depth > maxDepth {
		return errStrange
	}
	defer func() { w.depth-- }()
	switch t.kind {
	case kindNumber:
		_, err := w.uint()
		return err
	case kindComplex:
		if _, err := w.uint(); err != nil {
			return err
		}
		_, err := w.uint()
		return err
	case kindBytes:
		return w.skip()
	case kindInterface:
		return w.interfaceValue()
	case kindStruct:
		last := -1
		for {
			i, err := w.nextField(last, len(t.fields))
			if err != nil || i < 0 {
				return err
			}
			if err := w.value(t.fields[i]); err != nil {
				return err
			}
			last = i
		}
	case kindMap:
		n, err := w.count()
		for ; n > 0 && err == nil; n-- {
			if err = w.value(t.key); err == nil {
				err = w.value(t.elem)
			}
		}
		return err
	case kindSlice, kindArray:
		n, err := w.count()
		if err == nil && t.kind == kindArray && uint64(n) != t.length {
			return errBroken
		}
		for ; n > 0 && err == nil; n-- {
			err = w.value(t.elem)
		}
		return err
	}
	return errBroken
}

// nextField returns the number of the next field that is sent of a struct with n fields, or -1 at its end. Each is
// announced by its distance from the last one, which is -1 at first.
func (w *walker) nextField(last, n int) (int, error) {
	if w.pos == len(w.buf) {
		return 0, errStrange // Gob takes the end of the message for the end of the struct.
	}
	delta, err := w.uint()
	if err != nil {
		return 0, err
	}
	if delta == 0 {
		return -1, nil
	}
	if delta >= uint64(n-last) {
		return 0, errBroken
	}
	return last + int(delta), nil
}

// interfaceValue walks an interface: the name of the type it holds (none for nil), definitions as far as they have not
// been sent, the type id, the length of the value, the value.
func (w *walker) interfaceValue() error {
	n, err := w.count()
	if err != nil {
		return err
	}
	if n == 0 {
		w.nils = true
		return nil
	}
	if n > maxName {
		return errBroken
	}
	w.pos += n
	id, err := w.heldType()
	if err != nil {
		return err
	}
	length, err := w.uint()
	if err != nil {
		return err
	}
	outer := w.end
	if w.pos > outer || length > uint64(outer-w.pos) {
		return errStrange
	}
	w.end = w.pos + int(length)
	w.held++
	if err := w.topValue(id); err != nil {
		return err
	}
	w.held--
	if w.pos != w.end {
		return errStrange
	}
	// Definitions inside the value move the end of the part it is in, which they cut, never that of the parts around it.
	w.end = outer
	return nil
}

// heldType reads definitions up to the id of the type that an interface holds. Each definition ends a part of the value
// around the interface; a length, or a new message, starts the next.
func (w *walker) heldType() (int32, error) {
	for {
		if w.pos == len(w.buf) {
			return 0, errStrange
		}
		id, err := w.typeID()
		if err != nil || id >= 0 {
			return id, err
		}
		if err := w.define(-id); err != nil {
			return 0, err
		}
		if w.pos != w.end {
			return 0, errStrange
		}
		if w.held == 0 {
			if err := w.nextMessage(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := w.uint()
		if err != nil {
			return 0, err
		}
		if n > uint64(len(w.buf)-w.pos) {
			return 0, errStrange
		}
		w.end = w.pos + int(n)
	}
}

// define reads the definition of the type id and notes it in w.inner.
func (w *walker) define(id int32) error {
	if id < firstUserID {
		return errBroken
	}
	_, before := w.prefix[id]
	_, again := w.inner[id]
	if before || again {
		return errBroken
	}
	t, err := w.definition()
	if err != nil {
		return err
	}
	if w.inner == nil {
		w.inner = definitions{}
	}
	w.inner[id] = t
	return nil
}

// Gob describes a type as a struct with one field per kind of type, of which one is set; its value is a struct again, the
// first field of which is common to all: name and id.

// definition reads the description of a type.
func (w *walker) definition() (wire, error) {
	const (
		array, slice, structure, mapping      = 0, 1, 2, 3
		gobEncoder, binaryMarshaler, textForm = 4, 5, 6
	)
	var t wire
	last := -1
	for {
		i, err := w.nextField(last, fieldLimit)
		if err != nil {
			return t, err
		}
		if i < 0 {
			break
		}
		if t.kind != kindNone {
			return t, errStrange
		}
		switch i {
		case array:
			t.kind = kindArray
			err = w.typeParts(&t.elem, nil, &t.length)
		case slice:
			t.kind = kindSlice
			err = w.typeParts(&t.elem, nil, nil)
		case structure:
			t.kind = kindStruct
			t.fields, err = w.structType()
		case mapping:
			t.kind = kindMap
			err = w.typeParts(&t.key, &t.elem, nil)
		case gobEncoder, binaryMarshaler, textForm:
			t.kind = kindBytes
			err = w.typeParts(nil, nil, nil)
		default:
			err = errUnknown
		}
		if err != nil {
			return t, err
		}
		last = i
	}
	if t.kind == kindNone {
		return t, errStrange
	}
	return t, nil
}

// fieldLimit is more than the fields of any struct in a definition: those out of range are errUnknown, not errBroken.
const fieldLimit = 1 << 20

// typeParts reads the rest of the description of a type other than a struct: the common part, then as many as are not nil
// of two type ids and a length.
func (w *walker) typeParts(first, second *int32, length *uint64) error {
	last := -1
	for {
		i, err := w.nextField(last, fieldLimit)
		if err != nil || i < 0 {
			return err
		}
		switch {
		case i == 0:
			err = w.named(nil)
		case i == 1 && first != nil:
			*first, err = w.smallInt()
		case i == 2 && second != nil:
			*second, err = w.smallInt()
		case i == 2 && length != nil:
			var n int64
			n, err = w.int()
			*length = uint64(n)
		default:
			err = errUnknown
		}
		if err != nil {
			return err
		}
		last = i
	}
}

// structType reads the rest of the description of a struct type and returns the types of its fields.
func (w *walker) structType() ([]int32, error) {
	var fields []int32
	last := -1
	for {
		i, err := w.nextField(last, fieldLimit)
		if err != nil || i < 0 {
			return fields, err
		}
		switch i {
		case 0:
			err = w.named(nil)
		case 1:
			var n int
			if n, err = w.count(); err != nil {
				break
			}
			fields = make([]int32, n)
			for f := range fields {
				if err = w.named(&fields[f]); err != nil {
					break
				}
			}
		default:
			err = errUnknown
		}
		if err != nil {
			return nil, err
		}
		last = i
	}
}

// named reads the struct of a name and a type id, and stores the latter in id unless that is nil.
func (w *walker) named(id *int32) error {
	last := -1
	for {
		i, err := w.nextField(last, fieldLimit)
		if err != nil || i < 0 {
			return err
		}
		switch i {
		case 0:
			err = w.skip()
		case 1:
			var x int32
			x, err = w.smallInt()
			if id != nil {
				*id = x
			}
		default:
			err = errUnknown
		}
		if err != nil {
			return err
		}
		last = i
	}
}

// smallInt reads an integer of 32 bits.
func (w *walker) smallInt() (int32, error) {
	x, err := w.int()
	if err == nil && x != int64(int32(x)) {
		return 0, errBroken
	}
	return int32(x), err
}
