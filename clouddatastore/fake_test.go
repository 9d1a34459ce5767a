package clouddatastore_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A fake is a database in memory that answers the Cloud Datastore API. Commits
// outside a transaction are made mutation by mutation, as Google's are.
type fake struct {
	pb.UnimplementedDatastoreServer
	address string

	mu           sync.Mutex
	last         int64 // version
	entities     map[string]*pb.EntityResult
	versions     map[string]int64            // of the last change of each key, a deletion included
	transactions map[string]map[string]int64 // the versions that each has read
}

func newFake() *fake {
	return &fake{
		entities: map[string]*pb.EntityResult{}, versions: map[string]int64{},
		transactions: map[string]map[string]int64{},
	}
}

// start serves the API until the test ends, and returns the address.
func (f *fake) start(t testing.TB) string {
	t.Helper()
	if f.address == "" {
		f.address = listen(t, f)
	}
	return f.address
}

// listen serves the API until the test ends, and returns the address.
func listen(t testing.TB, s pb.DatastoreServer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(32 << 20))
	pb.RegisterDatastoreServer(g, s)
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func (f *fake) Lookup(_ context.Context, req *pb.LookupRequest) (*pb.LookupResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	res := &pb.LookupResponse{}
	for _, key := range req.Keys {
		name := pathOf(key)
		if reads := f.transactions[string(req.GetReadOptions().GetTransaction())]; reads != nil {
			reads[name] = f.versions[name]
		}
		if e := f.entities[name]; e != nil {
			res.Found = append([]*pb.EntityResult{proto.Clone(e).(*pb.EntityResult)}, res.Found...) // in any order
		} else {
			res.Missing = append(res.Missing, &pb.EntityResult{Entity: &pb.Entity{Key: key}, Version: f.versions[name]})
		}
	}
	return res, nil
}

func (f *fake) BeginTransaction(context.Context, *pb.BeginTransactionRequest) (*pb.BeginTransactionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	transaction := fmt.Append(nil, f.last)
	f.transactions[string(transaction)] = map[string]int64{}
	return &pb.BeginTransactionResponse{Transaction: transaction}, nil
}

func (f *fake) Rollback(_ context.Context, req *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.transactions, string(req.Transaction))
	return &pb.RollbackResponse{}, nil
}

func (f *fake) Commit(_ context.Context, req *pb.CommitRequest) (*pb.CommitResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.Mode == pb.CommitRequest_TRANSACTIONAL {
		if req.TransactionSelector == nil {
			return nil, status.Error(codes.InvalidArgument, "which transaction?")
		}
		if transaction := string(req.GetTransaction()); transaction != "" {
			reads, open := f.transactions[transaction]
			if !open {
				return nil, status.Error(codes.InvalidArgument, "The transaction is closed")
			}
			delete(f.transactions, transaction)
			for name, version := range reads {
				if f.versions[name] != version {
					return nil, status.Error(codes.Aborted, "another transaction was faster")
				}
			}
		}
		for _, m := range req.Mutations {
			if err := f.refuses(m); err != nil {
				return nil, err
			}
		}
	}
	f.last++
	res := &pb.CommitResponse{}
	for _, m := range req.Mutations {
		if err := f.refuses(m); err != nil {
			return nil, err
		}
		name := pathOf(keyOf(m))
		f.versions[name] = f.last
		delete(f.entities, name)
		if e := entityOf(m); e != nil {
			f.entities[name] = &pb.EntityResult{Entity: proto.Clone(e).(*pb.Entity), Version: f.last}
		}
		res.MutationResults = append(res.MutationResults, &pb.MutationResult{Version: f.last})
	}
	return res, nil
}

func (f *fake) refuses(m *pb.Mutation) error {
	there := f.entities[pathOf(keyOf(m))]
	name := keyOf(m).Path[0].GetName()
	switch {
	case len(name) >= 4 && strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__"):
		return status.Error(codes.InvalidArgument, "a reserved name")
	case there != nil && m.GetBaseVersion() > there.Version:
		return status.Error(codes.InvalidArgument, "a base version that is greater than the stored version")
	case m.ConflictDetectionStrategy != nil && m.GetBaseVersion() != there.GetVersion():
		return status.Error(codes.FailedPrecondition, "another version is stored")
	case m.GetInsert() != nil && there != nil:
		return status.Error(codes.AlreadyExists, "entity already exists")
	case m.GetUpdate() != nil && there == nil:
		return status.Error(codes.NotFound, "no entity to update")
	}
	return nil
}

// RunQuery answers with one page: the keys of a kind that expired.
func (f *fake) RunQuery(_ context.Context, req *pb.RunQueryRequest) (*pb.RunQueryResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	batch := &pb.QueryResultBatch{MoreResults: pb.QueryResultBatch_NO_MORE_RESULTS}
	for _, e := range f.entities {
		filter := req.GetQuery().GetFilter().GetPropertyFilter()
		ends := e.Entity.Properties[filter.GetProperty().GetName()].GetTimestampValue()
		if proto.Equal(e.Entity.Key.PartitionId, req.PartitionId) && e.Entity.Key.Path[0].Kind == req.GetQuery().Kind[0].Name &&
			(filter == nil || ends.AsTime().Before(filter.Value.GetTimestampValue().AsTime())) {
			batch.EntityResults = append(batch.EntityResults, &pb.EntityResult{Entity: &pb.Entity{Key: e.Entity.Key}})
		}
	}
	return &pb.RunQueryResponse{Batch: batch}, nil
}

// entityOf returns what a mutation writes, nil when it deletes.
func entityOf(m *pb.Mutation) *pb.Entity {
	for _, e := range []*pb.Entity{m.GetInsert(), m.GetUpdate(), m.GetUpsert()} {
		if e != nil {
			return e
		}
	}
	return nil
}

func keyOf(m *pb.Mutation) *pb.Key {
	if e := entityOf(m); e != nil {
		return e.Key
	}
	return m.GetDelete()
}

func pathOf(key *pb.Key) string {
	return fmt.Sprintf("%s/%s/%s", key.PartitionId.GetNamespaceId(), key.Path[0].Kind, key.Path[0].GetName())
}
