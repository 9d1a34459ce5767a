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

// longest is for ever: a timeout or refresh interval may say more.
const longest = 100 * 365 * 24 * time.Hour

// expires is when a session ends that is not used any more.
func (s *memcacheStore) expires(sess session.Session) time.Time {
	timeout := min(sess.Timeout(), longest)
	return sess.Accessed().Add(timeout + min(s.opt.refreshInterval(timeout), longest))
}
