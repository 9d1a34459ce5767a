package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/demo"
	"github.com/gaesession/gaesession/internal/demo/demotest"
)

// startDemo serves the demo on services of its own.
func startDemo(t *testing.T) (*browser, *gaelocal.Server) {
	t.Helper()
	services := gaelocal.StartForTest(t)
	return serve(t, demo.Place{Services: "gaelocal", Local: true, Faults: demo.FaultsOf(services)}), services
}

// serve serves the demo in a place.
func serve(t *testing.T, p demo.Place) *browser {
	t.Helper()
	h, err := newHandler(p)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(h)
	t.Cleanup(func() {
		web.Close()
		if err := gaesession.Drain(context.Background()); err != nil { // what Memcache is still to be told is not the next test's
			t.Error(err)
		}
	})
	return newBrowser(t, web.URL)
}

// startProcess runs the demo with a data folder, as main does.
func startProcess(t *testing.T, data string) demotest.Process {
	t.Helper()
	return demotest.Start(t, func(ctx context.Context, out io.Writer) error {
		return sessionDemo.Run(ctx, []string{"-addr", "127.0.0.1:0", "-data", data}, out)
	})
}

func TestLoginTenVisitsFlushAndLogout(t *testing.T) {
	b, _ := startDemo(t)
	tellStory(t, b, func() {
		// The page that follows would fill Memcache again.
		b.submit("/cache/flush", nil).wantStatus(http.StatusSeeOther)
	})
}

func TestANoticeIsShownOnce(t *testing.T) {
	b, _ := startDemo(t)
	b.login("Ada", password)
	b.post("/cache/flush", nil).wantText("Memcache was emptied.").wantVisit("Ada", 2).wantSource("Datastore", "6")
	if page := b.get("/"); strings.Contains(page.body, "emptied") {
		t.Error("a reload shows the notice again")
	}
	b.post("/logout", nil).wantText("You are logged out.")
	if page := b.get("/"); strings.Contains(page.body, "logged out") {
		t.Error("a reload shows the notice of the logout again")
	}
}

// Three requests at most wait for half a second. Then the circuit breaker is open.
func TestTheUserStaysLoggedInWhileMemcacheDoesNotAnswer(t *testing.T) {
	b, _ := startDemo(t)
	b.login("Ada", password)
	b.post("/cache/stop", nil).wantVisit("Ada", 2).wantSource("Datastore", "3").
		wantText("Memcache did not answer in time.").wantText("You are still logged in").
		wantText("Saved all the same.").wantText("still to be told of 1 session")
	waiting := 1 // requests that have waited
	for strings.Contains(b.get("/?look").wantVisit("Ada", 2).body, "did not answer in time") {
		if waiting++; waiting > 3 {
			t.Fatal("a fourth request waits")
		}
	}
	b.get("/").wantVisit("Ada", 3).wantSource("Datastore", "2").wantText("Nobody waits for Memcache any more.").wantText("You are still logged in").
		wantText("The circuit breaker is open")
	b.post("/logout", nil).wantLogin().wantText("Memcache will as soon as it answers")
	b.get("/").wantLogin()
	b.login("Grace", password).wantVisit("Grace", 1)

	b.startMemcache().wantVisit("Grace", 2)
}

// startMemcache lets Memcache answer again, and waits until it is asked: the breaker
// closes with its next probe. It returns the page that the button leads to.
func (b *browser) startMemcache() shown {
	b.t.Helper()
	page := b.post("/cache/start", nil).wantText("Memcache answers again.")
	for until := time.Now().Add(time.Minute); b.get("/?look").says(sourceShown) != "Memcache"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			b.t.Fatal("Memcache is not asked again")
		}
	}
	return page
}

func TestALoginSurvivesARestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "new folder")
	p := startProcess(t, data)
	b := newBrowser(t, p.URL)
	b.login("Ada", password).wantVisit("Ada", 1)
	b.get("/").wantVisit("Ada", 2)
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if c := b.cookie(); c == nil {
		t.Fatal("no cookie")
	}

	p = startProcess(t, data)
	again := newBrowser(t, p.URL)
	again.setCookie(b.cookie())
	again.get("/").wantVisit("Ada", 3).wantSource("Datastore", "6")
	again.post("/logout", nil).wantLogin()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}

	p = startProcess(t, data)
	last := newBrowser(t, p.URL)
	last.setCookie(b.cookie())
	last.get("/").wantLogin()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
}

func TestEveryLoginGivesTheSessionANewID(t *testing.T) {
	b, _ := startDemo(t)
	b.setCookie(&http.Cookie{Name: cookieName, Value: "known-to-the-attacker", Path: "/"})
	b.login("Ada", password).wantVisit("Ada", 1)
	first := b.cookie()
	if first.Value == "known-to-the-attacker" {
		t.Fatal("the session got the id that the browser sent")
	}
	for _, name := range []string{"Ada", "Grace"} { // the same user, and another one
		before := b.cookie()
		b.login(name, password).wantVisit(name, 1)
		if b.cookie().Value == before.Value {
			t.Errorf("a login as %s kept the session's id", name)
		}
	}
	b.setCookie(first)
	b.get("/").wantLogin()
}

func TestTheCookieNeedsHTTPSUnlessTheDemoRunsLocally(t *testing.T) {
	gaelocal.StartForTest(t)
	for _, https := range []bool{false, true} {
		b := serve(t, demo.Place{HTTPS: https})
		header := b.submit("/login", url.Values{"name": {"Ada"}, "password": {password}}).header
		cookies := (&http.Response{Header: header}).Cookies()
		if len(cookies) != 1 || cookies[0].Secure != https || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode {
			t.Errorf("HTTPS %v: got cookies %v, want one with Secure %v, HttpOnly and SameSite=Lax", https, cookies, https)
		}
	}
}

func TestOnAppEngineItUsesWhatIsThere(t *testing.T) {
	gaelocal.StartForTest(t) // stands for App Engine's services
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
	b.get("/").wantLogin().wantText("on App Engine")
	cookie := b.submit("/login", url.Values{"name": {"Ada"}, "password": {password}}).header.Get("Set-Cookie")
	if !strings.Contains(cookie, "; Secure") {
		t.Errorf("Set-Cookie: got %q, want Secure in it", cookie)
	}
	b.get("/purge").wantStatus(http.StatusForbidden)
	cron := b.request(http.MethodGet, "/purge", nil)
	cron.Header.Set("X-Appengine-Cron", "true")
	b.do(cron).wantStatus(http.StatusOK).wantText(`"completed":true`)
	b.post("/cache/flush", nil).wantStatus(http.StatusNotFound)
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	b, _ := startDemo(t)
	b.login("Ada", password).wantVisit("Ada", 1)
	r := b.request(http.MethodPost, "/logout", nil)
	r.Header.Set("Origin", "https://evil.example")
	b.do(r).wantStatus(http.StatusForbidden)
	b.get("/").wantVisit("Ada", 2)
}

func TestOnlyPOSTChangesAnything(t *testing.T) {
	b, _ := startDemo(t)
	b.login("Ada", password)
	b.get("/logout").wantStatus(http.StatusMethodNotAllowed)
	b.get("/cache/flush").wantStatus(http.StatusMethodNotAllowed)
	b.get("/login?name=Grace&password="+password).wantVisit("Ada", 2)
	b.do(b.request(http.MethodHead, "/", nil)).wantStatus(http.StatusOK)
	b.get("/?look").wantVisit("Ada", 2).wantSource("Memcache", "1")
	b.post("/", nil).wantStatus(http.StatusMethodNotAllowed)
}

func TestFaultsAreOfferedOnlyWhereTheyHurtNobody(t *testing.T) {
	gaelocal.StartForTest(t)
	b := serve(t, demo.Place{Services: "a local App Engine"})
	if page := b.login("Ada", password).wantVisit("Ada", 1); strings.Contains(page.body, "/cache/") {
		t.Error("the page offers to make Memcache fail")
	}
	for _, button := range []string{"flush", "stop", "start"} {
		b.post("/cache/"+button, nil).wantStatus(http.StatusNotFound)
	}
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
	page := b.get("/").wantVisit("Ada", 2)
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
	services.SetHooks(failing("datastore_v3"))
	b.get("/").wantVisit("Ada", 2).wantText("Saved all the same.").wantText("datastore_v3 is down")
	services.SetHooks(gaelocal.Hooks{})
	b.post("/logout", nil).wantLogin()
}

func TestNobodyLosesACookieBecauseServicesFail(t *testing.T) {
	b, services := startDemo(t)
	b.login("Ada", password).wantVisit("Ada", 1)
	before := b.cookie().Value
	services.SetHooks(failing("memcache", "datastore_v3"))
	for _, page := range []shown{b.get("/"), b.post("/logout", nil), b.login("Grace", password)} {
		page.wantStatus(http.StatusServiceUnavailable).wantText("That did not work").wantText("is down")
	}
	if c := b.cookie(); c == nil || c.Value != before {
		t.Errorf("the cookie is another one: %v", c)
	}
	services.SetHooks(gaelocal.Hooks{})
	b.get("/").wantVisit("Ada", 2)
	b.setCookie(&http.Cookie{Name: cookieName, Path: "/", MaxAge: -1})
	services.SetHooks(failing("memcache", "datastore_v3"))
	b.login("Grace", password).wantStatus(http.StatusServiceUnavailable).wantText("That did not work")
	if c := b.cookie(); c != nil {
		t.Errorf("a login that was not saved set a cookie")
	}
}

// The session is there, and nothing can be written.
func TestALoginThatIsNotSavedIsSaidSoInsteadOfAnswered(t *testing.T) {
	b, services := startDemo(t)
	b.login("Ada", password).wantVisit("Ada", 1)
	before := b.cookie().Value
	services.SetHooks(gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		if c.Method != "Get" && c.Method != "BeginTransaction" {
			return errors.New("nothing can be written")
		}
		return nil
	}})
	b.login("Grace", password).wantStatus(http.StatusServiceUnavailable).wantText("That did not work").wantText("nothing can be written")
	b.get("/").wantStatus(http.StatusServiceUnavailable).wantText("That did not work")
	services.SetHooks(gaelocal.Hooks{})
	if b.cookie().Value != before {
		t.Error("the cookie is another one")
	}
	b.get("/").wantVisit("Ada", 2)
}

func TestWhoIsLoggedOutElsewhereDuringAVisitIsAskedToLogIn(t *testing.T) {
	b, services := startDemo(t)
	b.login("Ada", password).wantVisit("Ada", 1)
	other := newBrowser(t, b.base)
	other.setCookie(b.cookie())
	var once sync.Once
	services.SetHooks(gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		if c.Method == "BeginTransaction" {
			once.Do(func() { other.post("/logout", nil) })
		}
		return nil
	}})
	b.get("/").wantLogin().wantText("Your session has ended. Please log in again.")
}

// failing are hooks that fail every call of these services.
func failing(services ...string) gaelocal.Hooks {
	return gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		if slices.Contains(services, c.Service) {
			return errors.New(c.Service + " is down")
		}
		return nil
	}}
}
