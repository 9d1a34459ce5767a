package gaesession_test

import (
	"context"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// What icza/gaesession v2 exports, by name and type.
var (
	_ func(context.Context) session.Store                                   = gaesession.NewMemcacheStore
	_ func(context.Context, *gaesession.MemcacheStoreOptions) session.Store = gaesession.NewMemcacheStoreOptions
	_ func(string) http.HandlerFunc                                         = gaesession.PurgeExpiredSessFromDSFunc
	_                                                                       = gaesession.MemcacheStoreOptions{KeyPrefix: "", Retries: 0, Codec: (*memcache.Codec)(nil), OnlyMemcache: false, AsyncDatastoreSave: false, DSEntityName: ""}
	_                                                                       = gaesession.SessEntity{Expires: time.Time{}, Value: []byte(nil)}
)

func TestSessEntityHasThePropertiesOfIczaGaesession(t *testing.T) {
	typ := reflect.TypeOf(gaesession.SessEntity{})
	for name, tag := range map[string]string{"Expires": "exp", "Value": "val"} {
		f, ok := typ.FieldByName(name)
		if got := f.Tag.Get("datastore"); !ok || got != tag {
			t.Errorf("field %s: got property %q, want %q", name, got, tag)
		}
	}
}

// saveAsIcza saves a session as icza/gaesession does: memcache.Gob of it under
// prefix and id, with its timeout as expiration, and an entity of the same bytes.
func saveAsIcza(t *testing.T, ctx context.Context, prefix, kind string, sess session.Session) {
	t.Helper()
	if err := memcache.Gob.Set(ctx, &memcache.Item{Key: prefix + sess.ID(), Object: sess, Expiration: sess.Timeout()}); err != nil {
		t.Fatal(err)
	}
	value, err := memcache.Gob.Marshal(sess)
	if err != nil {
		t.Fatal(err)
	}
	key := datastore.NewKey(ctx, kind, sess.ID(), 0, nil)
	e := gaesession.SessEntity{Expires: sess.Accessed().Add(sess.Timeout()), Value: value}
	if _, err := datastore.Put(ctx, key, &e); err != nil {
		t.Fatal(err)
	}
}

func TestSessionsOfIczaGaesessionGoOn(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, o := range []options{{}, {KeyPrefix: "app:", DSEntityName: "MySession"}} {
			for _, evicted := range []bool{false, true} {
				kind := "sess_"
				if o.DSEntityName != "" {
					kind = o.DSEntityName
				}
				sess := session.NewSessionOptions(&session.SessOptions{
					CAttrs: attrs{"user": "ann"}, Attrs: attrs{"n": 1}, Timeout: time.Hour,
				})
				saveAsIcza(t, s.Context(), o.KeyPrefix, kind, sess)
				if evicted {
					s.Flush()
				}
				r := newRequest(s, o)
				got := r.Get(sess.ID())
				if got == nil {
					t.Fatalf("evicted=%v: no session: %v", evicted, r.errs.all())
				}
				if got.CAttr("user") != "ann" || got.Attr("n") != 1 || got.Timeout() != time.Hour || !got.Created().Equal(sess.Created()) {
					t.Errorf("evicted=%v: got %v %v %v %v", evicted, got.CAttr("user"), got.Attr("n"), got.Timeout(), got.Created())
				}
				got.SetAttr("n", 2)
				r.Close()
				if err := r.errs.all(); err != nil {
					t.Error(err)
				}
				expectSession(t, s, o, sess.ID(), attrs{"n": 2})
			}
		}
	})
}

func TestIczaGaesessionReadsOurSessions(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{KeyPrefix: "app:"}
		id := login(t, s, o, attrs{"n": 1})
		for _, saved := range []string{"by create", "by update", "by refill"} {
			fromMemcache := session.NewSession()
			item, err := memcache.Gob.Get(s.Context(), "app:"+id, fromMemcache)
			if err != nil {
				t.Fatalf("%s: %v", saved, err)
			}
			var e gaesession.SessEntity
			if err := datastore.Get(s.Context(), datastore.NewKey(s.Context(), "sess_", id, 0, nil), &e); err != nil {
				t.Fatalf("%s: %v", saved, err)
			}
			fromDatastore := session.NewSession()
			if err := memcache.Gob.Unmarshal(e.Value, fromDatastore); err != nil {
				t.Fatalf("%s: %v", saved, err)
			}
			for where, sess := range map[string]session.Session{"Memcache": fromMemcache, "Datastore": fromDatastore} {
				if sess.ID() != id || sess.Attr("n") != 1 || item.Flags != 0 {
					t.Errorf("%s, from %s: got id %t, n %v, flags %d", saved, where, sess.ID() == id, sess.Attr("n"), item.Flags)
				}
			}
			if left := time.Until(e.Expires); left < 32*time.Minute || left > 33*time.Minute {
				t.Errorf("%s: expires in %v, want 33m: the timeout and a tenth", saved, left)
			}
			switch saved {
			case "by create":
				change(t, s, o, id, attrs{"m": 1})
			case "by update":
				s.Flush()
				read(t, s, o, id)
			}
		}
	})
}

// icza/gaesession's asynchronous save is often lost on App Engine, so that
// Datastore holds an older session than Memcache.
func TestASessionThatIczaGaesessionDidNotBackUpKeepsWhatMemcacheHolds(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx := s.Context()
		sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"n": 1, "gone": true}})
		saveAsIcza(t, ctx, "", "sess_", sess)
		// Ten minutes earlier, by hand: the session has no way to say so.
		old := agedEntity(t, sess, 10*time.Minute)
		if _, err := datastore.Put(ctx, datastore.NewKey(ctx, "sess_", sess.ID(), 0, nil), &old); err != nil {
			t.Fatal(err)
		}
		sess.SetAttr("n", 5)
		sess.SetAttr("gone", nil)
		if err := memcache.Gob.Set(ctx, &memcache.Item{Key: sess.ID(), Object: sess, Expiration: sess.Timeout()}); err != nil {
			t.Fatal(err)
		}
		change(t, s, options{}, sess.ID(), attrs{"m": 1})
		expectSession(t, s, options{}, sess.ID(), attrs{"n": 5, "m": 1})
	})
}

// agedEntity is sess as an entity, last used that long ago.
func agedEntity(t *testing.T, sess session.Session, ago time.Duration) gaesession.SessEntity {
	t.Helper()
	// The field is unexported to the language, not to reflection: it is what gob
	// and json set.
	aged := reflect.New(reflect.TypeOf(sess).Elem())
	aged.Elem().Set(reflect.ValueOf(sess).Elem())
	then := sess.Accessed().Add(-ago)
	aged.Elem().FieldByName("AccessedF").Set(reflect.ValueOf(then))
	value, err := memcache.Gob.Marshal(aged.Interface())
	if err != nil {
		t.Fatal(err)
	}
	return gaesession.SessEntity{Expires: then.Add(sess.Timeout()), Value: value}
}
