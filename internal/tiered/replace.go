package tiered

import (
	"context"
	"fmt"
	"time"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

// swapAttempts is how often replace tries to replace an item that others keep
// replacing.
const swapAttempts = 100

// replace puts what with returns in place of the cache's item, and asks with
// again when others were faster. seen is the item as it was loaded; nil: the
// cache is asked for it. with returns nil where nothing is to be put; unsure says
// that an earlier attempt failed, and may have had its effect all the same.
//
// What only the cache has is never dropped: with returns a value that contains
// all that seen has unsaved, or has committed that before, or ends the session.
func (s *Store) replace(ctx context.Context, id string, seen *item, with func(seen *item, unsure bool) (*entry, error)) error {
	unsure := false
	for n := range swapAttempts {
		if n > 2 {
			// Others are at work, too.
			if err := retry.Wait(ctx, time.Duration(n)*time.Millisecond); err != nil {
				return err
			}
		}
		if seen == nil {
			var err error
			if seen, err = s.get(ctx, id); err != nil {
				return err
			}
		}
		e, err := with(seen, unsure)
		if err != nil || e == nil {
			return err
		}
		if seen.is(absent) {
			added, err := s.add(ctx, id, e)
			if err != nil || added {
				return err
			}
			seen = nil
			continue
		}
		out, failed, err := s.swap(ctx, id, seen, e)
		if err != nil || out == tier.Stored {
			return err
		}
		unsure = unsure || failed
		if seen = nil; out == tier.Absent {
			seen = &item{kind: absent}
		}
	}
	return fmt.Errorf("cache: %w", tier.ErrContention)
}
