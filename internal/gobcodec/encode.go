package gobcodec

import (
	"bytes"
	"encoding/gob"
	"sync"
	"sync/atomic"
)

// sessions are the kept encoders of sessionType.
var sessions encoders

// encoders keeps the encoders of one type.
type encoders struct {
	free sync.Pool            // of *keptEncoder
	last atomic.Pointer[sent] // the definitions all of them begin with, once known
}

// sent are the definitions an encoder has written.
type sent struct {
	prefix []byte
	types  definitions
}

// A keptEncoder has written the definitions and goes on with value messages.
type keptEncoder struct {
	enc  *gob.Encoder
	sent *sent // nil as long as it is new
	out  []byte
}

// Write takes one message from the encoder.
func (k *keptEncoder) Write(message []byte) (int, error) {
	if k.out == nil && k.sent != nil {
		k.out = make([]byte, 0, len(k.sent.prefix)+len(message))
		k.out = append(k.out, k.sent.prefix...)
	}
	k.out = append(k.out, message...)
	return len(message), nil
}

// encode encodes v, with a kept encoder if possible.
func (e *encoders) encode(v any) ([]byte, error) {
	if k, _ := e.free.Get().(*keptEncoder); k != nil {
		if err := k.enc.Encode(v); err == nil && k.simpleValue() {
			return e.keep(k), nil
		}
		// A new encoder's error counts, or its bytes, which have all definitions.
	}
	k := new(keptEncoder)
	k.enc = gob.NewEncoder(k)
	if err := k.enc.Encode(v); err != nil {
		return nil, err
	}
	if at, err := valueOffset(k.out); err == nil && at <= maxPrefix {
		if k.sent = e.definitions(k.out[:at]); k.sent != nil && k.simpleValue() {
			return e.keep(k), nil
		}
	}
	return k.out, nil
}

// simpleValue reports whether the value message in k.out is simple and short enough to keep the encoder.
func (k *keptEncoder) simpleValue() bool {
	value := k.out[len(k.sent.prefix):]
	length, simple, err := walkValue(k.sent.types, value)
	return err == nil && simple && length == len(value) && length <= maxMessage
}

// keep gives k back and returns what it wrote.
func (e *encoders) keep(k *keptEncoder) []byte {
	out := k.out
	k.out = nil
	e.free.Put(k)
	return out
}

// definitions returns the definitions in prefix, or nil when it cannot be read.
func (e *encoders) definitions(prefix []byte) *sent {
	if last := e.last.Load(); last != nil && bytes.Equal(last.prefix, prefix) {
		return last
	}
	types, err := readDefinitions(prefix)
	if err != nil {
		return nil
	}
	s := &sent{prefix: bytes.Clone(prefix), types: types}
	e.last.Store(s)
	return s
}
