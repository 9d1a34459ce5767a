//go:build go1.25

package interleave

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	fullFlag  = flag.Bool("explore.full", false, "run every schedule of all pairs and of the selected triples, with each event at each point")
	onlyFlag  = flag.String("explore.only", "", "explore the scenarios whose name contains each of these words, but none of those that begin with !")
	traceFlag = flag.String("explore.trace", "", "run this schedule again, as a violation prints it")
	timeFlag  = flag.Duration("explore.time", 0, "stop exploring after this time; 0: 40s, or never with -explore.full")
	walksFlag = flag.Int("explore.walks", 0, "random schedules; 0: 2000, or 200000 with -explore.full")
	seedFlag  = flag.Uint64("explore.seed", 1, "seed of the random schedules; 0: a new one, which is printed")
)

// shortTime bounds what a plain go test explores with events.
const shortTime = 40 * time.Second

// backgroundSaves is held by who runs schedules with background saves: the
// process counts these in one place, which two bubbles must not share.
var backgroundSaves sync.Mutex

// A job is a scenario to be explored.
type job struct {
	scenario scenario
	events   int
	rare     bool // only with -explore.full
}

func jobs() []job {
	var all []job
	add := func(events int, rare bool, scenarios ...scenario) {
		for _, sc := range scenarios {
			if isChosen(sc) {
				all = append(all, job{sc, events, rare})
			}
		}
	}
	// What a short run may not get to comes last.
	for _, name := range []string{
		"cached read+change:a", "cached change:a+logout", "cached read+async:a", "cached logout+async:a",
		"cached logout+purge", "evicted read+read", "evicted read+logout", "evicted logout+logout",
		"cached change:a+change:b only", "cached change:a+logout only",
		"idle change:a+purge", "outlived read+change:a",
		"ahead read+logout", "unsaved read+logout", "created login+read+logout", "cached read+change:a retries=2",
		"cached read+change:a cascade", "cached read+logout cascade", "cached read+regenerate cascade",
		"cached logout+purge cascade", "created login+read+logout cascade",
	} {
		sc, err := parseScenario(name)
		if err != nil {
			panic(err)
		}
		add(1, false, sc)
	}
	for _, isCascade := range []bool{false, true} {
		for _, start := range states {
			for _, sc := range pairs(start, isCascade) {
				add(0, isCascade && sc.isLong(), sc)
			}
		}
	}
	for _, sc := range pairs(cached, false) {
		sc.only = true
		add(1, true, sc)
	}
	for _, start := range states {
		add(1, true, pairs(start, false)...)
		add(1, true, pairs(start, true)...)
		for _, requests := range [][]string{
			{"read", "change:a", "change:b"}, {"read", "change:a", "logout"}, {"read", "delete:a", "change:a"},
			{"read", "async:a", "change:b"}, {"read", "async:a", "async:b"}, {"read", "async:a", "logout"},
			{"async:a", "reset:a", "change:b"}, {"async:a", "reset:a", "async:b"}, {"read", "read", "logout"},
			{"read", "logout", "purge"}, {"change:a", "logout", "logout"},
		} {
			if start == cached || start == evicted || start == ahead || start == unsaved {
				add(0, true, newScenario(false, start, requests...))
			}
		}
		for _, requests := range [][]string{
			{"read", "again:a"}, {"change:b", "again:a"}, {"again:a", "again:a"}, {"again:a", "logout"}, {"again:a", "regenerate"},
		} {
			if start == cached || start == evicted || start == ahead || start == unsaved {
				add(1, true, newScenario(true, start, requests...))
			}
		}
		for _, requests := range [][]string{
			{"read", "change:a", "change:b"}, {"read", "change:a", "logout"}, {"read", "delete:a", "change:a"},
			{"read", "change:a", "regenerate"}, {"logout", "change:a", "regenerate"}, {"read", "read", "logout"},
			{"read", "logout", "purge"}, {"change:a", "logout", "logout"},
		} {
			if start == cached || start == evicted || start == ahead || start == unsaved {
				add(0, true, newScenario(true, start, requests...))
			}
		}
	}
	for _, start := range []string{cached, evicted} {
		for _, sc := range pairs(start, false) {
			sc.retries = 2
			add(1, true, sc)
		}
	}
	return all
}

// isChosen tells that -explore.only chooses the scenario.
func isChosen(sc scenario) bool {
	name := sc.String()
	return !slices.ContainsFunc(strings.Fields(*onlyFlag), func(w string) bool {
		without, not := strings.CutPrefix(w, "!")
		return strings.Contains(name, without) == not
	})
}

// TestPromisesHoldInEverySchedule explores all pairs without events, on
// cascadestore's store those that are not long, and some with one at every point;
// with -explore.full all pairs with one, and triples.
func TestPromisesHoldInEverySchedule(t *testing.T) {
	if *traceFlag != "" {
		t.Skip("-explore.trace")
	}
	ctx := context.Background()
	switch {
	case *timeFlag > 0:
		ctx = within(t, *timeFlag)
	case !*fullFlag:
		ctx = within(t, shortTime)
	}
	all := slices.DeleteFunc(jobs(), func(j job) bool {
		return j.rare && !*fullFlag || !*fullFlag && isSlow && j.events > 0
	})
	total := exploreAll(t, ctx, all)
	t.Logf("%v", total)
	if total.Unfinished > 0 && *fullFlag && *timeFlag == 0 {
		t.Errorf("%d scenarios were cut short", total.Unfinished)
	}
}

// exploreAll explores scenarios in two goroutines: background saves of two
// schedules cannot go on at once, so one begins with those that have some.
func exploreAll(t *testing.T, ctx context.Context, all []job) (total stats) {
	begin := time.Now()
	var mu sync.Mutex
	next := func(async bool) (job, bool) {
		mu.Lock()
		defer mu.Unlock()
		i := slices.IndexFunc(all, func(j job) bool { return j.scenario.async() == async })
		if i < 0 && len(all) > 0 {
			i = 0
		}
		if i < 0 {
			return job{}, false
		}
		j := all[i]
		all = slices.Delete(all, i, i+1)
		return j, true
	}
	t.Run("", func(t *testing.T) {
		for _, async := range []bool{false, true} {
			t.Run(fmt.Sprintf("async=%v", async), func(t *testing.T) {
				t.Parallel()
				for {
					j, ok := next(async)
					if !ok {
						return
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
					mu.Lock()
					total.add(x.stats)
					mu.Unlock()
				}
			})
		}
	})
	total.Time = time.Since(begin)
	return total
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
		walks = 2000
		if *fullFlag {
			walks = 200000
		} else if isSlow {
			walks = 200
		}
	}
	t.Logf("-explore.seed=%d -explore.walks=%d", seed, walks)
	const perScenario = 20
	random := rand.New(rand.NewPCG(seed, 0))
	var total stats
	begin := time.Now()
	for total.Schedules < walks && total.Violations < 10 {
		x := &explorer{scenario: randomScenario(random), events: random.IntN(4), random: random, walks: perScenario, most: 1}
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
		if o.of(isCascade) && !o.login {
			able = append(able, o.name)
		}
	}
	if start == created {
		names = append(names, "login")
	}
	for range 2 + random.IntN(3) {
		names = append(names, able[random.IntN(len(able))])
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

// TestSchedulesThatBrokeAPromise runs again what random walks have found.
func TestSchedulesThatBrokeAPromise(t *testing.T) {
	for name, text := range map[string]string{
		"an asynchronous change, in Memcache though the call failed, is rebased on itself": "created login+reset:a+purge+async:a+reset:a: " +
			"0.set:value 0.ds-put 1.get 3.get 2.start 2.query ambiguous(3.cas:ahead) 3.begin 3.cas:lock 3.get 3.txn-get evict 4.get 4.ds-get " +
			"4.add:lock 4.ds-get 4.get 4.cas:value 3.cas:lock 3.get 3.cas:lock 3.get 3.txn-put 3.commit 3.cas:value",
		"the same, among others": "idle change:b+change:b+reset:a+async:a: 0.get 0.begin 3.get 2.get 2.begin 0.txn-get ambiguous(3.cas:ahead) " +
			"3.begin 3.cas:lock 2.txn-get 3.txn-get ambiguous(0.cas:lock) 0.txn-put 0.commit fail(1.get) 3.get 0.delete 1.ds-get 1.begin " +
			"1.txn-get 1.add:lock 3.cas:lock 2.cas:lock 3.get 3.cas:lock 3.get 3.txn-put 1.get 1.txn-put 2.get 2.cas:lock 1.commit 1.delete " +
			"3.commit 3.begin 2.get 2.txn-put 2.commit 2.begin 3.txn-get 3.txn-put 2.txn-get 2.txn-put 3.commit 3.cas:value 2.commit 2.begin " +
			"2.txn-get 2.txn-put 2.commit 2.delete",
		"a change is rebased on another's that did the same and was not saved: first without a base": "unsaved refresh+purge+delete:a+delete:a: 3.get 3.begin 0.get 0.begin 3.txn-get 2.get 2.begin 1.start 2.txn-get " +
			"3.cas:lock 3.get fail(3.txn-put) 3.rollback 1.query 3.cas:ahead 0.txn-get 2.cas:lock 2.get ambiguous(0.cas:lock) " +
			"0.txn-put 2.cas:lock 0.commit 2.get 2.txn-put 2.commit 2.begin 2.txn-get 2.txn-put fail(0.delete) 2.commit 2.cas:value",
		"the same, and the other's is dropped from Memcache": "ahead refresh+delete:a+async:b+delete:a retries=2: 0.get 0.begin 2.get 2.begin 3.get 3.begin 0.cas:lock 3.cas:lock " +
			"3.txn-get 0.txn-get 2.cas:lock 2.get 3.get 0.get 0.txn-put 2.txn-get 1.get fail(1.begin) fail(1.begin) 2.get " +
			"1.add:lock 1.get 3.get 0.commit 0.cas:settled 2.get 2.cas:lock 1.get 3.get 2.get 2.txn-put 1.cas:lock 3.cas:lock " +
			"2.commit 2.begin 1.get 1.cas:ahead 2.txn-get 2.txn-put 2.commit 3.get 2.cas:settled 2.delete 3.cas:lock 3.add:lock " +
			"3.get 3.txn-put 3.commit 3.begin 3.txn-get 3.txn-put 3.commit 3.cas:value",
	} {
		t.Run(name, func(t *testing.T) {
			sc, tr, err := parseTrace(text)
			if err != nil {
				t.Fatal(err)
			}
			backgroundSaves.Lock()
			defer backgroundSaves.Unlock()
			if w := replay(t, sc, nil, tr, t.Logf); w.violation != nil {
				t.Error(w.violation)
			}
		})
	}
}

func TestTracesAreReadAsTheyArePrinted(t *testing.T) {
	for _, text := range []string{
		"created login+change:a+logout retries=2 only: 0.get 1.cas:lock fail(1.txn-put) ambiguous(0.commit) crash(2) flush evict minute expiry",
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
