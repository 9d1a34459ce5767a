package cascadestore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
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

func (w *wire) noteMessage(m protoadapt.MessageV1) {
	if b, err := proto.Marshal(protoadapt.MessageV2Of(m)); err == nil {
		w.note(string(b))
	}
}

func (w *wire) Write(p []byte) (int, error) {
	w.note(string(p))
	return len(p), nil
}

// listen has the wire note all calls of a request.
func (w *wire) listen(h http.HandlerFunc) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		h(rw, r.WithContext(appengine.WithAPICallFunc(r.Context(),
			func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
				w.noteMessage(in)
				err := appengine.APICall(ctx, service, method, in, out)
				w.noteMessage(out)
				return err
			})))
	}
}

// names reports whether the wire was told an id, or the random part of it.
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

// A telling serializer puts the id of a session into its bytes, and its errors.
type tellingSerializer struct{ cascadestore.GobSerializer }

func (s tellingSerializer) Serialize(session *sessions.Session) ([]byte, error) {
	if session.Values["bad"] != nil {
		return nil, fmt.Errorf("cannot serialize session %s", session.ID)
	}
	b, err := s.GobSerializer.Serialize(session)
	return append(b, session.ID...), err
}

func (s tellingSerializer) Deserialize(b []byte, session *sessions.Session) error {
	if err := s.GobSerializer.Deserialize(b, session); err != nil {
		return fmt.Errorf("session %s: %w", session.ID, err)
	}
	return nil
}

func TestNobodyIsToldAHashedID(t *testing.T) {
	t.Setenv(cascadestore.CkDoDisplayLogging, "true")
	for name, serializer := range map[string]cascadestore.SessionSerializer{
		"gob": cascadestore.GobSerializer{}, "a serializer that tells the id": tellingSerializer{},
	} {
		for _, hashed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/hashed=%v", name, hashed), func(t *testing.T) {
				var w wire
				a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
				a.store.HashIDs = hashed
				a.store.SetSerializer(serializer)
				a.store.Logger = slog.New(slog.NewTextHandler(&w, &slog.HandlerOptions{Level: slog.LevelDebug}))
				a.store.Trace = &tier.Trace{
					Call:   func(_ context.Context, c tier.Call) { w.note(c) },
					Loaded: func(_ context.Context, l tier.Load) { w.note(l) },
					Saved:  func(_ context.Context, c tier.Save) { w.note(c) },
				}
				b := a.newBrowser()
				ids := map[string]bool{}
				step := func(f func(r *http.Request, session *sessions.Session), hooks ...gaetest.Hook) {
					t.Helper()
					b.Visit(w.listen(a.store.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						session, err := a.store.Get(r, sessionName)
						if err != nil {
							w.note(err)
							return
						}
						f(r, session)
						if err := session.Save(r, rw); err != nil {
							w.note(err)
						}
						ids[session.ID] = true
					})).ServeHTTP), hooks...)
				}
				sets := func(v values) func(*http.Request, *sessions.Session) {
					return func(_ *http.Request, session *sessions.Session) { set(session, v) }
				}
				step(sets(values{"n": 0}))
				first := b.cookie()
				step(sets(values{"n": 1, "list": []string{"a"}}))
				step(sets(values{"n": 2}), gaetest.Fail(gaetest.Datastore))
				step(sets(values{"n": 3}), gaetest.Fail(func(c gaetest.Call) bool { return gaetest.Memcache(c) && isWrite(c) }))
				step(sets(values{"n": 4}), gaetest.Fail(isWrite))
				step(sets(values{"n": 5}), gaetest.Fail(anyCall))
				step(sets(values{"bad": struct{ X int }{1}}))
				step(sets(values{"n": text(10000)}))
				a.Flush()
				step(sets(values{"n": 6}))
				step(func(r *http.Request, session *sessions.Session) {
					b.clone().mustChange(t, values{"m": 1})
					session.Values["user"] = "ada"
					if err := a.store.RegenerateID(r, session); err != nil {
						t.Error(err)
					}
				})
				step(func(r *http.Request, session *sessions.Session) {
					b.clone().mustLogout(t)
					session.Values["n"] = 7
				})
				step(func(r *http.Request, session *sessions.Session) {})
				drain(t)
				if w.n < 50 || len(ids) < 3 {
					t.Errorf("%d notes of %d ids: the test listens to nothing", w.n, len(ids))
				}
				for id := range ids {
					if strings.HasPrefix(id, "h.") != hashed {
						t.Errorf("the session has the id %s", id)
					}
				}
				told := 0
				for id := range ids {
					if w.names(id) {
						told++
					}
					if hashed && strings.Contains(w.said.String(), hashOf(id)) {
						t.Errorf("%s names a session by a hash of its id, and not of its key", hashOf(id))
					}
				}
				if hashed && !strings.Contains(w.said.String(), hashOf(keyOf(idIn(t, a, first)))) {
					t.Error("nothing names the first session by a hash of its key")
				}
				if hashed && told > 0 || !hashed && told < 2 {
					t.Errorf("%d of %d ids were told", told, len(ids))
				}
			})
		}
	}
}

// keyOf is what the services know a session by whose id is hashed.
func keyOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "h:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// hashOf is what logs say instead of an id or a key.
func hashOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "#" + hex.EncodeToString(sum[:4])
}

// What an adapter of other services gets, as rediscache.
func TestOtherServicesAreNotToldAHashedID(t *testing.T) {
	var w wire
	store := cascadestore.NewTieredStore(listeningCache{tiertest.NewCache(), &w}, tiertest.NewBackup(), hashKey)
	store.HashIDs = true
	a := newAppWith(t, gaetest.Local(t), store)
	b := a.login(t, values{"n": 0})
	id := idIn(t, a, b.cookie())
	b.expectNow(t, "now", values{"n": 0})
	if key := keyOf(id); w.names(id) || !bytes.Contains(w.said.Bytes(), []byte(key)) {
		t.Errorf("the cache got %q, want the key %s", w.said.String(), key)
	}
}

// A listeningCache tells a wire what it is asked for.
type listeningCache struct {
	tier.Cache
	w *wire
}

func (c listeningCache) Get(ctx context.Context, id string) (*tier.Item, error) {
	c.w.note(id)
	return c.Cache.Get(ctx, id)
}

func TestHashIDsMayBeSwitchedOnAndOff(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		b := a.login(t, values{"n": 0})
		for i, hashed := range []bool{true, false, true} {
			before := idIn(t, a, b.cookie())
			a.store.HashIDs = hashed
			b.mustChange(t, values{"n": i})
			if id := idIn(t, a, b.cookie()); id != before {
				t.Error("the session has got another id by itself")
			}
			b.expect(t, cascadestore.DistributedBackends, values{"n": i})
			old := b.clone()
			if err := b.regenerate(values{"n": i}); err != nil {
				t.Error(err)
			}
			if id := idIn(t, a, b.cookie()); strings.HasPrefix(id, "h.") != hashed {
				t.Errorf("hashed %t: the session has got the id %s", hashed, id)
			}
			b.expect(t, cascadestore.DistributedBackends, values{"n": i})
			old.expect(t, cascadestore.DistributedBackends, nil)
		}
		b.mustLogout(t)
		b.expect(t, cascadestore.DistributedBackends, nil)
	})
}

func TestTheKeyOfAHashedIDIsNoID(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	a.store.HashIDs = true
	b := a.login(t, values{"n": 0})
	key := keyOf(idIn(t, a, b.cookie()))
	for _, hashed := range []bool{true, false} {
		a.store.HashIDs = hashed
		thief := a.newBrowser()
		thief.setCookie(sign(t, a.store.Codecs[0], sessionName, key))
		v := thief.Visit(func(_ http.ResponseWriter, r *http.Request) {
			if s, err := a.store.Get(r, sessionName); err != nil || !s.IsNew {
				t.Errorf("the key opens the session %v, %v", s.Values, err)
			}
		})
		if n := len(v.Request.Calls()); n > 0 {
			t.Errorf("%d calls", n)
		}
	}
}

func TestASerializersErrorThatNamesTheIDIsRedacted(t *testing.T) {
	for _, hashed := range []bool{false, true} {
		a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
		a.store.HashIDs = hashed
		a.store.SetSerializer(tellingSerializer{})
		b := a.login(t, values{"n": 0})
		id := idIn(t, a, b.cookie())
		saveErr := b.change(values{"bad": 1})
		a.store.SetSerializer(undecoding{})
		_, loadErr := b.read()
		for _, err := range []error{saveErr, loadErr} {
			if err == nil || strings.Contains(err.Error(), id) {
				t.Errorf("hashed %t: got %v", hashed, err)
			}
		}
		if !errors.Is(loadErr, cascadestore.ErrUndecodable) {
			t.Errorf("got %v", loadErr)
		}
	}
}

// undecoding cannot read a session, and says which.
type undecoding struct{ cascadestore.GobSerializer }

func (undecoding) Deserialize(_ []byte, session *sessions.Session) error {
	return fmt.Errorf("cannot read session %s", session.ID)
}
