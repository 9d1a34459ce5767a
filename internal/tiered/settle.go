package tiered

import (
	"context"

	"github.com/gaesession/gaesession/tier"
)

// Settle is called after a load when there is nothing to change. It puts a
// session back into the cache that had lost it, and saves what the request that
// changed it has left unsaved; not if the session does not say when it ends,
// which a change will.
func (s *Store) Settle(ctx context.Context, id string, l *Loaded) error {
	switch {
	case s.Backup == nil || s.Cache == nil || l.err != nil:
		return nil
	case l.needsRefill():
		return s.refill(ctx, id, l)
	case !l.IsCached() || !l.state.unsaved() || l.state.ends == 0 || !l.state.isDue():
		return nil
	}
	// Of all that find it, and find the backup down, one tries at a time.
	st := l.state.clone()
	st.dueAfter(min(st.tries+1, 100))
	if e := s.entryOf(id, st); e != nil {
		out, _, err := s.swap(ctx, id, l.item, e)
		if err != nil || out != tier.Stored {
			return err
		}
		l = &Loaded{state: st}
	}
	return s.run(ctx, id, &part{loaded: l})
}
