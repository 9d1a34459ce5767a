//go:build go1.25

package interleave

import (
	"fmt"
	"strings"
)

// kind is what a choice does.
type kind int

const (
	makeCall      kind = iota // a call is made
	failCall                  // a call fails and is not made
	loseAnswer                // a call is made and its answer lost
	failAll                   // a call fails as often as it is tried
	loseAll                   // a call is made, its answer lost, and it fails when it is tried again
	crash                     // a request makes no call any more
	flush                     // Memcache is emptied
	evict                     // Memcache drops the session
	expireLock                // a minute passes
	expireSession             // the session expires
)

var eventNames = map[kind]string{
	failCall: "fail", loseAnswer: "ambiguous", failAll: "down", loseAll: "cut", crash: "crash",
	flush: "flush", evict: "evict", expireLock: "minute", expireSession: "expiry",
}

// A choice is a step of a schedule.
type choice struct {
	kind  kind
	actor int
	call  string
}

// String returns what parseChoice reads: "0.get", "fail(1.commit)", "crash(0)", "flush".
func (c choice) String() string {
	name := eventNames[c.kind]
	switch c.kind {
	case makeCall:
		return fmt.Sprintf("%d.%s", c.actor, c.call)
	case failCall, loseAnswer, failAll, loseAll:
		return fmt.Sprintf("%s(%d.%s)", name, c.actor, c.call)
	case crash:
		return fmt.Sprintf("%s(%d)", name, c.actor)
	}
	return name
}

func parseChoice(text string) (c choice, err error) {
	name, arg, hasArg := strings.Cut(strings.TrimSuffix(text, ")"), "(")
	if !hasArg {
		arg = name
	}
	for k, n := range eventNames {
		if n == name {
			c.kind = k
		}
	}
	switch c.kind {
	case makeCall, failCall, loseAnswer, failAll, loseAll:
		if _, err := fmt.Sscanf(arg, "%d.%s", &c.actor, &c.call); err != nil {
			return c, fmt.Errorf("step %q of a trace: %w", text, err)
		}
	case crash:
		if _, err := fmt.Sscanf(arg, "%d", &c.actor); err != nil {
			return c, fmt.Errorf("step %q of a trace: %w", text, err)
		}
	}
	return c, nil
}

type trace []choice

func (t trace) String() string {
	words := make([]string, len(t))
	for i, c := range t {
		words[i] = c.String()
	}
	return strings.Join(words, " ")
}

// parseTrace reads a scenario, a colon and the choices.
func parseTrace(text string) (scenario, trace, error) {
	name, steps, _ := strings.Cut(text, ": ")
	s, err := parseScenario(name)
	if err != nil {
		return s, nil, err
	}
	var t trace
	for _, word := range strings.Fields(steps) {
		c, err := parseChoice(word)
		if err != nil {
			return s, nil, err
		}
		t = append(t, c)
	}
	return s, t, nil
}

// choices returns what can be done next, events only if there may be more.
// None: the schedule is at its end.
func (w *world) choices(moreEvents bool, evictToo bool) []choice {
	calls := w.calls()
	for _, c := range calls {
		if c.hidden() {
			calls = []*call{c}
			break
		}
	}
	var all []choice
	for _, c := range calls {
		all = append(all, choice{makeCall, c.actor.index, c.name})
	}
	if !moreEvents {
		return all
	}
	for _, c := range calls {
		if c.name == "rollback" || c.name == "start" || c.name == c.actor.outage.call {
			continue // its answer is not looked at; it is no call; it fails anyway
		}
		all = append(all, choice{failCall, c.actor.index, c.name})
		if c.writes() {
			all = append(all, choice{loseAnswer, c.actor.index, c.name})
		}
		if w.scenario.cascade {
			all = append(all, choice{failAll, c.actor.index, c.name})
			if c.writes() {
				all = append(all, choice{loseAll, c.actor.index, c.name})
			}
		}
	}
	if len(calls) == 0 || calls[0].hidden() {
		return all
	}
	for i, a := range w.actors {
		if !a.crashed && w.hasCall(a) {
			all = append(all, choice{kind: crash, actor: i})
		}
	}
	if it := w.peek(); it != nil {
		all = append(all, choice{kind: flush})
		if evictToo {
			all = append(all, choice{kind: evict})
		}
		if it.flags == 1 {
			all = append(all, choice{kind: expireLock})
		}
	}
	if !w.expired && !w.lapsed {
		all = append(all, choice{kind: expireSession})
	}
	return all
}
