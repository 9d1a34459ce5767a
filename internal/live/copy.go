package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

// A status is what a request knows of a session; see the package's documentation.
type status int

const (
	unopened status = iota
	none
	fresh
	stored
	removing
	removed
	ended
)

// An identity is a session as one request knows it.
type identity struct {
	store *Store

	mu     sync.Mutex // held while a service is asked
	id     string
	key    string // what the services know it by
	status status
	next   string       // the id that it is to have; empty: it keeps its own
	move   *tiered.Move // a move to next that was begun
	tries  []try        // of that move
}

// A try is what a copy wanted to save with a move.
type try struct {
	copy *Copy
	ch   *change
}

// A Copy is what one session value of the app was when it was loaded or saved
// last.
type Copy struct {
	*identity
	why     error          // it is not known, or cannot be read
	loaded  *tiered.Loaded // what the next change starts from; nil: nothing is stored
	under   string         // the id that loaded is of
	was     snapshot       // the session at that time
	tried   *snapshot      // what was saved last, if that failed
	unsaved bool           // what was saved last may be nowhere
	leftOut []string       // attributes that the app's session has and the stored one must not get
	settled bool           // nothing is left to do while nothing changes

	hadChange bool // the last Save had a change to save, and not only times
}

// Copy returns a copy of the session of that id, which is not opened yet.
func (s *Store) Copy(id string) *Copy {
	var both struct { // in one allocation
		Copy
		identity
	}
	both.identity.store, both.identity.id, both.identity.key = s, id, Key(id)
	both.Copy.identity, both.why = &both.identity, s.err
	return &both.Copy
}

// Fresh returns a copy of a session that nobody else can know.
func (s *Store) Fresh(id string) *Copy {
	c := s.Copy(id)
	c.status = fresh
	return c
}

// Unknown returns a copy of a session that the services may have, or may have
// had.
func (s *Store) Unknown(id string) *Copy {
	c := s.Copy(id)
	c.status, c.loaded, c.under = stored, tiered.Unknown(), id
	return c
}

// Again returns another copy of the same session, which is not opened yet.
func (c *Copy) Again() *Copy { return &Copy{identity: c.identity, why: c.store.err} }

// Clone returns a copy of the same session that is what this one is.
func (c *Copy) Clone() *Copy {
	defer c.lock().Unlock()
	n := *c
	return &n
}

// lock locks the identity, and returns what unlocks it.
func (i *identity) lock() *sync.Mutex {
	i.mu.Lock()
	return &i.mu
}

// Value is the session's bytes as they were loaded or saved last.
func (c *Copy) Value() []byte { defer c.lock().Unlock(); return c.was.value }

// Scalars returns the attributes as they were loaded or saved last, if they are
// known without decoding, since none of them can be changed in place. Nobody may
// change the map.
func (c *Copy) Scalars() (attrs map[string]any, ok bool) {
	defer c.lock().Unlock()
	return c.was.attrs, c.was.attrs != nil || len(c.was.value) == 0
}

// Key is what the services know the session by, after a move the new one.
func (c *Copy) Key() string { defer c.lock().Unlock(); return c.key }

// ID is the session's id, after a move the new one.
func (c *Copy) ID() string { defer c.lock().Unlock(); return c.id }

// HasValidID is Store.ValidID of the session's id. It hashes nothing.
func (c *Copy) HasValidID() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store.takes(c.id, c.key)
}

// NextID is the id that the session is to have once it is saved.
func (c *Copy) NextID() string { defer c.lock().Unlock(); return cmp.Or(c.next, c.id) }

// Exists reports whether there is a session, as far as the request knows.
func (c *Copy) Exists() bool {
	defer c.lock().Unlock()
	return c.why == nil && (c.status == fresh || c.status == stored)
}

// Err says why it is not known whether there is a session, or why it cannot be
// read; nil: it is known.
func (c *Copy) Err() error { defer c.lock().Unlock(); return c.why }

// IsRemoved reports whether this request has removed the session, or was told
// that it is removed.
func (c *Copy) IsRemoved() bool { defer c.lock().Unlock(); return c.isGone() }

// isGone reports whether there is no such session any more.
func (c *Copy) isGone() bool { return c.status >= removing }

// IsStored reports whether the services have the session, or may have it.
func (c *Copy) IsStored() bool { defer c.lock().Unlock(); return c.status == stored }

// known is what is known of the session as the services have it. c.mu is held.
func (c *Copy) known() *tiered.Loaded { return cmp.Or(c.loaded, unknown) }

var unknown = tiered.Unknown() // nobody changes it

func (c *Copy) lockedKnown() *tiered.Loaded { defer c.lock().Unlock(); return c.known() }

// Used is when the session was used last, as far as that is stored; zero: not
// known.
func (c *Copy) Used() time.Time { return c.lockedKnown().Used() }

// Ends is when the session ends that is not used any more; zero: not known.
func (c *Copy) Ends() time.Time { return c.lockedKnown().Ends() }

// Born is when the session began, as far as that is stored; zero: not known.
func (c *Copy) Born() time.Time { return c.lockedKnown().Born() }

// MaxAge is the session's own MaxAge in seconds, if it has one.
func (c *Copy) MaxAge() (int32, bool) { return c.lockedKnown().MaxAge() }

// IsChanged reports whether the last Save had a change or a new id to save, and
// not only times, or what others had left unsaved.
func (c *Copy) IsChanged() bool { defer c.lock().Unlock(); return c.hadChange }

// Open loads the session, if nobody has, and has read called with its bytes: the
// cache's or, where read cannot read them, the backup's. read returns the
// attributes that it has found if none of them can be changed in place, otherwise
// nil. A nil read reads nothing.
//
// Exists tells whether there is a session then. Without one an error says why
// that cannot be told (tier.ErrUnavailable), or that it cannot be read
// (tier.ErrUndecodable); with one, that a service failed and another one made up
// for it.
func (c *Copy) Open(ctx context.Context, read func(value []byte) (scalars map[string]any, err error)) error {
	defer c.lock().Unlock()
	if c.why != nil || c.status != unopened && (c.status != stored || c.loaded != nil) {
		return nil
	}
	if !c.store.keeps() {
		c.status = none
		return nil
	}
	l, err := c.store.tiers.Load(ctx, c.key)
	if l != nil && c.store.isOver(l) {
		l = nil
	}
	switch {
	case l != nil:
	case errors.Is(err, tier.ErrUnavailable), errors.Is(err, tier.ErrUndecodable):
		c.why = err
		return err
	case c.status == stored:
		c.status = ended // another copy has seen it
		return err
	default:
		c.status = none
		return err
	}
	scalars, rerr := c.read(l, read)
	if rerr != nil && l.IsCached() {
		// The backup may have one that can be read.
		switch backup, lerr := c.store.tiers.LoadBackup(ctx, c.key); {
		case backup != nil:
			var berr error
			if scalars, berr = c.read(backup, read); berr == nil {
				l, err, rerr = backup, errors.Join(err, rerr), nil
			}
		case lerr == nil && l.IsLegacy():
			rerr = fmt.Errorf("%w: %w", ErrOtherForm, rerr)
		}
	}
	c.loaded, c.under = l, c.id
	if rerr != nil {
		c.why = errors.Join(err, rerr)
		return c.why
	}
	c.status, c.was = stored, snapshot{value: l.Value(), attrs: scalars}
	return err
}

// read has the bytes read that were loaded.
func (c *Copy) read(l *tiered.Loaded, read func([]byte) (map[string]any, error)) (map[string]any, error) {
	err := l.Err()
	if err == nil && read == nil {
		return nil, nil
	}
	if err == nil {
		var scalars map[string]any
		if scalars, err = read(l.Value()); err == nil {
			return scalars, nil
		}
	}
	if !errors.Is(err, tier.ErrUndecodable) {
		err = errors.Join(tier.ErrUndecodable, err)
	}
	return nil, err
}

// Add makes the copy one of a session that the app has made, unless the session
// is known already. isNew says that no service can have it. tier.ErrRemoved: it
// was removed before.
func (c *Copy) Add(isNew bool) error {
	defer c.lock().Unlock()
	switch {
	case c.isGone():
		return tier.ErrRemoved
	case c.status == stored || c.status == fresh:
	case isNew:
		c.status = fresh
		if c.next != "" {
			c.id, c.key, c.next = c.next, Key(c.next), ""
		}
	default:
		c.status, c.loaded, c.under = stored, tiered.Unknown(), c.id
	}
	return nil
}

// Settle does what is left to do for a session that was loaded and does not
// change, once. If the session turns out to be removed, that is no error: Exists
// tells.
func (c *Copy) Settle(ctx context.Context) error {
	defer c.lock().Unlock()
	if err := c.settle(ctx); c.status != ended {
		return err
	}
	return nil
}

func (c *Copy) settle(ctx context.Context) error {
	if c.settled || c.status != stored || c.under != c.id {
		return nil
	}
	c.settled = true
	err := c.store.tiers.Settle(ctx, c.key, c.loaded)
	if errors.Is(err, tier.ErrRemoved) {
		c.status = ended
	}
	return err
}

// Remove removes the session for good. Where that fails, the request has no such
// session any more all the same, and another Remove tries again.
func (c *Copy) Remove(ctx context.Context) error {
	if c.store.err != nil {
		return c.store.err
	}
	defer c.lock().Unlock()
	was := c.status
	c.status, c.why = removed, nil
	if was == fresh && c.move == nil || was == removed || was == ended || !c.store.keeps() {
		return nil
	}
	if !c.store.takes(c.id, c.key) {
		return tier.ErrInvalidID
	}
	l := c.loaded
	if c.under != c.id {
		l = nil
	}
	err := c.store.tiers.Remove(ctx, c.key, l)
	if c.move != nil && c.move.To() != c.key && c.move.MayBeMoved() {
		err = errors.Join(err, c.store.tiers.Remove(ctx, c.move.To(), nil))
	}
	if err != nil {
		c.status = removing
	}
	return err
}

// Regenerate gives the session another id, which nobody knows, when it is saved.
// Until then nothing has changed.
func (c *Copy) Regenerate(id string) error {
	defer c.lock().Unlock()
	if c.why != nil {
		return c.why
	}
	switch {
	case c.isGone():
		return tier.ErrRemoved
	case c.status == fresh:
		c.id, c.key, c.move = id, Key(id), nil // nobody knows the other one
	default:
		if c.move == nil || !c.move.MayBeMoved() {
			c.move = nil
			c.next = id
		}
	}
	return nil
}
