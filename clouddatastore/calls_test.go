package clouddatastore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/tier"
)

// server is a service that answers as a test wants, but for a probe, which finds
// that it compares versions.
type server struct {
	pb.UnimplementedDatastoreServer
	answer func(ctx context.Context, req any) (any, error)
	probed *fake
	calls  atomic.Int64 // without those of the probe
	routed atomic.Value // the routing header of the last call
}

func (s *server) do(ctx context.Context, req any) (any, error) {
	if probes(req) {
		return s.probed.Commit(ctx, req.(*pb.CommitRequest))
	}
	s.calls.Add(1)
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		s.routed.Store(strings.Join(md.Get("x-goog-request-params"), ","))
	}
	return s.answer(ctx, req)
}

func (s *server) Lookup(ctx context.Context, req *pb.LookupRequest) (*pb.LookupResponse, error) {
	res, err := s.do(ctx, req)
	r, _ := res.(*pb.LookupResponse)
	return r, err
}

func (s *server) Commit(ctx context.Context, req *pb.CommitRequest) (*pb.CommitResponse, error) {
	res, err := s.do(ctx, req)
	r, _ := res.(*pb.CommitResponse)
	return r, err
}

func (s *server) BeginTransaction(ctx context.Context, req *pb.BeginTransactionRequest) (*pb.BeginTransactionResponse, error) {
	res, err := s.do(ctx, req)
	r, _ := res.(*pb.BeginTransactionResponse)
	return r, err
}

func (s *server) Rollback(ctx context.Context, req *pb.RollbackRequest) (*pb.RollbackResponse, error) {
	res, err := s.do(ctx, req)
	r, _ := res.(*pb.RollbackResponse)
	return r, err
}

func (s *server) RunQuery(ctx context.Context, req *pb.RunQueryRequest) (*pb.RunQueryResponse, error) {
	res, err := s.do(ctx, req)
	r, _ := res.(*pb.RunQueryResponse)
	return r, err
}

// serve returns a Backup on a service that answers so.
func serve(t *testing.T, o clouddatastore.Options, answer func(ctx context.Context, req any) (any, error)) (*clouddatastore.Backup, *server) {
	t.Helper()
	s := &server{answer: answer, probed: newFake()}
	return openAt(t, listen(t, s), o), s
}

func fails(err error) func(context.Context, any) (any, error) {
	return func(context.Context, any) (any, error) { return nil, err }
}

// operations are all of them.
func operations(b *clouddatastore.Backup, id string) map[string]func(context.Context) error {
	r := record("new")
	known := append([]byte("cloud:"), 0, 0, 0, 0, 0, 0, 0, 7)
	return map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, err := b.Get(ctx, id); return err },
		"put":    func(ctx context.Context) error { return b.Put(ctx, id, r) },
		"insert": func(ctx context.Context) error { return b.Insert(ctx, id, r) },
		"update": func(ctx context.Context) error {
			return b.Update(ctx, []string{id}, nil, to(newRecord("new")))
		},
		"update of two": func(ctx context.Context) error {
			return b.Update(ctx, []string{newID(), id}, nil, to(newRecord("new"), newRecord("new")))
		},
		"update with a guess": func(ctx context.Context) error {
			return b.Update(ctx, []string{id}, &tier.Guess{Token: known, Next: newRecord("new")}, to(newRecord("new")))
		},
		"update with the guess that there is nothing": func(ctx context.Context) error {
			return b.Update(ctx, []string{id}, &tier.Guess{Next: newRecord("new")}, to(newRecord("new")))
		},
	}
}

func TestErrorsCarryTheirSentinelAndTheirCode(t *testing.T) {
	for code, want := range map[codes.Code]error{
		codes.Unavailable:        nil,
		codes.Internal:           nil,
		codes.ResourceExhausted:  nil,
		codes.Aborted:            tier.ErrContention,
		codes.PermissionDenied:   tier.ErrRejected,
		codes.Unauthenticated:    tier.ErrRejected,
		codes.NotFound:           tier.ErrRejected,
		codes.FailedPrecondition: tier.ErrRejected,
		codes.InvalidArgument:    tier.ErrRejected,
		codes.DeadlineExceeded:   context.DeadlineExceeded,
		codes.Canceled:           context.Canceled,
	} {
		b, _ := serve(t, clouddatastore.Options{}, fails(status.Error(code, "said the service")))
		for name, call := range operations(b, newID()) {
			err := call(context.Background())
			if status.Code(err) != code || !strings.Contains(err.Error(), "said the service") {
				t.Errorf("%s, %v: got %v, want the code and the message", name, code, err)
			}
			for _, sentinel := range []error{tier.ErrContention, tier.ErrRejected, tier.ErrTooLarge, tier.ErrExists, tier.ErrUnreachable, context.Canceled, context.DeadlineExceeded} {
				if got := errors.Is(err, sentinel); got != (sentinel == want) {
					t.Errorf("%s, %v: errors.Is %q is %t", name, code, sentinel, got)
				}
			}
		}
	}
	b, _ := serve(t, clouddatastore.Options{}, fails(status.Error(codes.InvalidArgument, `The value of property "val" is longer than 1048487 bytes.`)))
	for _, id := range []string{newID(), "an id because of which the message is withheld"} {
		if err := b.Put(context.Background(), id, record("x")); !errors.Is(err, tier.ErrTooLarge) || errors.Is(err, tier.ErrRejected) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
	}
}

func TestNoErrorNamesTheSession(t *testing.T) {
	ids := []string{newID(), "short", "with space", "ümlaut-of-some-length", "a/b+c==of-some-length", strings.Repeat("long", 100), strings.Repeat("é", 20)}
	for _, id := range ids {
		for _, message := range []string{
			"entity already exists: EntityRef{partitionRef=testapp, path=/sess_/" + id + "}",
			fmt.Sprintf("no entity to update: name: %q", id),
			fmt.Sprintf("no entity to update: name: %+q", id),
			"The key " + id[:min(len(id), 30)] + "... is bad",
			"key ending in " + id[max(0, len(id)-8):],
		} {
			for _, code := range []codes.Code{codes.AlreadyExists, codes.InvalidArgument, codes.Unavailable, codes.Aborted} {
				b, _ := serve(t, clouddatastore.Options{}, fails(status.Error(code, message)))
				for name, call := range operations(b, id) {
					err := call(context.Background())
					for e := err; e != nil; e = errors.Unwrap(e) {
						if strings.Contains(e.Error(), message) || strings.Contains(e.Error(), id) {
							t.Fatalf("%s: %q says %q", name, e, id)
						}
					}
				}
			}
		}
	}
}

func TestNoCallIsTriedAgainThatMayHaveHadItsEffect(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.ResourceExhausted} {
		b, s := serve(t, clouddatastore.Options{}, fails(status.Error(code, "said the service")))
		for name, call := range operations(b, newID()) {
			s.calls.Store(0)
			if err := call(context.Background()); status.Code(err) != code {
				t.Errorf("%s: got %v, want %v", name, err, code)
			}
			if got := s.calls.Load(); got != 1 {
				t.Errorf("%s: %d calls after %v, want 1", name, got, code)
			}
		}
	}
}

func TestAFailureBeforeTheCommitSaysThatNothingWasWritten(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		failing := ""
		b := open(t, d, inNewNamespace(), before(func(_ context.Context, _ string, req any) error {
			if !probes(req) && fmt.Sprintf("%T", req) == failing {
				return status.Error(codes.Unavailable, "out of order")
			}
			return nil
		}))
		ctx := context.Background()
		id, r := newID(), record("x")
		must(t, b.Update(ctx, []string{id}, nil, to(&r)))
		for call, want := range map[string]bool{"*datastorepb.LookupRequest": true, "*datastorepb.BeginTransactionRequest": true, "*datastorepb.CommitRequest": false} {
			failing = call
			err := b.Update(ctx, []string{id}, nil, to(&r))
			if err == nil && call == "*datastorepb.BeginTransactionRequest" {
				continue // no transaction is needed
			}
			if status.Code(err) != codes.Unavailable || errors.Is(err, tier.ErrNotWritten) != want {
				t.Errorf("%s fails: got %v, want the failure, and ErrNotWritten: %t", call, err, want)
			}
		}
	})
}

func TestCallsEndWithTheirContext(t *testing.T) {
	b, _ := serve(t, clouddatastore.Options{}, func(ctx context.Context, _ any) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for name, call := range operations(b, newID()) {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		began := time.Now()
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want the deadline", name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: ended %v after it began", name, took)
		}
		cancel()
	}
}

func TestADeferredLookupIsNoMissingRecord(t *testing.T) {
	b, _ := serve(t, clouddatastore.Options{}, func(_ context.Context, req any) (any, error) {
		return &pb.LookupResponse{Deferred: req.(*pb.LookupRequest).Keys}, nil
	})
	if r, err := b.Get(context.Background(), newID()); err == nil {
		t.Errorf("got %v, want an error", r)
	}
}

func TestAnEntityOfAnotherFormIsRejected(t *testing.T) {
	for name, properties := range map[string]map[string]*pb.Value{
		"none":          nil,
		"no time":       {"val": {ValueType: &pb.Value_BlobValue{}}},
		"text":          {"val": {ValueType: &pb.Value_StringValue{}}, "exp": {ValueType: &pb.Value_TimestampValue{}}},
		"a number":      {"val": {ValueType: &pb.Value_BlobValue{}}, "exp": {ValueType: &pb.Value_IntegerValue{}}},
		"no properties": {},
	} {
		b, _ := serve(t, clouddatastore.Options{}, func(_ context.Context, req any) (any, error) {
			return &pb.LookupResponse{Found: []*pb.EntityResult{{
				Entity: &pb.Entity{Key: req.(*pb.LookupRequest).Keys[0], Properties: properties}, Version: 1,
			}}}, nil
		})
		if r, err := b.Get(context.Background(), newID()); !errors.Is(err, tier.ErrRejected) {
			t.Errorf("%s: got %v, %v, want ErrRejected", name, r, err)
		}
	}
}

func TestCallsNameTheDatabase(t *testing.T) {
	for database, want := range map[string]string{"": "project_id=testapp", "other": "project_id=testapp&database_id=other"} {
		var got []string
		b, s := serve(t, clouddatastore.Options{Database: database, Namespace: "ns"}, func(_ context.Context, req any) (any, error) {
			if r, ok := req.(interface {
				GetDatabaseId() string
				GetProjectId() string
			}); ok {
				got = append(got, r.GetProjectId()+"/"+r.GetDatabaseId())
			}
			switch req := req.(type) {
			case *pb.CommitRequest:
				res := &pb.CommitResponse{}
				for _, m := range req.Mutations {
					if p := keyOf(m).PartitionId; p.ProjectId != project || p.DatabaseId != database || p.NamespaceId != "ns" {
						t.Errorf("a key in %v", p)
					}
					res.MutationResults = append(res.MutationResults, &pb.MutationResult{Version: 1})
				}
				return res, nil
			case *pb.LookupRequest:
				return &pb.LookupResponse{Missing: make([]*pb.EntityResult, len(req.Keys))}, nil
			case *pb.BeginTransactionRequest:
				return &pb.BeginTransactionResponse{Transaction: []byte("tx")}, nil
			case *pb.RunQueryRequest:
				return &pb.RunQueryResponse{Batch: &pb.QueryResultBatch{MoreResults: pb.QueryResultBatch_NO_MORE_RESULTS}}, nil
			}
			return &pb.RollbackResponse{}, nil
		})
		for name, call := range operations(b, newID()) {
			if err := call(context.Background()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		must(t, b.Update(context.Background(), []string{newID()}, nil, to(nil)))
		_, err := b.Purge(context.Background())
		must(t, err)
		if routed := s.routed.Load(); routed != want {
			t.Errorf("got the header %q, want %q", routed, want)
		}
		for _, name := range got {
			if name != project+"/"+database {
				t.Errorf("a call to %q", name)
			}
		}
	}
}

func TestWhichIDsAreTaken(t *testing.T) {
	onEachThatComparesVersions(t, func(t *testing.T, d database) {
		o := inNewNamespace()
		bare := open(t, d, o)
		o.Prefix = "session."
		prefixed := open(t, d, o)
		ctx := context.Background()
		for name, test := range map[string]struct {
			id             string
			bare, prefixed bool
		}{
			"as usual":       {newID(), true, true},
			"empty":          {"", false, false},
			"reserved":       {"__x__", true, true},
			"four _":         {"____", true, true},
			"three _":        {"___", true, true},
			"escaped":        {"__x__.", false, true},
			"almost escaped": {"_x__.", true, true},
			"longest":        {strings.Repeat("x", 1500), true, false},
			"with prefix":    {strings.Repeat("x", 1492), true, true},
			"too long":       {strings.Repeat("x", 1501), false, false},
			"not UTF-8":      {"x\xff", false, false},
			"with NUL":       {"x\x00", false, false},
			"with a newline": {"x\n", true, true},
		} {
			for b, want := range map[*clouddatastore.Backup]bool{bare: test.bare, prefixed: test.prefixed} {
				if got := b.ValidID(test.id); got != want {
					t.Errorf("%s: got %t, want %t", name, got, want)
				}
				r := record(name)
				for operation, call := range operations(b, test.id) {
					err := call(ctx)
					if want && err != nil && !errors.Is(err, tier.ErrExists) || !want && !errors.Is(err, tier.ErrRejected) {
						t.Errorf("%s of an id that is %s: got %v", operation, name, err)
					}
				}
				if want {
					must(t, b.Put(ctx, test.id, r))
					wantsRecord(t, b, test.id, r, name)
				}
			}
		}
	})
}

func TestNewWithoutAProject(t *testing.T) {
	t.Setenv("DATASTORE_EMULATOR_HOST", "127.0.0.1:1")
	t.Setenv("DATASTORE_PROJECT_ID", "")
	t.Setenv("GOOGLE_CLOUD_PROJECT", "")
	if _, err := clouddatastore.New(context.Background(), "", nil); err == nil {
		t.Error("got no error, want one that says what to do")
	}
	t.Setenv("GOOGLE_CLOUD_PROJECT", project)
	b, err := clouddatastore.New(context.Background(), "", nil)
	must(t, err)
	must(t, b.Close())
}

func TestABackupOutlivesTheContextItWasMadeWith(t *testing.T) {
	t.Setenv("DATASTORE_EMULATOR_HOST", emulators.Start(t, emulators.Datastore))
	ctx, cancel := context.WithCancel(context.Background())
	o := inNewNamespace()
	b, err := clouddatastore.New(ctx, project, &o)
	must(t, err)
	cancel()
	must(t, b.Put(context.Background(), newID(), record("x")))
	must(t, b.Close())
	if err := b.Put(context.Background(), newID(), record("x")); err == nil {
		t.Error("got no error after Close")
	}
}

// Two Backups are two instances: they know nothing of each other's updates.
func TestTransactionsOfTwoInstances(t *testing.T) {
	for _, d := range databases() {
		if !d.ignoresVersions {
			continue
		}
		t.Run(d.String(), func(t *testing.T) {
			o := inNewNamespace()
			instances := []*clouddatastore.Backup{open(t, d, o), open(t, d, o)}
			id := newID()
			const each = 3
			var all sync.WaitGroup
			for _, b := range instances {
				all.Add(1)
				go func() {
					defer all.Done()
					for n := 0; n < each; {
						switch err := b.Update(context.Background(), []string{id}, nil, appending("x")); {
						case err == nil:
							n++
						case !errors.Is(err, tier.ErrContention):
							t.Error(err)
							return
						}
					}
				}()
			}
			all.Wait()
			r, err := instances[0].Get(context.Background(), id)
			must(t, err)
			if len(r.Value) != each*len(instances) {
				t.Errorf("got %q, want %d updates", r.Value, each*len(instances))
			}
		})
	}
}

func TestATransactionThatTheServiceHasEndedIsMadeAgain(t *testing.T) {
	for _, d := range databases() {
		if !d.ignoresVersions {
			continue
		}
		t.Run(d.String(), func(t *testing.T) {
			for _, id := range []string{newID(), "an id because of which the message is withheld"} {
				service, ends := stub(t, d), 0
				b := open(t, d, inNewNamespace(), before(func(ctx context.Context, _ string, req any) error {
					if commit, ok := req.(*pb.CommitRequest); ok && commit.GetTransaction() != nil && ends < 2 {
						ends++
						_, err := service.Rollback(ctx, &pb.RollbackRequest{ProjectId: project, Transaction: commit.GetTransaction()})
						return err
					}
					return nil
				}))
				ids := []string{id, newID()}
				put(t, b, id, "x")
				must(t, b.Update(context.Background(), ids, nil, appending("+")))
				wantsValues(t, b, ids, "x+", "+")
				if ends != 2 {
					t.Errorf("%d transactions were ended, want 2", ends)
				}
			}
		})
	}
}

func TestAnInsertThatWasMadeBeforeMayHaveHadMoreThanMicroseconds(t *testing.T) {
	onEachEmulator(t, func(t *testing.T, d database) {
		b := open(t, d, inNewNamespace())
		id, r := newID(), record("x")
		r.Expires = r.Expires.Add(789 * time.Nanosecond)
		for range 2 {
			must(t, b.Insert(context.Background(), id, r))
		}
		r.Expires = r.Expires.Add(time.Microsecond)
		if err := b.Insert(context.Background(), id, r); !errors.Is(err, tier.ErrExists) {
			t.Errorf("got %v for another end, want ErrExists", err)
		}
	})
}
