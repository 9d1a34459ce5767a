package clouddatastore_test

import (
	"context"
	"errors"
	"net"
	"testing"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/tier"
)

func TestAServiceThatCannotBeReachedIsUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close()) // nobody listens there
	for name, call := range operations(openAt(t, l.Addr().String(), clouddatastore.Options{}), newID()) {
		if err := call(context.Background()); !errors.Is(err, tier.ErrUnreachable) || status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v, want ErrUnreachable", name, err)
		}
	}
}

// noToken are credentials that cannot be fetched.
type noToken struct{}

func (noToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return nil, errors.New("the metadata server does not answer")
}
func (noToken) RequireTransportSecurity() bool { return false }

// The service has rejected nothing: nobody has asked it.
func TestACallWithoutAnAccessTokenIsNotRejected(t *testing.T) {
	o := inNewNamespace()
	o.ClientOptions = []option.ClientOption{option.WithGRPCDialOption(grpc.WithPerRPCCredentials(noToken{}))}
	b := openAt(t, newFake().start(t), o)
	for name, call := range operations(b, newID()) {
		if err := call(context.Background()); !errors.Is(err, tier.ErrUnreachable) || errors.Is(err, tier.ErrRejected) {
			t.Errorf("%s: got %v, want ErrUnreachable", name, err)
		}
	}
}

func TestACallThatAnInterceptorAnswersIsNotUnreachable(t *testing.T) {
	b := open(t, database{fake: newFake()}, inNewNamespace(), before(func(context.Context, string, any) error {
		return status.Error(codes.Unavailable, "made up")
	}))
	for name, call := range operations(b, newID()) {
		if err := call(context.Background()); status.Code(err) != codes.Unavailable || errors.Is(err, tier.ErrUnreachable) {
			t.Errorf("%s: got %v, want what the interceptor said, and not ErrUnreachable", name, err)
		}
	}
}

// dying is a database that ends when it has got a commit.
type dying struct {
	*fake
	server *grpc.Server
	dies   bool
}

func (d *dying) Commit(ctx context.Context, req *pb.CommitRequest) (*pb.CommitResponse, error) {
	if d.dies {
		go d.server.Stop()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return d.fake.Commit(ctx, req)
}

func TestACallThatWasSentMayHaveHadItsEffectAndOneThatWasNotHasNone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	d := &dying{fake: newFake(), server: grpc.NewServer()}
	pb.RegisterDatastoreServer(d.server, d)
	ended := make(chan error, 1)
	go func() { ended <- d.server.Serve(l) }()
	b := openAt(t, l.Addr().String(), inNewNamespace())
	guess := func() error {
		return b.Update(context.Background(), []string{newID()}, &tier.Guess{Next: newRecord("x")}, noCall(t))
	}
	must(t, guess())
	d.dies = true
	if err := guess(); status.Code(err) != codes.Unavailable || errors.Is(err, tier.ErrUnreachable) || errors.Is(err, tier.ErrNotWritten) {
		t.Errorf("the connection breaks in a commit: got %v, want an error that does not say that nothing was written", err)
	}
	must(t, <-ended)
	if err := guess(); !errors.Is(err, tier.ErrUnreachable) || !errors.Is(err, tier.ErrNotWritten) {
		t.Errorf("there is no connection: got %v, want ErrUnreachable and ErrNotWritten", err)
	}
}
