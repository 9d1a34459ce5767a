package gobcodec

import (
	"bytes"
	"encoding/gob"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// maxPrefixes is how many prefixes are remembered: one per build and per order in which its processes first used
	// their types.
	maxPrefixes = 16
	// maxPrefix is the length in bytes of the longest one remembered; a session's is about 150.
	maxPrefix = 4 << 10
)

// prefixes are those this process has read.
var prefixes = newPrefixTable()

// A prefix is what is known about one sequence of definitions.
type prefix struct {
	types definitions
	free  sync.Pool     // of *keptDecoder
	used  atomic.Uint64 // the table's clock at the last use
}

// A prefixTable remembers prefixes by their bytes; when it is full, the one least recently used makes room.
type prefixTable struct {
	mu    sync.RWMutex
	known map[string]*prefix
	clock atomic.Uint64
}

func newPrefixTable() *prefixTable {
	return &prefixTable{known: make(map[string]*prefix)}
}

// find returns the prefix with these bytes, or nil.
func (t *prefixTable) find(p []byte) *prefix {
	t.mu.RLock()
	found := t.known[string(p)]
	t.mu.RUnlock()
	if found != nil {
		found.used.Store(t.clock.Add(1))
	}
	return found
}

// add remembers a prefix, and returns what is remembered under its bytes.
func (t *prefixTable) add(p []byte, types definitions) *prefix {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.known[string(p)]; known != nil {
		return known
	}
	if len(t.known) >= maxPrefixes {
		var oldest string
		var least uint64
		for k, e := range t.known {
			if used := e.used.Load(); oldest == "" || used < least {
				oldest, least = k, used
			}
		}
		delete(t.known, oldest)
	}
	e := &prefix{types: types}
	e.used.Store(t.clock.Add(1))
	t.known[string(p)] = e
	return e
}

// A keptDecoder has read a prefix and is ready for value messages.
type keptDecoder struct {
	dec *gob.Decoder
	in  bytes.Reader
}

// A stream is a walked gob stream.
type stream struct {
	data     []byte
	prefix   int // length of the definitions
	message  int // length of the value message
	types    definitions
	known    *prefix // nil when the prefix is new
	keepable bool    // whether a kept decoder may read the value
}

// inspect walks data. Its errors are ErrMalformed; a stream with definitions it does not understand is not an error.
func inspect(data []byte) (stream, error) {
	s := stream{data: data}
	if len(data) == 0 {
		return s, malformed(io.EOF)
	}
	var err error
	if s.prefix, err = valueOffset(data); err != nil {
		return s, malformed(err)
	}
	p := data[:s.prefix]
	if s.known = prefixes.find(p); s.known != nil {
		s.types = s.known.types
	} else if s.types, err = readDefinitions(p); err != nil {
		return s, refusal(err)
	}
	var simple bool
	if s.message, simple, err = walkValue(s.types, data[s.prefix:]); err != nil {
		return s, refusal(err)
	}
	s.keepable = simple && s.prefix <= maxPrefix && s.message <= maxMessage
	return s, nil
}

// refusal returns the error for what the walk found, nil when gob is to judge.
func refusal(err error) error {
	if errors.Is(err, errUnknown) {
		return nil
	}
	return malformed(err)
}

// decode decodes a keepable stream into v, a session, and reports whether that worked. A decoder that did it is kept;
// otherwise v may be partly filled.
func (s *stream) decode(v any) bool {
	var k *keptDecoder
	if s.known != nil {
		k, _ = s.known.free.Get().(*keptDecoder)
	}
	end := s.prefix + s.message
	if k != nil {
		k.in.Reset(s.data[s.prefix:end])
	} else {
		k = new(keptDecoder)
		k.in.Reset(s.data[:end])
		k.dec = gob.NewDecoder(&k.in)
	}
	if err := k.dec.Decode(v); err != nil || k.in.Len() != 0 {
		return false // Plain gob will say what is wrong.
	}
	k.in.Reset(nil)
	if s.known == nil {
		s.known = prefixes.add(s.data[:s.prefix], s.types)
	}
	s.known.free.Put(k)
	return true
}
