//go:build go1.25

package cascadestore_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/gaetest/promises"
)

// What depends on time, tested in simulated time.

func TestPromisesInTime(t *testing.T) { promises.TestInTime(t, adapters()...) }

// onEachInSimulatedTime is onEach with an app in simulated time.
func onEachInSimulatedTime(t *testing.T, need int, f func(t *testing.T, a *app, backends int)) {
	onEach(t, need, func(t *testing.T, a *app, backends int) {
		gaetest.InSimulatedTime(t, func(t *testing.T) {
			f(t, newSimulatedApp(t, a.Service, a.store), backends)
		})
	})
}

// loginWhileDown returns a browser with a session that Memcache alone has.
func (a *app) loginWhileDown(t testing.TB, v values) *browser {
	t.Helper()
	b := a.newBrowser()
	if err := b.change(v, gaetest.Fail(gaetest.Datastore)); !errors.Is(err, gaetest.ErrFailed) {
		t.Errorf("got %v, want the error of Datastore", err)
	}
	return b
}

func TestHandlerDoesNotRefreshASessionThatIsOnlyRead(t *testing.T) {
	local := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, local.Service, local.store)
		b := a.login(t, values{"list": []string{"a"}})
		time.Sleep(time.Duration(a.store.Options.MaxAge) * time.Second / 5)
		v := b.Visit(a.store.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if s, err := a.store.Get(r, sessionName); err != nil || s.IsNew {
				t.Errorf("got %v, %v", s, err)
			}
		})).ServeHTTP)
		if v.Commits() > 0 || v.Response.Header.Get("Set-Cookie") != "" {
			t.Errorf("%d commits, Set-Cookie %q", v.Commits(), v.Response.Header.Get("Set-Cookie"))
		}
	})
}

// A minute is more than the three seconds after which others save what is
// unsaved.
const aMinute = time.Minute

func TestALoginWhileDatastoreIsDownIsSavedLater(t *testing.T) {
	onEachInSimulatedTime(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		for _, maxAge := range []int{1000, 7 * 365 * 24 * 3600} {
			a.store.SetMaxAge(maxAge)
			t.Log("MaxAge", maxAge)
			changed := a.loginWhileDown(t, values{"n": 0})
			changed.mustChange(t, values{"m": 1}) // at once
			changed.expect(t, backends, values{"n": 0, "m": 1})

			read := a.loginWhileDown(t, values{"n": 0})
			time.Sleep(aMinute)
			if n := read.save(nil).Commits(); n != 1 {
				t.Errorf("a request that changed nothing committed %d times, want once, while it loaded", n)
			}
			read.expect(t, backends, values{"n": 0})

			// Datastore comes up again while the request is under way.
			late := a.loginWhileDown(t, values{"n": 0})
			time.Sleep(aMinute)
			down := true
			v := late.Visit(func(w http.ResponseWriter, r *http.Request) {
				late.with(r, func(s *sessions.Session) error {
					down = false
					s.Values["m"] = 1
					return s.Save(r, w)
				})
			}, gaetest.Fail(func(c gaetest.Call) bool { return down && gaetest.Datastore(c) }))
			if n := v.Commits(); n != 1 {
				t.Errorf("a request that changed something committed %d times, want once", n)
			}
			late.expect(t, backends, values{"n": 0, "m": 1})
		}
	})
}

func TestBringingDatastoreUpToDateStopsAtARemoval(t *testing.T) {
	onEachInSimulatedTime(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		// The first call loads the session, the second one says in Memcache that
		// somebody saves it, and with the third one Datastore is asked.
		const asksDatastore = 3
		for k, last := 1, false; !last; k++ {
			b := a.login(t, values{"n": 0})
			if err := b.change(values{"n": 1}, gaetest.Fail(gaetest.Datastore)); !errors.Is(err, gaetest.ErrFailed) {
				t.Fatalf("got %v, want the error of Datastore", err)
			}
			time.Sleep(aMinute)
			reached, hook := gaetest.Interpose(k, func() { b.clone().mustLogout(t) })
			got, err := b.read(hook)
			if err != nil || got != nil && got["n"] != 1 {
				t.Errorf("call %d: got %v, %v; want the session or none, and no error", k, got, err)
			}
			if k == asksDatastore && got != nil {
				t.Error("the session was found that was removed before Datastore had been asked")
			}
			if last = !reached.Load(); last && k <= asksDatastore {
				t.Errorf("there was no call %d", k)
			}
			if !last {
				b.expect(t, backends, nil)
			}
		}
	})
}

func TestTheExpiryIsWrittenAgainAfterATenthOfMaxAge(t *testing.T) {
	const maxAge = 10000
	for _, test := range []struct {
		name   string
		age    time.Duration
		maxAge int
		writes bool
	}{
		{"fresh", 0, maxAge, false},
		{"less than a tenth", 900 * time.Second, maxAge, false},
		{"more than a tenth", 1100 * time.Second, maxAge, true},
		{"MaxAge was raised", 0, 2 * maxAge, true},
		// The services keep the later end; the cookie has the earlier one.
		{"MaxAge was lowered", 0, maxAge / 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			onEachInSimulatedTime(t, anyBackend, func(t *testing.T, a *app, backends int) {
				for _, evicted := range []bool{false, true} {
					if evicted && backends&cascadestore.DistributedBackends != cascadestore.DistributedBackends {
						continue
					}
					a.store.SetMaxAge(maxAge)
					b := a.login(t, values{"n": 0})
					id := idIn(t, a, b.cookie())
					end := time.Now().Add(maxAge * time.Second * 11 / 10)
					time.Sleep(test.age)
					if test.writes {
						end = time.Now().Add(time.Duration(test.maxAge) * time.Second * 11 / 10)
					}
					a.store.SetMaxAge(test.maxAge)
					if wrote := a.saveUnchanged(t, b, evicted); wrote != test.writes {
						t.Errorf("evicted=%v: written %v, want %v", evicted, wrote, test.writes)
					}
					if a.saveUnchanged(t, b, evicted) {
						t.Errorf("evicted=%v: written again by the next visit", evicted)
					}
					if _, e := stored(t, a.Context(), id); e != nil {
						if d := e.ExpiresAt.Sub(end); d.Abs() > time.Second {
							t.Errorf("evicted=%v: the entity expires at %v, want %v", evicted, e.ExpiresAt, end)
						}
					}
					b.expect(t, backends, values{"n": 0})
				}
			})
		})
	}
}

// saveUnchanged makes a visit that changes nothing, and reports whether it wrote
// to the services.
func (a *app) saveUnchanged(t testing.TB, b *browser, evicted bool) (wrote bool) {
	t.Helper()
	if evicted {
		a.Flush()
	}
	v := b.save(nil)
	if len(v.Response.Cookies()) != 1 {
		t.Error("no cookie was written")
	}
	for _, c := range v.Request.Calls() {
		if c.Method != "Get" && !(evicted && gaetest.Memcache(c)) { // a refill sets
			wrote = true
		}
	}
	return wrote
}

func TestALoweredMaxAgeEndsASession(t *testing.T) {
	onEachInSimulatedTime(t, anyBackend, func(t *testing.T, a *app, backends int) {
		a.store.SetMaxAge(1000)
		b := a.login(t, values{"n": 0})
		a.store.SetMaxAge(100)
		b.mustChange(t, values{"n": 1})
		copied := b.cookie()
		time.Sleep(102 * time.Second)
		if b.cookie() != "" {
			t.Error("the browser still has the cookie")
		}
		time.Sleep(10 * time.Second) // the tenth by which the services are late
		b.setCookie(copied)
		b.expectNow(t, "by a copy of the cookie", nil)
	})
}

func TestASessionEndsInTheServicesToo(t *testing.T) {
	onEachInSimulatedTime(t, anyBackend, func(t *testing.T, a *app, backends int) {
		a.store.SetMaxAge(1000)
		b := a.login(t, values{"n": 0})
		id := idIn(t, a, b.cookie())
		time.Sleep(990 * time.Second)
		b.expectNow(t, "before its end", values{"n": 0})
		time.Sleep(120 * time.Second)
		// Its cookie would have ended, too, if it were not signed again.
		b.setCookie(sign(t, a.store.Codecs[0], sessionName, id))
		b.expectNow(t, "past its end", nil)
	})
}

// P4 and P6: Memcache may vanish, requests may die, between any two calls.

func TestSessionsLiveOnInDatastoreWhileMemcacheIsDown(t *testing.T) {
	onEachInSimulatedTime(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		var up atomic.Bool
		down := gaetest.Fail(func(c gaetest.Call) bool { return gaetest.Memcache(c) && !up.Load() })
		b := a.newBrowser()
		log := &logBuffer{}
		a.store.Logger = log.logger()
		if err := b.change(values{"n": 0}, down); err != nil {
			t.Errorf("login: got %v, want none: Datastore has the session", err)
		}
		if out := log.String(); !strings.Contains(out, "cache add") {
			t.Errorf("login: logged %q, want the error of Memcache", out)
		}
		if got, err := b.read(down); err != nil || got["n"] != 0 {
			t.Errorf("got %v, %v; want the session and no error", got, err)
		}
		// A cookie nobody knows is no reason for an error.
		stranger := a.login(t, values{})
		stranger.clone().mustLogout(t)
		if got, err := stranger.read(down); err != nil || got != nil {
			t.Errorf("removed session: got %v, %v; want none and no error", got, err)
		}
		if err := b.change(values{"n": 1}, down); !errors.Is(err, gaetest.ErrFailed) {
			t.Errorf("change: got %v, want the error of Memcache", err)
		}
		up.Store(true)
		time.Sleep(2 * time.Second) // more than the second after which the background tries again
		drain(t)
		b.expect(t, backends, values{"n": 1})
	})
}

func TestAnExpiredCookieGivesANewSession(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, newStore(t, cascadestore.DistributedBackends))
		a.store.SetMaxAge(1)
		b := a.login(t, values{"n": 0})
		old := b.cookie()
		time.Sleep(3 * time.Second)
		b.setCookie(old)
		b.expectNow(t, "when it has ended", nil)
	})
}

func TestChangesAfterTheHeaderKeepNoCookieFromBeingSetAgain(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, newStore(t, cascadestore.DistributedBackends))
		a.store.SetMaxAge(36_000)
		const tenth = time.Hour
		time.Sleep(time.Until(time.Now().Truncate(tenth).Add(tenth)))
		b, n := a.newBrowser(), 0
		change := func(late bool) {
			b.Visit(a.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s, err := a.store.Get(r, sessionName)
				if err != nil || s.IsNew != (n == 0) {
					t.Fatalf("after %d changes: got %v, %v", n, s.Values, err)
				}
				if late {
					w.WriteHeader(http.StatusOK)
				}
				n++
				s.Values["n"] = n
			})).ServeHTTP)
		}
		change(false)
		time.Sleep(tenth * 9 / 10)
		for range 15 {
			for _, late := range []bool{true, false, false} {
				time.Sleep(tenth / 3)
				change(late)
			}
		}
		b.expectNow(t, "in the end", values{"n": n})
	})
}

func TestALateChangeAtTheBeginOfATenthKeepsNoCookieFromBeingSetAgain(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, newStore(t, cascadestore.DistributedBackends))
		a.store.SetMaxAge(36_000)
		b := a.login(t, values{"n": 0})
		for range 15 {
			time.Sleep(66 * time.Minute)
			for _, late := range []bool{true, false} {
				b.Visit(a.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					s, err := a.store.Get(r, sessionName)
					if err != nil || s.IsNew {
						t.Fatalf("got %v, %v", s.Values, err)
					}
					if late {
						w.WriteHeader(http.StatusOK)
					}
					s.Values["n"] = s.Values["n"].(int) + 1
				})).ServeHTTP)
			}
		}
		b.expectNow(t, "in the end", values{"n": 30})
	})
}

// changeLate sets n once the header has left, and saves the session unless Handler is
// to do it.
func (b *browser) changeLate(t *testing.T, n int, save func(*sessions.Session, *http.Request, http.ResponseWriter) error) {
	t.Helper()
	b.Visit(b.app.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := b.app.store.Get(r, sessionName)
		if err != nil || s.IsNew {
			t.Fatalf("got %v, %v", s.Values, err)
		}
		w.WriteHeader(http.StatusOK)
		s.Values["n"] = n
		if save == nil {
			return
		}
		if err := save(s, r, w); err != nil {
			t.Error(err)
		}
	})).ServeHTTP)
}

func TestASessionThatIsChangedAfterTheHeaderAloneLives(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, newStore(t, cascadestore.DistributedBackends))
		a.store.SetMaxAge(36_000)
		b := a.login(t, values{"n": 0})
		cookie := b.cookie()
		for n := range 60 {
			time.Sleep(20 * time.Minute)
			b.setCookie(cookie) // which ends before
			b.changeLate(t, n, nil)
		}
		time.Sleep(36_000 * time.Second)
		b.setCookie(cookie)
		b.expectNow(t, "a MaxAge after the last change", values{"n": 59})
	})
}

func TestASessionLivesForAMaxAgeAfterASaveThatCouldSetNoCookie(t *testing.T) {
	s := gaetest.Local(t)
	const tenth = time.Hour
	for name, changed := range map[string]time.Duration{
		"changed in the tenth of the login": tenth * 4 / 5,
		"changed in the next tenth":         tenth * 9 / 5,
		"changed in a later tenth":          tenth * 14 / 5,
	} {
		t.Run(name, func(t *testing.T) {
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				a := newSimulatedApp(t, s, newStore(t, cascadestore.DistributedBackends))
				a.store.SetMaxAge(int(10 * tenth / time.Second))
				time.Sleep(time.Until(time.Now().Truncate(tenth).Add(tenth)))
				b := a.login(t, values{"n": 0})
				cookie := b.cookie()
				late := func(n int) {
					b.setCookie(cookie) // which ends before
					b.changeLate(t, n, (*sessions.Session).Save)
				}
				time.Sleep(changed)
				late(1)
				time.Sleep(tenth * 9 / 10)
				late(1) // which changes nothing
				time.Sleep(10*tenth - time.Second)
				b.setCookie(cookie)
				b.expectNow(t, "a MaxAge after the last use", values{"n": 1})
			})
		})
	}
}

func TestHandlerSetsTheCookieAgainWhenTheStoresMaxAgeIsHigher(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, newStore(t, cascadestore.DistributedBackends))
		const hour, tenth = 3600, 10 * time.Hour // of a higher MaxAge
		time.Sleep(time.Until(time.Now().Truncate(tenth).Add(tenth)))
		b := a.newBrowser()
		change := func(n int) bool {
			v := b.Visit(a.store.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				s, err := a.store.Get(r, sessionName)
				if err != nil {
					t.Error(err)
				}
				s.Values["n"] = n
			})).ServeHTTP)
			return v.Response.Header.Get("Set-Cookie") != ""
		}
		a.store.SetMaxAge(hour)
		change(1)
		a.store.SetMaxAge(100 * hour)
		time.Sleep(time.Minute)
		if !change(2) {
			t.Error("the cookie stays as short as it was")
		}
		time.Sleep(2 * time.Hour)
		b.expectNow(t, "when the old cookie has ended", values{"n": 2})
		if change(3) {
			t.Error("the cookie is set with every change")
		}
	})
}

func TestHandlerSetsTheCookieAgainOncePerTenthOfMaxAge(t *testing.T) {
	s := gaetest.Local(t)
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		a := newSimulatedApp(t, s, newStore(t, cascadestore.DistributedBackends))
		a.store.SetMaxAge(100_000)
		const tenth = 10_000 * time.Second
		time.Sleep(time.Until(time.Now().Truncate(tenth).Add(tenth)))
		b, n := a.newBrowser(), 0
		isSet := func(f func(w http.ResponseWriter, r *http.Request, s *sessions.Session)) bool {
			v := b.Visit(a.store.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s, err := a.store.Get(r, sessionName)
				if err != nil {
					t.Error(err)
				}
				n++
				s.Values["n"] = n
				f(w, r, s)
			})).ServeHTTP)
			return v.Response.Header.Get("Set-Cookie") != ""
		}
		change := func(http.ResponseWriter, *http.Request, *sessions.Session) {}
		for _, step := range []struct {
			name  string
			after time.Duration
			do    func(w http.ResponseWriter, r *http.Request, s *sessions.Session)
			want  bool
		}{
			{"a new session", 0, change, true},
			{"a change", time.Second, change, false},
			{"a change that the app saves", 0, func(w http.ResponseWriter, r *http.Request, s *sessions.Session) {
				if err := s.Save(r, w); err != nil {
					t.Error(err)
				}
			}, true},
			{"a change", 0, change, false},
			{"a change a tenth later", tenth, change, true},
			{"another one", tenth / 2, change, false},
			{"another one", tenth / 2, change, true},
			{"other Options", 0, func(_ http.ResponseWriter, _ *http.Request, s *sessions.Session) { s.Options.Path = "/shop" }, true},
			{"another MaxAge", 0, func(_ http.ResponseWriter, _ *http.Request, s *sessions.Session) { s.Options.MaxAge = 200_000 }, true},
			{"a change", 0, change, false},
			{"a new id", 0, func(_ http.ResponseWriter, r *http.Request, s *sessions.Session) {
				if err := a.store.RegenerateID(r, s); err != nil {
					t.Error(err)
				}
			}, true},
			{"a change", 0, change, false},
		} {
			time.Sleep(step.after)
			if got := isSet(step.do); got != step.want {
				t.Errorf("%s: cookie set: %v, want %v", step.name, got, step.want)
			}
		}
		b.expectNow(t, "in the end", values{"n": n})
	})
}
