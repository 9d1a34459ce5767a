//go:build go1.25

package interleave

import (
	"fmt"
	"slices"
	"strings"
)

// kind is what a choice does.
type kind int

const (
	makeCall      kind = iota // a call is made
	failCall                  // a call fails and is not made
	loseAnswer                // a call is made and its answer lost
	skipCall                  // a call of the cache is not made, and answers that it took too long
	cancelCall                // the request's context ends, and a call is not made
	cancelMade                // a call is made, and the request's context ends before its answer
	failAll                   // a call fails, and so do all later ones of the request to that service
	loseAll                   // a call is made, its answer lost, and all later ones fail
	outage                    // a service fails, whoever asks it
	crash                     // a request makes no call any more
	flush                     // the cache is emptied
	evict                     // the cache drops the session
	goBack                    // the cache restarts with what it had when the requests began
	minute                    // a minute passes
	expireSession             // the session expires
)

var eventNames = map[kind]string{
	failCall: "fail", loseAnswer: "lost", skipCall: "skip", cancelCall: "cancel", cancelMade: "gone", failAll: "down", loseAll: "cut", outage: "outage", crash: "crash",
	flush: "flush", evict: "evict", goBack: "back", minute: "minute", expireSession: "expiry",
}

// A choice is a step of a schedule.
type choice struct {
	kind  kind
	actor int
	call  string // outage: the service
}

// isCall reports whether the choice is about a call.
func (c choice) isCall() bool { return c.kind <= loseAll }

// switchesFrom is 1 if the choice leaves the current request for another one, and 0
// otherwise.
func (c choice) switchesFrom(current int) int {
	if c.isCall() && current >= 0 && current != c.actor {
		return 1
	}
	return 0
}

// String returns what parseChoice reads: "0.get", "fail(1.commit)", "crash(0)", "flush".
func (c choice) String() string {
	name := eventNames[c.kind]
	switch c.kind {
	case makeCall:
		return fmt.Sprintf("%d.%s", c.actor, c.call)
	case failCall, loseAnswer, failAll, loseAll, skipCall, cancelCall, cancelMade:
		return fmt.Sprintf("%s(%d.%s)", name, c.actor, c.call)
	case crash:
		return fmt.Sprintf("%s(%d)", name, c.actor)
	case outage:
		return fmt.Sprintf("%s(%s)", name, c.call)
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
	case makeCall, failCall, loseAnswer, failAll, loseAll, skipCall, cancelCall, cancelMade:
		_, err = fmt.Sscanf(arg, "%d.%s", &c.actor, &c.call)
	case crash:
		_, err = fmt.Sscanf(arg, "%d", &c.actor)
	case outage:
		c.call = arg
	}
	if err != nil {
		return c, fmt.Errorf("step %q of a trace: %w", text, err)
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
			// Nothing else is worth while: made later, it is the same.
			return []choice{{makeCall, c.actor.index, c.named}}
		}
	}
	var all []choice
	for _, c := range calls {
		all = append(all, choice{makeCall, c.actor.index, c.named})
	}
	if !moreEvents || len(calls) == 0 {
		return all
	}
	services := map[string]bool{}
	for _, c := range calls {
		if c.isPause() {
			continue
		}
		services[c.service] = true
		for _, k := range []kind{failCall, loseAnswer, failAll, loseAll} {
			if k == failCall || k == failAll || c.writes() {
				all = append(all, choice{k, c.actor.index, c.named})
			}
		}
		if c.service == inCache {
			all = append(all, choice{skipCall, c.actor.index, c.named})
		}
		if c.isRequests() {
			all = append(all, choice{cancelCall, c.actor.index, c.named})
			if c.writes() {
				all = append(all, choice{cancelMade, c.actor.index, c.named})
			}
		}
	}
	for _, service := range []string{inCache, inBackup} {
		if services[service] {
			all = append(all, choice{kind: outage, call: service})
		}
	}
	for i, a := range w.actors {
		if !a.crashed && w.hasCall(a) {
			all = append(all, choice{kind: crash, actor: i})
		}
	}
	if w.peek() != nil {
		all = append(all, choice{kind: flush})
		if evictToo {
			all = append(all, choice{kind: evict})
		}
	}
	if w.scenario.redis {
		all = append(all, choice{kind: goBack})
	}
	all = append(all, choice{kind: minute})
	if !w.expired {
		all = append(all, choice{kind: expireSession})
	}
	return slices.DeleteFunc(all, func(c choice) bool {
		if w.second != "" && !slices.Contains([]kind{makeCall, crash, flush, evict, goBack}, c.kind) {
			return true // which of the two sessions an error is about, nobody can tell
		}
		return c.kind != makeCall && *kindsFlag != "" && !slices.Contains(strings.Fields(*kindsFlag), eventNames[c.kind])
	})
}
