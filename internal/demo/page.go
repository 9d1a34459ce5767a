package demo

import (
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A Page is what the frame around a demo's content shows.
type Page struct {
	*Stage
	Notice string // of what was done before
	Report error  // of the store; nil: none
	Failed bool   // what the user wanted was not done

	sentCookie bool
	watch      *watch
}

// Page returns the page that answers a request.
func (s *Stage) Page(w http.ResponseWriter, r *http.Request) Page {
	_, err := r.Cookie(s.Cookie)
	return Page{Stage: s, Notice: takeNotice(w, r), sentCookie: err == nil, watch: watchOf(r.Context())}
}

// Failed returns the page that answers a request which failed.
func (s *Stage) Failed(w http.ResponseWriter, r *http.Request, err error) Page {
	p := s.Page(w, r)
	p.Report, p.Failed = err, true
	return p
}

// MaxNameLength is how many characters a name may have.
func (Page) MaxNameLength() int { return MaxNameLength }

// Problem reports whether what the store reports is bad news for the user: a
// change that is saved in one place is none.
func (p Page) Problem() bool {
	return p.Report != nil && !errors.Is(p.Report, tier.ErrNotPublished) && !errors.Is(p.Report, tier.ErrNotBackedUp)
}

// StyleVersion is part of the style sheet's address.
func (Page) StyleVersion() string { return styleVersion }

// Stopped reports whether the cache does not answer, as somebody asked for.
func (p Page) Stopped() bool { return p.Faults != nil && !p.Faults.Stopped().IsZero() }

// Open reports whether the store has noticed that the cache does not answer, so
// that no request waits for it.
func (p Page) Open() bool { return p.open.Load() }

// Pending is how many sessions have changes that the cache is still to be told.
func (p Page) Pending() int64 { return p.pending.Load() }

// A Source is where the session was looked for.
type Source struct {
	From     string // the service's name; empty: there is no session
	Unknown  bool   // nobody can tell whether there is one
	Sent     bool   // the browser sent a cookie
	IsBackup bool   // it came from there
	Refilled bool   // the cache has it again
	Silent   bool   // the cache did not answer
	Skipped  bool   // the cache was not asked, as it did not answer before
	Took     string // until it was found
	Hops     []Hop
}

// A Hop is a place where the session was looked for.
type Hop struct {
	Name, State string
	Kind        string // "found", "asked", "failed" or "idle"
}

// Source returns where the request's session was looked for.
func (p Page) Source() Source {
	from, calls := p.watch.seen()
	loading := slices.DeleteFunc(slices.Clone(calls), func(c call) bool { return c.Loaded })
	src := Source{Sent: p.sentCookie, Unknown: from == "unknown", Took: format(waited(loading))}
	cookie := Hop{"Cookie", "none sent", "idle"}
	if p.sentCookie {
		cookie = Hop{"Cookie", "names a session", "asked"}
	}
	cache, backup := Hop{p.Cache, "not asked", "idle"}, Hop{p.Backup, "not asked", "idle"}
	for _, c := range loading {
		switch c.Service {
		case "cache":
			src.Silent, src.Skipped = c.Outcome == "error", c.Outcome == "skipped"
			cache = map[string]Hop{
				"found":   {p.Cache, "had it", "found"},
				"none":    {p.Cache, "did not have it", "asked"},
				"error":   {p.Cache, "did not answer", "failed"},
				"skipped": {p.Cache, "known not to answer", "failed"},
			}[c.Outcome]
		case "backup":
			backup = map[string]Hop{
				"found": {p.Backup, "had it", "found"},
				"none":  {p.Backup, "did not have it", "asked"},
				"error": {p.Backup, "did not answer", "failed"},
			}[c.Outcome]
		}
	}
	switch from {
	case "cache":
		src.From, backup.State = p.Cache, "no need to ask"
	case "backup":
		src.From, src.IsBackup = p.Backup, true
		if cache.Kind == "found" {
			cache = Hop{p.Cache, "had a placeholder", "asked"}
		}
	case "none":
		for _, h := range []*Hop{&cache, &backup} {
			if h.Kind == "found" {
				h.State, h.Kind = "knows that it is over", "asked"
			}
		}
	}
	src.Refilled = src.IsBackup && slices.ContainsFunc(calls, func(c call) bool {
		return c.Loaded && c.Service == "cache" && c.Operation == "compare-and-swap" && c.Outcome == "stored"
	})
	src.Hops = []Hop{cookie, cache, backup}
	if p.Cache == "" {
		src.Hops = []Hop{cookie, backup}
	}
	return src
}

// Work is what a request did with the services.
type Work struct {
	Calls   int
	Waited  string
	Overlap bool // some calls were made in parallel
	Phases  []Phase
}

// A Phase is a part of the request and the calls made in it.
type Phase struct {
	Title string
	Rows  []Row
}

// A Row is a call with its bar in the chart, in percent of the time until the last
// one ended.
type Row struct {
	Service, Operation, Note, Time string
	Cache, Failed                  bool
	X, Width                       float64 // Width 0: there is none
}

// Work returns what the request did with the services so far.
func (p Page) Work() Work {
	from, calls := p.watch.seen()
	w := Work{Waited: format(waited(calls))}
	var end, until time.Duration
	for _, c := range calls {
		end = max(end, c.Start+c.Duration)
	}
	load, then := Phase{Title: "Loading the session"}, Phase{Title: "Then"}
	switch {
	case from != "cache" && from != "backup":
		load.Title = "Looking for a session"
	case slices.ContainsFunc(calls, func(c call) bool { return c.Service == "backup" && c.Operation != "get" }):
		then.Title = "Saving it"
	case from == "backup":
		then.Title = "Putting it back into " + p.Cache
	}
	for _, c := range calls {
		if c.Outcome != "skipped" {
			w.Calls++
			w.Overlap = w.Overlap || c.Start < until
			until = max(until, c.Start+c.Duration)
		}
		to := &load
		if c.Loaded {
			to = &then
		}
		to.Rows = append(to.Rows, p.row(c, end))
	}
	for _, ph := range []Phase{load, then} {
		if len(ph.Rows) > 0 {
			w.Phases = append(w.Phases, ph)
		}
	}
	return w
}

func (p Page) row(c call, end time.Duration) Row {
	operation := strings.ReplaceAll(c.Operation, "-", " ")
	r := Row{
		Service: p.Backup, Operation: strings.ToUpper(operation[:1]) + operation[1:], Note: c.Outcome, Time: format(c.Duration),
		Cache: c.Service == "cache", Failed: c.Outcome == "error" || c.Outcome == "skipped",
	}
	if r.Cache {
		r.Service = p.Cache
	}
	switch c.Outcome {
	case "error":
		r.Note = "failed"
	case "skipped":
		r.Note, r.Time = "not made", "–"
	}
	if end > 0 && c.Outcome != "skipped" {
		r.X = percent(c.Start, end)
		r.Width = max(0.5, percent(c.Duration, end))
	}
	return r
}

func percent(part, of time.Duration) float64 {
	return math.Round(1000*float64(part)/float64(of)) / 10
}
