package scsstore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/scsstore"
)

// What scs asks of a store, and documents of its manager.

func text(size int) string { return strings.Repeat("x", size) }

// later is an expiry that no test reaches.
func later() time.Time { return time.Now().Add(time.Hour) }

func encoded(t testing.TB, deadline time.Time, v values) []byte {
	t.Helper()
	b, err := scs.GobCodec{}.Encode(deadline, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// changed is an encoded session with one value more.
func changed(t testing.TB, b []byte) []byte {
	t.Helper()
	deadline, v, err := scs.GobCodec{}.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	v["changed"] = true
	return encoded(t, deadline, v)
}

func (a *app) putItem(t testing.TB, key, value string) {
	t.Helper()
	if err := memcache.Set(a.Context(), &memcache.Item{Key: key, Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

func (a *app) item(t testing.TB, key string) string {
	t.Helper()
	it, err := memcache.Get(a.Context(), key)
	if err != nil {
		t.Error(err)
		return ""
	}
	return string(it.Value)
}

// On the store itself: with the context of one request, and with one for each call.
func TestAStoreFindsWhatWasCommittedAndNotWhatWasDeleted(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		one := a.Service.NewRequest().Context()
		var inHandler context.Context
		a.newBrowser().use(func(ctx context.Context) { inHandler = context.WithoutCancel(ctx) })
		for name, ctx := range map[string]func() context.Context{
			"one context":        func() context.Context { return one },
			"a context a call":   func() context.Context { return a.Service.NewRequest().Context() },
			"that of a request":  func() context.Context { return inHandler },
			"App Engine's alone": a.Service.Context,
		} {
			token := "token " + name
			find := func(want []byte) {
				t.Helper()
				b, found, err := a.store.FindCtx(ctx(), token)
				if err != nil || found != (want != nil) || !bytes.Equal(b, want) {
					t.Errorf("%s: got %d bytes, %v, %v; want %d", name, len(b), found, err, len(want))
				}
			}
			commit := func(b []byte, expiry time.Time) {
				t.Helper()
				if err := a.store.CommitCtx(ctx(), token, b, expiry); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			find(nil)
			if err := a.store.DeleteCtx(ctx(), token); err != nil {
				t.Errorf("%s: deleting what is not there: %v", name, err)
			}
			first := encoded(t, later(), values{"key1": "value1"})
			commit(first, later())
			find(first)
			second := encoded(t, later(), values{"key2": "value2"})
			commit(second, later())
			find(second)
			if err := a.store.DeleteCtx(ctx(), token); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			find(nil)

			token = "expired " + name
			past := time.Now().Add(-time.Minute)
			commit(encoded(t, past, values{"key1": "value1"}), past)
			find(nil)
		}
	})
}

func TestTheMethodsWithoutAContextSayWhichToUse(t *testing.T) {
	s := scsstore.New(nil, nil, nil)
	_, found, err := s.Find("x")
	for _, err := range []error{err, s.Commit("x", nil, later()), s.Delete("x")} {
		if found || err == nil || !strings.Contains(err.Error(), "Ctx") {
			t.Errorf("got %v, want an error that names the methods with a context", err)
		}
	}
	if _, iterates := any(s).(interface {
		AllCtx(context.Context) (map[string][]byte, error)
	}); iterates {
		t.Error("the store hands out everybody's tokens")
	}
}

// A user is a value of the app's own type, which it changes in place.
type user struct {
	Name  string
	Roles []string
}

func init() {
	gob.Register(&user{})
	gob.Register(time.Time{})
}

func TestValuesKeepTheirTypesAndChangesInsideOfThemAreSaved(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		at := time.Now().Round(0).UTC()
		b := a.login(t, values{
			"int": 1, "string": "s", "bool": true, "bytes": []byte("b"), "float": 1.5, "time": at, "user": &user{Name: "ann"}})
		b.use(func(ctx context.Context) {
			u := a.manager.Get(ctx, "user").(*user)
			u.Roles = append(u.Roles, "admin")
			a.manager.Put(ctx, "user", u)
		})
		b.expect(t, values{
			"int": 1, "string": "s", "bool": true, "bytes": []byte("b"), "float": 1.5, "time": at,
			"user": &user{Name: "ann", Roles: []string{"admin"}}})
		b.use(func(ctx context.Context) {
			if n := a.manager.PopInt(ctx, "int"); n != 1 {
				t.Errorf("popped %d", n)
			}
			if err := a.manager.Clear(ctx); err != nil {
				t.Error(err)
			}
			a.manager.Put(ctx, "again", 1)
		})
		b.expect(t, values{"again": 1})
		b.use(func(ctx context.Context) {
			if err := a.manager.Clear(ctx); err != nil {
				t.Error(err)
			}
		})
		b.expect(t, values{})
		b.mustChange(t, values{"n": 1})
		b.expect(t, values{"n": 1})
	})
}

func TestARenewedTokenLeavesNothingUnderTheOldOne(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		err := b.use(func(ctx context.Context) {
			if err := a.manager.RenewToken(ctx); err != nil {
				t.Error(err)
			}
			a.manager.Put(ctx, "user", "ann")
		}).err
		if err != nil || b.token() == old.token() {
			t.Errorf("got %v, and a new token: %v", err, b.token() != old.token())
		}
		b.expect(t, values{"n": 0, "user": "ann"})
		old.expect(t, nil)
		b.mustChange(t, values{"n": 1})
		b.expect(t, values{"n": 1, "user": "ann"})
	})
}

func TestASessionOfTheSameRequestFollowsADestroyedOne(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		old := b.clone()
		err := b.use(func(ctx context.Context) {
			if err := a.manager.Destroy(ctx); err != nil {
				t.Error(err)
			}
			a.manager.Put(ctx, "flash", "bye")
		}).err
		if err != nil || b.token() == old.token() {
			t.Errorf("got %v, and a new token: %v", err, b.token() != old.token())
		}
		b.expect(t, values{"flash": "bye"})
		old.expect(t, nil)
		// A visitor without a session has none to destroy.
		if err := a.newBrowser().logout(); err != nil {
			t.Error(err)
		}
	})
}

func TestMergeSessionTakesOverAnotherSession(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		one, two := a.login(t, values{"n": 1, "one": 1}), a.login(t, values{"n": 2, "two": 2})
		err := one.use(func(ctx context.Context) {
			for _, token := range []string{one.token(), two.token(), "unknown"} {
				if err := a.manager.MergeSession(ctx, token); err != nil {
					t.Error(err)
				}
			}
		}).err
		if err != nil {
			t.Error(err)
		}
		one.expect(t, values{"n": 2, "one": 1, "two": 2})
		two.expect(t, nil)
	})
}

func TestSeveralCommitsOfOneRequestStartFromTheOneBefore(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0, "list": []byte{1}})
		err := b.use(func(ctx context.Context) {
			a.set(ctx, values{"n": 1, "list": []byte{2}, "short": "lived"})
			if _, _, err := a.manager.Commit(ctx); err != nil {
				t.Error(err)
			}
			if !a.plain {
				b.clone().mustChange(t, values{"theirs": 1})
			}
			// Back to what was loaded: a change all the same.
			a.set(ctx, values{"n": 0, "list": []byte{1}, "short": nil})
		}).err
		if err != nil {
			t.Error(err)
		}
		want := values{"n": 0, "list": []byte{1}}
		if !a.plain {
			want["theirs"] = 1
		}
		b.expect(t, want)
	})
}

func TestTheServicesAreNotToldAHashedToken(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		a.manager.HashTokenInStore = true
		b := a.login(t, values{"n": 0})
		b.mustChange(t, values{"n": 1})
		b.expect(t, values{"n": 1})
		a.manager.HashTokenInStore = false
		b.expectNow(t, "under the token itself", nil)
		a.manager.HashTokenInStore = true
		err := b.use(func(ctx context.Context) {
			b.clone().mustChange(t, values{"theirs": 1})
			a.manager.Put(ctx, "mine", 1)
		}).err
		want := values{"n": 1, "theirs": 1, "mine": 1}
		if a.plain {
			delete(want, "theirs")
		}
		b.expectNow(t, "after a change", want)
		old := b.clone()
		if err = errors.Join(err, b.logout(), a.newBrowser().logout()); err != nil {
			t.Error(err)
		}
		old.expect(t, nil)
	})
}

// A jsonCodec is one of the app's own. Its times have no more than seconds.
type jsonCodec struct{}

type jsonSession struct {
	Deadline int64
	Values   values
}

func (jsonCodec) Encode(deadline time.Time, v map[string]any) ([]byte, error) {
	return json.Marshal(jsonSession{deadline.Unix(), v})
}

func (jsonCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	var s jsonSession
	err := json.Unmarshal(b, &s)
	return time.Unix(s.Deadline, 0), s.Values, err
}

func TestAnyCodecWillDo(t *testing.T) {
	for name, plain := range map[string]bool{"Handler": false, "LoadAndSave": true} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, gaetest.Local(t), nil)
			a.plain = plain
			if plain { // Handler goes by the manager
				a.use(scsstore.New(nil, nil, &scsstore.Options{Codec: jsonCodec{}}))
			}
			a.manager.Codec = jsonCodec{}
			b := a.login(t, values{"n": "0"})
			v := b.use(func(ctx context.Context) {
				if !plain {
					b.clone().mustChange(t, values{"theirs": "1"})
				}
				a.manager.Put(ctx, "mine", "1")
			})
			want := values{"n": "0", "mine": "1", "theirs": "1"}
			if plain {
				delete(want, "theirs")
			}
			if v.err != nil {
				t.Error(v.err)
			}
			b.expect(t, want)
		})
	}
}

// A failingCodec panics, or fails, when it decodes for the store.
type failingCodec struct{ scs.GobCodec }

var errCodecOfTheApp = errors.New("the app's codec")

func (failingCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	if bytes.Contains(b, []byte("panic")) {
		panic("the app's codec")
	}
	return time.Time{}, nil, errCodecOfTheApp
}

func TestACodecThatFailsOrPanicsIsAnError(t *testing.T) {
	a := newApp(t, gaetest.Local(t), nil)
	a.use(scsstore.New(nil, nil, &scsstore.Options{Codec: failingCodec{}}))
	for _, what := range []string{"panic", "fails"} {
		ctx := a.Service.NewRequest().Context()
		err := a.store.CommitCtx(ctx, "token", encoded(t, later(), values{what: 1}), later())
		if err == nil || what == "fails" && !errors.Is(err, errCodecOfTheApp) {
			t.Errorf("%s: got %v, want an error", what, err)
		}
	}
}

// A strictCodec cannot decode sessions that hold something.
type strictCodec struct{ scs.GobCodec }

func (c strictCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	if bytes.Contains(b, []byte("unknown")) {
		return time.Time{}, nil, errCodecOfTheApp
	}
	return c.GobCodec.Decode(b)
}

func TestWhatCannotBeDecodedIsNotOverwritten(t *testing.T) {
	a := newApp(t, gaetest.Local(t), nil)
	b := a.login(t, values{"unknown": 0})
	strict := scsstore.New(nil, nil, &scsstore.Options{Codec: strictCodec{}})
	err := strict.CommitCtx(a.Service.NewRequest().Context(), b.token(), encoded(t, later(), values{"n": 1}), later())
	if !errors.Is(err, errCodecOfTheApp) {
		t.Errorf("got %v, want the codec's error", err)
	}
	b.expect(t, values{"unknown": 0})
}

// An instance without a type that a session holds cannot change the session.
func TestASessionThatTheManagerCannotDecodeStaysAsItIs(t *testing.T) {
	a := newApp(t, gaetest.Local(t), nil)
	b := a.login(t, values{"n": 0})
	token := b.token()
	a.manager.Codec = failingCodec{}
	v := b.use(func(ctx context.Context) { t.Error("the app served the request") })
	if !errors.Is(v.err, errCodecOfTheApp) || len(v.Response.Cookies()) > 0 {
		t.Errorf("got %v, and cookies %v", v.err, v.Response.Cookies())
	}
	a.manager.Codec = scs.GobCodec{}
	if b.token() != token {
		t.Error("the cookie was replaced")
	}
	b.expect(t, values{"n": 0})
}

func TestRememberMeMakesOneCookiePersistent(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		a.manager.Cookie.Persist = false
		for _, remember := range []bool{false, true} {
			v := a.newBrowser().use(func(ctx context.Context) {
				a.manager.Put(ctx, "n", 1)
				a.manager.RememberMe(ctx, remember)
			})
			if v.err != nil {
				t.Error(v.err)
			}
			if c := v.Response.Cookies(); len(c) != 1 || (c[0].MaxAge > 0) != remember {
				t.Errorf("remember %v: got cookies %v", remember, c)
			}
		}
	})
}

// The session is saved before the first byte leaves, so that the next request sees
// it, whatever the handler writes.
func TestASessionIsSavedBeforeTheFirstByteLeaves(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		for name, write := range map[string]func(w http.ResponseWriter){
			"Write":       func(w http.ResponseWriter) { fmt.Fprint(w, "hello") },
			"WriteHeader": func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot) },
			"nothing":     func(http.ResponseWriter) {},
		} {
			b := a.newBrowser()
			v := b.visit(func(w http.ResponseWriter, r *http.Request) {
				a.manager.Put(r.Context(), "n", name)
				write(w)
			})
			if v.err != nil {
				t.Errorf("%s: %v", name, v.err)
			}
			b.expectNow(t, name, values{"n": name})
		}
	})
}

// However the middlewares are nested, no session is overwritten or ended by one that
// takes its token for a new one.
func TestHandlerMayBeNested(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		other := scs.New()
		other.Store, other.Cookie.Name = a.store, "other"
		for name, nest := range map[string]func(h http.Handler) http.Handler{
			"in itself":                    func(h http.Handler) http.Handler { return a.store.Handler(a.manager, a.store.Handler(a.manager, h)) },
			"in LoadAndSave":               func(h http.Handler) http.Handler { return a.manager.LoadAndSave(a.store.Handler(a.manager, h)) },
			"around LoadAndSave":           func(h http.Handler) http.Handler { return a.store.Handler(a.manager, a.manager.LoadAndSave(h)) },
			"in that of another manager":   func(h http.Handler) http.Handler { return a.store.Handler(other, a.store.Handler(a.manager, h)) },
			"around another manager's":     func(h http.Handler) http.Handler { return a.store.Handler(a.manager, a.store.Handler(other, h)) },
			"around another's LoadAndSave": func(h http.Handler) http.Handler { return a.store.Handler(a.manager, other.LoadAndSave(h)) },
		} {
			b := a.newBrowser()
			for n := range 3 {
				v := a.nested(b, nest(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					ctx := r.Context()
					if got := a.manager.GetInt(ctx, "n"); got != n {
						t.Errorf("%s: got %d, want %d", name, got, n)
					}
					a.manager.Put(ctx, "n", n+1)
					if _, _, err := a.manager.Commit(ctx); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})))
				if v.err != nil {
					t.Errorf("%s: %v", name, v.err)
				}
			}
			b.expect(t, values{"n": 3})

			a.nested(b, nest(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				b.clone().mustLogout(t)
				a.manager.Put(r.Context(), "n", 4)
				if _, _, err := a.manager.Commit(r.Context()); !errors.Is(err, scsstore.ErrRemoved) {
					t.Errorf("%s: a commit of a removed session: got %v", name, err)
				}
			})))
			b.expect(t, nil)
		}
	})
}

// The outer Handler's codec says what changes are.
func TestAnInnerHandlerOfAnotherCodecTellsItsErrorFunc(t *testing.T) {
	a := newApp(t, gaetest.Local(t), nil)
	other := scs.New()
	other.Store, other.Cookie.Name, other.Codec = a.store, "other", jsonCodec{}
	var got error
	other.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) {
		got = err
		http.Error(w, "error", http.StatusInternalServerError)
	}
	b := a.newBrowser()
	v := a.nested(b, a.store.Handler(a.manager, a.store.Handler(other, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		a.manager.Put(r.Context(), "n", 0)
		other.Put(r.Context(), "n", 1)
	}))))
	if got == nil || !strings.Contains(got.Error(), "codec") || v.err != nil {
		t.Errorf("the inner manager got %v, the outer one %v", got, v.err)
	}
	if v.Response.StatusCode != http.StatusInternalServerError || b.Cookie("other") != "" {
		t.Errorf("%v, cookie %q", v.Response.Status, b.Cookie("other"))
	}
	b.expect(t, values{"n": 0})
}

// nested has a browser make a request without the app's own middleware.
func (a *app) nested(b *browser, h http.Handler) *visit {
	v := &visit{app: a}
	v.Visit = b.Visit(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)))
	})
	return v
}

func TestTheOptionsAreCopied(t *testing.T) {
	o := scsstore.Options{}
	a := newApp(t, gaetest.Local(t), nil)
	a.use(scsstore.New(nil, nil, &o))
	o.KeyPrefix, o.Codec = "other.", jsonCodec{}
	if b := a.login(t, values{"n": 0}); !reflect.DeepEqual(o.KeyPrefix, "other.") {
		t.Error("the options were changed")
	} else {
		b.expect(t, values{"n": 0})
	}
}
