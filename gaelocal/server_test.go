package gaelocal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/wire"
)

// startLocal starts a server and points the process at it until the test ends.
func startLocal(t testing.TB, o gaelocal.Options) (*gaelocal.Server, context.Context) {
	t.Helper()
	return gaelocal.StartForTest(t, o), requestContext("")
}

// requestContext is the context of a request with an API ticket.
func requestContext(ticket string) context.Context {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-AppEngine-API-Ticket", ticket)
	var ctx context.Context
	appengine.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx = appengine.NewContext(r)
	})).ServeHTTP(httptest.NewRecorder(), r)
	return ctx
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error = %v, want one with %q", err, part)
		}
	}
}

func TestAnAppKnowsWhereItRunsWithoutAMetadataServer(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{AppID: "shop"})
	got := strings.Join([]string{appengine.AppID(ctx), appengine.ModuleName(ctx), appengine.VersionID(ctx), appengine.InstanceID()}, " ")
	if want := "shop default local.1 local"; got != want {
		t.Errorf("app, module, version and instance are %q, want %q", got, want)
	}
	if !appengine.IsDevAppServer() {
		t.Error("IsDevAppServer = false, want true")
	}
}

func TestSetenvPutsBackWhatWasThere(t *testing.T) {
	t.Setenv("API_HOST", "before")
	os.Unsetenv("API_PORT")
	s, err := gaelocal.Start(gaelocal.Options{})
	noError(t, err)
	defer s.Close()
	restore, err := s.Setenv()
	noError(t, err)
	if got := net.JoinHostPort(os.Getenv("API_HOST"), os.Getenv("API_PORT")); got != s.Addr() {
		t.Errorf("the environment points at %s, want %s", got, s.Addr())
	}
	restore()
	if got := os.Getenv("API_HOST"); got != "before" {
		t.Errorf("API_HOST = %q after restore, want %q", got, "before")
	}
	if _, set := os.LookupEnv("API_PORT"); set {
		t.Error("API_PORT is set after restore")
	}
}

func TestAServerForATestIsReachedByAnyContextUntilTheTestEnds(t *testing.T) {
	names := []string{"API_HOST", "API_PORT", "GAE_APPLICATION", "GAE_ENV"}
	environ := func() (values []string) {
		for _, name := range names {
			values = append(values, os.Getenv(name))
		}
		return values
	}
	before := environ()
	var s *gaelocal.Server
	t.Run("test", func(t *testing.T) {
		s = gaelocal.StartForTest(t)
		ctx := context.Background()
		key, err := datastore.Put(ctx, datastore.NewKey(ctx, "K", "n", 0, nil), &counter{7})
		noError(t, err)
		if got := getCounter(t, ctx, key); got != 7 {
			t.Errorf("got %d, want 7", got)
		}
		noError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}))
		if !s.EvictMemcache("", "k") {
			t.Error("the item is not in this server")
		}
	})
	if after := environ(); !slices.Equal(after, before) {
		t.Errorf("%v is %v after the test, want %v", names, after, before)
	}
	_, err := s.Call(context.Background(), "memcache", "Stats", "", nil)
	wantError(t, err, "closed")
}

func TestAServerForATestHasTheTestsOptions(t *testing.T) {
	gaelocal.StartForTest(t, gaelocal.Options{AppID: "shop"})
	if got := appengine.AppID(context.Background()); got != "shop" {
		t.Errorf("the application id is %q, want shop", got)
	}
}

// failing is a test that notes why it has failed.
type failing struct {
	*testing.T
	why string
}

func (t *failing) Fatalf(format string, args ...any) {
	t.why = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestAServerForATestThatCannotStartFailsTheTest(t *testing.T) {
	l := listen(t)
	defer l.Close()
	for _, o := range [][]gaelocal.Options{{{Addr: l.Addr().String()}}, {{}, {}}} {
		f, ended := &failing{T: t}, make(chan bool)
		go func() {
			defer close(ended)
			gaelocal.StartForTest(f, o...)
		}()
		<-ended
		if f.why == "" {
			t.Errorf("with %d Options the test goes on", len(o))
		}
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	defer l.Close()
	_, err = gaelocal.Start(gaelocal.Options{Addr: l.Addr().String()})
	wantError(t, err, "cannot listen at "+l.Addr().String(), "in use")
}

func TestAnApplicationIDThatCannotBeSetIsAnError(t *testing.T) {
	for name, data := range map[string]string{"in memory": "", "in a file": filepath.Join(t.TempDir(), "data")} {
		s, err := gaelocal.Start(gaelocal.Options{AppID: "a\x00b", Data: data})
		if err == nil {
			err = s.Close()
			t.Errorf("%s: started, and closed with %v", name, err)
			continue
		}
		wantError(t, err, "application id", `"a\x00b"`, "NUL")
		if data != "" {
			if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: the file was created", name)
			}
		}
	}
}

func TestAServerThatWasNotStartedDoesNothing(t *testing.T) {
	var s gaelocal.Server
	s.FlushMemcache()
	if s.EvictMemcache("", "k") {
		t.Error("EvictMemcache reports that an item was there")
	}
	_, err := s.Call(context.Background(), "memcache", "Stats", "", nil)
	wantError(t, err, "not been started")
	noError(t, s.Close())
	noError(t, s.Close())
}

func TestAClosedServerAnswersNothing(t *testing.T) {
	s, err := gaelocal.Start(gaelocal.Options{})
	noError(t, err)
	noError(t, s.Close())
	noError(t, s.Close())
	_, err = s.Call(context.Background(), "memcache", "Stats", "", nil)
	wantError(t, err, "closed")
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("a closed server still listens")
	}
}

func TestCloseWaitsForCallsAndTheirAnswers(t *testing.T) {
	s, err := gaelocal.Start(gaelocal.Options{})
	noError(t, err)
	begun, goOn := make(chan bool), make(chan bool)
	s.SetHooks(gaelocal.Hooks{Before: func(context.Context, gaelocal.Call) error {
		close(begun)
		<-goOn
		return nil
	}})
	answered := make(chan error, 1)
	go func() {
		response, err := postCall(s, "memcache", "Stats", nil)
		if err == nil && response.Response == nil {
			err = errors.New("no answer")
		}
		answered <- err
	}()
	select {
	case <-begun:
	case err := <-answered:
		t.Fatalf("the call ended early: %v", err)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case <-closed:
		t.Error("Close did not wait for the call")
	default:
	}
	close(goOn)
	if err := <-answered; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	noError(t, <-closed)
}

// postCall makes a call the way the client library does.
func postCall(s *gaelocal.Server, service, method string, request []byte) (*wire.Response, error) {
	body, err := proto.Marshal(&wire.Request{ServiceName: &service, Method: &method, Request: append([]byte{}, request...)})
	if err != nil {
		return nil, err
	}
	return postBody(s, body)
}

func postBody(s *gaelocal.Server, body []byte) (*wire.Response, error) {
	r, err := http.Post("http://"+s.Addr()+"/rpc_http", "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var response wire.Response
	return &response, proto.Unmarshal(b, &response)
}

func TestWhatIsNotServedIsNotFound(t *testing.T) {
	s, _ := startLocal(t, gaelocal.Options{})
	for _, c := range [][2]string{{"memcache", "Touch"}, {"datastore_v3", "AddActions"}, {"urlfetch", "Fetch"}, {"", ""}} {
		response, err := postCall(s, c[0], c[1], nil)
		noError(t, err)
		if response.RpcError == nil || response.RpcError.GetCode() != 1 {
			t.Errorf("%s.%s: %v, want rpc error 1, call not found", c[0], c[1], response)
		}
	}
}

func TestABodyThatIsNoRequestIsAParseError(t *testing.T) {
	s, _ := startLocal(t, gaelocal.Options{})
	for _, body := range []string{"", "nonsense", "\x12\x05short"} {
		response, err := postBody(s, []byte(body))
		noError(t, err)
		if response.RpcError == nil || response.RpcError.GetCode() != 2 {
			t.Errorf("body %q: %v, want rpc error 2, parse error", body, response)
		}
	}
}

func TestABodyAbove32MiBIsTooLarge(t *testing.T) {
	s := startOn(t, listen(t), time.Minute) // under -race the body takes its time
	for name, body := range map[string]io.Reader{
		"announced":     bytes.NewReader(make([]byte, 32<<20+1)),
		"not announced": io.MultiReader(bytes.NewReader(make([]byte, 32<<20+1))),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.Post("http://"+s.Addr()+"/rpc_http", "application/octet-stream", body)
			if err != nil {
				return // the server may stop reading and hang up
			}
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			noError(t, err)
			var response wire.Response
			noError(t, proto.Unmarshal(b, &response))
			if response.RpcError.GetCode() != 5 {
				t.Errorf("answer %v, want rpc error 5, request too large", &response)
			}
		})
	}
}

// localRequests are requests to every method, for the tests to spoil.
func localRequests(t testing.TB) map[string][]byte {
	path := &wire.Path{Element: []*wire.Path_Element{{Type: proto.String("K"), Name: proto.String("n")}}}
	key := &wire.Reference{App: proto.String("dev~local"), Path: path}
	value := &wire.PropertyValue{Int64Value: proto.Int64(7)}
	property := &wire.Property{Name: proto.String("p"), Multiple: proto.Bool(true), Value: value}
	keyValue := &wire.Property{Name: proto.String("__key__"), Multiple: proto.Bool(false), Value: &wire.PropertyValue{
		Referencevalue: &wire.PropertyValue_ReferenceValue{App: proto.String("dev~local"), Pathelement: []*wire.PropertyValue_ReferenceValue_PathElement{
			{Type: proto.String("K"), Id: proto.Int64(5)}}}}}
	transaction := &wire.Transaction{Handle: proto.Uint64(1), App: proto.String("dev~local")}
	op := func(o wire.Query_Filter_Operator) *wire.Query_Filter_Operator { return &o }
	out := map[string][]byte{}
	for name, m := range map[string]proto.Message{
		"memcache Get":                  &wire.MemcacheGetRequest{Key: [][]byte{[]byte("a"), []byte("b")}, ForCas: proto.Bool(true), ForPeek: proto.Bool(true)},
		"memcache Set":                  &wire.MemcacheSetRequest{Item: []*wire.MemcacheSetRequest_Item{{Key: []byte("a"), Value: []byte("5"), ExpirationTime: proto.Uint32(9)}}},
		"memcache Delete":               &wire.MemcacheDeleteRequest{Item: []*wire.MemcacheDeleteRequest_Item{{Key: []byte("a"), DeleteTime: proto.Uint32(3)}}},
		"memcache Increment":            &wire.MemcacheIncrementRequest{Key: []byte("a"), InitialValue: proto.Uint64(3)},
		"memcache BatchIncrement":       &wire.MemcacheBatchIncrementRequest{Item: []*wire.MemcacheIncrementRequest{{Key: []byte("a")}}},
		"memcache FlushAll":             &wire.MemcacheFlushRequest{},
		"memcache Stats":                &wire.MemcacheStatsRequest{},
		"datastore_v3 Get":              &wire.GetRequest{Key: []*wire.Reference{key}, Transaction: transaction},
		"datastore_v3 Put":              &wire.PutRequest{Entity: []*wire.EntityProto{{Key: key, EntityGroup: path, Property: []*wire.Property{property}, RawProperty: []*wire.Property{property}}}},
		"datastore_v3 Delete":           &wire.DeleteRequest{Key: []*wire.Reference{key}},
		"datastore_v3 BeginTransaction": &wire.BeginTransactionRequest{App: proto.String("dev~local"), Mode: wire.BeginTransactionRequest_READ_WRITE.Enum(), PreviousTransaction: transaction},
		"datastore_v3 Commit":           transaction,
		"datastore_v3 Rollback":         transaction,
		"datastore_v3 RunQuery": &wire.Query{App: proto.String("dev~local"), Kind: proto.String("K"), Ancestor: key, Compile: proto.Bool(true), Limit: proto.Int32(1),
			Filter:         []*wire.Query_Filter{{Op: op(wire.Query_Filter_GREATER_THAN), Property: []*wire.Property{property}}, {Op: op(wire.Query_Filter_EQUAL), Property: []*wire.Property{keyValue}}},
			Order:          []*wire.Query_Order{{Property: proto.String("p"), Direction: wire.Query_Order_DESCENDING.Enum()}},
			CompiledCursor: &wire.CompiledCursor{Position: &wire.CompiledCursor_Position{StartKey: []byte("\x01\x00\x01p\x01x\x07__key__\x01y")}}},
		"datastore_v3 Count":       &wire.Query{App: proto.String("dev~local"), Kind: proto.String("K"), PropertyName: []string{"p"}, GroupByPropertyName: []string{"p"}},
		"datastore_v3 Next":        &wire.NextRequest{Cursor: &wire.Cursor{Cursor: proto.Uint64(1), App: proto.String("dev~local")}},
		"datastore_v3 AllocateIds": &wire.AllocateIdsRequest{ModelKey: key, Size: proto.Int64(5)},
	} {
		b, err := proto.Marshal(m)
		noError(t, err)
		out[name] = b
	}
	return out
}

func TestSpoiledRequestsAreAnswered(t *testing.T) {
	s, _ := startLocal(t, gaelocal.Options{})
	random := rand.New(rand.NewSource(1))
	for name, request := range localRequests(t) {
		service, method, _ := strings.Cut(name, " ")
		for range 2000 {
			spoiled := bytes.Clone(request)
			for range 1 + random.Intn(3) {
				if len(spoiled) == 0 {
					break
				}
				switch i := random.Intn(len(spoiled)); random.Intn(3) {
				case 0:
					spoiled[i] = byte(random.Intn(256))
				case 1:
					spoiled = append(spoiled[:i], spoiled[i+1:]...)
				default:
					spoiled = append(spoiled, spoiled[i:]...)
				}
			}
			if _, err := s.Call(context.Background(), service, method, "", spoiled); err != nil {
				if e := (*gaelocal.Error)(nil); !errors.As(err, &e) {
					t.Fatalf("%s with %q: error %T, want *gaelocal.Error", name, spoiled, err)
				}
			}
		}
	}
}

func FuzzCall(f *testing.F) {
	for name, request := range localRequests(f) {
		service, method, _ := strings.Cut(name, " ")
		f.Add(service, method, request)
	}
	s, err := gaelocal.Start(gaelocal.Options{})
	noError(f, err)
	f.Cleanup(func() { noError(f, s.Close()) })
	f.Fuzz(func(t *testing.T, service, method string, request []byte) {
		_, err := s.Call(context.Background(), service, method, "", request)
		if e := (*gaelocal.Error)(nil); err != nil && !errors.As(err, &e) {
			t.Errorf("error %T, want *gaelocal.Error", err)
		}
	})
}
