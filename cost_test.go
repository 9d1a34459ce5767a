package gaesession_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

// A memory is a cache that costs nothing.
type memory struct {
	mu    sync.Mutex
	items map[string]*tier.Item
}

func (m *memory) Get(_ context.Context, id string) (*tier.Item, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.items[id], nil
}

func (m *memory) Set(_ context.Context, id string, it tier.Item, _ time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items[id] = &it
	return nil
}

func (m *memory) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	if had, _ := m.Get(ctx, id); had != nil {
		return false, nil
	}
	return true, m.Set(ctx, id, it, ttl)
}

func (m *memory) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	if had, _ := m.Get(ctx, id); had != old {
		return tier.Conflict, nil
	}
	return tier.Stored, m.Set(ctx, id, it, ttl)
}

func (m *memory) Fits(string, int) bool  { return true }
func (m *memory) ValidID(id string) bool { return id != "" }

// reading returns a function that has an app serve a request which reads its
// session: with Sessions, or as an app does it by hand.
func reading(tb testing.TB, withSessions bool) func() {
	o := options{Cache: &memory{items: make(map[string]*tier.Item)}, OnlyMemcache: true}
	sessions := gaesession.Sessions{Options: o}
	page := []byte(strings.Repeat("x", 200))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	login := httptest.NewRecorder()
	app := func(w http.ResponseWriter, r *http.Request) {
		sess, err := sessions.Get(r)
		if err != nil || sess == nil || sess.Attr("user") != "ada" {
			tb.Fatalf("session %v, %v", sess, err)
		}
		w.Write(page)
	}
	handler := sessions.Handler(http.HandlerFunc(app))
	if withSessions {
		sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := sessions.Add(r, session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"user": "ada", "visits": 1}})); err != nil {
				tb.Fatal(err)
			}
		})).ServeHTTP(login, r)
	} else {
		m := session.NewCookieManager(gaesession.NewMemcacheStoreOptions(r.Context(), &o))
		m.Add(session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"user": "ada", "visits": 1}}), login)
		m.Close()
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			m := session.NewCookieManager(gaesession.NewMemcacheStoreOptions(appengine.NewContext(r), &o))
			defer m.Close()
			if sess := m.Get(r); sess == nil || sess.Attr("user") != "ada" {
				tb.Fatal("no session")
			}
			m.Close()
			w.Write(page)
		})
	}
	r.AddCookie(login.Result().Cookies()[0])
	return func() {
		handler.ServeHTTP(gaetest.NewBlackHole(), r)
	}
}

func TestHandlerTakesAtMostTwelveAllocationsMoreThanByHand(t *testing.T) {
	gaetest.ExpectAllocs(t, 12, reading(t, true), reading(t, false))
}

func BenchmarkReadBesideByHand(b *testing.B) {
	gaetest.InTurns(b, "sessions", reading(b, true), reading(b, false))
}
