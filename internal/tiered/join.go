package tiered

import "errors"

// errMerge marks the errors of the adapter's Form.
var errMerge = errors.New("merge")

func mergeError(err error) error { return with(errMerge, err) }

// join returns into with what from has later: of each attribute the later
// change, and the later use and end. changed is false when that is into.
//
// With all unset, what from says is saved counts only where into has a cell,
// too: otherwise it could bring back an attribute whose deletion into has
// forgotten.
func (s *Store) join(into, from *state, all bool) (joined *state, changed bool, err error) {
	n := *into
	n.cells, changed = joinCells(into, from, all)
	n.ends, n.used = max(into.ends, from.ends), max(into.used, from.used)
	changed = changed || n.used != into.used
	if into.born == 0 || from.born != 0 && from.born < into.born {
		n.born = from.born
	}
	if into.owner == (Owner{}) {
		n.owner = from.owner
	}
	n.listed = max(into.listed, from.listed)
	n.legacy = into.legacy && from.legacy
	n.clockWasAhead = into.clockWasAhead || from.clockWasAhead
	if !changed {
		return &n, n.ends != into.ends || n.owner != into.owner || n.listed != into.listed, nil
	}
	if n.differs(into, maxAgeName) {
		n.maxAge = from.maxAge
	}
	if !from.isOld && n.sameCells(from) && n.used == from.used {
		n.value = from.value
		return &n, true, nil
	}
	if n.value, err = s.merge(&n, into, from); err != nil {
		return nil, false, err
	}
	return &n, true, nil
}

// merge returns the value of into with the attributes of from whose cells n has.
func (s *Store) merge(n, into, from *state) ([]byte, error) {
	merged, err := s.Form.Merge(into.value, from.value, func(attribute string) bool {
		return n.differs(into, nameOf(attribute)) // then it is as from has it
	})
	if err != nil {
		return nil, mergeError(err)
	}
	return merged, nil
}

// differs reports whether an attribute was changed since the other state.
func (st *state) differs(o *state, n name) bool {
	now, _ := st.at(n)
	was, _ := o.at(n)
	return now != was
}

// joinCells returns the later cell of each attribute. No sweep of into has seen
// the tombstones that come from from.
func joinCells(into, from *state, all bool) (cells []cell, changed bool) {
	cells = make([]cell, 0, max(len(into.cells), len(from.cells)))
	a, b := into.cells, from.cells
	for len(a) > 0 || len(b) > 0 {
		order := 1
		switch {
		case len(b) == 0:
			order = -1
		case len(a) > 0:
			order = a[0].name.compare(b[0].name)
		}
		switch {
		case order < 0: // from lacks it, since from.absent
			c := a[0]
			if from.absent > c.at {
				c, changed = cell{name: c.name, at: from.absent, unsaved: true}, true
			}
			cells, a = append(cells, c), a[1:]
		case order > 0: // into lacks it, since into.absent
			c := b[0]
			c.aged = false
			switch {
			case c.at > into.absent && (all || c.unsaved || from.unsavedAll || into.absent != 0):
				cells, changed = append(cells, c), true
			case into.absent != 0: // which the stored form does not have
				cells = append(cells, cell{name: c.name, at: into.absent})
			}
			b = b[1:]
		default:
			c := a[0]
			//rule: later
			if b[0].at > c.at {
				c, changed = b[0], true
				c.aged = false
			}
			cells, a, b = append(cells, c), a[1:], b[1:]
		}
	}
	return cells, changed
}
