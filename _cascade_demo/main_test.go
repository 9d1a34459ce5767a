package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/demo"
	"github.com/gaesession/gaesession/internal/demo/demotest"
)

// startProcess runs the demo with a data folder, as main does.
func startProcess(t *testing.T, dir string) demotest.Process {
	t.Helper()
	return demotest.Start(t, func(ctx context.Context, out io.Writer) error {
		return cascadeDemo.Run(ctx, []string{"-addr", "127.0.0.1:0", "-data", dir}, out)
	})
}

// startOn serves the demo on services of its own.
func startOn(t *testing.T) (*browser, *gaelocal.Server) {
	t.Helper()
	services := gaelocal.StartForTest(t)
	h, err := newHandler(demo.Place{Local: true, Faults: demo.FaultsOf(services)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	return newBrowser(t, web.URL), services
}

type browser struct {
	t      *testing.T
	url    string
	client *http.Client
}

func newBrowser(t *testing.T, url string) *browser {
	t.Helper()
	return &browser{t, url, demotest.Client(t)}
}

func (b *browser) get(path string) string { return b.do(http.MethodGet, path, nil) }
func (b *browser) post(path string, form ...string) string {
	v := url.Values{}
	for i := 0; i < len(form); i += 2 {
		v.Set(form[i], form[i+1])
	}
	return b.do(http.MethodPost, path, v)
}

func (b *browser) do(method, path string, form url.Values) string {
	b.t.Helper()
	return b.answer(method, path, form, http.StatusOK)
}

// fails returns the page that answers a request which could not be served.
func (b *browser) fails(method, path string, form url.Values) string {
	b.t.Helper()
	return b.answer(method, path, form, http.StatusServiceUnavailable)
}

func (b *browser) answer(method, path string, form url.Values, status int) string {
	b.t.Helper()
	req, err := http.NewRequest(method, b.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := b.client.Do(req)
	if err != nil {
		b.t.Errorf("%s %s: %v", method, path, err)
		return ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status {
		b.t.Errorf("%s %s: got %s, %v", method, path, res.Status, err)
	}
	return string(body)
}

func (b *browser) cookie() string {
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

func wantText(t *testing.T, page string, want ...string) {
	t.Helper()
	for _, want := range want {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not on the page:\n%s", want, page)
		}
	}
}

func TestABasketFromTheFirstFruitToLogout(t *testing.T) {
	p := startProcess(t, "")
	b := newBrowser(t, p.URL)
	wantText(t, b.get("/"), "nothing in your basket", "No operations")
	if b.cookie() != "" {
		t.Error("a cookie before there is anything to remember")
	}
	wantText(t, b.post("/add", "fruit", "Pears"), "Pears were put", "<b>1</b> Pears")
	before := b.cookie()
	wantText(t, b.get("/"), "<b>1</b> Pears", "1 operation ")
	wantText(t, b.post("/add", "fruit", "Stones"), "no such fruit")
	wantText(t, b.post("/login", "name", " "), "Please enter a name")
	wantText(t, b.post("/login", "name", "Ann <3"), "Ann &lt;3</span>", "new id", "<b>1</b> Pears")
	if b.cookie() == before {
		t.Error("the login kept the cookie")
	}
	b.post("/cache/flush")
	wantText(t, b.get("/"), "Ann &lt;3", "1 operation ", "came from Memcache") // the page after the flush filled Memcache
	wantText(t, b.post("/basket/empty"), "Your basket is empty")
	wantText(t, b.post("/logout"), "You are logged out", "nothing in your basket", "Log in")
	if b.cookie() != "" {
		t.Error("the cookie is still there")
	}
	wantText(t, b.get("/purge"), `"completed":true`)
	wantText(t, b.get("/style.css"), "--accent")
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestTheBasketIsStillThereWhileMemcacheDoesNotAnswer(t *testing.T) {
	p := startProcess(t, "")
	b := newBrowser(t, p.URL)
	b.post("/add", "fruit", "Pears")
	wantText(t, b.post("/cache/stop"), "Memcache did not answer in time", "Your basket is still here", "<b>1</b> Pears")
	wantText(t, b.post("/add", "fruit", "Pears"), "<b>2</b> Pears", "Saved all the same")
	wantText(t, b.post("/login", "name", "Ann"), "Ann</span>", "<b>2</b> Pears", "Nobody waits for Memcache any more", "The circuit breaker is open")
	wantText(t, b.post("/logout"), "You are logged out", "nothing in your basket")
	wantText(t, b.post("/cache/start"), "Memcache answers again", "nothing in your basket")
	b.post("/add", "fruit", "Plums")
	for until := time.Now().Add(time.Minute); !strings.Contains(b.get("/"), "came from Memcache"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("Memcache is not asked again")
		}
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestNobodyLosesABasketBecauseServicesFail(t *testing.T) {
	b, services := startOn(t)
	b.post("/add", "fruit", "Pears")
	cookie := b.cookie()
	services.SetHooks(gaelocal.Hooks{Before: func(context.Context, gaelocal.Call) error { return errors.New("all is down") }})
	for _, path := range []string{"/add", "/basket/empty", "/login", "/logout"} {
		wantText(t, b.fails(http.MethodPost, path, url.Values{"fruit": {"Plums"}, "name": {"Ann"}}), "That did not work", "all is down")
	}
	wantText(t, b.fails(http.MethodGet, "/", nil), "That did not work", "all is down")
	if b.cookie() != cookie { // the next page sets it again, with another time
		t.Error("the cookie is another one")
	}
	services.SetHooks(gaelocal.Hooks{})
	wantText(t, b.get("/"), "<b>1</b> Pears")
}

// The session is there, and nothing can be written.
func TestAChangeThatIsNotSavedIsSaidSoInsteadOfAnswered(t *testing.T) {
	b, services := startOn(t)
	b.post("/add", "fruit", "Pears")
	b.get("/")
	cookie := b.cookie()
	nothingWritten := gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		if c.Method != "Get" && c.Method != "BeginTransaction" {
			return errors.New("nothing can be written")
		}
		return nil
	}}
	services.SetHooks(nothingWritten)
	for _, path := range []string{"/add", "/basket/empty", "/login"} {
		wantText(t, b.fails(http.MethodPost, path, url.Values{"fruit": {"Plums"}, "name": {"Ann"}}), "That did not work", "nothing can be written")
	}
	services.SetHooks(gaelocal.Hooks{})
	if b.cookie() != cookie {
		t.Error("a change that is not saved changed the cookie")
	}
	wantText(t, b.get("/"), "<b>1</b> Pears")
	cookie = b.cookie()
	services.SetHooks(nothingWritten)
	wantText(t, b.fails(http.MethodPost, "/logout", nil), "That did not work", "nothing can be written")
	if b.cookie() != cookie {
		t.Error("a logout that failed took the cookie away")
	}
}

func TestWhoIsLoggedOutElsewhereDuringAChangeIsToldSo(t *testing.T) {
	b, services := startOn(t)
	b.post("/login", "name", "Ann")
	b.get("/")
	other := newBrowser(t, b.url)
	u, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	other.client.Jar.SetCookies(u, b.client.Jar.Cookies(u))
	var once sync.Once
	services.SetHooks(gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		if c.Method == "BeginTransaction" {
			once.Do(func() { other.post("/logout") })
		}
		return nil
	}})
	wantText(t, b.post("/add", "fruit", "Pears"), "Your session has ended", "nothing in your basket")
}

func TestAForgedCookieIsNoSession(t *testing.T) {
	p := startProcess(t, "")
	b := newBrowser(t, p.URL)
	u, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: cookieName, Value: "forged"}})
	wantText(t, b.get("/"), "nothing in your basket", "No operations")
	wantText(t, b.post("/add", "fruit", "Pears"), "<b>1</b> Pears")
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestTabsThatAddDifferentFruitAtOnceLoseNothing(t *testing.T) {
	p := startProcess(t, "")
	b := newBrowser(t, p.URL)
	b.post("/login", "name", "Ann")
	var tabs sync.WaitGroup
	for _, f := range fruit {
		tabs.Add(1)
		go func() {
			defer tabs.Done()
			for range 5 {
				b.post("/add", "fruit", f)
			}
		}()
	}
	tabs.Wait()
	for _, f := range fruit {
		wantText(t, b.get("/"), "<b>5</b> "+f)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestABasketSurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new folder")
	p := startProcess(t, dir)
	b := newBrowser(t, p.URL)
	b.post("/add", "fruit", "Plums")
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	p = startProcess(t, dir)
	b.url = p.URL // cookies know no ports
	wantText(t, b.get("/"), "<b>1</b> Plums", "came from Datastore")
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeStartedSaysWhy(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cookie.key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := cascadeDemo.Run(context.Background(), []string{"-addr", "127.0.0.1:0", "-data", dir}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "cookie.key") || !strings.Contains(err.Error(), "-data") {
		t.Errorf("got %v, want an error about the key in the folder", err)
	}
	t.Setenv("MaxMemcacheSessionSizeBytes", "much")
	err = cascadeDemo.Run(context.Background(), []string{"-addr", "127.0.0.1:0", "-data", ""}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "MaxMemcacheSessionSizeBytes") {
		t.Errorf("got %v, want an error about the environment", err)
	}
	t.Setenv("GAE_ENV", "standard")
	t.Setenv("SESSION_KEY", "00ff")
	err = cascadeDemo.Run(context.Background(), nil, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "SESSION_KEY") {
		t.Errorf("on App Engine: got %v, want an error about the key", err)
	}
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	p := startProcess(t, "")
	req, err := http.NewRequest(http.MethodPost, p.URL+"/basket/empty", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "http://evil.example")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("got %s, want 403", res.Status)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestTheCookieNeedsHTTPSWhereTheDemoIsReachedWithIt(t *testing.T) {
	gaelocal.StartForTest(t)
	t.Setenv("SESSION_KEY", strings.Repeat("00ff", keySize/2))
	for _, https := range []bool{false, true} {
		h, err := newHandler(demo.Place{HTTPS: https})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/add", strings.NewReader("fruit=Pears"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		cookies := w.Result().Cookies()
		if len(cookies) != 1 || cookies[0].Secure != https || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteLaxMode {
			t.Errorf("HTTPS %v: got cookies %v", https, cookies)
		}
	}
}
