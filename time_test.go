//go:build go1.25

package gaesession_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/gaetest/promises"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// What depends on time, tested in simulated time.

func TestPromisesInTime(t *testing.T) { promises.TestInTime(t, adapters()...) }

func newSimulatedRequest(s *gaetest.Service, o options, hooks ...gaetest.Hook) *request {
	r := &request{Request: s.NewSimulatedRequest(gaetest.AppEngineLatency, hooks...), errs: new(errorLog)}
	o.OnError = r.errs.add
	r.Store = gaesession.NewMemcacheStoreOptions(r.Context(), &o)
	return r
}

func TestTheAccessTimeIsWrittenOncePerRefreshInterval(t *testing.T) {
	s := gaetest.Local(t)
	for _, test := range []struct {
		name     string
		interval time.Duration // of both requests
		before   time.Duration // if it is not 0: of the request that saved the session
		age      time.Duration
		writes   bool
	}{
		{"default, young", 0, 0, 2 * time.Minute, false},
		{"default, a tenth of the timeout old", 0, 0, 3 * time.Minute, true},
		{"every request", -1, 0, time.Second, true},
		{"an hour, young", time.Hour, 0, 20 * time.Minute, false},
		{"a minute, old", time.Minute, 0, time.Minute, true},
		{"an hour, saved under a minute", time.Hour, time.Minute, 2 * time.Minute, true},
		{"a minute, saved under an hour", time.Minute, time.Hour, 2 * time.Minute, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				r := newSimulatedRequest(s, options{RefreshInterval: cmp.Or(test.before, test.interval)})
				sess := session.NewSession()
				r.Add(sess)
				r.Close()
				before := entityOf(t, r.Context(), sess.ID())
				time.Sleep(test.age)
				r = newSimulatedRequest(s, options{RefreshInterval: test.interval})
				if r.Get(sess.ID()) == nil {
					t.Fatal("no session")
				}
				r.Close()
				want := 1
				if test.writes {
					want = 6
				}
				if calls := r.Calls(); len(calls) != want {
					t.Errorf("got calls %v, want %d", calls, want)
				}
				after := entityOf(t, r.Context(), sess.ID())
				if later := after.Expires.After(before.Expires); later != test.writes && test.before <= test.interval {
					t.Errorf("expires later: got %t, want %t", later, test.writes)
				}
				if until := time.Now().Add(sess.Timeout()); after.Expires.Before(until.Add(-time.Second)) {
					t.Errorf("expires at %v, before %v", after.Expires, until)
				}
			})
		})
	}
}

// entityOf returns the entity of a session.
func entityOf(t *testing.T, ctx context.Context, id string) (e gaesession.SessEntity) {
	t.Helper()
	if err := datastore.Get(ctx, datastore.NewKey(ctx, "sess_", id, 0, nil), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// A request goes on for minutes after its session has expired, and a purge has
// found the session by then: no change may be acknowledged that is deleted next.
func TestAPurgeTakesNoAcknowledgedChangeWithIt(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, flushed := range []bool{false, true} {
			o := options{}
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				login := newSimulatedRequest(s, o)
				sess := session.NewSession()
				login.Add(sess)
				login.Close()
				if flushed {
					if err := memcache.Flush(login.Context()); err != nil {
						t.Fatal(err)
					}
				}
				r := newSimulatedRequest(s, o)
				r.Get(sess.ID()).SetAttr("n", 1)
				time.Sleep(40 * time.Minute)
				gate, hook := gaetest.Hold(func(c gaetest.Call) bool { return c.Method == "Delete" })
				defer gate.Open()
				purged := make(chan error, 1)
				go func() {
					_, err := gaesession.PurgeExpired(newSimulatedRequest(s, o, hook).Context(), "")
					purged <- err
				}()
				<-gate.Arrived()
				r.Close()
				gate.Open()
				if err := <-purged; err != nil {
					t.Error(err)
				}
				if err := r.errs.all(); !errors.Is(err, gaesession.ErrRemoved) {
					t.Errorf("flushed: %t: the change reported %v, want ErrRemoved", flushed, err)
				}
			})
		}
	})
}

// icza/gaesession's expiry has no margin, so the first read writes it again.
func TestASessionOfIczaGaesessionEndsNoEarlierThanItsTimeoutAfterItsLastUse(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		old := oldlib.New(newSimulatedRequest(s, options{}).Context(), oldlib.Options{})
		sess := session.NewSession()
		old.Add(sess)
		old.Close()
		for _, after := range []time.Duration{2 * time.Minute, 29*time.Minute + 30*time.Second} {
			time.Sleep(after)
			r := newSimulatedRequest(s, options{})
			if r.Get(sess.ID()) == nil {
				t.Fatalf("no session %v after its last use", after)
			}
			r.Close()
		}
	})
}

func TestANaNIsNoChange(t *testing.T) {
	s := gaetest.Local(t)
	for _, v := range []any{math.NaN(), []float64{1, math.NaN()}} {
		id := login(t, s, options{}, attrs{"v": v})
		r := newRequest(s, options{})
		r.Get(id)
		r.Close()
		if calls := r.Calls(); len(calls) != 1 {
			t.Errorf("%v: a read made calls %v", v, calls)
		}
	}
}

// Requests of one instance that change one session at once share their
// transactions.
func TestParallelChangesOnOneInstance(t *testing.T) {
	const transaction = 36 * time.Millisecond
	for _, test := range []struct {
		requests int
		o        options
		within   time.Duration
	}{
		{8, options{}, 3 * transaction},
		{100, options{}, 10 * transaction},
		{100, options{AsyncDatastoreSave: true}, 10 * transaction},
	} {
		gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
			id := login(t, s, test.o, nil)
			calls := 0
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				var all sync.WaitGroup
				var mu sync.Mutex
				begin := time.Now()
				for i := range test.requests {
					r := newSimulatedRequest(s, test.o)
					// Not on an instance of its own, as other tests' requests are.
					r.Store = gaesession.NewMemcacheStoreOptions(instance.With(r.Context(), instance.Instance{Name: "one"}), &gaesession.MemcacheStoreOptions{
						AsyncDatastoreSave: test.o.AsyncDatastoreSave, OnError: r.errs.add,
					})
					all.Add(1)
					go func() {
						defer all.Done()
						r.Get(id).SetAttr(fmt.Sprint("a", i), i)
						r.Close()
						if err := r.errs.all(); err != nil {
							t.Errorf("request %d: %v", i, err)
						}
						mu.Lock()
						defer mu.Unlock()
						calls += len(r.Calls())
					}()
				}
				all.Wait()
				if took := time.Since(begin); took > test.within {
					t.Errorf("%d requests took %v, want at most %v", test.requests, took, test.within)
				}
				drain(t)
			})
			t.Logf("%d requests made %d calls", test.requests, calls)
			s.Flush()
			got := read(t, s, test.o, id)
			for i := range test.requests {
				if name := fmt.Sprint("a", i); got[name] != i {
					t.Errorf("%s is %v, want %d", name, got[name], i)
				}
			}
		})
	}
}

func TestACookieThatIsShorterThanTheSessionIsSetAgainWhileItIsUsed(t *testing.T) {
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		o       options
		timeout time.Duration
		changes bool
	}{
		"no access time is written so close to MaxLifetime": {options{MaxLifetime: 30 * day}, 30 * day, false},
		"the access time is written seldom":                 {options{RefreshInterval: 30 * day}, 60 * day, false},
		"every request changes the session":                 {options{RefreshInterval: 30 * day}, 60 * day, true},
	} {
		t.Run(name, func(t *testing.T) {
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				c := newClient(t, &gaesession.Sessions{Options: test.o, Cookie: gaesession.Cookie{MaxAge: day}})
				c.login(test.timeout)
				if c.visit(false) {
					t.Error("the next request sets the cookie again")
				}
				writes := c.writes.Load()
				for range 40 {
					time.Sleep(day / 20)
					c.visit(test.changes)
				}
				if wrote := c.writes.Load() > writes; wrote != test.changes {
					t.Errorf("it wrote: %v", wrote)
				}
			})
		})
	}
}

func TestALateAnswerTakesNoNewerCookieAway(t *testing.T) {
	const day = 24 * time.Hour
	for name, interval := range map[string]time.Duration{"the access time is due": day / 5, "it is not due": 30 * day} {
		t.Run(name, func(t *testing.T) {
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				c := newClient(t, &gaesession.Sessions{Options: options{RefreshInterval: interval}, Cookie: gaesession.Cookie{MaxAge: day}})
				c.app.Options.OnError = new(errorLog).add
				c.login(60 * day)
				time.Sleep(day / 2)
				old := c.cookie.Value
				late := c.do(func(_ http.ResponseWriter, r *http.Request) {
					if sess, err := c.app.Get(r); sess == nil || err != nil {
						t.Fatalf("got %v, %v", sess, err)
					}
					moves := c.do(func(_ http.ResponseWriter, r *http.Request) {
						if err := c.app.RegenerateID(r); err != nil {
							t.Error(err)
						}
					})
					if !moves || c.cookie.Value == old {
						t.Fatal("the session has not moved")
					}
				})
				if late {
					t.Error("the late answer sets the cookie")
				}
			})
		})
	}
}

// What is changed once the header has left, or with a Hijack, is saved without a cookie.
func TestUsesWithoutACookieKeepNoCookieFromBeingSetAgain(t *testing.T) {
	const interval = time.Hour
	for name, test := range map[string]struct {
		uses    []string // of which the first comes after that time, and the others at once
		after   time.Duration
		header  func(w http.ResponseWriter)
		timeout time.Duration
		o       options
	}{
		"every request changes the session late": {[]string{"late"}, interval / 4, sendHeader, 10 * interval, options{}},
		"first a late change, then a read":       {[]string{"late alone", "read"}, interval * 11 / 10, sendHeader, 10 * interval, options{}},
		"first a WebSocket, then a read":         {[]string{"late", "read"}, interval * 11 / 10, hijack, 10 * interval, options{}},
		"no access time is written so close to MaxLifetime": {
			[]string{"late alone", "read"}, interval * 3 / 4, sendHeader,
			100 * interval, options{MaxLifetime: 100 * interval, RefreshInterval: interval / 10},
		},
	} {
		t.Run(name, func(t *testing.T) {
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				c := newClient(t, &gaesession.Sessions{Options: test.o, Cookie: gaesession.Cookie{MaxAge: 10 * interval}})
				c.login(test.timeout)
				for n := range 60 {
					time.Sleep(test.after)
					for _, use := range test.uses {
						c.do(func(w http.ResponseWriter, r *http.Request) {
							if use == "late alone" {
								test.header(w)
							}
							sess, err := c.app.Get(r)
							if sess == nil || err != nil {
								t.Fatalf("request %d: got %v, %v", n, sess, err)
							}
							if use != "read" {
								test.header(w)
								sess.SetAttr("n", n)
							}
						})
					}
				}
			})
		})
	}
}

// A session lives as long after its last use, whether or not that could set a cookie.
func TestASessionThatIsUsedAfterTheHeaderAloneLives(t *testing.T) {
	const day = 24 * time.Hour
	for name, changes := range map[string]bool{"changed": true, "saved": false} {
		t.Run(name, func(t *testing.T) {
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				c := newClient(t, &gaesession.Sessions{})
				c.login(day)
				late := func(changes bool) {
					c.do(func(w http.ResponseWriter, r *http.Request) {
						sendHeader(w)
						sess, err := c.app.Get(r)
						if sess == nil || err != nil {
							t.Fatalf("got %v, %v", sess, err)
						}
						if changes {
							sess.SetAttr("at", time.Now().Unix())
						}
						if err := c.app.Save(r); err != nil {
							t.Error(err)
						}
					})
				}
				for range 60 {
					time.Sleep(day / 24)
					late(changes)
				}
				if most := int32(6 * (1 + 60*10/24)); !changes && c.writes.Load() > most {
					t.Errorf("%d calls that write, more than %d", c.writes.Load(), most)
				}
				time.Sleep(day - time.Second)
				late(false)
			})
		})
	}
}

func sendHeader(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }

func hijack(w http.ResponseWriter) { _, _, _ = w.(http.Hijacker).Hijack() }

func TestACookieThatLivesAsLongAsTheSessionIsSetOnce(t *testing.T) {
	const month = 30 * 24 * time.Hour
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		c := newClient(t, &gaesession.Sessions{Options: options{MaxLifetime: month}})
		c.login(month)
		for range 9 {
			time.Sleep(month / 10)
			if c.visit(false) {
				t.Error("the cookie is set again")
			}
		}
	})
}

// A client keeps the cookie of an app that runs on services in memory.
type client struct {
	t       *testing.T
	app     *gaesession.Sessions
	writes  atomic.Int32 // calls that change something
	cookie  *http.Cookie
	expires time.Time
}

func newClient(t *testing.T, app *gaesession.Sessions) *client {
	c := &client{t: t, app: app}
	app.Options.Cache, app.Options.Backup = tiertest.NewCache(), tiertest.NewBackup()
	app.Options.Trace = &tier.Trace{Call: func(_ context.Context, call tier.Call) {
		if call.Operation != "get" {
			c.writes.Add(1)
		}
	}}
	return c
}

// do makes a request, and reports whether its response sets the cookie.
func (c *client) do(f http.HandlerFunc) (isSet bool) {
	r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
	if time.Now().Before(c.expires) {
		r.AddCookie(c.cookie)
	}
	c.app.Handler(f).ServeHTTP(hijackable{w}, r)
	for _, cookie := range w.Result().Cookies() {
		c.cookie, c.expires, isSet = cookie, time.Now().Add(time.Duration(cookie.MaxAge)*time.Second), true
	}
	return isSet
}

// A hijackable gives its connection away, and with it the header.
type hijackable struct{ *httptest.ResponseRecorder }

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	clear(h.Header())
	return nil, nil, nil
}

func (c *client) login(timeout time.Duration) {
	c.do(func(_ http.ResponseWriter, r *http.Request) {
		if err := c.app.Add(r, session.NewSessionOptions(&session.SessOptions{Timeout: timeout})); err != nil {
			c.t.Error(err)
		}
	})
}

// visit uses the session, which has to be there.
func (c *client) visit(changes bool) (isSet bool) {
	c.t.Helper()
	return c.do(func(_ http.ResponseWriter, r *http.Request) {
		sess, err := c.app.Get(r)
		if sess == nil || err != nil {
			c.t.Fatalf("got %v, %v", sess, err)
		}
		if changes {
			sess.SetAttr("at", time.Now().Unix())
		}
	})
}
