package gaelocal

import (
	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

// datastore is the datastore_v3 service.
type datastore struct {
	appID        string
	store        *store
	transactions transactions
	ids          ids
	queries      queries
}

// openDatastore returns a service whose entities are kept in the file at path,
// or in memory only if path is empty.
func openDatastore(appID, path string) (*datastore, error) {
	d := &datastore{appID: appID, store: newStore()}
	d.transactions.open = make(map[uint64]*transaction)
	d.ids.init()
	d.queries.init()
	if path == "" {
		return d, nil
	}
	f, err := openFile(path, appID, &d.ids, d.store.load)
	if err != nil {
		return nil, err
	}
	d.store.file, d.ids.file = f, f
	return d, nil
}

// close closes the file. No call may be under way.
func (d *datastore) close() error {
	if d.store.file == nil {
		return nil
	}
	return d.store.file.close()
}

// operation reads the request of a call and returns how to execute it.
func (d *datastore) operation(method string, request []byte) (op operation, failed *Error) {
	const service = "datastore_v3"
	switch method {
	case "Get":
		req := new(wire.GetRequest)
		op, failed = understand(service, method, request, req, d.get)
		op.namespace = firstNamespace(req.GetKey())
		op.inTransaction = req.GetTransaction() != nil
	case "Put":
		req := new(wire.PutRequest)
		op, failed = understand(service, method, request, req, d.put)
		if len(req.GetEntity()) > 0 {
			op.namespace = req.GetEntity()[0].GetKey().GetNameSpace()
		}
		op.inTransaction = req.GetTransaction() != nil
	case "Delete":
		req := new(wire.DeleteRequest)
		op, failed = understand(service, method, request, req, d.delete)
		op.namespace = firstNamespace(req.GetKey())
		op.inTransaction = req.GetTransaction() != nil
	case "BeginTransaction":
		op, failed = understand(service, method, request, new(wire.BeginTransactionRequest), d.begin)
	case "Commit":
		op, failed = understand(service, method, request, new(wire.Transaction), d.commit)
		op.inTransaction = true
	case "Rollback":
		op, failed = understand(service, method, request, new(wire.Transaction), d.rollback)
		op.inTransaction = true
	case "RunQuery":
		req := new(wire.Query)
		op, failed = understand(service, method, request, req, d.runQuery)
		op.namespace = req.GetNameSpace()
		op.inTransaction = req.GetTransaction() != nil
	case "Count":
		req := new(wire.Query)
		op, failed = understand(service, method, request, req, d.countResults)
		op.namespace = req.GetNameSpace()
		op.inTransaction = req.GetTransaction() != nil
	case "Next":
		op, failed = understand(service, method, request, new(wire.NextRequest), d.next)
	case "AllocateIds":
		req := new(wire.AllocateIdsRequest)
		op, failed = understand(service, method, request, req, d.allocate)
		op.namespace = req.GetModelKey().GetNameSpace()
	default:
		failed = callNotFound(service, method)
	}
	return op, failed
}

func firstNamespace(keys []*wire.Reference) string {
	if len(keys) == 0 {
		return ""
	}
	return keys[0].GetNameSpace()
}

func (d *datastore) get(req *wire.GetRequest) (*wire.GetResponse, *Error) {
	for _, ref := range req.GetKey() {
		if failed := d.checkKey(ref, true); failed != nil {
			return nil, failed
		}
	}
	find := func(key entityKey) (*entity, *Error) { return d.store.get(key), nil }
	if pb := req.GetTransaction(); pb != nil {
		t, failed := d.transaction(pb)
		if failed != nil {
			return nil, failed
		}
		find = func(key entityKey) (*entity, *Error) { return t.get(d.store, key) }
	}
	res := &wire.GetResponse{Entity: make([]*wire.GetResponse_Entity, 0, len(req.GetKey())), InOrder: proto.Bool(true)}
	for _, ref := range req.GetKey() {
		e, failed := find(encodeKey(ref))
		switch {
		case failed != nil:
			return nil, failed
		case e == nil:
			res.Entity = append(res.Entity, &wire.GetResponse_Entity{Key: ref})
		default:
			res.Entity = append(res.Entity, &wire.GetResponse_Entity{Entity: e.raw})
		}
	}
	return res, nil
}

func (d *datastore) put(req *wire.PutRequest) (*wire.PutResponse, *Error) {
	for _, pb := range req.GetEntity() {
		if failed := d.checkEntity(pb); failed != nil {
			return nil, failed
		}
	}
	res := &wire.PutResponse{Key: make([]*wire.Reference, 0, len(req.GetEntity()))}
	writes := make([]write, 0, len(req.GetEntity()))
	for _, pb := range req.GetEntity() {
		ref := pb.GetKey()
		if !complete(ref) {
			if failed := d.completeKey(ref); failed != nil {
				return nil, failed
			}
		}
		e, failed := newEntity(pb)
		if failed != nil {
			return nil, failed
		}
		writes = append(writes, write{e.key, e})
		res.Key = append(res.Key, ref)
	}
	if failed := d.write(req.GetTransaction(), writes); failed != nil {
		return nil, failed
	}
	return res, nil
}

// completeKey gives a key an id that no stored entity has.
func (d *datastore) completeKey(ref *wire.Reference) *Error {
	elements := ref.GetPath().GetElement()
	last := elements[len(elements)-1]
	last.Name = nil
	for {
		id, failed := d.ids.scattered()
		if failed != nil {
			return failed
		}
		last.Id = proto.Int64(id)
		if d.store.get(encodeKey(ref)) == nil {
			return nil
		}
	}
}

func (d *datastore) delete(req *wire.DeleteRequest) (*wire.DeleteResponse, *Error) {
	writes := make([]write, 0, len(req.GetKey()))
	for _, ref := range req.GetKey() {
		if failed := d.checkKey(ref, true); failed != nil {
			return nil, failed
		}
		writes = append(writes, write{key: encodeKey(ref)})
	}
	if failed := d.write(req.GetTransaction(), writes); failed != nil {
		return nil, failed
	}
	return &wire.DeleteResponse{}, nil
}

// write writes now, or when the transaction is committed.
func (d *datastore) write(pb *wire.Transaction, writes []write) *Error {
	if pb != nil {
		t, failed := d.transaction(pb)
		if failed != nil {
			return failed
		}
		return t.write(writes)
	}
	if len(writes) == 0 {
		return nil
	}
	return d.store.commit(&change{writes: writes})
}
