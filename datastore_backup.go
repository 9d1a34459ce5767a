package gaesession

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/gobcodec"
	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/values"
)

// SessEntity is the form of a session in Datastore. Its key's name is the
// session's id. The entity of a removed session has an empty Value and expires
// 24 hours after the removal, or an hour after the session would have ended,
// whichever is later.
type SessEntity struct {
	Expires time.Time `datastore:"exp"`
	Value   []byte    `datastore:"val"`
}

// The properties of a SessEntity.
const (
	valueProperty   = "val"
	expiresProperty = "exp"
)

// A form knows what the bytes of a session mean. It is a live.Form.
type form struct{ codec codec }

var errOtherID = errors.New("stored session has another id")

// open decodes the session of that id. Its bytes have the id's key in place of the
// id.
func (f form) open(id, key string, value []byte) (session.Session, error) {
	sess, err := f.codec.decode(value)
	if err == nil && sess.ID() != key {
		err = errOtherID
	}
	if err == nil && key != id {
		err = setID(sess, id)
	}
	if err != nil {
		return nil, err
	}
	return sess, nil
}

func (f form) Attributes(value []byte) (map[string]any, error) {
	sess, err := f.codec.decode(value)
	if err != nil {
		return nil, err
	}
	return sess.Attrs(), nil
}

func (f form) Inspect(value []byte) (live.Info, error) {
	sess, err := f.codec.decode(value)
	if err != nil {
		return live.Info{}, err
	}
	return live.Info{
		Names: slices.Collect(maps.Keys(sess.Attrs())),
		Used:  sess.Accessed(),
		Ends:  sess.Accessed().Add(min(sess.Timeout(), longest)),
	}, nil
}

func (f form) Merge(into, from []byte, take func(name string) bool) ([]byte, error) {
	i, err := f.codec.decode(into)
	if err != nil {
		return nil, err
	}
	o, err := f.codec.decode(from)
	if err != nil {
		return nil, err
	}
	if i.ID() != o.ID() {
		return nil, errOtherID
	}
	// An access time cannot be set: the session with the later one is the one
	// to continue with.
	merged, other, takeOther := i, o, take
	if o.Accessed().After(i.Accessed()) {
		merged, other, takeOther = o, i, func(name string) bool { return !take(name) }
	}
	setAttrs(merged, values.Merge(merged.Attrs(), other.Attrs(), takeOther))
	return f.codec.encode(merged)
}

// setAttrs makes attrs the attributes of a session, and deletes all others.
func setAttrs(sess session.Session, attrs map[string]any) {
	for name := range sess.Attrs() {
		if attrs[name] == nil {
			sess.SetAttr(name, nil)
		}
	}
	for name, v := range attrs {
		sess.SetAttr(name, v)
	}
}

// Rename implements live.Form. What it calls the id is a key.
func (f form) Rename(value []byte, key string) ([]byte, error) {
	sess, err := f.codec.decode(value)
	if err != nil {
		return nil, err
	}
	return f.encode(sess, key)
}

// only returns a session without the attributes that keep does not want.
func (f form) only(value []byte, keep func(name string) bool) ([]byte, error) {
	sess, err := f.codec.decode(value)
	if err != nil {
		return nil, err
	}
	setAttrs(sess, values.Merge(nil, sess.Attrs(), keep))
	return f.codec.encode(sess)
}

// encodeIf encodes a session as it is kept under that key, if its attributes are
// worth it, while nothing changes them: it is live.Draft's Encode.
func (f form) encodeIf(sess session.Session, key string, worth func(attrs map[string]any) bool) ([]byte, map[string]any, error) {
	fields, ok := field[map[string]any](sess, attrsField)
	var attrs map[string]any
	if !ok {
		attrs = sess.Attrs() // which locks the mutex
	}
	if err := hold(sess.Mutex()); err != nil {
		return nil, nil, err
	}
	defer sess.Mutex().RUnlock()
	if ok {
		attrs = *fields
	}
	if !worth(attrs) {
		return nil, nil, nil
	}
	value, err := f.encode(sess, key)
	if _, scalars := gobcodec.Scalars(sess); err == nil && !(scalars && f.codec.isGob) {
		return value, nil, nil
	}
	return value, maps.Clone(attrs), err
}

// encode encodes a session as it is kept under that key.
func (f form) encode(sess session.Session, key string) ([]byte, error) {
	stored, err := withID(sess, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEncode, err)
	}
	return f.codec.encode(stored)
}

// scalarsOf returns a session's attributes if none of them can be changed in
// place, otherwise nil.
func scalarsOf(sess session.Session) map[string]any {
	// Scalars is the same for less work.
	if attrs, ok := gobcodec.Scalars(sess); ok {
		return maps.Clone(attrs)
	}
	if attrs := sess.Attrs(); values.AreScalars(attrs) {
		return attrs
	}
	return nil
}

// A codec turns sessions into bytes and back.
type codec struct {
	isGob     bool // memcache.Gob
	marshal   func(any) ([]byte, error)
	unmarshal func([]byte) (session.Session, error)
}

func newCodec(c *memcache.Codec) codec {
	if c == nil || c == &memcache.Gob {
		// The same bytes for less work.
		return codec{true, gobcodec.Marshal, gobcodec.UnmarshalSession}
	}
	return codec{false, c.Marshal, func(value []byte) (session.Session, error) {
		sess := session.NewSession()
		return sess, c.Unmarshal(value, sess)
	}}
}

func (c codec) decode(value []byte) (sess session.Session, err error) {
	defer live.Wrap(&err, errDecode)
	return c.unmarshal(value)
}

// encode encodes a session that is not changed meanwhile.
func (c codec) encode(sess session.Session) (value []byte, err error) {
	defer live.Wrap(&err, errEncode)
	if value, err = c.marshal(sess); err == nil && len(value) == 0 {
		err = errors.New("codec returned no bytes")
	}
	return value, err
}

// errEncode means that the codec could not encode a session, or what several
// requests have made of it together.
var (
	errEncode = errors.New("encode session")
	errDecode = errors.New("decode session")
)
