package main

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/demo"
)

const (
	cookieName  = "cascade-demo"
	maxBasket   = 99 // of one fruit
	sessionDays = 14
)

// The values of the session. Each fruit is a key of its own, so that two tabs
// that add different fruit at once lose nothing.
const (
	keyName  = "name"   // string: who logged in
	keyFruit = "fruit " // prefix; int: how many
)

var fruit = []string{"Apples", "Cherries", "Pears", "Plums"}

// shop is the web app.
type shop struct {
	sessions *cascadestore.CascadeStore
	flush    func() // empties Memcache; nil: not offered
}

// newShop returns the app with a key for its cookies, which are sent over HTTPS
// only if secure says so.
func newShop(key []byte, secure bool) (*shop, error) {
	store := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, key)
	store.Options.HttpOnly = true
	store.Options.Secure = secure
	store.Options.SameSite = http.SameSiteLaxMode
	store.SetMaxAge(sessionDays * 24 * 3600)
	return &shop{sessions: store}, store.Err()
}

func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("POST /add", s.do(add))
	mux.HandleFunc("POST /empty", s.do(empty))
	mux.HandleFunc("POST /login", s.do(s.login))
	mux.HandleFunc("POST /logout", s.do(logout))
	if s.flush != nil {
		mux.HandleFunc("POST /flush", func(w http.ResponseWriter, r *http.Request) {
			s.flush()
			http.Redirect(w, r, "/", http.StatusSeeOther)
		})
	}
	mux.HandleFunc("GET /style.css", serveStyle)
	mux.HandleFunc("/purge", cascadestore.PurgeHandler())
	// The middleware gives a request's context what App Engine's services want.
	return appengine.Middleware(demo.Protect(mux))
}

// show shows the page. It changes nothing, except that flashes are read once.
func (s *shop) show(w http.ResponseWriter, r *http.Request) {
	var calls calls
	r = r.WithContext(calls.watch(appengine.NewContext(r)))
	session, err := s.sessions.Get(r, cookieName)
	if err != nil {
		slog.WarnContext(r.Context(), "session", "error", err)
	}
	p := page{CanFlush: s.flush != nil, IsNew: session.IsNew, Fruit: fruit, MaxNameLength: demo.MaxNameLength}
	p.Name, _ = session.Values[keyName].(string)
	for _, f := range fruit {
		if n, _ := session.Values[keyFruit+f].(int); n > 0 {
			p.Basket = append(p.Basket, item{f, n})
		}
	}
	for _, f := range session.Flashes() {
		p.Flashes = append(p.Flashes, fmt.Sprint(f))
	}
	if !session.IsNew {
		// Nothing is written while nothing has changed.
		if err := session.Save(r, w); err != nil {
			slog.ErrorContext(r.Context(), "session", "error", err)
			p.Problem = err.Error()
		}
	}
	p.Calls = calls.all()
	render(w, p)
}

// do returns a handler that changes the session with f, saves it and goes back
// to the page.
func (s *shop) do(f func(r *http.Request, session *sessions.Session) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		session, err := s.sessions.Get(r, cookieName)
		if err != nil {
			slog.WarnContext(r.Context(), "session", "error", err) // Save says whether it matters
		}
		if err = f(r, session); err == nil {
			err = session.Save(r, w)
		}
		if err != nil {
			slog.ErrorContext(r.Context(), "session", "error", err)
			http.Error(w, "The basket could not be saved. Please go back and try again.", http.StatusServiceUnavailable)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func add(r *http.Request, session *sessions.Session) error {
	f := r.PostForm.Get("fruit")
	if !slices.Contains(fruit, f) {
		session.AddFlash("There is no such fruit.")
		return nil
	}
	n, _ := session.Values[keyFruit+f].(int)
	session.Values[keyFruit+f] = min(n+1, maxBasket)
	session.AddFlash(f + " were put into your basket.")
	return nil
}

func empty(_ *http.Request, session *sessions.Session) error {
	for _, f := range fruit {
		delete(session.Values, keyFruit+f)
	}
	session.AddFlash("Your basket is empty.")
	return nil
}

// login keeps the basket and gives the session a new id, so that nobody can have
// known the id before.
func (s *shop) login(r *http.Request, session *sessions.Session) error {
	name, problem := demo.Name(r.PostForm)
	if problem != "" {
		session.AddFlash(problem)
		return nil
	}
	if err := s.sessions.RegenerateID(r, session); err != nil {
		return err
	}
	session.Values[keyName] = name
	session.AddFlash("You are logged in. Your session has a new id.")
	return nil
}

func logout(_ *http.Request, session *sessions.Session) error {
	session.Options.MaxAge = -1
	return nil
}

// The page.

type page struct {
	Name, Problem   string
	IsNew, CanFlush bool
	Flashes         []string
	Fruit           []string
	Basket          []item
	Calls           []call
	MaxNameLength   int
}

type item struct {
	Fruit string
	N     int
}

var (
	//go:embed page.html
	pageText     string
	pageTemplate = template.Must(template.New("page").Parse(pageText))
	//go:embed style.css
	style []byte
)

func render(w http.ResponseWriter, p page) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := pageTemplate.Execute(w, p); err != nil {
		slog.Error("write the page", "error", err)
	}
}

func serveStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=3600")
	if _, err := w.Write(style); err != nil {
		slog.Error("write the style", "error", err)
	}
}

// A call is one call to an App Engine service.
type call struct {
	Service, Method string
	Took            time.Duration
	Failed          bool
}

// Milliseconds is how long the call took.
func (c call) Milliseconds() string {
	return fmt.Sprintf("%.1f ms", float64(c.Took.Microseconds())/1000)
}

// calls records the calls that one request makes.
type calls struct {
	mu   sync.Mutex
	list []call
}

func (c *calls) watch(ctx context.Context) context.Context {
	names := map[string]string{"memcache": "Memcache", "datastore_v3": "Datastore"}
	return appengine.WithAPICallFunc(ctx, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		began := time.Now()
		err := appengine.APICall(ctx, service, method, in, out)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.list = append(c.list, call{names[service], method, time.Since(began), err != nil})
		return err
	})
}

func (c *calls) all() []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}
