package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
)

// A blindStore is what the benchmarks compare with: it makes the calls that
// icza/gaesession v2 makes, with the same codec and the same attempts, and
// leaves out its logging. It saves every session it has touched, whatever is
// stored by then.
type blindStore struct {
	ctx  context.Context
	o    options
	sess map[string]session.Session
	late *sync.WaitGroup // the saves that Close has left to run
}

func newBlindStore(ctx context.Context, o options, late *sync.WaitGroup) *blindStore {
	return &blindStore{ctx: ctx, o: o, sess: map[string]session.Session{}, late: late}
}

// often calls f until it succeeds or has failed three times.
func often(f func() error) (err error) {
	for range 3 {
		if err = f(); err == nil {
			return nil
		}
	}
	return err
}

func (b *blindStore) key(id string) *datastore.Key {
	return datastore.NewKey(b.ctx, kind, id, 0, nil)
}

func (b *blindStore) Get(id string) session.Session {
	var sess session.Session
	_ = often(func() error {
		s := session.NewSession()
		_, err := memcache.Gob.Get(b.ctx, id, s)
		if errors.Is(err, memcache.ErrCacheMiss) {
			return nil
		}
		if err == nil {
			sess = s
		}
		return err
	})
	if sess == nil {
		var e gaesession.SessEntity
		err := often(func() error {
			err := datastore.Get(b.ctx, b.key(id), &e)
			if errors.Is(err, datastore.ErrNoSuchEntity) {
				return nil
			}
			return err
		})
		if err != nil || len(e.Value) == 0 || e.Expires.Before(time.Now()) {
			return nil
		}
		sess = session.NewSession()
		if memcache.Gob.Unmarshal(e.Value, sess) != nil {
			return nil
		}
	}
	sess.Access()
	b.sess[id] = sess
	return sess
}

func (b *blindStore) Add(sess session.Session) {
	if b.set(sess) == nil {
		b.sess[sess.ID()] = sess
	}
}

func (b *blindStore) set(sess session.Session) error {
	return often(func() error {
		return memcache.Gob.Set(b.ctx, &memcache.Item{Key: sess.ID(), Object: sess, Expiration: sess.Timeout()})
	})
}

func (b *blindStore) Remove(sess session.Session) {
	delete(b.sess, sess.ID())
	err := often(func() error { return memcache.Delete(b.ctx, sess.ID()) })
	if err == nil && !b.o.OnlyMemcache {
		_ = datastore.Delete(b.ctx, b.key(sess.ID()))
	}
}

func (b *blindStore) Close() {
	for _, sess := range b.sess {
		_ = b.set(sess)
	}
	switch {
	case b.o.OnlyMemcache:
	case b.o.AsyncDatastoreSave:
		b.late.Add(1)
		go func() {
			defer b.late.Done()
			ctx, cancel := context.WithTimeout(b.ctx, time.Minute) // see isLate
			defer cancel()
			b.put(ctx)
		}()
	default:
		b.put(b.ctx)
	}
}

func (b *blindStore) put(ctx context.Context) {
	for id, sess := range b.sess {
		value, err := memcache.Gob.Marshal(sess)
		if err != nil {
			continue
		}
		_ = often(func() error {
			_, err := datastore.Put(ctx, b.key(id), &gaesession.SessEntity{
				Expires: sess.Accessed().Add(sess.Timeout()), Value: value,
			})
			return err
		})
	}
}
