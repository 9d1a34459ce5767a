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
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/demo"
)

// startDemo serves the demo on services of its own.
func startDemo(t *testing.T) (*browser, *gaelocal.Server) {
	t.Helper()
	services := startLocal(t)
	a := app{where: "gaelocal", allowHTTP: true, flush: services.FlushMemcache}
	web := httptest.NewServer(a.handler())
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

// startProcess runs the demo with a data folder until stop is called.
func startProcess(t *testing.T, data string) process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := sessionDemo.Run(ctx, []string{"-addr", "127.0.0.1:0", "-data", data}, in)
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
	data := filepath.Join(t.TempDir(), "new folder")
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
		app{allowHTTP: allowHTTP}.handler().ServeHTTP(w, r)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 || cookies[0].Secure == allowHTTP || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode {
			t.Errorf("local %v: got cookies %v, want one with Secure %v, HttpOnly and SameSite=Lax", allowHTTP, cookies, !allowHTTP)
		}
	}
}

func TestOnAppEngineItUsesWhatIsThere(t *testing.T) {
	startLocal(t) // stands for App Engine's services
	t.Setenv("GAE_ENV", "standard")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(free.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	t.Setenv("PORT", port)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sessionDemo.Run(ctx, nil, io.Discard) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: got error %v, want none", err)
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}

	b := newBrowser(t, "http://"+net.JoinHostPort(host, port))
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
	r := b.request(http.MethodPost, "/demo/logout", nil)
	r.Header.Set("Origin", "https://evil.example")
	b.do(r).wantStatus(http.StatusForbidden)
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
	web := httptest.NewServer(app{allowHTTP: true}.handler())
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
	b.login(strings.Repeat("é", demo.MaxNameLength+1), password).wantStatus(http.StatusUnprocessableEntity).wantText("at most 40 characters")
	b.login(strings.Repeat("é", demo.MaxNameLength), password).wantVisit(strings.Repeat("é", demo.MaxNameLength), 1)
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
