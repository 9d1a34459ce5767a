package main

import (
	_ "embed"
	"errors"
	"log/slog"
	"net/http"
	"slices"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

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
	stage    *demo.Stage
}

// newShop returns the app with a key for its cookies, which are sent over HTTPS
// only if secure says so.
func newShop(key []byte, secure bool, stage *demo.Stage) (*shop, error) {
	store := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, key)
	store.Options = &sessions.Options{Path: "/", MaxAge: sessionDays * 24 * 3600, HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
	store.Trace = stage.Trace()
	s := &shop{store, stage}
	store.ErrorHandler = s.fail
	return s, store.Err()
}

func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("POST /add", s.do(add))
	mux.HandleFunc("POST /basket/empty", s.do(empty))
	mux.HandleFunc("POST /login", s.do(s.login))
	mux.HandleFunc("POST /logout", s.logout)
	mux.HandleFunc("/purge", cascadestore.PurgeHandler())
	s.stage.Register(mux)
	// The middleware gives a request's context what App Engine's services want.
	return appengine.Middleware(s.stage.Handler(demo.SameOrigin(s.sessions.Handler(mux))))
}

// session returns the request's session, a new one if it has none. An error means
// that nobody can tell: it is answered already.
func (s *shop) session(w http.ResponseWriter, r *http.Request) (*sessions.Session, error) {
	session, err := s.sessions.Get(r, cookieName)
	var forged securecookie.Error
	if errors.As(err, &forged) && forged.IsDecode() {
		return session, nil
	}
	if err != nil {
		s.fail(w, r, err)
	}
	return session, err
}

// show shows the page. It changes nothing, except that flashes are read once.
func (s *shop) show(w http.ResponseWriter, r *http.Request) {
	session, err := s.session(w, r)
	if err != nil {
		return
	}
	p := page{Page: s.stage.Page(w, r), Fruit: fruit}
	p.Name, _ = session.Values[keyName].(string)
	for _, f := range fruit {
		if n, _ := session.Values[keyFruit+f].(int); n > 0 {
			p.Basket = append(p.Basket, item{f, n})
		}
	}
	p.Flashes = session.Flashes()
	if !session.IsNew {
		// Handler would: this is now, so that the page can show what it took.
		p.Report = session.Save(r, w)
	}
	if p.Problem() {
		s.fail(w, r, p.Report)
		return
	}
	demo.Render(w, http.StatusOK, pageTemplate, p)
}

// do returns a handler that changes the session with f, and goes back to the page.
// Handler saves it before that.
func (s *shop) do(f func(r *http.Request, session *sessions.Session) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		session, err := s.session(w, r)
		if err != nil {
			return
		}
		if err := f(r, session); err != nil {
			s.fail(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func add(r *http.Request, session *sessions.Session) error {
	f := r.PostFormValue("fruit")
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
	name, problem := demo.Name(r.PostFormValue("name"))
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

// logout ends the session. Handler removes it before the answer leaves: if that
// fails, fail answers instead, and the cookie stays, to try again with.
func (s *shop) logout(w http.ResponseWriter, r *http.Request) {
	session, err := s.session(w, r)
	if err != nil {
		return
	}
	session.Options.MaxAge = -1
	demo.Redirect(w, r, "/", "You are logged out, and the basket is gone.")
}

// fail answers a request whose session cannot be loaded or saved.
func (s *shop) fail(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "basket demo", "error", err)
	if errors.Is(err, cascadestore.ErrRemoved) {
		demo.Redirect(w, r, "/", "Your session has ended.")
		return
	}
	demo.Render(w, http.StatusServiceUnavailable, pageTemplate, page{Page: s.stage.Failed(w, r, err)})
}

// page is what page.html shows.
type page struct {
	demo.Page
	Name    string
	Flashes []any
	Fruit   []string
	Basket  []item
}

type item struct {
	Fruit string
	N     int
}

//go:embed page.html
var pageHTML string

var pageTemplate = demo.Template(pageHTML)
