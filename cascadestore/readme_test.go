package cascadestore_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The code of README.md.

// 32 random bytes, the same on all instances: keep them in Secret Manager, for example.
var store = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, sessionKey)

func main() {
	store.Options.HttpOnly, store.Options.Secure = true, true
	store.Options.SameSite = http.SameSiteLaxMode
	if err := store.StrictErr(); err != nil { // a key that is too short, for example
		log.Fatal(err)
	}
	http.HandleFunc("/", count)
	app := appengine.Middleware(store.Handler(http.DefaultServeMux))
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), app))
}

func count(w http.ResponseWriter, r *http.Request) {
	session, err := store.Get(r, "session")
	if errors.Is(err, cascadestore.ErrUnavailable) || errors.Is(err, cascadestore.ErrUndecodable) {
		http.Error(w, "Please try again later.", http.StatusServiceUnavailable) // the cookie stays
		return
	}
	visits, _ := session.Values["visits"].(int)
	session.Values["visits"] = visits + 1 // saved before the header leaves
	fmt.Fprintf(w, "Visits: %d\n", visits+1)
}

var _ = main

func handler(w http.ResponseWriter, r *http.Request) {
	session, err := store.Get(r, "session")
	if err != nil { // the cookie is forged, or Save will return the error
		slog.WarnContext(r.Context(), "session", "error", err)
	}
	visits, _ := session.Values["visits"].(int)
	session.Values["visits"] = visits + 1

	err = session.Save(r, w) // before you write the body
	switch {
	case errors.Is(err, cascadestore.ErrNotBackedUp), errors.Is(err, cascadestore.ErrNotPublished):
		slog.WarnContext(r.Context(), "session", "error", err) // loads see the change
	case err != nil:
		http.Error(w, "Please try again.", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, "Visits: %d\n", visits+1)
}

func TestTheHandlersOfTheREADMECountVisits(t *testing.T) {
	quiet := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	defer slog.SetDefault(quiet)
	for name, app := range map[string]http.Handler{
		"Handler": store.Handler(http.HandlerFunc(count)),
		"Save":    http.HandlerFunc(handler),
	} {
		service := gaetest.Local(t)
		var cookies []*http.Cookie
		visit := func(hooks ...gaetest.Hook) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(service.NewRequest(hooks...).Context(), http.MethodGet, "/", nil)
			for _, c := range cookies {
				r.AddCookie(c)
			}
			w := httptest.NewRecorder()
			app.ServeHTTP(w, r)
			if set := w.Result().Cookies(); len(set) > 0 {
				cookies = set
			}
			return w
		}
		for i := range 2 {
			if w := visit(); w.Body.String() != fmt.Sprintf("Visits: %d\n", i+1) {
				t.Errorf("%s, visit %d: %q", name, i+1, w.Body)
			}
		}
		down := gaetest.Fail(func(gaetest.Call) bool { return true })
		if w := visit(down); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s, while the services are down: status %d, want 503", name, w.Code)
		}
		if w := visit(); w.Body.String() != "Visits: 3\n" {
			t.Errorf("%s, afterwards: %q", name, w.Body)
		}
	}
}
