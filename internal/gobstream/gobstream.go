// Package gobstream reads and writes the parts of gob streams, and checks streams
// before gob decodes them, whoever wrote them.
package gobstream

import (
	"encoding/binary"
	"math/bits"
)

// AppendText appends a text behind its length.
func AppendText[T string | []byte](b []byte, text T) []byte {
	return append(AppendUint(b, uint64(len(text))), text...)
}

// AppendUint appends a small x as it is, others behind their negative length.
func AppendUint(b []byte, x uint64) []byte {
	if x <= 0x7f {
		return append(b, byte(x))
	}
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], x)
	n := UintLen(x) - 1
	return append(append(b, byte(-n)), number[8-n:]...)
}

// UintLen is how many bytes AppendUint appends.
func UintLen(x uint64) int {
	if x <= 0x7f {
		return 1
	}
	return 1 + (bits.Len64(x)+7)/8
}

// Zigzag is the number that stands for a signed one.
func Zigzag(x int64) uint64 { return uint64(x)<<1 ^ uint64(x>>63) }

// Unzigzag is the signed number that x stands for.
func Unzigzag(x uint64) int64 { return int64(x>>1) ^ -int64(x&1) }

// A Reader reads what is appended here. Once it is bad, it reads nothing of use.
type Reader struct {
	Rest []byte
	Bad  bool
}

// Int reads a signed number.
func (r *Reader) Int() int64 { return Unzigzag(r.Uint()) }

// Text reads a length and as many bytes.
func (r *Reader) Text() []byte { return r.Take(r.Uint()) }

// Uint reads a number.
func (r *Reader) Uint() (x uint64) {
	if len(r.Rest) > 0 && r.Rest[0] <= 0x7f {
		x, r.Rest = uint64(r.Rest[0]), r.Rest[1:]
		return x
	}
	number := r.Take(1)
	if len(number) > 0 {
		number = r.Take(256 - uint64(number[0]))
	}
	r.Bad = r.Bad || len(number) > 8
	for _, b := range number {
		x = x<<8 | uint64(b)
	}
	return x
}

// Take reads n bytes.
func (r *Reader) Take(n uint64) []byte {
	taken := r.Rest[:min(n, uint64(len(r.Rest)))]
	r.Rest, r.Bad = r.Rest[len(taken):], r.Bad || uint64(len(taken)) < n
	return taken
}
