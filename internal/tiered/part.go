package tiered

import (
	"context"
	"sync"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
)

// A part is what one request brings into an update.
type part struct {
	loaded *Loaded
	change *Change       // nil: nothing but what was unsaved when it loaded
	ahead  time.Duration // of the instance's clock, in tests

	// The request may leave while others make its change.
	mu    sync.Mutex
	tried *state // the session with the change, as it was tried last
	at    stamp  // of the change, as it was tried last
	// mayBeApplied says that a service may have what was tried. From then on the
	// change keeps its time: however often it is tried, it applies once.
	mayBeApplied bool
	left         bool // the backup has no record, and the part makes none
}

func newPart(ctx context.Context, l *Loaded, c *Change) *part {
	return &part{loaded: l, change: c, ahead: instance.Of(ctx).Ahead}
}

func mayBeApplied(parts []*part) {
	for _, p := range parts {
		p.mu.Lock()
		p.mayBeApplied = p.tried != nil
		p.mu.Unlock()
	}
}

// isUnsure reports whether a service may have what was tried.
func (p *part) isUnsure() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mayBeApplied
}

// leave is called when the request leaves and others are making its change: from
// now on that keeps its time.
func (p *part) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.change == nil {
		return
	}
	if p.tried == nil {
		if _, err := p.try(0); err != nil {
			return // they get that error, too
		}
	}
	p.mayBeApplied = true
}

// state returns the session as the request has it, with its change. The change
// is later than what was seen, unless it may have been applied.
func (p *part) state(seen stamp) (*state, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mayBeApplied {
		return p.tried, nil
	}
	return p.try(seen)
}

// try is state for a change that is to be made now. p.mu is held.
func (p *part) try(seen stamp) (*state, error) {
	from, c := p.loaded.state, p.change
	if p.loaded.isOld() {
		from = from.clone().markSaved() // what was unsaved then may have been deleted since
		from.isOld = true
	}
	if c == nil {
		return from, nil
	}
	at, err := draw(time.Now().Add(p.ahead), max(seen, from.latest()))
	if err != nil {
		return nil, err
	}
	with := *from // its cells stay what they are
	st := &with
	st.legacy = st.legacy && p.isUntouched()
	//rule: touch
	st.value = c.Value
	st.cells = ordered(p.changed(from.cells, at))
	if c.MaxAge != nil {
		st.maxAge = *c.MaxAge
	}
	if used := microsOf(c.Used); used > st.used {
		st.used, st.unsavedUse = used, true
	}
	if ends := microsOf(c.Ends); ends > st.ends {
		st.ends, st.unsavedUse = ends, true
	}
	if st.born == 0 {
		st.born = microsOf(c.Born)
	}
	p.tried, p.at = st, at
	return st, nil
}

// isUntouched reports whether the request has changed nothing in a session that
// was stored without a trailer.
func (p *part) isUntouched() bool {
	return p.loaded.state.legacy && (p.change == nil || len(p.change.Set)+len(p.change.Deleted) == 0 && p.change.MaxAge == nil)
}

// changed returns cells, and then those of what the request has changed.
func (p *part) changed(was []cell, at stamp) []cell {
	cells := append(make([]cell, 0, len(was)+len(p.change.Set)+len(p.change.Deleted)+1), was...)
	for _, a := range p.change.Set {
		cells = append(cells, cell{name: nameOf(a), at: at, unsaved: true})
	}
	for _, a := range p.change.Deleted {
		cells = append(cells, cell{name: nameOf(a), at: at | deletedBit, unsaved: true})
	}
	if p.change.MaxAge != nil {
		cells = append(cells, cell{name: maxAgeName, at: at, unsaved: true})
	}
	return cells
}

// own is what was tried, in which everything but the request's own change gives
// way to whatever it is joined with, and so does what others have left unsaved.
func (p *part) own() *state {
	st := p.tried.clone()
	for i, c := range st.cells {
		if c.at|deletedBit != p.at|deletedBit {
			st.cells[i].at = 0
		}
	}
	st.unsavedAll = false
	return st
}

// after is what the request starts from once its change was saved, or lives in
// the cache alone.
func (p *part) after(saved bool) *Loaded {
	if saved {
		p.tried.markSaved() // it is the request's alone now
	}
	l := p.loaded
	return &Loaded{state: p.tried, cached: l.cached || l.IsCached(), at: l.at}
}
