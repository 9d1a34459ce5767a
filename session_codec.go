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

// store encodes a session if its attributes are worth it, and returns what is
// in the bytes. It returns the zero snapshot if they are not, or if those in
// the bytes are not: the codec may not keep all of a value.
func (c codec) store(sess session.Session, worth func(attrs map[string]any) bool) (snapshot, error) {
	if stored, known, err := c.storeScalars(sess, worth); known {
		return stored, err
	}
	attrs := sess.Attrs()
	value, err := func() ([]byte, error) {
		sess.Mutex().RLock()
		defer sess.Mutex().RUnlock()
		if !worth(attrs) {
			return nil, nil
		}
		return c.encode(sess)
	}()
	if value == nil || err != nil {
		return snapshot{}, err
	}
	decoded, err := c.decode(value)
	if err != nil {
		return snapshot{}, err
	}
	stored := storedSnapshot(value, decoded)
	if !worth(stored.attrs) {
		return snapshot{}, nil
	}
	return stored, nil
}

// storeScalars is store for a session that is known to be in the bytes as it
// is. It reports whether this one is.
func (c codec) storeScalars(sess session.Session, worth func(attrs map[string]any) bool) (stored snapshot, known bool, err error) {
	if !c.isGob {
		return snapshot{}, false, nil
	}
	sess.Mutex().RLock()
	defer sess.Mutex().RUnlock()
	attrs, accessed, known := gobcodec.Scalars(sess)
	if !known || !worth(attrs) {
		return snapshot{}, known, nil
	}
	value, err := c.encode(sess)
	if err != nil {
		return snapshot{}, true, err
	}
	return snapshot{value, accessed, attrs, true}, true, nil
}

// longest is for ever: a timeout or refresh interval may say more.
const longest = 100 * 365 * 24 * time.Hour

// expires is when a session with that timeout ends that is not used any more.
func (s *memcacheStore) expires(accessed time.Time, timeout time.Duration) time.Time {
	timeout = min(timeout, longest)
	return accessed.Add(timeout + min(s.opt.refreshInterval(timeout), longest))
}
