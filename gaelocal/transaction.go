package gaelocal

import (
	"sync"

	"github.com/gaesession/gaesession/internal/wire"
)

// Limits of transactions.
const (
	maxGroups = 25 // entity groups in one transaction

	// maxOpen transactions are kept; clients that never end theirs lose the
	// oldest ones first.
	maxOpen = 10000
)

var errConcurrent = &Error{Code: datastoreConcurrentTransaction, Detail: "Concurrency exception."}

// transaction is one under way. Like Google's development server it sees each
// entity group as it was when it first read it, does not see its own writes,
// and conflicts, when it is committed with writes, if a group that it has read
// was changed by somebody else.
type transaction struct {
	handle   uint64
	manyEG   bool // may touch several entity groups
	readOnly bool

	mu     sync.Mutex // guards what follows
	over   bool       // ended, or met a conflict: all that is left is to roll back
	groups map[string]*touched
	writes []write
}

// touched is an entity group in a transaction.
type touched struct {
	read     bool
	entities []*entity // when read
	version  uint64    // when read
}

// transactions are those under way.
type transactions struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*transaction
}

func (d *datastore) begin(req *wire.BeginTransactionRequest) (*wire.Transaction, *Error) {
	if failed := d.checkApp(req.GetApp()); failed != nil {
		return nil, failed
	}
	mode := req.GetMode()
	previous := req.GetPreviousTransaction()
	if previous != nil && mode != wire.BeginTransactionRequest_READ_WRITE {
		return nil, badRequest("previous_transaction can only be set in READ_WRITE mode")
	}
	t := &transaction{
		manyEG:   req.GetAllowMultipleEg(),
		readOnly: mode == wire.BeginTransactionRequest_READ_ONLY,
		groups:   make(map[string]*touched),
	}
	ts := &d.transactions
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if previous != nil {
		if p := ts.open[previous.GetHandle()]; p != nil && p.manyEG != t.manyEG {
			return nil, badRequest("Transaction should have same options as previous_transaction")
		}
		d.forget(previous.GetHandle())
	}
	if len(ts.open) >= maxOpen {
		for handle := range ts.open {
			if handle+maxOpen/2 < ts.last {
				d.forget(handle)
			}
		}
	}
	ts.last++
	t.handle = ts.last
	ts.open[t.handle] = t
	d.store.open.Add(1)
	return &wire.Transaction{Handle: &t.handle, App: &d.appID}, nil
}

// forget removes a transaction from those under way. The caller holds the lock.
func (d *datastore) forget(handle uint64) {
	if _, ok := d.transactions.open[handle]; ok {
		delete(d.transactions.open, handle)
		d.store.open.Add(-1)
	}
}

// transaction returns the transaction that a request names.
func (d *datastore) transaction(pb *wire.Transaction) (*transaction, *Error) {
	if failed := d.checkApp(pb.GetApp()); failed != nil {
		return nil, failed
	}
	d.transactions.mu.Lock()
	defer d.transactions.mu.Unlock()
	t := d.transactions.open[pb.GetHandle()]
	if t == nil {
		return nil, badRequest("Transaction(<handle: %d, app: \"%s\", >) not found", pb.GetHandle(), pb.GetApp())
	}
	return t, nil
}

// end removes t from those under way, and reports whether it was the first to
// do so.
func (d *datastore) end(t *transaction) bool {
	d.transactions.mu.Lock()
	defer d.transactions.mu.Unlock()
	_, ok := d.transactions.open[t.handle]
	d.forget(t.handle)
	return ok
}

var errClosed = badRequest("transaction closed")

// touch notes that t uses an entity group. The caller holds the lock.
func (t *transaction) touch(root string) (*touched, *Error) {
	if t.over {
		return nil, errClosed
	}
	if g := t.groups[root]; g != nil {
		return g, nil
	}
	switch {
	case t.manyEG && len(t.groups) >= maxGroups:
		return nil, badRequest("operating on too many entity groups in a single transaction.")
	case !t.manyEG && len(t.groups) >= 1:
		return nil, badRequest("cross-groups transaction need to be explicitly specified (xg=True)")
	}
	g := &touched{}
	t.groups[root] = g
	return g, nil
}

// read returns an entity group as t sees it. Reading a further group fails if
// one read before has changed, because there is no instant at which t has seen
// both. The caller holds the lock.
func (t *transaction) read(s *store, root string) ([]*entity, *Error) {
	g, failed := t.touch(root)
	if failed != nil {
		return nil, failed
	}
	if g.read {
		return g.entities, nil
	}
	g.entities, g.version = s.snapshot(root)
	g.read = true
	for other, o := range t.groups {
		if other != root && o.read && s.versionOf(other) != o.version {
			t.over = true
			return nil, errConcurrent
		}
	}
	return g.entities, nil
}

// get returns an entity as t sees it, or nil.
func (t *transaction) get(s *store, key entityKey) (*entity, *Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entities, failed := t.read(s, key.root)
	if failed != nil {
		return nil, failed
	}
	if i, ok := find(entities, key.path); ok {
		return entities[i], nil
	}
	return nil, nil
}

// write notes writes for the commit.
func (t *transaction) write(writes []write) *Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return errClosed
	}
	if t.readOnly {
		return badRequest("Cannot modify entities in a read-only transaction.")
	}
	for _, w := range writes {
		if _, failed := t.touch(w.key.root); failed != nil {
			return failed
		}
		t.writes = append(t.writes, w)
	}
	return nil
}

func (d *datastore) commit(req *wire.Transaction) (*wire.CommitResponse, *Error) {
	t, failed := d.transaction(req)
	if failed != nil {
		return nil, failed
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil, errClosed
	}
	defer d.end(t) // after the commit: the versions it depends on are kept until then
	t.over = true
	if len(t.writes) == 0 {
		return &wire.CommitResponse{}, nil
	}
	reads := make(map[string]uint64, len(t.groups))
	for root, g := range t.groups {
		if g.read {
			reads[root] = g.version
		}
	}
	if failed := d.store.commit(&change{reads: reads, writes: t.writes}); failed != nil {
		return nil, failed
	}
	return &wire.CommitResponse{}, nil
}

func (d *datastore) rollback(req *wire.Transaction) (*wire.VoidProto, *Error) {
	t, failed := d.transaction(req)
	if failed != nil {
		return nil, failed
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !d.end(t) {
		return nil, errClosed
	}
	t.over = true
	return &wire.VoidProto{}, nil
}
