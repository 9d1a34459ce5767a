package clouddatastore

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

const (
	// purgeTime leaves some of the ten minutes that Cloud Scheduler may be told
	// to wait, and of the time a request may take.
	purgeTime = 8 * time.Minute
	// purgeBatch is how many entities one call deletes.
	purgeBatch = 500
	// purgePage is how many keys one query asks for.
	purgePage = 3 * purgeBatch
	// purgeDeletes is how many calls delete at once.
	purgeDeletes = 4
	purgeRetries = 3
)

// PurgeResult says what a purge did.
type PurgeResult struct {
	Completed bool // false when it stopped early: more may be left to delete
	Deleted   int  // entities deleted
}

// Purge deletes the records that expired more than five minutes ago,
// [tier.PurgeGrace], those of removed sessions included. It stops after eight
// minutes, or when ctx is done, without an error and with Completed false. A
// query or delete that keeps failing is an error; the result then says what was
// deleted before.
//
// A session that is saved more than five minutes after its expiry, at the moment
// when it is purged, may be lost with it.
func (b *Backup) Purge(ctx context.Context) (PurgeResult, error) {
	ctx, stop := context.WithTimeout(ctx, purgeTime)
	defer stop()
	working, fail := context.WithCancel(ctx) // until a delete has failed
	defer fail()
	var (
		query   = b.expired(time.Now().Add(-tier.PurgeGrace))
		done    PurgeResult
		deleted atomic.Int64
		deletes errgroup.Group
		err     error
	)
	deletes.SetLimit(purgeDeletes)
	for working.Err() == nil && !done.Completed {
		var keys []*pb.Key
		if keys, done.Completed, err = b.nextPage(working, query); err != nil {
			break
		}
		for batch := range slices.Chunk(keys, purgeBatch) {
			deletes.Go(func() error {
				if working.Err() != nil {
					return nil
				}
				if err := b.deleteAll(ctx, batch); err != nil {
					fail()
					return err
				}
				deleted.Add(int64(len(batch)))
				return nil
			})
		}
	}
	// A failed delete ends the query, too: its error is the one to tell.
	if derr := deletes.Wait(); derr != nil {
		err = derr
	}
	done.Deleted = int(deleted.Load())
	if ctx.Err() != nil {
		err, done.Completed = nil, false // stopped early
	}
	if err != nil {
		done.Completed = false
	}
	return done, err
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
	res, err := retry.Do(ctx, purgeRetries, func() (*pb.RunQueryResponse, error) {
		return call(ctx, b, "query expired sessions", nil, b.client.RunQuery, &pb.RunQueryRequest{
			ProjectId: b.project, DatabaseId: b.options.Database, PartitionId: b.partition(),
			QueryType: &pb.RunQueryRequest_Query{Query: query},
		})
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
	_, err := retry.Do(ctx, purgeRetries, func() (*pb.CommitResponse, error) {
		// The service's message may name any of them.
		return call(ctx, b, "delete expired sessions", []string{"\x00"}, b.client.Commit, req)
	})
	return err
}
