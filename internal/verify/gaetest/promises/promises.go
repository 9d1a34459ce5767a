// Package promises tests what every adapter promises, once for all of them, through
// requests that really overlap: P1 no lost update, P2 no resurrection, P3 read your
// writes, P4 the cache may vanish, P5 the backup may be down, P6 a crash between any
// two calls, P7 a read makes one call, P8 it answers in time, P9 unknown is not none,
// P11 nobody else's things. (P10, ended everywhere, is of the adapters that have
// owners.)
//
// Where a test goes through the calls of a request one by one, it holds the request at
// its first call, then at its second, and so on until the request has no such call.
// What depends on time, and what crashes, runs in simulated time.
package promises

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

// An Adapter keeps the sessions of an ecosystem, with one choice of options.
type Adapter struct {
	Name string

	// New starts an app on a service. With inTime the store has the timeouts that are
	// the default; otherwise a minute's, as a busy machine may take longer. In
	// simulated time there is no network.
	New func(tb testing.TB, s *gaetest.Service, simulated, inTime bool) App

	// Drain waits until nothing is done in the background any more.
	Drain func(ctx context.Context) error

	Memcache, Datastore bool // the services that keep the sessions

	// Overwrites says that a save overwrites what others have saved meanwhile: of P1
	// holds that the last one wins. It asks the services anew, so P8 is of each call
	// of the store, and not of a request.
	Overwrites bool

	// Moves says that a Session is a Mover as well.
	Moves bool

	// Async says that changes are saved in Datastore in the background.
	Async bool

	KeyPrefix string // before a session's id, in Memcache
}

// An App is a web app with a store of the adapter.
type App interface {
	// NewVisitor returns somebody who has no session yet.
	NewVisitor() Visitor
}

// A Visitor is somebody whose session the app knows by what a cookie says.
type Visitor interface {
	// Request makes a request, which has use use its session, and saves what use has
	// changed. If the app does not get to its session, use is not called.
	Request(on *gaetest.Request, use func(Session)) Answer

	// Clone returns another visitor with the same session.
	Clone() Visitor

	// Cookie is what names the session; empty: nothing does.
	Cookie() string

	// Name has the visitor name the session of that id.
	Name(id string)
}

// A Session is the session of a request.
type Session interface {
	// Values returns what is in the session; nil: there is none.
	Values() map[string]any
	// Set sets a value, in a new session if there is none. Nil deletes it.
	Set(key string, v any)
	// Remove removes the session for good, here or when the request saves.
	Remove()
	// Save has the request save though nothing may have changed, where the app
	// decides on that.
	Save()
}

// A Mover is a Session that can get a new id when the request saves.
type Mover interface{ Move() }

// An Answer is what became of a request.
type Answer struct {
	// Err is what the app got from the methods of the store, or from the ecosystem.
	Err error
	// Reported returns what the app was told of the request elsewhere, until now;
	// nil: it is told of nothing.
	Reported func() error
	// Cookies are those that the response sets.
	Cookies []*http.Cookie
}

func (a Answer) all() error {
	if a.Reported == nil {
		return a.Err
	}
	return errors.Join(a.Err, a.Reported())
}

type values = map[string]any

// A run is a test of a promise, with an adapter on a service.
type run struct {
	*testing.T
	Adapter
	service   *gaetest.Service
	app       App
	simulated bool
}

// both reports whether the sessions are in both services.
func (r *run) both() bool { return r.Memcache && r.Datastore }

// request returns a request of somebody, on an instance of its own.
func (r *run) request(hooks ...gaetest.Hook) *gaetest.Request {
	if r.simulated {
		return r.service.NewSimulatedRequest(gaetest.AppEngineLatency, hooks...)
	}
	return r.service.NewRequest(hooks...)
}

// context is that of a request whose calls are not watched.
func (r *run) context() context.Context {
	if r.simulated {
		return r.service.NewSimulatedRequest(func(gaetest.Call) time.Duration { return 0 }).Context()
	}
	return r.service.Context()
}

func (r *run) flush() {
	r.Helper()
	if err := memcache.Flush(r.context()); err != nil {
		r.Fatalf("flush Memcache: %v", err)
	}
}

func (r *run) drain() {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := r.Drain(ctx); err != nil {
		r.Errorf("drain: %v", err)
	}
}

func set(s Session, change values) {
	for key, v := range change {
		s.Set(key, v)
	}
}

// change sets values in a request of its own; nil deletes.
func (r *run) change(v Visitor, change values, hooks ...gaetest.Hook) Answer {
	return v.Request(r.request(hooks...), func(s Session) { set(s, change) })
}

func (r *run) logout(v Visitor, hooks ...gaetest.Hook) Answer {
	return v.Request(r.request(hooks...), Session.Remove)
}

// read returns the values that a new request sees; nil: no session.
func (r *run) read(v Visitor, hooks ...gaetest.Hook) (got values, a Answer) {
	return r.readOn(v, r.request(hooks...))
}

func (r *run) readOn(v Visitor, on *gaetest.Request) (got values, a Answer) {
	a = v.Request(on, func(s Session) { got = maps.Clone(s.Values()) })
	return got, a
}

// must makes an error of a request, or one that is reported, one of the test.
func (r *run) must(what string, a Answer) {
	r.Helper()
	if err := a.all(); err != nil {
		r.Errorf("%s: %v", what, err)
	}
}

// login returns a visitor with a session of these values.
func (r *run) login(of values) Visitor {
	r.Helper()
	v := r.app.NewVisitor()
	r.must("login", r.change(v, of))
	r.drain()
	return v
}

// loginCached is login with the session in the cache, where a save that overwrites
// leaves it only if it was there before.
func (r *run) loginCached(of values) Visitor {
	r.Helper()
	v := r.login(of)
	_, a := r.read(v)
	r.must("read", a)
	return v
}

// expect reads the visitor's session as it is now, and after a flush if Datastore has
// it.
func (r *run) expect(v Visitor, want values) {
	r.Helper()
	r.expectNow("now", v, want)
	if !r.Datastore {
		return
	}
	r.drain()
	r.flush()
	r.expectNow("after flush", v, want)
	r.expectNow("after refill", v, want)
}

func (r *run) expectNow(when string, v Visitor, want values) {
	r.Helper()
	got, a := r.read(v.Clone())
	r.must(when, a)
	if !reflect.DeepEqual(got, want) {
		r.Errorf("%s: got %v, want %v", when, got, want)
	}
}

// each runs f as a subtest with the session in the cache and, if the adapter has both
// services, evicted from it.
func (r *run) each(name string, f func(r *run, evict func())) {
	for _, evicted := range []bool{false, true} {
		if evicted && !r.both() {
			continue
		}
		r.sub(fmt.Sprintf("%sevicted=%v", name, evicted), func(r *run) {
			f(r, func() {
				if evicted {
					r.flush()
				}
			})
		})
	}
}

func (r *run) sub(name string, f func(r *run)) {
	r.Run(name, func(t *testing.T) {
		c := *r
		c.T = t
		f(&c)
	})
}

func (r *run) atEachCall(try func(r *run, k int) (reached bool)) {
	gaetest.AtEachCall(r.T, func(t *testing.T, k int) bool {
		c := *r
		c.T = t
		return try(&c, k)
	})
}

// A promise is tested with the adapters that it holds for.
type promise struct {
	name  string
	holds func(Adapter) bool
	test  func(r *run)
}

func always(Adapter) bool       { return true }
func merges(a Adapter) bool     { return !a.Overwrites }
func durable(a Adapter) bool    { return a.Datastore }
func inBoth(a Adapter) bool     { return a.Memcache && a.Datastore }
func inMemcache(a Adapter) bool { return a.Memcache }

var promises = []promise{
	{"P1 overlapping changes of different keys all survive", merges, overlappingChanges},
	{"P1 a change survives another one at any of its calls", merges, changeAtAnyCall},
	{"P1 changes of one session on one instance are saved together", func(a Adapter) bool { return merges(a) && durable(a) }, savedTogether},
	{"P1 on the same key the last one saved wins", always, lastOneWins},
	{"P2 a removed session stays removed when a request is in flight", always, removedInFlight},
	{"P2 a request that changes a removed session gets ErrRemoved and no cookie", always, changeOfARemovedSession},
	{"P3 a saved session is seen by the next request", always, readYourWrites},
	{"P4 nothing saved is lost when Memcache is flushed at any call", durable, flushAtAnyCall},
	{"P5 sessions live on in Memcache while Datastore is down", inBoth, datastoreDown},
	{"P9 when nobody can tell the session is neither replaced nor lost", always, nobodyCanTell},
	{"P11 a visitor reads and changes nothing but sessions", inMemcache, nobodyElsesThings},
}

// Test runs the tests of all promises with the adapters, on every service.
func Test(t *testing.T, adapters ...Adapter) {
	testAll(t, promises, adapters, func(t *testing.T, s *gaetest.Service, a Adapter) *run {
		return &run{T: t, Adapter: a, service: s, app: a.New(t, s, false, false)}
	})
}

func testAll(t *testing.T, all []promise, adapters []Adapter, newRun func(*testing.T, *gaetest.Service, Adapter) *run) {
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			for _, a := range adapters {
				if !p.holds(a) {
					continue
				}
				t.Run(a.Name, func(t *testing.T) {
					gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
						p.test(newRun(t, s, a))
					})
				})
			}
		})
	}
}

func overlappingChanges(r *run) {
	v := r.login(values{"n": 0})
	want := values{"n": 0}
	const requests = 6
	var loaded, saved sync.WaitGroup
	loaded.Add(requests)
	for i := range requests {
		key := fmt.Sprintf("key%d", i)
		want[key] = i
		saved.Add(1)
		go func() {
			defer saved.Done()
			r.must(key, v.Clone().Request(r.request(), func(s Session) {
				s.Values()
				loaded.Done()
				loaded.Wait() // nobody saves before all have loaded
				s.Set(key, i)
			}))
		}()
	}
	saved.Wait()
	r.expect(v, want)
}

func changeAtAnyCall(r *run) {
	r.each("", func(r *run, evict func()) {
		r.atEachCall(func(r *run, k int) bool {
			v := r.login(values{"n": 0, "gone": true})
			evict()
			reached, hook := gaetest.Interpose(k, func() {
				r.must("their change", r.change(v.Clone(), values{"theirs": "b", "gone": nil}))
			})
			a := r.change(v, values{"mine": "a"}, hook)
			r.drain()
			r.must("change", a)
			if reached.Load() {
				r.expect(v, values{"n": 0, "theirs": "b", "mine": "a"})
			}
			return reached.Load()
		})
	})
}

func savedTogether(r *run) {
	v := r.login(values{"n": 0})
	want := values{"n": 0}
	instance := r.request() // for all of them
	const requests = 30
	var loaded, saved sync.WaitGroup
	loaded.Add(requests)
	for i := range requests {
		key := fmt.Sprint(i)
		want[key] = i
		saved.Add(1)
		go func() {
			defer saved.Done()
			r.must(key, v.Clone().Request(instance, func(s Session) {
				s.Values()
				loaded.Done()
				loaded.Wait()
				s.Set(key, i)
			}))
		}()
	}
	saved.Wait()
	r.drain()
	// Those that come while one is saved wait, and are saved together. How many come
	// one by one at the end depends on the machine.
	if commits := gaetest.Commits(instance.Calls()); commits > requests/2 {
		r.Errorf("%d changes took %d transactions", requests, commits)
	}
	r.expect(v, want)
}

func lastOneWins(r *run) {
	v := r.login(values{"k": 0})
	r.must("change", v.Clone().Request(r.request(), func(s Session) {
		s.Values()
		r.must("another change", r.change(v.Clone(), values{"k": 1}))
		r.drain()
		s.Set("k", 2)
	}))
	r.expect(v, values{"k": 2})
}

func removedInFlight(r *run) {
	for _, changes := range []bool{true, false} {
		r.each(fmt.Sprintf("changes=%v, ", changes), func(r *run, evict func()) {
			r.atEachCall(func(r *run, k int) bool {
				v := r.login(values{"n": 0})
				old := v.Clone()
				evict()
				reached, hook := gaetest.Interpose(k, func() { r.must("logout", r.logout(old.Clone())) })
				found := false
				a := v.Request(r.request(hook), func(s Session) {
					found = s.Values() != nil
					if s.Save(); changes {
						s.Set("mine", "a")
					}
				})
				r.drain()
				if !reached.Load() {
					return false
				}
				err := a.all()
				if err != nil && !errors.Is(err, tier.ErrRemoved) {
					r.Error(err)
				}
				if found && changes && k == 2 && err == nil {
					r.Error("a change after the removal was acknowledged")
				}
				// The visitor may have a new session by now. The old cookie leads nowhere.
				r.expect(old, nil)
				if !found && changes && v.Cookie() == old.Cookie() {
					r.Error("the id of a removed session was used again")
				}
				return true
			})
		})
	}
}

func changeOfARemovedSession(r *run) {
	v := r.login(values{"n": 0})
	old := v.Clone()
	a := v.Request(r.request(), func(s Session) {
		if s.Values() == nil {
			r.Error("there is no session")
		}
		r.must("logout", r.logout(old.Clone()))
		s.Set("n", 1)
	})
	r.drain()
	if err := a.all(); !errors.Is(err, tier.ErrRemoved) {
		r.Errorf("got %v, want ErrRemoved", err)
	}
	if len(a.Cookies) > 0 || v.Cookie() != old.Cookie() {
		r.Errorf("the visitor got another cookie, or %v", a.Cookies)
	}
	r.expect(v, nil)
}

func readYourWrites(r *run) {
	v := r.login(values{"n": 0})
	for n := 1; n < 5; n++ {
		r.must("change", r.change(v, values{"n": n}))
		r.expectNow("next request", v, values{"n": n})
		if n == 3 && r.Datastore {
			r.drain()
			r.flush()
		}
	}
}

func flushAtAnyCall(r *run) {
	r.atEachCall(func(r *run, k int) bool {
		v := r.login(values{"n": 0})
		reached, hook := gaetest.Interpose(k, r.service.Flush)
		a := r.change(v, values{"n": 1}, hook)
		r.drain()
		r.must("change", a)
		r.expect(v, values{"n": 1})
		return reached.Load()
	})
}

func datastoreDown(r *run) {
	down := gaetest.Fail(gaetest.Datastore)
	v := r.loginCached(values{"n": 0, "gone": true})
	up := r.service.Break(gaetest.Datastore) // in the background as well
	during := func(what string, change, want values) {
		r.Helper()
		a := r.change(v, change, down)
		r.drain()
		if err := a.all(); !errors.Is(err, gaetest.ErrFailed) || !errors.Is(err, tier.ErrNotBackedUp) {
			r.Errorf("%s: got %v, want ErrNotBackedUp and the error of Datastore", what, err)
		}
		if got, a := r.read(v.Clone(), down); a.all() != nil || !reflect.DeepEqual(got, want) {
			r.Errorf("%s: got %v, %v; want %v", what, got, a.all(), want)
		}
	}
	during("first change", values{"n": 1, "gone": nil}, values{"n": 1})
	during("second change", values{"m": 1}, values{"n": 1, "m": 1})
	up()
	// The next change brings Datastore up to date.
	r.must("change", r.change(v, values{"up": true}))
	r.expect(v, values{"n": 1, "m": 1, "up": true})
}

func nobodyCanTell(r *run) {
	v := r.login(values{"n": 0})
	cookie := v.Cookie()
	a := v.Request(r.request(gaetest.Fail(func(gaetest.Call) bool { return true })), func(s Session) {
		if s.Values() != nil {
			r.Error("there is a session")
		}
	})
	if err := a.all(); !errors.Is(err, tier.ErrUnavailable) || !errors.Is(err, gaetest.ErrFailed) {
		r.Errorf("got %v, want ErrUnavailable and the services' error", err)
	}
	if len(a.Cookies) > 0 || v.Cookie() != cookie {
		r.Errorf("the visitor got another cookie, or %v", a.Cookies)
	}
	r.expect(v, values{"n": 0})
}

func nobodyElsesThings(r *run) {
	const name, text = "greeting", "hello"
	for where, key := range map[string]string{"another prefix": name, "the same prefix": r.KeyPrefix + name} {
		if err := memcache.Set(r.context(), &memcache.Item{Key: key, Value: []byte(text)}); err != nil {
			r.Fatal(err)
		}
		v := r.app.NewVisitor()
		v.Name(name)
		if got, _ := r.read(v.Clone()); got != nil { // that it is no session may be an error
			r.Errorf("%s: read %v", where, got)
		}
		r.change(v.Clone(), values{"n": 1})
		r.logout(v.Clone())
		r.drain()
		if it, err := memcache.Get(r.context(), key); err != nil || string(it.Value) != text {
			r.Errorf("%s: the app's item is gone, or another one: %v", where, err)
		}
	}
}
