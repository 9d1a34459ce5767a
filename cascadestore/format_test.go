package cascadestore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The stored format is that of the original package.

// entity is the original's entity.
type entity struct {
	Value     []byte
	ExpiresAt time.Time
}

func gobOf(t testing.TB, v values) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stored returns what the services hold of a session; nil: nothing.
func stored(t testing.TB, ctx context.Context, id string) (*memcache.Item, *entity) {
	t.Helper()
	it, err := memcache.Get(ctx, "session."+id)
	if err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
		t.Fatal(err)
	}
	e := &entity{}
	err = datastore.Get(ctx, datastore.NewKey(ctx, "Session", "session."+id, 0, nil), e)
	if errors.Is(err, datastore.ErrNoSuchEntity) {
		return it, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return it, e
}

func putEntity(t testing.TB, ctx context.Context, id string, e *entity) {
	t.Helper()
	if _, err := datastore.Put(ctx, datastore.NewKey(ctx, "Session", "session."+id, 0, nil), e); err != nil {
		t.Fatal(err)
	}
}

func TestSessionsAreStoredInTheFormOfTheOriginal(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		b := a.login(t, values{"n": 0})
		id := idIn(t, a, b.cookie())
		check := func(when string, want values) {
			t.Helper()
			it, e := stored(t, s.Context(), id)
			if it == nil || e == nil {
				t.Fatalf("%s: got item %v, entity %v", when, it, e)
			}
			for name, b := range map[string][]byte{"item": it.Value, "entity": e.Value} {
				var got values
				if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&got); err != nil || got["n"] != want["n"] {
					t.Errorf("%s: %s: got %v, %v; want %v", when, name, got, err, want)
				}
			}
			// A tenth of the 30 days is added.
			if d := time.Until(e.ExpiresAt); d < 30*24*time.Hour || d > 33*24*time.Hour {
				t.Errorf("%s: expires in %v, want 33 days at most", when, d)
			}
		}
		check("login", values{"n": 0})
		b.mustChange(t, values{"n": 1})
		check("change", values{"n": 1})
		b.mustLogout(t)
		// An hour longer than the session would have lived.
		expectEmptied(t, s, id, 33*24*time.Hour+time.Hour)
	})
}

func TestTheEmptiedRecordOfAShortSessionStaysForADay(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		a.store.SetMaxAge(600)
		b := a.login(t, values{"n": 0})
		id := idIn(t, a, b.cookie())
		b.mustLogout(t)
		expectEmptied(t, s, id, 24*time.Hour)
	})
}

// expectEmptied fails the test unless the session's entity says for that long
// that the session was removed.
func expectEmptied(t testing.TB, s *gaetest.Service, id string, want time.Duration) {
	t.Helper()
	_, e := stored(t, s.Context(), id)
	if e == nil || len(e.Value) > 0 {
		t.Fatalf("got entity %+v, want an empty one", e)
	}
	if d := time.Until(e.ExpiresAt); d > want || d < want-time.Minute {
		t.Errorf("the empty entity expires in %v, want %v", d, want)
	}
}

func TestMaxAgeZeroMeansDefaultMaxAgeInTheServices(t *testing.T) {
	for _, test := range []struct {
		set  int
		want time.Duration
	}{
		{cascadestore.DefaultMaxAgeSeconds, 20 * time.Minute},
		{600, 10 * time.Minute},
		{0, 20 * time.Minute},
	} {
		a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
		a.store.SetMaxAge(0)
		a.store.DefaultMaxAge = test.set
		b := a.login(t, values{"n": 0})
		_, e := stored(t, a.Service.Context(), idIn(t, a, b.cookie()))
		if d := time.Until(e.ExpiresAt); math.Abs(float64(d-test.want*11/10)) > float64(time.Minute) {
			t.Errorf("DefaultMaxAge %d: expires in %v, want %v and a tenth", test.set, d, test.want)
		}
	}
}

func TestAMaxAgeHoweverLongEndsNoSessionEarly(t *testing.T) {
	const year = 365 * 24 * 3600
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, maxAge := range []int{year, 7 * year, 60 * year, math.MaxInt} {
			b := a.newBrowser()
			var id string
			err := b.use(func(_ *http.Request, s *sessions.Session) {
				s.Options.MaxAge = maxAge
				s.Values["n"] = 0
				id = s.ID
			})
			if err != nil {
				t.Errorf("MaxAge %d: %v", maxAge, err)
			}
			b.setCookie(sign(t, a.store.Codecs[0], sessionName, id)) // http.Cookie knows no such times
			b.expectNow(t, fmt.Sprintf("MaxAge %d", maxAge), values{"n": 0})
			b.expect(t, backends, values{"n": 0})
		}
	})
}

func TestKeyPrefixesKeepSessionsApart(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	a.store.SetKeyPrefix("other.")
	b := a.login(t, values{"n": 0})
	id := idIn(t, a, b.cookie())
	if it, err := memcache.Get(a.Service.Context(), "other."+id); err != nil {
		t.Errorf("got %v, %v; want an item", it, err)
	}
	a.store.SetKeyPrefix("session.")
	b.expectNow(t, "with another prefix", nil)
}

func TestJSONSerializer(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		a.store.SetSerializer(cascadestore.JSONSerializer{})
		b := a.login(t, values{"n": 1.5, "list": []any{"a"}})
		b.expect(t, backends, values{"n": 1.5, "list": []any{"a"}})
		err := b.use(func(_ *http.Request, s *sessions.Session) {
			b.clone().mustChange(t, values{"theirs": "x"})
			s.Values["list"].([]any)[0] = "b"
			s.AddFlash("hello")
		})
		if err != nil {
			t.Error(err)
		}
		b.expect(t, backends, values{"n": 1.5, "list": []any{"b"}, "theirs": "x", "_flash": []any{"hello"}})
		v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
			b.with(r, func(s *sessions.Session) error {
				s.Values[1] = "one"
				if err := s.Save(r, w); err == nil {
					t.Error("a key that is no string was saved")
				}
				return nil
			})
		})
		if c := v.Response.Cookies(); len(c) > 0 {
			t.Errorf("got cookies %v, want none", c)
		}
	})
}

func TestSerializersReadAndWriteTheOriginalsBytes(t *testing.T) {
	s := sessions.NewSession(nil, "x")
	s.Values["n"] = "v"
	b, err := cascadestore.JSONSerializer{}.Serialize(s)
	if err != nil || !json.Valid(b) || string(b) != `{"n":"v"}` {
		t.Errorf("got %s, %v", b, err)
	}
	empty := &sessions.Session{}
	if err := (cascadestore.JSONSerializer{}).Deserialize(b, empty); err != nil || empty.Values["n"] != "v" {
		t.Errorf("got %v, %v", empty.Values, err)
	}
	if err := (cascadestore.JSONSerializer{}).Deserialize([]byte("no JSON"), empty); err == nil {
		t.Error("no error for what is no JSON")
	}
	empty = &sessions.Session{}
	if err := (cascadestore.GobSerializer{}).Deserialize(gobOf(t, values{"n": "v"}), empty); err != nil || empty.Values["n"] != "v" {
		t.Errorf("got %v, %v", empty.Values, err)
	}
	if err := (cascadestore.GobSerializer{}).Deserialize([]byte("no gob"), empty); err == nil {
		t.Error("no error for what is no gob")
	}
}
