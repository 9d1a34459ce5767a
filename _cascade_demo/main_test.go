package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/demo"
)

// A process is the demo as main runs it.
type process struct {
	url  string
	stop func() error // as a signal does; returns what run returned
}

func startProcess(t *testing.T, dir string) process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := cascadeDemo.Run(ctx, []string{"-addr", "127.0.0.1:0", "-data", dir}, in)
		in.CloseWithError(err)
		done <- err
	}()
	t.Cleanup(cancel)
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the demo did not start: %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	u := regexp.MustCompile(`http://[^/\s]+`).FindString(line)
	if u == "" {
		t.Fatalf("the demo does not say where it is: %q", line)
	}
	return process{u, func() error { cancel(); return <-done }}
}

type browser struct {
	t      *testing.T
	url    string
	client *http.Client
}

func newBrowser(t *testing.T, url string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, url, &http.Client{Jar: jar}}
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
	if err != nil || res.StatusCode != http.StatusOK {
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
	b := newBrowser(t, p.url)
	wantText(t, b.get("/"), "nothing in your basket", "0 calls")
	if b.cookie() != "" {
		t.Error("a cookie before there is anything to remember")
	}
	wantText(t, b.post("/add", "fruit", "Pears"), "Pears were put", "<b>1</b> Pears")
	before := b.cookie()
	wantText(t, b.get("/"), "<b>1</b> Pears", "1 call ")
	wantText(t, b.post("/add", "fruit", "Stones"), "no such fruit")
	wantText(t, b.post("/login", "name", " "), "Please enter a name")
	wantText(t, b.post("/login", "name", "Ann <3"), "Hello, Ann &lt;3", "new id", "<b>1</b> Pears")
	if b.cookie() == before {
		t.Error("the login kept the cookie")
	}
	b.post("/flush")
	wantText(t, b.get("/"), "Hello, Ann", "1 call ") // the page after the flush filled Memcache
	wantText(t, b.post("/empty"), "Your basket is empty")
	wantText(t, b.post("/logout"), "nothing in your basket", "Log in")
	if b.cookie() != "" {
		t.Error("the cookie is still there")
	}
	wantText(t, b.get("/purge"), `"completed":true`)
	wantText(t, b.get("/style.css"), "--accent")
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestTabsThatAddDifferentFruitAtOnceLoseNothing(t *testing.T) {
	p := startProcess(t, "")
	b := newBrowser(t, p.url)
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
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestABasketSurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new folder")
	p := startProcess(t, dir)
	b := newBrowser(t, p.url)
	b.post("/add", "fruit", "Plums")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p = startProcess(t, dir)
	b.url = p.url // cookies know no ports
	wantText(t, b.get("/"), "<b>1</b> Plums", "Datastore")
	if err := p.stop(); err != nil {
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
	req, err := http.NewRequest(http.MethodPost, p.url+"/empty", nil)
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
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestTheCookieNeedsHTTPSWhereTheDemoIsReachedWithIt(t *testing.T) {
	services, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer services.Close()
	restore, err := services.Setenv()
	if err != nil {
		t.Fatal(err)
	}
	defer restore()
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
