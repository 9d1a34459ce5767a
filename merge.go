package gaesession

import (
	"maps"
	"slices"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/values"
)

// A snapshot is what a session was when it was loaded or saved last.
type snapshot struct {
	value    []byte
	accessed time.Time
	scalars  map[string]any // its attributes, if none can be changed in place
}

func takeSnapshot(value []byte, accessed time.Time, attrs map[string]any) snapshot {
	s := snapshot{value: value, accessed: accessed}
	if values.AreScalars(attrs) {
		s.scalars = attrs
	}
	return s
}

// changes returns the names of the attributes that are not what they were, also
// when a value was changed in place. now is a copy of the session's attributes.
func (s snapshot) changes(c codec, sess session.Session, now map[string]any) (set, deleted []string, err error) {
	was := s.scalars
	if was == nil && len(s.value) > 0 {
		before, err := c.decode(s.value)
		if err != nil {
			return nil, nil, err
		}
		was = before.Attrs()
	}
	sess.Mutex().RLock()
	defer sess.Mutex().RUnlock()
	set, deleted = values.Changes(was, now)
	return set, deleted, nil
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
