package gaesession_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func expectAttrs(t testing.TB, what string, got, want map[string]any) {
	t.Helper()
	if !maps.Equal(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestSessionLivesThroughChangeFlushAndLogout(t *testing.T) {
	for name, o := range map[string]options{"synchronous": {}, "asynchronous": {AsyncDatastoreSave: true}} {
		t.Run(name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
				id := login(t, s, o, map[string]any{"user": "ann", "count": 1})
				expectAttrs(t, "after login", read(t, s, o, id), map[string]any{"user": "ann", "count": 1})
				change(t, s, o, id, map[string]any{"count": 2, "user": nil})
				expectAttrs(t, "after change", read(t, s, o, id), map[string]any{"count": 2})
				drain(t)
				s.Flush()
				expectAttrs(t, "after flush", read(t, s, o, id), map[string]any{"count": 2})
				expectAttrs(t, "after refill", read(t, s, o, id), map[string]any{"count": 2})
				logout(t, s, o, id)
				expectAttrs(t, "after logout", read(t, s, o, id), nil)
				s.Flush()
				expectAttrs(t, "after logout and flush", read(t, s, o, id), nil)
			})
		})
	}
}

func TestConcurrentGetsOfOneRequestGiveOneSessionAndLoadOnce(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"n": 0})
		gate, hook := gaetest.Hold(gaetest.At(1))
		r := newRequest(s, o, hook)
		const gets = 8
		got := make(chan session.Session, gets)
		for range gets {
			go func() { got <- r.Get(id) }()
		}
		<-gate.Arrived()
		gate.Open()
		first := <-got
		for range gets - 1 {
			if sess := <-got; sess != first || sess == nil {
				t.Errorf("got %p, want the session that the other Get returned, %p", sess, first)
			}
		}
		if sess := r.Get(id); sess != first {
			t.Errorf("a later Get: got %p, want %p", sess, first)
		}
		for range 2 {
			if r.Get("unknown") != nil {
				t.Error("got a session for an unknown id")
			}
		}
		r.Close()
		want := 3 // two of them for the unknown id
		if o.OnlyMemcache {
			want = 2
		}
		if calls := r.Calls(); len(calls) != want {
			t.Errorf("got calls %v, want %d", calls, want)
		}
	})
}

func TestGoroutinesOfOneRequestShareTheStore(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		ids := []string{login(t, s, o, attrs{"n": 0}), login(t, s, o, attrs{"n": 0}), login(t, s, o, attrs{"n": 0})}
		r := newRequest(s, o)
		var done sync.WaitGroup
		for i := range 12 {
			done.Add(1)
			go func() {
				defer done.Done()
				switch id := ids[i%3]; {
				case i%3 == 2 && i > 8:
					r.Remove(r.Get(ids[2]))
				case i%3 == 2:
					r.Add(session.NewSession())
				default:
					r.Get(id).SetAttr(fmt.Sprint(i), i)
				}
			}()
		}
		done.Wait()
		r.Close()
		if err := r.errs.all(); err != nil {
			t.Error(err)
		}
		expectSession(t, s, o, ids[0], attrs{"n": 0, "0": 0, "3": 3, "6": 6, "9": 9})
		expectSession(t, s, o, ids[1], attrs{"n": 0, "1": 1, "4": 4, "7": 7, "10": 10})
		expectSession(t, s, o, ids[2], nil)
	})
}

func TestAClosedStoreGoesOnWorking(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	r := newRequest(s, options{})
	sess := r.Get(id)
	sess.SetAttr("n", 1)
	r.Close()
	expectSession(t, s, options{}, id, attrs{"n": 1})
	calls := len(r.Calls())
	r.Close()
	if n := len(r.Calls()); n != calls {
		t.Errorf("closing again without a change made %d calls", n-calls)
	}
	sess.SetAttr("n", 2)
	r.Close()
	expectSession(t, s, options{}, id, attrs{"n": 2})
	if r.Get(id) != sess {
		t.Error("Get after Close returned another session")
	}
	another := session.NewSession()
	r.Add(another)
	r.Close()
	expectSession(t, s, options{}, another.ID(), attrs{})
	r.Remove(sess)
	if newRequest(s, options{}).Get(id) != nil {
		t.Error("a session that was removed after Close is still there")
	}
	if err := r.errs.all(); err != nil {
		t.Error(err)
	}
}

func TestMalformedIDsNeverReachTheServices(t *testing.T) {
	s := gaetest.Local(t)
	for name, id := range map[string]string{
		"empty":                       "",
		"NUL":                         "a\x00b",
		"not UTF-8":                   "a\xff",
		"too long":                    strings.Repeat("x", 247),
		"of a hashed id's session":    "h:id",
		"of an owner's sessions":      "owner:ann",
		"what Datastore calls __id__": "__id__.",
	} {
		r := newRequest(s, options{KeyPrefix: "pre:"})
		if sess := r.Get(id); sess != nil {
			t.Errorf("%s: got a session", name)
		}
		for _, use := range []func(session.Session){r.Add, r.Remove} {
			use(withID(t, id))
		}
		r.Close()
		if errs := r.errs.list(); len(errs) != 2 { // not Get's: the id is the visitor's
			t.Errorf("%s: got %d errors, want 2: %v", name, len(errs), errs)
		}
		for _, err := range r.errs.list() {
			if !errors.Is(err, gaesession.ErrInvalidID) || id != "" && strings.Contains(err.Error(), id) {
				t.Errorf("%s: got %q, want ErrInvalidID without the id", name, err)
			}
		}
		if calls := r.Calls(); len(calls) > 0 {
			t.Errorf("%s: made calls %v", name, calls)
		}
	}
	r := newRequest(s, options{KeyPrefix: "pre:"})
	if r.Get(strings.Repeat("x", 246)); len(r.Calls()) != 2 {
		t.Errorf("an id of the full length: got calls %v, want 2", r.Calls())
	}
	r.Add(nil)
	r.Remove(nil)
	if errs := r.errs.list(); len(errs) != 2 || !errors.Is(errs[0], gaesession.ErrInvalidID) {
		t.Errorf("nil sessions: got %v, want ErrInvalidID twice", errs)
	}
}

// withID is a session with that id.
func withID(t *testing.T, id string) session.Session {
	t.Helper()
	sess := session.NewSession()
	reflect.ValueOf(sess).Elem().FieldByName("IDF").SetString(id)
	return sess
}

func TestAddAndRemoveWithinOneRequest(t *testing.T) {
	s := gaetest.Local(t)
	r := newRequest(s, options{})
	sess := session.NewSession()
	r.Add(sess)
	if r.Get(sess.ID()) != sess {
		t.Error("Get after Add: not the session that was added")
	}
	r.Remove(sess)
	if r.Get(sess.ID()) != nil {
		t.Error("Get after Remove: got a session")
	}
	r.Remove(sess)
	if calls := r.Calls(); len(calls) > 0 {
		t.Errorf("a session that no service knows: made calls %v", calls)
	}
	r.Add(sess)
	if err := r.errs.all(); !errors.Is(err, gaesession.ErrRemoved) {
		t.Errorf("Add after Remove: got %v, want ErrRemoved", err)
	}
	r.Close()
	expectAttrs(t, "after all", read(t, s, options{}, sess.ID()), nil)
}

func TestAddOfARemovedSessionDoesNotBringItBack(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"n": 0})
		earlier := newRequest(s, o)
		sess := earlier.Get(id)
		earlier.Close()
		logout(t, s, o, id)
		if !o.OnlyMemcache {
			s.Flush()
		}
		r := newRequest(s, o)
		r.Add(sess)
		r.Close()
		if err := r.errs.all(); !errors.Is(err, gaesession.ErrRemoved) {
			t.Errorf("got %v, want ErrRemoved", err)
		}
		expectSession(t, s, o, id, nil)
	})
}

type cart struct{ Items []string }

func init() {
	gob.Register(&cart{})
	gob.Register(map[string]int{})
	gob.Register([]string{})
	gob.Register(time.Time{})
}

func TestValuesChangedInPlaceAreSaved(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		in := func() attrs {
			return attrs{"map": map[string]int{"a": 1}, "slice": []string{"x", "y"}, "pointer": &cart{Items: []string{"egg"}}}
		}
		for name, inPlace := range map[string]func(session.Session){
			"map":     func(sess session.Session) { sess.Attr("map").(map[string]int)["b"] = 2 },
			"slice":   func(sess session.Session) { sess.Attr("slice").([]string)[1] = "z" },
			"pointer": func(sess session.Session) { c := sess.Attr("pointer").(*cart); c.Items = append(c.Items, "ham") },
		} {
			id := login(t, s, o, in())
			r := newRequest(s, o)
			inPlace(r.Get(id))
			r.Close()
			if err := r.errs.all(); err != nil {
				t.Error(err)
			}
			want := session.NewSessionOptions(&session.SessOptions{Attrs: in()})
			inPlace(want)
			drain(t)
			if !o.OnlyMemcache {
				s.Flush()
			}
			if got := read(t, s, o, id); !reflect.DeepEqual(got, want.Attrs()) {
				t.Errorf("%s: got %v, want %v", name, got, want.Attrs())
			}
		}
	})
}

func TestRequestsThatOnlyReadMakeOneCallWhateverTheAttributes(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{
		"map": map[string]int{"a": 1}, "slice": []string{}, "pointer": &cart{}, "time": time.Now(),
		"string": "s", "float": 1.5, "bool": true, "int64": int64(1), "uint8": uint8(1),
	})
	r := newRequest(s, options{})
	if sess := r.Get(id); sess == nil {
		t.Fatal("no session")
	}
	r.Close()
	if calls := r.Calls(); len(calls) != 1 {
		t.Errorf("got calls %v, want one", calls)
	}
}

func TestAnExpiredSessionIsNoSession(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		ctx := s.Context()
		sess := session.NewSession()
		e := agedEntity(t, sess, 34*time.Minute)
		if _, err := datastore.Put(ctx, datastore.NewKey(ctx, "sess_", sess.ID(), 0, nil), &e); err != nil {
			t.Fatal(err)
		}
		expectAttrs(t, "in Datastore", read(t, s, o, sess.ID()), nil)
		if err := memcache.Set(ctx, &memcache.Item{Key: sess.ID(), Value: e.Value}); err != nil {
			t.Fatal(err)
		}
		expectAttrs(t, "still in Memcache", read(t, s, o, sess.ID()), nil)
	})
}

func TestASessionTooLargeChangesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"n": 0})
		for name, use := range map[string]func(r *request){
			"change": func(r *request) { r.Get(id).SetAttr("big", strings.Repeat("x", 1<<20)) },
			"add": func(r *request) {
				r.Add(session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"big": strings.Repeat("x", 1<<20)}}))
			},
		} {
			r := newRequest(s, o)
			use(r)
			before := len(r.Calls())
			r.Close()
			if err := r.errs.all(); !errors.Is(err, gaesession.ErrTooLarge) {
				t.Errorf("%s: got %v, want ErrTooLarge", name, err)
			}
			if calls := r.Calls()[before:]; len(calls) > 0 {
				t.Errorf("%s: made calls %v", name, calls)
			}
		}
		expectSession(t, s, o, id, attrs{"n": 0})
	})
}

// A manifold is made of more types than gobstream takes.
type manifold [][][][][][][][][][][][][][][][][][]int

func init() { gob.Register(manifold{}) }

func TestASessionOfTypesThatCannotBeReadChangesNothing(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	r := newRequest(s, options{})
	r.Get(id).SetAttr("more", manifold{})
	r.Close()
	if err := r.errs.all(); !errors.Is(err, gaesession.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	expectSession(t, s, options{}, id, attrs{"n": 0})
}

func TestASessionThatBecomesTooLargeByMergingChangesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"n": 0})
		r := newRequest(s, o)
		r.Get(id).SetAttr("mine", strings.Repeat("x", 600_000))
		theirs := attrs{"theirs": strings.Repeat("y", 600_000)}
		change(t, s, o, id, theirs)
		drain(t)
		r.Close()
		drain(t)
		if err := r.errs.all(); !errors.Is(err, gaesession.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
		theirs["n"] = 0
		if got := read(t, s, o, id); !reflect.DeepEqual(got, theirs) {
			t.Error("what was saved before is not there any more")
		}
	})
}

func TestASessionThatFitsDatastoreOnlyIsKeptThere(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		big := strings.Repeat("x", 20_000)
		o.Cache = gae.Memcache{MaxValue: len(big)}
		for name, save := range map[string]func() string{
			"created": func() string { return login(t, s, o, attrs{"big": big}) },
			"grown": func() string {
				id := login(t, s, o, attrs{"n": 0})
				change(t, s, o, id, attrs{"big": big, "n": nil})
				return id
			},
		} {
			id := save()
			drain(t)
			if it, err := memcache.Get(s.Context(), id); err == nil && it.Flags == 0 {
				t.Errorf("%s: Memcache has the session", name)
			} else if err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
				t.Error(err)
			}
			for range 2 {
				if got := read(t, s, o, id); got["big"] != big {
					t.Errorf("%s: the session is not there", name)
				}
			}
			change(t, s, o, id, attrs{"big": nil, "n": 1})
			expectSession(t, s, o, id, attrs{"n": 1})
		}
	})
}

func TestAValueThatCannotBeDecodedIsKept(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx := s.Context()
		key := datastore.NewKey(ctx, "sess_", "damaged", 0, nil)
		e := gaesession.SessEntity{Expires: time.Now().Add(time.Hour), Value: []byte("no gob")}
		if _, err := datastore.Put(ctx, key, &e); err != nil {
			t.Fatal(err)
		}
		item := &memcache.Item{Key: "damaged", Value: []byte("no gob")}
		for where, put := range map[string]func(){
			"Datastore": func() {},
			"Memcache": func() {
				if err := memcache.Set(ctx, item); err != nil {
					t.Fatal(err)
				}
			},
		} {
			put()
			r := newRequest(s, options{})
			if r.Get("damaged") != nil {
				t.Errorf("%s: got a session", where)
			}
			r.Close()
			if r.errs.all() == nil {
				t.Errorf("%s: no error was reported", where)
			}
			for _, call := range r.Calls() {
				if call.Method != "Get" {
					t.Errorf("%s: made call %v", where, call)
				}
			}
			var now gaesession.SessEntity
			if err := datastore.Get(ctx, key, &now); err != nil || string(now.Value) != "no gob" {
				t.Errorf("%s: entity is now %q, %v", where, now.Value, err)
			}
		}
	})
}

func TestBadItemsInMemcacheAreNotTrusted(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		id := login(t, s, options{}, attrs{"n": 0})
		for name, item := range map[string]memcache.Item{
			"unknown flags": {Flags: 7, Value: []byte("?")},
			"of a lock":     {Flags: 3, Value: []byte{40}},
			"no value":      {Flags: 0, Value: []byte{}},
		} {
			item.Key = id
			if err := memcache.Set(s.Context(), &item); err != nil {
				t.Fatal(err)
			}
			r := newRequest(s, options{})
			if sess := r.Get(id); sess == nil || sess.Attr("n") != 0 {
				t.Errorf("%s: the session was not read from Datastore", name)
			}
			r.Close()
			if r.errs.all() == nil {
				t.Errorf("%s: no error was reported", name)
			}
		}
	})
}

func TestAnAsynchronousSaveOutlivesItsRequest(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{AsyncDatastoreSave: true}
		id := login(t, s, o, attrs{"n": 0})
		ctx, cancel := context.WithCancel(s.Context())
		gate, hook := gaetest.Hold(func(c gaetest.Call) bool { return c.Method == "BeginTransaction" })
		r := newRequestContext(ctx, s, o, hook)
		r.Get(id).SetAttr("n", 1)
		r.Close()
		<-gate.Arrived()
		cancel()

		waiting, stop := context.WithCancel(context.Background())
		stop()
		if err := gaesession.Drain(waiting); !errors.Is(err, context.Canceled) {
			t.Errorf("Drain while a save is under way: got %v, want context.Canceled", err)
		}
		gate.Open()
		drain(t)
		if err := r.errs.all(); err != nil {
			t.Error(err)
		}
		s.Flush()
		expectAttrs(t, "from Datastore", read(t, s, o, id), attrs{"n": 1})
	})
}

func TestTheNextChangeSavesWhatAKilledInstanceDidNot(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{AsyncDatastoreSave: true}
		id := login(t, s, o, attrs{"n": 0, "gone": true})
		crash, hook := gaetest.CrashAt(3)
		r := newRequest(s, o, hook)
		sess := r.Get(id)
		sess.SetAttr("n", 1)
		sess.SetAttr("gone", nil)
		r.Close()
		<-crash.Crashed()
		expectAttrs(t, "from Memcache", read(t, s, options{}, id), attrs{"n": 1})
		change(t, s, options{}, id, attrs{"m": 1})
		s.Flush()
		expectAttrs(t, "from Datastore", read(t, s, o, id), attrs{"n": 1, "m": 1})
		crash.Release()
		drain(t)
		expectAttrs(t, "after the instance's end", read(t, s, o, id), attrs{"n": 1, "m": 1})
	})
}

// App Engine may refuse calls in the name of a request that has ended.
func TestABackgroundSaveIsTriedAgainOutsideOfItsRequest(t *testing.T) {
	s := gaetest.Local(t)
	o := options{AsyncDatastoreSave: true}
	id := login(t, s, o, attrs{"n": 0})
	r := newRequest(s, o, gaetest.Fail(func(c gaetest.Call) bool { return c.Index > 2 }))
	r.Get(id).SetAttr("n", 1)
	r.Close()
	drain(t)
	if err := r.errs.all(); err != nil {
		t.Error(err)
	}
	expectSession(t, s, o, id, attrs{"n": 1})
}

func TestRetriesStopWithTheContext(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	s.Flush()
	ctx, cancel := context.WithCancel(s.Context())
	r := newRequestContext(ctx, s, options{Retries: 100}, gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
		if c.Method == "Get" && !c.IsMemcache() {
			cancel()
		}
		return nil
	}})
	if r.Get(id) != nil {
		t.Error("got a session")
	}
	if calls := r.Calls(); len(calls) != 2 {
		t.Errorf("got calls %v, want 2", calls)
	}
	if err := r.errs.all(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestCallsAreTriedAsOftenAsRetriesSays(t *testing.T) {
	s := gaetest.Local(t)
	for _, test := range []struct{ retries, want int }{{0, 3}, {-1, 3}, {1, 1}, {5, 5}} {
		r := newRequest(s, options{Retries: test.retries}, gaetest.Fail(gaetest.Memcache))
		r.Get("unknown")
		memcacheCalls := 0
		for _, c := range r.Calls() {
			if c.IsMemcache() {
				memcacheCalls++
			}
		}
		if memcacheCalls != test.want {
			t.Errorf("Retries %d: got %d attempts, want %d", test.retries, memcacheCalls, test.want)
		}
	}
}

func TestNoSessionIDReachesLogsOrErrors(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	leaky := fmt.Errorf("service says: key %s is bad", id)
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)

	hook := gaetest.Hook{Before: func(context.Context, gaetest.Call) error { return leaky }}
	r := s.NewRequest(hook)
	store := gaesession.NewMemcacheStore(r.Context())
	store.Get(id)
	store.Remove(withID(t, id))
	store.Close()
	if got := log.String(); strings.Contains(got, id) || strings.Count(got, "level=ERROR") != 2 || !strings.Contains(got, "service says") {
		t.Errorf("got log %q, want two error records without the id", got)
	}

	req := newRequest(s, options{}, hook)
	req.Get(id)
	for _, err := range req.errs.list() {
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), id) {
				t.Errorf("got error %q with the session's id", e)
			}
		}
		if !errors.Is(err, leaky) {
			t.Errorf("%q does not answer errors.Is", err)
		}
	}
}

func TestAPanickingCodecIsAnError(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	bad := &memcache.Codec{
		Marshal:   func(any) ([]byte, error) { panic("marshal") },
		Unmarshal: func([]byte, any) error { panic("unmarshal") },
	}
	r := newRequest(s, options{Codec: bad})
	if r.Get(id) != nil {
		t.Error("got a session")
	}
	r.Add(session.NewSession())
	r.Close()
	if errs := r.errs.list(); len(errs) != 2 || !errors.Is(errs[0], gaesession.ErrUndecodable) || !strings.Contains(errs[1].Error(), "panic: marshal") {
		t.Errorf("got %v, want ErrUndecodable, and the panic of the save", errs)
	}
}

func TestACodecOfTheAppsOwnIsUsed(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		o.Codec = &memcache.JSON
		id := login(t, s, o, attrs{"s": "x"})
		change(t, s, o, id, attrs{"s": "y"})
		expectSession(t, s, o, id, attrs{"s": "y"})
	})
}

func TestStoresLeaveNoGoroutineBehind(t *testing.T) {
	s := gaetest.Local(t)
	check := gaetest.Goroutines(t)
	for _, mode := range modes {
		id := login(t, s, mode.o, attrs{"n": 0})
		change(t, s, mode.o, id, attrs{"n": 1})
		logout(t, s, mode.o, id)
	}
	drain(t)
	check()
}

func TestALogoutThatFailedCanBeTriedAgain(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{Retries: 1}
		id := login(t, s, o, attrs{"n": 0})
		var down atomic.Bool
		down.Store(true)
		r := newRequest(s, o, gaetest.Fail(func(c gaetest.Call) bool { return c.Method == "Put" && down.Load() }))
		sess := r.Get(id)
		r.Remove(sess)
		if r.errs.all() == nil {
			t.Error("no error was reported")
		}
		down.Store(false)
		r.errs.reset()
		r.Remove(sess)
		calls := len(r.Calls())
		r.Remove(sess)
		r.Close()
		if err := r.errs.all(); err != nil || len(r.Calls()) != calls {
			t.Errorf("got error %v, and calls after the removal: %v", err, r.Calls()[calls:])
		}
		s.Flush()
		expectAttrs(t, "after the second try", read(t, s, o, id), nil)
	})
}

func TestForeverIsNotOver(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		for name, forever := range map[string]struct {
			timeout, interval time.Duration
		}{
			"timeout":  {math.MaxInt64, 0},
			"interval": {time.Hour, math.MaxInt64},
			"both":     {math.MaxInt64, math.MaxInt64},
		} {
			o.RefreshInterval = forever.interval
			r := newRequest(s, o)
			sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"n": 0}, Timeout: forever.timeout})
			r.Add(sess)
			r.Close()
			if err := r.errs.all(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			expectSession(t, s, o, sess.ID(), attrs{"n": 0})
		}
	})
}

func TestASessionOfLessThanASecondLivesThatLong(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		o.RefreshInterval = -1
		const timeout = 900 * time.Millisecond
		for range 50 {
			begin := time.Now()
			r := newRequest(s, o)
			sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"n": 0}, Timeout: timeout})
			r.Add(sess)
			r.Close()
			err := r.errs.all()
			got := read(t, s, o, sess.ID())
			if (got == nil || err != nil) && time.Since(begin) >= timeout {
				continue // it may have ended
			}
			if err != nil {
				t.Fatal(err)
			}
			expectAttrs(t, "at once", got, attrs{"n": 0})
			return
		}
		t.Skip("the machine is too slow")
	})
}

func TestOnErrorMayUseTheStoreAndPanic(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)

	r := s.NewRequest(gaetest.Fail(gaetest.Memcache))
	var store session.Store
	var once sync.Once
	store = gaesession.NewMemcacheStoreOptions(r.Context(), &options{Retries: 1, OnError: func(context.Context, error) {
		once.Do(func() {
			if store.Get(id) == nil {
				t.Error("no session")
			}
			store.Close()
		})
		panic("out of order")
	}})
	if store.Get(id) == nil {
		t.Error("no session")
	}
	if got := log.String(); !strings.Contains(got, "out of order") || !strings.Contains(got, "memcache.Get") {
		t.Errorf("got log %q, want the panic and the error", got)
	}
}

func TestMergingKeepsTheLaterAccessTime(t *testing.T) {
	s := gaetest.Local(t)
	o := options{}
	for _, laterFirst := range []bool{false, true} {
		id := login(t, s, o, attrs{"n": 0})
		early := newRequest(s, o)
		early.Get(id).SetAttr("early", true)
		time.Sleep(2 * time.Millisecond)
		late := newRequest(s, o)
		sess := late.Get(id)
		sess.SetAttr("late", true)
		want := sess.Accessed()
		if laterFirst {
			late.Close()
			early.Close()
		} else {
			early.Close()
			late.Close()
		}
		var e gaesession.SessEntity
		if err := datastore.Get(s.Context(), datastore.NewKey(s.Context(), "sess_", id, 0, nil), &e); err != nil {
			t.Fatal(err)
		}
		stored := session.NewSession()
		if err := memcache.Gob.Unmarshal(e.Value, stored); err != nil {
			t.Fatal(err)
		}
		if !stored.Accessed().Equal(want) {
			t.Errorf("later one first: %t: got %v, want %v", laterFirst, stored.Accessed(), want)
		}
		expectSession(t, s, o, id, attrs{"n": 0, "early": true, "late": true})
	}
}

func TestASessionOfAnotherIDIsNotMergedIn(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	r := newRequest(s, options{})
	r.Get(id).SetAttr("n", 1)
	other := encodedSession(t, session.NewSession())
	if err := memcache.Set(s.Context(), &memcache.Item{Key: id, Value: other}); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if r.errs.all() == nil {
		t.Error("no error was reported")
	}
	s.Flush()
	expectAttrs(t, "in Datastore", read(t, s, options{}, id), attrs{"n": 1})
}

func TestACodecThatReturnsNoBytesSavesNothing(t *testing.T) {
	s := gaetest.Local(t)
	empty := &memcache.Codec{Marshal: func(any) ([]byte, error) { return nil, nil }, Unmarshal: memcache.Gob.Unmarshal}
	r := newRequest(s, options{Codec: empty})
	r.Add(session.NewSession())
	r.Close()
	if r.errs.all() == nil || len(r.Calls()) > 0 {
		t.Errorf("got error %v and calls %v, want an error and none", r.errs.all(), r.Calls())
	}
}

func TestAServiceThatFindsAValueTooLargeIsNotAskedAgain(t *testing.T) {
	s := gaetest.Local(t)
	ctx := s.Context()
	_, tooLarge := datastore.Put(ctx, datastore.NewKey(ctx, "sess_", "x", 0, nil), &gaesession.SessEntity{Value: make([]byte, 1<<20-50)})
	if tooLarge == nil {
		t.Fatal("gaelocal took an entity that is too large")
	}
	r := newRequest(s, options{}, gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
		if c.Method == "Put" {
			return tooLarge
		}
		return nil
	}})
	r.Add(session.NewSession())
	r.Close()
	puts := 0
	for _, c := range r.Calls() {
		if c.Method == "Put" {
			puts++
		}
	}
	if err := r.errs.all(); !errors.Is(err, gaesession.ErrTooLarge) || puts != 1 {
		t.Errorf("got error %v after %d puts, want ErrTooLarge after one", err, puts)
	}
}

func TestNilContextsAreBackground(t *testing.T) {
	r := newRequest(gaetest.Local(t), options{})
	r.Close()
	var none context.Context
	if gaesession.NewMemcacheStore(none).Get("unknown") != nil {
		t.Error("got a session")
	}
	if err := gaesession.Drain(none); err != nil {
		t.Error(err)
	}
	if _, err := gaesession.PurgeExpired(none, "nothing"); err != nil {
		t.Error(err)
	}
}

// withoutAppID takes away what tells the application's id.
func withoutAppID(t *testing.T) {
	t.Setenv("GAE_APPLICATION", "")
	t.Setenv("GAE_LONG_APP_ID", "x")
	t.Setenv("GAE_PARTITION", "")
}

// withoutMetadataServer keeps the appengine package from asking the network for
// it. To be called while no request is under way.
func withoutMetadataServer(t *testing.T) {
	before := http.DefaultClient.Transport
	http.DefaultClient.Transport = noServer{}
	t.Cleanup(func() { http.DefaultClient.Transport = before })
}

type noServer struct{}

func (noServer) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no metadata server")
}

func TestWithoutAnApplicationIDThereIsAnErrorAndNoPanic(t *testing.T) {
	drain(t)
	withoutMetadataServer(t)
	withoutAppID(t)
	if _, err := gaesession.PurgeExpired(context.Background(), ""); err == nil {
		t.Error("purge: no error")
	}
	r := newRequest(gaetest.Local(t), options{})
	r.Get("unknown")
	r.Add(session.NewSession())
	r.Close()
	if len(r.errs.list()) != 2 {
		t.Errorf("got %v, want two errors", r.errs.all())
	}
	for _, err := range r.errs.list() {
		if want := "set Backup and Cache"; !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, which does not say: %s", err, want)
		}
	}
}

func TestAnApplicationIDThatIsLostAtAnyCallIsAnErrorAndNoPanic(t *testing.T) {
	drain(t)
	withoutMetadataServer(t)
	for name, use := range map[string]func(r *request, id string) error{
		"change": func(r *request, id string) error {
			if sess := r.Get(id); sess != nil {
				sess.SetAttr("n", 1)
			}
			r.Close()
			return r.errs.all()
		},
		"logout": func(r *request, id string) error {
			r.Remove(withID(t, id))
			return r.errs.all()
		},
		"purge": func(r *request, _ string) error {
			_, err := gaesession.PurgeExpired(r.Context(), "")
			return err
		},
	} {
		for _, mode := range modes[:2] {
			t.Run(name+", "+mode.name, func(t *testing.T) {
				gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
					s := gaetest.Local(t)
					id := login(t, s, mode.o, attrs{"n": 0})
					putEntities(t, s, "sess_", 1, time.Hour)
					reached, hook := gaetest.Interpose(k, func() { withoutAppID(t) })
					r := newRequest(s, mode.o, hook)
					err := use(r, id)
					drain(t)
					if k == 1 && name == "change" && errors.Join(err, r.errs.all()) == nil {
						t.Error("no error was reported")
					}
					return reached.Load()
				})
			})
		}
	}
}

// A basket's time has a monotonic clock, and a codec makes nil of an empty
// slice: neither is a change when the request closes the store again.
type basket struct {
	Items   []string
	Updated time.Time
	N       int
}

func TestClosingAgainSavesNothingThatTheCodecDoesNotKeep(t *testing.T) {
	gob.Register(basket{})
	s := gaetest.Local(t)
	for name, v := range map[string]basket{
		"a monotonic clock": {Updated: time.Now()},
		"an empty slice":    {Items: []string{}},
	} {
		id := login(t, s, options{}, attrs{"n": 0})
		r := newRequest(s, options{})
		r.Get(id).SetAttr("basket", v)
		r.Close()
		calls := len(r.Calls())
		change(t, s, options{}, id, attrs{"basket": basket{N: 7}}) // the client's next request
		r.Close()                                                  // deferred
		if n := len(r.Calls()) - calls; n > 0 {
			t.Errorf("%s: closing again made %d calls", name, n)
		}
		if got, _ := read(t, s, options{}, id)["basket"].(basket); got.N != 7 {
			t.Errorf("%s: got %v, want what was saved last", name, got)
		}
	}
}

// A point can be changed in place, but compared.
type point struct{ X int }

// Another goroutine of the request sets x while Close looks for changes.
func TestWhatIsSetWhileCloseRunsIsSavedAsAChange(t *testing.T) {
	gob.Register(point{})
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"x": 1, "y": 0, "at": point{1}})
	var sess session.Session
	var once sync.Once
	looking := false
	o := options{Codec: &memcache.Codec{Marshal: memcache.Gob.Marshal, Unmarshal: func(b []byte, v any) error {
		if looking {
			once.Do(func() { sess.SetAttr("x", 2) })
		}
		return memcache.Gob.Unmarshal(b, v)
	}}}
	gate, hook := gaetest.Hold(func(c gaetest.Call) bool { return c.Method == "CompareAndSwap" || c.String() == "memcache.Set" })
	r := newRequest(s, o, hook)
	sess = r.Get(id)
	sess.SetAttr("y", 1)
	looking = true
	closed := make(chan struct{})
	go func() { defer close(closed); r.Close() }()
	waitFor(t, gate.Arrived())
	// z is unsaved in Memcache when the change is published there.
	save, hold := gaetest.Hold(func(c gaetest.Call) bool { return c.Method == "BeginTransaction" })
	other := newRequest(s, options{AsyncDatastoreSave: true}, hold)
	other.Get(id).SetAttr("z", 1)
	other.Close()
	waitFor(t, save.Arrived())
	gate.Open()
	<-closed
	r.Close()
	want := attrs{"x": 2, "y": 1, "z": 1, "at": point{1}}
	expectAttrs(t, "from Memcache", read(t, s, o, id), want)
	save.Open()
	expectSession(t, s, o, id, want)
}

// Other goroutines of the request set an attribute, and change a value in place
// under the session's mutex, while Close is called over and over.
func TestASessionMayBeChangedWhileCloseRuns(t *testing.T) {
	for name, in := range map[string]attrs{
		"scalars":        {"n": 0},
		"a value inside": {"n": 0, "slice": []string{"x", "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := gaetest.Local(t)
			id := login(t, s, options{}, in)
			r := newRequest(s, options{})
			sess := r.Get(id)
			slice, _ := sess.Attr("slice").([]string)
			last, begun, stop := 0, make(chan struct{}), make(chan struct{})
			var changing sync.WaitGroup
			changing.Add(1)
			go func() {
				defer changing.Done()
				for {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Microsecond): // Close gets its turn, too
					}
					last++
					sess.SetAttr("n", last)
					if slice != nil {
						sess.Mutex().Lock()
						slice[1] = fmt.Sprint(last)
						sess.Mutex().Unlock()
					}
					if last == 1 {
						close(begun)
					}
				}
			}()
			<-begun
			for range 100 {
				r.Close()
			}
			close(stop)
			changing.Wait()
			r.Close()
			if err := r.errs.all(); err != nil {
				t.Error(err)
			}
			want := attrs{"n": last}
			if slice != nil {
				want["slice"] = []string{"x", fmt.Sprint(last)}
			}
			if got := read(t, s, options{}, id); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestASessionIsEncodedOnceForAChangeAndLockedMeanwhile(t *testing.T) {
	for name, in := range map[string]attrs{
		"scalars":        {"n": 0},
		"a value inside": {"n": 0, "slice": []string{"x"}},
	} {
		s := gaetest.Local(t)
		id := login(t, s, options{}, in)
		encoded := 0
		var sess session.Session
		o := options{Codec: &memcache.Codec{Unmarshal: memcache.Gob.Unmarshal, Marshal: func(v any) ([]byte, error) {
			encoded++
			if v == sess && sess.Mutex().TryLock() {
				sess.Mutex().Unlock()
				t.Errorf("%s: another goroutine may change the session while it is encoded", name)
			}
			return memcache.Gob.Marshal(v)
		}}}
		for change, want := range []int{0, 1} {
			r := newRequest(s, o)
			sess = r.Get(id)
			sess.SetAttr("n", change)
			encoded = 0
			r.Close()
			if encoded != want {
				t.Errorf("%s: encoded %d times, want %d", name, encoded, want)
			}
		}
	}
}

// The codec of the app's own leaves out an attribute: setting it is no change.
func TestWhatTheCodecLeavesOutIsNoChange(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	o := options{Codec: &memcache.Codec{Marshal: memcache.Gob.Marshal, Unmarshal: func(b []byte, v any) error {
		err := memcache.Gob.Unmarshal(b, v)
		v.(session.Session).SetAttr("temporary", nil)
		return err
	}}}
	r := newRequest(s, o)
	r.Get(id).SetAttr("temporary", 1)
	r.Close()
	if calls := r.Calls(); len(calls) != 1 {
		t.Errorf("got calls %v, want one", calls)
	}
}

func TestWhatCouldNotBeEncodedIsSavedOnceItIsMendedInPlace(t *testing.T) {
	gob.Register(map[string]any{})
	s := gaetest.Local(t)
	r := newRequest(s, options{})
	sess, m := session.NewSession(), map[string]any{"a": func() {}}
	sess.SetAttr("m", m)
	r.Store.Add(sess)
	for _, step := range []struct {
		name   string
		change func()
		errs   int
	}{
		{"a function", func() {}, 1},
		{"nothing has changed", func() {}, 0},
		{"another attribute", func() { sess.SetAttr("n", 1) }, 1},
		{"a number", func() { m["a"] = 1 }, 0},
		{"nothing has changed since", func() {}, 0},
	} {
		step.change()
		r.Store.Close()
		if errs := r.errs.list(); len(errs) != step.errs {
			t.Errorf("%s: reported %v, want %d", step.name, errs, step.errs)
		}
		r.errs.reset()
	}
	if got := read(t, s, options{}, sess.ID()); !reflect.DeepEqual(got, attrs{"m": map[string]any{"a": 1}, "n": 1}) {
		t.Errorf("got %v", got)
	}
}
