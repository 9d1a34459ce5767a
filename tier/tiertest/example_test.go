package tiertest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// Sessions that live in memory, for tests of an app's handlers.
func ExampleNewCache() {
	sessions := gaesession.Sessions{Options: gaesession.MemcacheStoreOptions{
		Cache:  tiertest.NewCache(),
		Backup: tiertest.NewBackup(),
	}}
	app := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.Add(r, session.NewSession()); err != nil {
			http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
		}
	}))

	w := httptest.NewRecorder()
	app.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/login", nil))
	fmt.Println(w.Code, w.Result().Cookies()[0].Name)
	// Output: 200 sessid
}
