package main

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/gaesession/gaesession/gaelocal"
)

const (
	chromeOnLinux = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
	safariOnPhone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)

// loggedIn returns browsers in which a user of that name has logged in.
func loggedIn(t *testing.T, like *browser, name string, agents ...string) (all []*browser) {
	t.Helper()
	for _, agent := range agents {
		b := newBrowser(t, like.base)
		b.agent = agent
		b.login(name, password).wantVisit(name, 1)
		all = append(all, b)
	}
	return all
}

var refShown = regexp.MustCompile(`name="ref" value="([^"]+)"`)

// wantDevices checks which sessions the page has, the latest login first. "this:"
// begins the one that the browser has.
func (s shown) wantDevices(want ...string) shown {
	s.t.Helper()
	var got []string
	for _, m := range regexp.MustCompile(`(?s)<li>\s*<span><b>(.*?)</b>.*?</li>`).FindAllStringSubmatch(s.body, -1) {
		if strings.Contains(m[0], "this session") {
			m[1] = "this: " + m[1]
		}
		got = append(got, m[1])
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Errorf("sessions: got %q, want %q", got, want)
	}
	return s
}

func TestAUserSeesEverySessionAndEndsOneThere(t *testing.T) {
	site, _ := startDemo(t)
	ada := loggedIn(t, site, "Ada", chromeOnLinux, safariOnPhone, "")
	grace := loggedIn(t, site, "Grace", chromeOnLinux)[0]
	page := ada[0].get("/devices").wantStatus(http.StatusOK).wantDevices("Another browser", "Safari on iPhone", "this: Chrome on Linux")
	grace.get("/devices").wantDevices("this: Chrome on Linux")
	refs := refShown.FindAllStringSubmatch(page.body, -1)
	if len(refs) != 2 {
		t.Fatalf("%d buttons, want 2", len(refs))
	}
	phone := url.Values{"ref": {refs[1][1]}}

	grace.post("/devices/logout", phone) // is nobody she may end
	ada[1].get("/").wantVisit("Ada", 2)
	ada[0].post("/devices/logout", phone).wantText("That session is over.").wantDevices("Another browser", "this: Chrome on Linux")
	ada[1].get("/").wantLogin().wantText("a session that is over")
	ada[2].get("/").wantVisit("Ada", 2)
	ada[0].get("/").wantVisit("Ada", 2)
	grace.get("/").wantVisit("Grace", 2)
}

func TestLogOutEverywhereElseLeavesThisSession(t *testing.T) {
	site, services := startDemo(t)
	ada := loggedIn(t, site, "Ada", chromeOnLinux, safariOnPhone, "curl/8.0")
	grace := loggedIn(t, site, "Grace", chromeOnLinux)[0]
	ada[1].post("/devices/logout-others", nil).wantText("You are logged in here alone.").wantDevices("this: Safari on iPhone")
	if page := ada[1].get("/devices"); strings.Contains(page.body, "everywhere else") {
		t.Error("there is nothing else, and the page offers to end it")
	}
	for _, flushed := range []bool{false, true} {
		if flushed {
			services.FlushMemcache()
		}
		ada[0].get("/?look").wantLogin()
		ada[2].get("/?look").wantLogin()
		ada[1].get("/?look").wantVisit("Ada", 1)
		grace.get("/?look").wantVisit("Grace", 1)
	}
}

func TestTheSessionsOfAUserAreShownToThatUserAlone(t *testing.T) {
	site, _ := startDemo(t)
	ada := loggedIn(t, site, "Ada", chromeOnLinux, safariOnPhone)
	ref := refShown.FindStringSubmatch(ada[0].get("/devices").body)[1]
	nobody := newBrowser(t, site.base)
	nobody.get("/devices").wantLogin().wantText("Please log in first.")
	nobody.post("/devices/logout", url.Values{"ref": {ref}}).wantLogin()
	nobody.post("/devices/logout-others", nil).wantLogin()
	for _, b := range ada {
		b.get("/").wantVisit("Ada", 2)
	}
}

func TestWhoEndsTheirOwnSessionInTheListIsLoggedOut(t *testing.T) {
	site, _ := startDemo(t)
	ada := loggedIn(t, site, "Ada", chromeOnLinux, safariOnPhone)
	mine := refShown.FindStringSubmatch(ada[1].get("/devices").body)[1] // of ada[0]
	ada[0].post("/devices/logout", url.Values{"ref": {mine}}).wantLogin()
	if ada[0].cookie() != nil {
		t.Error("the cookie is still there")
	}
	ada[1].get("/devices").wantDevices("this: Safari on iPhone")
}

func TestSessionsAreEndedElsewhereWhileMemcacheDoesNotAnswer(t *testing.T) {
	site, _ := startDemo(t)
	ada := loggedIn(t, site, "Ada", chromeOnLinux, safariOnPhone)
	ada[0].post("/cache/stop", nil)
	ada[0].post("/devices/logout-others", nil).wantText("You are logged in here alone.").wantDevices("this: Chrome on Linux")
	ada[1].get("/?look").wantLogin()
	ada[0].startMemcache()
	ada[1].get("/?look").wantLogin()
}

func TestALoginNeedsDatastore(t *testing.T) {
	b, services := startDemo(t)
	services.SetHooks(failing("datastore_v3"))
	b.login("Ada", password).wantStatus(http.StatusServiceUnavailable).wantText("That did not work").wantText("datastore_v3 is down")
	if b.cookie() != nil {
		t.Error("a login that was not saved set a cookie")
	}
	services.SetHooks(gaelocal.Hooks{})
	b.login("Ada", password).wantVisit("Ada", 1)
}

func TestBrowsersAreNamed(t *testing.T) {
	for agent, want := range map[string]string{
		chromeOnLinux: "Chrome on Linux", safariOnPhone: "Safari on iPhone", "curl/8.5.0": "curl", "": "Another browser", "Linux": "Another browser",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0": "Edge on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:142.0) Gecko/20100101 Firefox/142.0":                      "Firefox on macOS",
		"Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0.0.0 Mobile Safari/537.36":                  "Chrome on Android",
	} {
		if got := device(agent); got != want {
			t.Errorf("%s: got %q, want %q", agent, got, want)
		}
	}
}
