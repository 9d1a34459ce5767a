package gaesession_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

// What a visitor sends as an id, and what the app itself keeps under such a key.

// putItem stores an item of the app's own in Memcache.
func putItem(t *testing.T, s *gaetest.Service, key string, value []byte) {
	t.Helper()
	if err := memcache.Set(s.Context(), &memcache.Item{Key: key, Value: value}); err != nil {
		t.Fatal(err)
	}
}

// forged is an item that has the form of icza/gaesession's sessions.
func forged(t *testing.T, id string) []byte {
	t.Helper()
	sess := session.NewSessionOptions(&session.SessOptions{CAttrs: attrs{"user": "admin"}, Attrs: attrs{"n": 1}})
	b, err := memcache.Gob.Marshal(sess)
	if err != nil {
		t.Fatal(err)
	}
	if len(id) != len(sess.ID()) {
		t.Fatalf("an id of %d bytes, want %d", len(id), len(sess.ID()))
	}
	return bytes.Replace(b, []byte(sess.ID()), []byte(id), 1)
}

func hasEntity(t *testing.T, s *gaetest.Service, id string) bool {
	t.Helper()
	var e gaesession.SessEntity
	err := datastore.Get(s.Context(), datastore.NewKey(s.Context(), "sess_", id, 0, nil), &e)
	if err != nil && !errors.Is(err, datastore.ErrNoSuchEntity) {
		t.Fatal(err)
	}
	return err == nil
}

func TestRemoveIDLeavesTheAppsItemsAlone(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		const page = "page:/news"
		putItem(t, s, page, []byte("<html>"))
		if err := gaesession.RemoveID(s.Context(), page, nil); err == nil {
			t.Error("got no error: the item may be a session that this instance cannot decode")
		}
		if it, err := memcache.Get(s.Context(), page); err != nil || string(it.Value) != "<html>" {
			t.Errorf("the app's item is now %+v, %v", it, err)
		}
		if hasEntity(t, s, page) {
			t.Error("an entity was made")
		}
	})
}

func TestRemoveIDWritesNothingWhereNoSessionIs(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := session.NewSession().ID()
		r := newRequest(s, o)
		if err := gaesession.RemoveID(r.Context(), id, &o); err != nil {
			t.Error(err)
		}
		for _, c := range r.Calls() {
			if c.Method != "Get" {
				t.Errorf("made call %v", c)
			}
		}
	})
}

// An item that looks like a session of icza/gaesession may be bytes that a visitor
// has made the app cache.
func TestAnItemThatLooksLikeAnOldSessionIsSavedWhenItIsChanged(t *testing.T) {
	const id = "comment:1234567890123456"
	for name, mode := range map[string]options{
		"read":                    {},
		"read, asynchronous":      {AsyncDatastoreSave: true},
		"used":                    {RefreshInterval: -1},
		"used, asynchronous":      {RefreshInterval: -1, AsyncDatastoreSave: true},
		"used, Datastore is down": {RefreshInterval: -1, Retries: 1},
	} {
		t.Run(name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
				o := mode
				putItem(t, s, id, forged(t, id))
				var hooks []gaetest.Hook
				if strings.Contains(name, "down") {
					hooks = append(hooks, gaetest.Fail(gaetest.Datastore))
				}
				r := newRequest(s, o, hooks...)
				sess := r.Get(id)
				if sess == nil {
					t.Fatal("no session:", r.errs.all())
				}
				r.Close()
				drain(t)
				if err := r.errs.all(); err != nil && hooks == nil {
					t.Error(err)
				}
				expectAttrs(t, "by the next request", read(t, s, o, id), attrs{"n": 1})
				drain(t)
				if hasEntity(t, s, id) {
					t.Fatal("Datastore has what was only read")
				}
				r = newRequest(s, o)
				sess = r.Get(id)
				r.Close() // nothing was changed yet
				sess.SetAttr("n", 2)
				r.Close()
				drain(t)
				if err := r.errs.all(); err != nil {
					t.Error(err)
				}
				expectSession(t, s, o, id, attrs{"n": 2})
			})
		})
	}
}

// A session that icza/gaesession has saved in both services is one, and its next
// use is saved.
func TestTheUseOfAnOldSessionIsSaved(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, async := range []bool{false, true} {
			o := options{RefreshInterval: -1, AsyncDatastoreSave: async}
			id := withOld(t, s, oldlib.Options{}, "", func(sess session.Session) { sess.SetAttr("n", 1) })
			var before, after gaesession.SessEntity
			key := datastore.NewKey(s.Context(), "sess_", id, 0, nil)
			if err := datastore.Get(s.Context(), key, &before); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
			expectAttrs(t, "before", read(t, s, o, id), attrs{"n": 1})
			drain(t)
			if err := datastore.Get(s.Context(), key, &after); err != nil || !after.Expires.After(before.Expires) {
				t.Errorf("asynchronous: %t: expires at %v, %v; want later than %v", async, after.Expires, err, before.Expires)
			}
			expectSession(t, s, o, id, attrs{"n": 1})
		}
	})
}

func TestNoPartOfAnIDIsReported(t *testing.T) {
	s := gaetest.Local(t)
	sess := session.NewSession()
	id := sess.ID()
	r := newRequest(s, options{Retries: 1}, gaetest.Hook{Before: func(context.Context, gaetest.Call) error {
		return fmt.Errorf("bad key %s...", id[:16])
	}})
	r.Add(sess)
	r.Close()
	text := fmt.Sprint(r.errs.list())
	if len(r.errs.list()) == 0 {
		t.Error("nothing was reported")
	}
	for i := 0; i+8 <= len(id); i++ {
		if strings.Contains(text, id[i:i+8]) {
			t.Fatalf("a part of the id is in %q", text)
		}
	}
}

func TestVisitorsDoNotFillTheLog(t *testing.T) {
	s := gaetest.Local(t)
	putItem(t, s, "page:/log", []byte("<html>"))
	putItem(t, s, "of-another-session:00000", forged(t, "comment:1234567890123456"))
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)
	for range 50 {
		for _, id := range []string{"page:/log", "of-another-session:00000"} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.AddCookie(&http.Cookie{Name: "sessid", Value: id})
			m := session.NewCookieManager(gaesession.NewMemcacheStore(s.NewRequest().Context()))
			if m.Get(r) != nil {
				t.Fatal("got a session")
			}
			m.Close()
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n > 1 {
		t.Errorf("100 requests of a visitor made %d records, want one at most", n)
	}
	log.Reset()
	for range 3 {
		store := gaesession.NewMemcacheStore(s.NewRequest(gaetest.Fail(func(gaetest.Call) bool { return true })).Context())
		store.Get("unknown")
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 3 {
		t.Errorf("3 failures of the services made %d records, want 3", n)
	}
}

// An item of 250 bytes may claim to have millions of attributes, for which gob
// would make room.
func TestASmallItemAllocatesLittle(t *testing.T) {
	s := gaetest.Local(t)
	sess := session.NewSessionOptions(&session.SessOptions{CAttrs: attrs{"NNNN": 1}})
	b, err := memcache.Gob.Marshal(sess)
	if err != nil {
		t.Fatal(err)
	}
	claims := claiming(t, b, 2_000_000)
	putItem(t, s, sess.ID(), claims)
	r := newRequest(s, options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if r.Get(sess.ID()) != nil {
		t.Error("got a session")
	}
	r.Close()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("an item of %d bytes made a load allocate %d MiB", len(claims), n>>20)
	}
}

// claiming makes the map with the attribute NNNN, in the last message of a gob
// stream, claim to have n elements.
func claiming(t *testing.T, stream []byte, n uint64) []byte {
	t.Helper()
	const one = "\x01\x01\x04NNNN" // the distance of the field, one element, its name
	var claims []byte
	for len(stream) > 0 {
		length, size := gobUint(stream)
		message := stream[size : size+int(length)]
		stream = stream[size+int(length):]
		if i := bytes.Index(message, []byte(one)); i >= 0 {
			message = slices.Concat(message[:i+1], appendGobUint(nil, n), message[i+2:])
		} else if len(stream) == 0 {
			t.Fatal("gob has another form now")
		}
		claims = append(appendGobUint(claims, uint64(len(message))), message...)
	}
	return claims
}

// gobUint reads a number as gob writes it: a small one is one byte, others follow
// the negative number of their bytes.
func gobUint(b []byte) (x uint64, size int) {
	if b[0] <= 0x7f {
		return uint64(b[0]), 1
	}
	n := int(-int8(b[0]))
	for _, digit := range b[1 : 1+n] {
		x = x<<8 | uint64(digit)
	}
	return x, 1 + n
}

func appendGobUint(b []byte, x uint64) []byte {
	if x <= 0x7f {
		return append(b, byte(x))
	}
	digits := bytes.TrimLeft(binary.BigEndian.AppendUint64(nil, x), "\x00")
	return append(append(b, byte(-len(digits))), digits...)
}

func TestNoCookieFillsTheLogThroughSessions(t *testing.T) {
	site := newSite(t, &gaesession.Sessions{})
	site.login(attrs{"n": 0})
	hashed := site.cookie()
	site.sessions.Options.OnError = nil // the default
	s := site.service
	putItem(t, s, "page:/log", []byte("<html>"))
	putItem(t, s, "nothing", []byte{})
	putItem(t, s, "of-another-session:00000", forged(t, "comment:1234567890123456"))
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)
	for i := range 4 {
		for _, id := range []string{
			"page:/log", "nothing", "of-another-session:00000", "unknown", "h.unknown", "h:" + hashed, "owner:ada", "", " ", "%00",
			strings.Repeat("x", 251), strings.Repeat("h.", 3000), hashed[:len(hashed)-1], hashed + "x", strings.ToUpper(hashed),
			"page:/log; sessid=nothing; sessid=of-another-session:00000; sessid=unknown",
		} {
			r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(s.NewRequest().Context())
			r.Header.Set("Cookie", "sessid="+id)
			site.sessions.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				var sess session.Session
				switch i {
				case 0:
					sess, _ = site.sessions.Get(r) // the app answers for the error
				case 1:
					sess = site.sessions.Manager(r).Get(r)
				case 2:
					site.sessions.Manager(r).Add(session.NewSession(), nil)
				case 3:
					_ = site.sessions.RegenerateID(r)
				}
				if sess != nil {
					t.Errorf("cookie %q has a session", id)
				}
			})).ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n > 1 {
		t.Errorf("a visitor made %d records, want one at most: %s", n, log.String())
	}
}
