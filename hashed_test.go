package gaesession_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

// A wire is everything that requests have told services, traces and logs.
type wire struct {
	mu   sync.Mutex
	said bytes.Buffer
	n    int
}

func (w *wire) note(v ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	fmt.Fprintln(&w.said, v...)
}

// listen has the wire note all calls of requests.
func (w *wire) listen(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		ctx := appengine.WithAPICallFunc(r.Context(), func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
			for _, m := range []protoadapt.MessageV1{in, out} {
				b, err := proto.Marshal(protoadapt.MessageV2Of(m))
				if err != nil && m == in {
					return err
				}
				w.note(string(b))
			}
			err := appengine.APICall(ctx, service, method, in, out)
			b, merr := proto.Marshal(protoadapt.MessageV2Of(out))
			if merr == nil {
				w.note(string(b))
			}
			return err
		})
		next.ServeHTTP(rw, r.WithContext(ctx))
	})
}

// names reports whether the wire has told an id, or the random part of it.
func (w *wire) names(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	random := []byte(strings.TrimPrefix(id, "h."))
	for _, form := range [][]byte{random, []byte(hex.EncodeToString(random)), []byte(base64.StdEncoding.EncodeToString(random))} {
		if bytes.Contains(w.said.Bytes(), form) {
			return true
		}
	}
	return false
}

func TestNobodyIsToldAHashedID(t *testing.T) {
	for name, codec := range map[string]*memcache.Codec{
		"gob": nil, "JSON": {Marshal: json.Marshal, Unmarshal: json.Unmarshal},
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/plain=%v", name, plain), func(t *testing.T) {
				var w wire
				o := options{Codec: codec, Trace: &tier.Trace{
					Call:   func(_ context.Context, c tier.Call) { w.note(c) },
					Loaded: func(_ context.Context, l tier.Load) { w.note(l) },
					Saved:  func(_ context.Context, c tier.Save) { w.note(c) },
				}}
				s := newSite(t, &gaesession.Sessions{Options: o, PlainIDs: plain}, func(s *site) { s.around = w.listen })
				onError := s.sessions.Options.OnError
				s.sessions.Options.OnError = func(ctx context.Context, err error) {
					w.note(err)
					onError(ctx, err)
				}
				ids := map[string]bool{}
				step := func(handle http.HandlerFunc, hooks ...gaetest.Hook) {
					s.visit(func(rw http.ResponseWriter, r *http.Request) {
						handle(rw, r)
						if sess, err := s.sessions.Get(r); err != nil {
							w.note(err)
						} else if sess != nil {
							ids[sess.ID()] = true
						}
					}, hooks...)
					if c := s.cookie(); c != "" {
						ids[c] = true
					}
				}
				s.login(attrs{"n": 0})
				step(s.set("n", 1))
				step(s.set("list", []any{"a"}))
				step(s.set("n", 2), gaetest.Fail(gaetest.Datastore))
				step(s.set("n", 3), gaetest.Fail(func(c gaetest.Call) bool { return gaetest.Memcache(c) && writes(c) }))
				step(s.set("n", 4), gaetest.Fail(writes))
				step(func(http.ResponseWriter, *http.Request) {}, gaetest.Fail(anyCall))
				step(s.set("n", func() {}))
				step(s.set("n", strings.Repeat("x", 2<<20)))
				s.service.Flush()
				step(s.set("n", 5))
				step(func(rw http.ResponseWriter, r *http.Request) { s.must(s.sessions.RegenerateID(r)) })
				step(func(rw http.ResponseWriter, r *http.Request) {
					sess := s.get(r)
					s.visit(s.set("m", 1))
					s.must(s.sessions.RegenerateID(r))
					sess.SetAttr("user", "ada")
				})
				step(func(rw http.ResponseWriter, r *http.Request) {
					s.must(gaesession.RemoveID(r.Context(), s.get(r).ID(), &s.sessions.Options))
				})
				drain(t)
				if w.n < 50 || len(ids) < 3 {
					t.Errorf("%d notes of %d ids: the test listens to nothing", w.n, len(ids))
				}
				for id := range ids {
					if told := w.names(id); told != plain {
						t.Errorf("id %s was told: %v", id, told)
					}
				}
			})
		}
	}
}

func TestHashedIDsAreThoseOfPlainStoresToo(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	s.login(attrs{"n": 0})
	id := s.cookie()
	o := options{}
	change(t, s.service, o, id, attrs{"n": 1})
	s.expect(attrs{"n": 1})
	r := newRequest(s.service, o)
	sess := r.Get(id)
	if sess == nil || sess.ID() != id {
		t.Fatalf("the store has %v", sess)
	}
	moved, err := gaesession.RegenerateID(r.Store, sess)
	if err != nil || !strings.HasPrefix(moved.ID(), "h.") {
		t.Fatalf("RegenerateID: %v, %v", moved, err)
	}
	r.Close()
	s.setCookie(moved.ID())
	s.expect(attrs{"n": 1})
	logout(t, s.service, o, moved.ID())
	s.expect(nil)
	s.login(attrs{"n": 2})
	if err := gaesession.RemoveID(s.service.Context(), s.cookie(), &o); err != nil {
		t.Error(err)
	}
	s.expect(nil)
	s.expectErrors()
}

func TestKeyOfAHashedIDIsNoID(t *testing.T) {
	var w wire
	s := newSite(t, &gaesession.Sessions{}, func(s *site) { s.around = w.listen })
	s.login(attrs{"n": 0})
	sum := sha256.Sum256([]byte(s.cookie()))
	key := "h:" + base64.RawURLEncoding.EncodeToString(sum[:])
	if !bytes.Contains(w.said.Bytes(), []byte(key)) {
		t.Fatal("the session has another key")
	}
	if sess := newRequest(s.service, options{}).Get(key); sess != nil {
		t.Error("a store takes the key for an id")
	}
	if err := gaesession.RemoveID(s.service.Context(), key, nil); !errors.Is(err, gaesession.ErrInvalidID) {
		t.Errorf("RemoveID of the key: %v", err)
	}
	id := s.cookie()
	s.setCookie(key)
	if a := s.attrs(); a != nil || s.calls() > 0 {
		t.Errorf("the key opens the session %v", a)
	}
	s.setCookie(id)
	s.expect(attrs{"n": 0})
}

func TestRegenerateIDOfAPlainStoreMovesTheSessionWhenItIsClosed(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"page": "home"})
		r := newRequest(s, o)
		old := r.Get(id)
		change(t, s, o, id, attrs{"basket": "apple"})
		sess, err := gaesession.RegenerateID(r.Store, old)
		if err != nil || sess.ID() == id {
			t.Fatalf("RegenerateID: %v", err)
		}
		r.Add(sess) // as the manager does
		if r.Get(sess.ID()) != sess {
			t.Error("the store has no session under the new id")
		}
		sess.SetAttr("user", "ada")
		expectAttrs(t, "before Close", read(t, s, o, id), attrs{"page": "home", "basket": "apple"})
		r.Close()
		sess.SetAttr("later", 1)
		r.Close()
		if err := r.errs.all(); err != nil {
			t.Error(err)
		}
		expectSession(t, s, o, sess.ID(), attrs{"page": "home", "basket": "apple", "user": "ada", "later": 1})
		expectSession(t, s, o, id, nil)
	})
}

func TestRegenerateIDOfAPlainStoreNeedsASessionOfIt(t *testing.T) {
	s := gaetest.Local(t)
	r := newRequest(s, options{})
	for name, sess := range map[string]session.Session{"nil": nil, "unknown": session.NewSession()} {
		if _, err := gaesession.RegenerateID(r.Store, sess); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	id := login(t, s, options{}, attrs{"n": 0})
	removed := r.Get(id)
	r.Remove(removed)
	if _, err := gaesession.RegenerateID(r.Store, removed); !errors.Is(err, gaesession.ErrRemoved) {
		t.Errorf("removed: %v", err)
	}
	id = login(t, s, options{}, attrs{"n": 0})
	if _, err := gaesession.RegenerateID(r.Store, newRequest(s, options{}).Get(id)); !errors.Is(err, gaesession.ErrInvalidID) {
		t.Errorf("a session of another store: %v", err)
	}
	r.Get(id).SetAttr("n", 1)
	r.Close()
	expectSession(t, s, options{}, id, attrs{"n": 1})
	other := session.NewInMemStoreOptions(&session.InMemStoreOptions{Logger: session.NoopLogger})
	defer other.Close()
	if _, err := gaesession.RegenerateID(other, session.NewSession()); err == nil {
		t.Error("another store: no error")
	}
}
