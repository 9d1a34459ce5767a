package frameworks

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// Handler as middleware of mux, in which routes have variables and subrouters, and
// middleware runs only where a route matches.
func TestCascadestoresHandlerIsAMiddlewareOfMux(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %t", http2), func(t *testing.T) {
			store := cascadestore.NewTieredStore(tiertest.NewCache(), tiertest.NewBackup(), []byte("a hash key of thirty-two bytes.."))
			if err := store.Err(); err != nil {
				t.Fatal(err)
			}
			value := func(r *http.Request) any {
				session, err := store.Get(r, "session")
				if err != nil {
					t.Error(err)
				}
				return session.Values["n"]
			}
			r := mux.NewRouter()
			r.Use(store.Handler)
			r.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, value(r)) })
			shop := r.PathPrefix("/shop").Subrouter()
			shop.Use(store.Handler)
			shop.HandleFunc("/{n}", func(w http.ResponseWriter, r *http.Request) {
				session, err := store.Get(r, "session")
				if err != nil {
					t.Error(err)
				}
				before := session.Values["n"]
				session.Values["n"] = mux.Vars(r)["n"]
				fmt.Fprint(w, before)
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			})
			server := httptest.NewUnstartedServer(r)
			server.EnableHTTP2 = http2
			if server.StartTLS(); http2 != (server.TLS.NextProtos[0] == "h2") {
				t.Fatalf("protocols %q", server.TLS.NextProtos)
			}
			t.Cleanup(server.Close)
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			server.Client().Jar, server.Client().Timeout = jar, 10*time.Second
			for _, step := range []struct {
				path, body string
				status     int
				cookie     bool
			}{
				{"/", "<nil>", 200, false},
				{"/shop/1", "<nil>", 200, true},
				{"/", "1", 200, false},
				{"/shop/2", "1", 200, false}, // the client has the cookie
				{"/none", "404 page not found\n", 404, false},
				{"/", "2", 200, false},
			} {
				resp, body := get(t, server, step.path)
				if resp.StatusCode != step.status || body != step.body || (resp.Header.Get("Set-Cookie") != "") != step.cookie {
					t.Errorf("%s: got %v, %q, Set-Cookie %q", step.path, resp.Status, body, resp.Header.Get("Set-Cookie"))
				}
			}
		})
	}
}
