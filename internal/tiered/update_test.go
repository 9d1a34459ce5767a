package tiered_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

func TestWhatOthersDoAtAnyCallOfAChangeIsMerged(t *testing.T) {
	others := map[string]struct {
		do   func(t *testing.T, st *tiered.Store, s *services)
		want string
	}{
		"a change":           {func(t *testing.T, st *tiered.Store, _ *services) { add(t, st, "b1") }, "a1 b1"},
		"two changes":        {func(t *testing.T, st *tiered.Store, _ *services) { add(t, st, "b1"); add(t, st, "c1") }, "a1 b1 c1"},
		"a flush":            {func(_ *testing.T, _ *tiered.Store, s *services) { s.flush() }, "a1"},
		"a change and flush": {func(t *testing.T, st *tiered.Store, s *services) { add(t, st, "b1"); s.flush() }, "a1 b1"},
		"a flush and change": {func(t *testing.T, st *tiered.Store, s *services) { s.flush(); add(t, st, "b1") }, "a1 b1"},
		"a refill":           {func(t *testing.T, st *tiered.Store, s *services) { s.flush(); refill(t, st) }, "a1"},
	}
	starts := map[string]func(s *services){
		"cached": func(*services) {}, "evicted": func(s *services) { s.flush() },
	}
	for start, prepare := range starts {
		for name, other := range others {
			t.Run(start+", "+name, func(t *testing.T) {
				for _, op := range []string{"cache.get", "cache.add", "cache.swap", "cache.delete", "backup.begin", "backup.commit"} {
					for n := 1; n < 4; n++ {
						st, s := created(t, "a0")
						prepare(s)
						l := load(t, st)
						var done atomic.Bool
						s.hook(at(op, false, n, func() {
							s.hook(nil)
							done.Store(true)
							other.do(t, st, s)
						}))
						if err := st.Update(ctx(), id, l, record("a1")); err != nil {
							t.Errorf("%s %d: %v", op, n, err)
						}
						s.hook(nil)
						if done.Load() {
							expectKept(t, st, s, other.want)
						}
					}
				}
			})
		}
	}
}

// add adds words in a change of its own.
func add(t *testing.T, st *tiered.Store, more string) {
	t.Helper()
	l := load(t, st)
	m := words(l.Value)
	for k, v := range words([]byte(more)) {
		m[k] = v
	}
	must(t, st.Update(ctx(), id, l, record(text(m))))
}

func TestARefusedChangeLeavesTheSessionCachedAsItWas(t *testing.T) {
	for name, test := range map[string]struct {
		mine   string
		theirs string
		want   error
	}{
		"values that do not merge":          {"a1 !", "a0 b1", errNoMerge},
		"together more than a backup takes": {"a0 c11111111", "a0 b11111111", tiered.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			st, s := created(t, "a0")
			s.large = 15
			l := load(t, st)
			// They change the backup behind the cache's back, so that it is the
			// transaction that refuses.
			s.hook(at("backup.begin", false, 1, func() { must(t, backup{s}.put(record(test.theirs))) }))
			if err := st.Update(ctx(), id, l, record(test.mine)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if n := s.count("backup.begin"); n != 1 {
				t.Errorf("the transaction was tried %d times, want once", n)
			}
			s.hook(nil)
			expect(t, "in the backup", s.backedUp(), test.theirs)
			expect(t, "in the cache", see(t, st), "a0")
			if n := s.count("backup"); n > 0 {
				t.Error("the lock was left")
			}
		})
	}
	t.Run("at the lock", func(t *testing.T) {
		st, s := created(t, "a0")
		l := load(t, st)
		add(t, st, "b1")
		s.hook(nil)
		if err := st.Update(ctx(), id, l, record("a1 !")); !errors.Is(err, errNoMerge) {
			t.Errorf("got %v, want errNoMerge", err)
		}
		if s.count("backup.commit") > 0 {
			t.Error("a change was committed that does not merge")
		}
		expectKept(t, st, s, "a0 b1")
	})
}

func TestAChangeOfARemovedSessionLeavesTheMarker(t *testing.T) {
	for name, evict := range map[string]bool{"the marker is there": false, "the marker is gone": true} {
		st, s := created(t, "a0")
		l := load(t, st)
		must(t, st.Remove(ctx(), id))
		if evict {
			s.flush()
		}
		if err := st.Update(ctx(), id, l, record("a1")); !errors.Is(err, tiered.ErrRemoved) {
			t.Errorf("%s: got %v, want ErrRemoved", name, err)
		}
		s.hook(nil)
		expect(t, name, see(t, st), "-")
		if n := s.count("backup"); n > 0 {
			t.Errorf("%s: the next load asks the backup", name)
		}
	}
}

func TestAMarkerInTheCacheIsEnoughToRefuseAChange(t *testing.T) {
	// The removal is under way: the backup has the session yet.
	for name, change := range map[string]func(st *tiered.Store, l *tiered.Loaded) error{
		"Update": func(st *tiered.Store, l *tiered.Loaded) error { return st.Update(ctx(), id, l, record("a1")) },
		"Take": func(st *tiered.Store, l *tiered.Loaded) error {
			_, err := st.Take(ctx(), id, l, record("a1"))
			return err
		},
	} {
		st, s := created(t, "a0")
		l := load(t, st)
		must(t, (&tiered.Store{Cache: st.Cache}).Remove(ctx(), id))
		s.hook(nil)
		if err := change(st, l); !errors.Is(err, tiered.ErrRemoved) {
			t.Errorf("%s: got %v, want ErrRemoved", name, err)
		}
		if s.count("backup.commit") > 0 {
			t.Errorf("%s: something was committed", name)
		}
		expect(t, name, see(t, st), "-")
	}
}

func TestASessionThatIsFirstSavedMeanwhileIsNotTakenForRemoved(t *testing.T) {
	// The session was created while the backup was down. A change reads the
	// backup, where it is not; another request saves it; then the change puts its
	// lock, and finds in the cache what the backup has by now.
	type mine struct{}
	st, s := newStore()
	s.hook(down("backup"))
	if err := st.Create(ctx(), id, record("a0")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the backup", err)
	}
	s.hook(nil)
	l := load(t, st)
	saved := make(chan bool)
	var once sync.Once
	s.hook(func(ctx context.Context, c call) error {
		switch {
		case ctx.Value(mine{}) == nil:
		case c.op == "backup.begin" && c.done:
			once.Do(func() { add(t, st, "b1"); close(saved) })
		case strings.HasPrefix(c.op, "cache"):
			<-saved
		}
		return nil
	})
	if err := st.Update(context.WithValue(ctx(), mine{}, true), id, l, record("a1")); err != nil {
		t.Errorf("got %v", err)
	}
	s.hook(nil)
	expectKept(t, st, s, "a1 b1")
}

func TestAChangeThatEndsWithItsRequestEndsItsLock(t *testing.T) {
	st, s := created(t, "a0")
	request, end := context.WithCancel(ctx())
	l := load(t, st)
	s.hook(at("backup.commit", true, 1, end))
	if err := st.Update(request, id, l, record("a1")); err != nil {
		t.Errorf("got %v; the change is committed", err)
	}
	s.hook(nil)
	expect(t, "now", see(t, st), "a1")
	if n := s.count("backup"); n > 0 {
		t.Error("the lock was left")
	}
	if s.ttl < 59*time.Minute {
		t.Errorf("the value is kept for %v, want an hour", s.ttl)
	}
}

func TestALockLastsAMinute(t *testing.T) {
	st, s := created(t, "a0")
	release := locked(t, st, s, "a1")
	if s.ttl != time.Minute {
		t.Errorf("got %v, want a minute", s.ttl)
	}
	must(t, release())
}

func TestWhoeverBreaksALockIsNotOverwritten(t *testing.T) {
	// A change that is committed, and whose lock another one has broken, must not
	// put its value over the other's, nor leave what is older than its own.
	st, s := created(t, "a0")
	release := locked(t, st, s, "a1")
	s.flush()
	other := locked(t, st, s, "a0 b1") // from the backup, where a1 is not yet
	must(t, release())
	expect(t, "the first has ended", see(t, st), "a1")
	must(t, other())
	expectKept(t, st, s, "a1 b1")
}

func TestACacheThatFailsTheEndOfAChangeIsReported(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	s.hook(func(_ context.Context, c call) error {
		if strings.HasPrefix(c.op, "cache") && s.count("backup.commit") > 0 {
			return errDown
		}
		return nil
	})
	if err := st.Update(ctx(), id, l, record("a1")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the cache", err)
	}
	s.hook(nil)
	expectKept(t, st, s, "a1")
}

func TestACacheThatFailsTheLockOfAChangeIsReported(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	s.hook(down("cache.swap"))
	if err := st.Update(ctx(), id, l, record("a1")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the cache", err)
	}
	s.hook(nil)
	expectKept(t, st, s, "a1")
}

func TestACacheThatFailsTheSwapLosesTheItem(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	s.hook(func(_ context.Context, c call) error {
		if c.op == "cache.swap" && s.count("backup.commit") > 0 {
			return errDown
		}
		return nil
	})
	if err := st.Update(ctx(), id, l, record("a1")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the cache", err)
	}
	s.hook(nil)
	if s.item != nil {
		t.Error("the lock was left")
	}
	expectKept(t, st, s, "a1")
}

func TestAValueTooLargeForTheCacheIsInTheBackupAlone(t *testing.T) {
	st, s := created(t, "a0")
	s.limit = 18
	must(t, st.Update(ctx(), id, load(t, st), record("a0 b12345678901234567890")))
	expect(t, "now", see(t, st), "a0 b12345678901234567890")
	if s.item != nil {
		t.Error("the cache has an item")
	}
	must(t, st.Update(ctx(), id, load(t, st), record("a0")))
	s.hook(nil)
	expect(t, "small again", see(t, st), "a0")
	if s.count("backup") > 0 {
		t.Error("it is not cached")
	}
	// A lock that does not fit with the value has none; the owner puts it back.
	s.limit = 8
	s.hook(down("backup"))
	if err := st.Update(ctx(), id, load(t, st), record("a1")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the backup", err)
	}
	expect(t, "after a change that failed", see(t, st), "a0")
}

func TestManyChangesAtOnceAllSurvive(t *testing.T) {
	for name, withBackup := range map[string]bool{"both": true, "cache alone": false} {
		t.Run(name, func(t *testing.T) {
			st, s := newStore()
			if !withBackup {
				st.Backup = nil
			}
			must(t, st.Create(ctx(), id, record("a0")))
			want := map[string]string{"a": "0"}
			keys := strings.Split("b c d e f g h i", " ")
			var loaded, saved sync.WaitGroup
			loaded.Add(len(keys))
			saved.Add(len(keys))
			for _, k := range keys {
				want[k] = "1"
				go func() {
					defer saved.Done()
					l, err := st.Load(ctx(), id)
					loaded.Done()
					loaded.Wait()
					if err == nil {
						err = st.Update(ctx(), id, l, record("a0 "+k+"1"))
					}
					if err != nil {
						t.Errorf("%s: %v", k, err)
					}
				}()
			}
			saved.Wait()
			expect(t, "now", see(t, st), text(want))
			if withBackup {
				expectKept(t, st, s, text(want))
			}
		})
	}
}

// While the backup is down.

func TestChangesWhileTheBackupIsDownBuildOnEachOther(t *testing.T) {
	st, s := created(t, "a0 b0 c0")
	s.hook(down("backup"))
	l := load(t, st) // a request that changes later
	for _, mine := range []string{"a1 b0 c0", "a1 c0"} {
		if err := st.Update(ctx(), id, load(t, st), record(mine)); !errors.Is(err, errDown) {
			t.Errorf("%s: got %v, want the error of the backup", mine, err)
		}
	}
	if err := st.Update(ctx(), id, l, record("a0 b0 c1")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the backup", err)
	}
	expect(t, "while it is down", see(t, st), "a1 c1")
	s.hook(nil)
	l = load(t, st)
	if !l.Ahead() {
		t.Error("the session is not told to be ahead")
	}
	must(t, st.Update(ctx(), id, l, record(string(l.Value))))
	expectKept(t, st, s, "a1 c1")
}

func TestAChangeWhileTheBackupIsDownKeepsWhatOthersSavedBefore(t *testing.T) {
	st, s := created(t, "a0 b0")
	s.flush()
	l := load(t, st) // from the backup
	add(t, st, "a1")
	s.hook(down("backup"))
	if err := st.Update(ctx(), id, l, record("a0 b1")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the backup", err)
	}
	expect(t, "while it is down", see(t, st), "a1 b1")
	// Nor does one that cannot be merged take it away.
	if err := st.Update(ctx(), id, l, record("a0 !")); !errors.Is(err, errNoMerge) {
		t.Errorf("got %v, want errNoMerge", err)
	}
	expect(t, "while it is down", see(t, st), "a1 b1")
	s.hook(nil)
	must(t, st.Update(ctx(), id, load(t, st), record("a1 b1")))
	expectKept(t, st, s, "a1 b1")
}

func TestWhatIsAheadAndUndoneIsUndone(t *testing.T) {
	st, s := created(t, "a0")
	s.hook(down("backup"))
	if err := st.Update(ctx(), id, load(t, st), record("a1")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the backup", err)
	}
	s.hook(nil)
	must(t, st.Update(ctx(), id, load(t, st), record("a0")))
	expectKept(t, st, s, "a0")
}

func TestWhatIsAheadIsMergedWithWhatTheBackupHasNewer(t *testing.T) {
	st, s := created(t, "a0 b0")
	s.hook(down("backup"))
	if err := st.Update(ctx(), id, load(t, st), record("a1 b0")); !errors.Is(err, errDown) {
		t.Errorf("got %v, want the error of the backup", err)
	}
	s.hook(nil)
	must(t, backup{s}.put(record("a0 b1 c1"))) // while the cache could not be reached
	l := load(t, st)
	must(t, st.Update(ctx(), id, l, record("a1 b0 d1")))
	expectKept(t, st, s, "a1 b1 c1 d1")
}
