package web

import (
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// SetCookie makes c the only cookie of its name that header sets: it replaces
// those that were set before, whatever their path and domain. Other cookies stay.
// So that nobody caches the response, Cache-Control becomes no-store, unless it
// was set already. If c is invalid, SetCookie returns an error and changes
// nothing.
func SetCookie(header http.Header, c *http.Cookie) error {
	if err := c.Valid(); err != nil {
		return fmt.Errorf("set cookie: %w", err)
	}
	var cookies []string // not in place: a middleware may share its slice between responses
	for _, line := range header["Set-Cookie"] {
		pair, _, _ := strings.Cut(line, ";")
		name, _, _ := strings.Cut(pair, "=")
		if textproto.TrimString(name) != c.Name {
			cookies = append(cookies, line)
		}
	}
	header["Set-Cookie"] = append(cookies, c.String())
	if _, set := header["Cache-Control"]; !set {
		header.Set("Cache-Control", "no-store")
	}
	return nil
}

// VaryCookie says in header that the response depends on the request's cookies,
// unless header says so already.
func VaryCookie(header http.Header) {
	for _, line := range header["Vary"] {
		for _, name := range strings.Split(line, ",") {
			if name = textproto.TrimString(name); name == "*" || strings.EqualFold(name, "Cookie") {
				return
			}
		}
	}
	header.Add("Vary", "Cookie")
}

// maxValues is how many values of one cookie count. A browser sends several if
// they differ in path or domain; anybody can send thousands.
const maxValues = 3

// CookieValues returns the values that r has of the cookie called name, in the
// order in which the client sent them: at most three, each once, and no empty
// one.
func CookieValues(r *http.Request, name string) []string {
	var values []string
	for _, c := range r.CookiesNamed(name) {
		if len(values) < maxValues && c.Value != "" && !slices.Contains(values, c.Value) {
			values = append(values, c.Value)
		}
	}
	return values
}
