package clouddatastore

import (
	"context"
	"strings"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gaesession/gaesession/tier"
)

// purgePage is how many keys one query asks for.
const purgePage = 1500

// PurgeResult says what a purge did.
type PurgeResult = tier.Purged

// Purge deletes the records that expired more than five minutes ago,
// [tier.PurgeGrace], those of removed sessions included. It stops after eight
// minutes, or when ctx ends, without an error and with Completed false. A query
// or delete that keeps failing is an error; the result then says what was deleted
// before.
//
// Purge deletes in the database and the namespace of the Backup alone.
//
// A session that is saved more than five minutes after its expiry, at the moment
// when it is purged, may be lost with it.
func (b *Backup) Purge(ctx context.Context) (PurgeResult, error) {
	then := time.Now().Add(-tier.PurgeGrace)
	query := b.expired(then)
	return tier.Purge(ctx,
		func(ctx context.Context) ([]*pb.Key, bool, error) { return b.nextPage(ctx, query) },
		func(ctx context.Context, keys []*pb.Key) error { return b.deleteAll(ctx, keys, then) })
}

// expired returns a query for the keys of what expired before then.
func (b *Backup) expired(then time.Time) *pb.Query {
	return &pb.Query{
		Kind:       []*pb.KindExpression{{Name: b.options.Kind}},
		Projection: []*pb.Projection{{Property: &pb.PropertyReference{Name: "__key__"}}},
		Filter: &pb.Filter{FilterType: &pb.Filter_PropertyFilter{PropertyFilter: &pb.PropertyFilter{
			Property: &pb.PropertyReference{Name: b.options.Expires},
			Op:       pb.PropertyFilter_LESS_THAN,
			Value:    &pb.Value{ValueType: &pb.Value_TimestampValue{TimestampValue: timestamp(then)}},
		}}},
		Limit: wrapperspb.Int32(purgePage),
	}
}

// nextPage returns the next keys of the query, which it moves on behind them,
// and whether they were the last. The service may return fewer than a page.
func (b *Backup) nextPage(ctx context.Context, query *pb.Query) (keys []*pb.Key, last bool, err error) {
	res, err := call(ctx, b, "query expired sessions", nil, b.client.RunQuery, &pb.RunQueryRequest{
		ProjectId: b.project, DatabaseId: b.options.Database, PartitionId: b.partition(),
		QueryType: &pb.RunQueryRequest_Query{Query: query},
	})
	if err != nil {
		return nil, false, err
	}
	batch := res.GetBatch()
	for _, e := range batch.GetEntityResults() {
		keys = append(keys, e.GetEntity().GetKey())
	}
	query.StartCursor = batch.GetEndCursor()
	more := batch.GetMoreResults()
	last = more == pb.QueryResultBatch_NO_MORE_RESULTS ||
		more != pb.QueryResultBatch_NOT_FINISHED && len(keys) == 0
	return keys, last, nil
}

// anyName has the text of an error withheld that may name any entity.
var anyName = []string{"\x00"}

// deleteAll deletes entities; those that list an owner's sessions only if they
// still have expired before then.
func (b *Backup) deleteAll(ctx context.Context, keys []*pb.Key, then time.Time) error {
	var indexes []*pb.Key
	req := &pb.CommitRequest{ProjectId: b.project, DatabaseId: b.options.Database, Mode: pb.CommitRequest_NON_TRANSACTIONAL}
	for _, key := range keys {
		if strings.HasPrefix(nameOf(key), b.options.Prefix+tier.OwnerPrefix) {
			indexes = append(indexes, key)
			continue
		}
		req.Mutations = append(req.Mutations, deleting(key))
	}
	if len(indexes) > 0 {
		if err := b.deleteStill(ctx, indexes, then); err != nil {
			return err
		}
	}
	if len(req.Mutations) == 0 {
		return nil
	}
	_, err := call(ctx, b, "delete expired sessions", anyName, b.client.Commit, req)
	return err
}

// deleteStill deletes those entities that have expired before then, in a
// transaction.
func (b *Backup) deleteStill(ctx context.Context, keys []*pb.Key, then time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	begun, err := call(ctx, b, "begin", anyName, b.client.BeginTransaction, &pb.BeginTransactionRequest{
		ProjectId: b.project, DatabaseId: b.options.Database,
	})
	if err != nil {
		return err
	}
	found, err := call(ctx, b, "lookup", anyName, b.client.Lookup, &pb.LookupRequest{
		ProjectId: b.project, DatabaseId: b.options.Database, Keys: keys,
		ReadOptions: &pb.ReadOptions{ConsistencyType: &pb.ReadOptions_Transaction{Transaction: begun.Transaction}},
	})
	if err != nil {
		b.rollback(ctx, anyName, begun.Transaction)
		return err
	}
	var deletes []*pb.Mutation
	for _, e := range found.Found { // what the service defers is for the next purge
		if r, err := b.record(e); err == nil && r.Expires.Before(then) {
			deletes = append(deletes, deleting(e.GetEntity().GetKey()))
		}
	}
	if len(deletes) == 0 {
		b.rollback(ctx, anyName, begun.Transaction)
		return nil
	}
	_, err = b.commit(ctx, "delete expired sessions", anyName, begun.Transaction, deletes...)
	return err
}
