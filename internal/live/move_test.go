//go:build go1.25

package live

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A session gets another id.

func TestANewIDIsTheSessionsOnceItIsSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		s.forgetCalls()
		must(t, u.copy.Regenerate("new"))
		expect(t, "calls", s.count(""), 0)
		expect(t, "its id", u.copy.ID(), id)
		expect(t, "others see", s.seen(t, id), "a=1")
		must(t, s.opened(t).set("b=1").save())
		must(t, u.set("c=1").save())
		expect(t, "its id", u.copy.ID(), "new")
		expect(t, "what the app goes on with", shown(u.attrs), "a=1 b=1 c=1")
		expect(t, "under the old id", s.seen(t, id), "-")
		s.expectKept(t, "new", "a=1 b=1 c=1")
		// What is changed later is saved under the new id.
		must(t, u.set("-b d=1").save())
		s.expectKept(t, "new", "a=1 c=1 d=1")
	})
}

func TestAMoveIsASaveThoughNothingChanged(t *testing.T) {
	for name, save := range saves {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				u := s.opened(t)
				must(t, u.copy.Regenerate("new"))
				must(t, save(u))
				s.forgetCalls()
				must(t, save(u))
				expect(t, "calls of the next save", s.count(""), 0)
				expect(t, "under the old id", s.seen(t, id), "-")
				s.expectKept(t, "new", "a=1")
			})
		})
	}
}

func TestASecondNewIDIsDrawnInPlaceOfTheFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		must(t, u.copy.Regenerate("first"))
		must(t, u.copy.Regenerate("second"))
		must(t, u.save())
		expect(t, "its id", u.copy.ID(), "second")
		expect(t, "under the first", s.kept("first"), "-")
		s.expectKept(t, "second", "a=1")
		must(t, u.copy.Regenerate("third"))
		must(t, u.save())
		expect(t, "under the second", s.seen(t, "second"), "-")
		s.expectKept(t, "third", "a=1")
	})
}

func TestAMoveThatFailedLeavesTheOldIDUntilItIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		must(t, u.copy.Regenerate("new"))
		s.fail("backup")
		expectErr(t, "save", u.set("b=1").save(), tier.ErrNotSaved)
		expect(t, "its id", u.copy.ID(), id)
		expect(t, "others see", s.seen(t, id), "a=1") // nothing of it lives in the cache
		s.forgetCalls()
		must(t, u.close())
		expect(t, "calls of a close", s.count(""), 0)
		s.well()
		must(t, u.save())
		expect(t, "its id", u.copy.ID(), "new")
		expect(t, "under the old id", s.seen(t, id), "-")
		s.expectKept(t, "new", "a=1 b=1")
	})
}

func TestANewIDIsDrawnInPlaceOfOneThatTheSessionCouldNotGet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		must(t, u.copy.Regenerate("first"))
		s.fail("backup")
		expectErr(t, "save", u.save(), tier.ErrNotSaved)
		s.well()
		must(t, u.copy.Regenerate("second"))
		must(t, u.save())
		expect(t, "its id", u.copy.ID(), "second")
		expect(t, "under the first", s.kept("first"), "-")
		s.expectKept(t, "second", "a=1")
	})
}

func TestAMoveThatTheCacheHasNotHeardOfIsASave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		must(t, u.copy.Regenerate("new"))
		s.fail("cache")
		expectErr(t, "save", u.set("b=1").save(), tier.ErrNotPublished)
		expect(t, "its id", u.copy.ID(), "new")
		s.well()
		must(t, u.save())
		drain(t)
		expect(t, "under the old id", s.seen(t, id), "-")
		s.expectKept(t, "new", "a=1 b=1")
	})
}

func TestAMoveOfWhatWasRemovedIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		must(t, s.opened(t).copy.Remove(u.ctx))
		must(t, u.copy.Regenerate("new"))
		expectErr(t, "save", u.save(), tier.ErrRemoved)
		expect(t, "it knows", u.about(), "is removed")
		expect(t, "its id", u.copy.ID(), id)
		expect(t, "under the new id", s.kept("new"), "-")
	})
}

// The commit was made, and its answer is lost.

// lostMove is a request whose session has moved, which it does not know.
func lostMove(t *testing.T, s *services) *user {
	t.Helper()
	u := s.opened(t)
	must(t, u.copy.Regenerate("new"))
	s.lose("backup.update")
	expectErr(t, "save", u.set("a=2").save(), tier.ErrNotSaved)
	expect(t, "its id", u.copy.ID(), id)
	expect(t, "under the old id", s.kept(id), "removed")
	expect(t, "under the new id", s.kept("new"), "a=2")
	s.well()
	return u
}

func TestTheNextSaveFindsOutThatTheSessionHasMoved(t *testing.T) {
	for edits, want := range map[string]string{"": "a=2", "b=1": "a=2 b=1", "a=3 b=1": "a=3 b=1"} {
		t.Run(want, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				u := lostMove(t, s)
				must(t, u.set(edits).save())
				expect(t, "its id", u.copy.ID(), "new")
				s.forgetCalls()
				must(t, u.save())
				expect(t, "calls of the next save", s.count(""), 0)
				expect(t, "under the old id", s.seen(t, id), "-")
				s.expectKept(t, "new", want)
			})
		})
	}
}

func TestWhatIsReportedOfAMoveThatWasFoundOutIsNotDropped(t *testing.T) {
	for edits, want := range map[string]string{"": "a=2", "b=1": "a=2 b=1"} {
		bubble(t, func(t *testing.T) {
			s := created(t, "a=1")
			u := lostMove(t, s)
			s.fail("cache.set")
			expectErr(t, "save", u.set(edits).save(), tier.ErrNotPublished)
			expect(t, "its id", u.copy.ID(), "new")
			s.well()
			s.expectKept(t, "new", want)
		})
	}
}

func TestASecondNewIDIsNotDrawnWhileItIsNotKnownWhereTheSessionIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := lostMove(t, s)
		must(t, u.copy.Regenerate("another"))
		must(t, u.save())
		expect(t, "its id", u.copy.ID(), "new")
		s.expectKept(t, "new", "a=2")
	})
}

func TestARemovalWhileItIsNotKnownWhereTheSessionIsRemovesBoth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := lostMove(t, s)
		must(t, u.copy.Remove(u.ctx))
		for _, id := range []string{id, "new"} {
			expect(t, "in the backup", s.kept(id), "removed")
			expect(t, "seen", s.seen(t, id), "-")
		}
		expectErr(t, "a change", u.set("b=1").save(), tier.ErrRemoved)
	})
}

func TestARequestThatEndsWithoutKnowingLeavesNoSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		ctx, cancel := context.WithCancel(u.ctx)
		u.ctx = ctx
		must(t, u.copy.Regenerate("new"))
		s.lose("backup.update")
		expectErr(t, "save", u.set("a=2").save(), tier.ErrNotSaved)
		s.well()
		cancel()
		synctest.Wait()
		expect(t, "under the old id", s.seen(t, id), "-")
		expect(t, "under the new id", s.seen(t, "new"), "-")
		if err := u.save(); !errors.Is(err, tier.ErrRemoved) && !errors.Is(err, tier.ErrNotSaved) {
			t.Errorf("a save of that request: %v", err)
		}
	})
}

// Several copies of one session.

func TestOfTwoCopiesOneMovesAndTheOtherSaves(t *testing.T) {
	for name, how := range map[string]func(c *Copy) *Copy{"clone": (*Copy).Clone, "again": (*Copy).Again} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1 b=1")
				one := s.opened(t)
				two := one.with(how(one.copy))
				must(t, two.open())
				must(t, one.copy.Regenerate("new"))
				must(t, one.set("a=2").save())
				expect(t, "the other one's id", two.copy.ID(), "new")
				must(t, two.set("b=2 c=1").save())
				must(t, one.set("d=1").save())
				expect(t, "under the old id", s.seen(t, id), "-")
				s.expectKept(t, "new", "a=2 b=2 c=1 d=1")
			})
		})
	}
}

func TestOfTwoCopiesOneDrawsTheIDAndTheOtherMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		one := s.opened(t)
		two := one.with(one.copy.Clone())
		must(t, one.copy.Regenerate("new"))
		must(t, two.set("b=2").save())
		expect(t, "its id", one.copy.ID(), "new")
		must(t, one.set("a=2").save())
		s.expectKept(t, "new", "a=2 b=2")
	})
}

func TestOfTwoCopiesOneMovesAndTheOtherRemoves(t *testing.T) {
	for name, first := range map[string]bool{"first": true, "then": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				one := s.opened(t)
				two := one.with(one.copy.Clone())
				must(t, one.copy.Regenerate("new"))
				if first {
					must(t, one.save())
				}
				must(t, two.copy.Remove(two.ctx))
				expectErr(t, "a change", one.set("a=2").save(), tier.ErrRemoved)
				expect(t, "under the old id", s.seen(t, id), "-")
				expect(t, "under the new id", s.seen(t, "new"), "-")
			})
		})
	}
}

// One copy has moved the session without knowing it; the other one finds out.
func TestOfTwoCopiesTheOtherFindsOutThatTheSessionHasMoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		one := s.opened(t)
		two := one.with(one.copy.Clone())
		must(t, one.copy.Regenerate("new"))
		s.lose("backup.update")
		expectErr(t, "save", one.set("a=2").save(), tier.ErrNotSaved)
		s.well()
		must(t, two.set("b=2").save())
		expect(t, "its id", two.copy.ID(), "new")
		s.expectKept(t, "new", "a=2 b=2")
		s.forgetCalls()
		must(t, one.save())
		expect(t, "calls of the one that has moved it", s.count(""), 0)
		must(t, one.set("c=1").save())
		s.expectKept(t, "new", "a=2 b=2 c=1")
	})
}

func TestALaterSaveOfACopyThatWasOpenedBeforeAMoveTakesNothingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		one := s.opened(t)
		two := one.with(one.copy.Clone())
		must(t, one.copy.Regenerate("new"))
		must(t, one.set("a=2").save())
		time.Sleep(time.Millisecond)
		other := s.request(t, nil)
		other.copy = other.store.Copy("new")
		must(t, other.open())
		must(t, other.set("a=3 -b").save())
		must(t, two.set("c=1").save())
		s.expectKept(t, "new", "a=3 c=1")
	})
}
