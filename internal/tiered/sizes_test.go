//go:build go1.25

package tiered

import (
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestWhatIsTooLargeForTheCacheIsInTheBackup(t *testing.T) {
	big := "a=" + strings.Repeat("x", 400)
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				s.fits = 300
				must(t, change(s.opened(t, "A"), big))
				expect(t, "cached", s.cached(), "lease")
				expect(t, "now", s.request(t, "judge").see(), big)
				// It fits again.
				must(t, change(s.opened(t, "B"), "a=2"))
				time.Sleep(leaseTTL)
				must(t, s.opened(t, "C").settle())
				expect(t, "cached", s.cached(), "a=2")
				s.expectKept(t, "a=2")
			})
		})
	}
}

func TestWhatIsTooLargeForTheBackupIsRefusedAndChangesNothing(t *testing.T) {
	for name, change := range changes {
		// With its trailer the shorter one is too large as well.
		for _, size := range []int{170, 400} {
			t.Run(name, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					s.large = 200
					r := s.opened(t, "A")
					expectErr(t, "change", change(r, "a="+strings.Repeat("x", size)), tier.ErrTooLarge)
					drain(t)
					expect(t, "cached", s.cached(), "a=1")
					// The session is what it was, and may be changed.
					must(t, change(r, "a=2"))
					s.expectKept(t, "a=2")
				})
			})
		}
	}
}

// The reserve. What only the cache has always fits the record: a change leaves
// room for it.

// xs is an attribute that makes the record of a session with one attribute have
// that many bytes at most.
func xs(attribute string, recordSize int) string {
	st := &state{cells: make([]cell, 1)}
	return attribute + "=" + strings.Repeat("x", recordSize-st.recordSize()-len(attribute)-1)
}

// With records of 4,000 bytes the reserve has 500.
const (
	recordLimit = 4000
	free        = recordLimit - recordLimit/8
	alone       = recordLimit / 8 / 2
)

func TestTheReserveIsAnEighthOfARecordOr128KiB(t *testing.T) {
	for limit, want := range map[int]int{recordLimit: recordLimit / 8, 1<<20 - 8: 128<<10 - 1, 1 << 20: 128 << 10, 10 << 20: 128 << 10} {
		s := newServices()
		s.large = limit
		expect(t, "reserve", reserve(s.store().Backup.MaxValue(id)), want)
	}
}

// writes are the calls that write a session.
func (s *services) writes() int {
	return s.count("backup.txput") + s.count("backup.commit") + s.count("backup.put")
}

func TestAChangeThatTakesFromTheReserveIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	operations := map[string]func(s *services, t *testing.T, edits string) error{
		"create": func(s *services, t *testing.T, edits string) error {
			s.purge()
			s.flush()
			return s.request(t, "A").create(edits)
		},
		"move": func(s *services, t *testing.T, edits string) error {
			_, err := s.opened(t, "A").move(edits)
			return err
		},
		"evicted": func(s *services, t *testing.T, edits string) error {
			s.flush()
			return s.opened(t, "A").update(edits)
		},
	}
	for name, change := range changes {
		operations[name] = func(s *services, t *testing.T, edits string) error { return change(s.opened(t, "A"), edits) }
	}
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				s.large = recordLimit
				must(t, operation(s, t, xs("a", free)))
				drain(t)
				s = created(t, "a=1")
				s.large = recordLimit
				expectErr(t, "one byte more", operation(s, t, xs("a", free+1)), tier.ErrTooLarge)
				drain(t)
				expect(t, "writes", s.writes(), 0)
				if name != "create" {
					s.expectKept(t, "a=1")
				} else {
					expect(t, "cached", s.cached(), "-")
				}
			})
		})
	}
}

// overfull is a session that takes from the reserve, as those do that earlier
// versions have saved.
func overfull(t *testing.T, created func(*testing.T, string) *services) *services {
	s := created(t, xs("a", free)+" b="+strings.Repeat("x", 200))
	s.large = recordLimit
	return s
}

func TestASessionThatTakesFromTheReserveCanBeRefreshedAndReduced(t *testing.T) {
	for name, change := range changes {
		for _, edits := range []string{"", "-b", "a=1", "-a b=1", "b=" + strings.Repeat("y", 200)} {
			t.Run(name+" "+edits, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := overfull(t, created)
					time.Sleep(time.Minute)
					r := s.opened(t, "A")
					want := shown(r.change(edits).Value)
					must(t, change(r, edits))
					s.expectKept(t, want)
					expect(t, "it lives on", s.records[id].Expires, time.Now().Add(timeout))
				})
			})
		}
	}
}

func TestASessionThatTakesFromTheReserveCannotGrow(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := overfull(t, created)
				was := s.backedUp()
				expectErr(t, "change", change(s.opened(t, "A"), "c=1"), tier.ErrTooLarge)
				expectErr(t, "change", change(s.opened(t, "A"), "b="+strings.Repeat("y", 201)), tier.ErrTooLarge)
				drain(t)
				expect(t, "writes", s.writes(), 0)
				s.expectKept(t, was)
			})
		})
	}
}

func TestOnlyTheRecordsOwnLimitHoldsForARefresh(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, xs("a", free))
		s.large = free - 50 // the value fits, and its trailer does not
		was := s.backedUp()
		expectErr(t, "refresh", s.opened(t, "A").update(""), tier.ErrTooLarge)
		s.expectKept(t, was)
	})
}

// What the cache alone has of others does not count against a change, and is saved
// with it.
func TestWhatOthersHaveUnsavedDoesNotCountAgainstAChange(t *testing.T) {
	for when, seen := range map[string]bool{"loaded before": false, "loaded after": true} {
		for name, change := range changes {
			t.Run(name+" "+when, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					s.large = recordLimit
					r := s.opened(t, "A")
					s.fail("B", "backup")
					must(t, s.opened(t, "B").updateAsync("b=1"))
					drain(t)
					expect(t, "cached", s.cached(), "unsaved a=1 b=1")
					if seen {
						r.load()
					}
					must(t, change(r, xs("a", free)))
					drain(t)
					time.Sleep(saveAfter)
					must(t, s.opened(t, "reader").settle())
					s.expectKept(t, xs("a", free)+" b=1")
				})
			})
		}
	}
}

// aloneEdits makes an item that has as many bytes as may live in the cache alone,
// and some more.
func aloneEdits(t *testing.T, s *services, more int) string {
	st := &state{cells: make([]cell, 1), token: s.state(t).token}
	return "a=" + strings.Repeat("x", alone-st.trailerSize()-2+more)
}

func TestWhatIsLargerThanHalfTheReserveDoesNotLiveInTheCacheAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		s.large = recordLimit
		fits := aloneEdits(t, s, 0)
		save := s.hold("A", "backup.commit", false)
		must(t, s.opened(t, "A").updateAsync(fits))
		expect(t, "cached", s.cached(), "unsaved "+fits)
		save()
		drain(t)
		larger := aloneEdits(t, s, 1)
		must(t, s.opened(t, "A").updateAsync(larger))
		expect(t, "in the backup", s.backedUp(), larger)
		s.expectKept(t, larger)
	})
}

func TestWhatIsLargerThanHalfTheReserveIsNotKeptWhileTheBackupIsDown(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				s.large = recordLimit
				s.fail("A", "backup")
				fits := aloneEdits(t, s, 0)
				err := change(s.opened(t, "A"), fits+"x")
				expectErr(t, "change", err, tier.ErrNotSaved)
				expectErr(t, "change", err, errDown)
				expect(t, "cached", s.cached(), "a=1")
				err = s.opened(t, "A").update(fits)
				expectErr(t, "a smaller change", err, tier.ErrNotBackedUp)
				expect(t, "cached", s.cached(), "unsaved "+fits)
				must(t, s.opened(t, "B").update("b=1"))
				s.expectKept(t, fits+" b=1")
			})
		})
	}
}

func TestWithoutABackupThereIsNoReserve(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.withoutBackup(t, "A")
		must(t, r.create("a=1"))
		must(t, r.load().update("a="+strings.Repeat("x", 900<<10)))
		expect(t, "now", len(r.see()), 900<<10+2)
	})
}

// What only the cache has is never dropped.

// While it is being saved in the background, a change of another request makes the
// session too large for the cache.
func TestAnAcknowledgedChangeIsSeenWhileItIsBeingSavedWhateverElseIsSaved(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				s.fits = 300
				a := s.opened(t, "A")
				held := "backup.begin"
				if s.versions {
					held = "backup.commit"
				}
				release := s.hold("B", held, false)
				must(t, s.opened(t, "B").updateAsync("b=1"))
				before := words([]byte(s.request(t, "judge").see()))["b"]
				must(t, change(a, "a="+strings.Repeat("x", 400)))
				after := words([]byte(s.request(t, "judge").see()))["b"]
				release()
				drain(t)
				if before != "1" || after != "1" {
					t.Errorf("b=1 was acknowledged: a load sees %q, and after a large change %q", before, after)
				}
			})
		})
	}
}

// The backup was down, and the cache has lost nothing.
func TestWhatOnlyTheCacheHasSurvivesAChangeThatIsTooLargeForTheCache(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				s.fits = 300
				a := s.opened(t, "A")
				s.fail("", "backup")
				must(t, s.opened(t, "B").updateAsync("b=1")) // acknowledged
				drain(t)
				s.mu.Lock()
				s.reports = nil // of the background save
				s.mu.Unlock()
				s.well()
				must(t, change(a, "a="+strings.Repeat("x", 400)))
				drain(t)
				if got := words([]byte(s.request(t, "judge").see())); got["b"] != "1" {
					t.Errorf("b=1 was acknowledged, and is nowhere: cache %.60q, backup %.60q", s.cached(), s.backedUp())
				}
			})
		})
	}
}

func TestWhatADeadInstanceLeftInTheCacheSurvivesAChangeThatIsTooLargeForTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fits = 300
		a := s.opened(t, "A")
		s.die("B", "backup.begin", false)
		must(t, s.opened(t, "B").updateAsync("b=1"))
		drain(t)
		s.mu.Lock()
		s.reports = nil
		s.mu.Unlock()
		must(t, a.update("a="+strings.Repeat("x", 400)))
		if got := words([]byte(s.request(t, "judge").see())); got["b"] != "1" {
			t.Errorf("b=1 was acknowledged, and is nowhere: cache %.60q, backup %.60q", s.cached(), s.backedUp())
		}
	})
}
