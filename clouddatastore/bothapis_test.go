package clouddatastore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/tier"
)

// Google's Datastore emulator answers App Engine's calls as well, by a gRPC
// method that takes what an app posts to /rpc_http. So one database is used here
// through both APIs.

// bytesCodec passes messages on as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}

// forwarder is an App Engine whose calls go to the emulator.
type forwarder struct {
	conn *grpc.ClientConn

	mu   sync.Mutex
	last []byte // answer
}

func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/rpc_http" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	var answer []byte
	if err := f.conn.Invoke(r.Context(), "/apphosting.tools.devappserver2.CallHandler/HandleCall", &body, &answer, grpc.ForceCodec(bytesCodec{})); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	f.mu.Lock()
	f.last = answer
	f.mu.Unlock()
	_, _ = w.Write(answer)
}

// appEngine points this process at the emulator as the App Engine of an app.
func appEngine(t *testing.T, appID string) *forwarder {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+emulators.Start(t, emulators.Datastore), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	f := &forwarder{conn: conn}
	server := httptest.NewServer(f)
	t.Cleanup(func() {
		server.Close()
		must(t, conn.Close())
	})
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	must(t, err)
	for name, value := range map[string]string{
		"API_HOST": host, "API_PORT": port, "GAE_APPLICATION": appID, "GAE_ENV": "localdev",
		"GAE_SERVICE": "default", "GAE_VERSION": "local", "GAE_DEPLOYMENT_ID": "1", "GAE_INSTANCE": "local",
	} {
		t.Setenv(name, value)
	}
	return f
}

// names are those of a store's entities.
type names struct{ namespace, kind, prefix, value, expires string }

func (n names) cloud(t *testing.T) *clouddatastore.Backup {
	return open(t, database{Database: emulators.Datastore}, clouddatastore.Options{
		Namespace: n.namespace, Kind: n.kind, Prefix: n.prefix, Value: n.value, Expires: n.expires,
	})
}

// inNamespace is App Engine's Datastore with contexts of a namespace.
type inNamespace struct {
	gae.Datastore
	namespace string
}

func (n names) appEngine() inNamespace {
	return inNamespace{gae.Datastore{Kind: n.kind, Prefix: n.prefix, Value: n.value, Expires: n.expires}, n.namespace}
}

func (d inNamespace) in(ctx context.Context) context.Context {
	ctx, err := appengine.Namespace(ctx, d.namespace)
	if err != nil {
		panic(err)
	}
	return ctx
}

func (d inNamespace) Get(ctx context.Context, id string) (*tier.Record, error) {
	return d.Datastore.Get(d.in(ctx), id)
}

func (d inNamespace) Put(ctx context.Context, id string, r tier.Record) error {
	return d.Datastore.Put(d.in(ctx), id, r)
}

func (d inNamespace) Insert(ctx context.Context, id string, r tier.Record) error {
	return d.Datastore.Insert(d.in(ctx), id, r)
}

func (d inNamespace) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	return d.Datastore.Update(d.in(ctx), ids, guess, f)
}

// onBoth runs f with both APIs on one database, for each kind of app and store.
func onBoth(t *testing.T, f func(t *testing.T, n names, cloud, appEngine tier.Backup)) {
	for _, appID := range []string{"s~" + project, "dev~" + project} {
		for name, n := range map[string]names{
			"gaesession":                 {kind: "sess_", value: "val", expires: "exp"},
			"gaesession in a namespace":  {namespace: newNamespace(), kind: "sess_", value: "val", expires: "exp"},
			"cascadestore":               {kind: "Session", prefix: "session.", value: "Value", expires: "ExpiresAt"},
			"cascadestore, in namespace": {namespace: newNamespace(), kind: "Session", prefix: "session.", value: "Value", expires: "ExpiresAt"},
		} {
			t.Run(appID+" "+name, func(t *testing.T) {
				appEngine(t, appID)
				f(t, n, n.cloud(t), n.appEngine())
			})
		}
	}
}

// directions runs f with either API in either part.
func directions(t *testing.T, cloud, appEngine tier.Backup, f func(t *testing.T, one, other tier.Backup)) {
	t.Run("cloud to app engine", func(t *testing.T) { f(t, cloud, appEngine) })
	t.Run("app engine to cloud", func(t *testing.T) { f(t, appEngine, cloud) })
}

func TestRecordsOfEitherAPIAreReadChangedAndRemovedThroughTheOther(t *testing.T) {
	onBoth(t, func(t *testing.T, n names, cloud, appEngine tier.Backup) {
		directions(t, cloud, appEngine, func(t *testing.T, one, other tier.Backup) {
			ctx := context.Background()
			everyByte := make([]byte, 256)
			for i := range everyByte {
				everyByte[i] = byte(i)
			}
			for _, value := range [][]byte{[]byte("text"), everyByte, {}, nil, bytes.Repeat(everyByte, 1000)} {
				id := newID()
				r := tier.Record{Value: value, Expires: time.Now().Add(time.Hour).Truncate(time.Second).Add(123457 * time.Microsecond)}
				must(t, one.Insert(ctx, id, r))
				read := wantsRecord(t, other, id, r, "read")

				changed := newRecord("changed")
				must(t, other.Update(ctx, []string{id}, &tier.Guess{Token: read.Token, Next: changed}, noCall(t)))
				wantsRecord(t, one, id, *changed, "changed")

				// Another API's token is a guess that is wrong, and so is one of before.
				for _, token := range [][]byte{changed.Token, read.Token} {
					again := newRecord("")
					must(t, one.Update(ctx, []string{id}, &tier.Guess{Token: token, Next: newRecord("guessed")}, func(current []*tier.Record) ([]*tier.Record, error) {
						again = newRecord("from " + string(current[0].Value))
						return []*tier.Record{again}, nil
					}))
					if !strings.HasPrefix(string(again.Value), "from ") || !strings.HasSuffix(string(again.Value), "changed") {
						t.Errorf("got %q, want an update of what the other API wrote", again.Value)
					}
					wantsRecord(t, other, id, *again, "changed again")
				}

				emptied := record("")
				must(t, other.Put(ctx, id, emptied))
				wantsRecord(t, one, id, emptied, "emptied")
			}
		})
	})
}

func TestBothAPIsWriteTheSameEntityToTheByte(t *testing.T) {
	for _, value := range []string{"", "x", "text\x00\xff", string(make([]byte, 3000))} {
		t.Run(fmt.Sprintf("%d bytes", len(value)), func(t *testing.T) {
			f := appEngine(t, "s~"+project)
			n := names{namespace: newNamespace(), kind: "sess_", value: "val", expires: "exp"}
			entities := &lookups{}
			cloud := open(t, database{Database: emulators.Datastore}, clouddatastore.Options{Namespace: n.namespace}, entities.intercept)
			appEngine := n.appEngine()
			ctx := context.Background()
			r := record(value)
			r.Expires = r.Expires.Truncate(time.Second).Add(123457 * time.Microsecond)
			id := newID()

			var seen [2]struct {
				cloud *pb.Entity
				proto []byte
			}
			for i, b := range []tier.Backup{cloud, appEngine} {
				must(t, b.Put(ctx, id, record("something else in between")))
				must(t, b.Put(ctx, id, r))
				wantsRecord(t, cloud, id, r, "read")
				seen[i].cloud = entities.last
				wantsRecord(t, appEngine, id, r, "read")
				seen[i].proto = f.entity(t)
			}
			if !proto.Equal(seen[0].cloud, seen[1].cloud) {
				t.Errorf("the Cloud API sees different entities:\n%v\n%v", seen[0].cloud, seen[1].cloud)
			}
			if len(seen[0].proto) == 0 || !bytes.Equal(seen[0].proto, seen[1].proto) {
				t.Errorf("App Engine's API sees different entities:\n%x\n%x", seen[0].proto, seen[1].proto)
			}
			// The same queries find them: by the end, not by the value.
			for property, want := range map[string]int{"exp": 1, "val": 0} {
				var filter any = r.Expires
				if property == "val" {
					filter = []byte(value)
				}
				must(t, cloud.Put(ctx, id, r))
				count, err := datastore.NewQuery("sess_").Filter(property+" =", filter).KeysOnly().Count(appEngine.in(ctx))
				must(t, err)
				if count != want {
					t.Errorf("a query by %s finds %d entities, want %d", property, count, want)
				}
			}
		})
	}
}

// lookups keeps the last entity that was looked up.
type lookups struct{ last *pb.Entity }

func (l *lookups) intercept(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, c, o...)
	if found, ok := reply.(*pb.LookupResponse); ok && len(found.Found) > 0 {
		l.last = found.Found[0].Entity
	}
	return err
}

// entity returns the entity of the last answer, which was one to a get:
// Response.response, GetResponse.Entity, its field entity.
func (f *forwarder) entity(t *testing.T) []byte {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	return field(t, field(t, field(t, f.last, 1), 1), 2)
}

// field returns a field of a message: bytes or a group.
func field(t *testing.T, message []byte, number protowire.Number) []byte {
	t.Helper()
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(num, typ, message)
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		if num == number {
			switch typ {
			case protowire.BytesType:
				v, _ := protowire.ConsumeBytes(message)
				return v
			case protowire.StartGroupType:
				v, _ := protowire.ConsumeGroup(num, message)
				return v
			}
		}
		message = message[size:]
	}
	t.Fatalf("no field %d", number)
	return nil
}

func TestUpdatesThroughBothAPIsThatOverlap(t *testing.T) {
	onBoth(t, func(t *testing.T, n names, cloud, appEngine tier.Backup) {
		directions(t, cloud, appEngine, func(t *testing.T, one, other tier.Backup) {
			ctx := context.Background()
			for what, write := range map[string]func(id string) error{
				"update": func(id string) error { return other.Update(ctx, []string{id}, nil, appending("o")) },
				"put":    func(id string) error { return other.Put(ctx, id, record("o")) },
				"remove": func(id string) error { return other.Put(ctx, id, record("")) },
			} {
				ids := []string{newID(), newID()}
				for _, id := range ids {
					put(t, one, id, "1")
				}
				held, rounds := false, 0
				update := func() error {
					return one.Update(ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
						rounds++
						if !held {
							held = true
							if err := write(ids[1]); err != nil {
								t.Errorf("%s meanwhile: %v", what, err)
							}
						}
						return appending("+")(current)
					})
				}
				err := update()
				for errors.Is(err, tier.ErrContention) {
					err = update()
				}
				must(t, err)
				wantsValues(t, other, ids, "1+", map[string]string{"update": "1o+", "put": "o+", "remove": "+"}[what])
				if rounds < 2 {
					t.Errorf("%s meanwhile: %d rounds, want another one", what, rounds)
				}
			}
		})
	})
}

// Each update counts in two records, which never differ.
func TestNoUpdateThroughEitherAPIIsLost(t *testing.T) {
	appEngine(t, "s~"+project)
	n := names{namespace: newNamespace(), kind: "sess_", value: "val", expires: "exp"}
	const goroutines, each = 8, 6
	ids := []string{newID(), newID()}
	apis := []tier.Backup{n.cloud(t), n.appEngine()}
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for done, attempts := 0, 0; done < each; attempts++ {
				err := apis[g%2].Update(context.Background(), ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
					count := 0
					if current[0] != nil {
						var err error
						if count, err = strconv.Atoi(string(current[0].Value)); err != nil {
							return nil, err
						}
					}
					next := strconv.Itoa(count + 1)
					return []*tier.Record{newRecord(next), newRecord(next)}, nil
				})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, tier.ErrContention) || attempts > 1000:
					t.Errorf("goroutine %d: %v", g, err)
					return
				}
			}
		})
	}
	all.Wait()
	want := strconv.Itoa(goroutines * each)
	for _, api := range apis {
		wantsValues(t, api, ids, want, want)
	}
}

func TestBothAPIsNameTheKeyOfAnIDThatDatastoreReserves(t *testing.T) {
	onBoth(t, func(t *testing.T, n names, cloud, appEngine tier.Backup) {
		directions(t, cloud, appEngine, func(t *testing.T, one, other tier.Backup) {
			reserved := "__" + newID() + "__"
			for _, id := range []string{reserved, reserved + "."} {
				if one.ValidID(id) != other.ValidID(id) || one.MaxValue(id) != other.MaxValue(id) {
					t.Errorf("%s: the APIs differ", id)
				}
			}
			r := record("x")
			must(t, one.Put(context.Background(), reserved, r))
			wantsRecord(t, other, reserved, r, "read")
		})
	})
}

func TestPurgesThroughBothAPIs(t *testing.T) {
	onBoth(t, func(t *testing.T, n names, cloud, appEngine tier.Backup) {
		ctx := context.Background()
		if _, err := cloud.(*clouddatastore.Backup).Purge(ctx); err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct {
			write tier.Backup
			purge func() (int, error)
		}{
			"written by App Engine's API": {appEngine, func() (int, error) {
				done, err := cloud.(*clouddatastore.Backup).Purge(ctx)
				return done.Deleted, err
			}},
			"written by the Cloud API": {cloud, func() (int, error) {
				done, err := gae.PurgeExpired(appEngine.(inNamespace).in(ctx), n.kind, n.expires)
				return done.Deleted, err
			}},
		} {
			expired, alive := newID(), newID()
			must(t, test.write.Put(ctx, expired, tier.Record{Value: []byte("x"), Expires: time.Now().Add(-tier.PurgeGrace - time.Second)}))
			stays := tier.Record{Value: []byte("x"), Expires: time.Now().Add(30*time.Second - tier.PurgeGrace).Truncate(time.Microsecond)}
			must(t, test.write.Put(ctx, alive, stays))
			deleted, err := test.purge()
			must(t, err)
			if deleted != 1 {
				t.Errorf("%s: %d deleted, want 1", name, deleted)
			}
			wantsRecord(t, test.write, alive, stays, name)
			if r, err := test.write.Get(ctx, expired); err != nil || r != nil {
				t.Errorf("%s: got %v, %v after the purge, want nothing", name, r, err)
			}
		}
	})
}
