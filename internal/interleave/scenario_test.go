//go:build go1.25

package interleave

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A session's attributes at the beginning. An attribute c has "c1" instead in
// the state ahead.
var initial = map[string]string{"a": "a0", "b": "b0", "c": "c0"}

const (
	timeout = 30 * time.Minute
	// age is how old a session is when the requests begin: younger than the
	// default RefreshInterval, older than that of the op refresh.
	age = 2 * time.Minute
	// gone is a time after which a session is expired for every request, and
	// old enough to be purged.
	gone = timeout + 10*time.Minute
	// idleAge is how old a session is that is about to expire: loads save their
	// access. lapse is a time after which it may be purged, unless a request
	// has.
	idleAge = timeout - time.Minute
	lapse   = 10 * time.Minute
	// saveTimeout is what a background save is given.
	saveTimeout = 30 * time.Second
)

// An op is what a request does with the session.
type op struct {
	name    string
	attr    string // it changes; "": none
	delete  bool
	to      string // what it is set to; "": a value of its own
	async   bool
	refresh bool
	logout  bool
	login   bool
	purge   bool

	regenerate bool // moves the session to a new id
	again      bool // saves again when that has failed
}

var ops = []op{
	{name: "read"},
	{name: "change:a", attr: "a"},
	{name: "change:b", attr: "b"},
	{name: "delete:a", attr: "a", delete: true},
	{name: "reset:a", attr: "a", to: "a0"},
	{name: "reset:c", attr: "c", to: "c0"},
	{name: "refresh", refresh: true},
	{name: "logout", logout: true},
	{name: "regenerate", regenerate: true},
	{name: "again:a", attr: "a", again: true},
	{name: "async:a", attr: "a", async: true},
	{name: "async:b", attr: "b", async: true},
	{name: "async:read", async: true},
	{name: "purge", purge: true},
	{name: "login", login: true},
}

func opNamed(name string) (op, error) {
	i := slices.IndexFunc(ops, func(o op) bool { return o.name == name })
	if i < 0 {
		return op{}, fmt.Errorf("no such request: %q", name)
	}
	return ops[i], nil
}

// value is what the request number i gives its attribute.
func (o op) value(i int) string {
	if o.delete || o.to != "" {
		return o.to
	}
	return fmt.Sprintf("v%d", i)
}

// of tells that the store can do this.
func (o op) of(isCascade bool) bool {
	if isCascade {
		return !o.async
	}
	return !o.regenerate && !o.again
}

// States that a session may be in when the requests begin.
const (
	cached   = "cached"   // in both services
	evicted  = "evicted"  // in Datastore alone
	ahead    = "ahead"    // changed in Memcache, but not yet in Datastore
	unsaved  = "unsaved"  // new in Memcache, and not in Datastore, which failed
	created  = "created"  // a first request creates it; the others begin after it
	idle     = "idle"     // in both services, and about to expire
	outlived = "outlived" // as ahead, and purged from Datastore meanwhile
)

var states = []string{cached, evicted, ahead, unsaved, created, idle, outlived}

// isAhead tells that the session was changed in Memcache alone.
func (s scenario) isAhead() bool { return s.start == ahead || s.start == outlived }

// isUnsaved tells that the session is not in Datastore when the requests begin.
func (s scenario) isUnsaved() bool {
	return s.start == unsaved || s.start == created || s.start == outlived
}

// A scenario is a state and the requests that overlap.
type scenario struct {
	start   string
	ops     []op // with start created the first one is the login
	retries int
	only    bool // OnlyMemcache
	cascade bool // cascadestore's store instead of the root package's
}

// String returns what parseScenario reads: "cached change:a+logout retries=2".
func (s scenario) String() string {
	names := make([]string, len(s.ops))
	for i, o := range s.ops {
		names[i] = o.name
	}
	text := s.start + " " + strings.Join(names, "+")
	if s.cascade {
		return text + " cascade"
	}
	if s.retries > 1 {
		text += fmt.Sprintf(" retries=%d", s.retries)
	}
	if s.only {
		text += " only"
	}
	return text
}

func parseScenario(text string) (scenario, error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return scenario{}, fmt.Errorf("a scenario is a state and requests, as in %q", "cached change:a+logout")
	}
	s := scenario{start: words[0], retries: 1}
	for _, name := range strings.Split(words[1], "+") {
		o, err := opNamed(name)
		if err != nil {
			return scenario{}, err
		}
		s.ops = append(s.ops, o)
	}
	for _, w := range words[2:] {
		if w == "cascade" {
			s.cascade, s.retries = true, cascadeRetries
		} else if w == "only" {
			s.only = true
		} else if _, err := fmt.Sscanf(w, "retries=%d", &s.retries); err != nil {
			return scenario{}, fmt.Errorf("scenario %q: %w", text, err)
		}
	}
	if s.cascade && len(words) > 3 {
		return scenario{}, fmt.Errorf("scenario %q: the store of cascadestore has no such option", text)
	}
	for _, o := range s.ops {
		if !o.of(s.cascade) {
			return scenario{}, fmt.Errorf("scenario %q: the store has no %s", text, o.name)
		}
	}
	return s, nil
}

func newScenario(isCascade bool, start string, names ...string) scenario {
	text := start + " " + strings.Join(names, "+")
	if isCascade {
		text += " cascade"
	}
	s, err := parseScenario(text)
	if err != nil {
		panic(err)
	}
	return s
}

// pairs are all pairs of requests, each with itself included, on a session in
// that state. Of pairs that differ in the names of their attributes alone there
// is one: a request that changes b is paired with those that change a. A request
// that saves again after a failure is like another one while nothing fails.
func pairs(start string, isCascade bool) []scenario {
	var all []scenario
	var names []string
	for _, o := range ops {
		if !o.login && !o.again && o.of(isCascade) {
			names = append(names, o.name)
		}
	}
	for i, first := range names {
		for _, second := range names[i:] {
			if b, a := strings.HasSuffix(first, ":b") || strings.HasSuffix(second, ":b"),
				strings.HasSuffix(first, ":a") || strings.HasSuffix(second, ":a"); b && !a {
				continue
			}
			requests := []string{first, second}
			if start == created {
				requests = []string{"login", first, second}
			}
			all = append(all, newScenario(isCascade, start, requests...))
		}
	}
	return all
}

// isLong tells of a pair on cascadestore's store that it has thousands of
// schedules. That store brings the services up to date while it loads a session,
// so there may be two changes of each request.
func (s scenario) isLong() bool {
	changes := 0
	for _, o := range s.ops {
		if o.refresh || o.regenerate || o.attr != "" && o.to == "" || s.start == ahead && o.to == "c0" || s.start == evicted && o.logout {
			changes++
		}
	}
	purges := slices.ContainsFunc(s.ops, func(o op) bool { return o.purge })
	switch s.start {
	case evicted:
		return changes > 1
	case ahead, unsaved:
		return changes > 0 && !purges
	}
	return s.start != cached // much as cached or ahead
}

// async tells that there are background saves.
func (s scenario) async() bool {
	return s.isAhead() && !s.cascade || slices.ContainsFunc(s.ops, func(o op) bool { return o.async })
}
