package gaesession

import (
	"errors"
	"fmt"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/gobcodec"
)

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

func (c codec) encode(sess session.Session) (value []byte, err error) {
	value, _, err = c.store(sess, false)
	return value, err
}

// store encodes a session, and says what of it is stored if want is set: the
// codec may not keep all of a value, and the session may be changed meanwhile.
func (c codec) store(sess session.Session, want bool) (value []byte, stored snapshot, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("encode session: panic: %v", p)
		}
	}()
	value, stored, known, err := func() ([]byte, snapshot, bool, error) {
		sess.Mutex().RLock()
		defer sess.Mutex().RUnlock()
		value, err := c.marshal(sess)
		if err != nil || !want || !c.isGob {
			return value, snapshot{}, false, err
		}
		attrs, accessed, ok := gobcodec.Scalars(sess)
		return value, snapshot{value, accessed, attrs, true}, ok, nil
	}()
	if err == nil && len(value) == 0 {
		err = errors.New("codec returned no bytes")
	}
	if err != nil {
		return nil, snapshot{}, fmt.Errorf("encode session: %w", err)
	}
	if want && !known {
		decoded, err := c.decode(value)
		if err != nil {
			return nil, snapshot{}, err
		}
		stored = storedSnapshot(value, decoded)
	}
	return value, stored, nil
}

// longest is for ever: a timeout or refresh interval may say more.
const longest = 100 * 365 * 24 * time.Hour

// expires is when a session with that timeout ends that is not used any more.
func (s *memcacheStore) expires(accessed time.Time, timeout time.Duration) time.Time {
	timeout = min(timeout, longest)
	return accessed.Add(timeout + min(s.opt.refreshInterval(timeout), longest))
}
