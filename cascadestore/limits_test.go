package cascadestore_test

import (
	"encoding/gob"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

// Limits, settings, the environment, and what may go wrong in the app.

func text(size int) string { return strings.Repeat("x", size) }

func TestASessionThatIsTooBigIsAnErrorAndLeavesWhatWasSaved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		for name, test := range map[string]struct{ maxLength, size int }{
			"by default":   {cascadestore.MaxValueLength, 4096},
			"as set":       {10000, 10000},
			"for services": {0, 1 << 20},
		} {
			a.store.SetMaxLength(test.maxLength)
			var err error
			v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
				b.with(r, func(s *sessions.Session) error {
					s.Values["big"] = text(test.size)
					err = s.Save(r, w)
					return nil
				})
			})
			if !errors.Is(err, cascadestore.ErrValueTooBig) {
				t.Errorf("%s: got %v, want ErrValueTooBig", name, err)
			}
			if len(v.Response.Cookies()) > 0 {
				t.Errorf("%s: a cookie was written", name)
			}
			b.expect(t, backends, values{"n": 0})
		}
		a.store.SetMaxLength(8192)
		a.store.SetMaxLength(-1) // ignored
		b.mustChange(t, values{"big": text(8000)})
		a.store.SetMaxLength(0)
		b.mustChange(t, values{"big": text(500000)})
		b.expect(t, backends, values{"n": 0, "big": text(500000)})
	})
}

// A manifold is made of more types than gobstream takes.
type manifold [][][][][][][][][][][][][][][][][][]int

func init() { gob.Register(manifold{}) }

func TestASessionOfTypesThatCannotBeReadIsTooBig(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	a.store.SetMaxLength(0)
	b := a.login(t, values{"n": 0})
	if err := b.change(values{"more": manifold{}}); !errors.Is(err, cascadestore.ErrValueTooBig) {
		t.Errorf("got %v, want ErrValueTooBig", err)
	}
	b.expectNow(t, "afterwards", values{"n": 0})
}

// The limit is that of what one request saves.
func TestWhatSeveralRequestsSaveMayBeLongerTogether(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		err := b.use(func(_ *http.Request, s *sessions.Session) {
			b.clone().mustChange(t, values{"theirs": text(3000)})
			s.Values["mine"] = text(3000)
		})
		if err != nil {
			t.Error(err)
		}
		b.expect(t, backends, values{"n": 0, "theirs": text(3000), "mine": text(3000)})
		if err := b.change(values{"more": 1}); !errors.Is(err, cascadestore.ErrValueTooBig) {
			t.Errorf("a session that grows: got %v, want ErrValueTooBig", err)
		}
		b.mustChange(t, values{"n": 1})
		b.mustChange(t, values{"theirs": nil})
		b.mustChange(t, values{"more": 1})
		b.expect(t, backends, values{"n": 1, "mine": text(3000), "more": 1})
	})
}

func TestASessionTooBigForMemcacheLivesInDatastore(t *testing.T) {
	t.Setenv(cascadestore.CkMaxMemcacheSessionSizeBytes, "1000")
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		id := idIn(t, a, b.cookie())
		inMemcache := func(when string, want bool) {
			t.Helper()
			it, _ := stored(t, a.Service.Context(), id)
			const lease = 1 // nobody's, for a minute: it is in the place of a value
			if got := it != nil && it.Flags != lease; got != want {
				t.Errorf("%s: in Memcache: %v", when, got)
			}
		}
		inMemcache("small", true)
		b.mustChange(t, values{"big": text(2000)})
		inMemcache("big", false)
		b.expect(t, backends, values{"n": 0, "big": text(2000)})
		inMemcache("big, read", false)
		b.mustChange(t, values{"big": text(10)})
		b.expect(t, backends, values{"n": 0, "big": text(10)})
		inMemcache("small again, read after a flush", true)
		b.mustChange(t, values{"big": text(3000)})
		inMemcache("big again", false)
		b.mustLogout(t)
	})
	t.Run("Memcache alone", func(t *testing.T) {
		a := newApp(t, gaetest.Local(t), cascadestore.MemcacheBackend)
		if err := a.newBrowser().change(values{"big": text(2000)}); !errors.Is(err, cascadestore.ErrValueTooBig) {
			t.Errorf("got %v, want ErrValueTooBig", err)
		}
	})
}

func TestAnEnvironmentThatMakesNoSenseIsAnErrorOfEveryMethod(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{cascadestore.CkMaxMemcacheSessionSizeBytes, "1 MiB", "number of bytes"},
		{cascadestore.CkMaxMemcacheSessionSizeBytes, "99999999999999999999", "number of bytes"},
		{cascadestore.CkDoDisplayLogging, "maybe", "true or false"},
	} {
		t.Run(test.name+"="+test.value, func(t *testing.T) {
			t.Setenv(test.name, test.value)
			log := captureDefaultLog(t)
			cs := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, hashKey)
			expectUnusable(t, cs, test.name, test.value, test.want)
			if out := log.String(); !strings.Contains(out, test.name) || !strings.Contains(out, "stack") {
				t.Errorf("logged %q, want the error with a stack trace", out)
			}
		})
	}
	for _, value := range []string{"", "0", "-1", "1048576"} {
		t.Setenv(cascadestore.CkMaxMemcacheSessionSizeBytes, value)
		if err := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, hashKey).Err(); err != nil {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestAStoreNeedsAKnownBackend(t *testing.T) {
	captureDefaultLog(t)
	for _, backends := range []int{0, 8, -1} {
		expectUnusable(t, cascadestore.NewCascadeStore(backends, hashKey), "backend")
	}
	expectUnusable(t, &cascadestore.CascadeStore{}, "NewCascadeStore")
}

func expectUnusable(t testing.TB, cs *cascadestore.CascadeStore, want ...string) {
	t.Helper()
	r := newRequest(gaetest.Local(t))
	one, getErr := cs.Get(r, "one")
	two, newErr := cs.New(r, "two")
	if one == nil || two == nil {
		t.Fatal("got no session beside the error")
	}
	for name, err := range map[string]error{
		"Err": cs.Err(), "Get": getErr, "New": newErr,
		"Save": one.Save(r, httptest.NewRecorder()), "RegenerateID": cs.RegenerateID(r, two),
	} {
		for _, want := range want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want an error about %s", name, err, want)
			}
		}
	}
}

// otherCodec is a codec that securecookie does not know.
type otherCodec struct{ securecookie.Codec }

func TestSetMaxAgeSetsTheStoresOptions(t *testing.T) {
	cs := newStore(t, cascadestore.DistributedBackends)
	cs.Codecs = append(cs.Codecs, otherCodec{cs.Codecs[0]})
	cs.SetMaxAge(60)
	if cs.Options.MaxAge != 60 {
		t.Errorf("got MaxAge %d, want 60", cs.Options.MaxAge)
	}
	cs.Options = nil
	cs.SetMaxAge(-1)
	if cs.Options == nil || cs.Options.MaxAge != -1 {
		t.Errorf("got options %v, want MaxAge -1", cs.Options)
	}
}

func TestAnAppMayPassNothing(t *testing.T) {
	cs := newStore(t, cascadestore.DistributedBackends)
	cs.Options = nil
	cs.SetSerializer(nil)
	r := newRequest(gaetest.Local(t))
	s, err := cs.Get(r, sessionName)
	if err != nil || s.Options.Path != "/" {
		t.Errorf("no options: got %+v, %v", s.Options, err)
	}
	s.Options = nil
	if err := s.Save(r, httptest.NewRecorder()); err != nil {
		t.Errorf("session without options: %v", err)
	}
	if err := cs.Save(r, httptest.NewRecorder(), nil); err == nil {
		t.Error("no error for no session")
	}
	if err := cs.RegenerateID(r, nil); err == nil {
		t.Error("no error for no session")
	}
	s.Options = nil
	if err := cs.RegenerateID(r, s); err != nil {
		t.Errorf("session without options: %v", err)
	}
}

func TestAPrefixThatMakesMalformedKeysIsAnError(t *testing.T) {
	for _, prefix := range []string{text(250), "a\x00b", "\xff"} {
		a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
		b := a.login(t, values{"n": 0})
		a.store.SetKeyPrefix(prefix)
		v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
			s, err := a.store.Get(r, sessionName)
			if err != nil || !s.IsNew {
				t.Errorf("got new=%v, %v; want a new session", s.IsNew, err)
			}
			if err := s.Save(r, w); err == nil {
				t.Error("no error for a malformed key")
			}
		})
		if calls := v.Request.Calls(); len(calls) > 0 {
			t.Errorf("got calls %v, want none", calls)
		}
	}
}

// panicking is a serializer that panics.
type panicking struct{}

func (panicking) Serialize(*sessions.Session) ([]byte, error) { panic("serialize") }
func (panicking) Deserialize([]byte, *sessions.Session) error { panic("deserialize") }

func TestAPanicOfTheSerializerIsAnError(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	b := a.login(t, values{"n": 0})
	a.store.SetSerializer(panicking{})
	b.Visit(func(w http.ResponseWriter, r *http.Request) {
		s, err := a.store.Get(r, sessionName)
		if err == nil || !s.IsNew {
			t.Errorf("Get: got new=%v, %v; want a new session and an error", s.IsNew, err)
		}
		if err := s.Save(r, w); err == nil {
			t.Error("Save: no error")
		}
	})
}

func TestChangesInPlaceAreNoticed(t *testing.T) {
	changes := map[string]struct {
		value  any
		change func(v any)
	}{
		"list":        {[]any{1, 2}, func(v any) { v.([]any)[0] = 3 }},
		"bytes":       {[]byte("abc"), func(v any) { v.([]byte)[0] = 'x' }},
		"map in list": {[]any{[]any{1}}, func(v any) { v.([]any)[0].([]any)[0] = 2 }},
	}
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for name, c := range changes {
			b := a.login(t, values{"v": c.value})
			v := b.save(nil)
			for _, call := range v.Request.Calls() {
				if call.Method != "Get" {
					t.Errorf("%s, unchanged: got call %v", name, call)
				}
			}
			err := b.use(func(_ *http.Request, s *sessions.Session) { c.change(s.Values["v"]) })
			if err != nil {
				t.Error(err)
			}
			var want sessions.Session
			if err := (cascadestore.GobSerializer{}).Deserialize(gobOf(t, values{"v": c.value}), &want); err != nil {
				t.Fatal(err)
			}
			c.change(want.Values["v"])
			b.expect(t, backends, want.Values)
		}
	})
}

func TestKeysThatCannotBeUsedAreErrorsOfEveryMethod(t *testing.T) {
	captureDefaultLog(t)
	long := make([]byte, 32)
	for name, test := range map[string]struct {
		keys [][]byte
		want string
	}{
		"no key":                    {nil, "no authentication key"},
		"empty authentication key":  {[][]byte{{}}, "no authentication key"},
		"empty older key":           {[][]byte{long, nil, {}, long}, "no authentication key"},
		"encryption key of 5 bytes": {[][]byte{long, long[:5]}, "key pair"},
	} {
		t.Run(name, func(t *testing.T) {
			expectUnusable(t, cascadestore.NewCascadeStore(cascadestore.DistributedBackends, test.keys...), test.want)
			expectUnusable(t, cascadestore.NewTieredStore(tier.None, gae.Datastore{}, test.keys...), test.want)
		})
	}
	for _, keys := range [][][]byte{{long}, {long, nil}, {long, long, make([]byte, 64), long[:16]}} {
		if err := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, keys...).Err(); err != nil {
			t.Errorf("keys of %d bytes and more: %v", len(keys[0]), err)
		}
	}
}
