package gaesession_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// An account is an app whose users see where they are logged in.
type account struct {
	sessions *gaesession.Sessions
}

func newAccount(cache tier.Cache, backup tier.Backup) *account {
	sessions := &gaesession.Sessions{
		Owner: func(sess session.Session) string { // what never changes: a user's number
			user, _ := sess.Attr("user").(string)
			return user
		},
		Label: func(sess session.Session) string {
			browser, _ := sess.Attr("browser").(string)
			return browser
		},
		MaxPerOwner: 20,
	}
	sessions.Options.Cache, sessions.Options.Backup = cache, backup
	return &account{sessions}
}

func (a *account) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", a.logIn)
	mux.HandleFunc("GET /sessions", a.list)
	mux.HandleFunc("POST /end", a.end)
	mux.HandleFunc("POST /password", a.newPassword)
	return a.sessions.Handler(mux)
}

func (a *account) logIn(w http.ResponseWriter, r *http.Request) {
	sessions := a.sessions
	sess, err := sessions.Get(r)
	if err == nil && sess == nil {
		sess = session.NewSession()
		err = sessions.Add(r, sess)
	}
	if err != nil {
		http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
		return
	}
	sess.SetAttr("user", r.FormValue("user")) // another owner: the session gets a new id
	sess.SetAttr("browser", r.UserAgent())
}

// list shows where the user is logged in.
func (a *account) list(w http.ResponseWriter, r *http.Request) {
	sessions := a.sessions
	sess, err := sessions.Get(r)
	if err != nil || sess == nil {
		http.Error(w, "Please log in.", http.StatusUnauthorized)
		return
	}
	user, _ := sess.Attr("user").(string)
	all, err := sessions.SessionsOf(r.Context(), user)
	if err != nil {
		http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
		return
	}
	for _, s := range all {
		fmt.Fprintf(w, "%s since %s, here: %t, ref %s\n", s.Label, s.Since.Format("15:04"), s.Current, s.Ref)
	}
}

// end logs the user out in one place.
func (a *account) end(w http.ResponseWriter, r *http.Request) {
	sessions := a.sessions
	sess, err := sessions.Get(r)
	if err != nil || sess == nil {
		http.Error(w, "Please log in.", http.StatusUnauthorized)
		return
	}
	user, _ := sess.Attr("user").(string)
	if err := sessions.RemoveRefs(r.Context(), user, r.FormValue("ref")); err != nil {
		http.Error(w, "You may still be logged in there. Please try again.", http.StatusServiceUnavailable)
	}
}

// newPassword logs the user out everywhere else.
func (a *account) newPassword(w http.ResponseWriter, r *http.Request) {
	sessions := a.sessions
	err := errors.Join(sessions.RegenerateID(r), sessions.RemoveOthers(r))
	if err != nil {
		http.Error(w, "You may still be logged in elsewhere. Please try again.", http.StatusServiceUnavailable)
	}
}

// disable ends all sessions of a user, for an administrator or after a reset of the
// password by mail.
func (a *account) disable(ctx context.Context, user string) error {
	return a.sessions.RemoveAll(ctx, user)
}

func TestRecipeOfLoggingOutEverywhere(t *testing.T) {
	a := newAccount(tiertest.NewCache(), tiertest.NewBackup())
	visitors := map[string]*visitor{}
	for _, browser := range []string{"phone", "laptop", "library", "office"} {
		visitors[browser] = &visitor{app: a.handler()}
		visitors[browser].visit("POST", "/login?user=1815", "User-Agent", browser)
	}
	expect := func(want ...string) {
		t.Helper()
		var got []string
		for _, browser := range []string{"phone", "laptop", "library", "office"} {
			if visitors[browser].visit("GET", "/sessions").Code == http.StatusOK {
				got = append(got, browser)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("logged in: %v, want %v", got, want)
		}
	}
	expect("phone", "laptop", "library", "office")
	list := visitors["phone"].visit("GET", "/sessions").Body.String()
	if strings.Count(list, "\n") != 4 || !regexp.MustCompile(`phone since \d\d:\d\d, here: true`).MatchString(list) {
		t.Errorf("the list: %s", list)
	}
	ref := regexp.MustCompile(`library .* ref (.*)`).FindStringSubmatch(list)
	if ref == nil {
		t.Fatalf("no library in the list: %s", list)
	}
	visitors["phone"].visit("POST", "/end?ref="+ref[1])
	expect("phone", "laptop", "office")
	if w := visitors["laptop"].visit("POST", "/password"); w.Code != http.StatusOK {
		t.Errorf("new password: %d, %s", w.Code, w.Body)
	}
	expect("laptop")
	if err := a.disable(context.Background(), "1815"); err != nil {
		t.Error(err)
	}
	expect()
}
