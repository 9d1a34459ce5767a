package gaesession

import (
	"context"
	"sync"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/values"
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
//     return the same Session value. An id that the services do not take is no
//     session's, and they are not called for it.
//   - Add takes up a session that session.NewSession made, to be saved by Close.
//     Its id must not get to the client before Close has returned, and it must
//     not be added to another store as well.
//   - Remove removes the session for good, at once. When that fails, which is
//     reported, this request has no such session any more, others may; calling
//     it again tries again.
//   - Close saves new and changed sessions. It may be called again, and then
//     saves what was changed since. The other methods go on working after it.
func NewMemcacheStoreOptions(ctx context.Context, o *MemcacheStoreOptions) session.Store {
	return newStore(ctx, o)
}

func newStore(ctx context.Context, o *MemcacheStoreOptions) *memcacheStore {
	s := &memcacheStore{ctx: orBackground(ctx), opt: o.withDefaults()}
	s.codec = newCodec(s.opt.Codec)
	s.tiers = tiered.Store{
		Cache:      s.opt.Cache,
		Backup:     s.opt.Backup,
		Inspect:    s.inspect,
		Merge:      s.merge,
		Retries:    s.opt.Retries,
		Background: gae.Background,
		Shared:     s.shared,
		Report: func(id string, err error) {
			s.report("save session", id, err)
		},
	}
	return s
}

type memcacheStore struct {
	ctx   context.Context
	opt   MemcacheStoreOptions
	codec codec
	tiers tiered.Store

	mu      sync.Mutex
	entries []*entry // one, as a rule
}

// An entry is what the request knows of one id.
type entry struct {
	id   string
	load sync.Once

	// Set by load, or by Add.
	sess   session.Session // nil: there is none
	loaded *tiered.Loaded  // nil: the services are not known to have it
	was    snapshot        // of sess, when it was loaded or saved

	saving  sync.Mutex // held while it is being saved or removed
	tried   bool       // to save it: the services may have it though loaded is nil
	settled bool       // nothing is left to do while it does not change
	removed bool       // for this request
	gone    bool       // from the services, or never there
}

// entry returns the entry for id, or nil if no service takes such an id.
func (s *memcacheStore) entry(id string) *entry {
	if !s.isValidID(id) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
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
	return (s.tiers.Cache == nil || s.tiers.Cache.ValidID(id)) && (s.tiers.Backup == nil || s.tiers.Backup.ValidID(id))
}

// Get implements session.Store.
func (s *memcacheStore) Get(id string) session.Session {
	e := s.entry(id)
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
	for _, err := range errs {
		s.report("load session", id, err)
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
	sess, err := s.open(id, loaded)
	if err != nil {
		errs = append(errs, err)
		if !loaded.FromCache() {
			return errs
		}
		// Datastore may have one that can be read.
		if loaded, err = s.tiers.LoadBackup(s.ctx, id); err != nil || loaded == nil {
			return append(errs, err)
		}
		if sess, err = s.open(id, loaded); err != nil {
			return append(errs, err)
		}
	}
	was := loadedSnapshot(loaded.Value(), sess)
	sess.Access()
	s.mu.Lock()
	defer s.mu.Unlock()
	e.sess, e.loaded, e.was = sess, loaded, was
	return errs
}

func (s *memcacheStore) open(id string, l *tiered.Loaded) (session.Session, error) {
	sess, err := s.codec.decode(l.Value())
	if err == nil && sess.ID() != id {
		err = errOtherID
	}
	return sess, err
}

// Add implements session.Store.
func (s *memcacheStore) Add(sess session.Session) {
	const doing = "add session"
	if sess == nil {
		s.report(doing, "", ErrInvalidID)
		return
	}
	id := sess.ID()
	e := s.entry(id)
	if e == nil {
		s.report(doing, id, ErrInvalidID)
		return
	}
	e.load.Do(func() {}) // a Get under way first
	s.mu.Lock()
	removed := e.removed
	if !removed {
		e.sess = sess
	}
	s.mu.Unlock()
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
	e := s.entry(id)
	if e == nil {
		s.report(doing, id, ErrInvalidID)
		return
	}
	e.load.Do(func() {}) // a Get under way first
	s.report(doing, id, s.remove(e))
}

func (s *memcacheStore) remove(e *entry) error {
	e.saving.Lock()
	defer e.saving.Unlock()
	s.mu.Lock()
	e.gone = e.gone || e.isNew(e.sess) && !e.removed
	e.removed = true
	s.mu.Unlock()
	if e.gone {
		return nil
	}
	err := s.tiers.Remove(s.ctx, e.id, e.loaded)
	e.gone = err == nil
	return err
}

// isNew reports whether the services cannot know the session yet.
func (e *entry) isNew(sess session.Session) bool {
	return sess != nil && e.loaded == nil && !e.tried && sess.New()
}

// Close implements session.Store.
func (s *memcacheStore) Close() {
	s.mu.Lock()
	entries := s.entries[:len(s.entries):len(s.entries)]
	s.mu.Unlock()
	if len(entries) == 1 {
		s.saveEntry(entries[0])
		return
	}
	var saves sync.WaitGroup
	for _, e := range entries {
		saves.Add(1)
		go func() {
			defer saves.Done()
			s.saveEntry(e)
		}()
	}
	saves.Wait()
}

func (s *memcacheStore) saveEntry(e *entry) {
	e.load.Do(func() {}) // a Get under way first
	s.report("save session", e.id, s.save(e))
}

// save saves what was changed in a session since it was loaded or saved.
func (s *memcacheStore) save(e *entry) error {
	e.saving.Lock()
	defer e.saving.Unlock()
	s.mu.Lock()
	sess, removed := e.sess, e.removed
	s.mu.Unlock()
	if sess == nil || removed {
		return nil
	}
	refresh := e.loaded == nil || s.needsRefresh(e, sess)
	was, err := e.was.all(s.codec)
	if err != nil {
		return err
	}
	var set, deleted []string
	now, err := s.codec.store(sess, func(attrs map[string]any) bool {
		set, deleted = values.Changes(was, attrs)
		return refresh || len(set)+len(deleted) > 0
	})
	if err != nil {
		return err
	}
	if now.value == nil {
		return s.settle(e)
	}
	c := tiered.Change{Value: now.value, Set: set, Deleted: deleted, Used: now.accessed, Ends: s.expires(now.accessed, sess.Timeout())}
	var loaded *tiered.Loaded
	switch {
	case e.isNew(sess):
		e.tried = true
		loaded, err = s.tiers.Create(s.ctx, e.id, c)
	case e.loaded == nil:
		// Not a new session: it may be known, and may have been removed.
		e.tried = true
		loaded, err = s.tiers.Update(s.ctx, e.id, tiered.New(), c)
	case s.opt.AsyncDatastoreSave:
		loaded, err = s.tiers.UpdateAsync(s.ctx, e.id, e.loaded, c)
	default:
		loaded, err = s.tiers.Update(s.ctx, e.id, e.loaded, c)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.loaded, e.was, e.settled = loaded, now, true
	return nil
}

// settle does once what is left to do when nothing was changed.
func (s *memcacheStore) settle(e *entry) error {
	if e.settled {
		return nil
	}
	e.settled = true
	return s.tiers.Settle(s.ctx, e.id, e.loaded)
}

// needsRefresh reports whether the session would end too early, or its access
// time is too old, in the services.
func (s *memcacheStore) needsRefresh(e *entry, sess session.Session) bool {
	accessed, timeout := sess.Accessed(), min(sess.Timeout(), longest)
	return e.loaded.Ends().Before(accessed.Add(timeout).Truncate(time.Microsecond)) ||
		accessed.Sub(e.was.accessed) >= s.opt.refreshInterval(timeout)
}

// shared names the services that the store uses.
func (s *memcacheStore) shared() any {
	return gae.Shared(s.ctx, s.tiers.Cache, s.tiers.Backup)
}

// RemoveID removes the session with that id for good, as the Remove of a store
// with these options does: also one that this instance cannot decode, for which
// Get returns nil. It returns ErrInvalidID, or why a service failed; then the
// session may still be there.
func RemoveID(ctx context.Context, id string, o *MemcacheStoreOptions) error {
	const doing = "remove session"
	s := newStore(ctx, o)
	if !s.isValidID(id) {
		return describe(doing, id, ErrInvalidID)
	}
	// How long the session lives says how long its removal has to be known.
	l, _ := s.tiers.Load(s.ctx, id)
	if err := s.tiers.Remove(s.ctx, id, l); err != nil {
		return describe(doing, id, err)
	}
	return nil
}
