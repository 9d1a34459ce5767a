package cascadestore_test

import (
	"net/http"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// around is a store that an app has put around a CascadeStore.
type around struct{ *cascadestore.CascadeStore }

func (s around) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(s, name)
}

// However an app comes by a session, only what it changed is saved.
func TestASessionKnowsWhatItWasWhereverItComesFrom(t *testing.T) {
	for name, get := range map[string]func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error){
		"Get": func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error) {
			return store.Get(r, sessionName)
		},
		"the second Get": func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error) {
			if _, err := store.Get(r, sessionName); err != nil {
				return nil, err
			}
			return store.Get(r, sessionName)
		},
		"New": func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error) {
			return store.New(r, sessionName)
		},
		"New before another": func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error) {
			s, err := store.New(r, sessionName)
			if err == nil {
				_, err = store.New(r, sessionName)
			}
			return s, err
		},
		"the registry": func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error) {
			return sessions.GetRegistry(r).Get(store, sessionName)
		},
		"a store around it": func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error) {
			s, err := around{store}.Get(r, sessionName)
			if err == nil {
				_, err = store.New(r, sessionName)
			}
			return s, err
		},
		"its own store": func(store *cascadestore.CascadeStore, r *http.Request) (*sessions.Session, error) {
			s, err := store.Get(r, sessionName)
			if err != nil {
				return nil, err
			}
			return s.Store().New(r, sessionName)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
			b := a.login(t, values{"n": 0, "theirs": 0})
			b.Visit(func(w http.ResponseWriter, r *http.Request) {
				s, err := get(a.store, r)
				if err != nil || s.IsNew {
					t.Fatalf("got new=%v, %v", s.IsNew, err)
				}
				b.clone().mustChange(t, values{"theirs": 1})
				s.Values["n"] = 1
				if err := s.Save(r, w); err != nil {
					t.Error(err)
				}
			})
			b.expect(t, cascadestore.DistributedBackends, values{"n": 1, "theirs": 1})
		})
	}
}

func TestASessionIsKnownInACopyOfTheRequestAsItWasBefore(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	b := a.login(t, values{"n": 0, "theirs": 0})
	old := b.clone()
	b.Visit(func(w http.ResponseWriter, r *http.Request) {
		s, err := a.store.Get(r.WithContext(r.Context()), sessionName)
		if err != nil {
			t.Error(err)
		}
		old.mustChange(t, values{"theirs": 1})
		if err := a.store.RegenerateID(r.WithContext(r.Context()), s); err != nil {
			t.Error(err)
		}
		s.Values["n"] = 1
		if err := s.Save(r.WithContext(r.Context()), w); err != nil {
			t.Error(err)
		}
	})
	b.expect(t, cascadestore.DistributedBackends, values{"n": 1, "theirs": 1})
	old.expect(t, cascadestore.DistributedBackends, nil)
}
