package cascadestore_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/gorilla/securecookie"

	"github.com/gaesession/gaesession/cascadestore"
)

const mainSession = "MainSession"

var (
	// An app's key is the same on all instances and in all versions, and kept
	// secret: in Secret Manager, say.
	sessionKey   = securecookie.GenerateRandomKey(32)
	sessionStore = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, sessionKey)
)

func HandleRequest(w http.ResponseWriter, r *http.Request) {
	session, err := sessionStore.Get(r, mainSession)
	if err != nil {
		// The cookie is forged or expired, or the services are down. There is a
		// new session beside the error.
		slog.WarnContext(r.Context(), "session", "error", err)
	}
	if v, ok := session.Values["ExistingKey"].(string); ok {
		fmt.Fprintf(w, "Existing value: [%s]\n", v)
		return
	}
	session.Values["ExistingKey"] = "NewValue"
	if err := session.Save(r, w); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "Existing value not found.")
}

func Example() {
	// What a browser does; App Engine gives the context to a real request.
	request := func(cookies []*http.Cookie) *http.Response {
		r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(context.Background())
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		HandleRequest(w, r)
		fmt.Print(w.Body)
		return w.Result()
	}
	first := request(nil)
	request(first.Cookies())
	// Output:
	// Existing value not found.
	// Existing value: [NewValue]
}

func ExampleCascadeStore_RegenerateID() {
	http.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		session, err := sessionStore.Get(r, mainSession)
		if err != nil {
			http.Error(w, "Please try again.", http.StatusInternalServerError)
			return
		}
		// The password is right, so this session is worth something from now on.
		if err := sessionStore.RegenerateID(r, session); err != nil {
			http.Error(w, "Please try again.", http.StatusInternalServerError)
			return
		}
		session.Values["user"] = r.PostFormValue("name")
		if err := session.Save(r, w); err != nil {
			http.Error(w, "Please try again.", http.StatusInternalServerError)
		}
	})
}

func ExampleCascadeStore_options() {
	// What a new app should set: no script sees the cookie, it is sent over
	// HTTPS only, and not with the forms of other sites.
	sessionStore.Options.HttpOnly = true
	sessionStore.Options.Secure = true
	sessionStore.Options.SameSite = http.SameSiteLaxMode
	sessionStore.SetMaxAge(14 * 24 * 3600)
	if err := sessionStore.Err(); err != nil {
		slog.Error("session store", "error", err)
	}
}
