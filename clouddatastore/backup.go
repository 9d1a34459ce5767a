package clouddatastore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/api/option"
	transport "google.golang.org/api/transport/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/tier"
)

const (
	endpoint = "datastore.googleapis.com:443"
	scope    = "https://www.googleapis.com/auth/datastore"

	// callTime is what one call may take.
	callTime = 30 * time.Second
)

// Options says where a Backup keeps its records. The defaults are those of
// gaesession; cascadestore has Kind "Session", Prefix "session." unless the app
// has set another one, Value "Value" and Expires "ExpiresAt".
type Options struct {
	Database  string // default: the project's default database
	Namespace string // default: the default namespace
	Kind      string // of the entities; default "sess_"
	Prefix    string // of the key names, before the session's id; default none
	Value     string // property with the session's bytes; default "val"
	Expires   string // property with the session's end; default "exp"

	// ClientOptions are added to those that the connection is made with.
	ClientOptions []option.ClientOption
}

// Backup is a [tier.Backup] on the Cloud Datastore API. Its methods may be
// called by several goroutines at once.
type Backup struct {
	options Options
	project string
	routing string // the header by which Google finds the database
	conn    transport.ConnPool
	// Google's client library, cloud.google.com/go/datastore, can do neither a
	// commit conditional on a version nor a commit that is not tried again when
	// it may have been applied. So this is its generated stub.
	client pb.DatastoreClient

	conditional atomic.Pointer[bool] // whether the database compares versions; nil: not known yet
	probing     chan struct{}        // held by the update that finds out

	// Transactions on one record queue here. In a database that locks what was
	// read, two that overlap wait for each other until one is aborted, in
	// Google's emulator for two seconds.
	queues [64]chan struct{}
}

// New returns a Backup in a project's database. An empty project is that of
// DATASTORE_PROJECT_ID or GOOGLE_CLOUD_PROJECT in the environment. With
// DATASTORE_EMULATOR_HOST in the environment the database is that emulator's.
// New itself makes no call.
func New(ctx context.Context, project string, o *Options) (*Backup, error) {
	if o == nil {
		o = &Options{}
	}
	b := &Backup{
		project: cmp.Or(project, os.Getenv("DATASTORE_PROJECT_ID"), os.Getenv("GOOGLE_CLOUD_PROJECT")),
		options: *o,
		probing: make(chan struct{}, 1),
	}
	for i := range b.queues {
		b.queues[i] = make(chan struct{}, 1)
	}
	if b.project == "" {
		return nil, errors.New("clouddatastore: no project: give it to New, or set GOOGLE_CLOUD_PROJECT")
	}
	b.options.Kind = cmp.Or(o.Kind, "sess_")
	b.options.Value = cmp.Or(o.Value, "val")
	b.options.Expires = cmp.Or(o.Expires, "exp")
	b.routing = "project_id=" + url.QueryEscape(b.project)
	if o.Database != "" {
		b.routing += "&database_id=" + url.QueryEscape(o.Database)
	}
	var err error
	// The credentials keep the context and fetch access tokens with it later.
	b.conn, err = transport.DialPool(context.WithoutCancel(ctx), slices.Concat(everyConnection(), connection(), o.ClientOptions)...)
	if err != nil {
		return nil, fmt.Errorf("clouddatastore: %w", err)
	}
	b.client = pb.NewDatastoreClient(b.conn)
	return b, nil
}

func everyConnection() []option.ClientOption {
	return []option.ClientOption{
		option.WithGRPCDialOption(grpc.WithStatsHandler(watcher{})),
		// gRPC refuses answers of more than 4 MiB by default: four large records.
		option.WithGRPCDialOption(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32))),
	}
}

func connection() []option.ClientOption {
	if host := os.Getenv("DATASTORE_EMULATOR_HOST"); host != "" {
		return []option.ClientOption{
			option.WithEndpoint("passthrough:///" + strings.TrimPrefix(host, "http://")),
			option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		}
	}
	return []option.ClientOption{
		option.WithEndpoint(endpoint),
		option.WithScopes(scope),
		// An instance that slept does not know that its connection has died.
		option.WithGRPCDialOption(grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: time.Minute, Timeout: 20 * time.Second, PermitWithoutStream: true,
		})),
	}
}

// Close ends the connection. Calls under way fail.
func (b *Backup) Close() error { return b.conn.Close() }

// Get implements [tier.Backup] with one call.
func (b *Backup) Get(ctx context.Context, id string) (*tier.Record, error) {
	if !b.ValidID(id) {
		return nil, errInvalidID
	}
	records, err := b.lookup(ctx, []string{id}, strong)
	if err != nil {
		return nil, err
	}
	return records[0], nil
}

var strong = &pb.ReadOptions{
	ConsistencyType: &pb.ReadOptions_ReadConsistency_{ReadConsistency: pb.ReadOptions_STRONG},
}

// lookup returns the records in the order of ids; nil where there is none. It
// makes one call, and others only if the service defers some of the keys.
func (b *Backup) lookup(ctx context.Context, ids []string, o *pb.ReadOptions) ([]*tier.Record, error) {
	var (
		records = make([]*tier.Record, len(ids))
		place   = make(map[string]int, len(ids)) // by the key's name
		keys    []*pb.Key
	)
	for i, id := range ids {
		place[b.name(id)] = i
		keys = append(keys, b.key(id))
	}
	for len(keys) > 0 {
		res, err := call(ctx, b, "lookup", ids, b.client.Lookup, &pb.LookupRequest{
			ProjectId: b.project, DatabaseId: b.options.Database, Keys: keys, ReadOptions: o,
		})
		if err != nil {
			return nil, err
		}
		for _, found := range res.Found {
			i, asked := place[nameOf(found.GetEntity().GetKey())]
			if !asked {
				return nil, errors.New("clouddatastore: lookup: the service answers with another entity")
			}
			if records[i], err = b.record(found); err != nil {
				return nil, err
			}
		}
		if len(res.Found)+len(res.Missing) == 0 || len(res.Found)+len(res.Missing)+len(res.Deferred) != len(keys) {
			return nil, errors.New("clouddatastore: lookup: the service leaves out an entity")
		}
		keys = res.Deferred
	}
	return records, nil
}

// Put implements [tier.Backup] with one call.
func (b *Backup) Put(ctx context.Context, id string, r tier.Record) error {
	if err := b.check(id, &r); err != nil {
		return err
	}
	_, err := b.commit(ctx, "put", []string{id}, nil, &pb.Mutation{Operation: &pb.Mutation_Upsert{Upsert: b.entity(id, &r)}})
	return err
}

// Insert implements [tier.Backup] with one call, or two where there is a record
// already. If that record is equal to r, Insert takes it for its own of an
// earlier attempt and returns nil.
func (b *Backup) Insert(ctx context.Context, id string, r tier.Record) error {
	if err := b.check(id, &r); err != nil {
		return err
	}
	_, err := b.commit(ctx, "insert", []string{id}, nil, inserting(b.entity(id, &r)))
	if status.Code(err) != codes.AlreadyExists {
		return err
	}
	there, err := b.Get(ctx, id)
	if err != nil {
		return err
	}
	if !same(there, &r) {
		return fmt.Errorf("clouddatastore: insert: %w", tier.ErrExists)
	}
	return nil
}

// check reports why the service does not take a record.
func (b *Backup) check(id string, r *tier.Record) error {
	if !b.ValidID(id) {
		return errInvalidID
	}
	if len(r.Value) > b.MaxValue(id) {
		return fmt.Errorf("clouddatastore: %d bytes: %w", len(r.Value), tier.ErrTooLarge)
	}
	return nil
}

// commit makes all mutations or none, with one call, and returns a result for
// each. It ends the transaction if there is one. Where the database finds a
// conflict the error has the code FailedPrecondition.
func (b *Backup) commit(ctx context.Context, what string, ids []string, transaction []byte, mutations ...*pb.Mutation) ([]*pb.MutationResult, error) {
	req := &pb.CommitRequest{
		ProjectId: b.project, DatabaseId: b.options.Database,
		Mode: pb.CommitRequest_NON_TRANSACTIONAL, Mutations: mutations,
	}
	switch {
	case transaction != nil:
		req.Mode = pb.CommitRequest_TRANSACTIONAL
		req.TransactionSelector = &pb.CommitRequest_Transaction{Transaction: transaction}
	case len(mutations) > 1: // which are not atomic without a transaction
		req.Mode = pb.CommitRequest_TRANSACTIONAL
		req.TransactionSelector = &pb.CommitRequest_SingleUseTransaction{SingleUseTransaction: &pb.TransactionOptions{
			Mode: &pb.TransactionOptions_ReadWrite_{ReadWrite: &pb.TransactionOptions_ReadWrite{}},
		}}
	}
	res, err := call(ctx, b, what, ids, b.client.Commit, req)
	if err != nil {
		return nil, err
	}
	if len(res.MutationResults) != len(mutations) {
		return nil, fmt.Errorf("clouddatastore: %s: %d results of %d mutations", what, len(res.MutationResults), len(mutations))
	}
	if slices.ContainsFunc(res.MutationResults, (*pb.MutationResult).GetConflictDetected) {
		return nil, describe(what, ids, true, status.Error(codes.FailedPrecondition, "another version is there"))
	}
	return res.MutationResults, nil
}

// call makes one call, once: the connection has no policy to try again.
func call[Request, Response any](ctx context.Context, b *Backup, what string, ids []string,
	method func(context.Context, Request, ...grpc.CallOption) (Response, error), req Request) (Response, error) {
	var p progress
	ctx = context.WithValue(metadata.AppendToOutgoingContext(ctx, "x-goog-request-params", b.routing), progressKey{}, &p)
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	res, err := method(ctx, req)
	return res, describe(what, ids, p.sent.Load() || !p.begun.Load(), err)
}

// progress tells how far gRPC got with a call. An interceptor may answer one that
// gRPC has never begun.
type progress struct{ begun, sent atomic.Bool }

type progressKey struct{}

// A watcher notes the progress of calls in their contexts.
type watcher struct{}

func (watcher) HandleRPC(ctx context.Context, s stats.RPCStats) {
	p, ok := ctx.Value(progressKey{}).(*progress)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.Begin:
		p.begun.Store(true)
	case *stats.OutHeader:
		p.sent.Store(true)
	}
}

func (watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (watcher) HandleConn(context.Context, stats.ConnStats)                       {}
