package tiered_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

func TestTakeReturnsWhatOthersSavedUntilThen(t *testing.T) {
	for _, backends := range []string{"both", "cache", "backup"} {
		for _, op := range []string{"cache.swap", "cache.get", "backup.begin", "backup.commit"} {
			st, s := newStore()
			switch backends {
			case "cache":
				st.Backup = nil
			case "backup":
				st.Cache = nil
			}
			must(t, st.Create(ctx(), id, record("a0")))
			l := load(t, st)
			var theirs error
			happened := false
			s.hook(at(op, false, 1, func() {
				s.hook(nil)
				happened = true
				theirs = st.Update(ctx(), id, l, record("a0 b1"))
			}))
			last, err := st.Take(ctx(), id, l, record("a1"))
			s.hook(nil)
			if !happened {
				continue
			}
			want := "a1 b1"
			if errors.Is(theirs, tiered.ErrRemoved) {
				want = "a1"
			} else {
				must(t, theirs)
			}
			if err != nil || string(last.Value) != want {
				t.Errorf("%s, %s: got %q, %v; want %q", backends, op, last.Value, err, want)
			}
			expect(t, backends+", "+op, see(t, st), "-")
			if st.Backup != nil {
				s.flush()
				expect(t, backends+", "+op+", after a flush", see(t, st), "-")
			}
		}
	}
}

func TestTakeOfARemovedSessionIsErrRemovedAndLeavesTheMarker(t *testing.T) {
	for name, forget := range map[string]bool{"the cache knows it": false, "the cache has forgotten it": true} {
		st, s := created(t, "a0")
		l := load(t, st)
		must(t, st.Remove(ctx(), id))
		if forget {
			s.flush()
		}
		if last, err := st.Take(ctx(), id, l, record("a1")); !errors.Is(err, tiered.ErrRemoved) || len(last.Value) > 0 {
			t.Errorf("%s: got %q, %v; want ErrRemoved", name, last.Value, err)
		}
		s.hook(nil)
		expect(t, name, see(t, st), "-")
		if s.count("backup") > 0 {
			t.Errorf("%s: the next load asks the backup", name)
		}
	}
}

func TestTwoTakesAtOnceGiveTheSessionToOneOfThem(t *testing.T) {
	for _, op := range []string{"cache.swap", "cache.get", "backup.begin", "backup.commit", "cache.set"} {
		st, s := created(t, "a0")
		l := load(t, st)
		var other tiered.Record
		var theirs error
		s.hook(at(op, false, 1, func() {
			s.hook(nil)
			other, theirs = st.Take(ctx(), id, l, record("b1"))
		}))
		last, err := st.Take(ctx(), id, l, record("a1"))
		if (len(last.Value) > 0) == (len(other.Value) > 0) {
			t.Errorf("%s: got %q, %v and %q, %v; want one of them", op, last.Value, err, other.Value, theirs)
		}
		s.hook(nil)
		expect(t, op, see(t, st), "-")
	}
}

func TestTakeThatIsRefusedOrFailsLeavesTheSession(t *testing.T) {
	for name, test := range map[string]struct {
		mine string
		on   func(context.Context, call) error
		want error
	}{
		"no merge":           {"a1 !", nil, errNoMerge},
		"the backup is down": {"a1", down("backup.begin"), errDown},
	} {
		st, s := created(t, "a0")
		l := load(t, st)
		add(t, st, "b1")
		s.hook(test.on)
		if last, err := st.Take(ctx(), id, l, record(test.mine)); !errors.Is(err, test.want) || len(last.Value) > 0 {
			t.Errorf("%s: got %q, %v; want %v", name, last.Value, err, test.want)
		}
		s.hook(nil)
		expect(t, name, see(t, st), "a0 b1")
		if n := s.count("backup"); n > 0 {
			t.Errorf("%s: the lock was left", name)
		}
		expectKept(t, st, s, "a0 b1")
	}
}

func TestTakeWhoseCommitMayHaveBeenMadeHidesTheSession(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	// The commits are made, and their answers lost; the backup is gone then.
	s.hook(func(_ context.Context, c call) error {
		if c.op == "backup.commit" && c.done || c.op == "backup.begin" && !c.done && s.count("backup.commit") > 0 {
			return errDown
		}
		return nil
	})
	if last, err := st.Take(ctx(), id, l, record("a1")); !errors.Is(err, errDown) || len(last.Value) > 0 {
		t.Errorf("got %q, %v; want the backup's error", last.Value, err)
	}
	s.hook(nil)
	expect(t, "afterwards", see(t, st), "-")
}

func TestTakeFromTheBackupAloneGivesNothingBesideAnError(t *testing.T) {
	st, s := created(t, "a0")
	st.Cache = nil
	l := load(t, st)
	s.hook(down("backup.commit"))
	if last, err := st.Take(ctx(), id, l, record("a1")); !errors.Is(err, errDown) || len(last.Value) > 0 {
		t.Errorf("got %q, %v; want the backup's error alone", last.Value, err)
	}
	s.hook(nil)
	expect(t, "afterwards", see(t, st), "a0")
}

func TestTakeWhoseAnswerWasLostOnceIsMade(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	s.hook(func(_ context.Context, c call) error {
		if c.op == "backup.commit" && c.done && s.count("backup.commit") == 1 {
			s.mu.Lock() // a backup keeps microseconds
			s.record.Expires = s.record.Expires.Truncate(time.Microsecond)
			s.mu.Unlock()
			return errDown
		}
		return nil
	})
	if last, err := st.Take(ctx(), id, l, record("a1")); err != nil || string(last.Value) != "a1" {
		t.Errorf("got %q, %v; want a1", last.Value, err)
	}
	s.hook(nil)
	expect(t, "afterwards", see(t, st), "-")

	// Somebody else's removal is not taken for it.
	st, s = created(t, "a0")
	l = load(t, st)
	s.hook(func(_ context.Context, c call) error {
		if c.op == "backup.commit" && !c.done && s.count("backup.commit") == 1 {
			must(t, backup{s}.put(tiered.Record{Expires: time.Now().Add(24 * time.Hour)}))
			return errDown
		}
		return nil
	})
	if last, err := st.Take(ctx(), id, l, record("a1")); !errors.Is(err, tiered.ErrRemoved) || len(last.Value) > 0 {
		t.Errorf("removed by somebody else: got %q, %v; want ErrRemoved", last.Value, err)
	}
}

func TestTakeEndsARefillAndSaysWhenTheCacheFails(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	s.hook(at("backup.commit", false, 1, func() {
		s.hook(nil)
		s.flush()
		refill(t, st)
	}))
	last, err := st.Take(ctx(), id, l, record("a1"))
	if err != nil || string(last.Value) != "a1" {
		t.Errorf("got %q, %v; want a1", last.Value, err)
	}
	expect(t, "after a refill", see(t, st), "-")

	st, s = created(t, "a0")
	l = load(t, st)
	s.hook(down("cache.set"))
	if last, err := st.Take(ctx(), id, l, record("a1")); !errors.Is(err, errDown) || string(last.Value) != "a1" {
		t.Errorf("the marker fails: got %q, %v; want a1 and the error", last.Value, err)
	}
	st, s = created(t, "a0")
	l = load(t, st)
	s.hook(down("cache.swap"))
	if last, err := st.Take(ctx(), id, l, record("a1")); !errors.Is(err, errDown) || string(last.Value) != "a1" {
		t.Errorf("the lock fails: got %q, %v; want a1 and the error", last.Value, err)
	}
}

func TestTakeThatEndsWithItsRequestLeavesTheMarker(t *testing.T) {
	st, s := created(t, "a0")
	request, end := context.WithCancel(ctx())
	l := load(t, st)
	s.hook(at("backup.commit", true, 1, end))
	if last, err := st.Take(request, id, l, record("a1")); err != nil || string(last.Value) != "a1" {
		t.Errorf("got %q, %v; want a1", last.Value, err)
	}
	s.hook(nil)
	expect(t, "afterwards", see(t, st), "-")
	if s.count("backup") > 0 {
		t.Error("the next load asks the backup")
	}
}
