package oldlib

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
)

// Options are those of icza/gaesession, and AsyncArrives. The zero value of a
// field stands for the default there.
type Options struct {
	KeyPrefix          string
	Retries            int
	Codec              *memcache.Codec
	OnlyMemcache       bool
	AsyncDatastoreSave bool
	DSEntityName       string

	// AsyncArrives makes the background saves of AsyncDatastoreSave arrive, as
	// they may when the handler goes on after Close. Without it they are not
	// made: the request's context has been cancelled.
	AsyncArrives bool
}

// Entity is a session in Datastore.
type Entity struct {
	Expires time.Time `datastore:"exp"`
	Value   []byte    `datastore:"val"`
}

// A Store is one request's session.Store. It is safe for the goroutines of a
// request, which icza/gaesession's is not.
type Store struct {
	ctx context.Context
	opt Options

	background sync.WaitGroup

	mu       sync.Mutex
	sessions []session.Session // to be saved by Close
	errs     []error
}

var _ session.Store = (*Store)(nil)

// New returns a store for the request whose context ctx is.
func New(ctx context.Context, o Options) *Store {
	if o.Retries <= 0 {
		o.Retries = 3
	}
	if o.Codec == nil {
		o.Codec = &memcache.Gob
	}
	if o.DSEntityName == "" {
		o.DSEntityName = "sess_"
	}
	return &Store{ctx: ctx, opt: o}
}

// Get implements session.Store.
func (s *Store) Get(id string) session.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.sessions {
		if sess.ID() == id {
			return sess
		}
	}
	sess, err := s.fromMemcache(id)
	s.note("get the item", err)
	if sess == nil {
		sess, err = s.fromDatastore(id)
		s.note("get the entity", err)
	}
	if sess == nil {
		return nil
	}
	sess.Access()
	s.sessions = append(s.sessions, sess)
	return sess
}

func (s *Store) fromMemcache(id string) (found session.Session, err error) {
	err = s.retry(func() error {
		sess := session.NewSession()
		_, err := s.opt.Codec.Get(s.ctx, s.opt.KeyPrefix+id, sess)
		if errors.Is(err, memcache.ErrCacheMiss) {
			return nil
		}
		if err == nil {
			found = sess
		}
		return err
	})
	return found, err
}

func (s *Store) fromDatastore(id string) (session.Session, error) {
	var e *Entity
	key := s.key(s.ctx, id)
	err := s.retry(func() error {
		var got Entity
		err := datastore.Get(s.ctx, key, &got)
		if errors.Is(err, datastore.ErrNoSuchEntity) {
			return nil
		}
		if err == nil {
			e = &got
		}
		return err
	})
	if e == nil {
		return nil, err
	}
	if e.Expires.Before(time.Now()) {
		return nil, datastore.Delete(s.ctx, key)
	}
	sess := session.NewSession()
	if err := s.opt.Codec.Unmarshal(e.Value, sess); err != nil {
		return nil, err
	}
	return sess, nil
}

// Add implements session.Store.
func (s *Store) Add(sess session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.toMemcache(sess); err != nil {
		s.note("set the item", err)
		return
	}
	s.sessions = append(s.without(sess.ID()), sess)
}

// Remove implements session.Store.
func (s *Store) Remove(sess session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.retry(func() error {
		err := memcache.Delete(s.ctx, s.opt.KeyPrefix+sess.ID())
		if errors.Is(err, memcache.ErrCacheMiss) {
			return nil
		}
		return err
	})
	if err != nil {
		s.note("delete the item", err)
		return
	}
	s.sessions = s.without(sess.ID())
	if !s.opt.OnlyMemcache {
		s.note("delete the entity", datastore.Delete(s.ctx, s.key(s.ctx, sess.ID())))
	}
}

// without returns the sessions but the one with that id.
func (s *Store) without(id string) (others []session.Session) {
	for _, sess := range s.sessions {
		if sess.ID() != id {
			others = append(others, sess)
		}
	}
	return others
}

// Close implements session.Store.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.sessions {
		s.note("set the item", s.toMemcache(sess))
	}
	switch {
	case s.opt.OnlyMemcache, s.opt.AsyncDatastoreSave && !s.opt.AsyncArrives:
	case s.opt.AsyncDatastoreSave:
		sessions, ctx := s.sessions, context.WithoutCancel(s.ctx)
		s.background.Add(1)
		go func() {
			defer s.background.Done()
			for _, sess := range sessions {
				err := s.toDatastore(ctx, sess)
				s.mu.Lock()
				s.note("put the entity in the background", err)
				s.mu.Unlock()
			}
		}()
	default:
		for _, sess := range s.sessions {
			s.note("put the entity", s.toDatastore(s.ctx, sess))
		}
	}
}

// Wait waits for the background saves that arrive.
func (s *Store) Wait() { s.background.Wait() }

// Err returns what icza/gaesession would have logged.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}

func (s *Store) toMemcache(sess session.Session) error {
	return s.retry(func() error {
		return s.opt.Codec.Set(s.ctx, &memcache.Item{
			Key: s.opt.KeyPrefix + sess.ID(), Object: sess, Expiration: sess.Timeout(),
		})
	})
}

func (s *Store) toDatastore(ctx context.Context, sess session.Session) error {
	value, err := s.opt.Codec.Marshal(sess)
	if err != nil {
		return err
	}
	e := &Entity{Expires: sess.Accessed().Add(sess.Timeout()), Value: value}
	return s.retry(func() error {
		_, err := datastore.Put(ctx, s.key(ctx, sess.ID()), e)
		return err
	})
}

func (s *Store) key(ctx context.Context, id string) *datastore.Key {
	return datastore.NewKey(ctx, s.opt.DSEntityName, id, 0, nil)
}

func (s *Store) retry(call func() error) (err error) {
	for range s.opt.Retries {
		if err = call(); err == nil {
			return nil
		}
	}
	return err
}

// note keeps an error for Err. The store has to be locked.
func (s *Store) note(doing string, err error) {
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("oldlib: %s: %w", doing, err))
	}
}
