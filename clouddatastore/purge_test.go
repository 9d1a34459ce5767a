package clouddatastore_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/tier"
)

// onEachEmulator runs f on those that a test of calls runs on that do not
// depend on versions.
func onEachEmulator(t *testing.T, f func(t *testing.T, d database)) {
	for _, d := range emulators.All {
		t.Run(d.Name, func(t *testing.T) { f(t, database{Database: d}) })
	}
}

// stub returns the API itself.
func stub(t *testing.T, d database) pb.DatastoreClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.start(t), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return pb.NewDatastoreClient(conn)
}

// entities counts those of a kind.
func entities(t *testing.T, d database, namespace, kind string) int {
	t.Helper()
	res, err := stub(t, d).RunQuery(context.Background(), &pb.RunQueryRequest{
		ProjectId: project, PartitionId: &pb.PartitionId{ProjectId: project, NamespaceId: namespace},
		QueryType: &pb.RunQueryRequest_Query{Query: &pb.Query{Kind: []*pb.KindExpression{{Name: kind}}}},
	})
	must(t, err)
	return len(res.Batch.EntityResults)
}

// deleteEntity deletes a record, as a purge does.
func deleteEntity(t *testing.T, d database, namespace, id string) {
	t.Helper()
	_, err := stub(t, d).Commit(context.Background(), &pb.CommitRequest{
		ProjectId: project, Mode: pb.CommitRequest_NON_TRANSACTIONAL,
		Mutations: []*pb.Mutation{{Operation: &pb.Mutation_Delete{Delete: &pb.Key{
			PartitionId: &pb.PartitionId{ProjectId: project, NamespaceId: namespace},
			Path:        []*pb.Key_PathElement{{Kind: "sess_", IdType: &pb.Key_PathElement_Name{Name: id}}},
		}}}},
	})
	must(t, err)
}

// fill writes records that end then.
func fill(t *testing.T, d database, namespace string, n int, ends time.Time) (ids []string) {
	t.Helper()
	client := stub(t, d)
	var all []*pb.Mutation
	for range n {
		id := newID()
		ids = append(ids, id)
		all = append(all, &pb.Mutation{Operation: &pb.Mutation_Upsert{Upsert: &pb.Entity{
			Key: &pb.Key{
				PartitionId: &pb.PartitionId{ProjectId: project, NamespaceId: namespace},
				Path:        []*pb.Key_PathElement{{Kind: "sess_", IdType: &pb.Key_PathElement_Name{Name: id}}},
			},
			Properties: map[string]*pb.Value{
				"val": {ValueType: &pb.Value_BlobValue{BlobValue: []byte("x")}, ExcludeFromIndexes: true},
				"exp": {ValueType: &pb.Value_TimestampValue{TimestampValue: timestamppb.New(ends)}},
			},
		}}})
	}
	for mutations := range slices.Chunk(all, 500) {
		_, err := client.Commit(context.Background(), &pb.CommitRequest{
			ProjectId: project, Mode: pb.CommitRequest_NON_TRANSACTIONAL, Mutations: mutations,
		})
		must(t, err)
	}
	return ids
}

func TestPurgeDeletesWhatExpiredBeforeTheGraceAndNothingElse(t *testing.T) {
	onEachEmulator(t, func(t *testing.T, d database) {
		const expired = 1750 // more than a page
		ctx := context.Background()
		var calls calls
		here, there := inNewNamespace(), inNewNamespace()
		b := open(t, d, here, calls.intercept)
		other := open(t, d, there)
		fill(t, d, here.Namespace, expired, time.Now().Add(-tier.PurgeGrace-time.Second))
		stay := append(fill(t, d, here.Namespace, 3, time.Now().Add(time.Minute-tier.PurgeGrace)),
			fill(t, d, here.Namespace, 3, time.Now().Add(time.Hour))...)
		elsewhere := fill(t, d, there.Namespace, 1, time.Now().Add(-time.Hour))

		done, err := b.Purge(ctx)
		must(t, err)
		if want := (clouddatastore.PurgeResult{Completed: true, Deleted: expired}); done != want {
			t.Errorf("got %+v, want %+v", done, want)
		}
		t.Logf("calls: %v", calls.since())
		for _, id := range stay {
			if r, err := b.Get(ctx, id); err != nil || r == nil {
				t.Errorf("got %v, %v, want the record that is to stay", r, err)
			}
		}
		if r, err := other.Get(ctx, elsewhere[0]); err != nil || r == nil {
			t.Errorf("got %v, %v, want the record of another namespace", r, err)
		}
		done, err = b.Purge(ctx)
		must(t, err)
		if want := (clouddatastore.PurgeResult{Completed: true}); done != want {
			t.Errorf("a second purge: got %+v, want %+v", done, want)
		}
	})
}

// A list of an owner's sessions may be written again although it has expired: by
// the login that a purge overlaps.
func TestPurgeLeavesAListOfSessionsThatIsWrittenMeanwhile(t *testing.T) {
	onEachEmulator(t, func(t *testing.T, d database) {
		ctx := context.Background()
		here := inNewNamespace()
		writer := open(t, d, here)
		list := func(id string, ago time.Duration) {
			must(t, writer.Put(ctx, id, tier.Record{Value: []byte("x"), Expires: time.Now().Add(-ago)}))
		}
		list("owner:ada", time.Hour)
		list("owner:bob", time.Hour)
		list("ada", time.Hour)
		b := open(t, d, here, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, begins := req.(*pb.BeginTransactionRequest); begins {
				list("owner:ada", -time.Hour)
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		})
		_, err := b.Purge(ctx)
		must(t, err)
		for id, stays := range map[string]bool{"owner:ada": true, "owner:bob": false, "ada": false} {
			r, err := writer.Get(ctx, id)
			must(t, err)
			if (r != nil) != stays {
				t.Errorf("%s: got %v, to stay: %v", id, r, stays)
			}
		}
	})
}

func deletes(req any) bool {
	commit, ok := req.(*pb.CommitRequest)
	return ok && slices.ContainsFunc(commit.Mutations, func(m *pb.Mutation) bool { return m.GetDelete() != nil })
}

func TestPurgeStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	d, o := database{Database: emulators.Datastore}, inNewNamespace()
	b := open(t, d, o, before(func(_ context.Context, _ string, req any) error {
		if deletes(req) {
			cancel()
		}
		return nil
	}))
	fill(t, d, o.Namespace, 10, time.Now().Add(-time.Hour))
	done, err := b.Purge(ctx)
	if err != nil || done.Completed {
		t.Errorf("got %+v, %v, want it to have stopped without an error", done, err)
	}
	done, err = b.Purge(context.Background())
	must(t, err)
	if !done.Completed {
		t.Errorf("got %+v, want it to complete", done)
	}
}

func TestPurgeReportsACallThatKeepsFailing(t *testing.T) {
	for _, what := range []string{"query", "delete"} {
		for failures, wantErr := range map[int]bool{2: false, 3: true} {
			attempts := 0
			d, o := database{Database: emulators.Datastore}, inNewNamespace()
			b := open(t, d, o, before(func(_ context.Context, _ string, req any) error {
				_, query := req.(*pb.RunQueryRequest)
				if query && what == "query" || deletes(req) && what == "delete" {
					if attempts++; attempts <= failures {
						return status.Error(codes.Unavailable, "out of order")
					}
				}
				return nil
			}))
			fill(t, d, o.Namespace, 10, time.Now().Add(-time.Hour))
			done, err := b.Purge(context.Background())
			if wantErr && (status.Code(err) != codes.Unavailable || done != clouddatastore.PurgeResult{}) {
				t.Errorf("a %s that fails %d times: got %+v, %v, want its error", what, failures, done, err)
			}
			if !wantErr && (err != nil || done != clouddatastore.PurgeResult{Completed: true, Deleted: 10}) {
				t.Errorf("a %s that fails %d times: got %+v, %v, want 10 deleted", what, failures, done, err)
			}
		}
	}
}

func TestAPurgeDuringAnUpdateIsAConflict(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		ctx := context.Background()
		b := open(t, d, inNewNamespace())
		id := newID()
		must(t, b.Put(ctx, id, tier.Record{Value: []byte("old"), Expires: time.Now().Add(-time.Hour)}))
		made := newRecord("made")
		var (
			calls  int
			saw    *tier.Record
			waits  bool // the purge, for the end of the update
			purged = make(chan error, 1)
		)
		err := b.Update(ctx, []string{id}, nil, one(func(current *tier.Record) (*tier.Record, error) {
			if calls++; calls == 1 {
				go func() {
					_, err := b.Purge(ctx)
					purged <- err
				}()
				select {
				case err := <-purged:
					purged <- err
				case <-time.After(time.Second): // the database locks the record
					waits = true
				}
			}
			saw = current
			return made, nil
		}))
		must(t, <-purged)
		switch {
		case errors.Is(err, tier.ErrContention):
		case err != nil:
			t.Error(err)
		case !waits && (saw != nil || calls < 2):
			t.Errorf("after %d calls the update saw %v, want what the purge has left: nothing", calls, saw)
		case !waits:
			wantsRecord(t, b, id, *made, "after an update that saw the purge")
		}
	})
}
