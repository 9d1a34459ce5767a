package tiered_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

// What a load finds.

func TestARecordPastItsExpiryIsNoSession(t *testing.T) {
	st, s := created(t, "a0")
	s.flush()
	s.record.Expires = time.Now().Add(-time.Nanosecond)
	expect(t, "expired", see(t, st), "-")
}

func TestWhatALockHoldsIsTheSessionWhileTheBackupIsDown(t *testing.T) {
	st, s := created(t, "a0")
	release := locked(t, st, s, "a1")
	s.hook(down("backup.get"))
	if l, err := st.Load(ctx(), id); l == nil || string(l.Value) != "a0" || !errors.Is(err, errDown) {
		t.Errorf("got %v, %v; want what was there before, and the error", l, err)
	}
	s.hook(nil)
	if l, err := (&tiered.Store{Cache: st.Cache, Merge: merge}).Load(ctx(), id); l == nil || string(l.Value) != "a0" || err != nil {
		t.Errorf("without a backup: got %v, %v; want what was there before", l, err)
	}
	must(t, release())
	expectKept(t, st, s, "a1")
}

func TestWhatIsAheadAndLockedIsTheSessionAndItsOwnerSavesIt(t *testing.T) {
	st, s := created(t, "a0")
	s.hook(down("backup"))
	if err := st.Update(ctx(), id, load(t, st), record("a1")); !errors.Is(err, errDown) {
		t.Fatalf("got %v, want the error of the backup", err)
	}
	s.hook(nil)
	if !load(t, st).Ahead() {
		t.Error("a session that the backup does not have is not told to be ahead")
	}
	release := locked(t, st, s, "a1 b1")
	if l := load(t, st); l.Ahead() || string(l.Value) != "a1" {
		t.Errorf("got %q, ahead: %v; want a1, to be saved by the owner of the lock", l.Value, l.Ahead())
	}
	must(t, release())
	expectKept(t, st, s, "a1 b1")
}

func TestASessionFromTheBackupThatIsGoneMeanwhileStaysGone(t *testing.T) {
	st, s := created(t, "a0")
	s.flush()
	l := load(t, st)
	s.record = nil // emptied, and purged
	if err := st.Update(ctx(), id, l, record("a1")); !errors.Is(err, tiered.ErrRemoved) {
		t.Errorf("got %v, want ErrRemoved", err)
	}
	expect(t, "in the backup", s.backedUp(), "-")
	s.flush()
	expect(t, "now", see(t, st), "-")
}

func TestAChangeMadeFromTheBackupMayUndoTheOneBeforeItWhoseLockIsLeft(t *testing.T) {
	st, s := created(t, "a0 b0")
	dead(t, st, s, "a1 b0") // the lock holds a0
	l := load(t, st)
	if !l.FromBackup || string(l.Value) != "a1 b0" {
		t.Fatalf("got %q, from the backup: %v; want a1 b0, true", l.Value, l.FromBackup)
	}
	must(t, st.Update(ctx(), id, l, record("a0 b0")))
	expectKept(t, st, s, "a0 b0")
}

// Creating.

func TestALoginWhoseRequestEndsWhileTheBackupIsDownIsSavedLater(t *testing.T) {
	st, s := newStore()
	request, end := context.WithCancel(ctx())
	s.hook(func(_ context.Context, c call) error {
		if c.op == "backup.put" {
			end()
			return errDown
		}
		return nil
	})
	if err := st.Create(request, id, record("a0")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the backup", err)
	}
	s.hook(nil)
	l := load(t, st)
	if !l.Ahead() {
		t.Error("the session is not told to be ahead")
	}
	must(t, st.Update(ctx(), id, l, record("a0")))
	expectKept(t, st, s, "a0")
}

// Refilling.

// refill loads a session from the backup and refills the cache.
func refill(t *testing.T, st *tiered.Store) {
	t.Helper()
	must(t, st.Refill(ctx(), id, load(t, st)))
}

func TestARefillCachesWhatTheBackupHoldsAfterTheLock(t *testing.T) {
	for name, test := range map[string]struct {
		op        string
		meanwhile func(st *tiered.Store, s *services)
		cached    bool
		want      string
	}{
		"nothing happens":        {"cache.add", func(*tiered.Store, *services) {}, true, "a0"},
		"changed before the add": {"cache.add", func(_ *tiered.Store, s *services) { _ = backup{s}.put(record("a1")) }, true, "a1"},
		"removed before the add": {"cache.add", func(_ *tiered.Store, s *services) {
			_ = backup{s}.put(tiered.Record{Expires: time.Now().Add(time.Hour)})
		}, true, "-"},
		"gone before the add":    {"cache.add", func(_ *tiered.Store, s *services) { s.record = nil }, false, "-"},
		"expired before the add": {"cache.add", func(_ *tiered.Store, s *services) { s.record.Expires = time.Now() }, false, "-"},
		"changed before the swap": {"cache.swap", func(st *tiered.Store, _ *services) {
			must(t, st.Update(ctx(), id, load(t, st), record("a1")))
		}, true, "a1"},
		"removed before the swap": {"cache.swap", func(st *tiered.Store, _ *services) { must(t, st.Remove(ctx(), id)) }, true, "-"},
		"grown before the add":    {"cache.add", func(_ *tiered.Store, s *services) { s.limit = 14; _ = backup{s}.put(record("a123456789 b123456789")) }, false, "a123456789 b123456789"},
	} {
		t.Run(name, func(t *testing.T) {
			st, s := created(t, "a0")
			s.flush()
			l := load(t, st)
			s.hook(at(test.op, false, 1, func() {
				s.hook(nil)
				test.meanwhile(st, s)
			}))
			must(t, st.Refill(ctx(), id, l))
			s.hook(nil)
			expect(t, "now", see(t, st), test.want)
			if n := s.count("backup"); n > 0 == test.cached {
				t.Errorf("the backup was asked %d times; is it cached? want %v", n, test.cached)
			}
		})
	}
}

func TestARefillOfWhatDoesNotFitMakesNoCalls(t *testing.T) {
	st, s := created(t, "a0 b0 c0")
	s.flush()
	s.limit = 5
	l := load(t, st)
	s.hook(nil)
	must(t, st.Refill(ctx(), id, l))
	if n := s.count(""); n > 0 {
		t.Errorf("got %d calls, want none", n)
	}
}

func TestTwoRefillsAtOnceLeaveOneValue(t *testing.T) {
	st, s := created(t, "a0")
	s.flush()
	l := load(t, st)
	s.hook(at("backup.get", false, 1, func() { refill(t, st) }))
	must(t, st.Refill(ctx(), id, l))
	if n := s.count("cache.add"); n != 1 {
		t.Errorf("%d locks were tried, want one", n)
	}
	s.hook(nil)
	expectKept(t, st, s, "a0")
}

// Removing.

func TestRemovalLeavesAnEmptiedRecordForADay(t *testing.T) {
	remove := map[string]func(st *tiered.Store) error{
		"Remove": func(st *tiered.Store) error { return st.Remove(ctx(), id) },
		"Take": func(st *tiered.Store) error {
			_, err := st.Take(ctx(), id, load(t, st), record("a0"))
			return err
		},
	}
	for name, remove := range remove {
		st, s := created(t, "a0")
		must(t, remove(st))
		for what, left := range map[string]time.Duration{"record": time.Until(s.record.Expires), "marker": s.ttl} {
			// Take knows its own record by the time, which is up to an hour longer.
			if left < 24*time.Hour-time.Minute || left > 25*time.Hour {
				t.Errorf("%s: the %s lasts %v, want a day or little more", name, what, left)
			}
		}
		expect(t, name, see(t, st), "-")
		s.flush()
		expect(t, name+", after a flush", see(t, st), "-")
	}
}

func TestRemovalReportsEachServiceThatFails(t *testing.T) {
	for _, op := range []string{"cache.set", "backup.put"} {
		st, s := created(t, "a0")
		s.hook(down(op))
		if err := st.Remove(ctx(), id); !errors.Is(err, errDown) {
			t.Errorf("%s fails: got %v, want its error", op, err)
		}
	}
	// One of the two markers is not enough.
	st, s := created(t, "a0")
	var sets atomic.Int32
	s.hook(func(_ context.Context, c call) error {
		if c.op == "cache.set" && !c.done && int(sets.Add(1)) <= st.Retries {
			return errDown
		}
		return nil
	})
	if err := st.Remove(ctx(), id); !errors.Is(err, errDown) {
		t.Errorf("the first marker fails: got %v, want its error", err)
	}
}

func TestRemovalEndsARefillThatReadTheBackupBefore(t *testing.T) {
	st, s := created(t, "a0")
	marked := make(chan bool)
	s.hook(func(_ context.Context, c call) error {
		switch {
		case c.op == "cache.set" && c.done && s.count("cache.set") == 1:
			close(marked)
		case c.op == "backup.put" && !c.done:
			<-marked
			s.hook(nil)
			s.flush()
			refill(t, st)
		}
		return nil
	})
	must(t, st.Remove(ctx(), id))
	s.hook(nil)
	expect(t, "now", see(t, st), "-")
}

func TestWhatDoesNotFitMakesNoCalls(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	s.large = 5
	s.hook(nil)
	for name, err := range map[string]error{
		"Create": st.Create(ctx(), id, record("a0 b1 c1")),
		"Update": st.Update(ctx(), id, l, record("a0 b1 c1")),
	} {
		if !errors.Is(err, tiered.ErrTooLarge) {
			t.Errorf("%s: got %v, want ErrTooLarge", name, err)
		}
	}
	if n := s.count(""); n > 0 {
		t.Errorf("got %d calls, want none", n)
	}
	expectKept(t, st, s, "a0")
}

func TestALoadTellsOfACacheThatFails(t *testing.T) {
	st, s := created(t, "a0")
	s.hook(down("cache"))
	if l, err := st.Load(ctx(), id); l == nil || string(l.Value) != "a0" || !errors.Is(err, errDown) || errors.Is(err, tiered.ErrUnavailable) {
		t.Errorf("got %v, %v; want the session and the error of the cache", l, err)
	}
	s.hook(down("cache", "backup"))
	if l, err := st.Load(ctx(), id); l != nil || !errors.Is(err, tiered.ErrUnavailable) {
		t.Errorf("got %v, %v; want ErrUnavailable", l, err)
	}
}
