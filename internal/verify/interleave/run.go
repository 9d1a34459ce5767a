//go:build go1.25

package interleave

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	fullFlag     = flag.Bool("explore.full", false, "run every schedule of all pairs and of the selected triples, with each event at each point")
	onlyFlag     = flag.String("explore.only", "", "explore the scenarios whose name contains each of these words, but none of those that begin with !")
	scenarioFlag = flag.String("explore.scenario", "", "explore this scenario alone")
	eventsFlag   = flag.Int("explore.events", -1, "explore only with that many events")
	kindsFlag    = flag.String("explore.kinds", "", "explore with these events alone, as they are named in a trace")
	traceFlag    = flag.String("explore.trace", "", "run this schedule again, as a violation prints it")
	timeFlag     = flag.Duration("explore.time", 0, "stop exploring after this time; 0: 8s, or never with -explore.full")
	partFlag     = flag.String("explore.part", "0/1", "of the scenarios explore one in so many, beginning with that one")
	switchesFlag = flag.Int("explore.switches", unbounded, "explore only schedules that leave a request which could go on at most that often; -1: all")
	walksFlag    = flag.Int("explore.walks", 0, "random schedules; 0: 600, or 500000 with -explore.full")
	seedFlag     = flag.Uint64("explore.seed", 1, "seed of the random schedules; 0: a new one, which is printed")
)

// shortTime and ownersTime bound what a plain go test explores.
const (
	shortTime  = 8 * time.Second
	ownersTime = 4 * time.Second
)

// A job is a scenario to be explored.
type job struct {
	scenario scenario
	events   int
	walks    int // random schedules; 0: all there are
}

// databases are those that schedules can run on, by the word for them in a
// scenario's name.
var databases = map[string]func() Database{}

// Use gives a database a word in the names of scenarios.
func Use(word string, open func() Database) { databases[word] = open }

// A list is of jobs.
type list []job

func (l *list) add(events int, scenarios ...scenario) {
	for _, sc := range scenarios {
		if isChosen(sc) && (*eventsFlag < 0 || *eventsFlag == events) {
			*l = append(*l, job{scenario: sc, events: events})
		}
	}
}

func (l *list) named(events int, names ...string) {
	for _, name := range names {
		sc, err := parseScenario(name)
		if err != nil {
			panic(err)
		}
		l.add(events, sc)
	}
}

// jobs are what is explored on the services that are named, App Engine's without
// a name, but for owners. The most telling comes first: a short run does not get to
// the end.
func jobs(services []string) (all list) {
	if *scenarioFlag != "" {
		all.named(max(*eventsFlag, 0), *scenarioFlag)
		return all
	}
	for _, on := range services {
		if on == "" && !*fullFlag {
			all.named(0,
				"cached change:a~ahead+change:a~behind", "cached async:a~ahead+async-delete:a~behind",
				"cached old:a+change:a", "cached async:a~shared+change:a~shared", "old change:a+logout", "old-alone change:a+change:b",
				"cached change:a+regenerate cascade", "cached async:a+regenerate bare", "old change:a+change:b cascade", "cached old:a+change:b cascade",
				"cached change:a+change:b scs", "cached change:a+logout scs", "idle read+change:a scs")
			all.named(1,
				"unsaved read+logout", "cached change:a+change:b only", "new-unsaved read+logout", "created login+read+logout",
				"cached read+change:a retries=2", "cached read+regenerate cascade", "created login+change:a scs")
			all.named(0, "cached async:a#300+change:b#9000 small", "cached change:a#9000+change:b#9000 small")
			all.named(0, "cached async:a+async-reset:a+change:b") // it takes the longest
		}
		if !*fullFlag {
			all.named(1, "cached change:a+logout "+on, "cached async:a+read "+on)
		}
	}
	for _, start := range states {
		for _, of := range storesOf(start) {
			for _, on := range services {
				all.add(0, pairs(on, of, start)...)
				all.add(0, unlike(on, of, start)...)
			}
		}
	}
	if !*fullFlag {
		return all
	}
	for _, on := range services {
		for _, start := range states {
			all.triples(on, start)
		}
		for _, start := range states {
			all.withEvents(on, start)
		}
		all.withSizes(on)
		for _, names := range [][]string{{"change:a", "change:a"}, {"async:a", "change:a"}, {"change:a", "logout"}, {"async:a", "read"}} {
			all.add(1, newScenario(on+" two", ofRoot, cached, names...), newScenario(on+" two", ofRoot, evicted, names...))
		}
		for _, sc := range pairs(on, ofRoot, cached) {
			sc.only = true
			if sc.database == "" {
				all.add(1, sc)
			}
		}
	}
	return all
}

// storesOf are the stores whose session may be in that state.
func storesOf(start string) []string {
	if start == old || start == oldAlone {
		return []string{ofRoot, ofCascade} // there was none before scsstore's
	}
	return stores
}

// triples adds three requests at once, without events.
func (l *list) triples(on, start string) {
	for _, requests := range [][]string{
		{"read", "change:a", "change:b"}, {"read", "change:a", "logout"}, {"read", "delete:a", "change:a"},
		{"read", "read", "logout"}, {"read", "logout", "purge"}, {"change:a", "logout", "logout"},
		{"change:a", "reset:a", "change:b"}, {"change:a", "reset:a", "read"},
	} {
		for _, of := range storesOf(start) {
			l.add(0, newScenario(on, of, start, requests...))
		}
	}
	for _, requests := range [][]string{
		{"read", "async:a", "change:b"}, {"read", "async:a", "async:b"}, {"read", "async:a", "logout"},
		{"async:a", "async-reset:a", "change:b"}, {"async:a", "async-reset:a", "async:b"},
		{"async:a", "reset:a", "async-delete:a"}, {"async:a", "async-delete:a", "read"},
	} {
		l.add(0, newScenario(on, ofRoot, start, requests...))
	}
	for _, requests := range []string{"async:a+regenerate", "async-delete:a+regenerate", "async:a+async:b+regenerate", "read+async:a+regenerate", "logout+async:a+regenerate"} {
		if start != created && start != idle {
			l.named(0, start+" "+requests+" bare "+on)
		}
	}
	for _, requests := range [][]string{{"read", "change:a", "regenerate"}, {"logout", "change:a", "regenerate"}} {
		l.add(0, newScenario(on, ofCascade, start, requests...))
	}
}

// withSizes adds changes that reach the limits of small services: pairs with an
// event, and three of them without.
func (l *list) withSizes(on string) {
	for _, start := range []string{cached, unsaved, evicted} {
		for _, of := range stores {
			var firsts, seconds []string
			for _, size := range sizes {
				firsts = append(firsts, fmt.Sprint("change:a#", size))
				seconds = append(seconds, fmt.Sprint("change:b#", size))
				switch of {
				case ofRoot:
					firsts = append(firsts, fmt.Sprint("async:a#", size))
					seconds = append(seconds, fmt.Sprint("async:b#", size))
				case ofCascade:
					firsts = append(firsts, fmt.Sprint("regenerate:a#", size))
				}
			}
			for _, first := range firsts {
				for _, second := range append(seconds, "read", "delete:a", "reset:a", "refresh", "logout") {
					l.add(1, newScenario(on+" small", of, start, first, second))
				}
			}
		}
		for _, triple := range [][]string{
			{"async:a#300", "async:b#300", "read"}, {"async:a#300", "async:b#300", "change:b#9000"}, {"async:a#300", "change:b#9000", "read"},
			{"change:a#5000", "change:b#5000", "async:a#5000"}, {"change:a#9000", "change:b#9000", "delete:a"},
		} {
			l.add(0, newScenario(on+" small", ofRoot, start, triple...))
		}
	}
}

// ownerJobs are what is explored with owners: all pairs of requests that are about
// them and of these with others. With -explore.full they are followed by three
// requests, and by pairs with an event. A short run has a random schedule of each,
// in an order of -explore.seed, and does not get to the end.
func ownerJobs(services []string) (all list) {
	for _, events := range []int{0, 1} {
		if events > 0 && !*fullFlag {
			break
		}
		for _, on := range services {
			for _, of := range []string{"bare", ofSessions, ofCascade} {
				all.withOwners(on+" "+of, events)
			}
		}
	}
	if *fullFlag || *onlyFlag != "" {
		return all
	}
	// A short run has some of all of them.
	for i := range all {
		all[i].walks = 1
	}
	rand.New(rand.NewPCG(uint64(*seedFlag), 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var first list
	first.named(0, "cached own+endall bare "+services[0], "brief change:a+endall owned bare "+services[0],
		"cached change:a+endall owned sessions "+services[0], "cached endall+read owned cascade "+services[0])
	return append(first, all...)
}

// withOwners adds pairs of requests about owners, and, without events, three of
// them.
func (l *list) withOwners(on string, events int) {
	requests := func(where, start string, names ...string) {
		if sc, err := parseScenario(start + " " + strings.Join(names, "+") + " " + where + " " + on); err == nil { // the store can do that
			l.add(events, sc)
		}
	}
	pairs := func(where, start string, firsts []string, others ...string) {
		for i, first := range firsts {
			for _, second := range slices.Concat(firsts[i:], others) {
				if start == created {
					requests(where, start, "login", first, second)
				} else {
					requests(where, start, first, second)
				}
			}
		}
	}
	others := []string{"read", "change:a", "async:a", "refresh", "logout", "purge"}
	for _, start := range ownedStates {
		pairs("owned", start, []string{"endall", "logout-all", "others", "regenerate-others", "enter", "own:bob", "regenerate:a"}, others...)
		if start != brief {
			pairs("", start, []string{"endall", "enter", "own", "own:a", "claim"}, append(others, "regenerate:a")...)
		}
	}
	for _, start := range []string{cached, evicted} {
		pairs("owned most=1", start, []string{"enter"}, append(others, "enter", "endall", "others", "regenerate:a")...)
		pairs("most=1", start, []string{"own"}, "own", "enter", "endall", "logout")
		requests("owned most=2", start, "enter", "enter")
	}
	pairs("", lapsed, []string{"purge"}, "own", "enter", "endall", "purge")
	if events > 0 || !*fullFlag {
		return
	}
	for _, start := range ownedStates {
		for _, names := range [][]string{
			{"endall", "regenerate", "read"}, {"endall", "regenerate", "change:a"}, {"endall", "regenerate", "logout"}, {"endall", "regenerate", "enter"},
			{"endall", "endall", "regenerate"}, {"endall", "change:a", "logout"}, {"endall", "own:bob", "read"}, {"regenerate", "enter", "logout"},
			{"others", "regenerate", "enter"}, {"regenerate-others", "enter", "logout"}, {"logout-all", "regenerate", "enter"}, {"others", "change:a", "logout"},
		} {
			requests("owned", start, names...)
		}
	}
	for _, start := range []string{cached, evicted} {
		for _, names := range [][]string{{"endall", "own", "own"}, {"endall", "own", "logout"}, {"endall", "own", "read"}, {"endall", "claim", "own"}, {"own", "own:a", "logout"}} {
			requests("", start, names...)
		}
		for _, names := range [][]string{{"enter", "enter", "enter"}, {"enter", "enter", "logout"}, {"enter", "enter", "endall"}, {"enter", "enter", "read"}, {"enter", "enter", "regenerate"}} {
			requests("owned most=2", start, names...)
		}
	}
	for _, names := range [][]string{{"purge", "own", "enter"}, {"purge", "enter", "endall"}} {
		requests("", lapsed, names...)
	}
}

// withEvents adds pairs with an event.
func (l *list) withEvents(on, start string) {
	for _, of := range storesOf(start) {
		l.add(1, pairs(on, of, start)...)
		l.add(1, unlike(on, of, start)...)
		for _, other := range []string{"read", "change:b", "again:a", "logout"} {
			if of != ofRoot {
				l.add(1, newScenario(on, of, start, "again:a", other))
			}
			if of == ofCascade {
				l.add(1, newScenario(on, of, start, "again-regenerate", other))
			}
		}
	}
	if start == cached || start == unsaved || start == evicted {
		for _, other := range []string{"async:a", "async-delete:a", "change:a", "read", "logout", "regenerate"} {
			l.named(1, start+" "+other+"+regenerate:a bare "+on)
		}
	}
	if start == cached || start == evicted {
		for _, sc := range pairs(on, ofRoot, start) {
			sc.retries = 2
			l.add(1, sc)
		}
	}
}

// isChosen reports whether -explore.only chooses the scenario.
func isChosen(sc scenario) bool {
	name := sc.String()
	return !slices.ContainsFunc(strings.Fields(*onlyFlag), func(w string) bool {
		without, not := strings.CutPrefix(w, "!")
		return strings.Contains(name, without) == not
	})
}

// Schedules explores pairs of requests without events, and some with one at every
// point; with -explore.full all pairs with one, and triples. Services are words in
// the names of scenarios, empty for App Engine's.
func Schedules(t *testing.T, services ...string) { schedules(t, shortTime, jobs(services)) }

// Owners explores pairs of requests about owners, as Schedules does.
func Owners(t *testing.T, services ...string) {
	if *scenarioFlag != "" {
		t.Skip("-explore.scenario")
	}
	schedules(t, ownersTime, ownerJobs(services))
}

func schedules(t *testing.T, short time.Duration, all list) {
	if *traceFlag != "" {
		t.Skip("-explore.trace")
	}
	prepare(t)
	ctx := context.Background()
	switch {
	case *timeFlag > 0:
		ctx = within(t, *timeFlag)
	case !*fullFlag && *onlyFlag == "" && *scenarioFlag == "":
		ctx = within(t, short)
	}
	var part, of int
	if _, err := fmt.Sscanf(*partFlag, "%d/%d", &part, &of); err != nil || of < 1 {
		t.Fatalf("-explore.part=%s", *partFlag)
	}
	var total stats
	begin := time.Now()
	for i, j := range all {
		switch {
		case i%of != part:
			continue
		case ctx.Err() != nil:
			total.Unreached++
			continue
		}
		x := &explorer{scenario: j.scenario, events: j.events, evict: *fullFlag, most: 3, switches: *switchesFlag, walks: j.walks}
		if j.walks > 0 {
			x.random = rand.New(rand.NewPCG(uint64(*seedFlag), uint64(i)))
		}
		started := time.Now()
		x.explore(t, ctx)
		for _, v := range x.found {
			t.Errorf("%v", v)
		}
		if *fullFlag {
			t.Logf("%v, %d events: %v, %v", j.scenario, j.events, time.Since(started).Round(time.Millisecond), x.stats)
		}
		total.add(x.stats)
	}
	total.Time = time.Since(begin)
	t.Logf("%v", total)
	if *fullFlag {
		t.Logf("not run: %d of %d scenarios not reached, %d cut short, %d in other parts", total.Unreached, len(all), total.Unfinished,
			len(all)-total.Scenarios-total.Unreached)
	}
}

// Walks runs schedules at random, of two to four requests with up to three events.
func Walks(t *testing.T, services ...string) {
	if *traceFlag != "" {
		t.Skip("-explore.trace")
	}
	prepare(t)
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	walks := *walksFlag
	if walks == 0 {
		walks = 600
		if *fullFlag {
			walks = 500000
		} else if isSlow {
			walks = 100
		}
	}
	t.Logf("-explore.seed=%d -explore.walks=%d", seed, walks)
	const perScenario = 20
	random := rand.New(rand.NewPCG(seed, 0))
	var total stats
	begin := time.Now()
	for total.Schedules < walks && total.Violations < 10 {
		sc := randomScenario(random, services[random.IntN(len(services))])
		x := &explorer{scenario: sc, events: random.IntN(4), evict: true, random: random, walks: perScenario, most: 1}
		if !isChosen(sc) {
			continue
		}
		x.explore(t, context.Background())
		for _, v := range x.found {
			t.Errorf("%v", v)
		}
		total.add(x.stats)
	}
	total.Time = time.Since(begin)
	t.Log(total)
}

func randomScenario(random *rand.Rand, on string) scenario {
	start := states[random.IntN(len(states))]
	of := stores[random.IntN(len(stores))]
	isBare := of == ofRoot && random.IntN(3) == 0
	isSmall := random.IntN(3) == 0
	if (isBare || of == ofSCS) && (start == old || start == oldAlone) {
		start = evicted // its sessions without a trailer do not say when they end
	}
	if of == ofRoot && !isBare && random.IntN(2) == 0 {
		of = ofSessions
	}
	hasOwners := isBare || of == ofCascade || of == ofSessions
	isOwned := hasOwners && random.IntN(2) == 0
	if isOwned {
		start = ownedStates[random.IntN(len(ownedStates))]
	}
	var able, names []string
	for _, o := range ops {
		if !o.login && !o.old && (scenario{of: of, bare: isBare, owned: isOwned}).can(o) {
			able = append(able, o.name)
		}
	}
	if isSmall {
		on = strings.TrimSpace(on + " small")
	}
	if !isBare && of == ofRoot && start != created && random.IntN(4) == 0 {
		on = strings.TrimSpace(on + " two")
	}
	if isOwned {
		on = strings.TrimSpace(on + " owned")
	}
	if isBare {
		on = strings.TrimSpace(on + " bare")
	}
	if hasOwners && random.IntN(6) == 0 {
		on = strings.TrimSpace(on + fmt.Sprint(" most=", 1+random.IntN(2)))
	}
	for range 2 + random.IntN(3) {
		name := able[random.IntN(len(able))]
		if o, err := opNamed(name); isSmall && err == nil && o.attr != "" && !o.delete && o.to == "" {
			name += fmt.Sprint("#", sizes[random.IntN(len(sizes))])
		}
		switch random.IntN(20) {
		case 0:
			name += "~ahead"
		case 1:
			name += "~behind"
		case 2, 3:
			name += "~shared"
		case 4:
			if on == "" && of != ofSCS && of != ofSessions {
				name = []string{"old:a", "old:read"}[random.IntN(2)]
			}
		}
		names = append(names, name)
	}
	sc := newScenario(on, of, start, names...)
	if of == ofRoot || of == ofSessions {
		sc.retries = 1 + random.IntN(2)
	}
	return sc
}

// Replay runs the schedule of -explore.trace again.
func Replay(t *testing.T) {
	if *traceFlag == "" {
		t.Skip("no -explore.trace")
	}
	prepare(t)
	sc, tr, err := parseTrace(*traceFlag)
	if err != nil {
		t.Fatal(err)
	}
	if w := replay(t, sc, breach{}, tr, t.Logf); w.violation != nil {
		t.Errorf("%v", violation{sc, w.trace, w.switches, w.violation})
	}
}
