package gaesession_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// The code of docs/recipes.md, and that it does what the page says.

// A shop is an app with the recipes' handlers.
type shop struct {
	sessions *gaesession.Sessions
}

func newShop(cache tier.Cache, backup tier.Backup) *shop {
	s := &shop{&gaesession.Sessions{}}
	s.sessions.Options.Cache, s.sessions.Options.Backup = cache, backup
	return s
}

func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", s.logIn)
	mux.HandleFunc("POST /note", s.note)
	mux.HandleFunc("GET /", s.home)
	return s.sessions.Handler(mux)
}

func (s *shop) logIn(w http.ResponseWriter, r *http.Request) {
	sessions := s.sessions
	timeout := 30 * time.Minute
	if r.FormValue("remember") != "" {
		timeout = 30 * 24 * time.Hour
	}
	sess := session.NewSessionOptions(&session.SessOptions{Timeout: timeout})
	sess.SetAttr("user", r.FormValue("user"))
	if err := sessions.Add(r, sess); err != nil {
		http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *shop) note(w http.ResponseWriter, r *http.Request) {
	if sess, err := s.sessions.Get(r); err == nil && sess != nil {
		addFlash(sess, r.FormValue("text"))
	}
}

func (s *shop) home(w http.ResponseWriter, r *http.Request) {
	sess, err := s.sessions.Get(r)
	switch {
	case err != nil:
		http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
	case sess == nil:
		fmt.Fprint(w, "You are not logged in.")
	default:
		fmt.Fprint(w, "Hello ", sess.Attr("user"), takeFlashes(sess), sess.Timeout())
	}
}

// addFlash has the next page show a message.
func addFlash(sess session.Session, message string) {
	sess.SetAttr("flash:"+strconv.FormatInt(time.Now().UnixNano(), 36), message)
}

// takeFlashes returns the messages, oldest first, and removes them.
func takeFlashes(sess session.Session) (messages []string) {
	attrs := sess.Attrs()
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		if strings.HasPrefix(name, "flash:") {
			messages = append(messages, attrs[name].(string))
			sess.SetAttr(name, nil)
		}
	}
	return messages
}

// A visitor is a browser that does without a network.
type visitor struct {
	app     http.Handler
	cookies map[string]string
}

func (v *visitor) visit(method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for name, value := range v.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	v.app.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if v.cookies == nil {
			v.cookies = map[string]string{}
		}
		v.cookies[c.Name] = c.Value
	}
	return w
}

func expectBody(t *testing.T, w *httptest.ResponseRecorder, want string) {
	t.Helper()
	if got := w.Body.String(); got != want {
		t.Errorf("got %v, %q; want %q", w.Code, got, want)
	}
}

func TestShop(t *testing.T) {
	app := newShop(tiertest.NewCache(), tiertest.NewBackup()).handler()
	w := httptest.NewRecorder()
	app.ServeHTTP(w, httptest.NewRequest("POST", "/login?user=ada", nil))
	r := httptest.NewRequest("GET", "/", nil)
	for _, c := range w.Result().Cookies() {
		r.AddCookie(c)
	}
	w = httptest.NewRecorder()
	app.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), "Hello ada") {
		t.Errorf("after the login: status %d, %q", w.Code, w.Body)
	}
}

func TestShopOnAppEngine(t *testing.T) {
	server := gaelocal.StartForTest(t) // Memcache and Datastore, until the test ends
	app := newShop(nil, nil).handler()
	server.SetHooks(gaelocal.Hooks{Before: func(_ context.Context, c gaelocal.Call) error {
		return errors.New("down")
	}})
	w := httptest.NewRecorder()
	app.ServeHTTP(w, httptest.NewRequest("POST", "/login?user=ada", nil))
	if w.Code != http.StatusServiceUnavailable || len(w.Result().Cookies()) > 0 {
		t.Errorf("while App Engine is down: status %d, cookies %v", w.Code, w.Result().Cookies())
	}
}

func TestRecipeOfRememberMe(t *testing.T) {
	v := visitor{app: newShop(tiertest.NewCache(), tiertest.NewBackup()).handler()}
	v.visit("POST", "/login?user=ada&remember=yes")
	expectBody(t, v.visit("GET", "/"), "Hello ada[] 720h0m0s")
}

func TestRecipeOfFlashesLosesNone(t *testing.T) {
	v := visitor{app: newShop(tiertest.NewCache(), tiertest.NewBackup()).handler()}
	v.visit("POST", "/login?user=ada")
	v.visit("POST", "/note?text=one")
	v.visit("POST", "/note?text=two")
	expectBody(t, v.visit("GET", "/"), "Hello ada[one two] 30m0s")
	expectBody(t, v.visit("GET", "/"), "Hello ada[] 30m0s")

	// Another request adds one while this one takes them.
	s := newShop(tiertest.NewCache(), tiertest.NewBackup())
	var between func()
	mux := http.NewServeMux()
	mux.Handle("/", s.handler())
	mux.HandleFunc("GET /take", func(w http.ResponseWriter, r *http.Request) {
		sess, err := s.sessions.Get(r)
		if err != nil || sess == nil {
			t.Errorf("session %v, error %v", sess, err)
			return
		}
		takeFlashes(sess)
		between()
	})
	v = visitor{app: s.sessions.Handler(mux)}
	v.visit("POST", "/login?user=ada")
	v.visit("POST", "/note?text=one")
	between = func() { v.visit("POST", "/note?text=two") }
	v.visit("GET", "/take")
	expectBody(t, v.visit("GET", "/"), "Hello ada[two] 30m0s")
}

// isVerified reports whether the user has given the password within ten minutes.
func isVerified(sess session.Session) bool {
	at, _ := sess.Attr("verified").(int64)
	return time.Since(time.Unix(at, 0)) < 10*time.Minute
}

func TestRecipeOfAskingForThePasswordAgain(t *testing.T) {
	sess := session.NewSession()
	for age, want := range map[time.Duration]bool{0: true, 9 * time.Minute: true, 11 * time.Minute: false} {
		sess.SetAttr("verified", time.Now().Add(-age).Unix())
		if isVerified(sess) != want {
			t.Errorf("after %v: want %v", age, want)
		}
	}
	if isVerified(session.NewSession()) {
		t.Error("verified without a password")
	}
}

// encrypted returns a codec that encrypts sessions with the first key, and reads
// what any of the keys has encrypted. A key is 32 random bytes.
func encrypted(keys ...[]byte) (*memcache.Codec, error) {
	var ciphers []cipher.AEAD
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		ciphers = append(ciphers, aead)
	}
	return &memcache.Codec{
		Marshal: func(v any) ([]byte, error) {
			plain, err := memcache.Gob.Marshal(v)
			if err != nil {
				return nil, err
			}
			nonce := make([]byte, ciphers[0].NonceSize())
			if _, err := rand.Read(nonce); err != nil {
				return nil, err
			}
			return ciphers[0].Seal(nonce, nonce, plain, nil), nil
		},
		Unmarshal: func(data []byte, v any) error {
			for _, aead := range ciphers {
				if n := aead.NonceSize(); len(data) >= n {
					if plain, err := aead.Open(nil, data[:n], data[n:], nil); err == nil {
						return memcache.Gob.Unmarshal(plain, v)
					}
				}
			}
			return errors.New("no key decrypts the session")
		},
	}, nil
}

func TestRecipeOfEncryption(t *testing.T) {
	if _, err := encrypted([]byte("short")); err == nil {
		t.Error("a short key is taken")
	}
	oldKey, newKey := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	cache, backup := &spyingCache{Cache: tiertest.NewCache()}, tiertest.NewBackup()
	var v visitor
	use := func(keys ...[]byte) {
		t.Helper()
		codec, err := encrypted(keys...)
		if err != nil {
			t.Fatal(err)
		}
		s := newShop(cache, backup)
		s.sessions.Options.Codec = codec
		v.app = s.handler()
	}
	use(oldKey)
	v.visit("POST", "/login?user=ada")
	v.visit("POST", "/note?text=secret")
	expectBody(t, v.visit("GET", "/"), "Hello ada[secret] 30m0s")
	if len(cache.values) == 0 || bytes.Contains(cache.values, []byte("ada")) || bytes.Contains(cache.values, []byte("secret")) {
		t.Errorf("the cache has seen %q", cache.values)
	}
	calls := cache.calls
	v.visit("GET", "/")
	if cache.calls != calls+1 {
		t.Errorf("a read makes %d calls to the cache, want 1", cache.calls-calls)
	}
	use(newKey, oldKey)
	expectBody(t, v.visit("GET", "/"), "Hello ada[] 30m0s")
	v.visit("POST", "/note?text=new")
	use(newKey)
	expectBody(t, v.visit("GET", "/"), "Hello ada[new] 30m0s")
	use(oldKey)
	if w := v.visit("GET", "/"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without the key: status %d, %q; want 503", w.Code, w.Body)
	}
}

// A spyingCache notes what it is given, and counts calls.
type spyingCache struct {
	tier.Cache
	values []byte
	calls  int
}

func (c *spyingCache) Get(ctx context.Context, id string) (*tier.Item, error) {
	c.calls++
	return c.Cache.Get(ctx, id)
}

func (c *spyingCache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	c.calls++
	c.values = append(c.values, it.Value...)
	return c.Cache.Add(ctx, id, it, ttl)
}

func (c *spyingCache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	c.calls++
	c.values = append(c.values, it.Value...)
	return c.Cache.CompareAndSwap(ctx, id, old, it, ttl)
}

// logged returns functions that log what goes wrong, and each call at debug level.
func logged(logger *slog.Logger) *tier.Trace {
	return &tier.Trace{
		Call: func(ctx context.Context, c tier.Call) {
			level := slog.LevelDebug
			if c.Err != nil {
				level = slog.LevelWarn
			}
			logger.Log(ctx, level, "session call", "service", c.Service, "operation", c.Operation,
				"outcome", c.Outcome, "duration", c.Duration, "error", c.Err)
		},
		Breaker: func(ctx context.Context, open bool) {
			logger.WarnContext(ctx, "session cache", "given up", open)
		},
		Pending: func(ctx context.Context, waiting, givenUp int) {
			if givenUp > 0 {
				logger.ErrorContext(ctx, "session cache will not be told", "given up", givenUp)
			}
		},
	}
}

func TestRecipeOfLogging(t *testing.T) {
	var log bytes.Buffer
	s := newShop(tiertest.NewCache(), tiertest.NewBackup())
	s.sessions.Options.Trace = logged(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	v := visitor{app: s.handler()}
	v.visit("POST", "/login?user=ada")
	v.visit("GET", "/")
	for _, want := range []string{`level=DEBUG msg="session call" service=cache operation=add outcome=stored`, `service=backup operation=insert`, `service=cache operation=get outcome=found`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, &log)
		}
	}
	if strings.Contains(log.String(), v.cookies["sessid"]) {
		t.Error("the log has the session's id")
	}
}

// unsaved answers requests whose session could not be saved.
func unsaved(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "session", "error", err)
	if errors.Is(err, gaesession.ErrRemoved) {
		http.Redirect(w, r, "/login", http.StatusSeeOther)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprint(w, "<p>That did not work. Please try again.")
}

func TestRecipeOfAnErrorPage(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{ErrorHandler: unsaved})
	s.browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s.login(attrs{"n": 0})
	got := s.visit(s.set("n", 1), gaetest.Fail(writes))
	if got.StatusCode != http.StatusServiceUnavailable || got.body != "<p>That did not work. Please try again." {
		t.Errorf("got %v, %q", got.Status, got.body)
	}
	got = s.visit(func(w http.ResponseWriter, r *http.Request) {
		s.set("n", 1)(w, r)
		s.must(gaesession.RemoveID(r.Context(), s.get(r).ID(), &s.sessions.Options))
	})
	if got.StatusCode != http.StatusSeeOther || got.Header.Get("Location") != "/login" {
		t.Errorf("got %v to %q, want the login", got.Status, got.Header.Get("Location"))
	}
	s.expectErrors()
}
