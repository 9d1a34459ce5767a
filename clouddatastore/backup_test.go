package clouddatastore_test

import (
	"bytes"
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
)

func TestMain(m *testing.M) { emulators.Main(m) }

const project = "testapp"

// A database is an emulator or a fake, and whether it compares versions.
type database struct {
	*emulators.Database
	fake            *fake // where there is no emulator
	ignoresVersions bool
}

func (d database) String() string {
	name := "fake"
	if d.fake == nil {
		name = d.Name
	}
	if d.ignoresVersions {
		name += ", versions ignored"
	}
	return name
}

// start returns the address of the database.
func (d database) start(t testing.TB) string {
	t.Helper()
	if d.fake != nil {
		return d.fake.start(t)
	}
	return emulators.Start(t, d.Database)
}

// databases are those that a test of all behaviour runs on.
func databases() []database {
	ds := []database{
		{fake: newFake()}, {fake: newFake(), ignoresVersions: true},
		{Database: emulators.Datastore, ignoresVersions: true}, {Database: emulators.Firestore, ignoresVersions: true},
	}
	for _, d := range emulators.All {
		ds = append(ds, database{Database: d})
	}
	return ds
}

func onEach(t *testing.T, f func(t *testing.T, d database)) {
	for _, d := range databases() {
		t.Run(d.String(), func(t *testing.T) { f(t, d) })
	}
}

func onEachThatComparesVersions(t *testing.T, f func(t *testing.T, d database)) {
	for _, d := range databases() {
		if !d.ignoresVersions {
			t.Run(d.String(), func(t *testing.T) { f(t, d) })
		}
	}
}

// open returns a Backup whose calls go through interceptors.
func open(t *testing.T, d database, o clouddatastore.Options, interceptors ...grpc.UnaryClientInterceptor) *clouddatastore.Backup {
	t.Helper()
	if d.ignoresVersions {
		interceptors = append(interceptors, ignoreVersions)
	}
	o.ClientOptions = append(slices.Clone(o.ClientOptions), option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(interceptors...)))
	return openAt(t, d.start(t), o)
}

func openAt(t *testing.T, address string, o clouddatastore.Options) *clouddatastore.Backup {
	t.Helper()
	t.Setenv("DATASTORE_EMULATOR_HOST", address)
	b, err := clouddatastore.New(context.Background(), project, &o)
	must(t, err)
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

// calls notes what is called, but for a probe.
type calls struct {
	mu    sync.Mutex
	names []string
}

func (c *calls) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	if !probes(req) {
		c.mu.Lock()
		c.names = append(c.names, path.Base(method))
		c.mu.Unlock()
	}
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

func (c *calls) want(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := c.since(); !slices.Equal(got, want) {
		t.Errorf("%s: got the calls %v, want %v", what, got, want)
	}
}

// before calls f before a call.
func before(f func(ctx context.Context, method string, req any) error) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
		if err := f(ctx, method, req); err != nil {
			return err
		}
		return invoke(ctx, method, req, reply, c, o...)
	}
}

// probes are calls of the probe.
func probes(req any) bool {
	commit, ok := req.(*pb.CommitRequest)
	return ok && slices.ContainsFunc(commit.Mutations, func(m *pb.Mutation) bool {
		return keyOf(m).Path[0].Kind == "gaesession_probe"
	})
}

func record(value string) tier.Record {
	return tier.Record{Value: []byte(value), Expires: time.Now().Add(time.Hour).Truncate(time.Microsecond)}
}

func newRecord(value string) *tier.Record {
	r := record(value)
	return &r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a record and returns what is there then.
func put(t *testing.T, b tier.Backup, id, value string) *tier.Record {
	t.Helper()
	must(t, b.Put(context.Background(), id, record(value)))
	return get(t, b, id)
}

func get(t *testing.T, b tier.Backup, id string) *tier.Record {
	t.Helper()
	r, err := b.Get(context.Background(), id)
	must(t, err)
	return r
}

// wantsRecord returns what is there; its token may be what it wants to be.
func wantsRecord(t *testing.T, b tier.Backup, id string, want tier.Record, when string) *tier.Record {
	t.Helper()
	got := get(t, b, id)
	if got == nil || !bytes.Equal(got.Value, want.Value) || !got.Expires.Equal(want.Expires) {
		t.Fatalf("%s: got %v, want %v", when, got, want)
	}
	return got
}

// wantsValues fails unless these are the records' values; "-": there is none.
func wantsValues(t *testing.T, b tier.Backup, ids []string, want ...string) {
	t.Helper()
	for i, id := range ids {
		got := "-"
		if r := get(t, b, id); r != nil {
			got = string(r.Value)
		}
		if got != want[i] {
			t.Errorf("record %d is %q, want %q", i, got, want[i])
		}
	}
}

type updateFunc = func([]*tier.Record) ([]*tier.Record, error)

// to replaces the records by these.
func to(records ...*tier.Record) updateFunc {
	return func([]*tier.Record) ([]*tier.Record, error) { return records, nil }
}

// one makes a function of one record one of several.
func one(f func(*tier.Record) (*tier.Record, error)) updateFunc {
	return func(current []*tier.Record) ([]*tier.Record, error) {
		r, err := f(current[0])
		return []*tier.Record{r}, err
	}
}

// appending appends to each value.
func appending(s string) updateFunc {
	return func(current []*tier.Record) (next []*tier.Record, err error) {
		for _, r := range current {
			if r == nil {
				next = append(next, newRecord(s))
			} else {
				next = append(next, newRecord(string(r.Value)+s))
			}
		}
		return next, nil
	}
}

func TestCallsOfEachOperation(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		var calls calls
		b := open(t, d, inNewNamespace(), calls.intercept)
		ctx := context.Background()
		id, other, none := newID(), newID(), newID()
		change := func(conditional ...string) []string {
			if d.ignoresVersions {
				return []string{"BeginTransaction", "Lookup", "Commit"}
			}
			return conditional
		}
		nothing := []string{"Lookup"}
		if d.ignoresVersions {
			nothing = []string{"BeginTransaction", "Lookup", "Rollback"}
		}

		r := record("first")
		must(t, b.Insert(ctx, id, r))
		calls.want(t, "insert", "Commit")
		must(t, b.Insert(ctx, id, r))
		calls.want(t, "the same insert again", "Commit", "Lookup")
		if err := b.Insert(ctx, id, record("other")); !errors.Is(err, tier.ErrExists) {
			t.Errorf("another insert: got %v, want ErrExists", err)
		}
		calls.want(t, "another insert", "Commit", "Lookup")
		must(t, b.Put(ctx, id, r))
		calls.want(t, "put", "Commit")
		stale := get(t, b, id)
		calls.want(t, "get", "Lookup")

		last := newRecord("second")
		must(t, b.Update(ctx, []string{id}, nil, to(last)))
		calls.want(t, "update without a guess", change("Lookup", "Commit")...)
		for range 3 {
			next := newRecord("next")
			must(t, b.Update(ctx, []string{id}, &tier.Guess{Token: last.Token, Next: next}, to(nil)))
			calls.want(t, "update with a guess that is right", change("Commit")...)
			last = next
		}
		must(t, b.Update(ctx, []string{id}, &tier.Guess{Token: stale.Token, Next: newRecord("wrong")}, to(newRecord("right"))))
		calls.want(t, "update with a guess that is wrong", change("Commit", "Lookup", "Commit")...)
		must(t, b.Update(ctx, []string{id}, &tier.Guess{Token: []byte("of another"), Next: newRecord("wrong")}, to(newRecord("right"))))
		calls.want(t, "update with another service's token", change("Lookup", "Commit")...)
		must(t, b.Update(ctx, []string{other}, &tier.Guess{Next: newRecord("new")}, to(nil)))
		calls.want(t, "update with the right guess that there is nothing", change("Commit")...)
		must(t, b.Update(ctx, []string{id, none, other}, nil, appending("+")))
		calls.want(t, "update of three records", change("Lookup", "Commit")...)
		must(t, b.Update(ctx, []string{id, other}, nil, to(nil, newRecord("one of two"))))
		calls.want(t, "update of two records that leaves one", change("Lookup", "Commit")...)
		must(t, b.Update(ctx, []string{id, other}, nil, to(nil, nil)))
		calls.want(t, "update that writes nothing", nothing...)
	})
}
