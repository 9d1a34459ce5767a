package gobcodec

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"reflect"

	"github.com/icza/session"
)

// maxMessage is the length in bytes of the longest value message a kept encoder or decoder is used for.
const maxMessage = 64 << 10

// sessionType is the one type whose encoders and decoders are kept: the unexported struct behind session.Session.
var sessionType = reflect.TypeOf(session.NewSession())

// ErrMalformed is answered, wrapped with the reason, for bytes that are not a session as a gob encoder writes it.
var ErrMalformed = errors.New("malformed gob stream")

var errNilPointer = errors.New("gobcodec: cannot encode a nil pointer")

// Marshal encodes v as memcache.Gob.Marshal does. The result is complete in itself and belongs to the caller. Errors are
// gob's; a nil pointer, on which gob panics, is an error too.
func Marshal(v any) ([]byte, error) {
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && rv.IsNil() {
		return nil, errNilPointer
	}
	if reflect.TypeOf(v) != sessionType {
		return plainMarshal(v)
	}
	return sessions.encode(v)
}

// Unmarshal decodes data into v as memcache.Gob.Unmarshal does. After an error v may be partly filled.
// [UnmarshalSession] is cheaper for sessions.
func Unmarshal(data []byte, v any) error {
	rv := reflect.ValueOf(v)
	if reflect.TypeOf(v) != sessionType || rv.IsNil() {
		return plainUnmarshal(data, v)
	}
	s, err := inspect(data)
	if err != nil {
		return err
	}
	if s.keepable && emptyMaps(rv.Elem()) {
		before := reflect.New(sessionType.Elem()).Elem()
		before.Set(rv.Elem())
		if s.decode(v) {
			return nil
		}
		// Start over from what the caller gave.
		rv.Elem().Set(before)
		clearMaps(rv.Elem())
	}
	return plainUnmarshal(data, v)
}

// UnmarshalSession decodes data into a new session, like memcache.Gob.Unmarshal into session.NewSession(). It returns
// either a session or an error: [ErrMalformed], or what gob says.
func UnmarshalSession(data []byte) (session.Session, error) {
	s, err := inspect(data)
	if err != nil {
		return nil, err
	}
	if s.keepable {
		if sess := session.NewSession(); s.decode(sess) {
			return sess, nil
		}
	}
	sess := session.NewSession()
	if err := plainUnmarshal(data, sess); err != nil {
		return nil, err
	}
	return sess, nil
}

// plainMarshal is memcache.Gob.Marshal.
func plainMarshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	if err := gob.NewEncoder(&buf).Encode(v); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// plainUnmarshal is memcache.Gob.Unmarshal.
func plainUnmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewBuffer(data)).Decode(v)
}

// emptyMaps reports whether no map of the struct v has entries: then a failed attempt to decode into it can be undone.
func emptyMaps(v reflect.Value) bool {
	for i := 0; i < v.NumField(); i++ {
		if f := v.Field(i); f.Kind() == reflect.Map && f.Len() > 0 {
			return false
		}
	}
	return true
}

// clearMaps empties the maps of the struct v.
func clearMaps(v reflect.Value) {
	for i := 0; i < v.NumField(); i++ {
		if f := v.Field(i); f.Kind() == reflect.Map && f.CanSet() {
			f.Clear()
		}
	}
}

// malformed wraps err, a reason found by the walk.
func malformed(err error) error {
	return fmt.Errorf("gobcodec: %w: %w", ErrMalformed, err)
}
