package main

import (
	"context"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A browser keeps cookies, follows redirects and sends the headers that say
// where a form comes from.
type browser struct {
	t      *testing.T
	base   string
	agent  string // what it calls itself
	client *http.Client
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	// dev_appserver.py builds the app first.
	return &browser{t, strings.TrimSuffix(base, "/"), chromeOnLinux, &http.Client{Jar: jar, Timeout: 5 * time.Minute}}
}

// A shown page is what a browser got, and what it says.
type shown struct {
	t      *testing.T
	path   string // after redirects
	status int
	header http.Header
	body   string
}

func (b *browser) do(r *http.Request) shown {
	b.t.Helper()
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return shown{b.t, res.Request.URL.Path, res.StatusCode, res.Header, string(body)}
}

func (b *browser) request(method, path string, form url.Values) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("User-Agent", b.agent)
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", b.base)
	}
	return r
}

func (b *browser) get(path string) shown {
	b.t.Helper()
	return b.do(b.request(http.MethodGet, path, nil))
}

func (b *browser) post(path string, form url.Values) shown {
	b.t.Helper()
	return b.do(b.request(http.MethodPost, path, form))
}

// submit is post without following the redirect.
func (b *browser) submit(path string, form url.Values) shown {
	b.t.Helper()
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	defer func() { b.client.CheckRedirect = nil }()
	return b.post(path, form)
}

func (b *browser) login(name, password string) shown {
	b.t.Helper()
	return b.post("/login", url.Values{"name": {name}, "password": {password}})
}

// cookie is the session's cookie, or nil.
func (b *browser) cookie() *http.Cookie {
	b.t.Helper()
	u, err := url.Parse(b.base)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == cookieName {
			return c
		}
	}
	return nil
}

// setCookie makes the browser send c from now on.
func (b *browser) setCookie(c *http.Cookie) {
	b.t.Helper()
	u, err := url.Parse(b.base)
	if err != nil {
		b.t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{c})
}

var (
	visitsShown     = regexp.MustCompile(`<strong>(\d+)</strong>`)
	nameShown       = regexp.MustCompile(`<span class="name">(.*?)</span>`)
	sourceShown     = regexp.MustCompile(`<h2 id="source">(?:This time your session came from )?(.*?)</h2>`)
	operationsShown = regexp.MustCompile(`<h2 id="calls">(\w+) operations? for this page</h2>`)
)

// says returns what the page has in the first group of re, or "".
func (s shown) says(re *regexp.Regexp) string {
	m := re.FindStringSubmatch(s.body)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

// wantVisit checks that the page greets name at its nth visit.
func (s shown) wantVisit(name string, n int) shown {
	s.t.Helper()
	if got := s.says(nameShown); s.status != http.StatusOK || got != name {
		s.t.Fatalf("page greets %q with status %d, want %q and 200", got, s.status, name)
	}
	if got, want := s.says(visitsShown), strconv.Itoa(n); got != want {
		s.t.Errorf("visits: got %s, want %s", got, want)
	}
	return s
}

// wantLogin checks that the page is the one to log in.
func (s shown) wantLogin() shown {
	s.t.Helper()
	if s.says(nameShown) != "" || !strings.Contains(s.body, `action="/login"`) {
		s.t.Errorf("got a page without a login, want one with:\n%s", s.body)
	}
	return s
}

// wantSource checks where the page says the session came from, and how many
// operations it says that took.
func (s shown) wantSource(source, operations string) shown {
	s.t.Helper()
	if got := s.says(sourceShown); got != source {
		s.t.Errorf("source: got %q, want %q", got, source)
	}
	if got := s.says(operationsShown); got != operations {
		s.t.Errorf("operations: got %s, want %s", got, operations)
	}
	return s
}

func (s shown) wantStatus(status int) shown {
	s.t.Helper()
	if s.status != status {
		s.t.Errorf("status of %s: got %d, want %d", s.path, s.status, status)
	}
	return s
}

func (s shown) wantText(text string) shown {
	s.t.Helper()
	if !strings.Contains(html.UnescapeString(s.body), text) {
		s.t.Errorf("page lacks %q:\n%s", text, s.body)
	}
	return s
}

const noSession = "There is no session"

// tellStory is what the demo is for: it runs on any services. flush empties
// Memcache.
func tellStory(t *testing.T, b *browser, flush func()) {
	t.Helper()
	b.get("/").wantStatus(http.StatusOK).wantLogin().wantSource(noSession, "No")

	b.login("Ada", "gophre").wantStatus(http.StatusUnprocessableEntity).wantLogin().wantText("That is not the password.")
	if c := b.cookie(); c != nil {
		t.Error("a login with a wrong password set a cookie")
	}

	b.login("Ada", password).wantVisit("Ada", 1).wantSource("Memcache", "3")
	for n := 2; n <= 10; n++ {
		b.get("/").wantVisit("Ada", n).wantSource("Memcache", "3")
	}
	b.get("/?look").wantVisit("Ada", 10).wantSource("Memcache", "1")

	flush()
	b.get("/").wantVisit("Ada", 11).wantSource("Datastore", "6").wantText("is in Memcache again")
	b.get("/").wantVisit("Ada", 12).wantSource("Memcache", "3")
	flush()
	b.get("/?look").wantVisit("Ada", 12).wantSource("Datastore", "6").wantText("is in Memcache again")
	b.get("/?look").wantVisit("Ada", 12).wantSource("Memcache", "1")

	if got, want := strings.TrimSpace(b.get("/purge").wantStatus(http.StatusOK).body), `{"completed":true,"deleted":0}`; got != want {
		t.Errorf("purge: got %s, want %s", got, want)
	}
	b.get("/").wantVisit("Ada", 13)

	old := b.cookie()
	b.post("/logout", nil).wantLogin().wantSource(noSession, "No").wantText("You are logged out.")
	if b.cookie() != nil {
		t.Error("logging out left the cookie")
	}
	b.setCookie(old)
	b.get("/").wantLogin().wantSource(noSession, "1").wantText("knows that it is over")
	flush()
	b.get("/").wantLogin().wantSource(noSession, "2")
}
