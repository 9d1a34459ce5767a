package gaelocal

import (
	"math/bits"
	"sync"

	"github.com/gaesession/gaesession/internal/wire"
)

// Ids come from two ranges, as Google's datastore_stub_util.py has them: small
// sequential ones, handed out by AllocateIds, and scattered ones above, given
// to entities put without an id.
const (
	maxSequentialID  = 1<<52 - 1
	maxScatteredID   = maxSequentialID + 1<<51
	maxScatteredSeed = 1<<51 - 1
	scatterShift     = 64 - 52 + 1

	idBlock = 1000 // a file is written once for so many ids
)

// ids hands out numeric ids, each once.
type ids struct {
	file *file // nil: in memory only

	mu             sync.Mutex // guards what follows
	nextSequential int64
	nextScattered  int64 // a number whose bits are reversed into an id

	// Ids below the limits may be handed out: the file knows of them.
	limitSequential int64
	limitScattered  int64
}

func (n *ids) init() { n.nextSequential, n.nextScattered = 1, 1 }

// durable writes to the file that all ids up to the next ones may have been
// handed out. The caller holds the lock, and has handed out none of them yet.
func (n *ids) durable() *Error {
	if n.file == nil || n.nextSequential <= n.limitSequential && n.nextScattered <= n.limitScattered {
		return nil
	}
	sequential := max(n.limitSequential, n.nextSequential+idBlock)
	scattered := max(n.limitScattered, n.nextScattered+idBlock)
	if err := n.file.writeIDs(sequential, scattered); err != nil {
		return &Error{Code: datastoreInternalError, Detail: err.Error()}
	}
	n.limitSequential, n.limitScattered = sequential, scattered
	return nil
}

// scattered returns a new id.
func (n *ids) scattered() (int64, *Error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.nextScattered
	if v > maxScatteredSeed {
		return 0, &Error{Code: datastoreInternalError, Detail: "there are no ids left"}
	}
	n.nextScattered++
	return scatter(v), n.durable()
}

// sequential returns the first of size new ids in a row.
func (n *ids) sequential(size int64) (int64, *Error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	start := n.nextSequential
	if size > maxSequentialID-start {
		return 0, &Error{Code: datastoreInternalError, Detail: "there are no ids left"}
	}
	n.nextSequential += size
	return start, n.durable()
}

// through takes all ids up to the limit; it returns the first one taken.
func (n *ids) through(limit int64) (int64, *Error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	start := n.nextSequential
	n.nextSequential = max(start, min(limit, maxSequentialID)+1)
	return start, n.durable()
}

// reserve keeps the ids in keys from being handed out.
func (n *ids) reserve(keys []*wire.Reference) *Error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ref := range keys {
		for _, e := range ref.GetPath().GetElement() {
			switch id := e.GetId(); {
			case id <= 0, id > maxScatteredID:
			case id <= maxSequentialID:
				n.nextSequential = max(n.nextSequential, id+1)
			default:
				n.nextScattered = max(n.nextScattered, unscatter(id)+1)
			}
		}
	}
	return n.durable()
}

func scatter(number int64) int64 {
	return maxSequentialID + 1 + int64(bits.Reverse64(uint64(number)<<scatterShift))
}

func unscatter(id int64) int64 {
	return int64(bits.Reverse64(uint64(id-maxSequentialID-1)) >> scatterShift)
}

func (d *datastore) allocate(req *wire.AllocateIdsRequest) (*wire.AllocateIdsResponse, *Error) {
	key, reserve := req.GetModelKey(), req.GetReserve()
	switch {
	case key != nil && len(reserve) > 0:
		return nil, badRequest("Cannot allocate and reserve IDs in the same request")
	case len(reserve) > 0 && req.Size != nil:
		return nil, badRequest("Cannot specify size when reserving IDs")
	case len(reserve) > 0 && req.Max != nil:
		return nil, badRequest("Cannot specify max when reserving IDs")
	}
	if key == nil {
		for _, ref := range reserve {
			if failed := d.checkKey(ref, true); failed != nil {
				return nil, failed
			}
		}
		if failed := d.ids.reserve(reserve); failed != nil {
			return nil, failed
		}
		return &wire.AllocateIdsResponse{Start: new(int64), End: new(int64)}, nil
	}
	if failed := d.checkApp(key.GetApp()); failed != nil {
		return nil, failed
	}
	size, limit := req.GetSize(), req.GetMax()
	var start, end int64
	var failed *Error
	switch {
	case size != 0 && limit != 0:
		return nil, badRequest("Both size and max cannot be set.")
	case size < 0:
		return nil, badRequest("Size must be greater than 0.")
	case limit < 0:
		return nil, badRequest("Max must be greater than or equal to 0.")
	case size > 0:
		start, failed = d.ids.sequential(size)
		end = start + size - 1
	default:
		start, failed = d.ids.through(limit)
		end = max(limit, start-1)
	}
	if failed != nil {
		return nil, failed
	}
	return &wire.AllocateIdsResponse{Start: &start, End: &end}, nil
}
