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

// A form knows what the bytes of a session mean. It is a live.Form.
type form struct{ codec codec }

var errOtherID = errors.New("stored session has another id")

// open decodes the session of that id.
func (f form) open(id string, value []byte) (session.Session, error) {
	sess, err := f.codec.decode(value)
	if err == nil && sess.ID() != id {
		err = errOtherID
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
	for name := range merged.Attrs() {
		if takeOther(name) && other.Attr(name) == nil {
			merged.SetAttr(name, nil)
		}
	}
	for name, v := range other.Attrs() {
		if takeOther(name) {
			merged.SetAttr(name, v)
		}
	}
	return f.codec.encode(merged)
}

// Rename is not needed before sessions of this package can have a new id.
func (f form) Rename([]byte, string) ([]byte, error) {
	return nil, errors.New("sessions keep their ids")
}

// encodeIf encodes a session if its attributes are worth it, while nothing
// changes them. exact says that none of them can be changed in place, and that
// the bytes say just that.
func (f form) encodeIf(sess session.Session, worth func(attrs map[string]any) bool) (value []byte, exact bool, err error) {
	if f.codec.isGob {
		if value, exact, err = f.encodeScalarsIf(sess, worth); exact {
			return value, exact, err
		}
	}
	attrs := sess.Attrs()
	sess.Mutex().RLock()
	defer sess.Mutex().RUnlock()
	if !worth(attrs) {
		return nil, false, nil
	}
	value, err = f.codec.encode(sess)
	return value, false, err
}

// encodeScalarsIf is encodeIf for a session of scalars, with less work. It
// reports whether it is one.
func (f form) encodeScalarsIf(sess session.Session, worth func(attrs map[string]any) bool) (value []byte, ok bool, err error) {
	sess.Mutex().RLock()
	defer sess.Mutex().RUnlock()
	attrs, _, ok := gobcodec.Scalars(sess)
	if !ok || !worth(attrs) {
		return nil, ok, nil
	}
	value, err = f.codec.encode(sess)
	return value, true, err
}

// scalarsOf returns a session's attributes if none of them can be changed in
// place, otherwise nil.
func scalarsOf(sess session.Session) map[string]any {
	// Scalars is the same for less work.
	if attrs, _, ok := gobcodec.Scalars(sess); ok {
		return attrs
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
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decode session: panic: %v", p)
		}
	}()
	if sess, err = c.unmarshal(value); err != nil {
		return nil, fmt.Errorf("decode session: %w", err)
	}
	return sess, nil
}

// encode encodes a session that is not changed meanwhile.
func (c codec) encode(sess session.Session) (value []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("encode session: panic: %v", p)
		}
	}()
	if value, err = c.marshal(sess); err == nil && len(value) == 0 {
		err = errors.New("codec returned no bytes")
	}
	if err != nil {
		return nil, fmt.Errorf("encode session: %w", err)
	}
	return value, nil
}
