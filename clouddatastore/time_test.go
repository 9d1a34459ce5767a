package clouddatastore_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/tier"
)

// answers answers calls without a connection, so that they need no time.
func (f *fake) answers(ctx context.Context, _ string, req, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
	var res proto.Message
	var err error
	switch req := req.(type) {
	case *pb.LookupRequest:
		res, err = f.Lookup(ctx, req)
	case *pb.CommitRequest:
		res, err = f.Commit(ctx, req)
	case *pb.BeginTransactionRequest:
		res, err = f.BeginTransaction(ctx, req)
	case *pb.RollbackRequest:
		res, err = f.Rollback(ctx, req)
	default:
		return status.Error(codes.Unimplemented, "no such call")
	}
	if err != nil {
		return err
	}
	proto.Merge(reply.(proto.Message), res)
	return ctx.Err()
}

// inBubble runs f in a bubble, with Backups whose calls go through interceptors.
func inBubble(t *testing.T, f func(t *testing.T, open func(...grpc.UnaryClientInterceptor) *clouddatastore.Backup)) {
	t.Setenv("DATASTORE_EMULATOR_HOST", "nowhere")
	synctest.Test(t, func(t *testing.T) {
		database := newFake()
		f(t, func(interceptors ...grpc.UnaryClientInterceptor) *clouddatastore.Backup {
			b, err := clouddatastore.New(context.Background(), project, &clouddatastore.Options{ClientOptions: []option.ClientOption{
				option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(append(interceptors, database.answers)...)),
			}})
			must(t, err)
			t.Cleanup(func() { must(t, b.Close()) })
			return b
		})
	})
}

// roundsOf returns when the function of an update is called that never succeeds.
func roundsOf(t *testing.T, interceptors ...grpc.UnaryClientInterceptor) (rounds []time.Time) {
	inBubble(t, func(t *testing.T, open func(...grpc.UnaryClientInterceptor) *clouddatastore.Backup) {
		b := open(append(interceptors, atCommits(func() error {
			return status.Error(codes.Aborted, "too much contention on these entities")
		}))...)
		ids := []string{newID(), newID()}
		err := b.Update(context.Background(), ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
			rounds = append(rounds, time.Now())
			return appending("+")(current)
		})
		if !errors.Is(err, tier.ErrContention) || errors.Is(err, tier.ErrRejected) {
			t.Errorf("got %v, want ErrContention", err)
		}
		wantsValues(t, b, ids, "-", "-")
	})
	return rounds
}

func TestAnUpdateGivesUpAfterTenRoundsWithLongerAndLongerWaits(t *testing.T) {
	for _, as := range [][]grpc.UnaryClientInterceptor{nil, {ignoreVersions}} {
		rounds, limit := roundsOf(t, as...), 20*time.Millisecond
		if len(rounds) != 10 {
			t.Fatalf("%d calls of f, want 10", len(rounds))
		}
		waits := map[time.Duration]bool{}
		for i := range rounds[1:] {
			wait := rounds[i+1].Sub(rounds[i])
			if wait < 0 || wait >= limit {
				t.Errorf("wait %d is %v, want up to %v", i+1, wait, limit)
			}
			limit = min(2*limit, 2*time.Second)
			waits[wait] = true
		}
		if len(waits) < 8 {
			t.Errorf("got %d different waits, want them to be drawn", len(waits))
		}
		if again := roundsOf(t, as...); !slices.EqualFunc(rounds, again, time.Time.Equal) {
			t.Errorf("got rounds at\n%v, and then at\n%v, although the clock was the same", rounds, again)
		}
	}
}

func TestACallEndsAfterHalfAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T, open func(...grpc.UnaryClientInterceptor) *clouddatastore.Backup) {
		b := open(func(ctx context.Context, _ string, req, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
			<-ctx.Done()
			return status.FromContextError(ctx.Err()).Err()
		})
		for name, call := range operations(b, newID()) {
			began := time.Now()
			if err := call(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want the deadline", name, err)
			}
			if took := time.Since(began); took != 30*time.Second {
				t.Errorf("%s: ended after %v, want half a minute", name, took)
			}
		}
	})
}

// An update of two records takes its places in one order, whatever that of the ids
// is.
func TestTransactionsThatQueueForTheSameRecordsAllGetTheirTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, open func(...grpc.UnaryClientInterceptor) *clouddatastore.Backup) {
		held, release := true, make(chan struct{})
		b := open(ignoreVersions, before(func(_ context.Context, _ string, req any) error {
			if _, begins := req.(*pb.BeginTransactionRequest); begins && held {
				held = false
				<-release
			}
			return nil
		}))
		one, other := "one", "other"
		ended := make(chan error, 5)
		for _, ids := range [][]string{{other}, {other, one}, {one, other}, {one}, {other, one}} {
			go func() { ended <- b.Update(context.Background(), ids, nil, appending("+")) }()
			synctest.Wait()
		}
		close(release)
		for range 5 {
			must(t, <-ended)
		}
		wantsValues(t, b, []string{one, other}, "++++", "++++")
	})
}

func TestTransactionsOfTheSameRecordQueueUntilTheirContextsEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, open func(...grpc.UnaryClientInterceptor) *clouddatastore.Backup) {
		held, release := true, make(chan struct{})
		b := open(ignoreVersions, before(func(_ context.Context, _ string, req any) error {
			if _, begins := req.(*pb.BeginTransactionRequest); begins && held {
				held = false
				<-release
			}
			return nil
		}))
		first, second, third := "first", "second", "third" // they queue in three places
		ended := make(chan error, 1)
		go func() { ended <- b.Update(context.Background(), []string{first, second}, nil, appending("1")) }()
		synctest.Wait()
		for _, ids := range [][]string{{second}, {third, first}} {
			ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, errors.New("the request has ended"))
			err := b.Update(ctx, ids, nil, appending("2"))
			if !errors.Is(err, tier.ErrNotWritten) || !errors.Is(err, context.Cause(ctx)) {
				t.Errorf("got %v, want why the context ended, and ErrNotWritten", err)
			}
			cancel()
		}
		must(t, b.Update(context.Background(), []string{third}, nil, appending("3"))) // nobody holds it
		close(release)
		must(t, <-ended)
		must(t, b.Update(context.Background(), []string{second, first}, nil, appending("4")))
		wantsValues(t, b, []string{first, second, third}, "14", "14", "3")
	})
}
