package scsstore_test

import (
	"fmt"
	"net/http"

	"github.com/alexedwards/scs/v2"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/scsstore"
)

// The code of README.md.
func serve(mux *http.ServeMux, addr string) {
	sessions := scs.New()
	store := scsstore.New(nil, nil, nil) // App Engine's services
	sessions.Store = store

	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		visits := sessions.GetInt(r.Context(), "visits") + 1
		sessions.Put(r.Context(), "visits", visits) // saved before the header leaves
		fmt.Fprintf(w, "Visits: %d\n", visits)
	})

	// Instead of sessions.LoadAndSave(mux):
	http.ListenAndServe(addr, appengine.Middleware(store.Handler(sessions, mux)))
}

var _ = serve
