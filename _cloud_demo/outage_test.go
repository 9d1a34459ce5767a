package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"github.com/icza/session"
	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// What requests do while Redis does not answer, and Datastore does: gaelocal's,
// which takes no time.

const (
	// firstRequests is what a request may take that finds out that Redis does not
	// answer: 500 ms, and the backup's own time, on a machine that has other work. A
	// machine that has more of it is tried again.
	firstRequests = 900 * time.Millisecond
	firstAttempts = 10
	// withTheBreakerOpen is by how much a request may be slower than one without a
	// cache.
	withTheBreakerOpen = 10 * time.Millisecond
	// recovery is how long after the outage nothing of it is to be left.
	recovery = 5 * time.Second

	// connections are what an instance's client may have: go-redis' default on two
	// processors.
	connections = 20
	// tellers are the goroutines of an instance that tell Redis what it has missed,
	// as many as internal/tiered allows.
	tellers = 16
	// ofAnOutage is how many goroutines an instance has at most, during an outage,
	// when no request is under way.
	ofAnOutage = 2*tellers + // each with the goroutine of its call
		connections + // of calls that were given up while the client was waiting for an answer
		connections + // of the client, each dialing
		2 + // hand out the work to the tellers
		2 + // the breaker's probe, and its call
		1 // of the client, dialing until it succeeds after its dials have failed
)

// outages are the ways in which Redis does not answer. Each begins one, and
// returns what ends it.
var outages = map[string]func(s *redisServer, net *network) (end func()){
	"stopped": func(s *redisServer, _ *network) func() { return s.stop() },
	"packets are lost": func(s *redisServer, net *network) func() {
		goOn := s.stop() // which silences the connections that there are
		net.lost.Store(true)
		return func() { net.lost.Store(false); goOn() }
	},
	"refused": func(s *redisServer, _ *network) func() { s.kill(); return s.start },
}

func (s *redisServer) stop() (goOn func()) {
	s.t.Helper()
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := s.process.Process.Signal(syscall.SIGCONT); err != nil {
			s.t.Error(err)
		}
	}
}

// A network may lose all packets of new connections.
type network struct{ lost atomic.Bool }

func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if n.lost.Load() {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// A site is one instance of an app.
type site struct {
	t      *testing.T
	opened chan struct{} // closed when the breaker has opened
	name   any
	store  store
}

// A store makes requests, each with a copy of the session of its own.
type store interface {
	login(ctx context.Context) (id string, err error)
	// read returns the attribute n; found is false if there is no session.
	read(ctx context.Context, id string) (n any, found bool, err error)
	change(ctx context.Context, id string, n int) error
	logout(ctx context.Context, id string) error
}

var stores = map[string]func(tier.Cache, *tier.Trace) store{
	"icza/session": func(c tier.Cache, trace *tier.Trace) store {
		return &iczaStore{options: gaesession.MemcacheStoreOptions{Cache: c, Trace: trace}}
	},
	"icza/session, asynchronous": func(c tier.Cache, trace *tier.Trace) store {
		return &iczaStore{options: gaesession.MemcacheStoreOptions{Cache: c, Trace: trace, AsyncDatastoreSave: true}}
	},
	"gorilla/sessions": func(c tier.Cache, trace *tier.Trace) store {
		s := cascadestore.NewTieredStore(c, gae.Datastore{Kind: "Session", Value: "Value", Expires: "ExpiresAt"}, []byte("0123456789abcdef0123456789abcdef"))
		s.Trace, s.Logger = trace, slog.New(slog.NewTextHandler(io.Discard, nil))
		return &gorillaStore{s}
	},
}

func newSite(t *testing.T, s *redisServer, n *network, open func(tier.Cache, *tier.Trace) store) *site {
	t.Helper()
	options := rediscache.ClientOptions(s.address)
	options.Dialer, options.PoolSize = n.dial, connections
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	cache, err := rediscache.New(context.Background(), client, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := &site{t: t, name: new(int), opened: make(chan struct{})}
	breaks := sync.OnceFunc(func() { close(i.opened) })
	i.store = open(cache, &tier.Trace{Breaker: func(_ context.Context, open bool) {
		if open {
			breaks()
		}
	}})
	return i
}

// ctx is the context of a request on the site.
func (i *site) ctx() context.Context {
	return instance.With(context.Background(), instance.Instance{Name: i.name})
}

type iczaStore struct {
	options gaesession.MemcacheStoreOptions
}

func (s *iczaStore) open(ctx context.Context) (session.Store, func() error) {
	var mu sync.Mutex
	var errs []error
	o := s.options
	o.OnError = func(_ context.Context, err error) { mu.Lock(); defer mu.Unlock(); errs = append(errs, err) }
	return gaesession.NewMemcacheStoreOptions(ctx, &o), func() error {
		mu.Lock()
		defer mu.Unlock()
		return errors.Join(errs...)
	}
}

func (s *iczaStore) login(ctx context.Context) (string, error) {
	st, failed := s.open(ctx)
	sess := session.NewSession()
	sess.SetAttr("n", 0)
	st.Add(sess)
	st.Close()
	return sess.ID(), failed()
}

func (s *iczaStore) with(ctx context.Context, id string, f func(session.Store, session.Session)) (found bool, err error) {
	st, failed := s.open(ctx)
	sess := st.Get(id)
	if sess != nil {
		f(st, sess)
	}
	st.Close()
	return sess != nil, failed()
}

func (s *iczaStore) read(ctx context.Context, id string) (n any, found bool, err error) {
	found, err = s.with(ctx, id, func(_ session.Store, sess session.Session) { n = sess.Attr("n") })
	return n, found, err
}

func (s *iczaStore) change(ctx context.Context, id string, n int) error {
	found, err := s.with(ctx, id, func(_ session.Store, sess session.Session) { sess.SetAttr("n", n) })
	return orNone(found, err)
}

func (s *iczaStore) logout(ctx context.Context, id string) error {
	found, err := s.with(ctx, id, func(st session.Store, sess session.Session) { st.Remove(sess) })
	return orNone(found, err)
}

func orNone(found bool, err error) error {
	if !found {
		return errors.Join(errors.New("no session"), err)
	}
	return err
}

type gorillaStore struct{ *cascadestore.CascadeStore }

func (s *gorillaStore) with(ctx context.Context, cookie string, save bool, f func(*sessions.Session)) (id string, found bool, err error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
	r.Header.Set("Cookie", cookie)
	sess, err := s.New(r, "s")
	if err != nil || sess.IsNew && cookie != "" {
		return "", false, err
	}
	if f(sess); !save {
		return "", true, nil
	}
	w := httptest.NewRecorder()
	err = s.Save(r, w, sess)
	for _, c := range w.Result().Cookies() {
		id = c.Name + "=" + c.Value
	}
	return id, true, err
}

func (s *gorillaStore) login(ctx context.Context) (string, error) {
	id, _, err := s.with(ctx, "", true, func(sess *sessions.Session) { sess.Values["n"] = 0 })
	return id, err
}

func (s *gorillaStore) read(ctx context.Context, id string) (n any, found bool, err error) {
	_, found, err = s.with(ctx, id, false, func(sess *sessions.Session) { n = sess.Values["n"] })
	return n, found, err
}

func (s *gorillaStore) change(ctx context.Context, id string, n int) error {
	_, found, err := s.with(ctx, id, true, func(sess *sessions.Session) { sess.Values["n"] = n })
	return orNone(found, err)
}

func (s *gorillaStore) logout(ctx context.Context, id string) error {
	_, found, err := s.with(ctx, id, true, func(sess *sessions.Session) { sess.Options.MaxAge = -1 })
	return orNone(found, err)
}

// saved fails the test unless a change is in the backup.
func (i *site) saved(doing string, err error) {
	i.t.Helper()
	for _, bad := range []error{gaesession.ErrNotSaved, gaesession.ErrNotBackedUp, gaesession.ErrUnavailable, gaesession.ErrRemoved} {
		if errors.Is(err, bad) {
			i.t.Errorf("%s: %v", doing, err)
		}
	}
}

// mustLogin returns a new session that the cache has. A machine that has other work may
// take longer than the cache's time.
func (i *site) mustLogin() string {
	i.t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		id, err := i.store.login(i.ctx())
		if err == nil {
			return id
		}
		if time.Now().After(until) {
			i.t.Fatal(err)
		}
	}
}

// operations are what a request may do. Each gets a session of its own.
var operations = map[string]func(i *site, ctx context.Context, id string){
	"read": func(i *site, ctx context.Context, id string) {
		if n, found, err := i.store.read(ctx, id); !found || n != 0 {
			i.t.Errorf("read: got %v, %t, %v; want the session", n, found, err)
		}
	},
	"login":  func(i *site, ctx context.Context, _ string) { _, err := i.store.login(ctx); i.saved("login", err) },
	"change": func(i *site, ctx context.Context, id string) { i.saved("change", i.store.change(ctx, id, 1)) },
	"logout": func(i *site, ctx context.Context, id string) { i.saved("logout", i.store.logout(ctx, id)) },
}

func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func median(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[len(of)/2]
}

// goroutines returns how many there are of the stores and of the client.
func goroutines() (n int) {
	stacks := make([]byte, 16<<20)
	for _, g := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(g, "internal/tiered.") || strings.Contains(g, "rediscache.") || strings.Contains(g, "redis/go-redis") {
			n++
		}
	}
	return n
}

// soon fails the test unless something is so within the time of a recovery.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(recovery); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Errorf("not so in %v: %s", recovery, what)
			return
		}
	}
}

// onEachOutage calls f with two instances of an app that have used Redis before it
// goes away, and one that never has a cache.
func onEachOutage(t *testing.T, f func(t *testing.T, a, b, uncached *site, begin func() (end func()))) {
	redis.SetLogger(quiet{})
	local, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := local.Close(); err != nil {
			t.Error(err)
		}
	})
	restore, err := local.Setenv()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(restore)
	for how, begin := range outages {
		if testing.Short() && how != "stopped" {
			continue
		}
		for name, open := range stores {
			t.Run(how+", "+name, func(t *testing.T) {
				s, n := newRedis(t), &network{}
				a, b := newSite(t, s, n, open), newSite(t, s, n, open)
				uncached := &site{t: t, name: new(int), store: open(tier.None, nil)}
				for _, i := range []*site{a, b} {
					if _, found, err := i.store.read(i.ctx(), a.mustLogin()); !found {
						t.Fatalf("before the outage: %v", err)
					}
				}
				f(t, a, b, uncached, func() func() {
					end := sync.OnceFunc(begin(s, n))
					t.Cleanup(end)
					return end
				})
			})
		}
	}
}

// quiet drops what go-redis logs of every connection that it cannot make.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// A request that finds out that Redis does not answer waits for half a second,
// whatever it does. Once three have, no other waits at all.
func TestARedisThatDoesNotAnswerCostsHalfASecondAndThenNothing(t *testing.T) {
	onEachOutage(t, func(t *testing.T, a, _, uncached *site, begin func() func()) {
		const samples = 15
		ids := map[string][]string{}
		for name := range operations {
			for range 2*samples + firstAttempts {
				ids[name] = append(ids[name], a.mustLogin())
			}
		}
		begin()

		// first makes one request of each kind at once, and returns which were slow.
		first := func(ctx context.Context, k int) (slow []string) {
			var mu sync.Mutex
			var all sync.WaitGroup
			for name, f := range operations {
				all.Add(1)
				go func() {
					defer all.Done()
					if d := took(func() { f(a, ctx, ids[name][2*samples+k]) }); d > firstRequests {
						mu.Lock()
						defer mu.Unlock()
						slow = append(slow, fmt.Sprintf("%s: %v", name, d))
					}
				}()
			}
			all.Wait()
			return slow
		}
		slow := first(a.ctx(), 0)
		for k := 1; len(slow) > 0 && k < firstAttempts; k++ { // on an instance whose breaker is closed
			slow = first(instance.With(a.ctx(), instance.Instance{Name: new(int)}), k)
		}
		if len(slow) > 0 {
			t.Errorf("first requests took %v, want %v at most", slow, firstRequests)
		}
		select {
		case <-a.opened:
		case <-time.After(recovery):
			t.Fatal("the breaker does not open")
		}
		for name, f := range operations {
			var with, without []time.Duration
			for k := range samples {
				with = append(with, took(func() { f(a, a.ctx(), ids[name][2*k]) }))
				without = append(without, took(func() { f(uncached, uncached.ctx(), ids[name][2*k+1]) }))
			}
			w, wo := median(with), median(without)
			t.Logf("%s: %v with the breaker open, %v without a cache", name, w, wo)
			if w > wo+wo/2+withTheBreakerOpen {
				t.Errorf("a %s takes %v with the breaker open, and %v without a cache", name, w, wo)
			}
		}
	})
}

// Half of a deadline belongs to the backup.
func TestARequestWithADeadlineFindsItsSessionWhileRedisDoesNotAnswer(t *testing.T) {
	onEachOutage(t, func(t *testing.T, a, _, _ *site, begin func() func()) {
		id := a.mustLogin()
		begin()
		var all sync.WaitGroup
		for k := range 40 {
			ctx, cancel := context.WithTimeout(a.ctx(), 2*time.Second)
			if k%2 == 0 { // on an instance whose breaker is closed
				ctx = instance.With(ctx, instance.Instance{Name: new(int)})
			}
			all.Add(1)
			go func() {
				defer all.Done()
				defer cancel()
				if _, found, err := a.store.read(ctx, id); !found {
					t.Errorf("not found: %v", err)
				}
			}()
		}
		all.Wait()
	})
}

// After the outage every instance shows what was saved last, and nobody who has
// logged out. Nothing of the outage is left.
func TestNothingIsLostOrLeftWhenRedisAnswersAgain(t *testing.T) {
	onEachOutage(t, func(t *testing.T, a, b, _ *site, begin func() func()) {
		const sessions = 20
		changed, ended := make([]string, sessions), make([]string, sessions)
		for k := range sessions {
			changed[k], ended[k] = a.mustLogin(), b.mustLogin()
		}
		if err := gaesession.Drain(a.ctx()); err != nil {
			t.Fatal(err)
		}
		before := goroutines()
		end := begin()
		var all sync.WaitGroup
		for k := range sessions {
			all.Add(2)
			go func() {
				defer all.Done()
				for n, i := range []*site{a, b, a, b} {
					i.saved("change", i.store.change(i.ctx(), changed[k], n+1))
				}
			}()
			go func() {
				defer all.Done()
				i := []*site{a, b}[k%2]
				i.saved("logout", i.store.logout(i.ctx(), ended[k]))
			}()
		}
		all.Wait()
		// The goroutine of a request's last call waits for another one for 100 ms. On a
		// busy machine those of earlier calls are still there as well.
		n, most := goroutines(), before+2*ofAnOutage+2*sessions
		for range 5 {
			if n > most {
				time.Sleep(100 * time.Millisecond)
				n = goroutines()
			}
		}
		if n > most {
			t.Errorf("%d goroutines during the outage, want %d at most; %d before", n, most, before)
		}
		end()
		for name, i := range map[string]*site{"a": a, "b": b, "another": {t: t, name: new(int), store: a.store}} {
			for k := range sessions {
				var seen string
				soon(t, fmt.Sprintf("instance %s shows what was saved last", name), func() bool {
					n, found, err := i.store.read(i.ctx(), changed[k])
					seen = fmt.Sprint(n, found, err)
					return found && n == 4
				})
				soon(t, fmt.Sprintf("instance %s shows nobody who has logged out", name), func() bool {
					_, found, _ := i.store.read(i.ctx(), ended[k])
					return !found
				})
				if t.Failed() {
					t.Fatalf("session %d: %s", k, seen)
				}
			}
		}
		soon(t, fmt.Sprintf("there are %d goroutines, as before", before), func() bool { return goroutines() <= before })
	})
}
