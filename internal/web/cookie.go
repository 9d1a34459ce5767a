package web

import (
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// SetCookie is ReplaceCookie followed by NoStore. If c is invalid, it returns an
// error and changes nothing.
func SetCookie(header http.Header, c *http.Cookie) error {
	if err := c.Valid(); err != nil {
		return fmt.Errorf("set cookie: %w", err)
	}
	ReplaceCookie(header, c)
	NoStore(header)
	return nil
}

// ReplaceCookie makes c the only cookie of its name that header sets: it replaces
// earlier ones, whatever their path and domain, and leaves other cookies alone. Of
// a cookie whose name is invalid nothing is left.
func ReplaceCookie(header http.Header, c *http.Cookie) {
	var cookies []string // a new slice: a middleware may share the old one between responses
	for _, line := range header["Set-Cookie"] {
		pair, _, _ := strings.Cut(line, ";")
		name, _, _ := strings.Cut(pair, "=")
		if textproto.TrimString(name) != c.Name {
			cookies = append(cookies, line)
		}
	}
	if line := c.String(); line != "" {
		cookies = append(cookies, line)
	}
	header["Set-Cookie"] = cookies
}

// NoStore sets Cache-Control to no-store, unless header has a Cache-Control, so
// that no cache hands out a response with a cookie again.
func NoStore(header http.Header) {
	if _, set := header["Cache-Control"]; !set {
		header.Set("Cache-Control", "no-store")
	}
}

// VaryCookie adds Cookie to the Vary header, unless it is there already.
func VaryCookie(header http.Header) {
	for _, line := range header["Vary"] {
		for _, name := range strings.Split(line, ",") {
			if name = textproto.TrimString(name); name == "*" || strings.EqualFold(name, "Cookie") {
				return
			}
		}
	}
	header["Vary"] = append(header["Vary"], "Cookie")
}

// A browser sends several values of one cookie if they differ in path or domain.
// Anybody else can send thousands.
const maxValues = 3

// CookieValues returns the values that r has of the cookie called name, in the
// order in which the client sent them: the first three, without duplicates and
// empty ones. Where there are fewer, the rest is empty.
func CookieValues(r *http.Request, name string) (values [maxValues]string) {
	n := 0
	for _, c := range r.CookiesNamed(name) {
		if n < maxValues && c.Value != "" && !slices.Contains(values[:n], c.Value) {
			values[n] = c.Value
			n++
		}
	}
	return values
}
