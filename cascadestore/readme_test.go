package cascadestore_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The code of README.md.

// 32 random bytes, the same on all instances: keep them in Secret Manager, for example.
var store = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, sessionKey)

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

func TestTheHandlerOfTheREADMECountsVisits(t *testing.T) {
	service := gaetest.Local(t)
	var cookies []*http.Cookie
	visit := func(hooks ...gaetest.Hook) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(service.NewRequest(hooks...).Context(), http.MethodGet, "/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		handler(w, r)
		if set := w.Result().Cookies(); len(set) > 0 {
			cookies = set
		}
		return w
	}
	for i := range 2 {
		if w := visit(); w.Body.String() != fmt.Sprintf("Visits: %d\n", i+1) {
			t.Errorf("visit %d: %q", i+1, w.Body)
		}
	}
	quiet := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	defer slog.SetDefault(quiet)
	down := gaetest.Fail(func(gaetest.Call) bool { return true })
	if w := visit(down); w.Code != http.StatusServiceUnavailable {
		t.Errorf("while the services are down: status %d, want 503", w.Code)
	}
	if w := visit(); w.Body.String() != "Visits: 3\n" {
		t.Errorf("afterwards: %q", w.Body)
	}
}
