package cascadestore_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// regenerate changes the session and gives it a new id, in a request of its own.
func (b *browser) regenerate(v values, hooks ...gaetest.Hook) error {
	var rerr error
	err := b.use(func(r *http.Request, s *sessions.Session) {
		set(s, v)
		rerr = b.app.store.RegenerateID(r, s)
	}, hooks...)
	return errors.Join(rerr, err)
}

func TestRegenerateIDMovesTheValuesAndRemovesTheOldID(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"basket": []string{"book"}})
		old := b.clone()
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			b.with(r, func(s *sessions.Session) error {
				before := s.ID
				s.Values["user"] = "ann"
				if err := a.store.RegenerateID(r, s); err != nil {
					t.Error(err)
				}
				if s.ID != before {
					t.Error("the id has changed before Save")
				}
				old.expectNow(t, "before Save", values{"basket": []string{"book"}})
				err := s.Save(r, w)
				if s.ID == before {
					t.Error("the id is the same")
				}
				return err
			})
		})
		b.expect(t, backends, values{"basket": []string{"book"}, "user": "ann"})
		old.expect(t, backends, nil)
	})
}

func TestRegenerateIDTakesAlongWhatOthersSavedAtAnyOfItsCalls(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
			b := a.login(t, values{"n": 0, "gone": true})
			old := b.clone()
			var theirs error
			tooLate := false // the old id was removed before they came
			reached, hook := gaetest.Interpose(k, func() {
				theirs = old.clone().use(func(_ *http.Request, s *sessions.Session) {
					tooLate = s.IsNew
					set(s, values{"theirs": 1, "gone": nil})
				})
			})
			if err := b.regenerate(values{"mine": 1}, hook); err != nil {
				t.Error(err)
			}
			if !reached.Load() {
				return false
			}
			got, err := b.read()
			if err != nil {
				t.Error(err)
			}
			switch {
			case theirs == nil && !tooLate && (got["theirs"] != 1 || got["gone"] != nil):
				t.Errorf("got %v, want also what they saved", got)
			case theirs != nil && !errors.Is(theirs, cascadestore.ErrRemoved):
				t.Errorf("their change: got %v, want nil or ErrRemoved", theirs)
			}
			if got["mine"] != 1 || got["n"] != 0 {
				t.Errorf("got %v, want mine and n", got)
			}
			old.expect(t, backends, nil)
			return true
		})
	})
}

func TestAfterRegenerateIDRequestsInFlightGetErrRemoved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		err := old.use(func(_ *http.Request, s *sessions.Session) {
			if err := b.regenerate(nil); err != nil {
				t.Error(err)
			}
			s.Values["n"] = 1
		})
		if !errors.Is(err, cascadestore.ErrRemoved) {
			t.Errorf("got %v, want ErrRemoved", err)
		}
		b.expect(t, backends, values{"n": 0})
	})
}

func TestRegenerateIDOfARemovedSessionIsErrRemoved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		var err error
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, gerr := a.store.Get(r, sessionName)
			if gerr != nil {
				t.Error(gerr)
			}
			b.clone().mustLogout(t)
			if err := a.store.RegenerateID(r, s); err != nil {
				t.Error(err)
			}
			err = s.Save(r, w)
			if err := a.store.RegenerateID(r, s); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("RegenerateID when that is known: got %v, want ErrRemoved", err)
			}
		})
		if !errors.Is(err, cascadestore.ErrRemoved) {
			t.Errorf("got %v, want ErrRemoved", err)
		}
	})
}

func TestRegenerateIDOfANewSessionMakesNoCalls(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.AllBackends)
	b := a.newBrowser()
	v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
		s, err := a.store.Get(r, sessionName)
		if err != nil {
			t.Error(err)
		}
		id := s.ID
		if err := a.store.RegenerateID(r, s); err != nil {
			t.Error(err)
		}
		if s.ID == id || s.ID == "" {
			t.Error("no new id")
		}
	})
	if calls := v.Request.Calls(); len(calls) > 0 {
		t.Errorf("got calls %v, want none", calls)
	}
}

func TestWhenDatastoreIsDownASessionKeepsItsCookieAndItsIDUntilItIsSaved(t *testing.T) {
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		var up atomic.Bool
		v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
			b.with(r, func(s *sessions.Session) error {
				id := s.ID
				s.Values["user"] = "ann"
				if err := a.store.RegenerateID(r, s); err != nil {
					t.Error(err)
				}
				if err := s.Save(r, w); !errors.Is(err, cascadestore.ErrNotSaved) || !errors.Is(err, gaetest.ErrFailed) {
					t.Errorf("got %v, want ErrNotSaved and the error of Datastore", err)
				}
				if s.ID != id || len(w.Header()["Set-Cookie"]) > 0 {
					t.Error("the session has another id, or a cookie was written")
				}
				// An attacker may know the old id: nothing of the login is kept under it.
				old.expectNow(t, "meanwhile", values{"n": 0})
				up.Store(true)
				err := s.Save(r, w)
				if s.ID == id {
					t.Error("the second Save has not changed the id")
				}
				return err
			})
		}, gaetest.Fail(func(c gaetest.Call) bool { return gaetest.Datastore(c) && !up.Load() }))
		if n := len(v.Response.Cookies()); n != 1 {
			t.Errorf("got %d cookies, want one", n)
		}
		b.expect(t, backends, values{"n": 0, "user": "ann"})
		old.expect(t, backends, nil)
	})
}

func TestRegenerateIDSurvivesALostAnswerOfTheCommit(t *testing.T) {
	onEach(t, durable, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		var lost atomic.Bool
		hook := gaetest.FailAfter(func(c gaetest.Call) bool {
			return c.Method == "Commit" && lost.CompareAndSwap(false, true)
		})
		if err := b.regenerate(values{"mine": 1}, hook); err != nil {
			t.Error(err)
		}
		if !lost.Load() {
			t.Error("no commit was made")
		}
		b.expect(t, backends, values{"n": 0, "mine": 1})
		old.expect(t, backends, nil)
	})
}

func TestRegenerateIDOfASessionWithoutValuesTakesWhatOthersSaved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		other := b.clone()
		err := b.use(func(r *http.Request, s *sessions.Session) {
			if err := other.use(func(_ *http.Request, s *sessions.Session) { set(s, values{"theirs": 1}) }); err != nil {
				t.Error(err)
			}
			s.Values = nil
			if err := a.store.RegenerateID(r, s); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRegenerateIDOfASessionThatCouldNotBeLoadedReturnsWhy(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		var up atomic.Bool
		hook := gaetest.Fail(func(gaetest.Call) bool { return !up.Load() })
		b.Visit(func(_ http.ResponseWriter, r *http.Request) {
			s, getErr := a.store.Get(r, sessionName)
			if !errors.Is(getErr, gaetest.ErrFailed) {
				t.Errorf("Get: got %v, want the services' error", getErr)
			}
			up.Store(true)
			id := s.ID
			if err := a.store.RegenerateID(r, s); !errors.Is(err, gaetest.ErrFailed) || s.ID != id {
				t.Errorf("got %v and another id: %v; want the error of Get, and the id as it was", err, s.ID != id)
			}
		}, hook)
		b.expect(t, backends, values{"n": 0})
	})
}

// The request's context ends during the commit, as the client has gone away.
func TestRegenerateIDIsWholeOrNotAtAllWhenItsContextEnds(t *testing.T) {
	onEach(t, durable, func(t *testing.T, a *app, backends int) {
		for name, applied := range map[string]bool{"commit applied": true, "commit not made": false} {
			b := a.login(t, values{"n": 0})
			old := b.clone()
			var end context.CancelFunc
			var ended atomic.Bool
			atCommit := func(_ context.Context, c gaetest.Call) error {
				if c.Method != "Commit" || ended.Swap(true) {
					return nil
				}
				end()
				return context.Canceled
			}
			hook := gaetest.Hook{Before: atCommit}
			if applied {
				hook = gaetest.Hook{After: atCommit}
			}
			var moved bool
			var err error
			b.Visit(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				end = cancel
				r = r.WithContext(ctx)
				b.with(r, func(s *sessions.Session) error {
					id := s.ID
					if err := a.store.RegenerateID(r, s); err != nil {
						t.Error(err)
					}
					err = s.Save(r, w)
					moved = s.ID != id
					return nil
				})
			}, hook)
			if !ended.Load() {
				t.Errorf("%s: the context has not ended", name)
			}
			want := values{"n": 0}
			if moved || errors.Is(err, cascadestore.ErrRemoved) {
				want = nil
			}
			if applied && err != nil && !moved && !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("%s: got %v; want none, or one that says that the session is removed", name, err)
			}
			if err == nil && !moved {
				t.Errorf("%s: no error, and the id is the same", name)
			}
			old.expect(t, backends, want)
		}
	})
}
