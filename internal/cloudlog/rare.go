package cloudlog

import (
	"sync"
	"time"
)

// A Rare is a kind of error that this process logs once a minute at most, because
// visitors can cause it as often as they like. The zero value is ready to use.
type Rare struct {
	mu     sync.Mutex
	logged time.Time
	times  int
}

// Count counts an error. It reports whether one is to be logged, and how often it
// came up since the last one was, this time included.
func (r *Rare) Count() (times int, isDue bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times++
	now := time.Now()
	if now.Sub(r.logged) < time.Minute {
		return 0, false
	}
	times, r.times, r.logged = r.times, 0, now
	return times, true
}
