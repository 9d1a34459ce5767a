package oldlib_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/securecookie"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

type values = map[any]any

func saveCascade(t *testing.T, ctx context.Context, c oldlib.Cascade, id string, v values) {
	t.Helper()
	if err := c.Save(ctx, id, v); err != nil {
		t.Fatal(err)
	}
}

func TestSessionsAreStoredInTheFormOfSessionCascade(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx := s.Context()
		want := values{"n": 1, 2: "two"}
		saveCascade(t, ctx, oldlib.Cascade{MaxAge: time.Hour}, "ID", want)
		it, err := memcache.Get(ctx, "session.ID")
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Value     []byte
			ExpiresAt time.Time
		}
		if err := datastore.Get(ctx, datastore.NewKey(ctx, "Session", "session.ID", 0, nil), &e); err != nil {
			t.Fatal(err)
		}
		for where, value := range map[string][]byte{"Memcache": it.Value, "Datastore": e.Value} {
			var got values
			if err := gob.NewDecoder(bytes.NewReader(value)).Decode(&got); err != nil || !maps.Equal(got, want) {
				t.Errorf("%s: got %v, %v; want %v", where, got, err, want)
			}
		}
		if left := time.Until(e.ExpiresAt); it.Flags != 0 || left < 59*time.Minute || left > time.Hour {
			t.Errorf("got flags %d, expires in %v; want 0 and 1h", it.Flags, left)
		}
	})
}

func TestCallsOfCascade(t *testing.T) {
	const get, set, del = "memcache.Get", "memcache.Set", "memcache.Delete"
	const dsGet, dsPut, dsDel = "datastore_v3.Get", "datastore_v3.Put", "datastore_v3.Delete"
	load := func(ctx context.Context, c oldlib.Cascade) error {
		_, err := c.Load(ctx, "ID")
		return err
	}
	flush := func(t *testing.T, s *gaetest.Service) { s.Flush() }
	put := func(item, entity []byte, ttl time.Duration) func(t *testing.T, s *gaetest.Service) {
		return func(t *testing.T, s *gaetest.Service) {
			ctx := s.Context()
			s.Flush()
			if item != nil {
				if err := memcache.Set(ctx, &memcache.Item{Key: "session.ID", Value: item}); err != nil {
					t.Fatal(err)
				}
			}
			e := &oldlib.CascadeEntity{Value: entity, ExpiresAt: time.Now().Add(ttl)}
			if _, err := datastore.Put(ctx, datastore.NewKey(ctx, "Session", "session.ID", 0, nil), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name    string
		cascade oldlib.Cascade
		before  func(t *testing.T, s *gaetest.Service)
		request func(ctx context.Context, c oldlib.Cascade) error
		hook    gaetest.Hook
		want    []string
		fails   bool
	}{
		{name: "load", request: load, want: []string{get}},
		{name: "load, evicted", before: flush, request: load, want: []string{get, dsGet}},
		{name: "load, evicted, Memcache only", cascade: oldlib.Cascade{OnlyMemcache: true}, before: flush, request: load, want: []string{get}},
		{name: "load, item damaged", before: put([]byte("no gob"), nil, time.Hour), request: load, want: []string{get}, fails: true},
		{name: "load, item empty", before: put([]byte{}, nil, time.Hour), request: load, want: []string{get}, fails: true},
		{name: "load, expired", before: put(nil, nil, -time.Second), request: load, want: []string{get, dsGet, del, dsDel}},
		{name: "load, Memcache fails", hook: gaetest.Fail(gaetest.Memcache), request: load, want: []string{get}, fails: true},
		{name: "save", request: func(ctx context.Context, c oldlib.Cascade) error {
			return c.Save(ctx, "ID", values{"n": 2})
		}, want: []string{set, dsPut}},
		{name: "save, Memcache only", cascade: oldlib.Cascade{OnlyMemcache: true}, request: func(ctx context.Context, c oldlib.Cascade) error {
			return c.Save(ctx, "ID", values{"n": 2})
		}, want: []string{set}},
		{name: "save, Memcache fails", hook: gaetest.Fail(gaetest.Memcache), request: func(ctx context.Context, c oldlib.Cascade) error {
			return c.Save(ctx, "ID", values{"n": 2})
		}, want: []string{set}, fails: true},
		{name: "remove", request: func(ctx context.Context, c oldlib.Cascade) error {
			return c.Remove(ctx, "ID")
		}, want: []string{del, dsDel}},
		{name: "remove, Datastore fails", hook: gaetest.Fail(gaetest.Datastore), request: func(ctx context.Context, c oldlib.Cascade) error {
			return c.Remove(ctx, "ID")
		}, want: []string{del, dsDel}},
		{name: "remove, Memcache fails", hook: gaetest.Fail(gaetest.Memcache), request: func(ctx context.Context, c oldlib.Cascade) error {
			return c.Remove(ctx, "ID")
		}, want: []string{del}, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
				saveCascade(t, s.Context(), oldlib.Cascade{}, "ID", values{"n": 1})
				if c.before != nil {
					c.before(t, s)
				}
				r := s.NewRequest(c.hook)
				if err := c.request(r.Context(), c.cascade); (err != nil) != c.fails {
					t.Errorf("got %v, want an error: %t", err, c.fails)
				}
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

func TestASaveOfCascadeOverwritesWhateverIsThere(t *testing.T) {
	s := gaetest.Local(t)
	ctx, c := s.Context(), oldlib.Cascade{}
	saveCascade(t, ctx, c, "ID", values{"a": 1})
	v, err := c.Load(ctx, "ID")
	if err != nil {
		t.Fatal(err)
	}
	saveCascade(t, ctx, c, "ID", values{"a": 1, "b": 1})
	if err := c.Remove(ctx, "ID"); err != nil {
		t.Fatal(err)
	}
	saveCascade(t, ctx, c, "ID", v)
	s.Flush()
	if got, err := c.Load(ctx, "ID"); err != nil || !maps.Equal(got, values{"a": 1}) {
		t.Errorf("got %v, %v; want the session back as it was loaded", got, err)
	}
}

// A request of the old library, one of this one, and back.
func TestSessionsOfCascadeGoBackAndForth(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx, old := s.Context(), oldlib.Cascade{}
		ours := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, []byte("a hash key of thirty-two bytes.."))
		if err := ours.Err(); err != nil {
			t.Fatal(err)
		}
		cookie, err := securecookie.EncodeMulti("s", "ID", ours.Codecs...)
		if err != nil {
			t.Fatal(err)
		}
		saveCascade(t, ctx, old, "ID", values{"n": 0})
		n := 0
		for _, evicted := range []bool{false, true} {
			r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
			r.AddCookie(&http.Cookie{Name: "s", Value: cookie})
			sess, err := ours.Get(r, "s")
			if err != nil || sess.IsNew || sess.Values["n"] != n {
				t.Fatalf("evicted=%t: got %v, new=%t, %v; want %d", evicted, sess.Values, sess.IsNew, err, n)
			}
			n++
			sess.Values["n"] = n
			if err := sess.Save(r, httptest.NewRecorder()); err != nil {
				t.Fatal(err)
			}
			if evicted {
				s.Flush()
			}
			v, err := old.Load(ctx, "ID")
			if err != nil || v["n"] != n {
				t.Fatalf("evicted=%t: got %v, %v; want %d", evicted, v, err, n)
			}
			n++
			v["n"] = n
			saveCascade(t, ctx, old, "ID", v)
			if evicted {
				s.Flush()
			}
		}
	})
}
