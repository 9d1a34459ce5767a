//go:build go1.25

package interleave

import "time"

// An outage makes a call fail as often as the store tries it. Between the
// attempts others may go on.
type outage struct {
	call string
	left int // attempts that are still to fail
}

// next says what becomes of a request's call: an outage that begins with it is a
// failure, and so is a further attempt at the call of one that has begun.
func (o *outage) next(c *call, how kind) kind {
	switch {
	case how == failAll:
		*o = outage{c.name, c.actor.w.scenario.retries - 1}
		how = failCall
	case how == loseAll:
		*o = outage{c.name, c.actor.w.scenario.retries - 1}
		how = loseAnswer
	case how == makeCall && o.left > 0 && c.name == o.call:
		o.left--
		how = failCall
	}
	if o.left == 0 {
		*o = outage{}
	}
	return how
}

// patience is longer than the store waits before it tries a call again. It waits
// longer each time, so this takes all the request's retries for those of one call.
func (a *actor) patience() time.Duration {
	wait := 20 * time.Millisecond
	for range min(a.noises, 10) {
		wait += wait / 2
	}
	a.noises++
	return wait
}
