package cascadestore_test

import (
	"fmt"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sort"
	"testing"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The reference for how a gorilla store behaves is gorilla's own
// FilesystemStore: the same requests go to it and to a CascadeStore, and after
// each one everything that can be seen has to be the same, the cookies included.
//
// They are meant to differ in four things, which have tests of their own: a
// MaxAge of 0 is the end of a session only there; a cookie whose session is gone
// is an error only there, and its id is used again; a session has its id before
// it is saved only here; and only here it keeps the MaxAge that was chosen for it.

// A world is a store and a browser.
type world struct {
	name    string
	store   sessions.Store
	codecs  []securecookie.Codec
	server  *httptest.Server
	cookies map[string]string
	maxAges map[string]int // of sessions, by id, where the store does not keep them
	next    http.HandlerFunc
}

func newWorld(t *testing.T, name string, store sessions.Store, codecs []securecookie.Codec, request func() *gaetest.Request) *world {
	w := &world{name: name, store: store, codecs: codecs, cookies: map[string]string{}}
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.next(rw, r.WithContext(request().Context()))
	}))
	t.Cleanup(w.server.Close)
	return w
}

// seen is what can be seen of a request.
type seen struct {
	Sessions []seenSession
	SaveErr  string
	Cookies  []seenCookie
}

type seenSession struct {
	Name   string
	Err    string
	IsNew  bool
	Values map[any]any
	Popped []any
}

type seenCookie struct {
	Name                      string
	HasID                     bool
	IDLength                  int
	SameID                    bool // as in the request
	Path, Domain              string
	MaxAge                    int
	ExpiresIn                 time.Duration // rounded; 0: not set
	Secure, HttpOnly          bool
	Partitioned               bool
	SameSite                  http.SameSite
	UnknownAttributes, Errors string
}

// A step is a request: what it does with each of the sessions it uses.
type step struct {
	forge map[string]string // cookies to send in place of the browser's
	uses  []use
	save  string // "each", "all", "no"
}

type use struct {
	name    string
	set     map[any]any
	remove  []any
	flash   []string
	pop     bool
	options *sessions.Options // nil: leave the store's
	end     bool
}

func (st step) String() string { return fmt.Sprintf("%+v", st.uses) }

func (w *world) do(t *testing.T, st step) (got seen) {
	t.Helper()
	w.next = func(rw http.ResponseWriter, r *http.Request) {
		var saveErrs []string
		var used []*sessions.Session
		for _, u := range st.uses {
			s, err := sessions.GetRegistry(r).Get(w.store, u.name)
			see := seenSession{Name: u.name, IsNew: s.IsNew, Values: map[any]any{}}
			if err != nil {
				see.Err = err.Error()
			}
			if maxAge, ok := w.maxAges[s.ID]; ok && !s.IsNew {
				s.Options.MaxAge = maxAge
			}
			for k, v := range s.Values {
				see.Values[k] = v
			}
			for k, v := range u.set {
				s.Values[k] = v
			}
			for _, k := range u.remove {
				delete(s.Values, k)
			}
			for _, f := range u.flash {
				s.AddFlash(f)
			}
			if u.pop {
				see.Popped = s.Flashes()
			}
			if u.options != nil {
				o := *u.options
				s.Options = &o
			}
			if u.end {
				s.Options.MaxAge = -1
			}
			if st.save == "each" {
				if err := s.Save(r, rw); err != nil {
					saveErrs = append(saveErrs, err.Error())
				}
			}
			got.Sessions = append(got.Sessions, see)
			used = append(used, s)
		}
		if st.save == "all" {
			if err := sessions.Save(r, rw); err != nil {
				saveErrs = append(saveErrs, err.Error())
			}
		}
		if w.maxAges != nil && st.save != "no" {
			for _, s := range used {
				w.maxAges[s.ID] = s.Options.MaxAge
			}
		}
		if len(saveErrs) > 0 {
			got.SaveErr = "failed"
		}
	}
	req, err := http.NewRequest(http.MethodGet, w.server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := map[string]string{}
	for name, value := range w.cookies {
		sent[name] = value
	}
	for name, value := range st.forge {
		sent[name] = value
	}
	for name, value := range sent {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range res.Cookies() {
		got.Cookies = append(got.Cookies, w.see(c, sent[c.Name]))
		if c.MaxAge < 0 {
			delete(w.cookies, c.Name)
		} else {
			w.cookies[c.Name] = c.Value
		}
	}
	sort.Slice(got.Cookies, func(i, j int) bool { return got.Cookies[i].Name < got.Cookies[j].Name })
	return got
}

func (w *world) see(c *http.Cookie, sent string) seenCookie {
	id := func(value string) (id string) {
		if err := securecookie.DecodeMulti(c.Name, value, &id, w.codecs...); err != nil {
			return ""
		}
		return id
	}
	s := seenCookie{
		Name: c.Name, HasID: id(c.Value) != "", IDLength: len(id(c.Value)),
		SameID: id(c.Value) != "" && id(c.Value) == id(sent),
		Path:   c.Path, Domain: c.Domain, MaxAge: c.MaxAge,
		Secure: c.Secure, HttpOnly: c.HttpOnly, Partitioned: c.Partitioned, SameSite: c.SameSite,
		UnknownAttributes: fmt.Sprint(c.Unparsed),
	}
	switch {
	case c.Expires.IsZero():
	case c.Expires.Before(time.Now()):
		s.ExpiresIn = -time.Second
	default:
		s.ExpiresIn = time.Until(c.Expires).Round(time.Minute)
	}
	return s
}

func TestARequestSeesWhatItWouldSeeWithFilesystemStore(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, choice := range backendChoices {
			t.Run(choice.name, func(t *testing.T) {
				const runs, steps = 2, 30
				for run := range runs {
					files := sessions.NewFilesystemStore(t.TempDir(), hashKey, blockKey)
					cascade := cascadestore.NewCascadeStore(choice.backends, hashKey, blockKey)
					cascade.CacheTimeout, cascade.BackupTimeout = time.Minute, time.Minute // see newApp
					worlds := []*world{
						newWorld(t, "FilesystemStore", files, files.Codecs, func() *gaetest.Request { return s.NewRequest() }),
						newWorld(t, "CascadeStore", cascade, cascade.Codecs, func() *gaetest.Request { return s.NewRequest() }),
					}
					worlds[0].maxAges = map[string]int{}
					rnd := rand.New(rand.NewSource(int64(run)))
					for i := range steps {
						st := randomStep(rnd)
						want, got := worlds[0].do(t, st), worlds[1].do(t, st)
						if !reflect.DeepEqual(got, want) {
							t.Fatalf("run %d, request %d: %v\ngot  %+v\nwant %+v", run, i, st, got, want)
						}
						if choice.backends&cascadestore.DatastoreBackend != 0 && rnd.Intn(8) == 0 {
							s.Flush()
						}
					}
				}
			})
		}
	})
}

func randomStep(rnd *rand.Rand) step {
	st := step{save: []string{"each", "all", "all", "no"}[rnd.Intn(4)]}
	names := []string{"one", "two", "three"}
	rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:1+rnd.Intn(3)] {
		u := use{name: name, pop: rnd.Intn(4) == 0, end: rnd.Intn(10) == 0}
		for range rnd.Intn(3) {
			if u.set == nil {
				u.set = map[any]any{}
			}
			key := []any{"a", "b", 3, true}[rnd.Intn(4)]
			u.set[key] = []any{"text", 7, 2.5, []byte("bytes"), []any{"list", 1}, true}[rnd.Intn(6)]
		}
		if rnd.Intn(3) == 0 {
			u.remove = []any{"a", 3}
		}
		if rnd.Intn(3) == 0 {
			u.flash = []string{"hello", "world"}
		}
		if rnd.Intn(3) == 0 {
			u.options = &sessions.Options{
				Path: "/", MaxAge: []int{600, 3600, 86400}[rnd.Intn(3)],
				Secure: rnd.Intn(2) == 0, HttpOnly: rnd.Intn(2) == 0, Partitioned: rnd.Intn(4) == 0,
				SameSite: []http.SameSite{http.SameSiteDefaultMode, http.SameSiteLaxMode, http.SameSiteStrictMode, http.SameSiteNoneMode}[rnd.Intn(4)],
			}
			if rnd.Intn(3) == 0 {
				u.options.Domain = "example.com"
			}
			if rnd.Intn(4) == 0 {
				u.options.Path = "/path"
			}
		}
		st.uses = append(st.uses, u)
	}
	if rnd.Intn(8) == 0 {
		st.forge = map[string]string{names[0]: []string{"", "forged", "!!!", forgedCookie(names[0])}[rnd.Intn(4)]}
	}
	return st
}

// forgedCookie is signed with another key.
func forgedCookie(name string) string {
	value, err := securecookie.EncodeMulti(name, "AAAA", securecookie.New([]byte("another key"), nil))
	if err != nil {
		panic(err)
	}
	return value
}

// What they are meant to differ in.

func TestACookieWhoseSessionIsGoneGivesANewSessionWithANewID(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		b.mustLogout(t)
		before := old.cookie()
		old.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err != nil || !s.IsNew || len(s.Values) > 0 {
				t.Errorf("got new=%v, values %v, %v; want a new session and no error", s.IsNew, s.Values, err)
			}
			if s.ID == "" || s.ID == idIn(t, a, before) {
				t.Error("the session has no id of its own")
			}
		})
	})
}

// idIn returns the id in a cookie.
func idIn(t testing.TB, a *app, cookie string) (id string) {
	t.Helper()
	if err := securecookie.DecodeMulti(sessionName, cookie, &id, a.store.Codecs...); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAMaxAgeOfZeroIsACookieForTheBrowsersSession(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.newBrowser()
		v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err != nil {
				t.Error(err)
			}
			s.Options.MaxAge = 0
			s.Values["n"] = 1
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
		})
		c := v.Response.Cookies()[0]
		if c.MaxAge != 0 || !c.Expires.IsZero() {
			t.Errorf("got MaxAge %d, expires %v; want neither", c.MaxAge, c.Expires)
		}
		b.expect(t, backends, values{"n": 1})
	})
}
