package gaesession

import (
	"errors"
	"fmt"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/gobcodec"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/values"
)

// A codec turns sessions into bytes and back.
type codec struct {
	marshal   func(any) ([]byte, error)
	unmarshal func([]byte) (session.Session, error)
}

func newCodec(c *memcache.Codec) codec {
	if c == nil || c == &memcache.Gob {
		// The same bytes for less work.
		return codec{gobcodec.Marshal, gobcodec.UnmarshalSession}
	}
	return codec{c.Marshal, func(value []byte) (session.Session, error) {
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

func (c codec) encode(sess session.Session) (value []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("encode session: panic: %v", p)
		}
	}()
	sess.Mutex().RLock()
	defer sess.Mutex().RUnlock()
	if value, err = c.marshal(sess); err != nil {
		return nil, fmt.Errorf("encode session: %w", err)
	}
	if len(value) == 0 {
		return nil, errors.New("encode session: codec returned no bytes")
	}
	return value, nil
}

// A snapshot is what a session was when it was loaded.
type snapshot struct {
	value    []byte
	accessed time.Time
	scalars  map[string]any // its attributes, if none can be changed in place
}

func takeSnapshot(value []byte, sess session.Session) snapshot {
	s := snapshot{value: value, accessed: sess.Accessed()}
	if attrs := sess.Attrs(); values.AreScalars(attrs) {
		s.scalars = attrs // a copy
	}
	return s
}

// changed tells whether an attribute of sess is not what it was, also when its
// value was changed in place.
func (s snapshot) changed(c codec, sess session.Session) (bool, error) {
	now := sess.Attrs()
	if s.scalars != nil {
		return !values.EqualScalars(s.scalars, now), nil
	}
	was, err := c.decode(s.value)
	if err != nil {
		return false, err
	}
	sess.Mutex().RLock()
	defer sess.Mutex().RUnlock()
	return !values.Equal(was.Attrs(), now), nil
}

// staleBackup is how much older than what Memcache held a session in Datastore
// has to be to be taken for one that icza/gaesession failed to save there.
// Clocks of instances differ by far less.
const staleBackup = time.Minute

// merge applies to theirs what distinguishes mine from base, attribute by
// attribute. It is the tiered.Store's Merge.
func (s *memcacheStore) merge(base, mine, theirs []byte) (tiered.Record, error) {
	m, err := s.codec.decode(mine)
	if err != nil {
		return tiered.Record{}, err
	}
	t, err := s.codec.decode(theirs)
	if err != nil {
		return tiered.Record{}, err
	}
	if m.ID() != t.ID() {
		return tiered.Record{}, errOtherID
	}
	var was map[string]any
	if len(base) > 0 {
		b, err := s.codec.decode(base)
		if err != nil {
			return tiered.Record{}, err
		}
		if t.Accessed().Before(b.Accessed().Add(-staleBackup)) {
			return tiered.Record{Value: mine, Expires: s.expires(m)}, nil
		}
		was = b.Attrs()
	}
	attrs := t.Attrs()
	values.Merge(was, m.Attrs(), attrs)
	// An access time cannot be set: the session with the later one is the one
	// to go on with.
	merged := t
	if m.Accessed().After(t.Accessed()) {
		merged = m
	}
	for name := range merged.Attrs() {
		if _, ok := attrs[name]; !ok {
			merged.SetAttr(name, nil)
		}
	}
	for name, v := range attrs {
		merged.SetAttr(name, v)
	}
	value, err := s.codec.encode(merged)
	return tiered.Record{Value: value, Expires: s.expires(merged)}, err
}

// longest is for ever: a timeout or refresh interval may say more.
const longest = 100 * 365 * 24 * time.Hour

// expires is when a session ends that is not used any more.
func (s *memcacheStore) expires(sess session.Session) time.Time {
	timeout := min(sess.Timeout(), longest)
	return sess.Accessed().Add(timeout + min(s.opt.refreshInterval(timeout), longest))
}
