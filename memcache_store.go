package gaesession

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/tiered"
)

// NewMemcacheStore returns a store with the default options, for one request.
func NewMemcacheStore(ctx context.Context) session.Store {
	return NewMemcacheStoreOptions(ctx, nil)
}

// NewMemcacheStoreOptions returns a store for one request, whose App Engine
// context ctx is; the store must not be used when the request has ended. It is
// safe for concurrent use by the request's goroutines. Close saves what was
// changed, so it has to be called, which closing the session.Manager does.
//
// The options are copied; nil stands for the defaults.
//
// The store's methods:
//
//   - Get returns the session with that id, its access time set to now, or nil
//     when there is none. It asks the services once for each id; later calls
//     return the same Session value. A value that cannot be decoded is no
//     session, and is not deleted.
//   - Add takes up a session that session.NewSession made, to be saved by Close.
//     Its id must not get to the client before Close has returned, and it must
//     not be added to another store as well.
//   - Remove removes the session for good, at once. When that fails, which is
//     reported, this request has no such session any more, others may; calling
//     it again tries again.
//   - Close saves new and changed sessions. Calling it again does nothing.
//
// All other calls after Close do nothing but report ErrClosed, and Get returns
// nil.
func NewMemcacheStoreOptions(ctx context.Context, o *MemcacheStoreOptions) session.Store {
	s := &memcacheStore{ctx: orBackground(ctx), opt: o.withDefaults()}
	s.codec = newCodec(s.opt.Codec)
	s.tiers = tiered.Store{
		Cache:      gae.Memcache{Prefix: s.opt.KeyPrefix},
		Merge:      s.merge,
		Retries:    s.opt.Retries,
		Background: gae.Background,
	}
	if !s.opt.OnlyMemcache {
		s.tiers.Backup = datastoreBackup(s.opt.DSEntityName)
	}
	return s
}

type memcacheStore struct {
	ctx   context.Context
	opt   MemcacheStoreOptions
	codec codec
	tiers tiered.Store

	mu      sync.Mutex
	closed  bool
	calls   sync.WaitGroup // Gets and Removes under way; Close waits for them
	entries []*entry       // one, as a rule
}

// An entry is what the request knows of one id.
type entry struct {
	id   string
	load sync.Once

	// Set by load, or by Add.
	sess   session.Session // nil: there is none
	loaded *tiered.Loaded  // nil: not loaded from the services
	was    snapshot        // of sess, when loaded

	removed bool // for this request
	gone    bool // from the services
}

// begin returns the entry for id, or nil after reporting why the store does not
// do it. The caller has to call s.calls.Done when it gets one.
func (s *memcacheStore) begin(doing, id string) *entry {
	if !s.isValidID(id) {
		s.report(doing, id, ErrInvalidID)
		return nil
	}
	e := s.open(id)
	if e == nil {
		s.report(doing, id, ErrClosed)
	}
	return e
}

// open returns the entry for id, or nil when the store is closed.
func (s *memcacheStore) open(id string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.calls.Add(1)
	for _, e := range s.entries {
		if e.id == id {
			return e
		}
	}
	e := &entry{id: id}
	s.entries = append(s.entries, e)
	return e
}

func (s *memcacheStore) isValidID(id string) bool {
	key := s.opt.KeyPrefix + id
	return id != "" && len(key) <= gae.MaxKeyLength && !strings.Contains(key, "\x00") && utf8.ValidString(id) &&
		!(strings.HasPrefix(id, "__") && strings.HasSuffix(id, "__"))
}

// Get implements session.Store.
func (s *memcacheStore) Get(id string) session.Session {
	const doing = "load session"
	e := s.begin("get session", id)
	if e == nil {
		return nil
	}
	var errs []error
	e.load.Do(func() { errs = s.load(id, e) })
	s.mu.Lock()
	sess := e.sess
	if e.removed {
		sess = nil
	}
	s.mu.Unlock()
	s.calls.Done()
	for _, err := range errs {
		s.report(doing, id, err)
	}
	return sess
}

// load loads the session into e. It returns its errors, as nothing may be
// reported while others wait for it.
func (s *memcacheStore) load(id string, e *entry) (errs []error) {
	loaded, err := s.tiers.Load(s.ctx, id)
	if err != nil {
		errs = append(errs, err)
	}
	if loaded == nil {
		return errs
	}
	sess, err := s.codec.decode(loaded.Value)
	if err == nil && sess.ID() != id {
		err = errOtherID
	}
	if err != nil {
		return append(errs, err)
	}
	if !time.Now().Before(s.expires(sess)) {
		return errs // Memcache is precise to the second only
	}
	was := takeSnapshot(loaded.Value, sess)
	sess.Access()
	s.mu.Lock()
	defer s.mu.Unlock()
	e.sess, e.loaded, e.was = sess, loaded, was
	return errs
}

// Add implements session.Store.
func (s *memcacheStore) Add(sess session.Session) {
	const doing = "add session"
	if sess == nil {
		s.report(doing, "", ErrInvalidID)
		return
	}
	id := sess.ID()
	e := s.begin(doing, id)
	if e == nil {
		return
	}
	e.load.Do(func() {}) // a Get under way first
	s.mu.Lock()
	removed := e.removed
	if !removed {
		e.sess = sess
	}
	s.mu.Unlock()
	s.calls.Done()
	if removed {
		s.report(doing, id, ErrRemoved)
	}
}

// Remove implements session.Store.
func (s *memcacheStore) Remove(sess session.Session) {
	const doing = "remove session"
	if sess == nil {
		s.report(doing, "", ErrInvalidID)
		return
	}
	id := sess.ID()
	e := s.begin(doing, id)
	if e == nil {
		return
	}
	e.load.Do(func() {}) // a Get under way first
	s.mu.Lock()
	known := !e.gone && !(e.isNew() && !e.removed)
	e.removed = true
	s.mu.Unlock()
	var err error
	if known {
		err = s.tiers.Remove(s.ctx, id)
	}
	s.mu.Lock()
	e.gone = err == nil
	s.mu.Unlock()
	s.calls.Done()
	s.report(doing, id, err)
}

// isNew tells that the services cannot know the session yet.
func (e *entry) isNew() bool { return e.sess != nil && e.loaded == nil && e.sess.New() }

// Close implements session.Store.
func (s *memcacheStore) Close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return
	}
	s.calls.Wait()
	if len(s.entries) == 1 {
		s.saveEntry(s.entries[0])
		return
	}
	var saves sync.WaitGroup
	for _, e := range s.entries {
		saves.Add(1)
		go func() {
			defer saves.Done()
			s.saveEntry(e)
		}()
	}
	saves.Wait()
}

func (s *memcacheStore) saveEntry(e *entry) {
	if e.sess != nil && !e.removed {
		s.report("save session", e.id, s.save(e.id, e))
	}
}

func (s *memcacheStore) save(id string, e *entry) error {
	if e.loaded != nil && !e.loaded.Ahead() {
		changed, err := e.was.changed(s.codec, e.sess)
		if err != nil {
			return err
		}
		age := e.sess.Accessed().Sub(e.was.accessed)
		if !changed && age < s.opt.refreshInterval(e.sess.Timeout()) {
			return s.tiers.Refill(s.ctx, id, e.loaded)
		}
	}
	value, err := s.codec.encode(e.sess)
	if err != nil {
		return err
	}
	rec := tiered.Record{Value: value, Expires: s.expires(e.sess)}
	switch {
	case e.isNew():
		return s.tiers.Create(s.ctx, id, rec)
	case e.loaded == nil:
		// Not a new session: it may be known, and may have been removed.
		return s.tiers.Update(s.ctx, id, &tiered.Loaded{}, rec)
	case s.opt.AsyncDatastoreSave && !s.opt.OnlyMemcache:
		return s.tiers.UpdateAsync(s.ctx, id, e.loaded, rec, func(err error) {
			s.report("save session in the background", id, err)
		})
	}
	return s.tiers.Update(s.ctx, id, e.loaded, rec)
}
