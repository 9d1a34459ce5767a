package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/rediscache"
)

// bundled is App Engine with its Memcache on gaelocal and its Datastore in
// Google's emulator, which has the Cloud Datastore API, too.
type bundled struct {
	memcache *httputil.ReverseProxy
	emulator *grpc.ClientConn
}

// raw passes messages on as they are.
type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}

func (b *bundled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if service(body) != "datastore_v3" {
		r.Body = io.NopCloser(bytes.NewReader(body))
		b.memcache.ServeHTTP(w, r)
		return
	}
	var answer []byte
	if err := b.emulator.Invoke(r.Context(), "/apphosting.tools.devappserver2.CallHandler/HandleCall", &body, &answer, grpc.ForceCodec(raw{})); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_, _ = w.Write(answer)
}

// service is the service that a call is for: field 2 of remote_api.Request.
func service(call []byte) string {
	for len(call) > 0 {
		number, typ, n := protowire.ConsumeTag(call)
		if n < 0 {
			return ""
		}
		if call = call[n:]; number == 2 && typ == protowire.BytesType {
			name, _ := protowire.ConsumeBytes(call)
			return string(name)
		}
		if n = protowire.ConsumeFieldValue(number, typ, call); n < 0 {
			return ""
		}
		call = call[n:]
	}
	return ""
}

// startBundled points this process at App Engine's services.
func startBundled(t *testing.T) (datastore string, memcache *gaelocal.Server) {
	datastore = emulators.Start(t, emulators.Datastore)
	local, err := gaelocal.Start(gaelocal.Options{AppID: "cloud-demo"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := local.Close(); err != nil {
			t.Error(err)
		}
	})
	restore, err := local.Setenv()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(restore)
	conn, err := grpc.NewClient(datastore, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	both := httptest.NewServer(&bundled{
		memcache: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: local.Addr()}), emulator: conn,
	})
	t.Cleanup(both.Close)
	u, err := url.Parse(both.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("API_HOST", u.Hostname())
	t.Setenv("API_PORT", u.Port())
	return datastore, local
}

// readme is the app of the README, with more options than that needs.
func readme(o *gaesession.MemcacheStoreOptions, report func(error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		options := *o
		options.OnError = func(_ context.Context, err error) { report(err) }
		sessions := session.NewCookieManagerOptions(gaesession.NewMemcacheStoreOptions(appengine.NewContext(r), &options),
			&session.CookieMngrOptions{AllowHTTP: true})
		defer sessions.Close()

		sess := sessions.Get(r)
		switch {
		case r.URL.Path == "/logout" && sess != nil:
			sessions.Remove(sess, w)
			return
		case sess == nil && r.URL.Path == "/login":
			sess = session.NewSession()
			sessions.Add(sess, w)
		case sess == nil:
			fmt.Fprint(w, "nobody")
			return
		}
		visits, _ := sess.Attr("visits").(int)
		sess.SetAttr("visits", visits+1)
		sessions.Close()
		fmt.Fprint(w, visits+1)
	}
}

// A user is logged in before, between and after the swaps of Datastore's API and
// of the cache, loses nothing, and is logged out everywhere in the end.
func TestAUserStaysLoggedInWhileTheServicesAreSwapped(t *testing.T) {
	ctx := context.Background()
	datastore, memcache := startBundled(t)
	t.Setenv("DATASTORE_EMULATOR_HOST", datastore)
	backup, err := clouddatastore.New(ctx, "cloud-demo", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = backup.Close() })
	cache, err := rediscache.New(ctx, startRedis(t), nil)
	if err != nil {
		t.Fatal(err)
	}

	report := func(err error) { t.Error(err) }
	steps := []http.Handler{
		appengine.Middleware(readme(&gaesession.MemcacheStoreOptions{}, report)),
		appengine.Middleware(readme(&gaesession.MemcacheStoreOptions{Backup: backup}, report)),
		appengine.Middleware(readme(&gaesession.MemcacheStoreOptions{Cache: cache, Backup: backup}, report)),
		readme(&gaesession.MemcacheStoreOptions{Cache: cache, Backup: backup}, report), // off App Engine
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	var now http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	get := func(step int, path string) string {
		t.Helper()
		now = steps[step]
		res, err := client.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}

	if got := get(0, "/login"); got != "1" {
		t.Fatalf("login: got %s", got)
	}
	// Steps 0 and 1 serve side by side; step 1 is taken back once.
	for i, step := range []int{0, 1, 0, 1, 1, 0, 1, 2, 2, 3, 3, 2, 3} {
		if got, want := get(step, "/"), fmt.Sprint(i+2); got != want {
			t.Errorf("request %d, at step %d: got %s, want visit %s", i, step, got, want)
		}
	}
	// Back to Memcache, which was left before and has to be emptied.
	memcache.FlushMemcache()
	if got := get(1, "/"); got != "15" {
		t.Errorf("back at step 1: got %s, want visit 15", got)
	}

	cookies := jar.Cookies(&url.URL{Scheme: "http", Host: server.Listener.Addr().String()})
	get(1, "/logout")
	jar.SetCookies(&url.URL{Scheme: "http", Host: server.Listener.Addr().String()}, cookies)
	for step := range 2 {
		if got := get(step, "/"); got != "nobody" {
			t.Errorf("after the logout, at step %d: got visit %s", step, got)
		}
	}
}
