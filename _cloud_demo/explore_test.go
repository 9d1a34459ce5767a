package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/verify/interleave"
	"github.com/gaesession/gaesession/tier"
)

// Every schedule of overlapping requests on the services that this app uses: see
// package interleave. Its backups are those of package clouddatastore, whose calls
// are answered here: by a database that compares versions, and by one that does
// not, but locks what a transaction has read.

func useDatabases(t *testing.T) {
	t.Setenv("DATASTORE_EMULATOR_HOST", "nowhere") // no call gets there
	interleave.Use("versions", func() interleave.Database { return newDatabase(true) })
	interleave.Use("locks", func() interleave.Database { return newDatabase(false) })
}

func TestPromisesHoldInEverySchedule(t *testing.T) {
	useDatabases(t)
	interleave.Schedules(t, "versions redis", "locks")
}

func TestPromisesOfOwnersHoldInEverySchedule(t *testing.T) {
	useDatabases(t)
	interleave.Owners(t, "versions", "locks redis")
}

func TestPromisesHoldInRandomWalks(t *testing.T) {
	useDatabases(t)
	interleave.Walks(t, "versions", "versions redis", "locks", "locks redis")
}

func TestReplay(t *testing.T) {
	useDatabases(t)
	interleave.Replay(t)
}

// A database answers the calls of the Cloud Datastore API.
type database struct {
	comparesVersions bool
	entities         map[string]*entity
	transactions     map[string]*transaction
	last             int64 // version, or transaction
}

type entity struct {
	*pb.Entity
	version int64
}

type transaction struct {
	read  []string // keys that it has locked
	won   bool     // another one was aborted for its sake: nobody reads what it has locked
	began time.Time
	used  time.Time
}

func newDatabase(comparesVersions bool) *database {
	d := &database{comparesVersions: comparesVersions}
	d.Reset()
	return d
}

func (d *database) Reset() {
	d.entities, d.transactions = map[string]*entity{}, map[string]*transaction{}
}

// Limits of a transaction.
// https://cloud.google.com/datastore/docs/concepts/transactions
const (
	transactionTime = 270 * time.Second
	transactionIdle = 60 * time.Second
)

// open returns the transactions that go on.
func (d *database) open() map[string]*transaction {
	maps.DeleteFunc(d.transactions, func(_ string, t *transaction) bool {
		return time.Since(t.began) > transactionTime || time.Since(t.used) > transactionIdle
	})
	return d.transactions
}

// lockedBy returns the other transactions that have locked a key.
func (d *database) lockedBy(key, but string) (by []string) {
	for id, t := range d.open() {
		if id != but && slices.Contains(t.read, key) {
			by = append(by, id)
		}
	}
	return by
}

func (d *database) Before(c *interleave.Call) (others []string) {
	if d.comparesVersions {
		return nil
	}
	for _, key := range c.Keys {
		switch c.Name {
		case "ds-put", "ds-delete", "commit":
			others = append(others, d.lockedBy(key, c.Transaction)...)
		case "txn-get":
			others = append(others, slices.DeleteFunc(d.lockedBy(key, c.Transaction), func(id string) bool { return !d.transactions[id].won })...)
		}
	}
	slices.Sort(others)
	return slices.Compact(others)
}

func (d *database) Locks() string {
	var held, won int
	for _, t := range d.open() {
		held += len(t.read)
		if t.won {
			won++
		}
	}
	return fmt.Sprint(held, won)
}

func keyOf(k *pb.Key) string { return k.Path[0].Kind + " " + k.Path[0].GetName() }

func (d *database) Get(k interleave.Kept, id string) *tier.Record {
	e := d.entities[k.Kind+" "+k.Prefix+id]
	if e == nil {
		return nil
	}
	return &tier.Record{
		Value:   e.Properties[k.Value].GetBlobValue(),
		Expires: e.Properties[k.Expires].GetTimestampValue().AsTime(),
		Token:   fmt.Append(nil, e.version),
	}
}

func (d *database) Put(k interleave.Kept, id string, r *tier.Record) {
	if r == nil {
		delete(d.entities, k.Kind+" "+k.Prefix+id)
		return
	}
	d.last++
	d.entities[k.Kind+" "+k.Prefix+id] = &entity{version: d.last, Entity: &pb.Entity{
		Key: &pb.Key{Path: []*pb.Key_PathElement{{Kind: k.Kind, IdType: &pb.Key_PathElement_Name{Name: k.Prefix + id}}}},
		Properties: map[string]*pb.Value{
			k.Value:   {ValueType: &pb.Value_BlobValue{BlobValue: r.Value}},
			k.Expires: {ValueType: &pb.Value_TimestampValue{TimestampValue: timestamppb.New(r.Expires)}},
		},
	}}
}

// A process has a connection of its own.
type process struct{ *clouddatastore.Backup }

func (p process) Purge(ctx context.Context) error {
	_, err := p.Backup.Purge(ctx)
	return err
}

func (d *database) Open(k interleave.Kept) (interleave.Instance, error) {
	b, err := clouddatastore.New(context.Background(), "explored", &clouddatastore.Options{
		Kind: k.Kind, Prefix: k.Prefix, Value: k.Value, Expires: k.Expires,
		ClientOptions: []option.ClientOption{option.WithGRPCDialOption(grpc.WithUnaryInterceptor(
			func(ctx context.Context, _ string, req, res any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
				return d.do(ctx, k, req, res.(proto.Message))
			}))},
	})
	if err != nil {
		return nil, err
	}
	// What the database does is found out now, and not in one of the schedules.
	err = b.Update(context.Background(), []string{"none"}, nil, func([]*tier.Record) ([]*tier.Record, error) { return []*tier.Record{nil}, nil })
	return process{b}, err
}

// do makes a call when the explorer lets it.
func (d *database) do(ctx context.Context, k interleave.Kept, req any, res proto.Message) error {
	c := interleave.Call{Failure: status.Error(codes.Unavailable, "made to fail")}
	var perform func() (proto.Message, error)
	switch req := req.(type) {
	case *pb.LookupRequest:
		c.Name, c.Transaction = "ds-get", string(req.ReadOptions.GetTransaction())
		for _, key := range req.Keys {
			c.IDs, c.Keys = append(c.IDs, idOf(k, key)), append(c.Keys, keyOf(key))
		}
		if c.Transaction != "" {
			c.Name = "txn-get"
		}
		perform = func() (proto.Message, error) { return d.lookup(req) }
	case *pb.BeginTransactionRequest:
		c.Name = "begin"
		perform = func() (proto.Message, error) { return d.begin(), nil }
	case *pb.RollbackRequest:
		c.Name, c.Unlocks = "rollback", !d.comparesVersions
		perform = func() (proto.Message, error) {
			delete(d.transactions, string(req.Transaction))
			return &pb.RollbackResponse{}, nil
		}
	case *pb.CommitRequest:
		c.Transaction = string(req.GetTransaction())
		c.Name = d.nameCommit(c.Transaction, req.Mutations[0])
		for _, m := range req.Mutations {
			key := m.GetDelete()
			if e := entityOf(m); e != nil {
				key, c.Values = e.Key, append(c.Values, e.Properties[k.Value].GetBlobValue())
			}
			c.IDs, c.Keys = append(c.IDs, idOf(k, key)), append(c.Keys, keyOf(key))
		}
		perform = func() (proto.Message, error) { return d.commit(req) }
	case *pb.RunQueryRequest:
		c.Name = "query"
		perform = func() (proto.Message, error) { return d.expired(k, req.GetQuery()), nil }
	default:
		return status.Errorf(codes.Unimplemented, "%T", req)
	}
	c.Perform = func() error {
		answer, err := perform()
		if err == nil {
			proto.Merge(res, answer)
		}
		return err
	}
	err := interleave.Do(ctx, c)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return status.FromContextError(err).Err() // as the connection does
	}
	return err
}

func idOf(k interleave.Kept, key *pb.Key) string {
	return strings.TrimPrefix(key.Path[0].GetName(), k.Prefix)
}

// nameCommit names a commit by its transaction and its first mutation.
func (d *database) nameCommit(transaction string, m *pb.Mutation) string {
	switch {
	case transaction != "":
		return "commit"
	case m.GetDelete() != nil:
		return "ds-delete"
	case m.GetBaseVersion() != 0:
		return "ds-swap"
	}
	return "ds-put"
}

func entityOf(m *pb.Mutation) *pb.Entity {
	switch op := m.Operation.(type) {
	case *pb.Mutation_Insert:
		return op.Insert
	case *pb.Mutation_Update:
		return op.Update
	case *pb.Mutation_Upsert:
		return op.Upsert
	}
	return nil
}

func keyOfMutation(m *pb.Mutation) string {
	if key := m.GetDelete(); key != nil {
		return keyOf(key)
	}
	return keyOf(entityOf(m).Key)
}

func (d *database) begin() *pb.BeginTransactionResponse {
	d.last++
	id := fmt.Sprint(d.last)
	d.transactions[id] = &transaction{began: time.Now(), used: time.Now()}
	return &pb.BeginTransactionResponse{Transaction: []byte(id)}
}

// in returns a transaction that goes on.
func (d *database) in(id []byte) (*transaction, error) {
	t := d.open()[string(id)]
	if t == nil {
		return nil, status.Error(codes.InvalidArgument, "the referenced transaction has expired or is no longer valid")
	}
	t.used = time.Now()
	return t, nil
}

func (d *database) lookup(req *pb.LookupRequest) (proto.Message, error) {
	res := &pb.LookupResponse{}
	for _, k := range req.Keys {
		key := keyOf(k)
		if id := req.ReadOptions.GetTransaction(); id != nil {
			t, err := d.in(id)
			if err != nil {
				return nil, err
			}
			if !d.comparesVersions {
				t.read = append(t.read, key)
			}
		}
		if e := d.entities[key]; e != nil {
			res.Found = append(res.Found, &pb.EntityResult{Entity: e.Entity, Version: e.version})
		} else {
			res.Missing = append(res.Missing, &pb.EntityResult{Entity: &pb.Entity{Key: k}})
		}
	}
	return res, nil
}

func (d *database) commit(req *pb.CommitRequest) (proto.Message, error) {
	if id := req.GetTransaction(); id != nil {
		if _, err := d.in(id); err != nil {
			return nil, err
		}
		delete(d.transactions, string(id))
	}
	for _, m := range req.Mutations {
		if others := d.lockedBy(keyOfMutation(m), ""); !d.comparesVersions && len(others) > 0 {
			for _, id := range others {
				d.transactions[id].won = true
			}
			return nil, status.Error(codes.Aborted, "aborted for a transaction that waits for this one")
		}
	}
	before := maps.Clone(d.entities)
	res := &pb.CommitResponse{}
	for _, m := range req.Mutations {
		version, err := d.mutate(m)
		if err != nil {
			if req.Mode == pb.CommitRequest_TRANSACTIONAL {
				d.entities = before // all of it or nothing
			}
			return nil, err
		}
		res.MutationResults = append(res.MutationResults, &pb.MutationResult{Version: version})
	}
	return res, nil
}

func (d *database) mutate(m *pb.Mutation) (version int64, err error) {
	if key := m.GetDelete(); key != nil {
		delete(d.entities, keyOf(key))
		return 0, nil
	}
	e := entityOf(m)
	key := keyOf(e.Key)
	there := d.entities[key]
	switch {
	case m.GetInsert() != nil && there != nil:
		return 0, status.Error(codes.AlreadyExists, "the entity exists")
	case m.GetUpdate() != nil && there == nil:
		return 0, status.Error(codes.NotFound, "no entity to update")
	case d.comparesVersions && m.GetBaseVersion() != 0 && there.version != m.GetBaseVersion():
		return 0, status.Error(codes.FailedPrecondition, "the stored version does not match")
	}
	d.last++
	d.entities[key] = &entity{proto.CloneOf(e), d.last}
	return d.last, nil
}

func (d *database) expired(k interleave.Kept, q *pb.Query) *pb.RunQueryResponse {
	then := q.Filter.GetPropertyFilter().Value.GetTimestampValue().AsTime()
	batch := &pb.QueryResultBatch{MoreResults: pb.QueryResultBatch_NO_MORE_RESULTS}
	for _, key := range slices.Sorted(maps.Keys(d.entities)) {
		if e := d.entities[key]; e.Key.Path[0].Kind == k.Kind && e.Properties[k.Expires].GetTimestampValue().AsTime().Before(then) {
			batch.EntityResults = append(batch.EntityResults, &pb.EntityResult{Entity: &pb.Entity{Key: e.Key}})
		}
	}
	return &pb.RunQueryResponse{Batch: batch}
}
