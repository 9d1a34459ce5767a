package gobstream

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/gaesession/gaesession/tier"
)

var (
	errDamaged = errors.New("gobstream: damaged session: not a stream that gob writes, or one that announces more than it has")

	errTooDeep   = fmt.Errorf("gobstream: %w: its values are more than %d levels deep", tier.ErrTooLarge, maxDepth)
	errManyParts = fmt.Errorf("gobstream: %w: one of its types is made of more than %d arrays, slices and maps", tier.ErrTooLarge, maxParts)
	errManyTypes = fmt.Errorf("gobstream: %w: all its types together have more than %d fields and elements", tier.ErrTooLarge, maxSum)
)

// Limits that no session comes near. gob has none. A level may take one byte, and
// a few million levels take the gigabyte of stack at which the process ends. For
// each field that a struct has no more, gob compiles all that the field's type is
// made of: 40 KB of definitions take 385 MB and seconds. It does so again for each
// registered struct that a value of the type claims to be.
const (
	maxDepth = 100_000 // levels of a value
	maxParts = 16      // arrays, slices and maps that a type is made of, not counting those in structs
	maxSum   = 20_000  // fields and elements of all types, together with what each of them is made of
)

// Checked returns a gob stream whose first value is safe to decode: what the
// stream announces, elements, bytes and fields, is there. gob makes room for all
// elements of a map before it has seen any, and for ten megabytes of those of
// each slice. Whatever the types are, Checked takes all that gob has written
// within maxDepth, maxParts and maxSum. What is beyond them is tier.ErrTooLarge.
//
// It returns data itself, unless definitions of types cut the value of an
// interface into chunks. gob takes the first chunk for all of the value when it
// skips it, since the app's struct has no such field any more, and reads the
// others as something that was not checked. Then Checked returns a new stream
// with the definitions first.
func Checked(data []byte) ([]byte, error) {
	c := checker{stream: Reader{Rest: data}}
	if c.check(); c.cut && !c.Bad {
		c = checker{stream: Reader{Rest: data}, rewrite: true}
		c.check()
		data = AppendText(c.definitions, c.values)
	}
	if c.Bad {
		return nil, cmp.Or(c.limit, errDamaged)
	}
	return data, nil
}

// refuse makes the stream a bad one that is beyond a limit, unless it is bad already.
func (c *checker) refuse(limit error) {
	if !c.Bad {
		c.Bad, c.limit = true, limit
	}
}

// A checker reads a stream of messages. Within a message the value of an
// interface is in chunks, each behind its length. A message or a chunk ends with
// the definition of a type, or else with the value.
type checker struct {
	Reader        // what is left of the message
	stream Reader // what is left behind the message

	interfaces int  // how many the value is in that is being read
	end        int  // how much of the message is left behind the chunk
	cut        bool // there was a second chunk
	depth      int
	limit      error // that it is beyond; nil: none

	types map[int64]definition
	parts []int64 // of all types
	added []int64 // types that were not checked yet
	seen  []int64 // by isSmall
	sum   int     // of what isSmall has seen

	rewrite             bool
	copied              []byte // the message from where it was not copied yet
	definitions, values []byte // the new stream
}

// A definition is what a stream says of a type.
type definition struct {
	kind   int
	length uint64  // of an array
	parts  []int64 // the types of elements, of keys and elements, or of fields
}

// The kinds of types: gob's numbers of the fields of wireType. Types of the last
// three encode themselves.
const (
	arrayKind = iota
	sliceKind
	structKind
	mapKind
	gobEncoderKind
	binaryMarshalerKind
	textMarshalerKind
	kinds
)

// gob's ids of types that need no definition. Others begin at firstID.
const (
	boolID = iota + 1
	intID
	uintID
	floatID
	bytesID
	stringID
	complexID
	interfaceID
	firstID = 64
)

func (c *checker) check() {
	c.types = make(map[int64]definition)
	c.parts, c.added = make([]int64, 0, 16), make([]int64, 0, 8)
	c.typed(c.nextType())
	c.copyUpTo(c.Rest)
}

// nextType reads definitions up to the id of a value's type.
func (c *checker) nextType() (id int64) {
	for !c.Bad {
		if len(c.Rest) == c.end {
			c.next()
		}
		start := c.Rest
		if id = c.Int(); id >= 0 {
			c.checkTypes()
			return id
		}
		c.copyUpTo(start)
		c.define(-id)
		c.Bad = c.Bad || len(c.Rest) != c.end
		if c.copied = c.Rest; c.rewrite && !c.Bad {
			c.definitions = AppendText(c.definitions, start[:len(start)-len(c.Rest)])
		}
	}
	return 0
}

// next begins the next message, or the next chunk within it.
func (c *checker) next() {
	c.copyUpTo(c.Rest)
	if c.interfaces == 0 {
		c.Rest = c.stream.Text()
		c.Bad = c.Bad || c.stream.Bad
	} else {
		c.cut = true
		c.chunk()
	}
	c.copied = c.Rest
}

// chunk reads the length of a chunk.
func (c *checker) chunk() {
	n, left := c.Uint(), uint64(len(c.Rest))
	c.Bad = c.Bad || n > left
	c.end = int(left - min(n, left))
}

// copyUpTo copies what was read of the message, up to that rest of it.
func (c *checker) copyUpTo(rest []byte) {
	if c.rewrite && !c.Bad {
		c.values = append(c.values, c.copied[:len(c.copied)-len(rest)]...)
	}
	c.copied = rest
}

// typed reads a value that follows the id of its type.
func (c *checker) typed(id int64) {
	if c.types[id].kind != structKind {
		c.Bad = c.Uint() != 0 || c.Bad
	}
	c.value(id)
}

// value reads a value, which has one byte at least.
func (c *checker) value(id int64) {
	if c.depth++; c.depth > maxDepth {
		c.refuse(errTooDeep)
	}
	switch id {
	case boolID, intID, uintID, floatID:
		c.Uint()
	case bytesID, stringID:
		c.Text()
	case complexID:
		c.Uint()
		c.Uint()
	case interfaceID:
		c.dynamic()
	default:
		c.defined(id)
	}
	c.depth--
}

func (c *checker) defined(id int64) {
	d, ok := c.types[id]
	if c.Bad = c.Bad || !ok; c.Bad {
		return
	}
	switch d.kind {
	case structKind:
		for field := -1; c.field(&field, len(d.parts)); {
			c.value(d.parts[field])
		}
	case arrayKind, sliceKind, mapKind:
		n := c.Uint()
		c.Bad = c.Bad || d.kind == arrayKind && n != d.length
		for ; n > 0 && !c.Bad; n-- {
			for _, part := range d.parts {
				c.value(part)
			}
		}
	default:
		c.Text()
	}
}

// dynamic reads what an interface holds: the name of a type, and a value in
// chunks. It writes one chunk, with a length of nine bytes.
func (c *checker) dynamic() {
	if len(c.Text()) == 0 {
		return
	}
	id := c.nextType()
	c.copyUpTo(c.Rest)
	outer := c.end
	c.chunk()
	c.copied = c.Rest
	if c.rewrite {
		c.values = append(c.values, 0xf8, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	start := len(c.values)
	c.interfaces++
	c.typed(id)
	c.interfaces--
	c.Bad = c.Bad || len(c.Rest) != c.end
	c.end = outer
	c.copyUpTo(c.Rest)
	if c.rewrite {
		binary.BigEndian.PutUint64(c.values[start-8:], uint64(len(c.values)-start))
	}
}

// field moves on to the next field of a struct that is not zero, and reports
// whether there is one among its n fields.
func (c *checker) field(field *int, n int) bool {
	distance := c.Uint()
	c.Bad = c.Bad || distance > uint64(n-1-*field)
	*field += int(distance)
	return distance > 0 && !c.Bad
}

func (c *checker) define(id int64) {
	d, first := definition{kind: -1}, len(c.parts)
	for kind := -1; c.field(&kind, kinds); {
		c.Bad = c.Bad || d.kind >= 0 // there is one
		d.kind = kind
		for field := -1; c.field(&field, 3); {
			switch {
			case field == 0:
				c.named()
			case kind == structKind:
				for n := c.Uint(); n > 0 && !c.Bad; n-- {
					c.parts = append(c.parts, c.named())
				}
			case kind == arrayKind && field == 2:
				d.length = uint64(c.Int())
			default:
				c.parts = append(c.parts, c.Int())
			}
		}
	}
	d.parts = c.parts[first:]
	switch d.kind {
	case arrayKind, sliceKind:
		c.Bad = c.Bad || len(d.parts) != 1
	case mapKind:
		c.Bad = c.Bad || len(d.parts) != 2
	}
	_, twice := c.types[id]
	c.Bad = c.Bad || twice || d.kind < 0 || id < firstID || id > math.MaxInt32
	c.types[id] = d
	c.added = append(c.added, id)
}

// named reads a name and an id: of a type, or of a field its type's.
func (c *checker) named() (id int64) {
	for field := -1; c.field(&field, 2); {
		if field == 0 {
			c.Text()
		} else {
			id = c.Int()
		}
	}
	return id
}

// checkTypes checks what the added types are made of. All of it is defined before
// the value that follows.
func (c *checker) checkTypes() {
	for _, id := range c.added {
		for _, part := range c.types[id].parts {
			c.seen = c.seen[:0]
			c.Bad = c.Bad || !c.isSmall(part)
			if c.sum += 1 + len(c.seen); c.sum > maxSum {
				c.refuse(errManyTypes)
			}
		}
	}
	c.added = c.added[:0]
}

// isSmall reports whether a type is made of defined types, and of no more than
// maxParts with those that were seen.
func (c *checker) isSmall(id int64) bool {
	d, ok := c.types[id]
	if !ok {
		return boolID <= id && id <= interfaceID
	}
	if d.kind == structKind || slices.Contains(c.seen, id) {
		return true
	}
	if c.seen = append(c.seen, id); len(c.seen) > maxParts {
		c.refuse(errManyParts)
		return false
	}
	for _, part := range d.parts {
		if !c.isSmall(part) {
			return false
		}
	}
	return true
}
