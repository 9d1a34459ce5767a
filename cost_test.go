package gaesession_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
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
		handler.ServeHTTP(&blackHole{header: http.Header{"X-Content-Type-Options": {"nosniff"}}}, r)
	}
}

// A blackHole is a ResponseWriter that costs little.
type blackHole struct{ header http.Header }

func (w *blackHole) Header() http.Header         { return w.header }
func (w *blackHole) Write(p []byte) (int, error) { return len(p), nil }
func (w *blackHole) WriteHeader(int)             {}

func TestHandlerTakesAtMostTwelveAllocationsMoreThanByHand(t *testing.T) {
	with, byHand := testing.AllocsPerRun(100, reading(t, true)), testing.AllocsPerRun(100, reading(t, false))
	t.Logf("%v allocations with Sessions, %v by hand", with, byHand)
	if with-byHand > 12 {
		t.Errorf("%v allocations more than by hand, want 12 at most", with-byHand)
	}
}

// BenchmarkReadBesideByHand measures both in turns, as then other work on the machine
// slows down both, and reports the medians, and the median of the differences.
func BenchmarkReadBesideByHand(b *testing.B) {
	with, byHand := reading(b, true), reading(b, false)
	measure := func(do func()) time.Duration {
		begin := time.Now()
		for range 10 {
			do()
		}
		return time.Since(begin) / 10
	}
	var withs, byHands, more []time.Duration
	for range b.N {
		w, h := measure(with), measure(byHand)
		withs, byHands, more = append(withs, w), append(byHands, h), append(more, w-h)
	}
	median := func(all []time.Duration) float64 {
		slices.Sort(all)
		return float64(all[len(all)/2])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(withs), "ns-sessions")
	b.ReportMetric(median(byHands), "ns-by-hand")
	b.ReportMetric(median(more), "ns-more")
}
