package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/demo"
)

const (
	password       = "gopher" // of everybody, and shown on the login page
	sessionTimeout = 24 * time.Hour

	cookieName = "gaesession-demo"

	// Attributes of the session.
	attrName   = "name"   // string, constant: who logged in
	attrVisits = "visits" // int: pages seen since
)

// app is the web app.
type app struct {
	where     string // the services' name, for the page
	allowHTTP bool   // send the cookie over plain HTTP too
	flush     func() // empties Memcache; nil: not offered
}

func (a app) handler() http.Handler {
	mux := http.NewServeMux()
	toDemo := http.RedirectHandler("/demo", http.StatusSeeOther)
	mux.Handle("GET /{$}", toDemo)
	mux.HandleFunc("GET /demo", a.visit)
	mux.HandleFunc("POST /demo/login", a.login)
	mux.Handle("GET /demo/login", toDemo) // the address of a login that failed
	mux.HandleFunc("POST /demo/logout", a.logout)
	if a.flush != nil {
		mux.HandleFunc("POST /demo/flush", a.flushMemcache)
	}
	mux.HandleFunc("GET /demo/style.css", serveStyle)
	mux.HandleFunc("GET /demo/icon.svg", serveIcon)
	mux.HandleFunc("/demo/purge", gaesession.PurgeExpiredSessFromDSFunc(""))
	// The middleware gives a request's context what App Engine's services want.
	return appengine.Middleware(demo.Protect(mux))
}

// An exchange is a request with its session store and what was seen of it.
type exchange struct {
	session.Manager
	store session.Store
	calls *calls

	mu       sync.Mutex
	problems []string
}

// begin opens the session store for a request. The exchange has to be closed
// before the response is written: that is when the session is saved.
func (a app) begin(r *http.Request) *exchange {
	x := &exchange{calls: &calls{began: time.Now()}}
	ctx := x.calls.watch(appengine.NewContext(r))
	x.store = gaesession.NewMemcacheStoreOptions(ctx, &gaesession.MemcacheStoreOptions{OnError: x.report})
	x.Manager = session.NewCookieManagerOptions(x.store, &session.CookieMngrOptions{
		SessIDCookieName: cookieName,
		AllowHTTP:        a.allowHTTP,
		CookieMaxAge:     sessionTimeout,
	})
	return x
}

// report is the store's OnError.
func (x *exchange) report(ctx context.Context, err error) {
	slog.ErrorContext(ctx, "session demo", "error", err)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.problems = append(x.problems, err.Error())
}

// failures are the errors reported so far.
func (x *exchange) failures() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.problems
}

// visit shows the page, and counts it when somebody is logged in. With the
// query "look" it does not count, and so changes nothing in the session.
func (a app) visit(w http.ResponseWriter, r *http.Request) {
	x := a.begin(r)
	defer x.Close()
	_, err := r.Cookie(cookieName)
	p := page{Where: a.where, CanFlush: a.flush != nil, SentCookie: err == nil}

	sess := x.Get(r)
	x.calls.loaded()
	if sess != nil {
		p.LoggedIn = true
		p.Name, _ = sess.CAttr(attrName).(string)
		p.Visits, _ = sess.Attr(attrVisits).(int)
		p.Looking = r.Method == http.MethodHead || r.URL.Query().Has("look")
		if !p.Looking {
			p.Visits++
			sess.SetAttr(attrVisits, p.Visits)
		}
	}
	x.Close()
	p.Notice = notice(r.URL.Query().Get("after"), p.LoggedIn)
	p.show(x)
	render(w, http.StatusOK, p)
}

// login makes a session, always a new one with a new id, so that nobody can
// have known the id before.
func (a app) login(w http.ResponseWriter, r *http.Request) {
	name, problem := demo.Name(r.PostForm)
	p := page{Where: a.where, Name: name, NameError: problem}
	if problem == "" && r.PostForm.Get("password") != password {
		p.PasswordError = "That is not the password."
	}
	if p.NameError != "" || p.PasswordError != "" {
		render(w, http.StatusUnprocessableEntity, p)
		return
	}

	x := a.begin(r)
	defer x.Close()
	if old := x.Get(r); old != nil {
		x.store.Remove(old) // the manager would delete the cookie as well
	}
	x.Add(session.NewSessionOptions(&session.SessOptions{
		CAttrs:  map[string]any{attrName: name},
		Attrs:   map[string]any{attrVisits: 0},
		Timeout: sessionTimeout,
	}), w)
	setSameSite(w.Header())
	x.Close()
	x.redirect(w, r, "/demo")
}

func (a app) logout(w http.ResponseWriter, r *http.Request) {
	x := a.begin(r)
	defer x.Close()
	if sess := x.Get(r); sess != nil {
		x.Remove(sess, w)
	}
	x.Close()
	if len(x.failures()) > 0 {
		// The session may live on. With its cookie the user can try again.
		w.Header().Del("Set-Cookie")
		x.redirect(w, r, "/demo?after=failed-logout")
		return
	}
	x.redirect(w, r, "/demo?after=logout")
}

func (a app) flushMemcache(w http.ResponseWriter, r *http.Request) {
	a.flush()
	http.Redirect(w, r, "/demo?after=flush", http.StatusSeeOther)
}

// redirect answers a POST. The calls it made are in the header Server-Timing,
// where the browser's developer tools show them.
func (x *exchange) redirect(w http.ResponseWriter, r *http.Request, to string) {
	var timing []string
	for _, c := range x.calls.all() {
		timing = append(timing, fmt.Sprintf("%s-%s;dur=%.2f", c.Service, c.Method, milliseconds(c.Took)))
	}
	if timing != nil {
		w.Header().Set("Server-Timing", strings.Join(timing, ", "))
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// notice says what was done before the browser was sent to this page.
func notice(after string, loggedIn bool) string {
	switch {
	case after == "logout" && !loggedIn:
		return "You are logged out. The session is gone from Memcache and Datastore."
	case after == "failed-logout" && loggedIn:
		return "Logging out failed, please try again."
	case after == "flush":
		return "Memcache was emptied."
	}
	return ""
}

// setSameSite adds to the session's cookie what session.Manager cannot set: the
// browser does not send it along with the forms of other sites.
func setSameSite(h http.Header) {
	cookies := h["Set-Cookie"]
	for i, line := range cookies {
		if c, err := http.ParseSetCookie(line); err == nil && c.Name == cookieName {
			c.SameSite = http.SameSiteLaxMode
			cookies[i] = c.String()
		}
	}
}
