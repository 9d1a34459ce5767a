package clouddatastore_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/tier"
)

// probeCalls are the calls of a probe of a database that compares versions, the
// last of them being the deletion.
const probeCalls = 6

func TestTheDatabaseIsProbedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		var count atomic.Int64
		o := inNewNamespace()
		b := open(t, d, o, before(func(_ context.Context, _ string, req any) error {
			if probes(req) {
				count.Add(1)
			}
			return nil
		}))
		ctx := context.Background()
		must(t, b.Put(ctx, newID(), record("x")))
		get(t, b, newID())
		if n := count.Load(); n != 0 {
			t.Errorf("%d calls before the first update, want none", n)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := b.Update(ctx, []string{newID()}, nil, to(newRecord("x"))); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		want := int64(probeCalls)
		if d.ignoresVersions {
			want = 4 // until a commit is made that must not be
		}
		if n := count.Load(); n != want {
			t.Errorf("%d calls of probes, want the %d of one", n, want)
		}
		if left := entities(t, d, o.Namespace, "gaesession_probe"); left != 0 {
			t.Errorf("%d entities of the probe are left", left)
		}
	})
}

// failing answers an error to the calls of the first probe that are in a set.
func failing(code codes.Code, nth ...int) grpc.UnaryClientInterceptor {
	calls := 0
	return before(func(_ context.Context, _ string, req any) error {
		if probes(req) && !deletes(req) {
			if calls++; slices.Contains(nth, calls) {
				return status.Error(code, "too much contention on these datastore entities")
			}
		}
		return nil
	})
}

// No failure of a call is taken for a sign that the database compares versions,
// or that it does not: neither would be found out to be wrong.
func TestAProbeThatFailsIsRepeatedByTheNextUpdate(t *testing.T) {
	for _, ignores := range []bool{false, true} {
		for _, code := range []codes.Code{codes.Unavailable, codes.Aborted, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.DeadlineExceeded} {
			last := probeCalls - 1
			if ignores {
				last = 3
			}
			for nth := 1; nth <= last; nth++ {
				var calls calls
				b := open(t, database{fake: newFake(), ignoresVersions: ignores}, inNewNamespace(), calls.intercept, failing(code, nth))
				ctx, id := context.Background(), newID()
				if err := b.Update(ctx, []string{id}, nil, noCall(t)); status.Code(err) != code || !errors.Is(err, tier.ErrNotWritten) {
					t.Errorf("call %d: got %v, want its %v, and ErrNotWritten", nth, err, code)
				}
				calls.since()
				must(t, b.Update(ctx, []string{id}, nil, appending("+")))
				if began := slices.Contains(calls.since(), "BeginTransaction"); began != ignores {
					t.Errorf("call %d fails with %v: transactions: %t, want %t", nth, code, began, ignores)
				}
				wantsValues(t, b, []string{id}, "+")
			}
		}
	}
}

// Whichever commits of a probe are aborted, a database that ignores versions does
// not pass for one that compares them: that would lose updates.
func TestNoUpdateIsLostAfterContentionInTheProbe(t *testing.T) {
	for set := range 1 << (probeCalls - 1) {
		var aborted []int
		for n := range probeCalls - 1 {
			if set>>n&1 == 1 {
				aborted = append(aborted, n+1)
			}
		}
		d, o, id := database{fake: newFake(), ignoresVersions: true}, inNewNamespace(), newID()
		b, rival := open(t, d, o, failing(codes.Aborted, aborted...)), open(t, d, o)
		for range probeCalls { // one of them finds out what the database does
			put(t, rival, id, "")
			calls := 0
			err := b.Update(context.Background(), []string{id}, nil, func(current []*tier.Record) ([]*tier.Record, error) {
				if calls++; calls == 1 {
					must(t, rival.Update(context.Background(), []string{id}, nil, appending("rival's")))
				}
				return appending("+")(current)
			})
			if err == nil {
				wantsValues(t, rival, []string{id}, "rival's+")
			}
		}
	}
}

// partly makes commits of several mutations what they are outside a transaction.
func partly(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	if commit, ok := req.(*pb.CommitRequest); ok && commit.GetSingleUseTransaction() != nil {
		commit.Mode, commit.TransactionSelector = pb.CommitRequest_NON_TRANSACTIONAL, nil
	}
	return invoke(ctx, method, req, reply, c, o...)
}

// refusing makes a database one that does not know such commits.
func refusing(code codes.Code) grpc.UnaryClientInterceptor {
	return before(func(_ context.Context, _ string, req any) error {
		if commit, ok := req.(*pb.CommitRequest); ok && commit.GetSingleUseTransaction() != nil {
			return status.Error(code, "unknown field")
		}
		return nil
	})
}

// tellingNoVersion makes a database one that returns no versions.
func tellingNoVersion(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, c, o...)
	switch res := reply.(type) {
	case *pb.CommitResponse:
		for _, m := range res.MutationResults {
			m.Version = 0
		}
	case *pb.LookupResponse:
		for _, e := range res.Found {
			e.Version = 0
		}
	}
	return err
}

func TestADatabaseThatDoesNotMakeSuchCommitsHasTransactions(t *testing.T) {
	for name, as := range map[string]grpc.UnaryClientInterceptor{
		"some of several mutations are made": partly,
		"single-use transactions are new":    refusing(codes.InvalidArgument),
		"they are not implemented":           refusing(codes.Unimplemented),
		"versions are ignored":               ignoreVersions,
		"versions are not told":              tellingNoVersion,
	} {
		t.Run(name, func(t *testing.T) {
			onEachThatComparesVersions(t, func(t *testing.T, d database) {
				var calls calls
				b, ids := open(t, d, inNewNamespace(), calls.intercept, as), []string{newID(), newID()}
				must(t, b.Update(context.Background(), ids, nil, appending("+")))
				calls.want(t, name, "BeginTransaction", "Lookup", "Commit")
				wantsValues(t, b, ids, "+", "+")
			})
		})
	}
}

func TestNoGuessIsRightWhereVersionsAreNotTold(t *testing.T) {
	b, id := open(t, database{fake: newFake()}, inNewNamespace(), tellingNoVersion), newID()
	token := put(t, b, id, "there").Token
	must(t, b.Update(context.Background(), []string{id}, &tier.Guess{Token: token, Next: newRecord("guessed")}, appending("+")))
	wantsValues(t, b, []string{id}, "there+")
}

func TestWhoWaitsForTheProbeKeepsToItsContext(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b := open(t, database{fake: newFake()}, inNewNamespace(), before(func(_ context.Context, _ string, req any) error {
		if probes(req) {
			once.Do(func() {
				close(arrived)
				<-release
			})
		}
		return nil
	}))
	first := make(chan error)
	go func() {
		first <- b.Update(context.Background(), []string{newID()}, nil, to(newRecord("x")))
	}()
	<-arrived
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := b.Update(ctx, []string{newID()}, nil, to(nil)); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, tier.ErrNotWritten) {
		t.Errorf("got %v, want the deadline, and ErrNotWritten", err)
	}
	close(release)
	must(t, <-first)
}
