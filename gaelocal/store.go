package gaelocal

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// store keeps the entities in memory, group by group, and lets changes in one
// batch after another. With a file, a batch is on disk before it is seen here.
type store struct {
	file *file // nil: in memory only

	// commitMu is held while a batch is decided and applied: only its holder
	// changes groups. queueMu guards queue, the changes waiting for a batch.
	commitMu sync.Mutex
	queueMu  sync.Mutex
	queue    []*change

	// mu guards what follows.
	mu      sync.RWMutex
	version uint64 // of the last change
	groups  map[string]*group
	emptied []string // roots of groups left without entities
	indexes indexes

	// open counts the transactions that may have read a group.
	open atomic.Int64
}

// group is an entity group.
type group struct {
	version  uint64      // of the last change to it
	entities []*entity   // sorted by key
	shared   atomic.Bool // a snapshot refers to entities: copy before changing
}

// change is a set of writes that is applied as a whole, or not at all because a
// group has changed that it depends on.
type change struct {
	reads  map[string]uint64 // versions of groups, by root
	writes []write

	done bool
	err  *Error
}

// write stores an entity under its key, or deletes what is stored there.
type write struct {
	key    entityKey
	entity *entity // nil: delete
}

func newStore() *store {
	return &store{groups: make(map[string]*group), indexes: newIndexes()}
}

// load adds an entity that is in the file; they come in the order of their
// keys.
func (s *store) load(e *entity) {
	g := s.groups[e.key.root]
	if g == nil {
		g = &group{}
		s.groups[e.key.root] = g
	}
	g.entities = append(g.entities, e)
}

// find returns where key is, or would be, in entities.
func find(entities []*entity, path string) (int, bool) {
	return slices.BinarySearchFunc(entities, path, func(e *entity, path string) int {
		return strings.Compare(e.key.path, path)
	})
}

// get returns the entity, or nil.
func (s *store) get(key entityKey) *entity {
	s.mu.RLock()
	defer s.mu.RUnlock()
	g := s.groups[key.root]
	if g == nil {
		return nil
	}
	if i, ok := find(g.entities, key.path); ok {
		return g.entities[i]
	}
	return nil
}

// snapshot returns a group's entities and version; they will not change.
func (s *store) snapshot(root string) (entities []*entity, version uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	g := s.groups[root]
	if g == nil {
		return nil, 0
	}
	g.shared.Store(true)
	return g.entities, g.version
}

// versionOf returns the version a group has now.
func (s *store) versionOf(root string) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if g := s.groups[root]; g != nil {
		return g.version
	}
	return 0
}

// commit applies c, or says why not. Whoever comes first decides for all that
// wait, so that a file is written and synced once for all of them.
func (s *store) commit(c *change) *Error {
	s.queueMu.Lock()
	s.queue = append(s.queue, c)
	s.queueMu.Unlock()

	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if c.done { // by somebody before us
		return c.err
	}
	s.queueMu.Lock()
	batch := s.queue
	s.queue = nil
	s.queueMu.Unlock()

	accepted := s.decide(batch)
	if s.file != nil {
		if err := s.file.write(accepted); err != nil {
			for _, c := range accepted {
				c.err = &Error{Code: datastoreInternalError, Detail: err.Error()}
			}
			accepted = nil
		}
	}
	s.apply(accepted)
	for _, c := range batch {
		c.done = true
	}
	return c.err
}

// decide returns the changes of a batch that conflict neither with what is
// stored nor with those before them in the batch. The caller holds commitMu, so
// nothing changes meanwhile.
func (s *store) decide(batch []*change) []*change {
	accepted := make([]*change, 0, len(batch))
	written := make(map[string]bool)
	for _, c := range batch {
		for root, version := range c.reads {
			if written[root] || s.versionOf(root) != version {
				c.err = errConcurrent
				break
			}
		}
		if c.err != nil {
			continue
		}
		accepted = append(accepted, c)
		if len(batch) > 1 {
			for _, w := range c.writes {
				written[w.key.root] = true
			}
		}
	}
	return accepted
}

// apply makes changes visible, all at once.
func (s *store) apply(changes []*change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		s.version++
		for _, w := range c.writes {
			s.applyWrite(w)
		}
	}
	if len(s.emptied) > 0 && s.open.Load() == 0 {
		// Nobody remembers the versions of groups that are empty.
		for _, root := range s.emptied {
			if g := s.groups[root]; g != nil && len(g.entities) == 0 {
				delete(s.groups, root)
			}
		}
		s.emptied = nil
	}
}

func (s *store) applyWrite(w write) {
	g := s.groups[w.key.root]
	if g == nil {
		if w.entity == nil && s.open.Load() == 0 {
			return
		}
		g = &group{}
		s.groups[w.key.root] = g
	}
	g.version = s.version
	if g.shared.Load() {
		g.entities = slices.Clone(g.entities)
		g.shared.Store(false)
	}
	i, exists := find(g.entities, w.key.path)
	if exists {
		s.indexes.remove(g.entities[i])
	}
	switch {
	case w.entity == nil && exists:
		g.entities = slices.Delete(g.entities, i, i+1)
	case w.entity == nil:
	case exists:
		g.entities[i] = w.entity
	default:
		g.entities = slices.Insert(g.entities, i, w.entity)
	}
	if w.entity != nil {
		s.indexes.add(w.entity)
	}
	if len(g.entities) == 0 {
		s.emptied = append(s.emptied, w.key.root)
	}
}
