package clouddatastore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"os"
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

	conditional atomic.Pointer[bool] // nil: not known yet
	probing     chan struct{}        // held by who finds it out

	// Transactions of one session queue up here. In a database that locks what
	// was read, two that overlap wait for each other until one is aborted, in
	// Google's emulator for two seconds.
	queues [64]chan struct{}
	seed   maphash.Seed
}

// New returns a Backup in a project's database. An empty project is that of
// DATASTORE_PROJECT_ID or GOOGLE_CLOUD_PROJECT in the environment. With
// DATASTORE_EMULATOR_HOST in the environment the database is that emulator's.
// No call is made before the first one is needed.
func New(ctx context.Context, project string, o *Options) (*Backup, error) {
	if o == nil {
		o = &Options{}
	}
	b := &Backup{
		project: cmp.Or(project, os.Getenv("DATASTORE_PROJECT_ID"), os.Getenv("GOOGLE_CLOUD_PROJECT")),
		options: *o,
		probing: make(chan struct{}, 1),
		seed:    maphash.MakeSeed(),
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
	// What fetches tokens keeps the context for as long as there is the Backup.
	b.conn, err = transport.DialPool(context.WithoutCancel(ctx), append(connection(), o.ClientOptions...)...)
	if err != nil {
		return nil, fmt.Errorf("clouddatastore: %w", err)
	}
	b.client = pb.NewDatastoreClient(b.conn)
	return b, nil
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
	return b.lookup(ctx, id, &pb.ReadOptions{
		ConsistencyType: &pb.ReadOptions_ReadConsistency_{ReadConsistency: pb.ReadOptions_STRONG},
	})
}

func (b *Backup) lookup(ctx context.Context, id string, o *pb.ReadOptions) (*tier.Record, error) {
	if !b.ValidID(id) {
		return nil, errInvalidID
	}
	res, err := call(ctx, b, "lookup", id, b.client.Lookup, &pb.LookupRequest{
		ProjectId: b.project, DatabaseId: b.options.Database,
		Keys: []*pb.Key{b.key(id)}, ReadOptions: o,
	})
	switch {
	case err != nil:
		return nil, err
	case len(res.Found) == 1:
		return b.record(res.Found[0])
	case len(res.Missing) == 1:
		return nil, nil
	}
	return nil, errors.New("clouddatastore: lookup: deferred by the service")
}

// Put implements [tier.Backup] with one call.
func (b *Backup) Put(ctx context.Context, id string, r tier.Record) error {
	if err := b.check(id, &r); err != nil {
		return err
	}
	_, err := b.commit(ctx, "put", id, &pb.Mutation{Operation: &pb.Mutation_Upsert{Upsert: b.entity(id, &r)}}, nil)
	return err
}

// Insert implements [tier.Backup]: with one call, or two where there is a record
// already. When that one is equal it was an earlier attempt's, and is taken for
// this one's.
func (b *Backup) Insert(ctx context.Context, id string, r tier.Record) error {
	if err := b.check(id, &r); err != nil {
		return err
	}
	_, err := b.commit(ctx, "insert", id, &pb.Mutation{Operation: &pb.Mutation_Insert{Insert: b.entity(id, &r)}}, nil)
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
	if !b.Fits(id, len(r.Value)) {
		return fmt.Errorf("clouddatastore: %d bytes: %w", len(r.Value), tier.ErrTooLarge)
	}
	return nil
}

// commit makes one mutation, in a transaction if there is one. Where the
// database finds a conflict the error has the code FailedPrecondition.
func (b *Backup) commit(ctx context.Context, what, id string, m *pb.Mutation, transaction []byte) (*pb.MutationResult, error) {
	req := &pb.CommitRequest{
		ProjectId: b.project, DatabaseId: b.options.Database,
		Mode: pb.CommitRequest_NON_TRANSACTIONAL, Mutations: []*pb.Mutation{m},
	}
	if transaction != nil {
		req.Mode = pb.CommitRequest_TRANSACTIONAL
		req.TransactionSelector = &pb.CommitRequest_Transaction{Transaction: transaction}
	}
	res, err := call(ctx, b, what, id, b.client.Commit, req)
	if err != nil {
		return nil, err
	}
	if len(res.MutationResults) != 1 {
		return nil, fmt.Errorf("clouddatastore: %s: %d results of one mutation", what, len(res.MutationResults))
	}
	if res.MutationResults[0].ConflictDetected {
		return nil, describe(what, id, status.Error(codes.FailedPrecondition, "another version is there"))
	}
	return res.MutationResults[0], nil
}

// call makes one call, once: the connection is made without a policy to try
// again.
func call[Request, Response any](ctx context.Context, b *Backup, what, id string,
	method func(context.Context, Request, ...grpc.CallOption) (Response, error), req Request) (Response, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "x-goog-request-params", b.routing), callTime)
	defer cancel()
	res, err := method(ctx, req)
	return res, describe(what, id, err)
}
