//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestACreatedSessionIsInBothServices(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		expect(t, "cached", s.cached(), "a=1")
		s.expectKept(t, "a=1")
	})
}

func TestWhatCreateReturnsIsWhatAFurtherChangeStartsFrom(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		s.purge()
		s.flush()
		r := s.request(t, "A")
		must(t, r.create("a=1"))
		must(t, s.opened(t, "B").update("b=1"))
		must(t, r.update("c=1"))
		must(t, r.updateAsync("c=2"))
		s.expectKept(t, "a=1 b=1 c=2")
	})
}

func TestACreationThatTheBackupFailsLivesInTheCacheUntilTheNextChange(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		s.purge()
		s.flush()
		r := s.request(t, "A")
		s.fail("A", "backup")
		expectErr(t, "create", r.create("a=1"), errDown)
		expect(t, "cached", s.cached(), "all unsaved a=1")
		expect(t, "in the backup", s.backedUp(), "-")
		must(t, s.opened(t, "B").update("b=1"))
		expect(t, "then cached", s.cached(), "a=1 b=1")
		s.expectKept(t, "a=1 b=1")
	})
}

func TestACreationThatTheBackupFailedOutlivesTheSaveOfARequestThatDidNotLoadIt(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0")
		s.purge()
		s.flush()
		s.fail("A", "backup")
		expectErr(t, "create", s.request(t, "A").create("a=1"), errDown)
		b := s.request(t, "B")
		b.l = Unknown()
		must(t, b.update("b=1"))
		expect(t, "cached", s.cached(), "unsaved a=1 b=1")
		must(t, s.opened(t, "C").update("c=1"))
		s.expectKept(t, "a=1 b=1 c=1")
	})
}

// Else what is saved of the item later would win over changes in between that were
// made on an instance whose clock is behind.
func TestACreationWhoseAnswerIsLostKeepsItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.hook(func(c step) error {
			if c.op == "backup.put" && c.done {
				return errLost
			}
			return nil
		})
		expectErr(t, "create", s.request(t, "A").create("a=1"), errLost)
		rec, err := s.store().openRecord(id, s.backup().now(id))
		must(t, err)
		expect(t, "cached", s.cached(), "all unsaved a=1")
		expect(t, "has the record's time", s.state(t).latest(), rec.latest())
	})
}

func TestAReadSavesACreationThatTheBackupFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fail("A", "backup")
		expectErr(t, "create", s.request(t, "A").create("a=1"), errDown)
		time.Sleep(saveAfter)
		must(t, s.opened(t, "reader").settle())
		expect(t, "cached", s.cached(), "a=1")
		s.expectKept(t, "a=1")
	})
}

func TestACreationThatBothServicesFailCreatesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fail("A", "backup", "cache")
		r := s.request(t, "A")
		expectErr(t, "create", r.create("a=1"), errDown)
		expect(t, "now", s.request(t, "judge").see(), "-")
		// The request may try again with what it has.
		s.well()
		r.l = Unknown()
		must(t, r.update("a=1"))
		s.expectKept(t, "a=1")
	})
}

func TestACreationThatTheCacheFailsIsReportedAndSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fail("A", "cache")
		must(t, s.request(t, "A").create("a=1"))
		if len(s.reports) != 1 || !errors.Is(s.reports[0], errDown) {
			t.Errorf("reported was %v", s.reports)
		}
		s.well()
		s.expectKept(t, "a=1")
	})
}

func TestAnIDThatWasUsedBeforeIsRefusedWhereTheServiceInserts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := createdWithVersions(t, "a=1")
		must(t, s.opened(t, "A").remove())
		s.flush()
		err := s.request(t, "B").create("b=1")
		expectErr(t, "create", err, tier.ErrRemoved)
		expectErr(t, "create", err, tier.ErrExists)
		expect(t, "calls of the insert", s.count("backup.put"), 2)
		s.expectRemoved(t)
	})
}

func TestAnIDThatSomebodyHasIsRefusedAndStaysTheirs(t *testing.T) {
	for name, test := range map[string]struct {
		then func(t *testing.T, s *services)
		want string // what the cache has
	}{
		"cached":  {func(*testing.T, *services) {}, "a=1"},
		"evicted": {func(_ *testing.T, s *services) { s.flush() }, "lease"},
		"evicted, and the cache's answer is lost": {func(_ *testing.T, s *services) {
			s.flush()
			s.hook(func(c step) error {
				if c.is("cache.add") && c.done {
					return errLost
				}
				return nil
			})
		}, "lease"},
		"evicted, and refilled meanwhile": {func(t *testing.T, s *services) {
			s.flush()
			s.at("B", "cache.get", false, before(func() { s.flush(); must(t, s.opened(t, "C").settle()) }))
		}, "a=1"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := createdWithVersions(t, "a=1")
				test.then(t, s)
				err := s.request(t, "B").create("b=1")
				expectErr(t, "create", err, tier.ErrRemoved)
				expectErr(t, "create", err, tier.ErrExists)
				expect(t, "cached", s.cached(), test.want)
				s.well()
				s.expectKept(t, "a=1")
			})
		})
	}
}

// Who has an id before its creation has ended, by guessing or by a cookie that
// was faster, must not end the session for a day.
func TestEarlyUseOfAnIDDoesNotMarkItAsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		early := s.request(t, "early")
		expect(t, "early load", early.see(), "-")
		early.l = Private(early.change("e=1"))
		expectErr(t, "early change", early.update("e=1"), tier.ErrRemoved)
		expectErr(t, "early change", early.updateAsync("e=1"), tier.ErrRemoved)
		expect(t, "cached", s.cached(), "-")
		must(t, s.request(t, "creator").create("a=1"))
		expect(t, "cached", s.cached(), "a=1")
		s.expectKept(t, "a=1")
	})
}

func TestEarlyUseWhileTheRecordIsBeingPutDoesNotMarkItAsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		release := s.hold("creator", "backup.put", false)
		ended := started(func() error { return s.request(t, "creator").create("a=1") })
		early := s.opened(t, "early") // the item is there already
		expectErr(t, "early change", early.update("e=1"), tier.ErrRemoved)
		expect(t, "cached", s.cached(), "a=1")
		release()
		must(t, ended())
		s.expectKept(t, "a=1")
	})
}

func TestAnOversizedSessionIsNotCreated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.large = 200
		expectErr(t, "create", s.request(t, "A").create("a="+strings.Repeat("x", 200)), tier.ErrTooLarge)
		expect(t, "calls", s.count(""), 0)
	})
}

func TestASessionThatIsTooLargeForTheCacheIsCreatedInTheBackup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fits = 50
		must(t, s.request(t, "A").create("a=1"))
		expect(t, "cached", s.cached(), "-")
		s.expectKept(t, "a=1")
	})
}

func TestWithoutABackupACreationThatTheCacheFailsIsReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.request(t, "A")
		r.st.Backup = nil
		s.fail("A", "cache")
		expectErr(t, "create", r.create("a=1"), errDown)
		s.well()
		must(t, r.create("a=1"))
		must(t, r.update("b=1"))
		expect(t, "now", r.see(), "a=1 b=1")
	})
}

func TestACreationWhoseContextEndsInTheBackupLivesInTheCache(t *testing.T) {
	for _, done := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s := newServices()
			r := s.request(t, "A")
			ctx, cancel := context.WithCancel(r.ctx)
			r.ctx = ctx
			s.at("A", "cache.add", false, before(func() { time.Sleep(time.Millisecond) }))
			s.at("A", "backup.put", done, before(func() { time.Sleep(2 * time.Millisecond); cancel() }))
			expectErr(t, "create", r.create("a=1"), tier.ErrNotBackedUp)
			expect(t, "cached", s.cached(), "all unsaved a=1")
			must(t, s.opened(t, "B").update("b=1"))
			s.expectKept(t, "a=1 b=1")
		})
	}
}
