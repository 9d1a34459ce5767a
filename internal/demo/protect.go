package demo

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// MaxNameLength is how many characters a name may have.
const MaxNameLength = 40

// SameOrigin returns a handler that lets next see no forms but those of the demo's
// own pages. It stands for net/http.CrossOriginProtection, which came with Go 1.25:
// the module of the demos for App Engine can be built with Go 1.23. The session's
// cookie, which is SameSite=Lax, is not sent with forms of other sites anyway.
func SameOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !sameOrigin(r) {
			http.Error(w, "This form was sent by another site.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin reports whether a request was sent by a page of this app, going by
// what the browser says about it. A client that says nothing is no browser.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin" || site == "none"
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host == r.Host
}

// Name returns the name that was entered, and what is wrong with it, to be shown
// beside the field; empty: nothing.
func Name(entered string) (name, problem string) {
	name = strings.TrimSpace(strings.ToValidUTF8(entered, ""))
	switch {
	case name == "":
		problem = "Please enter a name."
	case utf8.RuneCountInString(name) > MaxNameLength:
		problem = fmt.Sprintf("Please enter a name of at most %d characters.", MaxNameLength)
	}
	return name, problem
}
