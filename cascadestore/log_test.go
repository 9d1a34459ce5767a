package cascadestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// A logBuffer may be written to by several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func captureDefaultLog(t testing.TB) *logBuffer {
	t.Helper()
	l := &logBuffer{}
	before := slog.Default()
	slog.SetDefault(l.logger())
	t.Cleanup(func() { slog.SetDefault(before) })
	return l
}

// allThatIsLogged runs through a session's life on services that fail at times.
func allThatIsLogged(t *testing.T) (log string, ids []string) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	var out logBuffer
	a.store.Logger = out.logger()
	down := gaetest.Fail(gaetest.Datastore)
	b := a.login(t, values{"n": 0})
	ids = append(ids, idIn(t, a, b.cookie()))
	b.get()
	a.Service.Flush()
	b.get()
	if _, err := b.read(gaetest.Fail(gaetest.Memcache)); err != nil {
		t.Error(err)
	}
	b.mustChange(t, values{"n": 1})
	if b.change(values{"n": 2}, down) == nil {
		t.Error("no error")
	}
	if err := b.regenerate(values{"n": 3}); err != nil {
		t.Error(err)
	}
	ids = append(ids, idIn(t, a, b.cookie()))
	if b.change(values{"big": text(5000)}) == nil {
		t.Error("no error")
	}
	late := b.clone()
	err := late.use(func(_ *http.Request, s *sessions.Session) {
		b.mustLogout(t)
		s.Values["n"] = 4
	})
	if err == nil {
		t.Error("no error")
	}
	for _, id := range ids {
		if strings.Contains(err.Error(), id) {
			t.Error("an error contains a session id")
		}
	}
	return out.String(), ids
}

func TestLogsTellEveryStepWhenAskedTo(t *testing.T) {
	t.Setenv(cascadestore.CkDoDisplayLogging, "true")
	log, ids := allThatIsLogged(t)
	for _, want := range []string{
		"cache get", "cache set", "cache add", "cache compare-and-swap", "backup get", "backup put", "backup insert",
		"backup update", "session store: save", "new id", "remove",
		"level=DEBUG", "level=ERROR", "stack=", "session was removed", "too big",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in the log", want)
		}
	}
	for _, id := range ids {
		if strings.Contains(log, id) {
			t.Error("the log contains a session id")
		}
	}
}

func TestLogsTellOnlyWhatNobodyReturns(t *testing.T) {
	for _, value := range []string{"", "false"} {
		t.Setenv(cascadestore.CkDoDisplayLogging, value)
		log, ids := allThatIsLogged(t)
		if strings.Contains(log, "level=DEBUG") || strings.Contains(log, "session was removed") {
			t.Errorf("the log contains steps, or errors that were returned:\n%s", log)
		}
		// The failed Memcache, which Datastore made up for.
		if !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "stack=") || !strings.Contains(log, "cache get") {
			t.Errorf("the log lacks the error of Memcache:\n%s", log)
		}
		for _, id := range ids {
			if strings.Contains(log, id) {
				t.Error("the log contains a session id")
			}
		}
	}
}

// Visitors can send as many of them as they like.
func TestAForgedCookieIsNoErrorInTheLog(t *testing.T) {
	for _, steps := range []string{"false", "true"} {
		t.Setenv(cascadestore.CkDoDisplayLogging, steps)
		a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
		var out logBuffer
		a.store.Logger = out.logger()
		b := a.newBrowser()
		b.setCookie(forgedCookie(sessionName))
		if _, err := b.read(); err == nil {
			t.Error("no error for a forged cookie")
		}
		log := out.String()
		if strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=DEBUG") != (steps == "true") {
			t.Errorf("steps %s: logged %q", steps, log)
		}
	}
}

func TestAServicesErrorThatNamesTheSessionIsRedacted(t *testing.T) {
	t.Setenv(cascadestore.CkDoDisplayLogging, "true")
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	var out logBuffer
	a.store.Logger = out.logger()
	b := a.login(t, values{"n": 0})
	id := idIn(t, a, b.cookie())
	telling := fmt.Errorf("no such key: session.%s: %w", id, gaetest.ErrFailed)
	fail := gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error { return telling }}
	_, err := b.read(fail)
	if !errors.Is(err, gaetest.ErrFailed) {
		t.Fatalf("got %v, want the services' error", err)
	}
	if strings.Contains(err.Error(), id) || strings.Contains(out.String(), id) {
		t.Errorf("an error or the log contains the session's id: %v", err)
	}
}

func TestNoCookieFillsTheLogThroughHandler(t *testing.T) {
	for _, hashed := range []bool{false, true} {
		a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
		a.store.HashIDs = hashed
		a.store.SetKeyPrefix("")
		var out logBuffer
		a.store.Logger = out.logger()
		own := a.login(t, values{"n": 0}).cookie()
		if err := memcache.Set(a.Context(), &memcache.Item{Key: "page", Value: []byte("<html>")}); err != nil {
			t.Fatal(err)
		}
		codec := a.store.Codecs[0]
		for _, cookie := range []string{
			"page", "", "x", forgedCookie(sessionName), forgedCookie("other"), own[:len(own)-1], own[1:], own + "A", strings.Repeat(own, 20),
			sign(t, codec, "other", "page"), "MTIzfGFiY3w=", strings.Repeat("A", 5000),
		} {
			for _, change := range []bool{false, true} {
				r := newRequest(a.Service, &http.Cookie{Name: sessionName, Value: cookie})
				a.store.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					s, _ := a.store.Get(r, sessionName) // the app answers for the error
					if !s.IsNew {
						t.Errorf("cookie %q has a session", cookie)
					}
					if change {
						s.Values["n"] = 1
					}
				})).ServeHTTP(httptest.NewRecorder(), r)
			}
		}
		if log := out.String(); log != "" {
			t.Errorf("a visitor made the log %s", log)
		}
	}
}
