package cascadestore_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

// What is stored and cannot be read: because it is damaged, or because another
// version of the app has written it.

// older is the serializer of an instance that does not know a type which newer
// ones write.
type older struct{ cascadestore.GobSerializer }

var errUnknownType = errors.New("type is not registered")

func (older) Deserialize(d []byte, s *sessions.Session) error {
	if bytes.Contains(d, []byte("of a new type")) {
		return errUnknownType
	}
	return cascadestore.GobSerializer{}.Deserialize(d, s)
}

// newerAndOlder runs f with a browser whose session instances like older cannot
// decode. It was saved by this package, or by the original one.
func newerAndOlder(t *testing.T, f func(t *testing.T, newer, older *browser, backends int)) {
	values := values{"v": "of a new type"}
	for _, original := range []bool{false, true} {
		t.Run(map[bool]string{true: "saved by the original", false: "saved by cascadestore"}[original], func(t *testing.T) {
			onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
				b := a.newBrowser()
				if original {
					const id = "OF-THE-ORIGINAL"
					old := oldlib.Cascade{OnlyMemcache: backends&durable == 0}
					if err := old.Save(a.Service.Context(), id, values); err != nil {
						t.Fatal(err)
					}
					if backends&cascadestore.MemcacheBackend == 0 {
						a.Service.Flush()
					}
					b.setCookie(sign(t, a.store.Codecs[0], sessionName, id))
				} else {
					b.mustChange(t, values)
				}
				store := newStore(t, backends)
				store.Codecs = a.store.Codecs
				store.Logger = new(logBuffer).logger()
				store.SetSerializer(older{})
				other := newAppWith(t, a.Service, store).newBrowser()
				other.setCookie(b.cookie())
				f(t, b, other, backends)
			})
		})
	}
}

// unreadable is Get of a session that cannot be decoded.
func (b *browser) unreadable(t testing.TB, r *http.Request) *sessions.Session {
	t.Helper()
	s, err := b.app.store.Get(r, sessionName)
	if !errors.Is(err, errUnknownType) || !s.IsNew || s.ID == "" || len(s.Values) > 0 {
		t.Errorf("got new=%v, values %v, %v; want a new session and the serializer's error", s.IsNew, s.Values, err)
	}
	return s
}

func TestALogoutEndsASessionThatCannotBeDecoded(t *testing.T) {
	newerAndOlder(t, func(t *testing.T, newer, older *browser, backends int) {
		newer.expectNow(t, "before", values{"v": "of a new type"})
		older.Visit(func(w http.ResponseWriter, r *http.Request) {
			s := older.unreadable(t, r)
			s.Options.MaxAge = -1
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
		})
		if older.cookie() != "" {
			t.Error("the browser still has a cookie")
		}
		newer.expect(t, backends, nil)
	})
}

func TestASessionThatCannotBeDecodedIsNotReplaced(t *testing.T) {
	newerAndOlder(t, func(t *testing.T, newer, older *browser, backends int) {
		v := older.Visit(func(w http.ResponseWriter, r *http.Request) {
			s := older.unreadable(t, r)
			s.Values["n"] = 1
			for range 2 {
				if err := s.Save(r, w); !errors.Is(err, cascadestore.ErrUndecodable) {
					t.Errorf("Save: got %v, want ErrUndecodable", err)
				}
				if err := older.app.store.RegenerateID(r, s); !errors.Is(err, cascadestore.ErrUndecodable) {
					t.Errorf("RegenerateID: got %v, want ErrUndecodable", err)
				}
			}
		})
		if c := v.Response.Cookies(); len(c) > 0 {
			t.Errorf("got cookies %v, want none", c)
		}
		newer.expect(t, backends, values{"v": "of a new type"})
	})
}

func TestADamagedEntityCanBeRemoved(t *testing.T) {
	onEach(t, durable, func(t *testing.T, a *app, backends int) {
		putEntity(t, a.Service.Context(), "DAMAGED", &entity{[]byte("no gob"), time.Now().Add(time.Hour)})
		b := a.newBrowser()
		b.setCookie(sign(t, a.store.Codecs[0], sessionName, "DAMAGED"))
		old := b.clone()
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if !errors.Is(err, cascadestore.ErrUndecodable) || !s.IsNew {
				t.Errorf("got new=%v, %v; want a new session and ErrUndecodable", s.IsNew, err)
			}
			s.Options.MaxAge = -1
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
		})
		if b.cookie() != "" {
			t.Error("the browser still has a cookie")
		}
		old.expect(t, backends, nil)
	})
}

func TestADamagedItemHidesNoEntity(t *testing.T) {
	damages := map[string]func(it *memcache.Item){
		"other flags": func(it *memcache.Item) { it.Flags = 7 },
		"no value":    func(it *memcache.Item) { it.Value = []byte{} },
		"a bit":       func(it *memcache.Item) { it.Value[5] ^= 1 },
	}
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		for name, damage := range damages {
			log := &logBuffer{}
			a.store.Logger = log.logger()
			b := a.login(t, values{"n": 0, "text": text(100)})
			id := idIn(t, a, b.cookie())
			it, _ := stored(t, a.Service.Context(), id)
			damage(it)
			if err := memcache.Set(a.Service.Context(), it); err != nil {
				t.Fatal(err)
			}
			if got, err := b.read(); err != nil || got["n"] != 0 {
				t.Errorf("%s: got %v, %v; want the session", name, got, err)
			}
			if out := log.String(); !strings.Contains(out, "level=ERROR") || strings.Contains(out, id) {
				t.Errorf("%s: logged %q, want an error", name, out)
			}
			// The item is replaced.
			if v := b.get(); len(v.Request.Calls()) != 1 {
				t.Errorf("%s: the next read makes calls %v, want one", name, v.Request.Calls())
			}
			b.mustChange(t, values{"n": 1})
			b.expect(t, backends, values{"n": 1, "text": text(100)})
		}
	})
}

// It may be a session of the original package that a newer version of the app has
// saved.
func TestAnItemThatCannotBeDecodedStaysAndHidesNoEntity(t *testing.T) {
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		log := &logBuffer{}
		a.store.Logger = log.logger()
		b := a.login(t, values{"n": 0})
		it, _ := stored(t, a.Service.Context(), idIn(t, a, b.cookie()))
		it.Value = it.Value[:5]
		if err := memcache.Set(a.Service.Context(), it); err != nil {
			t.Fatal(err)
		}
		b.expectNow(t, "before", values{"n": 0})
		if out := log.String(); !strings.Contains(out, "level=ERROR") {
			t.Errorf("logged %q, want an error", out)
		}
		if err := b.change(values{"n": 1}); !errors.Is(err, cascadestore.ErrNotPublished) {
			t.Errorf("got %v, want ErrNotPublished", err)
		}
		drain(t)
		if it, _ := stored(t, a.Service.Context(), idIn(t, a, b.cookie())); len(it.Value) != 5 {
			t.Error("the item was replaced")
		}
		b.expect(t, backends, values{"n": 1})
	})
}

func TestIDsAreRejectedByTheServiceThatDoesNotTakeThem(t *testing.T) {
	const id = "__x__." // not for Datastore, which has __x__ under it
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		a.store.SetKeyPrefix("")
		a.store.Logger = new(logBuffer).logger()
		b := a.newBrowser()
		err := b.use(func(_ *http.Request, s *sessions.Session) { s.ID, s.Values["n"] = id, 1 })
		if backends&durable == 0 {
			if err != nil {
				t.Error(err)
			}
			b.expectNow(t, "Memcache", values{"n": 1})
			return
		}
		if err == nil || b.cookie() != "" {
			t.Errorf("got %v and cookie %q, want an error and no cookie", err, b.cookie())
		}
		b.setCookie(sign(t, a.store.Codecs[0], sessionName, id))
		if v := b.get(); len(v.Request.Calls()) > 0 {
			t.Errorf("got calls %v, want none", v.Request.Calls())
		}
	})
}
