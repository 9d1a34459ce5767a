package clouddatastore

import (
	"context"
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
	query := b.expired(time.Now().Add(-tier.PurgeGrace))
	return tier.Purge(ctx,
		func(ctx context.Context) ([]*pb.Key, bool, error) { return b.nextPage(ctx, query) }, b.deleteAll)
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

func (b *Backup) deleteAll(ctx context.Context, keys []*pb.Key) error {
	req := &pb.CommitRequest{ProjectId: b.project, DatabaseId: b.options.Database, Mode: pb.CommitRequest_NON_TRANSACTIONAL}
	for _, key := range keys {
		req.Mutations = append(req.Mutations, &pb.Mutation{Operation: &pb.Mutation_Delete{Delete: key}})
	}
	// The service's message may name any of them.
	_, err := call(ctx, b, "delete expired sessions", []string{"\x00"}, b.client.Commit, req)
	return err
}
