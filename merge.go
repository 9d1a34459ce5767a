package gaesession

import (
	"maps"
	"slices"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/gobcodec"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/values"
)

// A snapshot is what a session was when it was loaded or saved last.
type snapshot struct {
	value    []byte
	accessed time.Time
	attrs    map[string]any // nil: decode value
	scalars  bool           // no attribute can be changed in place
}

// loadedSnapshot is of a session that the app gets, and may change in place.
func loadedSnapshot(value []byte, sess session.Session) snapshot {
	s := storedSnapshot(value, sess)
	if !s.scalars {
		s.attrs = nil
	}
	return s
}

// storedSnapshot is of a session that nobody changes.
func storedSnapshot(value []byte, sess session.Session) snapshot {
	// Scalars is the same for less work.
	if attrs, accessed, ok := gobcodec.Scalars(sess); ok {
		return snapshot{value, accessed, attrs, true}
	}
	attrs := sess.Attrs()
	return snapshot{value, sess.Accessed(), attrs, values.AreScalars(attrs)}
}

// all returns the attributes. They must not be changed.
func (s snapshot) all(c codec) (map[string]any, error) {
	if s.attrs != nil || len(s.value) == 0 {
		return s.attrs, nil
	}
	sess, err := c.decode(s.value)
	if err != nil {
		return nil, err
	}
	return sess.Attrs(), nil
}

// inspect says what is in the bytes of a session.
func (s *memcacheStore) inspect(value []byte) (tiered.Info, error) {
	sess, err := s.codec.decode(value)
	if err != nil {
		return tiered.Info{}, err
	}
	return tiered.Info{
		Names: slices.Collect(maps.Keys(sess.Attrs())),
		Used:  sess.Accessed(),
		Ends:  sess.Accessed().Add(min(sess.Timeout(), longest)),
	}, nil
}

// merge returns the session into with the attributes that take names as from
// has them.
func (s *memcacheStore) merge(into, from []byte, take func(name string) bool) ([]byte, error) {
	i, err := s.codec.decode(into)
	if err != nil {
		return nil, err
	}
	f, err := s.codec.decode(from)
	if err != nil {
		return nil, err
	}
	if i.ID() != f.ID() {
		return nil, errOtherID
	}
	// An access time cannot be set: the session with the later one is the one
	// to go on with.
	merged, other, takeOther := i, f, take
	if f.Accessed().After(i.Accessed()) {
		merged, other, takeOther = f, i, func(name string) bool { return !take(name) }
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
	return s.codec.encode(merged)
}
