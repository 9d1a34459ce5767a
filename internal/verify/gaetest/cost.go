package gaetest

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// A BlackHole is a ResponseWriter that costs little.
type BlackHole struct{ header http.Header }

// NewBlackHole returns a ResponseWriter whose header a middleware has used.
func NewBlackHole() *BlackHole {
	return &BlackHole{http.Header{"X-Content-Type-Options": {"nosniff"}}}
}

func (w *BlackHole) Header() http.Header         { return w.header }
func (w *BlackHole) Write(p []byte) (int, error) { return len(p), nil }
func (w *BlackHole) WriteHeader(int)             {}

// ExpectAllocs fails the test if with makes more allocations than byHand and most
// together.
func ExpectAllocs(t *testing.T, most float64, with, byHand func()) {
	t.Helper()
	a, b := testing.AllocsPerRun(100, with), testing.AllocsPerRun(100, byHand)
	if t.Logf("%v allocations, %v by hand", a, b); a-b > most {
		t.Errorf("%v allocations more than by hand, want %v at most", a-b, most)
	}
}

// InTurns measures both in turns, as then other work on the machine slows down both,
// and reports the medians, and the median of the differences.
func InTurns(b *testing.B, name string, with, byHand func()) {
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
	b.ReportMetric(median(withs), "ns-"+name)
	b.ReportMetric(median(byHands), "ns-by-hand")
	b.ReportMetric(median(more), "ns-more")
}
