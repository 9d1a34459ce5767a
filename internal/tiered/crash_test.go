//go:build go1.25

package tiered

import (
	"errors"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

var everyCall = []string{
	"cache.get", "cache.add", "cache.swap", "cache.set",
	"backup.get", "backup.put", "backup.begin", "backup.txget", "backup.txput", "backup.commit",
}

// A request dies between any two calls: what others have saved is there, and
// what they save afterwards.
func TestARequestThatDiesAtAnyCallTakesNothingOfOthersAlong(t *testing.T) {
	for name, f := range map[string]func(r *request) error{
		"update":       func(r *request) error { return r.update("a=1") },
		"asynchronous": func(r *request) error { return r.updateAsync("a=1") },
		"remove":       (*request).remove,
		"take":         func(r *request) error { _, err := r.move("a=1"); return err },
		"refill":       (*request).settle,
	} {
		for _, op := range everyCall {
			for _, done := range []bool{false, true} {
				for cached, evicted := range map[string]bool{"cached": false, "evicted": true} {
					for later, change := range changes {
						t.Run(name+" at "+op+" "+cached+", then "+later, func(t *testing.T) {
							bubble(t, func(t *testing.T) {
								s := created(t, "a=0 b=0 c=0")
								if evicted {
									s.flush()
								}
								r := s.opened(t, "A")
								s.die("A", op, done)
								must(t, s.opened(t, "B").update("b=1"))
								died := f(r)
								drain(t)
								if s.backedUp() == "removed" {
									if l, _ := s.store().Load(t.Context(), id); l != nil {
										c := s.opened(t, "C")
										if err := c.update("c=1"); !errors.Is(err, tier.ErrRemoved) {
											t.Errorf("a change of the removed session: %v", err)
										}
									}
									s.expectRemoved(t)
									return
								}
								if (name == "remove" || name == "take") && died == nil {
									t.Fatalf("acknowledged, and there is %v", s)
								}
								if name == "remove" && s.cached() == "removed" {
									// It died between its two first calls, which are made at
									// once: until the marker is gone, nobody finds the session.
									return
								}
								must(t, change(s.opened(t, "C"), "c=1"))
								drain(t)
								time.Sleep(saveAfter)
								must(t, s.opened(t, "reader").settle())
								m := words(s.opened(t, "judge").l.Value())
								if m["b"] != "1" || m["c"] != "1" || died == nil && name != "refill" && m["a"] != "1" {
									t.Errorf("got %v; A reported %v", m, died)
								}
								s.expectKept(t, shown(text(m)))
							})
						})
					}
				}
			}
		}
	}
}
