package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gaesession/gaesession/gaelocal"
)

// startDemo serves the demo on services of its own.
func startDemo(t *testing.T) (*browser, *gaelocal.Server) {
	t.Helper()
	services := startLocal(t)
	d := demo{where: "gaelocal", allowHTTP: true, flush: services.FlushMemcache}
	web := httptest.NewServer(d.handler())
	t.Cleanup(web.Close)
	return newBrowser(t, web.URL), services
}

func startLocal(t *testing.T) *gaelocal.Server {
	t.Helper()
	services, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	restore, err := services.Setenv()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		restore()
		if err := services.Close(); err != nil {
			t.Error(err)
		}
	})
	return services
}

// A process is the demo as main runs it.
type process struct {
	url  string
	stop func() error // as a signal does; returns what run returned
}

// startProcess runs the demo with a data file until stop is called.
func startProcess(t *testing.T, data string) process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-addr", "127.0.0.1:0", "-data", data}, in)
		in.CloseWithError(err)
		done <- err
	}()
	t.Cleanup(cancel)
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the demo did not start: %v", err)
	}
	go io.Copy(io.Discard, lines)
	u := regexp.MustCompile(`http://\S+`).FindString(line)
	if u == "" {
		t.Fatalf("the demo does not say where it is: %q", line)
	}
	return process{u, func() error { cancel(); return <-done }}
}

func TestLoginTenVisitsFlushAndLogout(t *testing.T) {
	b, _ := startDemo(t)
	tellStory(t, b, func() {
		// The page that follows would fill Memcache again.
		if got, want := b.submit("/demo/flush", nil).wantStatus(http.StatusSeeOther).header.Get("Location"), "/demo?after=flush"; got != want {
			t.Errorf("flush leads to %q, want %q", got, want)
		}
	})
	b.get("/demo?after=flush").wantText("Memcache was emptied.")
}

func TestALoginSurvivesARestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "new folder", "sessions.db")
	p := startProcess(t, data)
	b := newBrowser(t, p.url)
	b.login("Ada", password).wantVisit("Ada", 1)
	b.get("/demo").wantVisit("Ada", 2)
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if c := b.cookie(); c == nil {
		t.Fatal("no cookie")
	}

	p = startProcess(t, data)
	again := newBrowser(t, p.url)
	again.setCookie(b.cookie())
	again.get("/demo").wantVisit("Ada", 3).wantSource("Datastore", "9")
	again.post("/demo/logout", nil).wantLogin()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	p = startProcess(t, data)
	last := newBrowser(t, p.url)
	last.setCookie(b.cookie())
	last.get("/demo").wantLogin()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
}

// Browsers open connections before they need them.
func TestAConnectionWithoutARequestDoesNotHoldUpTheEnd(t *testing.T) {
	p := startProcess(t, "")
	silent, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(p.url, "http:"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	newBrowser(t, p.url).get("/demo") // which is served after silent was accepted
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestStartFailsWithWhatIsWrong(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inUse := filepath.Join(t.TempDir(), "sessions.db")
	other, err := gaelocal.Start(gaelocal.Options{Data: inUse})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	noFolder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(noFolder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what string
		args []string
		want []string
	}{
		{"a port in use", []string{"-data", "", "-addr", l.Addr().String()}, []string{l.Addr().String(), "in use", "-addr"}},
		{"a data file in use", []string{"-data", inUse, "-addr", "127.0.0.1:0"}, []string{inUse}},
		{"a data file's folder that is none", []string{"-data", filepath.Join(noFolder, "x"), "-addr", "127.0.0.1:0"}, []string{noFolder, "-data"}},
		{"an argument", []string{"9090"}, []string{"9090"}},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := run(ctx, test.args, io.Discard)
		cancel()
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got error %v, want one with %q", test.what, err, want)
			}
		}
	}
}

func TestARequestUnderWayIsFinishedAtShutdown(t *testing.T) {
	services := startLocal(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	services.SetHooks(gaelocal.Hooks{Before: func(ctx context.Context, c gaelocal.Call) error {
		if c.Method == "Commit" {
			close(arrived)
			<-release
		}
		return nil
	}})
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- serve(ctx, l, demo{allowHTTP: true}.handler()) }()

	b := newBrowser(t, "http://"+l.Addr().String())
	b.submit("/demo/login", url.Values{"name": {"Ada"}, "password": {password}}).wantStatus(http.StatusSeeOther)
	type answer struct {
		status int
		err    error
	}
	answered := make(chan answer, 1)
	visit := b.request(http.MethodGet, "/demo", nil)
	go func() {
		res, err := b.client.Do(visit)
		if err != nil {
			answered <- answer{err: err}
			return
		}
		answered <- answer{res.StatusCode, res.Body.Close()}
	}()
	<-arrived
	stop()
	for { // until the server takes no more connections
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if got := <-answered; got.status != http.StatusOK || got.err != nil {
		t.Errorf("request under way: got status %d, error %v, want 200 and none", got.status, got.err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("serve: got error %v, want none", err)
	}
}

func TestEveryLoginGetsANewSession(t *testing.T) {
	b, _ := startDemo(t)
	b.setCookie(&http.Cookie{Name: cookieName, Value: "known-to-the-attacker", Path: "/"})
	b.login("Ada", password).wantVisit("Ada", 1)
	first := b.cookie()
	if first.Value == "known-to-the-attacker" {
		t.Fatal("the session got the id that the browser sent")
	}
	b.login("Grace", password).wantVisit("Grace", 1)
	if b.cookie().Value == first.Value {
		t.Error("a second login kept the session's id")
	}
	b.setCookie(first)
	b.get("/demo").wantLogin()
}

func TestTheCookieNeedsHTTPSUnlessTheDemoRunsLocally(t *testing.T) {
	startLocal(t)
	for _, allowHTTP := range []bool{false, true} {
		r := httptest.NewRequest(http.MethodPost, "/demo/login", strings.NewReader(url.Values{"name": {"Ada"}, "password": {password}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		demo{allowHTTP: allowHTTP}.handler().ServeHTTP(w, r)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 || cookies[0].Secure == allowHTTP || !cookies[0].HttpOnly {
			t.Errorf("local %v: got cookies %v, want one with Secure %v and HttpOnly", allowHTTP, cookies, !allowHTTP)
		}
	}
}

// startOnAppEngine runs the demo as on App Engine, at a port that the environment
// names, until the test ends. Until the demo has it somebody else may take it.
func startOnAppEngine(t *testing.T) (address string) {
	t.Helper()
	t.Setenv("GAE_ENV", "standard")
	for range 10 {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = free.Addr().String()
		free.Close()
		t.Setenv("PORT", strings.TrimPrefix(address, "127.0.0.1:"))
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, nil, io.Discard) }()
		if err = awaitServer(address, ended); err == nil {
			t.Cleanup(func() {
				stop()
				if err := <-ended; err != nil {
					t.Errorf("run: got error %v, want none", err)
				}
			})
			return address
		}
		stop()
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	t.Fatal("no port is free for long")
	return ""
}

// awaitServer waits until connections are accepted, or returns why the server
// has ended.
func awaitServer(address string, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Millisecond):
		}
		// A connection may get the very port it is made to, and then is one to itself.
		if c, err := net.Dial("tcp", address); err == nil {
			toItself := c.LocalAddr().String() == address
			c.Close()
			if !toItself {
				return nil
			}
		}
	}
}

func TestOnAppEngineItUsesWhatIsThere(t *testing.T) {
	startLocal(t) // stands for App Engine's services
	b := newBrowser(t, "http://"+startOnAppEngine(t))
	b.get("/demo").wantLogin().wantText("on App Engine")
	cookie := b.submit("/demo/login", url.Values{"name": {"Ada"}, "password": {password}}).header.Get("Set-Cookie")
	if !strings.Contains(cookie, "; Secure") {
		t.Errorf("Set-Cookie: got %q, want Secure in it", cookie)
	}
	b.get("/demo/purge").wantStatus(http.StatusForbidden)
	cron := b.request(http.MethodGet, "/demo/purge", nil)
	cron.Header.Set("X-Appengine-Cron", "true")
	b.do(cron).wantStatus(http.StatusOK).wantText(`"completed":true`)
	b.post("/demo/flush", nil).wantStatus(http.StatusNotFound)
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	b, _ := startDemo(t)
	b.login("Ada", password).wantVisit("Ada", 1)
	for _, header := range []http.Header{
		{"Origin": {"https://evil.example"}},
		{"Origin": {"null"}},
		{"Origin": {"http://127.0.0.1:1"}}, // another port is another origin
		{"Sec-Fetch-Site": {"cross-site"}},
		{"Sec-Fetch-Site": {"same-site"}},
	} {
		r := b.request(http.MethodPost, "/demo/logout", nil)
		r.Header.Del("Origin")
		for name, values := range header {
			r.Header[name] = values
		}
		b.do(r).wantStatus(http.StatusForbidden)
	}
	b.get("/demo").wantVisit("Ada", 2)
}

func TestOnlyPOSTChangesAnything(t *testing.T) {
	b, _ := startDemo(t)
	b.login("Ada", password)
	b.get("/demo/logout").wantStatus(http.StatusMethodNotAllowed)
	b.get("/demo/flush").wantStatus(http.StatusMethodNotAllowed)
	b.get("/demo/login?name=Grace&password="+password).wantVisit("Ada", 2)
	b.do(b.request(http.MethodHead, "/demo", nil)).wantStatus(http.StatusOK)
	b.get("/demo?look").wantVisit("Ada", 2).wantSource("Memcache", "1")
	b.post("/demo", nil).wantStatus(http.StatusMethodNotAllowed)
}

func TestFlushIsOfferedOnlyWhereItWorks(t *testing.T) {
	startLocal(t)
	web := httptest.NewServer(demo{allowHTTP: true}.handler())
	defer web.Close()
	b := newBrowser(t, web.URL)
	if page := b.login("Ada", password).wantVisit("Ada", 1); strings.Contains(page.body, "flush") {
		t.Error("the page offers to flush Memcache")
	}
	b.post("/demo/flush", nil).wantStatus(http.StatusNotFound)
}

func TestNamesAreCheckedAndEscaped(t *testing.T) {
	b, _ := startDemo(t)
	b.login("  ", password).wantStatus(http.StatusUnprocessableEntity).wantLogin().wantText("Please enter a name.")
	b.login(strings.Repeat("é", maxNameLength+1), password).wantStatus(http.StatusUnprocessableEntity).wantText("at most 40 characters")
	b.login(strings.Repeat("é", maxNameLength), password).wantVisit(strings.Repeat("é", maxNameLength), 1)
	const evil = `<script>alert("1")</script>`
	failed := b.login(evil, "")
	page := b.login(evil, password).wantVisit(evil, 1)
	if strings.Contains(failed.body+page.body, "<script") {
		t.Errorf("the name is in the page as HTML:\n%s", page.body)
	}
	b.login(" \xff ", password).wantStatus(http.StatusUnprocessableEntity)
}

func TestThePageMayRunAndLoadNothingFromElsewhere(t *testing.T) {
	b, _ := startDemo(t)
	b.login("Ada", password)
	page := b.get("/demo").wantVisit("Ada", 2)
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'",
		"X-Content-Type-Options":  "nosniff",
		"Cache-Control":           "no-store",
	} {
		if got := page.header.Get(name); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q in it", name, got, want)
		}
	}
	for _, link := range regexp.MustCompile(`(?:href|src)="([^"#]*)"`).FindAllStringSubmatch(page.body, -1) {
		b.get(link[1]).wantStatus(http.StatusOK)
	}
	if strings.Contains(page.body, "style=") || strings.Contains(page.body, "<style") {
		t.Error("the page has a style that its own policy forbids")
	}
}

func TestThePageShowsWhatTheStoreReports(t *testing.T) {
	b, services := startDemo(t)
	b.login("Ada", password).wantVisit("Ada", 1)
	services.SetHooks(gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		if c.Service == "datastore_v3" {
			return errors.New("Datastore is down")
		}
		return nil
	}})
	b.get("/demo").wantVisit("Ada", 2).wantText("Datastore is down")

	// Removing needs Datastore: the cookie is kept, to try again with.
	b.post("/demo/logout", nil)
	if b.cookie() == nil {
		t.Error("a logout that failed deleted the cookie")
	}
	services.SetHooks(gaelocal.Hooks{})
	b.post("/demo/logout", nil)
	b.setCookie(&http.Cookie{Name: cookieName, Value: "x", Path: "/"})
	b.get("/demo").wantLogin()
}
