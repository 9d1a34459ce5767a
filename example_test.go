package gaesession_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
)

// countVisits is a handler of an app.
func countVisits(w http.ResponseWriter, r *http.Request) {
	sessions := session.NewCookieManager(gaesession.NewMemcacheStore(appengine.NewContext(r)))
	defer sessions.Close() // if the handler leaves early

	sess := sessions.Get(r)
	if sess == nil {
		sess = session.NewSession()
		sessions.Add(sess, w)
	}
	visits, _ := sess.Attr("visits").(int)
	sess.SetAttr("visits", visits+1)

	sessions.Close() // saves what was changed
	fmt.Fprintf(w, "Visits: %d\n", visits+1)
}

// An app on App Engine, as README.md has it.
var sessions = gaesession.Sessions{ // the zero value works as well
	Options: gaesession.MemcacheStoreOptions{MaxLifetime: 30 * 24 * time.Hour},
}

func main() {
	http.HandleFunc("GET /", home)
	http.HandleFunc("POST /login", logIn)
	http.HandleFunc("POST /logout", logOut)
	app := appengine.Middleware(sessions.Handler(http.DefaultServeMux))
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), app))
}

var _ = main

func home(w http.ResponseWriter, r *http.Request) {
	sess, err := sessions.Get(r)
	switch {
	case err != nil:
		http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
	case sess == nil:
		fmt.Fprintln(w, "You are not logged in.")
	default:
		fmt.Fprintln(w, "Hello", sess.Attr("user"))
	}
}

func logIn(w http.ResponseWriter, r *http.Request) {
	// A new session, or a new id for the one that is there: the basket stays.
	sess, err := sessions.Renew(r, nil)
	if err != nil { // it cannot be told whether there is a session; the cookie stays
		http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
		return
	}
	sess.SetAttr("user", r.FormValue("user"))
	fmt.Fprintln(w, "Welcome")
}

func logOut(w http.ResponseWriter, r *http.Request) {
	sess, err := sessions.Get(r)
	if err == nil && sess != nil {
		err = sessions.Remove(r, sess)
	}
	if err != nil {
		http.Error(w, "You may still be logged in. Please try again later.", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "Bye")
}

// A browser that logs in and out.
func ExampleSessions() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", home)
	mux.HandleFunc("POST /login", logIn)
	mux.HandleFunc("POST /logout", logOut)
	app := sessions.Handler(mux)

	var cookies []*http.Cookie
	for _, visit := range []string{"GET /", "POST /login?user=ada", "GET /", "POST /logout", "GET /"} {
		method, target, _ := strings.Cut(visit, " ")
		r := httptest.NewRequest(method, target, nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		app.ServeHTTP(w, r)
		fmt.Print(w.Body)
		if set := w.Result().Cookies(); set != nil {
			cookies = set
		}
	}
	// Output:
	// You are not logged in.
	// Welcome
	// Hello ada
	// Bye
	// You are not logged in.
}

// A browser that comes three times.
func Example() {
	var cookies []*http.Cookie
	for range 3 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		countVisits(w, r)
		fmt.Print(w.Body)
		cookies = append(cookies, w.Result().Cookies()...)
	}
	// Output:
	// Visits: 1
	// Visits: 2
	// Visits: 3
}
