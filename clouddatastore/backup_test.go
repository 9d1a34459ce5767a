package clouddatastore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestMain(m *testing.M) { emulators.Main(m) }

const project = "testapp"

// A database is an emulator, and whether it compares versions.
type database struct {
	*emulators.Database
	ignoresVersions bool
}

func (d database) String() string {
	if d.ignoresVersions {
		return d.Name + ", versions ignored"
	}
	return d.Name
}

// databases are those that a test of all behaviour runs on.
func databases() []database {
	ds := []database{{emulators.Datastore, true}, {emulators.Firestore, true}}
	for _, d := range emulators.All {
		ds = append(ds, database{d, false})
	}
	return ds
}

func onEach(t *testing.T, f func(t *testing.T, d database)) {
	for _, d := range databases() {
		t.Run(d.String(), func(t *testing.T) { f(t, d) })
	}
}

// open returns a Backup whose calls go through interceptors.
func open(t *testing.T, d database, o clouddatastore.Options, interceptors ...grpc.UnaryClientInterceptor) *clouddatastore.Backup {
	t.Helper()
	t.Setenv("DATASTORE_EMULATOR_HOST", emulators.Start(t, d.Database))
	if d.ignoresVersions {
		interceptors = append(interceptors, ignoreVersions)
	}
	o.ClientOptions = append(slices.Clone(o.ClientOptions), option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(interceptors...)))
	b, err := clouddatastore.New(context.Background(), project, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// inNewNamespace keeps tests apart that share an emulator.
func inNewNamespace() clouddatastore.Options {
	return clouddatastore.Options{Namespace: newNamespace()}
}

func newNamespace() string { return fmt.Sprintf("ns%016x", rand.Uint64()) }
func newID() string        { return fmt.Sprintf("id%016x%016x", rand.Uint64(), rand.Uint64()) }

// ignoreVersions makes a database one that knows nothing of conditional commits.
func ignoreVersions(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	if commit, ok := req.(*pb.CommitRequest); ok {
		for _, m := range commit.Mutations {
			m.ConflictDetectionStrategy, m.ConflictResolutionStrategy = nil, 0
		}
	}
	return invoke(ctx, method, req, reply, c, o...)
}

// calls notes what is called.
type calls struct {
	mu    sync.Mutex
	names []string
}

func (c *calls) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	c.mu.Lock()
	c.names = append(c.names, path.Base(method))
	c.mu.Unlock()
	return invoke(ctx, method, req, reply, conn, o...)
}

// since returns the calls since it was called last.
func (c *calls) since() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := c.names
	c.names = nil
	return names
}

func TestBackup(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b := open(t, d, inNewNamespace())
		tiertest.TestBackup(t, func(*testing.T) tier.Backup { return b })
	})
}

func record(value string) tier.Record {
	return tier.Record{Value: []byte(value), Expires: time.Now().Add(time.Hour).Truncate(time.Microsecond)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func to(r *tier.Record) func(*tier.Record) (*tier.Record, error) {
	return func(*tier.Record) (*tier.Record, error) { return r, nil }
}

func TestCallsOfEachOperation(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		var calls calls
		b := open(t, d, inNewNamespace(), calls.intercept)
		ctx := context.Background()
		id := newID()
		wants := func(what string, want ...string) {
			t.Helper()
			if got := calls.since(); !slices.Equal(got, want) {
				t.Errorf("%s: got the calls %v, want %v", what, got, want)
			}
		}
		change := func(conditional ...string) []string {
			if d.ignoresVersions {
				return []string{"BeginTransaction", "Lookup", "Commit"}
			}
			return conditional
		}

		r := record("first")
		must(t, b.Insert(ctx, id, r))
		wants("insert", "Commit")
		must(t, b.Insert(ctx, id, r))
		wants("the same insert again", "Commit", "Lookup")
		if err := b.Insert(ctx, id, record("other")); !errors.Is(err, tier.ErrExists) {
			t.Errorf("another insert: got %v, want ErrExists", err)
		}
		wants("another insert", "Commit", "Lookup")
		must(t, b.Put(ctx, id, r))
		wants("put", "Commit")
		if _, err := b.Get(ctx, id); err != nil {
			t.Fatal(err)
		}
		wants("get", "Lookup")

		r = record("second")
		must(t, b.Update(ctx, id, nil, to(&r)))
		if got := calls.since(); !slices.Equal(got[len(got)-len(change("Lookup", "Commit")):], change("Lookup", "Commit")) {
			t.Errorf("the first update: got the calls %v", got)
		}
		stale := r
		for range 3 {
			known := r
			r = record("next")
			must(t, b.Update(ctx, id, &known, to(&r)))
			wants("update of what is known", change("Commit")...)
		}
		third := record("third")
		must(t, b.Update(ctx, id, nil, to(&third)))
		wants("update of what is not known", change("Lookup", "Commit")...)
		fourth := record("fourth")
		must(t, b.Update(ctx, id, &stale, to(&fourth)))
		wants("update of what was known wrongly", change("Commit", "Lookup", "Commit")...)
		fifth := record("fifth")
		must(t, b.Update(ctx, newID(), nil, to(&fifth)))
		wants("update of nothing", change("Lookup", "Commit")...)
		must(t, b.Update(ctx, id, &fourth, to(nil)))
		if d.ignoresVersions {
			wants("update that writes nothing", "BeginTransaction", "Lookup", "Rollback")
		} else {
			wants("update that writes nothing", "Lookup")
		}
	})
}
