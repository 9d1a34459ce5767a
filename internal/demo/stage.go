package demo

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

var (
	//go:embed layout.html
	layoutHTML string
	//go:embed style.css
	style []byte
	//go:embed icon.svg
	icon []byte

	layout = template.Must(template.New("layout").Parse(layoutHTML))
	// styleVersion changes when the style does, so that browsers may keep it.
	styleVersion = fmt.Sprintf("%x", sha256.Sum256(style))[:12]
)

const (
	maxFormSize  = 16 << 10 // in bytes
	noticeCookie = "demo-notice"
)

// A Stage is what a demo is shown on: the frame of its pages, where its session
// came from and what that took, and buttons that make its cache fail.
type Stage struct {
	Package       string // which the demo is of
	Where         string // it runs
	Cache, Backup string // the services' names
	Cookie        string // name of the session's
	Still         string // what is so although the cache does not answer
	Footer        string
	Faults        *Faults // nil: not offered

	open    atomic.Bool  // the cache's breaker
	pending atomic.Int64 // what the cache is still to be told
}

// Handler returns a handler that shows next on the stage: next's pages may load
// nothing from elsewhere, and are not cached, and Trace tells them what their
// requests do.
func (s *Stage) Handler(next http.Handler) http.Handler {
	next = watching(http.MaxBytesHandler(next, maxFormSize))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// Register adds the stage's own addresses to those of the demo.
func (s *Stage) Register(mux *http.ServeMux) {
	file := func(address, contentType string, content []byte) {
		mux.HandleFunc("GET "+address, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", "public, max-age=86400")
			write(w, content)
		})
	}
	file("/style.css", "text/css; charset=utf-8", style)
	file("/icon.svg", "image/svg+xml", icon)
	file("/favicon.ico", "image/svg+xml", icon) // for what is no page
	if s.Faults == nil {
		return
	}
	button := func(name, done string, do func(r *http.Request) error) {
		mux.HandleFunc("POST /cache/"+name, func(w http.ResponseWriter, r *http.Request) {
			notice := done
			if err := do(r); err != nil {
				notice = "That failed: " + err.Error()
			}
			Redirect(w, r, "/", notice)
		})
	}
	button("flush", s.Cache+" was emptied.", func(r *http.Request) error { return s.Faults.Flush(r.Context()) })
	button("stop", s.Cache+" does not answer any more.", func(*http.Request) error { s.Faults.Stop(); return nil })
	button("start", s.Cache+" answers again.", func(*http.Request) error { s.Faults.Start(); return nil })
}

// Redirect sends the browser to a page of the demo, which shows the notice once.
func Redirect(w http.ResponseWriter, r *http.Request, to, notice string) {
	http.SetCookie(w, &http.Cookie{
		Name: noticeCookie, Value: url.QueryEscape(notice), Path: "/", MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// takeNotice returns what Redirect was told to show, and forgets it.
func takeNotice(w http.ResponseWriter, r *http.Request) string {
	c, err := r.Cookie(noticeCookie)
	if err != nil {
		return ""
	}
	http.SetCookie(w, &http.Cookie{Name: noticeCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	notice, err := url.QueryUnescape(c.Value)
	if err != nil {
		return ""
	}
	return notice
}

// Template returns the template of a page, whose parts "title" and "content" are
// in text. What it is executed with has a Page embedded.
func Template(text string) *template.Template {
	return template.Must(template.Must(layout.Clone()).Parse(text))
}

// Render answers with a page. What it shows of the request is what has happened
// by now.
func Render(w http.ResponseWriter, status int, t *template.Template, data any) {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		slog.Error("render the page", "error", err)
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	write(w, b.Bytes())
}

// write writes the body. An error means that the client has gone.
func write(w http.ResponseWriter, body []byte) { _, _ = w.Write(body) }

// format is a time that a request took.
func format(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 1:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
