package oldlib_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

type attrs = map[string]any

func newSession() session.Session {
	return session.NewSessionOptions(&session.SessOptions{
		CAttrs: attrs{"user": "ann"}, Attrs: attrs{"n": 1}, Timeout: time.Hour,
	})
}

// add saves a session in a request of its own.
func add(t *testing.T, s *gaetest.Service, o oldlib.Options) session.Session {
	t.Helper()
	sess := newSession()
	store := oldlib.New(s.Context(), o)
	store.Add(sess)
	store.Close()
	store.Wait()
	if err := store.Err(); err != nil {
		t.Fatal(err)
	}
	return sess
}

// stored returns what both services hold of a session; nil: nothing.
func stored(t *testing.T, s *gaetest.Service, prefix, kind, id string) (*memcache.Item, *gaesession.SessEntity) {
	t.Helper()
	it, err := memcache.Get(s.Context(), prefix+id)
	if err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
		t.Fatal(err)
	}
	e := &gaesession.SessEntity{}
	err = datastore.Get(s.Context(), datastore.NewKey(s.Context(), kind, id, 0, nil), e)
	if errors.Is(err, datastore.ErrNoSuchEntity) {
		return it, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return it, e
}

func decode(t *testing.T, value []byte) session.Session {
	t.Helper()
	sess := session.NewSession()
	if err := memcache.Gob.Unmarshal(value, sess); err != nil {
		t.Fatal(err)
	}
	return sess
}

func TestSessionsAreStoredInTheFormOfIczaGaesession(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, o := range []oldlib.Options{{}, {KeyPrefix: "app:", DSEntityName: "MySession"}} {
			kind := "sess_"
			if o.DSEntityName != "" {
				kind = o.DSEntityName
			}
			sess := add(t, s, o)
			it, e := stored(t, s, o.KeyPrefix, kind, sess.ID())
			if it == nil || e == nil {
				t.Fatalf("got item %t, entity %t", it != nil, e != nil)
			}
			for where, got := range map[string]session.Session{"Memcache": decode(t, it.Value), "Datastore": decode(t, e.Value)} {
				if got.ID() != sess.ID() || got.Attr("n") != 1 || got.CAttr("user") != "ann" || got.Timeout() != time.Hour {
					t.Errorf("%s: got n %v, user %v, timeout %v", where, got.Attr("n"), got.CAttr("user"), got.Timeout())
				}
			}
			if it.Flags != 0 {
				t.Errorf("got flags %d, want 0", it.Flags)
			}
			// Datastore keeps microseconds.
			if want := sess.Accessed().Add(time.Hour); e.Expires.Sub(want).Abs() > time.Microsecond {
				t.Errorf("entity expires at %v, want %v", e.Expires, want)
			}
		}
	})
}

func TestTheItemLivesForTheTimeout(t *testing.T) {
	s := gaetest.Local(t)
	sess := add(t, s, oldlib.Options{})
	it, err := memcache.Peek(s.Context(), sess.ID())
	if err != nil {
		t.Fatal(err)
	}
	if it.Timestamps.Expiration == nil {
		t.Fatal("the item does not expire")
	}
	if left := time.Until(*it.Timestamps.Expiration); left < 59*time.Minute || left > time.Hour+time.Second {
		t.Errorf("the item expires in %v, want 1h", left)
	}
}

// What a request calls, of which the design's budget has the number.
func TestCalls(t *testing.T) {
	const get, set, del = "memcache.Get", "memcache.Set", "memcache.Delete"
	const dsGet, dsPut, dsDel = "datastore_v3.Get", "datastore_v3.Put", "datastore_v3.Delete"
	change := func(store *oldlib.Store, id string) {
		store.Get(id).SetAttr("n", 2)
		store.Close()
	}
	read := func(store *oldlib.Store, id string) {
		store.Get(id)
		store.Close()
	}
	flush := func(t *testing.T, s *gaetest.Service, _ string) { s.Flush() }
	for _, c := range []struct {
		name    string
		options oldlib.Options
		before  func(t *testing.T, s *gaetest.Service, id string)
		request func(store *oldlib.Store, id string)
		want    []string
	}{
		{"login", oldlib.Options{}, nil, func(store *oldlib.Store, _ string) {
			store.Add(newSession())
			store.Close()
		}, []string{set, set, dsPut}},
		{"added again", oldlib.Options{}, nil, func(store *oldlib.Store, id string) {
			sess := store.Get(id)
			store.Add(sess)
			store.Close()
		}, []string{get, set, set, dsPut}},
		{"read", oldlib.Options{}, nil, read, []string{get, set, dsPut}},
		{"read twice", oldlib.Options{}, nil, func(store *oldlib.Store, id string) {
			store.Get(id)
			read(store, id)
		}, []string{get, set, dsPut}},
		{"change", oldlib.Options{}, nil, change, []string{get, set, dsPut}},
		{"change, asynchronous", oldlib.Options{AsyncDatastoreSave: true}, nil, change, []string{get, set}},
		{"change, asynchronous, arriving", oldlib.Options{AsyncDatastoreSave: true, AsyncArrives: true}, nil, change, []string{get, set, dsPut}},
		{"change, Memcache only", oldlib.Options{OnlyMemcache: true}, nil, change, []string{get, set}},
		{"read, evicted", oldlib.Options{}, flush, read, []string{get, dsGet, set, dsPut}},
		{"read, item damaged", oldlib.Options{}, func(t *testing.T, s *gaetest.Service, id string) {
			if err := memcache.Set(s.Context(), &memcache.Item{Key: id, Value: []byte("no gob")}); err != nil {
				t.Fatal(err)
			}
		}, read, []string{get, get, get, dsGet, set, dsPut}},
		{"unknown id", oldlib.Options{OnlyMemcache: true}, nil, func(store *oldlib.Store, _ string) {
			read(store, "unknown")
		}, []string{get, dsGet}},
		{"expired", oldlib.Options{}, func(t *testing.T, s *gaetest.Service, id string) {
			s.Flush()
			_, e := stored(t, s, "", "sess_", id)
			e.Expires = time.Now().Add(-time.Second)
			if _, err := datastore.Put(s.Context(), datastore.NewKey(s.Context(), "sess_", id, 0, nil), e); err != nil {
				t.Fatal(err)
			}
		}, read, []string{get, dsGet, dsDel}},
		{"removed by this library", oldlib.Options{}, func(t *testing.T, s *gaetest.Service, id string) {
			store := gaesession.NewMemcacheStore(s.Context())
			store.Remove(store.Get(id))
			store.Close()
			s.Flush()
		}, read, []string{get, dsGet}},
		{"logout", oldlib.Options{}, nil, func(store *oldlib.Store, id string) {
			store.Remove(store.Get(id))
			store.Close()
		}, []string{get, del, dsDel}},
	} {
		t.Run(c.name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
				id := add(t, s, oldlib.Options{}).ID()
				if c.before != nil {
					c.before(t, s, id)
				}
				r := s.NewRequest()
				store := oldlib.New(r.Context(), c.options)
				c.request(store, id)
				store.Wait()
				var got []string
				for _, call := range r.Calls() {
					got = append(got, call.String())
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got calls %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestOverlappingRequestsLoseUpdates(t *testing.T) {
	s := gaetest.Local(t)
	id := add(t, s, oldlib.Options{}).ID()
	a, b := oldlib.New(s.Context(), oldlib.Options{}), oldlib.New(s.Context(), oldlib.Options{})
	a.Get(id).SetAttr("a", 1)
	b.Get(id).SetAttr("b", 1)
	a.Close()
	b.Close()
	it, e := stored(t, s, "", "sess_", id)
	for where, value := range map[string][]byte{"Memcache": it.Value, "Datastore": e.Value} {
		if got, want := decode(t, value).Attrs(), (attrs{"n": 1, "b": 1}); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v, as the later save is blind", where, got, want)
		}
	}
}

func TestABackgroundSaveArrivesOrDoesNot(t *testing.T) {
	s := gaetest.Local(t)
	for arrives, want := range map[bool]int{false: 1, true: 2} {
		id := add(t, s, oldlib.Options{}).ID()
		ctx, cancel := context.WithCancel(s.Context())
		gate, hold := gaetest.Hold(gaetest.Datastore)
		store := oldlib.New(s.NewRequestContext(ctx, hold).Context(), oldlib.Options{AsyncDatastoreSave: true, AsyncArrives: arrives})
		store.Get(id).SetAttr("n", 2)
		store.Close() // which does not wait for Datastore
		cancel()
		gate.Open()
		store.Wait()
		it, e := stored(t, s, "", "sess_", id)
		if got := decode(t, it.Value).Attr("n"); got != 2 {
			t.Errorf("arrives=%t: Memcache has %v, want 2", arrives, got)
		}
		if got := decode(t, e.Value).Attr("n"); got != want {
			t.Errorf("arrives=%t: Datastore has %v, want %d", arrives, got, want)
		}
	}
}

func TestASessionThatMemcacheRefusedWhenItWasAddedIsNotSaved(t *testing.T) {
	s := gaetest.Local(t)
	r := s.NewRequest(gaetest.Fail(gaetest.Memcache))
	store := oldlib.New(r.Context(), oldlib.Options{})
	sess := newSession()
	store.Add(sess)
	store.Close()
	if it, e := stored(t, s, "", "sess_", sess.ID()); it != nil || e != nil {
		t.Errorf("got item %t, entity %t, want nothing", it != nil, e != nil)
	}
	if n := len(r.Calls()); n != 3 || !errors.Is(store.Err(), gaetest.ErrFailed) {
		t.Errorf("got %d calls and %v, want 3 and ErrFailed", n, store.Err())
	}
}

func TestALogoutThatMemcacheRefusedIsUndoneByClose(t *testing.T) {
	s := gaetest.Local(t)
	id := add(t, s, oldlib.Options{}).ID()
	r := s.NewRequest(gaetest.Fail(func(c gaetest.Call) bool { return c.String() == "memcache.Delete" }))
	store := oldlib.New(r.Context(), oldlib.Options{})
	store.Remove(store.Get(id))
	store.Close()
	if it, e := stored(t, s, "", "sess_", id); it == nil || e == nil {
		t.Errorf("got item %t, entity %t, want both", it != nil, e != nil)
	}
}

// A request of the old library, one of this one, and back.
func TestSessionsGoBackAndForth(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		id := add(t, s, oldlib.Options{}).ID()
		old := func() session.Store { return oldlib.New(s.Context(), oldlib.Options{}) }
		ours := func() session.Store {
			return gaesession.NewMemcacheStoreOptions(s.Context(), &gaesession.MemcacheStoreOptions{
				OnError: func(_ context.Context, err error) { t.Error(err) },
			})
		}
		n := 1
		for _, evicted := range []bool{false, true} {
			for _, open := range []func() session.Store{ours, old, ours} {
				store := open()
				sess := store.Get(id)
				if sess == nil {
					t.Fatalf("evicted=%t, n=%d: no session", evicted, n)
				}
				if got := sess.Attr("n"); got != n {
					t.Errorf("evicted=%t: got %v, want %d", evicted, got, n)
				}
				n++
				sess.SetAttr("n", n)
				store.Close()
				if evicted {
					s.Flush()
				}
			}
		}
	})
}
