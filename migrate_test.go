package gaesession_test

import (
	"fmt"
	"testing"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

// Sessions of icza/gaesession, before, during and after a rollout.

// withOld has use called with the session of that id, or with a new one, in a
// request of icza/gaesession, and returns the session's id.
func withOld(t *testing.T, s *gaetest.Service, o oldlib.Options, id string, use func(session.Session)) string {
	t.Helper()
	store := oldlib.New(s.NewRequest().Context(), o)
	var sess session.Session
	if id == "" {
		sess = session.NewSession()
		store.Add(sess)
	} else if sess = store.Get(id); sess == nil {
		t.Fatalf("icza/gaesession finds no session: %v", store.Err())
	}
	use(sess)
	store.Close()
	store.Wait()
	if err := store.Err(); err != nil {
		t.Fatalf("icza/gaesession: %v", err) // it goes on with what the other service has
	}
	return sess.ID()
}

func TestNobodyIsLoggedOutWhoseSessionIczaGaesessionHasInMemcacheAlone(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for i := range 40 {
			id := withOld(t, s, oldlib.Options{AsyncDatastoreSave: true}, "", func(sess session.Session) { sess.SetAttr("n", i) })
			change(t, s, options{}, id, attrs{"m": 1})
			expectSession(t, s, options{}, id, attrs{"n": i, "m": 1})
		}
	})
}

func TestAnOlderEntityOfIczaGaesessionTakesNothingBack(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		id := withOld(t, s, oldlib.Options{}, "", func(sess session.Session) { sess.SetAttr("n", 0) })
		withOld(t, s, oldlib.Options{AsyncDatastoreSave: true}, id, func(sess session.Session) { sess.SetAttr("n", 1) })
		change(t, s, options{}, id, attrs{"m": 1})
		expectSession(t, s, options{}, id, attrs{"n": 1, "m": 1})
	})
}

func TestAClientMayGoBackAndForthBetweenOldAndNewInstances(t *testing.T) {
	for _, async := range []bool{false, true} {
		for _, arrives := range []bool{false, true} {
			t.Run(fmt.Sprintf("asynchronous=%t, background saves arrive=%t", async, arrives), func(t *testing.T) {
				s := gaetest.Local(t)
				old := oldlib.Options{AsyncDatastoreSave: async, AsyncArrives: arrives}
				o := options{AsyncDatastoreSave: async}
				id := withOld(t, s, old, "", func(sess session.Session) { sess.SetAttr("n", 0) })
				wrong := 0
				for i := 1; i <= 200; i++ {
					next := func(sess session.Session) {
						if sess.Attr("n") != i-1 || (sess.Attr("even") != nil) != ((i-1)%2 == 0 && i > 1) {
							wrong++
						}
						sess.SetAttr("n", i)
						if i%2 == 0 {
							sess.SetAttr("even", true)
						} else {
							sess.SetAttr("even", nil)
						}
					}
					if i%3 == 0 {
						withOld(t, s, old, id, next)
						continue
					}
					r := newRequest(s, o)
					next(r.Get(id))
					r.Close()
					if err := r.errs.all(); err != nil {
						t.Fatal(err)
					}
					if i%5 == 0 {
						drain(t)
					}
				}
				if wrong > 0 {
					t.Errorf("%d of 200 changes found another value than the client's last one", wrong)
				}
			})
		}
	}
}

func TestAnItemThatCannotBeDecodedHidesNoEntity(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		id := login(t, s, options{}, attrs{"n": 1})
		if err := memcache.Set(s.Context(), &memcache.Item{Key: id, Value: []byte("no gob")}); err != nil {
			t.Fatal(err)
		}
		r := newRequest(s, options{})
		sess := r.Get(id)
		if sess == nil || sess.Attr("n") != 1 {
			t.Fatal("the session was not read from Datastore")
		}
		if r.errs.all() == nil {
			t.Error("no error was reported")
		}
		sess.SetAttr("n", 2)
		r.Close()
		s.Flush()
		expectAttrs(t, "from Datastore", read(t, s, options{}, id), attrs{"n": 2})
	})
}

// A rollout with a new type: only some instances can decode the session.
func TestASessionThatCannotBeDecodedCanBeRemoved(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, evicted := range []bool{false, true} {
			id := login(t, s, options{}, attrs{"n": 1})
			if evicted {
				s.Flush()
			}
			blind := options{Codec: &memcache.Codec{
				Marshal:   memcache.Gob.Marshal,
				Unmarshal: func([]byte, any) error { return fmt.Errorf("unknown type") },
			}}
			r := newRequest(s, blind)
			if r.Get(id) != nil {
				t.Fatal("the session could be decoded")
			}
			if err := gaesession.RemoveID(r.Context(), id, &blind); err != nil {
				t.Error(err)
			}
			if got := read(t, s, options{}, id); got != nil {
				t.Errorf("evicted: %t: after its removal: got %v", evicted, got)
			}
			s.Flush()
			if got := read(t, s, options{}, id); got != nil {
				t.Errorf("evicted: %t: after its removal and a flush: got %v", evicted, got)
			}
		}
	})
}

// session.NewSession draws an id of the form __x__ once in 17 million times.
func TestAnIDThatDatastoreReservesIsASessionsID(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		sess := withID(t, "__id__")
		r := newRequest(s, o)
		r.Add(sess)
		r.Close()
		if err := r.errs.all(); err != nil {
			t.Fatal(err)
		}
		change(t, s, o, "__id__", attrs{"n": 1})
		expectSession(t, s, o, "__id__", attrs{"n": 1})
	})
}

// The entity of a session that icza/gaesession has saved stays readable for it.
func TestTheEntityHasTwoPropertiesAndNoMore(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		id := login(t, s, options{}, attrs{"n": 1})
		change(t, s, options{}, id, attrs{"m": 1})
		var properties datastore.PropertyList
		if err := datastore.Get(s.Context(), datastore.NewKey(s.Context(), "sess_", id, 0, nil), &properties); err != nil {
			t.Fatal(err)
		}
		if len(properties) != 2 {
			t.Errorf("got %d properties, want exp and val", len(properties))
		}
		withOld(t, s, oldlib.Options{}, id, func(sess session.Session) {
			if sess.Attr("n") != 1 || sess.Attr("m") != 1 {
				t.Errorf("icza/gaesession reads %v", sess.Attrs())
			}
		})
	})
}
