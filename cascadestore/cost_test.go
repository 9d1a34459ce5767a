package cascadestore_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// reading returns a function that has an app serve a request which reads its
// session, by way of Handler or without it.
func reading(tb testing.TB, withHandler bool) func() {
	store := cascadestore.NewTieredStore(tiertest.NewCache(), tiertest.NewBackup(), hashKey)
	page := make([]byte, 200)
	login := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	session, err := store.Get(r, sessionName)
	if err != nil {
		tb.Fatal(err)
	}
	set(session, values{"user": "ada", "visits": 1})
	if err := session.Save(r, login); err != nil {
		tb.Fatal(err)
	}
	r = httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(login.Result().Cookies()[0])
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, err := store.Get(r, sessionName)
		if err != nil || session.Values["user"] != "ada" {
			tb.Fatalf("session %v, %v", session, err)
		}
		w.Write(page)
	})
	if withHandler {
		handler = store.Handler(handler)
	}
	return func() {
		handler.ServeHTTP(&blackHole{http.Header{"X-Content-Type-Options": {"nosniff"}}}, r.Clone(r.Context()))
	}
}

// A blackHole is a ResponseWriter that costs little.
type blackHole struct{ header http.Header }

func (w *blackHole) Header() http.Header         { return w.header }
func (w *blackHole) Write(p []byte) (int, error) { return len(p), nil }
func (w *blackHole) WriteHeader(int)             {}

func TestHandlerTakesAtMostTwelveAllocationsMoreThanByHand(t *testing.T) {
	with, byHand := testing.AllocsPerRun(100, reading(t, true)), testing.AllocsPerRun(100, reading(t, false))
	t.Logf("%v allocations with Handler, %v by hand", with, byHand)
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
	b.ReportMetric(median(withs), "ns-handler")
	b.ReportMetric(median(byHands), "ns-by-hand")
	b.ReportMetric(median(more), "ns-more")
}
