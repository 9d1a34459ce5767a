package cascadestore_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
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
		handler.ServeHTTP(gaetest.NewBlackHole(), r.Clone(r.Context()))
	}
}

func TestHandlerTakesAtMostTwelveAllocationsMoreThanByHand(t *testing.T) {
	gaetest.ExpectAllocs(t, 12, reading(t, true), reading(t, false))
}

func BenchmarkReadBesideByHand(b *testing.B) {
	gaetest.InTurns(b, "handler", reading(b, true), reading(b, false))
}
