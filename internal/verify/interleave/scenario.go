//go:build go1.25

package interleave

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A session's attributes at the beginning. An attribute c has "c1" instead in
// the states unsaved and outlived.
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
	// callTimeout is what a call is given: longer than others may wait meanwhile,
	// shorter than an event of a minute.
	callTimeout = 50 * time.Second
	// skew is how far the clock of an instance may be off.
	skew = 30 * time.Second
)

// An op is what a request does with the session.
type op struct {
	name   string
	attr   string // it changes; "": none
	to     string // what it is set to; "": a value of its own
	delete bool
	size   int // what it is set to is longer by so many bytes

	async      bool
	refresh    bool // saves that the session was used
	logout     bool
	regenerate bool // moves the session to a new id
	login      bool
	purge      bool
	again      bool // saves again when that has failed
	old        bool // loads and saves as the library before this one

	owner  string // whom the session belongs to that it saves
	claims bool   // it says whose the session is that nobody's was, and moves nothing
	enter  bool   // begins a session of its own
	endall bool   // ends all of Alice's
	others bool   // ends all of Alice's but its own

	skew   time.Duration // of its instance's clock
	shared bool          // it is on one instance with others
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
	{name: "regenerate:a", attr: "a", regenerate: true},
	{name: "again-regenerate", regenerate: true, again: true},
	{name: "again:a", attr: "a", again: true},
	{name: "async:a", attr: "a", async: true},
	{name: "async:b", attr: "b", async: true},
	{name: "async-delete:a", attr: "a", delete: true, async: true},
	{name: "async-reset:a", attr: "a", to: "a0", async: true},
	{name: "async-reset:c", attr: "c", to: "c0", async: true},
	{name: "async:read", async: true},
	{name: "purge", purge: true},
	{name: "login", login: true},
	{name: "own", regenerate: true, owner: alice},
	{name: "own:a", attr: "a", regenerate: true, owner: alice},
	{name: "own:bob", regenerate: true, owner: "bob"},
	{name: "claim", attr: "a", owner: alice, claims: true},
	{name: "enter", owner: alice, enter: true},
	{name: "endall", endall: true},
	{name: "logout-all", logout: true, endall: true}, // by a request of the session
	{name: "others", others: true},
	{name: "regenerate-others", regenerate: true, others: true},
	{name: "old:a", attr: "a", old: true},
	{name: "old:read", old: true},
}

// opNamed returns an op, perhaps with how large the value is that it sets, and
// with where it runs: "change:a#5000~ahead".
func opNamed(text string) (op, error) {
	what, where, _ := strings.Cut(text, "~")
	name, size, isSized := strings.Cut(what, "#")
	i := slices.IndexFunc(ops, func(o op) bool { return o.name == name })
	if i < 0 {
		return op{}, fmt.Errorf("no such request: %q", text)
	}
	o := ops[i]
	o.name = text
	if isSized {
		var err error
		if o.size, err = strconv.Atoi(size); err != nil || o.attr == "" || o.delete || o.to != "" {
			return op{}, fmt.Errorf("no such request: %q", text)
		}
	}
	switch where {
	case "":
	case "ahead":
		o.skew = skew
	case "behind":
		o.skew = -skew
	case "shared":
		o.shared = true
	default:
		return op{}, fmt.Errorf("no such request: %q", text)
	}
	return o, nil
}

// value is what the request number i gives its attribute.
func (o op) value(i int) string {
	if o.delete || o.to != "" {
		return o.to
	}
	return fmt.Sprintf("v%d", i) + strings.Repeat("x", o.size)
}

// saves reports whether it changes the session, or ends it.
func (o op) saves() bool {
	return o.attr != "" || o.refresh || o.logout || o.regenerate || o.login || o.enter
}

// isOwners reports whether it is about owners.
func (o op) isOwners() bool { return o.owner != "" || o.endall || o.others }

// loads reports whether it is about a session that it has loaded.
func (o op) loads() bool { return !o.login && !o.enter && (!o.endall || o.logout) }

// makes reports whether there is a session under an id of its own.
func (o op) makes() bool { return o.regenerate || o.enter }

// The stores, by the word for them in a scenario's name.
const (
	ofRoot     = ""
	ofCascade  = "cascade"
	ofSCS      = "scs"
	ofSessions = "sessions" // those of the root package, with Handler
)

// stores are those that are explored with sessions of nobody; ofSessions is the
// same as ofRoot but for owners and moves.
var stores = []string{ofRoot, ofCascade, ofSCS}

// of reports whether a store can do this.
func (o op) of(store string) bool {
	switch store {
	case ofCascade:
		return !o.async && !o.claims
	case ofSCS:
		return !o.async && !o.isOwners() && !o.regenerate && !o.old // a new token is a logout and a login
	case ofSessions:
		return !o.claims && !o.old
	}
	return !o.regenerate && !o.again && !o.isOwners() // Close does not try again
}

// ofBare reports whether requests on the protocol alone can do this.
func (o op) ofBare() bool {
	return !o.refresh && !o.purge && !o.old && !o.again && !o.others && (!o.endall || !o.logout)
}

// States that a session may be in when the requests begin.
const (
	cached     = "cached"      // in both services
	evicted    = "evicted"     // in Datastore alone
	unsaved    = "unsaved"     // changed in Memcache, but not yet in Datastore
	newUnsaved = "new-unsaved" // new in Memcache, and not in Datastore, which failed
	created    = "created"     // a first request creates it; the others begin after it
	idle       = "idle"        // in both services, and about to expire
	outlived   = "outlived"    // as unsaved, and purged from Datastore meanwhile
	old        = "old"         // in both services, written by the library before this one
	oldAlone   = "old-alone"   // the same in Memcache alone
	brief      = "brief"       // in both services, and listed for less time than a change makes it live
	lapsed     = "lapsed"      // in both services, and nobody's; Alice's index, which lists nothing, has expired
)

var states = []string{cached, evicted, unsaved, newUnsaved, created, idle, outlived, old, oldAlone}

// ownedStates are those that a session may be in that has an owner.
var ownedStates = []string{cached, evicted, unsaved, brief, created}

// A scenario is a state and the requests that overlap.
type scenario struct {
	start   string
	ops     []op // with start created the first one is the login
	retries int
	only    bool   // OnlyMemcache
	of      string // the store

	database string // the backup's service; empty: App Engine's Datastore
	redis    bool   // the cache is one that goes back in time instead of Memcache
	bare     bool   // the protocol alone
	small    bool   // the services take small sessions alone
	two      bool   // each request works on another session as well
	owned    bool   // the session is Alice's
	most     int    // MaxPerOwner; 0: the default
}

// String returns what parseScenario reads: "cached change:a+logout retries=2".
func (s scenario) String() string {
	names := make([]string, len(s.ops))
	for i, o := range s.ops {
		names[i] = o.name
	}
	text := s.start + " " + strings.Join(names, "+")
	if s.database != "" {
		text += " " + s.database
	}
	if s.redis {
		text += " redis"
	}
	if s.small {
		text += " small"
	}
	if s.two {
		text += " two"
	}
	if s.owned {
		text += " owned"
	}
	if s.most > 0 {
		text += fmt.Sprintf(" most=%d", s.most)
	}
	if s.of != ofRoot {
		text += " " + s.of
	}
	if s.bare {
		text += " bare"
	}
	if s.retries > 1 && (s.of == ofRoot || s.of == ofSessions) {
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
	if !slices.Contains(states, s.start) && !slices.Contains(ownedStates, s.start) && s.start != lapsed {
		return scenario{}, fmt.Errorf("scenario %q: no such state", text)
	}
	for _, name := range strings.Split(words[1], "+") {
		o, err := opNamed(name)
		if err != nil {
			return scenario{}, err
		}
		s.ops = append(s.ops, o)
	}
	for _, w := range words[2:] {
		if w == ofSessions {
			s.of = w
		} else if w == ofCascade || w == ofSCS {
			s.of, s.retries = w, fixedRetries
		} else if w == "only" {
			s.only = true
		} else if w == "bare" {
			s.bare = true
		} else if w == "two" {
			s.two = true
		} else if w == "owned" {
			s.owned = true
		} else if w == "small" {
			s.small = true
		} else if w == "redis" {
			s.redis = true
		} else if databases[w] != nil {
			s.database = w
		} else if _, err := fmt.Sscanf(w, "most=%d", &s.most); err == nil && s.most > 0 {
			continue
		} else if _, err := fmt.Sscanf(w, "retries=%d", &s.retries); err != nil {
			return scenario{}, fmt.Errorf("scenario %q: %w", text, err)
		}
	}
	if s.of != ofRoot && (s.only || s.bare || s.of != ofSessions && s.retries != fixedRetries) {
		return scenario{}, fmt.Errorf("scenario %q: the store has no such option", text)
	}
	if s.of == ofSCS && (s.start == old || s.start == oldAlone) {
		return scenario{}, fmt.Errorf("scenario %q: there was no store before this one", text)
	}
	if s.two && (s.of != ofRoot || s.bare || s.start == created) {
		return scenario{}, fmt.Errorf("scenario %q: two sessions are of one store of the root package", text)
	}
	if !s.bare && (s.of == ofRoot || s.of == ofSCS) && (s.owned || s.most > 0 || s.start == lapsed) ||
		s.owned && !slices.Contains(ownedStates, s.start) || s.start == brief && !s.owned {
		return scenario{}, fmt.Errorf("scenario %q: no session in that state has an owner there", text)
	}
	for _, o := range s.ops {
		if o.old && s.on() != "" || o.size > 0 && !s.small {
			return scenario{}, fmt.Errorf("scenario %q: not on these services: %s", text, o.name)
		}
		if !s.can(o) {
			return scenario{}, fmt.Errorf("scenario %q: the store has no %s", text, o.name)
		}
	}
	return s, nil
}

// can reports whether a request can do this.
func (s scenario) can(o op) bool {
	if s.bare {
		return o.ofBare()
	}
	if s.owned {
		return o.of(s.of) && (o.owner != alice || o.enter) // she has logged in
	}
	return o.of(s.of) && !o.others && (!o.endall || !o.logout)
}

// on returns the words for the services, empty for App Engine's.
func (s scenario) on() string {
	on := s.database
	if s.redis {
		on += " redis"
	}
	if s.small {
		on += " small"
	}
	if s.two {
		on += " two"
	}
	return strings.TrimSpace(on)
}

func newScenario(on, of, start string, names ...string) scenario {
	if start == created {
		names = append([]string{"login"}, names...)
	}
	text := start + " " + strings.Join(names, "+") + " " + on + " " + of
	s, err := parseScenario(text)
	if err != nil {
		panic(err)
	}
	return s
}

// pairs are all pairs of requests, each with itself included, on a session in
// that state. Of pairs that differ in the names of their attributes alone there
// is one: a request that changes b is paired with those that change a. A request
// that saves again after a failure is like another one while nothing fails, and
// only a state in which c was changed is one to set it back in.
func pairs(on, of, start string) []scenario {
	var all []scenario
	var names []string
	for _, o := range ops {
		if !o.login && !o.again && !o.old && !o.isOwners() && o.of(of) &&
			(o.attr != "c" || start == unsaved || start == outlived) {
			names = append(names, o.name)
		}
	}
	for i, first := range names {
		for _, second := range names[i:] {
			if b, a := strings.HasSuffix(first, ":b") || strings.HasSuffix(second, ":b"),
				strings.HasSuffix(first, ":a") || strings.HasSuffix(second, ":a"); b && !a {
				continue
			}
			all = append(all, newScenario(on, of, start, first, second))
		}
	}
	return all
}

// unlike are pairs on instances that are not alike: their clocks differ, or one
// is of the old library.
func unlike(on, of, start string) []scenario {
	var all []scenario
	add := func(first, second string) { all = append(all, newScenario(on, of, start, first, second)) }
	hasOld := on == "" && of != ofSCS
	changes := []string{"change:a", "delete:a"}
	if of == ofRoot {
		changes = append(changes, "async:a", "async-delete:a")
	}
	for i, first := range changes {
		for _, second := range changes[i:] {
			add(first+"~ahead", second+"~behind")
			if first != second {
				add(first+"~behind", second+"~ahead")
			}
		}
		add(first+"~ahead", "logout")
		for _, o := range []string{"old:a", "old:read"} {
			if hasOld {
				add(o, first)
			}
		}
	}
	if hasOld {
		add("old:a", "read")
		add("old:a", "logout")
	}
	return all
}
