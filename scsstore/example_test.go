package scsstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

func Example() {
	sessions := scs.New()
	store := scsstore.New(nil, nil, nil) // App Engine's services
	sessions.Store = store

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		visits := sessions.GetInt(r.Context(), "visits") + 1
		sessions.Put(r.Context(), "visits", visits) // saved before the header leaves
		fmt.Fprintf(w, "Visits: %d\n", visits)
	})
	// Instead of sessions.LoadAndSave(mux). On App Engine with appengine.Middleware
	// around it.
	handler := store.Handler(sessions, mux)

	// What a browser does; App Engine gives the context to a real request.
	var cookies []*http.Cookie
	for range 2 {
		r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(context.Background())
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		cookies = w.Result().Cookies()
		fmt.Print(w.Body)
	}
	// Output:
	// Visits: 1
	// Visits: 2
}

func ExampleNew() {
	var (
		cache  tier.Cache  // rediscache.New, say
		backup tier.Backup // clouddatastore.New, say
	)
	sessions := scs.New()
	sessions.Lifetime = 30 * 24 * time.Hour
	sessions.IdleTimeout = 24 * time.Hour
	sessions.HashTokenInStore = true
	sessions.Cookie.Secure = true
	sessions.Store = scsstore.New(cache, backup, &scsstore.Options{
		OnError: func(ctx context.Context, err error) {
			slog.WarnContext(ctx, "session", "error", err) // a service failed, and no session is lost
		},
	})
	sessions.ErrorFunc = func(w http.ResponseWriter, r *http.Request, err error) {
		if errors.Is(err, scsstore.ErrRemoved) {
			http.Error(w, "You were logged out.", http.StatusConflict)
			return
		}
		slog.ErrorContext(r.Context(), "session", "error", err)
		http.Error(w, "Please try again.", http.StatusServiceUnavailable)
	}
}

func ExampleStore_Handler() {
	sessions := scs.New()
	store := scsstore.New(nil, nil, nil)
	sessions.Store = store

	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		// The password is right. A token that somebody knew before is useless now.
		if err := sessions.RenewToken(r.Context()); err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		sessions.Put(r.Context(), "user", r.PostFormValue("name"))
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.Destroy(r.Context()); err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
		}
	})
	_ = store.Handler(sessions, mux)
}
