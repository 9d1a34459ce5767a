package web

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// nullWriter costs nothing.
type nullWriter struct{ header http.Header }

func (w nullWriter) Header() http.Header         { return w.header }
func (w nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w nullWriter) WriteHeader(int)             {}

// nullHook does nothing.
type nullHook struct{}

func (nullHook) BeforeHeader(http.Header, bool) error                 { return nil }
func (nullHook) ServeError(http.ResponseWriter, *http.Request, error) {}
func (nullHook) Finish()                                              {}

// request returns a function that has a handler, which writes 200 bytes, serve a
// request, by way of Handler or without it.
func request(wrapped bool) func() {
	page := make([]byte, 200)
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		_, _ = w.Write(page)
	})
	key := new(int)
	w := nullWriter{http.Header{"X-Content-Type-Options": {"nosniff"}}} // of a middleware outside
	r := httptest.NewRequest("GET", "/", nil)
	if !wrapped {
		return func() { app.ServeHTTP(w, r) }
	}
	handler := Handler(app, key, func(*http.Request) Hook { return nullHook{} })
	return func() { handler.ServeHTTP(w, r) }
}

func BenchmarkWithoutHandler(b *testing.B) { benchmark(b, false) }
func BenchmarkHandler(b *testing.B)        { benchmark(b, true) }

func benchmark(b *testing.B, wrapped bool) {
	b.ReportAllocs()
	do := request(wrapped)
	for range b.N {
		do()
	}
}

func TestHandlerTakesAtMostFourAllocations(t *testing.T) {
	with, without := testing.AllocsPerRun(100, request(true)), testing.AllocsPerRun(100, request(false))
	if got := with - without; got > 4 {
		t.Errorf("got %v allocations more than without Handler, want 4 at most", got)
	}
}
