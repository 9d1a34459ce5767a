// Package scscodec is scs.GobCodec: the same bytes, faster where all values of a
// session are scalars, and safe to decode whoever wrote the bytes. Package scalargob
// says how.
package scscodec

import (
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/gobstream"
	"github.com/gaesession/gaesession/internal/scalargob"
)

// Gob is a drop-in replacement for scs.GobCodec.
type Gob struct{ plain scs.GobCodec }

var _ scs.Codec = Gob{}

// Faster returns Gob for scs.GobCodec, and any other codec as it is.
func Faster(c scs.Codec) scs.Codec {
	if _, isGob := c.(scs.GobCodec); isGob {
		return Gob{}
	}
	return c
}

// A session is what scs.GobCodec encodes. The type has no name: to gob it is the
// type that scs declares.
type session = struct {
	Deadline time.Time
	Values   map[string]any
}

// sessions is how gob writes a session.
var sessions = scalargob.Of(&session{time.Unix(1, 0), map[string]any{"a": 1}})

// Encode implements scs.Codec. Its errors are gob's.
func (c Gob) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	if b := sessions.Encode(&session{deadline, values}); b != nil {
		return b, nil
	}
	return c.plain.Encode(deadline, values)
}

// Decode implements scs.Codec. It returns an error if gobstream.Checked does, or else
// gob's. Values are never nil, as scs writes into them.
func (c Gob) Decode(b []byte) (time.Time, map[string]any, error) {
	s := new(session)
	if !sessions.Decode(b, s) {
		b, err := gobstream.Checked(b)
		if err == nil {
			s.Deadline, s.Values, err = c.plain.Decode(b)
		}
		if err != nil {
			return time.Time{}, nil, err
		}
	}
	if s.Values == nil {
		s.Values = make(map[string]any)
	}
	return s.Deadline, s.Values, nil
}
