package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/demo"
	"github.com/gaesession/gaesession/internal/demo/demotest"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// The explorer comes first, as its file does: what tests in real time leave in the
// background must not meet its simulated time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.shuffle", "off"); err != nil {
		panic(err)
	}
	emulators.Main(m)
}

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

// A browser keeps cookies, and follows redirects.
type browser struct {
	t      *testing.T
	url    string
	client *http.Client
}

func newBrowser(t *testing.T, url string) *browser {
	t.Helper()
	return &browser{t, url, demotest.Client(t)}
}

func (b *browser) get(want ...string) { b.t.Helper(); b.do(http.MethodGet, "/", nil, 200, want...) }
func (b *browser) post(path string, form url.Values, want ...string) {
	b.t.Helper()
	b.do(http.MethodPost, path, form, 200, want...)
}

// do makes a request, and wants a status and texts in the answer.
func (b *browser) do(method, path string, form url.Values, status int, want ...string) {
	b.t.Helper()
	r, err := http.NewRequest(method, b.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if res.StatusCode != status {
		b.t.Errorf("%s %s: got status %d, want %d", method, path, res.StatusCode, status)
	}
	for _, text := range want {
		if !strings.Contains(string(body), text) {
			b.t.Errorf("%s %s lacks %q:\n%s", method, path, text, body)
		}
	}
}

// cookie is the value of the session's cookie; empty: there is none.
func (b *browser) cookie() string {
	b.t.Helper()
	u, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == cookieName {
			return c.Value
		}
	}
	return ""
}

// named is the form of the login.
func named(name string) url.Values { return url.Values{"name": {name}} }

func visits(n int) string { return fmt.Sprintf("<strong>%d</strong>", n) }

// start runs the demo until the end of the test, or until stop is called, with no
// environment but this.
func start(t *testing.T, env map[string]string) (b *browser, stop func() error) {
	t.Helper()
	setEnv(t, env)
	t.Setenv("PORT", "0")
	p := demotest.Start(t, run)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return newBrowser(t, p.URL), p.Stop
}

func setEnv(t *testing.T, env map[string]string) {
	for _, key := range []string{"K_SERVICE", "ASYNC_SAVES", "GOOGLE_CLOUD_PROJECT", "DATASTORE_EMULATOR_HOST", "REDIS_ADDR"} {
		t.Setenv(key, env[key])
	}
}

// tellStory is what the demo is for.
func tellStory(b *browser, cache, backup string) {
	b.t.Helper()
	b.get("Log in", "There is no session", "none sent")
	b.do(http.MethodPost, "/login", named(" "), 422, "Please enter a name")
	b.post("/login", named("Ann <b>"), "Ann &lt;b&gt;</span>", visits(1), "came from "+cache)
	first := b.cookie()
	b.get(visits(2), "came from "+cache, "3 operations")
	b.do(http.MethodGet, "/?look", nil, 200, visits(2), "1 operation ")
	b.post("/login", named("Grace"), "Grace</span>", visits(1))
	if b.cookie() == first {
		b.t.Error("a login kept the id")
	}
	b.post("/cache/flush", nil, cache+" was emptied", visits(2), "came from "+backup, "in "+cache+" again")
	b.get(visits(3), "came from "+cache)
	b.post("/cache/stop", nil, cache+" did not answer in time", "You are still logged in", "Saved all the same", visits(4))
	for range 2 {
		b.get("You are still logged in")
	}
	b.get("Nobody waits for "+cache, "The circuit breaker is open", "You are still logged in", visits(7))
	b.post("/logout", nil, "the cache will as soon as it answers", "Log in")
	b.post("/cache/start", nil, cache+" answers again", "Log in")
}

func TestTheDemoNeedsNothingButGo(t *testing.T) {
	b, stop := start(t, nil)
	tellStory(b, "MemoryCache", "MemoryBackup")
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTheDemoOnTheEmulatorAndRedis(t *testing.T) {
	datastore, server := emulators.Start(t, emulators.Datastore), newRedis(t)
	if err := server.client.Set(context.Background(), "other", "stays", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b, _ := start(t, map[string]string{"DATASTORE_EMULATOR_HOST": datastore, "REDIS_ADDR": server.address})
	b.get("on Datastore&#39;s emulator and Redis")
	tellStory(b, "Redis", "Datastore")
	if got, err := server.client.Get(context.Background(), "other").Result(); got != "stays" || err != nil {
		t.Errorf("emptying the cache took what is not the demo's: %q, %v", got, err)
	}
}

func TestWithoutACacheThereIsNoneToFail(t *testing.T) {
	b, _ := start(t, map[string]string{"DATASTORE_EMULATOR_HOST": emulators.Start(t, emulators.Datastore)})
	b.post("/login", named("Ann"), visits(1), "came from Datastore", "It lives there alone", "2 operations")
	b.do(http.MethodPost, "/cache/stop", nil, 404)
}

func TestALoginSurvivesTheProcessAndRedis(t *testing.T) {
	env := map[string]string{"DATASTORE_EMULATOR_HOST": emulators.Start(t, emulators.Datastore)}
	b, stop := start(t, env)
	b.post("/login", named("Ann"), visits(1))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	server := newRedis(t)
	env["REDIS_ADDR"] = server.address
	again, stop := start(t, env)
	again.client = b.client // cookies know no ports
	again.get(visits(2), "came from Datastore")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	server.kill()
	last, _ := start(t, env) // an instance that starts while Redis is away
	last.client = b.client
	last.get(visits(3), "You are still logged in")
}

func TestWhatRedisHasMissedItIsToldBeforeTheProcessEnds(t *testing.T) {
	env := map[string]string{"DATASTORE_EMULATOR_HOST": emulators.Start(t, emulators.Datastore), "REDIS_ADDR": newRedis(t).address}
	b, stop := start(t, env)
	b.post("/login", named("Ann"), visits(1))
	b.post("/cache/stop", nil, visits(2), "You are still logged in")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	again, _ := start(t, env)
	again.client = b.client // cookies know no ports
	again.get(visits(3))    // and not what Redis had before
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	b, _ := start(t, nil)
	b.post("/login", named("Ann"), visits(1))
	for _, path := range []string{"/logout", "/login", "/cache/stop"} {
		r, err := http.NewRequest(http.MethodPost, b.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		res, err := b.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: got %s, want 403", path, res.Status)
		}
	}
	b.get(visits(2), "came from MemoryCache")
}

func TestTheCookieNeedsHTTPSOnCloudRun(t *testing.T) {
	for _, https := range []bool{false, true} {
		a := newApp(gaesession.MemcacheStoreOptions{Cache: tiertest.NewCache(), Backup: tiertest.NewBackup()}, https, &demo.Stage{Cookie: cookieName})
		r := httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(named("Ann").Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, r)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 || cookies[0].Secure != https || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode {
			t.Errorf("HTTPS %v: got cookies %v", https, cookies)
		}
	}
}

// A broken service fails every call.
type broken struct{ tier.Backup }

var errBroken = errors.New("the backup is broken")

func (broken) Get(context.Context, string) (*tier.Record, error) { return nil, errBroken }
func (broken) Put(context.Context, string, tier.Record) error    { return errBroken }
func (broken) Insert(context.Context, string, tier.Record) error { return errBroken }
func (broken) Update(context.Context, []string, *tier.Guess, func([]*tier.Record) ([]*tier.Record, error)) error {
	return errBroken
}

func TestWhatCannotBeToldOrSavedIsSaidSoAndLeavesTheCookie(t *testing.T) {
	o := gaesession.MemcacheStoreOptions{Cache: tier.None, Backup: broken{tiertest.NewBackup()}, OnError: func(context.Context, error) {}}
	server := httptest.NewServer(newApp(o, false, &demo.Stage{Cookie: cookieName, Backup: "Backup"}).handler())
	t.Cleanup(server.Close)
	b := newBrowser(t, server.URL)
	b.do(http.MethodPost, "/login", named("Ann"), 503, "That did not work", errBroken.Error())
	if b.cookie() != "" {
		t.Error("a login that was not saved set a cookie")
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: cookieName, Value: "h.abc", Path: "/"}})
	b.do(http.MethodGet, "/", nil, 503, "That did not work", "Nobody can tell")
	b.do(http.MethodPost, "/logout", nil, 503, "That did not work")
	if b.cookie() != "h.abc" {
		t.Errorf("the cookie is %q", b.cookie())
	}
}

func TestTheEnvironmentIsChecked(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want string
	}{
		"asynchronous saves, Cloud Run":  {map[string]string{"K_SERVICE": "demo", "ASYNC_SAVES": "true"}, "not on Cloud Run"},
		"asynchronous saves, no boolean": {map[string]string{"ASYNC_SAVES": "perhaps"}, "want true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			setEnv(t, test.env)
			err := run(context.Background(), io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to say %q", err, test.want)
			}
		})
	}
}

func TestWithoutServicesTheDemoSaysHowToGetThem(t *testing.T) {
	setEnv(t, nil)
	t.Setenv("PORT", "0")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out strings.Builder
	if err := run(ctx, &out); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"in memory", "DATASTORE_EMULATOR_HOST=127.0.0.1:8432 go run ."} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("it does not say %q: %s", text, out.String())
		}
	}
}
