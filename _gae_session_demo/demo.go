package main

import (
	_ "embed"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/demo"
)

const (
	password   = "gopher" // of everybody, and shown on the login page
	cookieName = "gaesession-demo"

	idleTimeout = 24 * time.Hour      // a session ends when it was not used for so long,
	maxLifetime = 30 * 24 * time.Hour // and in any case after that

	// Attributes of the session.
	attrName   = "name"   // string: who logged in
	attrDevice = "device" // string: with which browser
	attrVisits = "visits" // int: pages seen since
)

// app is the web app.
type app struct {
	sessions *gaesession.Sessions
	stage    *demo.Stage
}

func newApp(stage *demo.Stage, https bool) *app {
	a := &app{stage: stage}
	a.sessions = &gaesession.Sessions{
		Options:      gaesession.MemcacheStoreOptions{MaxLifetime: maxLifetime, Trace: stage.Trace()},
		Cookie:       gaesession.Cookie{Name: cookieName, AllowHTTP: !https},
		Owner:        func(s session.Session) string { return text(s, attrName) },
		Label:        func(s session.Session) string { return text(s, attrDevice) },
		ErrorHandler: a.fail,
	}
	return a
}

// text is an attribute of a session; empty: it has none.
func text(s session.Session, attr string) string {
	value, _ := s.Attr(attr).(string)
	return value
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.visit)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("GET /devices", a.devices)
	mux.HandleFunc("POST /devices/logout", a.logoutThere)
	mux.HandleFunc("POST /devices/logout-others", a.logoutElsewhere)
	mux.HandleFunc("/purge", gaesession.PurgeExpiredSessFromDSFunc(""))
	mux.Handle("GET /login", http.RedirectHandler("/", http.StatusSeeOther)) // the address of a login that failed
	a.stage.Register(mux)
	// The middleware gives a request's context what App Engine's services want.
	return appengine.Middleware(a.stage.Handler(demo.SameOrigin(a.sessions.Handler(mux))))
}

// visit shows the page, and counts it when somebody is logged in. With the
// query "look" it does not count, and so changes nothing in the session.
func (a *app) visit(w http.ResponseWriter, r *http.Request) {
	sess, err := a.sessions.Get(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	p := page{Page: a.stage.Page(w, r)}
	if sess != nil {
		p.Name = text(sess, attrName)
		p.Visits, _ = sess.Attr(attrVisits).(int)
		p.Looking = r.Method == http.MethodHead || r.URL.Query().Has("look")
		if !p.Looking {
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
	p := page{Page: a.stage.Page(w, r), Entered: name, NameError: problem}
	if problem == "" && r.PostFormValue("password") != password {
		p.PasswordError = "That is not the password."
	}
	if p.NameError != "" || p.PasswordError != "" {
		demo.Render(w, http.StatusUnprocessableEntity, pageTemplate, p)
		return
	}

	sess, err := a.sessions.Renew(r, &session.SessOptions{Timeout: idleTimeout})
	if err != nil {
		a.fail(w, r, err)
		return
	}
	sess.SetAttr(attrName, name)
	sess.SetAttr(attrDevice, device(r.UserAgent()))
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
		demo.Redirect(w, r, "/", "You are logged out. Datastore knows, and Memcache will as soon as it answers.")
	case err != nil:
		a.fail(w, r, err)
	default:
		demo.Redirect(w, r, "/", "You are logged out. The session is gone from Memcache and Datastore.")
	}
}

// devices shows where the user is logged in.
func (a *app) devices(w http.ResponseWriter, r *http.Request) {
	sess, err := a.sessions.Get(r)
	if err == nil && sess == nil {
		demo.Redirect(w, r, "/", "Please log in first.")
		return
	}
	p := page{Page: a.stage.Page(w, r)}
	if err == nil {
		p.Name = text(sess, attrName)
		p.Devices, err = a.sessions.SessionsOf(r.Context(), p.Name)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	demo.Render(w, http.StatusOK, devicesTemplate, p)
}

// logoutThere ends one of the user's sessions. Its Ref opens nothing, so that it may
// stand in the page, and only the user's own sessions are looked for it.
func (a *app) logoutThere(w http.ResponseWriter, r *http.Request) {
	sess, err := a.sessions.Get(r)
	if err == nil && sess != nil {
		err = a.sessions.RemoveRefs(r.Context(), text(sess, attrName), r.PostFormValue("ref"))
	}
	a.loggedOut(w, r, "That session is over.", err)
}

// logoutElsewhere ends all of the user's sessions but this one.
func (a *app) logoutElsewhere(w http.ResponseWriter, r *http.Request) {
	sess, err := a.sessions.Get(r)
	if err == nil && sess != nil {
		err = a.sessions.RemoveOthers(r)
	}
	a.loggedOut(w, r, "You are logged in here alone.", err)
}

// loggedOut goes back to the devices.
func (a *app) loggedOut(w http.ResponseWriter, r *http.Request, notice string, err error) {
	switch {
	case errors.Is(err, gaesession.ErrNotPublished):
		demo.Redirect(w, r, "/devices", notice+" Datastore knows, and Memcache will as soon as it answers.")
	case err != nil:
		a.fail(w, r, err)
	default:
		demo.Redirect(w, r, "/devices", notice)
	}
}

// fail answers a request whose session cannot be loaded or saved.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "session demo", "error", err)
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

	Devices []gaesession.SessionInfo // where the user is logged in

	// Of a login that failed.
	Entered, NameError, PasswordError string
}

var (
	//go:embed page.html
	pageHTML string
	//go:embed devices.html
	devicesHTML string

	pageTemplate    = demo.Template(pageHTML)
	devicesTemplate = demo.Template(devicesHTML)
)

// Password is the password of everybody.
func (page) Password() string { return password }
