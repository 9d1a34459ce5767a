package main

import (
	"context"
	_ "embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/demo"
)

const (
	cookieName     = "cloud-demo"
	sessionTimeout = 24 * time.Hour

	// Attributes of the session.
	attrName   = "name"   // string, constant: who logged in
	attrVisits = "visits" // int: pages seen since
)

//go:embed page.html
var pageText string

//go:embed style.css
var style []byte

var page = template.Must(template.New("page").Parse(pageText))

// app is the web app.
type app struct {
	where     string // the services' names, for the page
	allowHTTP bool   // send the cookie over plain HTTP, too
	options   gaesession.MemcacheStoreOptions
}

func (a app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.visit)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(style) // the browser has gone
	})
	return mux
}

// An exchange is a request with its sessions and what went wrong with them.
type exchange struct {
	session.Manager
	store session.Store

	mu     sync.Mutex
	failed error
}

// begin opens the session store for a request. The exchange has to be closed
// before the answer is written: that saves the session.
func (a app) begin(r *http.Request) *exchange {
	x := &exchange{}
	o := a.options
	o.OnError = func(ctx context.Context, err error) {
		slog.ErrorContext(ctx, "session", "error", err)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.failed = errors.Join(x.failed, err)
	}
	x.store = gaesession.NewMemcacheStoreOptions(r.Context(), &o)
	x.Manager = session.NewCookieManagerOptions(x.store, &session.CookieMngrOptions{
		SessIDCookieName: cookieName, AllowHTTP: a.allowHTTP, CookieMaxAge: sessionTimeout,
	})
	return x
}

// err is what went wrong so far.
func (x *exchange) err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed
}

// view is what the page shows.
type view struct {
	Where   string
	Name    string // empty: nobody is logged in
	Visits  int
	Problem string
}

func (a app) visit(w http.ResponseWriter, r *http.Request) {
	x := a.begin(r)
	defer x.Close()
	v := view{Where: a.where}
	if sess := x.Get(r); sess != nil {
		v.Name, _ = sess.CAttr(attrName).(string)
		v.Visits, _ = sess.Attr(attrVisits).(int)
		v.Visits++
		sess.SetAttr(attrVisits, v.Visits)
	}
	x.Close()
	if err := x.err(); err != nil {
		v.Problem = err.Error()
	}
	show(w, http.StatusOK, v)
}

// login makes a session, always a new one with a new id, so that nobody can
// have known the id before.
func (a app) login(w http.ResponseWriter, r *http.Request) {
	name, problem := demo.Name(r.PostForm)
	if problem != "" {
		show(w, http.StatusUnprocessableEntity, view{Where: a.where, Problem: problem})
		return
	}
	x := a.begin(r)
	defer x.Close()
	if old := x.Get(r); old != nil {
		x.store.Remove(old) // the manager would delete the cookie as well
	}
	x.Add(session.NewSessionOptions(&session.SessOptions{
		CAttrs: map[string]any{attrName: name}, Attrs: map[string]any{attrVisits: 0}, Timeout: sessionTimeout,
	}), w)
	x.Close()
	if err := x.err(); err != nil {
		w.Header().Del("Set-Cookie")
		show(w, http.StatusServiceUnavailable, view{Where: a.where, Problem: err.Error()})
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (a app) logout(w http.ResponseWriter, r *http.Request) {
	x := a.begin(r)
	defer x.Close()
	if sess := x.Get(r); sess != nil {
		x.Remove(sess, w)
	}
	x.Close()
	if err := x.err(); err != nil {
		// The session may live on. With its cookie the user can try again.
		w.Header().Del("Set-Cookie")
		show(w, http.StatusServiceUnavailable, view{Where: a.where, Problem: err.Error()})
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func show(w http.ResponseWriter, status int, v view) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := page.Execute(w, v); err != nil {
		slog.Warn("the page was not sent whole", "error", err)
	}
}
