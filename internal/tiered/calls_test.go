//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestACommitWhoseAnswerIsLostIsNotAppliedOverWhatOthersChangedSince(t *testing.T) {
	for name, edits := range map[string]string{"set": "a=2", "set back": "a=0", "deleted": "-a"} {
		for how, change := range changes {
			t.Run(name+" "+how, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=0 b=0")
					r := s.opened(t, "A")
					s.at("A", "backup.commit", true, func() error {
						time.Sleep(time.Millisecond)
						b := s.request(t, "B")
						b.l, _ = b.st.LoadBackup(b.ctx, id)
						expect(t, "B sees", shown(b.l.Value()), "a=1 b=0")
						must(t, b.update(edits))
						return errLost
					})
					must(t, change(r, "a=1"))
					drain(t)
					want := map[string]string{"set": "a=2 b=0", "set back": "a=0 b=0", "deleted": "b=0"}[name]
					s.expectKept(t, want)
				})
			})
		}
	}
}

func TestACommitThatWasAppliedAndReportedAsFailedForGoodIsKept(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=0 b=0")
		r := s.opened(t, "A")
		s.at("A", "backup.commit", true, func() error {
			s.fail("A", "backup")
			return errLost
		})
		expectErr(t, "change", r.update("a=1"), errDown)
		expect(t, "in the backup", s.backedUp(), "a=1 b=0")
		must(t, s.opened(t, "B").update("a=2"))
		s.expectKept(t, "a=2 b=0")
	})
}

// latency is the model of the design.
var latency = map[string]time.Duration{
	"cache.get": 1500 * time.Microsecond, "cache.set": 1500 * time.Microsecond,
	"cache.add": 1500 * time.Microsecond, "cache.swap": 1500 * time.Microsecond,
	"backup.get": 8 * time.Millisecond, "backup.put": 20 * time.Millisecond,
	"backup.begin": 5 * time.Millisecond, "backup.txget": 8 * time.Millisecond,
	"backup.txput": 5 * time.Millisecond, "backup.commit": 20 * time.Millisecond,
}

func TestEveryOperationMakesTheCallsItMay(t *testing.T) {
	const us = time.Microsecond
	load := func(r *request) { r.load() }
	evicted := func(r *request) { r.s.flush() }
	fresh := func(*request) {}
	type cost struct {
		calls int
		took  time.Duration
	}
	for _, test := range []struct {
		name               string
		before, f          func(r *request)
		transactions, vers cost
		async              bool
	}{
		{"load", fresh, load, cost{1, 1500 * us}, cost{1, 1500 * us}, false},
		{"load what was evicted", evicted, load, cost{2, 9500 * us}, cost{2, 9500 * us}, false},
		{"load what is not there", func(r *request) { r.s.flush(); r.s.purge() }, func(r *request) { r.see() }, cost{2, 9500 * us}, cost{2, 9500 * us}, false},
		{"load what was removed", func(r *request) { must(r.t, r.load().remove()) }, func(r *request) { r.see() }, cost{1, 1500 * us}, cost{1, 1500 * us}, false},
		{"nothing to settle", load, func(r *request) { must(r.t, r.settle()) }, cost{0, 0}, cost{0, 0}, false},
		{"refill", func(r *request) { r.s.flush(); r.load() }, func(r *request) { must(r.t, r.settle()) }, cost{4, 12500 * us}, cost{4, 12500 * us}, false},
		{"create", func(r *request) { r.s.flush(); r.s.purge() }, func(r *request) { must(r.t, r.create("a=1")) }, cost{2, 20 * time.Millisecond}, cost{2, 20 * time.Millisecond}, false},
		{"update", load, func(r *request) { must(r.t, r.update("a=2")) }, cost{5, 34500 * us}, cost{2, 21500 * us}, false},
		{"update of what was evicted", func(r *request) { r.s.flush(); r.load() }, func(r *request) { must(r.t, r.update("a=2")) }, cost{7, 37500 * us}, cost{4, 24500 * us}, false},
		{"update, asynchronous", load, func(r *request) { must(r.t, r.updateAsync("a=2")) }, cost{1, 1500 * us}, cost{1, 1500 * us}, true},
		{"update, asynchronous, after another", func(r *request) {
			r.s.hold("A", "backup.commit", false) // for as long as it may be
			must(r.t, r.load().updateAsync("a=2"))
			synctest.Wait()
			r.load()
		}, func(r *request) { must(r.t, r.updateAsync("a=3")) }, cost{1, 1500 * us}, cost{1, 1500 * us}, true},
		{"remove", load, func(r *request) { must(r.t, r.remove()) }, cost{3, 21500 * us}, cost{3, 21500 * us}, false},
		{"move", load, func(r *request) { _, err := r.move("a=2"); must(r.t, err) }, cost{9, 41 * time.Millisecond}, cost{7, 31 * time.Millisecond}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				// A backup with versions has given the item its token then.
				must(t, s.opened(t, "A").update("a=0"))
				r := s.request(t, "A")
				test.before(r)
				s.takes(latency)
				s.forgetCalls()
				begin := time.Now()
				test.f(r)
				counted := ""
				if test.async {
					counted = "cache" // the background save has begun
				}
				got := cost{s.count(counted), time.Since(begin)}
				want := test.transactions
				if s.versions {
					want = test.vers
				}
				if got != want {
					t.Errorf("got %v, want %v: %v", got, want, s.calls)
				}
			})
		})
	}
}

func TestABackgroundSaveMakesSixCalls(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.forgetCalls()
		must(t, r.updateAsync("a=2"))
		drain(t)
		want := 1 + 6
		if s.versions {
			want = 1 + 3 // get, conditional put; the item is seen once more
			want++
		}
		expect(t, "calls", s.count(""), want)
		s.expectKept(t, "a=2")
	})
}

func TestAChangeAfterABackgroundSaveMakesNoMoreCalls(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		for range 2 {
			must(t, s.opened(t, "A").updateAsync("a=2"))
			drain(t)
		}
		r := s.opened(t, "A")
		s.forgetCalls()
		must(t, r.update("a=3"))
		want := 5
		if s.versions {
			want = 2
		}
		expect(t, "calls", s.count(""), want)
		s.expectKept(t, "a=3")
	})
}

// A deletion is remembered for an hour in both services. What only one of them
// has forgotten would make every further change write twice.
func TestAChangeLongAfterADeletionMakesNoMoreCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		must(t, s.opened(t, "A").update("-b"))
		for range 5 {
			time.Sleep(20 * time.Minute)
			must(t, s.opened(t, "A").update("a=2"))
		}
		r := s.opened(t, "A")
		s.forgetCalls()
		must(t, r.update("a=3"))
		expect(t, "calls", s.count(""), 5)
		s.expectKept(t, "a=3")
	})
}

func TestACallThatFailsIsTriedAsOftenAsRetriesSays(t *testing.T) {
	for _, test := range []struct {
		op string
		f  func(r *request) error
	}{
		{"cache.get", func(r *request) error { _, err := r.st.Load(r.ctx, id); return err }},
		{"backup.get", func(r *request) error { r.s.flush(); _, err := r.st.Load(r.ctx, id); return err }},
		{"cache.add", func(r *request) error { r.s.flush(); r.load(); return r.settle() }},
		{"backup.begin", func(r *request) error { return r.load().update("a=2") }},
		{"backup.commit", func(r *request) error { return r.load().update("a=2") }},
		{"cache.swap", func(r *request) error { r.st.Backup = nil; return r.load().update("a=2") }},
		{"cache.set", func(r *request) error { r.st.Backup = nil; return r.load().remove() }},
		{"backup.put", func(r *request) error { return r.load().remove() }},
	} {
		for _, retries := range []int{0, 1, 3} {
			t.Run(test.op, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=1")
					r := s.request(t, "A")
					r.st.Retries = retries
					s.fail("A", test.op)
					close(s.over("A")) // the background does not try it, either
					expectErr(t, test.op, test.f(r), errDown)
					expect(t, "attempts", s.count(test.op), max(retries, 1))
				})
			})
		}
	}
}

func TestACallThatFailsOnceIsNoFailure(t *testing.T) {
	for _, op := range []string{"cache.get", "backup.begin", "backup.txget", "backup.commit", "cache.swap"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				s.at("A", op, false, func() error { return errDown })
				must(t, s.opened(t, "A").update("a=2"))
				s.expectKept(t, "a=2")
			})
		})
	}
}

func TestWhatAServiceRejectsIsTriedOnce(t *testing.T) {
	for _, rejection := range []error{tier.ErrRejected, tier.ErrTooLarge} {
		for _, op := range []string{"cache.get", "backup.begin", "backup.commit"} {
			t.Run(op, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=1")
					l := s.opened(t, "A").l
					s.hook(func(c step) error {
						if c.op == op && c.who == "A" && !c.done {
							return rejection
						}
						return nil
					})
					s.forgetCalls()
					r := s.request(t, "A")
					r.st.Retries = 5
					var err error
					if op == "cache.get" {
						_, err = r.st.Load(r.ctx, id)
					} else {
						r.l = l
						err = r.update("a=2")
					}
					expectErr(t, op, err, rejection)
					expect(t, "attempts", s.count(op), 1)
				})
			})
		}
	}
}

func TestAnUpdateThatOthersGetAheadOfIsTriedForTwentySeconds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		contended := 0
		s.hook(func(c step) error {
			if c.op == "backup.commit" && !c.done {
				contended++
				return tier.ErrContention
			}
			return nil
		})
		begin := time.Now()
		expectErr(t, "update", r.update("a=2"), tier.ErrContention)
		if took := time.Since(begin); contended < 20 || took < 15*time.Second || took > contentionTime {
			t.Errorf("it was tried %d times, for %v", contended, took)
		}
	})
}

func TestTheLastAttemptAtAnUpdateEndsWithTheUpdate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		s.hook(func(c step) error {
			if c.op != "backup.commit" || c.done {
				return nil
			}
			const slow = DefaultBackupTimeout - time.Millisecond
			select {
			case <-time.After(slow):
				return tier.ErrContention
			case <-c.ctx.Done():
				return context.Cause(c.ctx)
			}
		})
		begin := time.Now()
		if err := r.update("a=2"); err == nil {
			t.Error("update: no error")
		}
		expect(t, "it took", time.Since(begin), contentionTime)
	})
}

func TestAServiceThatFailsBetweenContendedAttemptsFailsTheUpdate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		attempts := 0
		s.hook(func(c step) error {
			if c.op == "backup.commit" && !c.done {
				if attempts++; attempts%2 == 0 {
					return errDown
				}
				return tier.ErrContention
			}
			return nil
		})
		expectErr(t, "update", r.update("a=2"), errDown)
		expect(t, "attempts", attempts, 4)
	})
}

func TestACallEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		r.st.Retries = 1000
		s.fail("A", "backup")
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		r.ctx = ctx
		begin := time.Now()
		expectErr(t, "update", r.update("a=2"), context.DeadlineExceeded)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("it ended after %v", took)
		}
		expect(t, "the change lives on", s.cached(), "unsaved a=2")
	})
}

func TestAnEndedContextMakesNoUpdate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		ctx, cancel := context.WithCancelCause(r.ctx)
		cause := errors.New("the client has gone")
		cancel(cause)
		r.ctx = ctx
		expectErr(t, "load", func() error { _, err := r.st.Load(ctx, id); return err }(), context.Canceled)
		expectErr(t, "load", func() error { _, err := r.st.Load(ctx, id); return err }(), tier.ErrUnavailable)
		if err := r.update("a=2"); err == nil {
			t.Error("an update in an ended context reported none")
		}
		expect(t, "in the backup", s.backedUp(), "a=1")
	})
}

// Time budgets.

// took runs f and returns how long it took.
func took(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}

func TestACacheThatIsSilentCostsARequestOneTimeout(t *testing.T) {
	for name, f := range map[string]func(r *request) error{
		"update":       func(r *request) error { return r.update("a=2") },
		"asynchronous": func(r *request) error { return r.updateAsync("a=2") },
		"remove":       (*request).remove,
		"settle":       (*request).settle,
		"move":         func(r *request) error { _, err := r.move("a=2"); return err },
	} {
		for when, loadsToo := range map[string]bool{"from the load on": true, "after the load": false} {
			t.Run(name+" "+when, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					r := s.request(t, "A")
					r.st.Retries = 5
					if !loadsToo {
						r.load()
					}
					s.forgetCalls()
					s.silence("A", "cache")
					d := took(func() {
						if loadsToo {
							r.l, _ = r.st.Load(r.ctx, id)
						}
						err := f(r)
						if name != "settle" {
							expectErr(t, name, err, tier.ErrNotPublished)
						}
					})
					if name == "settle" && !loadsToo {
						expect(t, "it took", d, 0)
					} else {
						expect(t, "it took", d, DefaultCacheTimeout)
					}
					s.well()
					drain(t)
				})
			})
		}
	}
}

func TestARequestThatTheCacheHasNotAnsweredDoesNotCallItAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.request(t, "A")
		r.st.Retries = 5
		s.atStep("A", "cache.get", false, func(c step) error { return c.wait(nil) })
		l, err := r.st.Load(r.ctx, id)
		expectErr(t, "load", err, errTimeout)
		expect(t, "calls, that are not tried again", s.count("cache.get"), 1)
		r.l = l
		release := s.hold("A", "cache.get", false) // the background begins with it
		gets, swaps := s.countOf("A", "cache.get"), s.countOf("A", "cache.swap")
		d := took(func() { expectErr(t, "change", r.update("a=2"), tier.ErrNotPublished) })
		synctest.Wait()
		expect(t, "it took", d, 0)
		expect(t, "gets, of the background", s.countOf("A", "cache.get")-gets, 1)
		expect(t, "swaps", s.countOf("A", "cache.swap")-swaps, 0)
		release()
		// The background and other requests do.
		s.expectKept(t, "a=2")
	})
}

func TestHalfOfADeadlineIsLeftForTheBackup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		for deadline, want := range map[time.Duration]time.Duration{
			100 * time.Millisecond: 50 * time.Millisecond,
			800 * time.Millisecond: 400 * time.Millisecond,
			2 * time.Second:        DefaultCacheTimeout,
		} {
			r := s.request(t, "A")
			s.silence("A", "cache")
			ctx, cancel := context.WithTimeout(r.ctx, deadline)
			defer cancel()
			var l *Loaded
			d := took(func() { l, _ = r.st.Load(ctx, id) })
			expect(t, "the session is found in", d, want)
			if l == nil {
				t.Error("it is not found")
			}
			s.well()
			s.opened(t, "B") // the cache answers
		}
		r := s.withoutBackup(t, "A")
		s.silence("A", "cache")
		ctx, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
		defer cancel()
		d := took(func() { _, _ = r.st.Load(ctx, id) })
		expect(t, "without a backup it takes", d, 100*time.Millisecond)
	})
}

func TestTheTimeoutsAreTheStores(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.request(t, "A")
		r.st.CacheTimeout, r.st.BackupTimeout = 70*time.Millisecond, 3*time.Second
		s.silence("A", "cache", "backup")
		d := took(func() {
			_, err := r.st.Load(r.ctx, id)
			expectErr(t, "load", err, tier.ErrUnavailable)
			expectErr(t, "load", err, errTimeout)
		})
		expect(t, "it took", d, 3*time.Second+70*time.Millisecond)
	})
}

// All attempts of an operation on the cache share its time; an attempt at one on
// the backup has its own.
func TestTheTimeOfTheCacheIsThatOfAllAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.request(t, "A")
		r.st.Retries = 1000
		s.hook(func(c step) error {
			if c.who == "A" && c.is("cache.get") && !c.done {
				time.Sleep(100 * time.Millisecond)
				return errDown
			}
			return nil
		})
		d := took(func() { _, _ = r.st.Load(r.ctx, id) })
		if d < 400*time.Millisecond || d > 700*time.Millisecond {
			t.Errorf("it took %v", d)
		}
	})
}

func TestABackupThatIsSilentCostsOneTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		f     func(r *request) error
		want  error
		takes time.Duration
	}{
		"load":         {func(r *request) error { r.s.flush(); _, err := r.st.Load(r.ctx, id); return err }, tier.ErrUnavailable, DefaultBackupTimeout},
		"cached load":  {func(r *request) error { _, err := r.st.Load(r.ctx, id); return err }, nil, 0},
		"update":       {func(r *request) error { return r.update("a=2") }, tier.ErrNotBackedUp, DefaultBackupTimeout},
		"asynchronous": {func(r *request) error { return r.updateAsync("a=2") }, nil, 0},
		"create":       {func(r *request) error { r.s.purge(); r.s.flush(); return r.create("a=2") }, tier.ErrNotBackedUp, DefaultBackupTimeout},
		"remove":       {(*request).remove, tier.ErrNotBackedUp, DefaultBackupTimeout},
		"move":         {func(r *request) error { _, err := r.move("a=2"); return err }, tier.ErrNotSaved, DefaultBackupTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				r := s.opened(t, "A")
				r.st.Retries = 5
				s.silence("A", "backup")
				d := took(func() { expectErr(t, name, test.f(r), test.want) })
				expect(t, "it took", d, test.takes)
				s.well()
				drain(t)
			})
		})
	}
}

// A commit whose answer does not come may have been made. A move asks then.
func TestACommitThatIsNotAnsweredIsNotMadeAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		r.st.Retries = 5
		s.atStep("A", "backup.commit", true, func(c step) error { return c.wait(nil) })
		d := took(func() { expectErr(t, "change", r.update("a=2"), tier.ErrNotBackedUp) })
		expect(t, "it took", d, DefaultBackupTimeout)
		expect(t, "commits", s.count("backup.commit"), 1)
		s.expectKept(t, "a=2")
	})
}

func TestADeadlineIsOverrunByASecondAtMost(t *testing.T) {
	const deadline = 700 * time.Millisecond
	operations := map[string]func(r *request) error{
		"load":   func(r *request) error { _, err := r.st.Load(r.ctx, id); return err },
		"settle": (*request).settle,
		"create": func(r *request) error { r.s.purge(); r.s.flush(); return r.create("a=2") },
		"remove": (*request).remove,
		"move":   func(r *request) error { _, err := r.move("a=2"); return err },
	}
	for name, change := range changes {
		operations[name] = func(r *request) error { return change(r, "a=2") }
	}
	for name, f := range operations {
		for silent, ops := range map[string][]string{"both": {"cache", "backup"}, "the backup": {"backup"}, "commits": {"backup.commit"}, "the cache": {"cache"}} {
			t.Run(name+", silent: "+silent, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					r := s.opened(t, "A")
					r.st.Shared = shared(s)
					if name == "settle" {
						s.flush()
						r.load()
					}
					s.silence("A", ops...)
					ctx, cancel := context.WithTimeout(r.ctx, deadline)
					defer cancel()
					r.ctx = ctx
					d := took(func() {
						for range 3 { // what is granted is granted once
							_ = f(r)
						}
					})
					if d > deadline+finishTime {
						t.Errorf("it took %v", d)
					}
					s.well()
					drain(t)
				})
			})
		}
	}
}
