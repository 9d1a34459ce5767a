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
	walksFlag    = flag.Int("explore.walks", 0, "random schedules; 0: 600, or 500000 with -explore.full")
	seedFlag     = flag.Uint64("explore.seed", 1, "seed of the random schedules; 0: a new one, which is printed")
)

// shortTime bounds what a plain go test explores.
const shortTime = 8 * time.Second

// A job is a scenario to be explored.
type job struct {
	scenario scenario
	events   int
}

// jobs are what is explored, the most telling first: a short run does not get to
// the end.
func jobs() (all []job) {
	add := func(events int, scenarios ...scenario) {
		for _, sc := range scenarios {
			if isChosen(sc) && (*eventsFlag < 0 || *eventsFlag == events) {
				all = append(all, job{sc, events})
			}
		}
	}
	named := func(events int, names ...string) {
		for _, name := range names {
			sc, err := parseScenario(name)
			if err != nil {
				panic(err)
			}
			add(events, sc)
		}
	}
	if *scenarioFlag != "" {
		named(max(*eventsFlag, 0), *scenarioFlag)
		return all
	}
	if !*fullFlag {
		named(0,
			"cached async:a+async-reset:a+change:b", "cached change:a~ahead+change:a~behind", "cached async:a~ahead+async-delete:a~behind",
			"cached old:a+change:a", "cached async:a~shared+change:a~shared", "old change:a+logout", "old-alone change:a+change:b",
			"cached change:a+regenerate cascade", "cached async:a+regenerate bare", "old change:a+change:b cascade", "cached old:a+change:b cascade")
		named(1,
			"cached change:a+logout", "cached async:a+read", "unsaved read+logout", "cached change:a+change:b only",
			"new-unsaved read+logout", "created login+read+logout", "cached read+change:a retries=2", "cached read+regenerate cascade")
	}
	for _, start := range states {
		for _, isCascade := range []bool{false, true} {
			add(0, pairs(start, isCascade)...)
			add(0, unlike(start, isCascade)...)
		}
	}
	if !*fullFlag {
		return all
	}
	for _, start := range states {
		for _, requests := range [][]string{
			{"read", "change:a", "change:b"}, {"read", "change:a", "logout"}, {"read", "delete:a", "change:a"},
			{"read", "read", "logout"}, {"read", "logout", "purge"}, {"change:a", "logout", "logout"},
			{"change:a", "reset:a", "change:b"}, {"change:a", "reset:a", "read"},
		} {
			add(0, newScenario(false, start, requests...), newScenario(true, start, requests...))
		}
		for _, requests := range [][]string{
			{"read", "async:a", "change:b"}, {"read", "async:a", "async:b"}, {"read", "async:a", "logout"},
			{"async:a", "async-reset:a", "change:b"}, {"async:a", "async-reset:a", "async:b"},
			{"async:a", "reset:a", "async-delete:a"}, {"async:a", "async-delete:a", "read"},
		} {
			add(0, newScenario(false, start, requests...))
		}
		for _, requests := range []string{"async:a+regenerate", "async-delete:a+regenerate", "async:a+async:b+regenerate", "read+async:a+regenerate", "logout+async:a+regenerate"} {
			if start != created && start != idle {
				named(0, start+" "+requests+" bare")
			}
		}
		for _, requests := range [][]string{{"read", "change:a", "regenerate"}, {"logout", "change:a", "regenerate"}} {
			add(0, newScenario(true, start, requests...))
		}
	}
	for _, start := range states {
		for _, isCascade := range []bool{false, true} {
			add(1, pairs(start, isCascade)...)
			add(1, unlike(start, isCascade)...)
			for _, other := range []string{"read", "change:b", "again:a", "logout"} {
				add(1, newScenario(isCascade, start, "again:a", other))
			}
		}
		for _, other := range []string{"async:a", "async-delete:a", "change:a", "read"} {
			if start == cached || start == unsaved || start == evicted {
				named(1, start+" "+other+"+regenerate bare")
			}
		}
		for _, sc := range pairs(start, false) {
			sc.retries = 2
			if start == cached || start == evicted {
				add(1, sc)
			}
		}
	}
	for _, sc := range pairs(cached, false) {
		sc.only = true
		add(1, sc)
	}
	return all
}

// isChosen reports whether -explore.only chooses the scenario.
func isChosen(sc scenario) bool {
	name := sc.String()
	return !slices.ContainsFunc(strings.Fields(*onlyFlag), func(w string) bool {
		without, not := strings.CutPrefix(w, "!")
		return strings.Contains(name, without) == not
	})
}

// TestPromisesHoldInEverySchedule explores pairs without events, and some with
// one at every point; with -explore.full all pairs with one, and triples.
func TestPromisesHoldInEverySchedule(t *testing.T) {
	if *traceFlag != "" {
		t.Skip("-explore.trace")
	}
	ctx := context.Background()
	switch {
	case *timeFlag > 0:
		ctx = within(t, *timeFlag)
	case !*fullFlag && *onlyFlag == "" && *scenarioFlag == "":
		ctx = within(t, shortTime)
	}
	var part, of int
	if _, err := fmt.Sscanf(*partFlag, "%d/%d", &part, &of); err != nil || of < 1 {
		t.Fatalf("-explore.part=%s", *partFlag)
	}
	var total stats
	begin := time.Now()
	for i, j := range jobs() {
		if i%of != part {
			continue
		}
		x := &explorer{scenario: j.scenario, events: j.events, evict: *fullFlag, most: 3}
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
	if total.Unfinished > 0 && *fullFlag && *timeFlag == 0 {
		t.Errorf("%d scenarios were cut short", total.Unfinished)
	}
}

// TestPromisesHoldInRandomWalks runs schedules at random, of two to four
// requests with up to three events.
func TestPromisesHoldInRandomWalks(t *testing.T) {
	if *traceFlag != "" {
		t.Skip("-explore.trace")
	}
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
		sc := randomScenario(random)
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

func randomScenario(random *rand.Rand) scenario {
	start := states[random.IntN(len(states))]
	isCascade := random.IntN(2) == 0
	var able, names []string
	for _, o := range ops {
		if o.of(isCascade) && !o.login && !o.old {
			able = append(able, o.name)
		}
	}
	for range 2 + random.IntN(3) {
		name := able[random.IntN(len(able))]
		switch random.IntN(20) {
		case 0:
			name += "~ahead"
		case 1:
			name += "~behind"
		case 2, 3:
			name += "~shared"
		case 4:
			name = []string{"old:a", "old:read"}[random.IntN(2)]
		}
		names = append(names, name)
	}
	sc := newScenario(isCascade, start, names...)
	if !isCascade {
		sc.retries = 1 + random.IntN(2)
	}
	return sc
}

func TestReplay(t *testing.T) {
	if *traceFlag == "" {
		t.Skip("no -explore.trace")
	}
	sc, tr, err := parseTrace(*traceFlag)
	if err != nil {
		t.Fatal(err)
	}
	if w := replay(t, sc, nil, tr, t.Logf); w.violation != nil {
		t.Errorf("%v", violation{sc, w.trace, w.violation})
	}
}

// TestSchedulesThatBrokeAPromise runs again what was found in the code, and in
// code without one of its rules.
func TestSchedulesThatBrokeAPromise(t *testing.T) {
	for name, text := range map[string]string{
		"an asynchronous change that finds no item keeps a time from before": "old change:a+async:a: 1.get 0.get 0.begin 0.txn-get 0.txn-put " +
			"0.commit 0.cas:value 1.cas:unsaved evict 1.get 1.begin 1.txn-get",
		"the same, and the other's background save is late": "old-alone async:b+async:b+reset:a: 1.get 0.get 0.cas:unsaved 0.begin 2.get " +
			"1.cas:unsaved evict 2.cas:unsaved 1.get 1.begin 1.txn-get 1.txn-put 0.txn-get 0.txn-put 1.commit",
		"a session that does not say when it ends is dropped from Memcache by a read": "old-alone delete:a+reset:a+read+reset:a cascade: " +
			"1.get 3.get 0.get 2.get",
		"a change keeps its time though it was not tried": "cached change:a~behind+change:a cascade: 0.get 1.get 1.begin 1.txn-put 1.txn-get " +
			"1.commit 1.cas:value 0.begin 0.txn-put fail(0.txn-get)",
		"an asynchronous change while the session moves": "cached async:a+regenerate bare: 0.get 1.get 1.cas:sealed 1.begin 1.txn-put " +
			"0.cas:unsaved 0.get",
	} {
		t.Run(name, func(t *testing.T) {
			sc, tr, err := parseTrace(text)
			if err != nil {
				t.Fatal(err)
			}
			if w := replay(t, sc, nil, tr, t.Logf); w.violation != nil {
				t.Error(w.violation)
			}
		})
	}
}

func TestTracesAreReadAsTheyArePrinted(t *testing.T) {
	for _, text := range []string{
		"created login+change:a~ahead+logout retries=2 only: 0.get 1.cas:lease fail(1.txn-put) lost(0.commit) crash(2) outage(memcache) flush evict minute expiry",
		"cached again:a+regenerate cascade: 0.get down(1.ds-get) cut(0.commit) fail(0.begin)",
	} {
		sc, tr, err := parseTrace(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%v: %v", sc, tr); got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
}
