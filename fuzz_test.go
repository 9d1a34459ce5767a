package gaesession_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Whatever comes from outside, or lies in the services: nothing panics, what
// goes wrong is reported, and what the fuzzer makes up is never a session of
// somebody else.

func FuzzSessionID(f *testing.F) {
	for _, id := range []string{"", "a", "a\x00b", "\xff", "__id__", "../../etc", "ä€😀", string(make([]byte, 300)), "Zm9vYmFyYmF6cXV4cXV1eA=="} {
		f.Add(id, "prefix:")
	}
	s := gaetest.Local(f)
	f.Fuzz(func(t *testing.T, id, prefix string) {
		r := newRequest(s, options{KeyPrefix: prefix})
		if r.Get(id) != nil {
			t.Errorf("got a session for %q", id)
		}
		got := r.Get(id)
		r.Close()
		reading := len(r.Calls())
		err := r.errs.all()
		removing := gaesession.RemoveID(r.Context(), id, &options{KeyPrefix: prefix})
		invalid := errors.Is(removing, gaesession.ErrInvalidID)
		if got != nil || err != nil || removing != nil && !invalid || invalid != (reading == 0) || invalid != (len(r.Calls()) == 0) {
			t.Errorf("id %q, prefix %q: got errors %v, %v and calls %v", id, prefix, err, removing, r.Calls())
		}
	})
}

// encodedSession is a session as it is stored.
func encodedSession(t testing.TB, sess session.Session) []byte {
	t.Helper()
	value, err := memcache.Gob.Marshal(sess)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func FuzzStoredItem(f *testing.F) {
	sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"n": 0}})
	id, good := sess.ID(), encodedSession(f, sess)
	for mode := range uint8(3) {
		for flags := range uint32(5) {
			f.Add(mode, flags, good)
			f.Add(mode, flags, []byte{})
			f.Add(mode, flags, []byte("\x01\x02\x03\x04\x05\x06\x07\x08"))
			f.Add(mode, flags, append([]byte{1, 1, 2, 3, 4, 5, 6, 7, 8, 0}, good...))
			f.Add(mode, flags, append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0}, good...))
			f.Add(mode, flags, []byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
		}
	}
	s := gaetest.Local(f)
	key := datastore.NewKey(s.Context(), "sess_", id, 0, nil)
	// One mode at a time: a change waits two seconds for the owner of a lock that
	// somebody else has made up, and an input may take ten.
	f.Fuzz(func(t *testing.T, mode uint8, flags uint32, value []byte) {
		e := gaesession.SessEntity{Expires: time.Now().Add(time.Hour), Value: good}
		if _, err := datastore.Put(s.Context(), key, &e); err != nil {
			t.Fatal(err)
		}
		if err := memcache.Set(s.Context(), &memcache.Item{Key: id, Flags: flags, Value: value}); err != nil {
			return // larger than Memcache takes
		}
		o := modes[int(mode)%len(modes)].o
		o.Retries = 1
		r := newRequest(s, o)
		sess := r.Get(id)
		if sess != nil {
			if sess.ID() != id {
				t.Fatalf("got a session with id %q", sess.ID())
			}
			sess.SetAttr("changed", true)
		}
		r.Close()
		drain(t)
		if err := r.errs.all(); sess == nil || err != nil {
			return
		}
		again := newRequest(s, o)
		if sess := again.Get(id); sess == nil || sess.Attr("changed") != true {
			t.Errorf("a change that was saved is not there: %v", again.errs.all())
		}
	})
}

func FuzzStoredEntity(f *testing.F) {
	sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"n": 0}})
	id, good := sess.ID(), encodedSession(f, sess)
	f.Add(good, int64(time.Hour), "val", "exp")
	f.Add(good, -int64(time.Hour), "val", "exp")
	f.Add(good[:len(good)/2], int64(time.Hour), "val", "exp")
	f.Add([]byte{}, int64(time.Hour), "val", "exp")
	f.Add(good, int64(time.Hour), "value", "exp")
	f.Add(good, int64(time.Hour), "exp", "val")
	f.Add(encodedSession(f, session.NewSession()), int64(time.Hour), "val", "exp")
	s := gaetest.Local(f)
	key := datastore.NewKey(s.Context(), "sess_", id, 0, nil)
	f.Fuzz(func(t *testing.T, value []byte, expiresIn int64, valueName, expiresName string) {
		if err := memcache.Delete(s.Context(), id); err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
			t.Fatal(err)
		}
		e := datastore.PropertyList{
			{Name: valueName, Value: value, NoIndex: true},
			{Name: expiresName, Value: time.Now().Add(time.Duration(expiresIn))},
		}
		if _, err := datastore.Put(s.Context(), key, &e); err != nil {
			return // not an entity
		}
		for range 2 {
			r := newRequest(s, options{Retries: 1})
			sess := r.Get(id)
			if sess != nil && sess.ID() != id {
				t.Fatalf("got a session with id %q", sess.ID())
			}
			r.Close()
			if _, damaged := decodes(value); sess == nil && damaged && valueName == "val" && expiresName == "exp" &&
				expiresIn > int64(time.Minute) && len(value) > 0 && r.errs.all() == nil {
				t.Error("a damaged session was not reported")
			}
		}
	})
}

// decodes tells whether plain gob takes value for a session.
func decodes(value []byte) (sess session.Session, damaged bool) {
	sess = session.NewSession()
	return sess, memcache.Gob.Unmarshal(value, sess) != nil
}

func FuzzPurgeRequest(f *testing.F) {
	f.Add("GET", "/purge", "X-Appengine-Cron", "true", false)
	f.Add("POST", "/purge?x=y", "X-Appengine-Cron", "false", true)
	f.Add("get", "//", "x-appengine-cron", "true", true)
	s := gaetest.Local(f)
	handler := gaesession.PurgeExpiredSessFromDSFunc("fuzzed")
	f.Fuzz(func(t *testing.T, method, target, name, value string, onAppEngine bool) {
		if onAppEngine {
			t.Setenv("GAE_ENV", "standard")
		}
		req := (&http.Request{Method: method, Header: http.Header{}, RequestURI: target}).WithContext(context.WithoutCancel(s.Context()))
		req.Header.Set(name, value)
		w := httptest.NewRecorder()
		handler(w, req)
		want := http.StatusOK
		switch {
		case method != "GET" && method != "POST":
			want = http.StatusMethodNotAllowed
		case onAppEngine && req.Header.Get("X-Appengine-Cron") != "true":
			want = http.StatusForbidden
		}
		if w.Code != want {
			t.Errorf("got status %d, want %d", w.Code, want)
		}
	})
}
