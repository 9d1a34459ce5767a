package main

import (
	"context"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/demo"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/rediscache"
)

func TestMain(m *testing.M) { emulators.Main(m) }

// A redisServer is a redis-server that ends with the test.
type redisServer struct {
	t       *testing.T
	dir     string
	address string
	process *exec.Cmd
	client  *redis.Client
}

// startRedis starts a redis-server and returns a client of it.
func startRedis(t *testing.T) *redis.Client {
	t.Helper()
	return newRedis(t).client
}

func newRedis(t *testing.T) *redisServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &redisServer{t: t, dir: t.TempDir(), address: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	s.client = redis.NewClient(rediscache.ClientOptions(s.address))
	t.Cleanup(func() { _ = s.client.Close() })
	s.start()
	return s
}

func (s *redisServer) start() {
	s.t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv(emulators.Env) == "require" {
			s.t.Fatal(err)
		}
		s.t.Skipf("no redis-server: %v", err)
	}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.process = exec.Command(path, "--bind", host, "--port", port, "--dir", s.dir, "--save", "")
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := s.client.Ping(context.Background()).Err()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			s.t.Fatalf("redis-server does not answer: %v", err)
		}
	}
}

func (s *redisServer) kill() {
	if s.process != nil {
		_ = s.process.Process.Kill() // also a stopped one
		_ = s.process.Wait()
		s.process = nil
	}
}

func TestLoginVisitsAndLogout(t *testing.T) {
	ctx := context.Background()
	t.Setenv("DATASTORE_EMULATOR_HOST", emulators.Start(t, emulators.Datastore))
	backup, err := clouddatastore.New(ctx, "cloud-demo", &clouddatastore.Options{Namespace: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = backup.Close() })
	cache, err := rediscache.New(ctx, startRedis(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := app{where: "test", allowHTTP: true, options: gaesession.MemcacheStoreOptions{Cache: cache, Backup: backup}}
	server := httptest.NewServer(demo.Protect(a.handler()))
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	expect := func(what string, res *http.Response, err error, texts ...string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b strings.Builder
		if err := res.Write(&b); err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if !strings.Contains(b.String(), text) {
				t.Errorf("%s: got\n%s\nwant it to contain %q", what, b.String(), text)
			}
		}
	}
	res, err := client.Get(server.URL)
	expect("at first", res, err, "Log in", "no-store")
	res, err = client.PostForm(server.URL+"/login", url.Values{"name": {"Ann <b>"}})
	expect("login", res, err, "Hello, Ann &lt;b&gt;", `<strong id="visits">1</strong>`)
	res, err = client.Get(server.URL)
	expect("second visit", res, err, `<strong id="visits">2</strong>`)
	res, err = client.PostForm(server.URL+"/logout", nil)
	expect("logout", res, err, "Log in")
	res, err = client.PostForm(server.URL+"/login", url.Values{"name": {""}})
	expect("login without a name", res, err, "422")
}

func TestTheEnvironmentIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want string
	}{
		"nothing to keep sessions in":    {nil, "DATASTORE_EMULATOR_HOST=127.0.0.1:8432 go run ."},
		"asynchronous saves, Cloud Run":  {map[string]string{"K_SERVICE": "demo", "ASYNC_SAVES": "true"}, "not on Cloud Run"},
		"asynchronous saves, no boolean": {map[string]string{"ASYNC_SAVES": "perhaps"}, "want true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, key := range []string{"K_SERVICE", "ASYNC_SAVES", "GOOGLE_CLOUD_PROJECT", "DATASTORE_EMULATOR_HOST", "REDIS_ADDR"} {
				t.Setenv(key, test.env[key])
			}
			err := run(context.Background())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to say %q", err, test.want)
			}
			if name == "nothing to keep sessions in" && strings.Count(err.Error(), "\n") != 1 {
				t.Errorf("got %q, want two lines", err)
			}
		})
	}
}
