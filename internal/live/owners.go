package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/gaesession/gaesession/internal/tiered"
)

const (
	standardPerOwner = 100
	maxPerOwner      = 5000 // what an entity of Datastore has place for
)

// What is wrong with an owner, or with what an app has set for them.
var (
	ErrNoOwners  = errors.New("Owner is not set")
	ErrNoOwner   = errors.New("no owner")
	ErrNoBackup  = errors.New("the sessions of owners need a backup, and there is none")
	ErrOwnerFunc = errors.New("Owner or Label of the app")

	errPerOwner = fmt.Errorf("MaxPerOwner is not between 0 and %d", maxPerOwner)
)

// CheckOwners says why an app's sessions cannot have owners.
func CheckOwners(hasBackup bool, perOwner int) error {
	switch {
	case !hasBackup:
		return ErrNoBackup
	case perOwner < 0 || perOwner > maxPerOwner:
		return errPerOwner
	}
	return nil
}

// PerOwner is how many sessions an owner may have where the app has set n.
func PerOwner(n int) int { return cmp.Or(n, standardPerOwner) }

// Ask returns the Owner or Label of a Draft: it calls that of the app with the
// session that decode finds in the bytes. Nil stays nil.
func Ask[S any](app func(S) string, decode func(value []byte) (S, error)) func(value []byte) (string, error) {
	if app == nil {
		return nil
	}
	return func(value []byte) (answer string, err error) {
		sess, err := decode(value)
		if err != nil {
			return "", err
		}
		defer Wrap(&err, ErrOwnerFunc)
		return app(sess), nil
	}
}

// An Owned is a session of an owner.
type Owned = tiered.Owned

// SessionsOf returns the sessions of an owner that live, the latest login first.
// tier.ErrUnavailable: it cannot be told.
func (s *Store) SessionsOf(ctx context.Context, owner string) ([]Owned, error) {
	of := tiered.OwnerOf(s.opt.OwnerScope, owner)
	if of == (tiered.Owner{}) || s.tiers.Backup == nil {
		return nil, nil
	}
	return s.tiers.Owned(ctx, of)
}

// RemoveOwned removes the sessions of an owner that match, for good. Without
// an error none of them lives that had begun before: under no id, in no request in
// flight. With one it may be repeated; the errors are those of Copy.Remove.
func (s *Store) RemoveOwned(ctx context.Context, owner string, match func(Owned) bool) error {
	of := tiered.OwnerOf(s.opt.OwnerScope, owner)
	if of == (tiered.Owner{}) || s.tiers.Backup == nil {
		return nil
	}
	return s.tiers.End(ctx, of, match)
}

// Others returns a function that matches all sessions but this one, under its id and
// under the one that it is to have.
func (c *Copy) Others() func(Owned) bool {
	own, next := c.Key(), Key(c.NextID())
	return func(l Owned) bool { return l.Key != own && l.Key != next }
}

// Owner returns whose the session is, as Draft.Owner says of the bytes that were
// loaded or saved last.
func (c *Copy) Owner(of func(value []byte) (string, error)) (string, error) {
	defer c.lock().Unlock()
	if len(c.was.value) == 0 {
		return "", nil
	}
	return of(c.was.value)
}
