//go:build go1.25

package interleave

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/gaelocal"
)

// stats are the numbers of an exploration.
type stats struct {
	Scenarios  int
	Schedules  int // run, to their end or to a state known already
	Ends       int // run to their end and judged
	States     int
	Steps      int
	Events     int // schedules with at least one event
	Violations int
	Lost       int // schedules that could not be repeated
	Unfinished int // scenarios whose search was cut short
	Unreached  int // scenarios that it did not get to
	Beyond     int // choices left out, as they were a switch too many
	Time       time.Duration
}

func (s *stats) add(t stats) {
	s.Scenarios += t.Scenarios
	s.Schedules += t.Schedules
	s.Ends += t.Ends
	s.States += t.States
	s.Steps += t.Steps
	s.Events += t.Events
	s.Violations += t.Violations
	s.Lost += t.Lost
	s.Unfinished += t.Unfinished
	s.Unreached += t.Unreached
	s.Beyond += t.Beyond
}

func (s stats) String() string {
	text := fmt.Sprintf("%d scenarios, %d schedules (%d with events), %d states, %d steps, %d ends judged, %d violations",
		s.Scenarios, s.Schedules, s.Events, s.States, s.Steps, s.Ends, s.Violations)
	if s.Lost > 0 {
		text += fmt.Sprintf(", %d schedules not repeatable", s.Lost)
	}
	if s.Unfinished > 0 {
		text += fmt.Sprintf(", %d scenarios cut short", s.Unfinished)
	}
	if s.Unreached > 0 {
		text += fmt.Sprintf(", %d scenarios not reached", s.Unreached)
	}
	if s.Beyond > 0 {
		text += fmt.Sprintf(", %d choices left out as a switch too many", s.Beyond)
	}
	if s.Time > 0 {
		text += fmt.Sprintf(", %v", s.Time.Round(time.Millisecond))
	}
	return text
}

// A violation is a schedule that breaks a promise.
type violation struct {
	scenario scenario
	trace    trace
	switches int
	err      error
}

func (v violation) String() string {
	return fmt.Sprintf("%v, after %d switches\n  -explore.trace='%v: %v'", v.err, v.switches, v.scenario, v.trace)
}

// An explorer walks the schedules of one scenario.
type explorer struct {
	scenario scenario
	breach   breach
	events   int  // in a schedule, at most
	evict    bool // as an event of its own: with one session it is the same as a flush
	random   *rand.Rand
	walks    int
	most     int          // violations, before the search ends
	switches int          // in a schedule, at most; unbounded: as many as there are
	forgets  bool         // known states are followed up again
	atEnd    func(*world) // if not nil, sees every schedule that runs to its end

	stacks  [][]trace // prefixes to be followed up, by their switches
	visited map[stateKey]arrival
	stats   stats
	found   []violation
}

// unbounded is for a search that does not count switches.
const unbounded = -1

// An arrival says with how few switches a state was reached, and after a call of
// which requests then: bit 0 stands for none that could go on, bit 1 for the first.
type arrival struct {
	switches int
	after    uint
}

// schedulesPerServer bounds what a server keeps of requests that crashed.
const schedulesPerServer = 1000

// explore runs all schedules, or stops at a deadline.
func (x *explorer) explore(t *testing.T, ctx context.Context) {
	x.stats.Scenarios = 1
	x.visited = map[stateKey]arrival{}
	if x.random == nil {
		x.stacks = [][]trace{{nil}}
	}
	for x.more() && ctx.Err() == nil {
		x.batch(t, ctx)
	}
	if x.more() || x.lowest() >= 0 {
		x.stats.Unfinished = 1
	}
	x.stats.States = len(x.visited)
	x.stats.Violations = len(x.found)
}

func (x *explorer) more() bool {
	if len(x.found) >= x.most {
		return false
	}
	if x.random != nil {
		return x.stats.Schedules < x.walks
	}
	return x.lowest() >= 0
}

// lowest is the smallest number of switches that a prefix has which is to be
// followed up; -1: there is none.
func (x *explorer) lowest() int {
	return slices.IndexFunc(x.stacks, func(s []trace) bool { return len(s) > 0 })
}

// push leaves for later what begins with a schedule so far and a choice, unless that
// is a switch too many.
func (x *explorer) push(w *world, c choice, switches int) {
	if x.switches == unbounded {
		switches = 0
	} else if switches > x.switches {
		x.stats.Beyond++
		return
	}
	for len(x.stacks) <= switches {
		x.stacks = append(x.stacks, nil)
	}
	x.stacks[switches] = append(x.stacks[switches], append(slices.Clip(slices.Clone(w.trace)), c))
}

// pop returns one of the prefixes with the fewest switches. So a state is first
// reached with as many left as there can be, and a violation is found with as few as
// it takes.
func (x *explorer) pop() trace {
	i := x.lowest()
	last := len(x.stacks[i]) - 1
	prefix := x.stacks[i][last]
	x.stacks[i] = x.stacks[i][:last]
	return prefix
}

// isKnown reports whether what can follow is followed up from an earlier arrival at
// the state, and notes this one if not. With a bound that depends on the current
// request as well. But one switch leads from any to any other, so the requests
// matter only among arrivals with equally many switches, and none is as good as all.
func (x *explorer) isKnown(w *world) bool {
	key, now := w.state(), arrival{after: 1}
	if x.switches != unbounded {
		now = arrival{w.switches, 1 << (1 + w.current())}
	}
	was, ok := x.visited[key]
	if ok && !x.forgets && (was.switches < now.switches || was.after&(now.after|1) != 0) {
		return true
	}
	now.after |= was.after
	x.visited[key] = now
	return false
}

// A bubble is one of testing/synctest with the services of its schedules.
type bubble struct {
	server    *gaelocal.Server
	database  Database   // nil: App Engine's
	forgets   bool       // nobody asks for the states of its schedules
	instances []Instance // of it
}

// inBubble runs f in a bubble.
func inBubble(t *testing.T, sc scenario, f func(b *bubble)) {
	server, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{server: server}
		if sc.database != "" {
			b.database = databases[sc.database]()
		}
		defer func() {
			for _, i := range b.instances {
				if err := i.Close(); err != nil {
					t.Error(err)
				}
			}
		}()
		f(b)
	})
}

// open opens as many instances as a schedule needs.
func (b *bubble) open(n int, k Kept) error {
	for len(b.instances) < n {
		i, err := b.database.Open(k)
		if err != nil {
			return err
		}
		b.instances = append(b.instances, i)
	}
	return nil
}

// batch runs schedules in one bubble.
func (x *explorer) batch(t *testing.T, ctx context.Context) {
	done := ctx.Done()
	inBubble(t, x.scenario, func(b *bubble) {
		b.forgets = x.random != nil
		for range schedulesPerServer {
			if !x.more() {
				return
			}
			select {
			case <-done:
				return
			default:
			}
			if x.random != nil {
				x.walk(t, b)
				continue
			}
			x.schedule(t, b, x.pop())
		}
	})
}

// schedule runs one: a prefix, and then always the first choice, leaving the
// others for later.
func (x *explorer) schedule(t *testing.T, b *bubble, prefix trace) {
	// The store waits for random times: what meets the end of a longer one can
	// come out otherwise, and is tried again.
	w := x.repeat(t, b, prefix)
	for try := 0; w == nil && try < 20; try++ {
		w = x.repeat(t, b, prefix)
	}
	if w == nil {
		x.stats.Lost++
		return
	}
	x.stats.Schedules++
	defer x.count(w)
	defer x.end(t, w)
	for w.violation == nil {
		if !w.hasHidden() {
			if x.isKnown(w) {
				return
			}
		}
		choices := w.choices(w.events < x.events, x.evict)
		if len(choices) == 0 {
			x.stats.Ends++
			w.judgeEnd()
			if x.atEnd != nil {
				x.atEnd(w)
			}
			return
		}
		current := w.current()
		if x.switches != unbounded { // no switch comes first
			slices.SortStableFunc(choices, func(a, b choice) int { return a.switchesFrom(current) - b.switchesFrom(current) })
		}
		for _, c := range slices.Backward(choices[1:]) {
			x.push(w, c, w.switches+c.switchesFrom(current))
		}
		if err := w.apply(choices[0]); err != nil {
			t.Fatalf("%v: %v: %v", x.scenario, w.trace, err)
		}
		x.stats.Steps++
	}
}

// repeat begins a schedule with a prefix; nil: it has come out otherwise.
func (x *explorer) repeat(t *testing.T, b *bubble, prefix trace) *world {
	w, err := newWorld(b, x.scenario, x.breach)
	if err != nil {
		t.Fatalf("%v: %v", x.scenario, err)
	}
	for _, c := range prefix {
		if w.apply(c) != nil {
			x.end(t, w)
			return nil
		}
		x.stats.Steps++
	}
	return w
}

// walk runs a schedule at random, with about as many events as there may be.
func (x *explorer) walk(t *testing.T, b *bubble) {
	w, err := newWorld(b, x.scenario, x.breach)
	if err != nil {
		t.Fatalf("%v: %v", x.scenario, err)
	}
	x.stats.Schedules++
	defer x.count(w)
	defer x.end(t, w)
	for w.violation == nil {
		event := w.events < x.events && x.random.IntN(12) == 0
		choices := w.choices(event, true)
		if len(choices) == 0 {
			x.stats.Ends++
			w.judgeEnd()
			return
		}
		if event {
			if only := slices.DeleteFunc(slices.Clone(choices), func(c choice) bool { return c.kind == makeCall }); len(only) > 0 {
				choices = only
			}
		}
		if err := w.apply(choices[x.random.IntN(len(choices))]); err != nil {
			t.Fatalf("%v: %v: %v", x.scenario, w.trace, err)
		}
		x.stats.Steps++
	}
}

// count counts a schedule that has had an event.
func (x *explorer) count(w *world) {
	if w.events > 0 {
		x.stats.Events++
	}
}

// end notes what was found and ends the schedule.
func (x *explorer) end(t *testing.T, w *world) {
	if w.violation != nil {
		x.found = append(x.found, violation{x.scenario, slices.Clone(w.trace), w.switches, w.violation})
	}
	if err := w.stop(); err != nil {
		t.Fatalf("%v: %v: %v", x.scenario, trace(w.trace), err)
	}
}

func (w *world) hasHidden() bool {
	return slices.ContainsFunc(w.calls(), (*call).hidden)
}

// replay runs one schedule to its end: the trace, and then always the first choice.
func replay(t *testing.T, sc scenario, br breach, tr trace, log func(string, ...any)) (w *world) {
	inBubble(t, sc, func(b *bubble) {
		b.forgets = true
		var err error
		if w, err = newWorld(b, sc, br); err != nil {
			t.Fatal(err)
		}
		for i := 0; w.violation == nil; i++ {
			var c choice
			if i < len(tr) {
				c = tr[i]
			} else if next := w.choices(false, false); len(next) > 0 {
				c = next[0]
			} else {
				break
			}
			if err := w.apply(c); err != nil {
				t.Errorf("after %v: %v", trace(w.trace), err)
				break
			}
			log("%-24v %v", c, w.summary())
		}
		if w.violation == nil {
			w.judgeEnd()
		}
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
	})
	return w
}

// summary is the state of the services and of the requests, for people.
func (w *world) summary() string {
	text := "cache: "
	if it := w.peek(); it != nil {
		text += readable(w.itemTokens(it))
	} else {
		text += "- "
	}
	text += "| backup: " + readable(w.recordTokens())
	for _, a := range w.actors {
		if a.saw != nil {
			text += fmt.Sprintf(" | %d saw %v", a.index, a.saw)
		}
		if a.judge.Ended != 0 {
			text += fmt.Sprintf(", ended (%v)", a.err())
		}
	}
	return text
}

func readable(tokens []token) (text string) {
	for _, t := range tokens {
		switch t.kind {
		case plain:
			text += t.text + " "
		case renamed:
			text += fmt.Sprintf("%x ", t.text[len(t.text)-2:])
		case ranked:
			text += fmt.Sprintf("@%d ", t.stamp>>12%1e9)
		}
	}
	return text
}

// A deadline for the short run.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
