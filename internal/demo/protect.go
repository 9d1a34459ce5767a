package demo

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	// MaxNameLength is how many characters a name may have.
	MaxNameLength = 40

	maxFormSize = 16 << 10 // in bytes
)

// Protect returns a handler that lets next see no forms but those of the demo's
// own pages, parsed, and that keeps the browser from doing what the pages do not
// need. Pages are private: what may be cached has to say so.
func Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if !sameOrigin(r) {
				http.Error(w, "This form was sent by another site.", http.StatusForbidden)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxFormSize)
			if err := r.ParseForm(); err != nil {
				http.Error(w, "The form cannot be read.", http.StatusBadRequest)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// sameOrigin reports whether a request was sent by a page of this app, going by
// what the browser says about it. A client that says nothing is no browser.
// (From Go 1.25 on, net/http.CrossOriginProtection does this.)
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

// Name returns the name in a form, and what is wrong with it, to be shown beside
// the field; empty: nothing.
func Name(form url.Values) (name, problem string) {
	name = strings.TrimSpace(strings.ToValidUTF8(form.Get("name"), ""))
	switch {
	case name == "":
		problem = "Please enter a name."
	case utf8.RuneCountInString(name) > MaxNameLength:
		problem = fmt.Sprintf("Please enter a name of at most %d characters.", MaxNameLength)
	}
	return name, problem
}
