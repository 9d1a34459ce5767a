package cascadestore_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The promises, through HTTP requests that really overlap. Where a test goes
// through the calls of a request one by one, it holds the request at its first
// call, then at its second, and so on until the request has no such call.

const (
	anyBackend = 0
	durable    = cascadestore.DatastoreBackend
)

// P1: no lost update.

func TestOverlappingChangesOfDifferentKeysAllSurvive(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
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
				err := b.use(func(_ *http.Request, s *sessions.Session) {
					loaded.Done()
					loaded.Wait() // nobody saves before all have loaded
					s.Values[key] = i
				})
				if err != nil {
					t.Errorf("request %d: %v", i, err)
				}
			}()
		}
		saved.Wait()
		b.expect(t, backends, want)
	})
}

func TestChangeSurvivesAnotherOneAtAnyOfItsCalls(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, evicted := range []bool{false, true} {
			if evicted && backends&cascadestore.DistributedBackends != cascadestore.DistributedBackends {
				continue
			}
			t.Run(fmt.Sprintf("evicted=%v", evicted), func(t *testing.T) {
				atEachCall(t, func(t *testing.T, k int) bool {
					b := a.login(t, values{"n": 0, "gone": true})
					if evicted {
						a.service.Flush()
					}
					reached, hook := gaetest.Interpose(k, func() {
						if err := b.clone().change(values{"theirs": "b", "gone": nil}); err != nil {
							t.Errorf("their change: %v", err)
						}
					})
					if err := b.change(values{"mine": "a"}, hook); err != nil {
						t.Error(err)
					}
					if !reached.Load() {
						return false
					}
					b.expect(t, backends, values{"n": 0, "theirs": "b", "mine": "a"})
					return true
				})
			})
		}
	})
}

func TestChangesOfOneSessionOnOneInstanceAreSavedTogether(t *testing.T) {
	onEach(t, durable, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		want := values{"n": 0}
		instance := a.service.NewRequest() // for all of them
		const requests = 30
		var loaded, saved sync.WaitGroup
		loaded.Add(requests)
		for i := range requests {
			want[i] = i
			saved.Add(1)
			go func() {
				defer saved.Done()
				r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(instance.Context())
				r.AddCookie(&http.Cookie{Name: sessionName, Value: b.cookie()})
				s, err := a.store.Get(r, sessionName)
				loaded.Done()
				loaded.Wait()
				s.Values[i] = i
				if err = errors.Join(err, s.Save(r, httptest.NewRecorder())); err != nil {
					t.Errorf("request %d: %v", i, err)
				}
			}()
		}
		saved.Wait()
		commits := 0
		for _, c := range instance.Calls() {
			if c.Method == "Commit" {
				commits++
			}
		}
		// Those that come while one is saved wait, and are saved together. How many
		// come one by one at the end depends on the machine.
		if commits > requests/2 {
			t.Errorf("%d changes took %d transactions", requests, commits)
		}
		b.expect(t, backends, want)
	})
}

func TestOnTheSameKeyTheLastOneSavedWins(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"k": 0})
		err := b.use(func(_ *http.Request, s *sessions.Session) {
			b.clone().mustChange(t, values{"k": 1})
			s.Values["k"] = 2
		})
		if err != nil {
			t.Error(err)
		}
		b.expect(t, backends, values{"k": 2})
	})
}

// P2: no resurrection.

func TestRemovedSessionStaysRemovedWhenARequestIsInFlight(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, changes := range []bool{true, false} {
			for _, evicted := range []bool{false, true} {
				if evicted && backends&cascadestore.DistributedBackends != cascadestore.DistributedBackends {
					continue
				}
				t.Run(fmt.Sprintf("changes=%v, evicted=%v", changes, evicted), func(t *testing.T) {
					atEachCall(t, func(t *testing.T, k int) bool {
						b := a.login(t, values{"n": 0})
						old := b.clone()
						if evicted {
							a.service.Flush()
						}
						reached, hook := gaetest.Interpose(k, func() {
							if err := b.clone().logout(); err != nil {
								t.Errorf("logout: %v", err)
							}
						})
						found := false
						err := b.use(func(_ *http.Request, s *sessions.Session) {
							found = !s.IsNew
							if changes {
								s.Values["mine"] = "a"
							}
						}, hook)
						if !reached.Load() {
							return false
						}
						if err != nil && !errors.Is(err, cascadestore.ErrRemoved) {
							t.Error(err)
						}
						// The browser may have a new session by now. The old cookie
						// leads nowhere.
						old.expect(t, backends, nil)
						if !found && b.cookie() == old.cookie() {
							t.Error("the id of a removed session was used again")
						}
						return true
					})
				})
			}
		}
	})
}

func TestARequestThatChangesARemovedSessionGetsErrRemovedAndNoCookie(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		other := b.clone()
		var err error
		v := b.visit(func(w http.ResponseWriter, r *http.Request) {
			s, gerr := a.store.Get(r, sessionName)
			if gerr != nil || s.IsNew {
				t.Errorf("got new=%v, %v", s.IsNew, gerr)
			}
			other.mustLogout(t)
			s.Values["n"] = 1
			err = s.Save(r, w)
		})
		if !errors.Is(err, cascadestore.ErrRemoved) {
			t.Errorf("got %v, want ErrRemoved", err)
		}
		if c := v.response.Cookies(); len(c) > 0 {
			t.Errorf("got cookies %v, want none", c)
		}
		b.expect(t, backends, nil)
	})
}

func TestASessionWhoseFirstSaveFailedAndThatWasRemovedStaysRemoved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		var down atomic.Bool
		down.Store(true)
		// The calls are made, and their answers lost.
		hook := gaetest.FailAfter(func(gaetest.Call) bool { return down.Load() })
		b := a.newBrowser()
		b.visit(func(w http.ResponseWriter, r *http.Request) {
			s := again(t, a, r)
			s.Values["n"] = 0
			if err := s.Save(r, w); !errors.Is(err, gaetest.ErrFailed) {
				t.Errorf("first Save: got %v, want the services' error", err)
			}
			down.Store(false)
			if cookies := w.Header().Values("Set-Cookie"); len(cookies) != 0 {
				t.Errorf("got cookies %v, want none", cookies)
			}
			b.setCookie(sign(t, a.store.Codecs[0], sessionName, s.ID))
			b.clone().mustLogout(t)
			if err := s.Save(r, w); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("second Save: got %v, want ErrRemoved", err)
			}
		}, hook)
		b.expect(t, backends, nil)
	})
}

// P3: read your writes.

func TestSavedSessionIsSeenByTheNextRequest(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		for n := 1; n < 5; n++ {
			b.mustChange(t, values{"n": n})
			b.expectNow(t, "next request", values{"n": n})
			if n == 3 && backends&durable != 0 {
				a.service.Flush()
			}
		}
	})
}

// P4: Memcache may vanish. See time_test.go, also for P6, a crash between any
// two calls.

func TestNothingSavedIsLostWhenMemcacheIsFlushedAtAnyCall(t *testing.T) {
	onEach(t, durable, func(t *testing.T, a *app, backends int) {
		atEachCall(t, func(t *testing.T, k int) bool {
			b := a.login(t, values{"n": 0})
			reached, hook := gaetest.Interpose(k, a.service.Flush)
			if err := b.change(values{"n": 1}, hook); err != nil {
				t.Error(err)
			}
			b.expect(t, backends, values{"n": 1})
			return reached.Load()
		})
	})
}

// P5: Datastore may be down.

func TestSessionsLiveOnInMemcacheWhileDatastoreIsDown(t *testing.T) {
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		down := gaetest.Fail(gaetest.Datastore)
		b := a.login(t, values{"n": 0, "gone": true})
		during := func(what string, change, want values) {
			t.Helper()
			if err := b.change(change, down); !errors.Is(err, gaetest.ErrFailed) {
				t.Errorf("%s: got %v, want the error of Datastore", what, err)
			}
			if got, err := b.read(down); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: got %v, %v; want %v", what, got, err, want)
			}
		}
		during("first change", values{"n": 1, "gone": nil}, values{"n": 1})
		during("second change", values{"m": 1}, values{"n": 1, "m": 1})
		// The next change brings Datastore up to date.
		b.mustChange(t, values{"up": true})
		b.expect(t, backends, values{"n": 1, "m": 1, "up": true})
	})
}

func TestWhenNobodyCanTellTheSessionIsNeitherReplacedNorLost(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		cookie := b.cookie()
		down := gaetest.Fail(func(gaetest.Call) bool { return true })
		var getErr, saveErr error
		v := b.visit(func(w http.ResponseWriter, r *http.Request) {
			var s *sessions.Session
			s, getErr = a.store.Get(r, sessionName)
			s.Values["n"] = 1 // an app that ignores the error
			saveErr = s.Save(r, w)
		}, down)
		if !errors.Is(getErr, gaetest.ErrFailed) || !errors.Is(saveErr, gaetest.ErrFailed) {
			t.Errorf("got %v and %v, want the services' error twice", getErr, saveErr)
		}
		if c := v.response.Cookies(); len(c) > 0 || b.cookie() != cookie {
			t.Errorf("the browser got another cookie: %v", c)
		}
		b.expect(t, backends, values{"n": 0})
	})
}

func TestALogoutThatNoServiceTookIsErrNotSaved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		down := func(c gaetest.Call) bool { return c.Method != "Get" }
		up := a.service.Break(down) // in the background as well
		err := b.logout(gaetest.Fail(down))
		up()
		if !errors.Is(err, cascadestore.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", err)
		}
		if b.cookie() != "" {
			t.Error("the browser still has a cookie")
		}
		drain(t)
	})
}

func TestASessionThatCouldNotBeLoadedCanBeRemoved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		const retries, services = 3, 2
		flaky := gaetest.Fail(func(c gaetest.Call) bool { return c.Index <= retries*services })
		b.visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err == nil {
				t.Error("Get: no error")
			}
			s.Options.MaxAge = -1
			for s.Save(r, w) != nil { // with one backend the failures are not used up yet
			}
		}, flaky)
		if b.cookie() != "" {
			t.Error("the browser still has a cookie")
		}
		old.expect(t, backends, nil)
	})
}
