package live

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

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

// Ask calls the app's Owner or Label.
func Ask[S any](sess S, app func(S) string) (answer string, err error) {
	defer Wrap(&err, ErrOwnerFunc)
	return app(sess), nil
}

// An Owned is a session of an owner.
type Owned struct {
	Key   string // what the services know the session by
	Ref   string // names the session, also when it gets another id, and opens nothing
	Since time.Time
	Label string
}

// SessionsOf returns the sessions of an owner that live, the latest login first.
// tier.ErrUnavailable: it cannot be told.
func (s *Store) SessionsOf(ctx context.Context, owner string) ([]Owned, error) {
	of := tiered.OwnerOf(s.ownerScope, owner)
	if of == (tiered.Owner{}) || s.tiers.Backup == nil {
		return nil, nil
	}
	listed, err := s.tiers.Owned(ctx, of)
	all := make([]Owned, len(listed))
	for i, l := range listed {
		all[i] = owned(l)
	}
	return all, err
}

func owned(l tiered.Owned) Owned {
	return Owned{l.ID, base64.RawURLEncoding.EncodeToString(l.Ref[:]), l.Since, l.Label}
}

// RemoveOwned removes the sessions of an owner that match, for good. Without
// an error none of them lives that had begun before: under no id, in no request in
// flight. With one it may be repeated; the errors are those of Copy.Remove.
func (s *Store) RemoveOwned(ctx context.Context, owner string, match func(Owned) bool) error {
	of := tiered.OwnerOf(s.ownerScope, owner)
	if of == (tiered.Owner{}) || s.tiers.Backup == nil {
		return nil
	}
	return s.tiers.End(ctx, of, func(l tiered.Owned) bool { return match(owned(l)) })
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
