package gaesession

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	defaultCookieName   = "sessid"
	defaultCookieMaxAge = 30 * 24 * time.Hour
)

// A Cookie says how the cookie looks that holds a session's id. It is HttpOnly in
// any case. Zero values select the defaults.
type Cookie struct {
	// Name is the cookie's name; "sessid" by default.
	Name string

	// Path and Domain say to which paths and hosts the browser sends the cookie: by
	// default to all paths, and to the host that set it.
	Path, Domain string

	// MaxAge is how long the browser keeps the cookie after it was set last: 30 days
	// by default, and no longer than MaxLifetime lets the session live. The cookie is
	// set again when the session's access time is written. If the session would outlive
	// the cookie without that, each response of a request that used it sets the cookie
	// again, from a tenth of MaxAge, or a RefreshInterval if that is shorter, after the
	// written access time on, if a call to the cache says that the session is still there.
	//
	// A higher MaxAge reaches a browser when its cookie is set next, at the latest at
	// the first use that comes RefreshInterval after the access time was written. If
	// the old cookie ends before that, the session is lost to the browser.
	MaxAge time.Duration

	// BrowserSession has the browser drop the cookie when it is closed. MaxAge has
	// no effect then.
	BrowserSession bool

	// SameSite says whether the browser sends the cookie with requests that other
	// sites cause; Lax by default.
	SameSite http.SameSite

	// Partitioned keeps cookies of embedded pages apart for each embedding site.
	Partitioned bool

	// AllowHTTP has the browser send the cookie over HTTP as well. By default it
	// does so over HTTPS only, or to localhost.
	AllowHTTP bool
}

// withDefaults returns c with its defaults filled in.
func (c Cookie) withDefaults() Cookie {
	if c.Name == "" {
		c.Name = defaultCookieName
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.MaxAge == 0 {
		c.MaxAge = defaultCookieMaxAge
	}
	if c.SameSite == 0 {
		c.SameSite = http.SameSiteLaxMode
	}
	return c
}

// check says why browsers would not accept the cookie.
func (c Cookie) check() error {
	c = c.withDefaults()
	name := strings.ToLower(c.Name) // as browsers compare prefixes
	isHost := strings.HasPrefix(name, "__host-")
	switch {
	case c.MaxAge < time.Second:
		return errors.New("cookie: MaxAge is less than a second")
	case c.SameSite < http.SameSiteDefaultMode || c.SameSite > http.SameSiteNoneMode:
		return errors.New("cookie: SameSite is none of net/http's modes")
	case c.AllowHTTP && c.SameSite == http.SameSiteNoneMode:
		return errors.New("cookie: SameSite=None without Secure: AllowHTTP must not be set")
	case c.AllowHTTP && c.Partitioned:
		return errors.New("cookie: Partitioned without Secure: AllowHTTP must not be set")
	case c.AllowHTTP && (isHost || strings.HasPrefix(name, "__secure-")):
		return fmt.Errorf("cookie: the prefix of %s wants Secure: AllowHTTP must not be set", c.Name)
	case isHost && (c.Domain != "" || c.Path != "/"):
		return fmt.Errorf("cookie: the prefix of %s allows no Domain, and no Path but /", c.Name)
	}
	if err := c.cookie("id", c.MaxAge).Valid(); err != nil {
		return fmt.Errorf("cookie: %w", err)
	}
	return nil
}

// cookie returns the cookie that has the browser keep a value for so long; with no
// value one that ends it. The defaults are filled in.
func (c Cookie) cookie(value string, maxAge time.Duration) *http.Cookie {
	h := &http.Cookie{
		Name: c.Name, Value: value, Path: c.Path, Domain: c.Domain,
		HttpOnly: true, Secure: !c.AllowHTTP, SameSite: c.SameSite, Partitioned: c.Partitioned,
	}
	switch {
	case value == "":
		h.MaxAge = -1
	case !c.BrowserSession:
		h.MaxAge = int(max(maxAge, time.Second) / time.Second)
	}
	return h
}
