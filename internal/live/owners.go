package live

import (
	"context"
	"encoding/base64"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

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

// Owner returns whose the session is, as Draft.Owner says of the bytes that were
// loaded or saved last.
func (c *Copy) Owner(of func(value []byte) (string, error)) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.was.value) == 0 {
		return "", nil
	}
	return of(c.was.value)
}
