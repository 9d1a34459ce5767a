//go:build go1.25

package cascadestore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Requests that overlap in a random way: in simulated time every call takes a
// random time, so that the calls of all come in a random order, which the seed
// determines. Between them Memcache is emptied, calls fail and requests die.

// An actor is one of the requests.
type actor struct {
	does   string // "change", "logout", "regenerate", "read"
	dies   bool   // at a random call
	found  bool
	err    error
	cookie *http.Cookie // as written last
}

var (
	walksFlag = flag.Int("walks", 100, "how many times requests overlap at random, for each choice of backends")
	seedFlag  = flag.Int64("walks.seed", 0, "the first seed")
)

func TestRandomlyOverlappingRequestsKeepThePromises(t *testing.T) {
	walks := *walksFlag
	if testing.Short() {
		walks = min(walks, 40)
	}
	for _, choice := range backendChoices {
		t.Run(choice.name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
				walks := walks
				if strings.HasSuffix(t.Name(), "/google") { // takes ten times as long
					walks /= 10
				}
				for i := range walks {
					seed := *seedFlag + int64(i)
					if msg := walk(t, s, choice.backends, seed); msg != "" {
						t.Fatalf("seed %d: %s", seed, msg)
					}
				}
			})
		})
	}
}

func walk(t *testing.T, s *gaetest.Service, backends int, seed int64) (msg string) {
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		rnd := rand.New(rand.NewSource(seed))
		store := cascadestore.NewCascadeStore(backends, hashKey)
		w := &walker{t: t, s: s, store: store, rnd: rnd}
		login := &actor{does: "change"}
		w.run(login, 0, nil)
		cookie := login.cookie
		if cookie == nil {
			t.Fatalf("login: %v", login.err)
		}
		mayFlush := backends&cascadestore.DatastoreBackend != 0 && backends&cascadestore.MemcacheBackend != 0
		if mayFlush && rnd.Intn(3) == 0 {
			w.flush()
		}
		var actors []*actor
		for range 2 + rnd.Intn(3) {
			a := &actor{does: []string{"change", "change", "change", "logout", "regenerate", "read"}[rnd.Intn(6)]}
			a.dies = mayFlush && rnd.Intn(8) == 0
			actors = append(actors, a)
		}
		flushes := mayFlush && rnd.Intn(2) == 0
		var wg sync.WaitGroup
		for i, a := range actors {
			wg.Add(1)
			start := w.random(20 * time.Millisecond)
			go func() {
				defer wg.Done()
				time.Sleep(start)
				w.run(a, i+1, cookie)
			}()
		}
		if flushes {
			time.Sleep(w.random(60 * time.Millisecond))
			w.flush()
		}
		wg.Wait()
		drain(t)
		msg = w.judge(cookie, actors, mayFlush)
		if msg != "" {
			for i, a := range actors {
				msg += fmt.Sprintf("\nactor %d: %+v", i+1, *a)
			}
		}
	})
	return msg
}

type walker struct {
	t     *testing.T
	s     *gaetest.Service
	store *cascadestore.CascadeStore

	mu  sync.Mutex
	rnd *rand.Rand
}

func (w *walker) random(most time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rnd.Int63n(int64(most)))
}

func (w *walker) latency(gaetest.Call) time.Duration { return w.random(10 * time.Millisecond) }

func (w *walker) flush() {
	r := w.s.NewSimulatedRequest(func(gaetest.Call) time.Duration { return 0 })
	if err := memcache.Flush(r.Context()); err != nil {
		w.t.Errorf("flush Memcache: %v", err)
	}
}

var errDied = errors.New("request died")

// run is one request.
func (w *walker) run(a *actor, n int, cookie *http.Cookie) {
	var hooks []gaetest.Hook
	if a.dies {
		at := 1 + int(w.random(10))
		hooks = append(hooks, gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
			if c.Index >= at {
				return errDied
			}
			return nil
		}})
	}
	request := w.s.NewSimulatedRequest(w.latency, hooks...)
	if a.dies {
		defer request.Die()
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(request.Context())
	if cookie != nil {
		r.AddCookie(cookie)
	}
	rw := httptest.NewRecorder()
	s, err := w.store.Get(r, sessionName)
	a.found = !s.IsNew
	a.err = err
	if err == nil && (a.found || cookie == nil) {
		a.err = w.act(a, n, r, rw, s)
	}
	for _, c := range rw.Result().Cookies() {
		a.cookie = c
	}
}

func (w *walker) act(a *actor, n int, r *http.Request, rw http.ResponseWriter, s *sessions.Session) error {
	switch a.does {
	case "read":
		return nil
	case "logout":
		s.Options.MaxAge = -1
	case "regenerate":
		s.Values[n] = n
		if err := w.store.RegenerateID(r, s); err != nil {
			return err
		}
	default:
		s.Values[n] = n
	}
	return s.Save(r, rw)
}

// read returns what a request sees with that cookie.
func (w *walker) read(cookie *http.Cookie) (values, error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(w.s.NewSimulatedRequest(w.latency).Context())
	r.AddCookie(cookie)
	s, err := w.store.New(r, sessionName)
	if err != nil || s.IsNew {
		return nil, err
	}
	return s.Values, nil
}

// judge says what promise was broken, if one was.
func (w *walker) judge(cookie *http.Cookie, actors []*actor, flush bool) string {
	removed, moved, mayBeGone := false, (*actor)(nil), false
	for i, a := range actors {
		ok := a.found && a.err == nil
		switch {
		case a.err != nil && !a.dies && !errors.Is(a.err, cascadestore.ErrRemoved):
			return fmt.Sprintf("actor %d failed: %v", i+1, a.err)
		case a.does == "logout" && ok:
			removed = true
		case a.does == "regenerate" && ok:
			if moved != nil {
				return "the session moved twice"
			}
			moved = a
		case a.does == "logout" || a.does == "regenerate":
			mayBeGone = mayBeGone || a.found
		case a.err != nil && !a.dies && !(removedByAny(actors)):
			return fmt.Sprintf("actor %d got %v, but nobody removed the session", i+1, a.err)
		}
	}
	for _, when := range []string{"now", "after flush"} {
		if when == "after flush" {
			if !flush {
				break
			}
			w.flush()
		}
		now, err := w.read(cookie)
		switch {
		case err != nil:
			return fmt.Sprintf("%s: %v", when, err)
		case (removed || moved != nil) && now != nil:
			return fmt.Sprintf("%s: the removed session is back: %v", when, now)
		case removed || moved != nil || mayBeGone && now == nil:
		default:
			if msg := missing(actors, now); msg != "" {
				return when + ": " + msg
			}
		}
		if moved == nil {
			continue
		}
		if now, err = w.read(moved.cookie); err != nil {
			return fmt.Sprintf("%s: %v", when, err)
		}
		if msg := missing(actors, now); msg != "" {
			return when + ", new id: " + msg
		}
	}
	return ""
}

func removedByAny(actors []*actor) bool {
	for _, a := range actors {
		if a.does == "logout" || a.does == "regenerate" {
			return true
		}
	}
	return false
}

// missing says which change that was saved is not in v.
func missing(actors []*actor, v values) string {
	if v[0] != 0 {
		return fmt.Sprintf("got %v, want what was saved before", v)
	}
	for i, a := range actors {
		saves := a.does == "change" || a.does == "regenerate"
		if saves && a.found && a.err == nil && v[i+1] != i+1 {
			return fmt.Sprintf("got %v, the change of actor %d is lost", v, i+1)
		}
	}
	return ""
}
