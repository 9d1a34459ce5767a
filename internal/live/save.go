package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/values"
	"github.com/gaesession/gaesession/tier"
)

// A snapshot is what a session was when it was loaded or saved.
type snapshot struct {
	value []byte
	attrs map[string]any // that nobody changes; nil: decode value
	// unencoded says that attrs are the app's own, which could not be encoded.
	unencoded bool
}

func (s snapshot) all(f Form) (map[string]any, error) {
	if s.attrs != nil || len(s.value) == 0 {
		return s.attrs, nil
	}
	return f.Attributes(s.value)
}

// A Draft is a session as the app has it.
type Draft struct {
	// Encode calls worth with the attributes as they are, by name. If worth reports
	// true it returns the session's bytes, as they are kept under that key, otherwise
	// none. Nothing changes the attributes meanwhile. It returns the attributes as
	// well, in a map that nobody changes, if the bytes say just that and none of them
	// can be changed in place, or if they cannot be encoded.
	Encode func(key string, worth func(attrs map[string]any) bool) (value []byte, attrs map[string]any, err error)

	Lifetime
	MaxAge *int32 // the session's own, in seconds; nil: it has none

	// Noted, if it is not zero, is stored as the last access in place of Used, but
	// nothing earlier than what is stored: the client's cookie cannot be set any more,
	// and the next response that can set it is to find that it is due. The session
	// lives as long as Used says all the same. A clock that is ahead is known by what is
	// stored here, so it should not be long before Used.
	Noted time.Time

	// Again says that a save which failed is to be tried again, even if nothing
	// has changed since.
	Again bool

	// OnlyChanges says to save nothing but changes of the app: neither times that
	// are due, nor a session that the app has made and put nothing into.
	OnlyChanges bool

	// NoNewID, if it is not nil, is the error of a save that gives the client an id
	// which it does not know yet.
	NoNewID error

	// Adopt, if it is not nil, takes over into the app's session what others have
	// saved, when it has moved.
	Adopt func(value []byte) error

	// Owner returns whose the session is that has those bytes, or no owner. Nil:
	// sessions have no owners. Label returns what the session is to be called in the
	// list of the owner's sessions; it is called when that is to be changed, and may be
	// nil. NewID returns an id for a session that gets another owner. Only returns a
	// session without the attributes that keep does not want.
	Owner func(value []byte) (string, error)
	Label func(value []byte) (string, error)
	NewID func() (string, error)
	Only  func(value []byte, keep func(attribute string) bool) ([]byte, error)
}

// A change is what is to be saved of a draft.
type change struct {
	tiered.Change
	now snapshot
	// was is whose the session was.
	was tiered.Owner
}

// isLogin reports whether the session was nobody's.
func (ch *change) isLogin() bool {
	return ch.Owner != nil && ch.was == tiered.Owner{} && ch.Owner.Owner != tiered.Owner{}
}

// Save saves what was changed in a session since it was loaded or saved. The
// errors are those of the form and of tiered.Store's Create, Update and Settle,
// and of tiered.Move. tier.ErrUnavailable and tier.ErrUndecodable: nothing may be
// saved, since there may be another session under the id.
func (c *Copy) Save(ctx context.Context, d Draft) error {
	defer c.lock().Unlock()
	c.hadChange = false
	switch {
	case c.why != nil:
		return c.refused(d, c.why)
	case c.status == unopened || c.status == none:
		return nil
	case c.isGone():
		return c.refused(d, tier.ErrRemoved)
	}
	switch {
	case c.loaded == nil && c.status == stored: // another copy has created the session
		c.loaded, c.under = tiered.Unknown(), c.id
	case c.loaded != nil && c.under != c.id: // another copy has moved it
		c.loaded, c.under = c.loaded.Elsewhere(), c.id
	}
	ch, err := c.changed(d)
	if err != nil {
		c.hadChange = true // as far as anybody can tell
		return err
	}
	if ch == nil {
		if d.OnlyChanges {
			return nil
		}
		return c.settle(ctx)
	}
	c.hadChange = c.loaded == nil || c.next != "" || len(ch.Set)+len(ch.Deleted) > 0 || ch.MaxAge != nil
	if err = c.checkLength(ch.now.value); d.NoNewID != nil && (c.loaded == nil || c.next != "") {
		err = d.NoNewID
	}
	if err == nil {
		err = c.apply(ctx, d, ch)
	}
	if err != nil && !errors.Is(err, tier.ErrNotBackedUp) && !errors.Is(err, tier.ErrNotPublished) {
		c.tried = &ch.now
	}
	if errors.Is(err, tier.ErrRemoved) {
		c.status = ended
	}
	return err
}

// refused is the answer to the save of a session that is not there any more, or of
// which that cannot be told. A save that is not to be tried again gets it once for
// each change, and not if the request itself has removed the session.
func (c *Copy) refused(d Draft, why error) error {
	if c.isGone() && c.status != ended {
		if d.Again {
			return why
		}
		return nil
	}
	ch, err := c.changed(d)
	if ch != nil {
		c.tried, c.hadChange = &ch.now, true
	}
	if d.Again || ch != nil {
		return why
	}
	return err
}

// HasUnsaved reports whether there is a change of a session that the services have,
// which nobody has tried to save.
func (c *Copy) HasUnsaved(d Draft) bool {
	defer c.lock().Unlock()
	switch {
	case c.why != nil:
		return false
	case c.status == fresh:
		return c.tried == nil
	case c.status != stored:
		return false
	}
	d.OnlyChanges, d.Again = true, false
	ch, err := c.changed(d)
	return err == nil && ch != nil
}

// A diff finds out what is to be saved of a draft.
type diff struct {
	was          map[string]any
	tried        map[string]any // that was tried before; nil: nothing
	set, deleted []string
	force        bool // also if nothing has changed
	unencoded    bool // what was tried before could not be encoded
	again        bool // that is tried again: it may have been changed in place
}

// differs reports whether attributes are to be saved.
func (d *diff) differs(attrs map[string]any) bool {
	if d.tried != nil {
		if set, deleted := values.Changes(d.tried, attrs); len(set)+len(deleted) == 0 {
			if !d.unencoded {
				return false // it was tried, and reported
			}
			d.again = true
		}
	}
	d.set, d.deleted = values.Changes(d.was, attrs)
	return d.force || len(d.set)+len(d.deleted) > 0
}

// changed returns what is to be saved; nil: nothing is.
func (c *Copy) changed(d Draft) (*change, error) {
	l := c.lifetime(d)
	df := &diff{force: c.isDue(d, l)}
	var err error
	if df.was, err = c.was.all(c.store.opt.Form); err != nil {
		return nil, err
	}
	if c.tried != nil && !d.Again {
		if df.tried, err = c.tried.all(c.store.opt.Form); err != nil {
			return nil, err
		}
		df.unencoded = c.tried.unencoded
	}
	value, attrs, err := d.Encode(c.key, df.differs)
	switch {
	case err != nil && df.again:
		return nil, nil // as before, which was reported
	case err != nil && attrs != nil:
		c.tried = &snapshot{attrs: attrs, unencoded: true}
	}
	if value == nil || err != nil {
		return nil, err
	}
	if attrs == nil {
		if attrs, err = c.store.opt.Form.Attributes(value); err != nil || !df.differs(attrs) {
			return nil, err
		}
	}
	ch := &change{now: snapshot{value: value, attrs: attrs}}
	ch.Change = tiered.Change{Value: value, Set: df.set, Deleted: df.deleted, Used: d.noted(), Ends: c.store.storedEnd(l), Born: l.Born}
	if c.isOtherMaxAge(d) {
		ch.MaxAge = d.MaxAge
	}
	if len(c.leftOut) > 0 {
		if ch.Value, err = d.Only(value, func(attribute string) bool {
			return slices.Contains(ch.Set, attribute) || !slices.Contains(c.leftOut, attribute)
		}); err != nil {
			return nil, err
		}
	}
	if d.Owner != nil && c.store.tiers.Backup != nil && !c.isGone() {
		if err := c.own(d, ch); err != nil {
			c.tried = &ch.now
			return nil, err
		}
		if c.loaded != nil && ch.Owner != nil && ch.Owner.Owner != ch.was {
			l.Born = time.Now() // it begins again
			ch.Ends = c.store.storedEnd(l)
		}
	}
	return ch, nil
}

// own notes whose the session was and is. Where that differs, it is to have a new
// id.
func (c *Copy) own(d Draft, ch *change) error {
	owner, err := d.Owner(ch.Value)
	if err != nil {
		return err
	}
	is := tiered.OwnerOf(c.store.opt.OwnerScope, owner)
	if c.loaded != nil {
		if ch.was = c.loaded.Owner(); ch.was == (tiered.Owner{}) && len(c.was.value) > 0 {
			if owner, err = d.Owner(c.was.value); err != nil {
				return err
			}
			ch.was = tiered.OwnerOf(c.store.opt.OwnerScope, owner)
		}
	}
	if is == (tiered.Owner{}) && ch.was == is {
		return nil
	}
	ch.Owner = &tiered.Ownership{Owner: is}
	switch {
	case c.loaded == nil || is == ch.was || c.next != "":
	case d.NoNewID != nil:
		return d.NoNewID
	default:
		//rule: login-moves
		if c.next, err = d.NewID(); err != nil {
			return err
		}
	}
	isListed := c.loaded != nil && c.next == "" && c.loaded.IsListedUntil(is, ch.Ends)
	if d.Label != nil && is != (tiered.Owner{}) && !isListed {
		ch.Owner.Label, err = d.Label(ch.Value)
	}
	return err
}

// isDue reports whether a draft is to be saved even if its attributes are what they
// were.
func (c *Copy) isDue(d Draft, l Lifetime) bool {
	switch {
	case c.isGone() || c.why != nil:
		return false
	case c.next != "":
		return true
	case d.OnlyChanges:
		return c.loaded != nil && c.isOtherMaxAge(d)
	}
	// An access is due only if it is to be noted at all.
	return c.loaded == nil || c.unsaved && d.Again || c.isOtherMaxAge(d) || c.store.endsEarly(c.loaded, l) ||
		d.noted().After(c.loaded.Used()) && c.store.needsRefresh(c.loaded, l)
}

// noted is what is stored as the last access.
func (d *Draft) noted() time.Time {
	if d.Noted.IsZero() {
		return d.Used
	}
	return d.Noted
}

// lifetime is that of the draft, from the beginning that is stored.
func (c *Copy) lifetime(d Draft) Lifetime {
	if born := c.known().Born(); !born.IsZero() {
		d.Born = born
	}
	return d.Lifetime
}

// isOtherMaxAge reports whether the session has chosen another MaxAge.
func (c *Copy) isOtherMaxAge(d Draft) bool {
	was, ok := c.known().MaxAge()
	return d.MaxAge != nil && (!ok || was != *d.MaxAge)
}

// checkLength refuses a session that is longer than the app allows, unless it is
// not longer than it was, or is to have another id.
func (c *Copy) checkLength(value []byte) error {
	was := len(c.known().Value())
	if limit := c.store.opt.MaxLength; limit > 0 && len(value) > max(limit, was) && c.next == "" {
		return fmt.Errorf("%w: %d bytes, and at most %d are allowed", tier.ErrTooLarge, len(value), limit)
	}
	return nil
}

// apply saves a change, and notes what became of it.
func (c *Copy) apply(ctx context.Context, d Draft, ch *change) error {
	t := &c.store.tiers
	var next *tiered.Loaded
	var err error
	switch {
	case !c.store.keeps():
		next = tiered.Private(&ch.Change)
		if c.next != "" {
			c.id, c.key, c.under, c.next = c.next, Key(c.next), c.next, ""
		}
	case c.next != "", c.loaded == nil && ch.Owner != nil:
		return c.applyMove(ctx, d, ch)
	case c.loaded == nil:
		next, err = t.Create(ctx, c.key, &ch.Change)
	case c.store.opt.Async && (ch.Owner == nil || c.loaded.Owner() == ch.Owner.Owner):
		next, err = t.UpdateAsync(ctx, c.key, c.loaded, &ch.Change)
	default:
		next, err = t.Update(ctx, c.key, c.loaded, &ch.Change)
	}
	c.saved(next, ch, err)
	return err
}

// saved notes what a save has come to: what the next one starts from.
func (c *Copy) saved(next *tiered.Loaded, ch *change, err error) {
	c.tried, c.unsaved = nil, errors.Is(err, tier.ErrNotSaved)
	if next != nil {
		c.status, c.loaded, c.under, c.was, c.settled = stored, next, c.id, ch.now, true
		c.leftOut = slices.DeleteFunc(c.leftOut, func(attribute string) bool { return slices.Contains(ch.Set, attribute) })
	}
}

// applyMove saves a change under a new id, or a new session that has an owner.
func (c *Copy) applyMove(ctx context.Context, d Draft, ch *change) error {
	to, from, loaded := c.id, "", tiered.Unknown()
	if c.loaded != nil {
		to, from, loaded = c.next, c.key, c.loaded
	}
	if c.move == nil {
		c.move, c.tries = c.store.tiers.NewMove(from, Key(to), loaded), nil
	}
	c.tries = append(c.tries, try{c, ch})
	moved, err := c.move.Run(ctx, loaded, &ch.Change)
	if moved == nil {
		if errors.Is(err, tier.ErrRemoved) && from != "" && ch.isLogin() {
			return c.loginAgain(ctx, d, ch)
		}
		return err
	}
	tries := c.tries
	c.id, c.key, c.next, c.move, c.tries = to, c.move.To(), "", nil, nil
	if moved.Run < len(tries)-1 {
		// An earlier attempt has moved it. What differs from that is saved now.
		first, published := tries[moved.Run], err
		first.copy.saved(moved.Loaded, first.ch, nil)
		if c != first.copy {
			c.loaded, c.under = loaded.Elsewhere(), c.id
		}
		if ch, err = c.changed(d); err == nil && ch != nil {
			err = c.apply(ctx, d, ch)
		}
		return errors.Join(published, err)
	}
	c.saved(moved.Loaded, ch, err)
	if d.Adopt != nil {
		if aerr := d.Adopt(moved.Value); aerr != nil {
			return errors.Join(err, aerr)
		}
		c.was = snapshot{value: moved.Value}
	}
	return err
}

// loginAgain saves the login to a session of nobody's that is gone, since the user
// has logged in twice, for example: as a new session with what this request has
// set. What the old one had stays removed.
func (c *Copy) loginAgain(ctx context.Context, d Draft, ch *change) error {
	//rule: login-again
	value, err := d.Only(ch.Value, func(attribute string) bool { return slices.Contains(ch.Set, attribute) })
	if err == nil {
		value, err = c.store.opt.Form.Rename(value, Key(c.next))
	}
	if err != nil {
		return errors.Join(tier.ErrRemoved, err)
	}
	c.store.tiers.Report(c.key, errLeftOut)
	again := *ch
	again.Value, again.Deleted, again.Born = value, nil, ch.Used
	loaded, id, next := c.loaded, c.id, c.next
	c.id, c.key, c.next, c.move, c.loaded = next, Key(next), "", nil, nil
	if err = c.applyMove(ctx, d, &again); c.loaded == nil {
		// What may have been saved all the same is removed in the background.
		c.id, c.key, c.next, c.move, c.loaded = id, Key(id), next, nil, loaded
	} else if d.Adopt == nil {
		for attribute := range ch.now.attrs {
			if !slices.Contains(ch.Set, attribute) {
				c.leftOut = append(c.leftOut, attribute)
			}
		}
	}
	return err
}

// errLeftOut is reported where a user has logged in to a session that is gone.
var errLeftOut = fmt.Errorf("the user has logged in to a session that is gone: the new one has only what this request has set: %w", tier.ErrRemoved)
