package main

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/cascadestore"
)

const (
	cookieName    = "cascade-demo"
	maxNameLength = 40       // in characters
	maxFormSize   = 16 << 10 // in bytes
	maxBasket     = 99       // of one fruit
	sessionDays   = 14
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
	return appengine.Middleware(protect(mux))
}

// show shows the page. It changes nothing, except that flashes are read once.
func (s *shop) show(w http.ResponseWriter, r *http.Request) {
	var calls calls
	r = r.WithContext(calls.watch(appengine.NewContext(r)))
	session, err := s.sessions.Get(r, cookieName)
	if err != nil {
		slog.WarnContext(r.Context(), "session", "error", err)
	}
	p := page{CanFlush: s.flush != nil, IsNew: session.IsNew, Fruit: fruit, MaxNameLength: maxNameLength}
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
		r.Body = http.MaxBytesReader(w, r.Body, maxFormSize)
		if err := r.ParseForm(); err != nil {
			http.Error(w, "The form cannot be read.", http.StatusBadRequest)
			return
		}
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
	name := strings.TrimSpace(strings.ToValidUTF8(r.PostForm.Get("name"), ""))
	if name == "" || utf8.RuneCountInString(name) > maxNameLength {
		session.AddFlash(fmt.Sprintf("Please enter a name of at most %d characters.", maxNameLength))
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

// protect sets the headers that keep the browser from doing what the page does
// not need, and refuses forms that another site has sent.
func protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method == http.MethodPost && !sameOrigin(r) {
			http.Error(w, "This form was sent by another site.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin tells whether a request was sent by a page of this app, going by
// what the browser says about it.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin" || site == "none"
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host == r.Host
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
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
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
