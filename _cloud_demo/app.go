package main

import (
	_ "embed"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/demo"
)

const (
	cookieName = "cloud-demo"

	idleTimeout = 24 * time.Hour      // a session ends when it was not used for so long,
	maxLifetime = 30 * 24 * time.Hour // and in any case after that

	// Attributes of the session.
	attrName   = "name"   // string: who logged in
	attrVisits = "visits" // int: pages seen since
)

// app is the web app.
type app struct {
	sessions *gaesession.Sessions
	stage    *demo.Stage
}

// newApp returns the app with sessions that are kept as the options say, and a
// cookie that is sent over HTTPS only if https says so.
func newApp(o gaesession.MemcacheStoreOptions, https bool, stage *demo.Stage) *app {
	o.MaxLifetime, o.Trace = maxLifetime, stage.Trace()
	a := &app{stage: stage}
	a.sessions = &gaesession.Sessions{
		Options:      o,
		Cookie:       gaesession.Cookie{Name: cookieName, AllowHTTP: !https},
		ErrorHandler: a.fail,
	}
	return a
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.visit)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /logout", a.logout)
	mux.Handle("GET /login", http.RedirectHandler("/", http.StatusSeeOther)) // the address of a login that failed
	a.stage.Register(mux)
	return a.stage.Handler(http.NewCrossOriginProtection().Handler(a.sessions.Handler(mux)))
}

func (a *app) visit(w http.ResponseWriter, r *http.Request) {
	sess, err := a.sessions.Get(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	p := page{Page: a.stage.Page(w, r)}
	if sess != nil {
		p.Name, _ = sess.Attr(attrName).(string)
		p.Visits, _ = sess.Attr(attrVisits).(int)
		if p.Looking = r.URL.Query().Has("look"); !p.Looking {
			p.Visits++
			sess.SetAttr(attrVisits, p.Visits)
		}
	}
	// Handler would save: this is now, so that the page can show what it took.
	if p.Report = a.sessions.Save(r); p.Problem() {
		a.fail(w, r, p.Report)
		return
	}
	demo.Render(w, http.StatusOK, pageTemplate, p)
}

// login gives the session a new id, which nobody can have known before.
func (a *app) login(w http.ResponseWriter, r *http.Request) {
	name, problem := demo.Name(r.PostFormValue("name"))
	if problem != "" {
		demo.Render(w, http.StatusUnprocessableEntity, pageTemplate, page{Page: a.stage.Page(w, r), Entered: name, NameError: problem})
		return
	}
	sess, err := a.sessions.Renew(r, &session.SessOptions{Timeout: idleTimeout})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	sess.SetAttr(attrName, name)
	sess.SetAttr(attrVisits, 0)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	sess, err := a.sessions.Get(r)
	if err == nil && sess != nil {
		err = a.sessions.Remove(r, sess)
	}
	switch {
	case errors.Is(err, gaesession.ErrNotPublished):
		demo.Redirect(w, r, "/", "You are logged out. The database knows, and the cache will as soon as it answers.")
	case err != nil:
		a.fail(w, r, err)
	default:
		demo.Redirect(w, r, "/", "You are logged out, on every instance.")
	}
}

// fail answers a request whose session cannot be loaded or saved.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "session", "error", err)
	if errors.Is(err, gaesession.ErrRemoved) {
		demo.Redirect(w, r, "/", "Your session has ended. Please log in again.")
		return
	}
	demo.Render(w, http.StatusServiceUnavailable, pageTemplate, page{Page: a.stage.Failed(w, r, err)})
}

// page is what page.html shows.
type page struct {
	demo.Page
	Name    string // who is logged in; empty: nobody
	Visits  int
	Looking bool // this visit was not counted

	Entered, NameError string // of a login that failed
}

//go:embed page.html
var pageHTML string

var pageTemplate = demo.Template(pageHTML)
