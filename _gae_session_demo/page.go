package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"html/template"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/gaesession/gaesession/internal/demo"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed style.css
	style []byte
	//go:embed icon.svg
	icon []byte

	pageTemplate = template.Must(template.New("page").Parse(pageHTML))
	// styleVersion changes when the style does, so that browsers may keep it.
	styleVersion = fmt.Sprintf("%x", sha256.Sum256(style))[:12]
)

// page is what page.html shows.
type page struct {
	Where    string // the services' name
	CanFlush bool
	Notice   string // of what was done before
	Problems []string

	LoggedIn bool
	Name     string
	Visits   int
	Looking  bool // this visit was not counted

	// Of a login that failed.
	NameError, PasswordError string

	SentCookie bool
	Source     string // "Memcache", "Datastore"; empty: no session
	Refilled   bool   // Memcache has it again
	Hops       []hop  // nil: not shown
	Phases     []phase
	Calls      int
	Waited     string // for the services
}

// A hop is a place where the session was looked for.
type hop struct {
	Name, State string
	Found       bool // the session came from here
	Asked       bool
}

// A phase is a part of the request and the calls made in it.
type phase struct {
	Title string
	Rows  []row
}

// A row is a call with its bar in the chart, in percent of the request.
type row struct {
	call
	ServiceName string
	X, Width    float64
}

// Time is how long the call took.
func (r row) Time() string { return format(r.Took) }

// Label is the call in words, which narrow screens can wrap.
func (r row) Label() string {
	switch r.Method {
	case "CompareAndSwap":
		return "Compare and swap"
	case "BeginTransaction":
		return "Begin transaction"
	}
	return r.Method
}

// Password is the password of everybody.
func (page) Password() string { return password }

// MaxNameLength is how many characters a name may have.
func (page) MaxNameLength() int { return demo.MaxNameLength }

// StyleVersion is part of the style sheet's address.
func (page) StyleVersion() string { return styleVersion }

// show takes over what was seen of a request that is closed.
func (p *page) show(x *exchange) {
	p.Problems = x.failures()
	list := x.calls.all()
	p.hops(list)
	p.Calls = len(list)
	p.Waited = format(waited(list))

	var end time.Duration
	for _, c := range list {
		end = max(end, c.Start+c.Took)
	}
	load, save := phase{Title: "Loading the session"}, phase{Title: "Saving it"}
	if !p.LoggedIn {
		load.Title = "Looking for a session"
	}
	p.Refilled = slices.ContainsFunc(list, func(c call) bool { return c.Saving && c.Method == "CompareAndSwap" })
	if !put(list) {
		save.Title = "Putting it back into Memcache"
	}
	for _, c := range list {
		r := row{call: c, ServiceName: serviceName(c.Service)}
		if end > 0 {
			r.X = percent(c.Start, end)
			r.Width = max(0.5, percent(c.Took, end))
		}
		to := &load
		if c.Saving {
			to = &save
		}
		to.Rows = append(to.Rows, r)
	}
	for _, ph := range []phase{load, save} {
		if len(ph.Rows) > 0 {
			p.Phases = append(p.Phases, ph)
		}
	}
}

// hops finds out from the calls that loaded the session where it was looked for.
func (p *page) hops(list []call) {
	var memcache, datastore bool // asked?
	for _, c := range list {
		if !c.Saving {
			memcache = memcache || c.Service == "memcache"
			datastore = datastore || c.Service == "datastore_v3"
		}
	}
	cookie := hop{Name: "Cookie", State: "none sent"}
	if p.SentCookie {
		cookie = hop{Name: "Cookie", State: "names a session", Asked: true}
	}
	cache := hop{Name: "Memcache", State: "not asked", Asked: memcache}
	backup := hop{Name: "Datastore", State: "not asked", Asked: datastore}
	switch {
	case p.LoggedIn && datastore:
		p.Source = "Datastore"
		cache.State, backup.State, backup.Found = "did not have it", "had it", true
	case p.LoggedIn:
		p.Source = "Memcache"
		cache.State, cache.Found = "had it", true
		backup.State = "no need to ask"
	case datastore:
		cache.State, backup.State = "does not know it", "does not know it"
	case memcache:
		cache.State = "knows that it was removed"
	}
	p.Hops = []hop{cookie, cache, backup}
}

// waited is the time in which at least one call was under way. The calls are in
// the order in which they began.
func waited(list []call) time.Duration {
	var sum, until time.Duration
	for _, c := range list {
		end := c.Start + c.Took
		if end > until {
			sum += end - max(c.Start, until)
			until = end
		}
	}
	return sum
}

// put reports whether something was put into Datastore.
func put(list []call) bool {
	return slices.ContainsFunc(list, func(c call) bool { return c.Service == "datastore_v3" && c.Method == "Put" })
}

func percent(part, of time.Duration) float64 {
	return math.Round(1000*float64(part)/float64(of)) / 10
}

func serviceName(service string) string {
	switch service {
	case "memcache":
		return "Memcache"
	case "datastore_v3":
		return "Datastore"
	}
	return service
}

func format(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.2f ms", milliseconds(d))
	}
	return fmt.Sprintf("%.1f ms", milliseconds(d))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func render(w http.ResponseWriter, status int, p page) {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		slog.Error("session demo: render the page", "error", err)
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	write(w, b.Bytes())
}

func serveStyle(w http.ResponseWriter, r *http.Request) {
	serveFile(w, "text/css; charset=utf-8", style)
}

func serveIcon(w http.ResponseWriter, r *http.Request) {
	serveFile(w, "image/svg+xml", icon)
}

func serveFile(w http.ResponseWriter, contentType string, content []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=86400")
	write(w, content)
}

// write writes the body. An error means that the client is gone.
func write(w http.ResponseWriter, body []byte) { _, _ = w.Write(body) }
