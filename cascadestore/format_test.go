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
	"github.com/gaesession/gaesession/internal/gaetest"
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
		if _, e := stored(t, s.Context(), id); e == nil || len(e.Value) > 0 || time.Until(e.ExpiresAt) > 24*time.Hour {
			t.Errorf("logout: got entity %+v, want an empty one for a day", e)
		}
	})
}

func TestSessionsOfTheOriginalGoOn(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		ctx := s.Context()
		for name, cached := range map[string]bool{"in both": true, "in Datastore": false} {
			t.Run(name, func(t *testing.T) {
				id := "ORIGINAL" + map[bool]string{true: "A", false: "B"}[cached]
				value := gobOf(t, values{"n": 0, 1: "one"})
				putEntity(t, ctx, id, &entity{value, time.Now().Add(time.Hour)})
				if cached {
					if err := memcache.Set(ctx, &memcache.Item{Key: "session." + id, Value: value, Expiration: time.Hour}); err != nil {
						t.Fatal(err)
					}
				}
				b := a.newBrowser()
				b.setCookie(sign(t, a.store.Codecs[0], sessionName, id))
				b.expectNow(t, "as the original left it", values{"n": 0, 1: "one"})
				b.mustChange(t, values{"n": 1})
				b.expect(t, cascadestore.DistributedBackends, values{"n": 1, 1: "one"})
				if idIn(t, a, b.cookie()) != id {
					t.Error("the session has another id")
				}
			})
		}
		t.Run("expired", func(t *testing.T) {
			putEntity(t, ctx, "EXPIRED", &entity{gobOf(t, values{"n": 0}), time.Now().Add(-time.Second)})
			b := a.newBrowser()
			b.setCookie(sign(t, a.store.Codecs[0], sessionName, "EXPIRED"))
			b.expectNow(t, "expired", nil)
		})
	})
}

func TestADamagedValueIsAnErrorAndGivesANewSession(t *testing.T) {
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		putEntity(t, a.service.Context(), "DAMAGED", &entity{[]byte("no gob"), time.Now().Add(time.Hour)})
		b := a.newBrowser()
		b.setCookie(sign(t, a.store.Codecs[0], sessionName, "DAMAGED"))
		b.visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err == nil || !s.IsNew || s.ID == "DAMAGED" {
				t.Errorf("got new=%v, %v; want a new session and an error", s.IsNew, err)
			}
			s.Values["n"] = 1
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
		})
		b.expect(t, backends, values{"n": 1})
	})
}

// age makes the services believe that a session was saved that long ago.
func age(t testing.TB, ctx context.Context, id string, by time.Duration) {
	t.Helper()
	it, e := stored(t, ctx, id)
	if e != nil {
		e.ExpiresAt = e.ExpiresAt.Add(-by)
		putEntity(t, ctx, id, e)
	}
	if it != nil {
		it.Flags -= uint32(by/time.Second) << 4
		if err := memcache.Set(ctx, it); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheExpiryIsWrittenAgainAfterATenthOfMaxAge(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		ctx := a.service.Context()
		const maxAge = 10000 // a slow machine takes a part of the tenth
		login := func() *browser {
			b := a.newBrowser()
			err := b.use(func(_ *http.Request, s *sessions.Session) { s.Options.MaxAge = maxAge; s.Values["n"] = 0 })
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		// A visit that changes nothing, and its calls beside that of the load.
		visit := func(b *browser, maxAge int, evicted bool) int {
			if evicted {
				a.service.Flush()
			}
			v := b.visit(func(w http.ResponseWriter, r *http.Request) {
				b.with(r, func(s *sessions.Session) error {
					s.Options.MaxAge = maxAge
					return s.Save(r, w)
				})
			})
			if len(v.response.Cookies()) != 1 {
				t.Error("no cookie was written")
			}
			if backends&durable == 0 {
				return len(v.request.Calls()) - 1
			}
			n := 0
			for _, c := range v.request.Calls() {
				if c.Method == "Commit" {
					n++
				}
			}
			return n
		}
		for _, evicted := range []bool{false, true} {
			if evicted && backends&cascadestore.DistributedBackends != cascadestore.DistributedBackends {
				continue
			}
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
				{"MaxAge was lowered", 0, maxAge / 2, true},
			} {
				b := login()
				id := idIn(t, a, b.cookie())
				age(t, ctx, id, test.age)
				if n := visit(b, test.maxAge, evicted); n > 0 != test.writes {
					t.Errorf("evicted=%v, %s: written %v, want %v", evicted, test.name, n > 0, test.writes)
				}
				if n := visit(b, test.maxAge, evicted); n > 0 {
					t.Errorf("evicted=%v, %s: written again by the next visit", evicted, test.name)
				}
				if _, e := stored(t, ctx, id); e != nil {
					least := time.Duration(test.maxAge) * time.Second
					if d := time.Until(e.ExpiresAt); d < least-time.Second || d > least*11/10 {
						t.Errorf("evicted=%v, %s: expires in %v, want %v or a tenth more", evicted, test.name, d, least)
					}
				}
				b.expect(t, backends, values{"n": 0})
			}
		}
	})
}

func TestASessionEndsInMemcacheToo(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.MemcacheBackend)
	b := a.login(t, values{"n": 0})
	age(t, a.service.Context(), idIn(t, a, b.cookie()), 34*24*time.Hour)
	b.expectNow(t, "past its expiry", nil)
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
		_, e := stored(t, a.service.Context(), idIn(t, a, b.cookie()))
		if d := time.Until(e.ExpiresAt); math.Abs(float64(d-test.want*11/10)) > float64(time.Minute) {
			t.Errorf("DefaultMaxAge %d: expires in %v, want %v and a tenth", test.set, d, test.want)
		}
	}
}

func TestAMaxAgeHoweverLongEndsNoSessionEarly(t *testing.T) {
	const year = 365 * 24 * 3600
	// What Memcache's flags tell apart: with the tenth that is added it is half
	// of 2²⁸ seconds.
	const told = 1 << 27 * 10 / 11
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, maxAge := range []int{told - 3600, told - 1, told, told + 1, 7 * year, 60 * year, math.MaxInt} {
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
	if it, err := memcache.Get(a.service.Context(), "other."+id); err != nil {
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
		v := b.visit(func(w http.ResponseWriter, r *http.Request) {
			b.with(r, func(s *sessions.Session) error {
				s.Values[1] = "one"
				if err := s.Save(r, w); err == nil {
					t.Error("a key that is no string was saved")
				}
				return nil
			})
		})
		if c := v.response.Cookies(); len(c) > 0 {
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
