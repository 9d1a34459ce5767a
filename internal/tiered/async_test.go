package tiered_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

// reports collects what background saves report.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) joined() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.errs...)
}

// later is UpdateAsync of what is there now.
func later(t *testing.T, st *tiered.Store, mine string) *reports {
	t.Helper()
	r := &reports{}
	must(t, st.UpdateAsync(ctx(), id, load(t, st), record(mine), r.add))
	return r
}

func drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx(), time.Minute)
	defer cancel()
	must(t, tiered.Drain(ctx))
}

// saving starts a background save and holds it before its commit or, with
// committed set, after it; release lets it go on and waits for it.
func saving(t *testing.T, st *tiered.Store, s *services, mine string, committed bool) (r *reports, release func()) {
	t.Helper()
	arrived, goOn := make(chan bool), make(chan bool)
	s.hook(at("backup.commit", committed, 1, func() { close(arrived); <-goOn }))
	r = later(t, st, mine)
	<-arrived
	s.hook(nil)
	return r, func() { close(goOn); drain(t) }
}

func expectNoReport(t *testing.T, r *reports) {
	t.Helper()
	if err := r.joined(); err != nil {
		t.Errorf("reported: %v", err)
	}
}

func TestABackgroundSaveOutlivesItsRequest(t *testing.T) {
	st, s := created(t, "a0")
	arrived, goOn := make(chan bool), make(chan bool)
	request, end := context.WithCancel(ctx())
	s.hook(at("backup.begin", false, 1, func() { close(arrived); <-goOn }))
	r := &reports{}
	must(t, st.UpdateAsync(request, id, load(t, st), record("a1"), r.add))
	<-arrived
	end()
	if l := load(t, st); string(l.Value) != "a1" || !l.Ahead() {
		t.Errorf("got %q, ahead: %v; want a1, true", l.Value, l.Ahead())
	}
	waiting, stop := context.WithTimeout(ctx(), 10*time.Millisecond)
	defer stop()
	if err := tiered.Drain(waiting); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain while a save is under way: got %v", err)
	}
	close(goOn)
	drain(t)
	expectNoReport(t, r)
	if load(t, st).Ahead() {
		t.Error("still told to be ahead")
	}
	expectKept(t, st, s, "a1")
}

func TestWhatHappensWhileABackgroundSaveIsUnderWay(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(t *testing.T, st *tiered.Store, s *services)
		want      string
	}{
		"nothing":                           {func(*testing.T, *tiered.Store, *services) {}, "a1 b0"},
		"a flush":                           {func(_ *testing.T, _ *tiered.Store, s *services) { s.flush() }, "a1 b0"},
		"a change":                          {func(t *testing.T, st *tiered.Store, _ *services) { add(t, st, "c1") }, "a1 b0 c1"},
		"a change that undoes it":           {func(t *testing.T, st *tiered.Store, _ *services) { add(t, st, "a0") }, "a0 b0"},
		"a later change of the same":        {func(t *testing.T, st *tiered.Store, _ *services) { add(t, st, "a2") }, "a2 b0"},
		"another one, asynchronous":         {func(t *testing.T, st *tiered.Store, _ *services) { later(t, st, "a1 b1") }, "a1 b1"},
		"one that undoes it, asynchronous":  {func(t *testing.T, st *tiered.Store, _ *services) { later(t, st, "a0 b0") }, "a0 b0"},
		"a flush and a change":              {func(t *testing.T, st *tiered.Store, s *services) { s.flush(); add(t, st, "c1") }, "a1 b0 c1"},
		"a change, and a flush":             {func(t *testing.T, st *tiered.Store, s *services) { add(t, st, "c1"); s.flush() }, "a1 b0 c1"},
		"a change of the same, and a flush": {func(t *testing.T, st *tiered.Store, s *services) { add(t, st, "a2"); s.flush() }, "a2 b0"},
		"a flush and a refill":              {func(t *testing.T, st *tiered.Store, s *services) { s.flush(); refill(t, st) }, "a1 b0"},
	} {
		for when, committed := range map[string]bool{"before the commit": false, "after the commit": true} {
			t.Run(name+", "+when, func(t *testing.T) {
				st, s := created(t, "a0 b0")
				r, release := saving(t, st, s, "a1 b0", committed)
				test.meanwhile(t, st, s)
				release()
				expectNoReport(t, r)
				expectKept(t, st, s, test.want)
			})
		}
	}
}

func TestWhatABackgroundSaveDidNotPutMakesWayForAShortLock(t *testing.T) {
	st, s := created(t, "a0")
	_, release := saving(t, st, s, "a1", false)
	s.flush()
	refill(t, st) // with what the backup holds before the commit
	release()
	if s.ttl != time.Second {
		t.Errorf("the item lasts %v, want the second of a lock", s.ttl)
	}
	expect(t, "now", see(t, st), "a1")
}

func TestARemovedSessionStaysRemovedWhenABackgroundSaveIsUnderWay(t *testing.T) {
	for name, evict := range map[string]bool{"the marker is there": false, "the marker is gone": true} {
		st, s := created(t, "a0")
		r, release := saving(t, st, s, "a1", false)
		must(t, st.Remove(ctx(), id))
		if evict {
			s.flush()
		}
		release()
		if err := r.joined(); !errors.Is(err, tiered.ErrRemoved) {
			t.Errorf("%s: reported: %v, want ErrRemoved", name, err)
		}
		expect(t, name, see(t, st), "-")
		s.flush()
		expect(t, name+", after a flush", see(t, st), "-")
	}
	// Removed from the backup alone, as a cache that failed leaves it.
	st, s := created(t, "a0")
	l := load(t, st)
	must(t, backup{s}.put(tiered.Record{Expires: time.Now().Add(time.Hour)}))
	r := &reports{}
	must(t, st.UpdateAsync(ctx(), id, l, record("a1"), r.add))
	drain(t)
	if err := r.joined(); !errors.Is(err, tiered.ErrRemoved) {
		t.Errorf("reported: %v, want ErrRemoved", err)
	}
	s.hook(nil)
	expect(t, "afterwards", see(t, st), "-")
	if s.count("backup") > 0 {
		t.Error("the marker is not in the cache")
	}
}

func TestAnAsynchronousChangeIsRefusedAtOnce(t *testing.T) {
	st, s := created(t, "a0")
	l := load(t, st)
	never := func(err error) { t.Errorf("reported: %v", err) }
	s.large = 5
	if err := st.UpdateAsync(ctx(), id, l, record("a0 b1 c1"), never); !errors.Is(err, tiered.ErrTooLarge) {
		t.Errorf("too large: got %v, want ErrTooLarge", err)
	}
	add(t, st, "b1")
	if err := st.UpdateAsync(ctx(), id, l, record("a0 c1"), never); !errors.Is(err, tiered.ErrTooLarge) {
		t.Errorf("merged too large: got %v, want ErrTooLarge", err)
	}
	if err := st.UpdateAsync(ctx(), id, l, record("a0 !"), never); !errors.Is(err, errNoMerge) {
		t.Errorf("no merge: got %v, want errNoMerge", err)
	}
	must(t, st.Remove(ctx(), id))
	if err := st.UpdateAsync(ctx(), id, l, record("a1"), never); !errors.Is(err, tiered.ErrRemoved) {
		t.Errorf("removed: got %v, want ErrRemoved", err)
	}
	drain(t)
	expect(t, "afterwards", see(t, st), "-")
}

func TestWithNothingToBuildOnAnAsynchronousChangeIsSavedAtOnce(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, st *tiered.Store, s *services) *tiered.Loaded{
		"evicted before": func(t *testing.T, st *tiered.Store, s *services) *tiered.Loaded { s.flush(); return load(t, st) },
		"evicted since": func(t *testing.T, st *tiered.Store, s *services) *tiered.Loaded {
			l := load(t, st)
			s.flush()
			return l
		},
		"locked": func(t *testing.T, st *tiered.Store, s *services) *tiered.Loaded {
			l := load(t, st)
			dead(t, st, s, "a0") // changes nothing
			return l
		},
		"no room": func(t *testing.T, st *tiered.Store, s *services) *tiered.Loaded {
			l := load(t, st)
			s.limit = 12
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			st, s := created(t, "a0")
			l := prepare(t, st, s)
			r := &reports{}
			must(t, st.UpdateAsync(ctx(), id, l, record("a1"), r.add))
			expect(t, "in the backup at once", s.backedUp(), "a1")
			drain(t)
			expectNoReport(t, r)
			expectKept(t, st, s, "a1")
		})
	}
}

func TestABackgroundSaveThatFailsIsTriedInAContextOfItsOwnAndReported(t *testing.T) {
	type key struct{}
	for name, test := range map[string]struct {
		background bool
		fails      func(own bool) bool
		want       bool // reported
		ahead      bool
	}{
		"in the request's":    {true, func(own bool) bool { return !own }, false, false},
		"in both":             {true, func(bool) bool { return true }, true, true},
		"where there is none": {false, func(own bool) bool { return !own }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			st, s := created(t, "a0")
			st.Background = func(context.Context) context.Context {
				if !test.background {
					return nil
				}
				return context.WithValue(context.Background(), key{}, true)
			}
			s.hook(func(ctx context.Context, c call) error {
				if _, ok := ctx.Deadline(); strings.HasPrefix(c.op, "backup") && !ok {
					t.Error("a call without a deadline")
				}
				if c.op == "backup.commit" && test.fails(ctx.Value(key{}) != nil) {
					return errDown
				}
				return nil
			})
			r := later(t, st, "a1")
			drain(t)
			if err := r.joined(); errors.Is(err, errDown) != test.want {
				t.Errorf("reported: %v, want an error: %v", err, test.want)
			}
			s.hook(nil)
			l := load(t, st)
			if l.Ahead() != test.ahead || string(l.Value) != "a1" {
				t.Errorf("got %q, ahead: %v", l.Value, l.Ahead())
			}
			if test.ahead {
				must(t, st.Update(ctx(), id, l, record("a1"))) // the next request repairs it
			}
			expectKept(t, st, s, "a1")
		})
	}
	t.Run("for good", func(t *testing.T) {
		st, s := created(t, "a0")
		asked := false
		st.Background = func(context.Context) context.Context { asked = true; return context.Background() }
		_, release := saving(t, st, s, "a1", false)
		must(t, st.Remove(ctx(), id))
		release()
		if asked {
			t.Error("a refused save was tried again")
		}
	})
}

func TestAPublishedChangeWhoseAnswerWasLostIsSavedOnce(t *testing.T) {
	st, s := created(t, "a0")
	s.hook(func(_ context.Context, c call) error {
		if c.op == "cache.swap" && c.done && s.count("cache.swap") == 1 {
			return errDown
		}
		return nil
	})
	r := later(t, st, "a1")
	drain(t)
	expectNoReport(t, r)
	if n := s.count("backup.commit"); n != 1 {
		t.Errorf("%d commits, want one", n)
	}
	expectKept(t, st, s, "a1")
}

// A change is made from what a background save has published, and comes after
// that was saved, undone and forgotten by the cache.
func TestAChangeDoesNotRepeatABackgroundSaveThatWasUndone(t *testing.T) {
	st, s := created(t, "a0")
	_, release := saving(t, st, s, "a1", false)
	l := load(t, st)
	release()
	s.flush()
	must(t, st.Update(ctx(), id, load(t, st), record("a0")))
	s.flush()
	must(t, st.Update(ctx(), id, l, record("a1 b1")))
	expectKept(t, st, s, "a0 b1")
}
