//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/gaesession/gaesession/tier"
)

// What the services have still to be told.

// here is a request of a process that shares what is pending with the others that
// are made so.
func (s *services) here(t *testing.T, who string) *request {
	t.Helper()
	r := s.request(t, who)
	r.st.Shared = shared(s)
	return r
}

// failing is a session that a request of this process could not publish.
func failing(t *testing.T, s *services, f func(r *request) error, want error, ops ...string) {
	t.Helper()
	r := s.here(t, "A").load()
	s.fail("A", ops...)
	expectErr(t, "change", f(r), want)
}

func change(r *request) error { return r.update("a=2") }

func TestAProcessThatCouldNotPublishAChangeSeesIt(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		expect(t, "another process sees", s.request(t, "B").see(), "a=1")
		s.takes(latency)
		s.forgetCalls()
		r := s.here(t, "C")
		d := took(func() { expect(t, "this one sees", r.see(), "a=2") })
		expect(t, "it asks both at once", d, latency["backup.get"])
		expect(t, "calls", s.countOf("C", ""), 2)
		s.takes(nil)
		must(t, r.load().update("b=1"))
		expect(t, "cached", s.cached(), "a=2 b=1")
		s.well()
		drain(t)
		s.forgetCalls()
		expect(t, "afterwards", s.here(t, "C").see(), "a=2 b=1")
		expect(t, "calls", s.count(""), 1)
		s.expectKept(t, "a=2 b=1")
	})
}

func TestWhatTheCacheAloneHasIsJoinedWithWhatCouldNotBePublished(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1 b=1")
				failing(t, s, func(r *request) error { return r.update("a=2") }, tier.ErrNotPublished, "cache")
				s.fail("dead", "backup")
				must(t, s.opened(t, "dead").updateAsync("b=2"))
				synctest.Wait()
				r := s.here(t, "C")
				expect(t, "seen", r.see(), "a=2 b=2")
				must(t, change(r.load(), "c=1"))
				s.well()
				s.expectKept(t, "a=2 b=2 c=1")
			})
		})
	}
}

func TestALoadOfASessionThatCouldNotBePublished(t *testing.T) {
	const unavailable, none = "unavailable", "-"
	for name, test := range map[string]struct {
		then func(t *testing.T, s *services)
		want string
	}{
		"the cache fails":  {func(_ *testing.T, s *services) { s.fail("C", "cache") }, "a=2"},
		"the backup fails": {func(_ *testing.T, s *services) { s.fail("C", "backup") }, unavailable},
		"both fail":        {func(_ *testing.T, s *services) { s.fail("C", "cache", "backup") }, unavailable},
		"evicted":          {func(_ *testing.T, s *services) { s.flush() }, "a=2"},
		"removed":          {func(t *testing.T, s *services) { must(t, s.opened(t, "B").remove()) }, none},
		"removed, as the cache says": {func(t *testing.T, s *services) {
			s.fail("B", "backup")
			expectErr(t, "removal", s.opened(t, "B").remove(), tier.ErrNotBackedUp)
			s.kill("B")
		}, none},
		"its marker is gone":  {func(t *testing.T, s *services) { must(t, s.opened(t, "B").remove()); s.flush() }, none},
		"its record is gone":  {func(_ *testing.T, s *services) { s.purge() }, none},
		"damaged":             {func(_ *testing.T, s *services) { s.items[id].Flags = 7 }, "a=2"},
		"the other way round": {func(t *testing.T, s *services) { must(t, s.opened(t, "B").update("a=3")) }, "a=3"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				failing(t, s, change, tier.ErrNotPublished, "cache")
				test.then(t, s)
				r := s.here(t, "C")
				l, err := r.st.Load(r.ctx, id)
				switch got := ""; {
				case test.want == unavailable:
					expectErr(t, "load", err, tier.ErrUnavailable)
				case l == nil:
					expect(t, "load", none, test.want)
				default:
					got = shown(l.Value())
					expect(t, "load", got, test.want)
				}
				if test.want != unavailable && err != nil {
					t.Errorf("load: %v", err)
				}
				s.well()
				drain(t)
			})
		})
	}
}

// Removals.

func TestAProcessThatCouldNotMarkARemovalSeesIt(t *testing.T) {
	for name, test := range map[string]struct {
		fails  []string
		want   error
		others string // what another process sees
		backup string
	}{
		"the cache fails":  {[]string{"cache"}, tier.ErrNotPublished, "a=1", "removed"},
		"the backup fails": {[]string{"backup"}, tier.ErrNotBackedUp, "-", "a=1"},
		"both fail":        {[]string{"cache", "backup"}, tier.ErrNotSaved, "a=1", "a=1"},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				failing(t, s, (*request).remove, test.want, test.fails...)
				s.forgetCalls()
				expect(t, "this process sees", s.here(t, "C").see(), "-")
				expect(t, "calls", s.countOf("C", ""), 0)
				expect(t, "another process sees", s.request(t, "B").see(), test.others)
				expect(t, "in the backup", s.backedUp(), test.backup)
				time.Sleep(10 * time.Minute)
				s.flush() // of the marker, too
				s.well()
				drain(t)
				expect(t, "in the backup", s.backedUp(), "removed")
				if stays := time.Until(s.records[id].Expires); stays < 23*time.Hour {
					t.Errorf("the emptied record stays for %v", stays)
				}
				s.expectRemoved(t)
			})
		})
	}
}

func TestWithoutABackupARemovalGoesOnInTheBackground(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		must(t, s.withoutBackup(t, "creator").create("a=1"))
		r := s.here(t, "A")
		r.st.Backup = nil
		r.load()
		s.fail("A", "cache")
		expectErr(t, "removal", r.remove(), tier.ErrNotSaved)
		expect(t, "this process sees", r.see(), "-")
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "removed")
	})
}

func TestARemovalIsToldBeforeAPublication(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		r := s.here(t, "A")
		r.l = Unknown()
		expectErr(t, "removal", r.remove(), tier.ErrNotPublished)
		expect(t, "this process sees", r.see(), "-")
		s.well()
		s.expectRemoved(t)
	})
}

// An item that an earlier attempt left arrives after the marker that nobody was
// told of.
func TestAnAddThatArrivesLateIsOverwritten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fail("A", "cache")
		r := s.here(t, "A")
		must(t, r.create("a=1"))
		must(t, s.here(t, "B").load().update("a=2")) // reads both
		late := &state{value: []byte("a=1"), used: microsOf(time.Now()), ends: microsOf(time.Now().Add(timeout))}
		at, err := draw(time.Now(), 0)
		must(t, err)
		late.set([]cell{{name: nameOf("a"), at: at - 1<<40}})
		s.keepItem(id, tier.Item{Value: late.encode(id, true)}, timeout)
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "a=2")
		s.expectKept(t, "a=2")
	})
}

// How it is told.

func TestTheCacheIsToldForAsLongAsTheProcessLives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		s.forgetCalls()
		time.Sleep(10 * time.Minute)
		if n := s.count("cache.get") / 2; n < 500 || n > 610 { // each is tried twice
			t.Errorf("it was tried %d times in ten minutes", n)
		}
		expect(t, "reports", len(s.reports), 0)
		s.well()
		time.Sleep(pendingWait)
		synctest.Wait()
		expect(t, "cached", s.cached(), "a=2")
		s.expectKept(t, "a=2")
	})
}

func TestAServiceThatFailsIsNotAskedForEachSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("A", "cache.set")
		r := s.here(t, "A")
		r.st.Retries = 1
		for i := range 1000 {
			r.st.owe(r.ctx, fmt.Sprint("id ", i), marker, time.Time{})
		}
		time.Sleep(time.Minute) // rounds take a second by now
		s.forgetCalls()
		time.Sleep(time.Minute)
		if n := s.count(""); n < 50 || n > 61*pendingWorkers {
			t.Errorf("%d calls in a minute", n)
		}
		s.well()
		d := took(func() { drain(t) })
		if d > 2*pendingWait {
			t.Errorf("it took %v", d)
		}
		for i := range 1000 {
			expect(t, "cached", s.cachedAs(fmt.Sprint("id ", i)), "removed")
		}
	})
}

func TestDrainDoesNotHaveTheServicesAskedMoreOften(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fail("A", "cache")
		r := s.here(t, "A")
		r.st.Retries = 1
		r.st.owe(r.ctx, id, marker, time.Time{})
		time.Sleep(time.Minute)
		s.forgetCalls()
		release := s.hold("A", "cache.set", false)
		for range 10 {
			go func() { _ = Drain(context.Background()) }()
		}
		synctest.Wait()
		expect(t, "calls", s.count(""), 1)
		release()
		for range 10 {
			drain(t)
		}
		s.forgetCalls()
		time.Sleep(time.Minute)
		if n := s.count(""); n < 50 || n > 61 {
			t.Errorf("%d calls in a minute", n)
		}
		s.well()
	})
}

// One session that the services refuse for ever holds up no other.
func TestWhatCannotBeToldHoldsUpNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.hook(func(c step) error {
			if c.id == "id 7" {
				return errDown
			}
			return nil
		})
		r := s.here(t, "A")
		for i := range 1000 {
			r.st.owe(r.ctx, fmt.Sprint("id ", i), marker, time.Time{})
		}
		time.Sleep(time.Minute)
		for i := range 1000 {
			if i != 7 {
				expect(t, "cached", s.cachedAs(fmt.Sprint("id ", i)), "removed")
			}
		}
		s.well()
	})
}

func TestSixteenSessionsAreToldAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.takes(map[string]time.Duration{"cache.set": 10 * time.Millisecond})
		r := s.here(t, "A")
		for i := range 160 {
			r.st.owe(r.ctx, fmt.Sprint("id ", i), marker, time.Time{})
		}
		if d := took(func() { drain(t) }); d < 100*time.Millisecond || d > 120*time.Millisecond {
			t.Errorf("it took %v", d)
		}
	})
}

// What comes up while the cache is being told is told as well.
func TestWhatComesUpMeanwhileIsToldAsWell(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		s.well()
		release := s.hold("A", "backup.get", true) // it has read a=2
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		s.fail("B", "cache")
		r := s.here(t, "B")
		r.l, _ = r.st.Load(r.ctx, id)
		expectErr(t, "change", r.update("a=3"), tier.ErrNotPublished)
		release()
		expect(t, "this process sees", s.here(t, "C").see(), "a=3")
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "a=3")
		s.expectKept(t, "a=3")
	})
}

func TestWhoFindsAnEmptiedRecordMarksTheRemoval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		s.fail("leaver", "cache")
		expectErr(t, "removal", s.loadedAnyhow(t, "leaver").remove(), tier.ErrNotPublished)
		s.kill("leaver")
		expect(t, "cached", s.cached(), "a=1")
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "removed")
	})
}

func TestWhatIsRefusedWhileItIsToldIsReportedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		s.items[id].Value = []byte("!")
		s.well()
		drain(t)
		if len(s.reports) != 1 || !errors.Is(s.reports[0], errUnreadable) {
			t.Errorf("reported was %v", s.reports)
		}
	})
}

func TestWhatIsRefusedInARequestsNameIsToldInNobodys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		failing(t, s, func(r *request) error {
			r.st.Background = func(context.Context) context.Context {
				return context.WithValue(context.Background(), whoKey{}, "nobody")
			}
			return r.update("a=2")
		}, tier.ErrNotPublished, "cache")
		drain(t)
		expect(t, "cached", s.cached(), "a=2")
	})
}

func TestAServiceThatEndsTheGoroutineEndsNoneOfTheRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		s.well()
		s.forgetCalls()
		s.hook(func(c step) error {
			if c.who == "A" {
				runtime.Goexit()
			}
			return nil
		})
		time.Sleep(time.Minute)
		if n := s.count(""); n < 50 || n > 70 {
			t.Errorf("%d calls in a minute", n)
		}
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "a=2")
	})
}

func TestAnInstanceThatHasDiedTellsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		close(s.over("A"))
		failing(t, s, change, tier.ErrNotPublished, "cache")
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "a=1")
	})
}

// refusing is another Form: it can merge no session of wordForm's.
type refusing struct{ wordForm }

func (refusing) Merge(_, _ []byte, _ func(string) bool) ([]byte, error) { return nil, errUnreadable }

func TestWhatIsPendingIsMergedByItsOwnForm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1")
		failing(t, s, change, tier.ErrNotPublished, "cache")
		s.fail("dead", "backup")
		must(t, s.opened(t, "dead").updateAsync("b=2"))
		time.Sleep(time.Second)
		other := s.here(t, "B")
		other.st.Form = refusing{}
		other.st.owe(other.ctx, "another session", publication, time.Time{})
		s.well()
		drain(t)
		expect(t, "cached", s.cached(), "unsaved a=2 b=2")
	})
}

// What a request's context has may be large: the request itself, as a rule.
func TestWhatIsPendingKeepsOneRequestsValuesAtMost(t *testing.T) {
	for name, test := range map[string]struct {
		background func(context.Context) context.Context
		want       int
	}{
		"the services answer in nobody's name": {func(context.Context) context.Context { return context.Background() }, 0},
		"they do not":                          {nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				s.hook(func(step) error { return errDown })
				type valueKey struct{}
				var values []weak.Pointer[[]byte]
				for i := range 100 {
					v := make([]byte, 1)
					values = append(values, weak.Make(&v))
					r := s.here(t, "A")
					r.st.Background = test.background
					r.st.owe(context.WithValue(r.ctx, valueKey{}, &v), fmt.Sprint("id ", i), marker, time.Time{})
				}
				time.Sleep(time.Minute)
				runtime.GC()
				n := 0
				for _, v := range values {
					if v.Value() != nil {
						n++
					}
				}
				expect(t, "pending", pendingCount.Load(), 100)
				expect(t, "requests whose values are in memory", n, test.want)
				s.well()
			})
		})
	}
}

// How much of it.

func TestAtMostTenThousandSessionsArePending(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		s.fail("A", "cache")
		r := s.here(t, "A")
		r.st.Retries = 1
		var mu sync.Mutex
		var reports []string
		most, given := 0, 0
		r.st.Report = func(id string, err error) {
			_ = r.st.pendingFor(r.ctx, id) // an app may use its sessions here
			expectErr(t, "report", err, errGivenUp)
			mu.Lock()
			defer mu.Unlock()
			reports = append(reports, id)
		}
		r.st.Trace = &tier.Trace{Pending: func(_ context.Context, waiting, givenUp int) {
			mu.Lock()
			defer mu.Unlock()
			most, given = max(most, waiting), givenUp
		}}
		already := pending.givenUp
		r.st.owe(r.ctx, "removed", marker, time.Time{})
		for i := range maxPending - 1 {
			r.st.owe(r.ctx, fmt.Sprint("id ", i), publication, time.Time{})
		}
		expect(t, "reports", len(reports), 0)
		r.st.owe(r.ctx, "id 1", publication, time.Time{}) // is pending already
		expect(t, "reports", len(reports), 0)
		r.st.owe(r.ctx, "one more", publication, time.Time{})
		if !slices.Equal(reports, []string{"one more"}) {
			t.Errorf("reported was %v", reports)
		}
		expect(t, "the one more", r.st.pendingFor(r.ctx, "one more"), 0)
		// A removal takes the place of a publication.
		for i := range maxPending {
			r.st.owe(r.ctx, fmt.Sprint("gone ", i), emptying|marker, time.Time{})
		}
		expect(t, "the first removal", r.st.pendingFor(r.ctx, "removed"), marker)
		expect(t, "a publication", r.st.pendingFor(r.ctx, "id 1"), 0)
		expect(t, "the last removal but one", r.st.pendingFor(r.ctx, fmt.Sprint("gone ", maxPending-2)), emptying|marker)
		expect(t, "the last removal", r.st.pendingFor(r.ctx, fmt.Sprint("gone ", maxPending-1)), 0)
		expect(t, "reports", len(reports), maxPending+1)
		expect(t, "were given up, as a trace is told", given-already, maxPending+1)
		expect(t, "are pending, as a trace is told", most, maxPending)
		s.well()
		drain(t)
		expect(t, "pending", pendingCount.Load(), 0)
		expect(t, "services of which anything is pending", len(pending.ledgers), 0)
	})
}
