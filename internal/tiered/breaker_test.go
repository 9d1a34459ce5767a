//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

// The cache's circuit breaker.

// tripped has the cache fall silent and the breaker open, and returns what a
// trace is told of it.
func tripped(t *testing.T, s *services) (told *states) {
	t.Helper()
	told = &states{}
	s.silence("", "cache")
	for range tripAfter {
		s.loadSlowly(t, told)
	}
	if !told.is(true) {
		t.Fatalf("the breaker was told %v", told.all)
	}
	s.forgetCalls()
	return told
}

// states are what a trace is told of the breaker.
type states struct {
	mu  sync.Mutex
	all []bool
}

func (b *states) trace() *tier.Trace {
	return &tier.Trace{Breaker: func(_ context.Context, open bool) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all = append(b.all, open)
	}}
}

func (b *states) is(want ...bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Equal(b.all, want)
}

// loadSlowly loads the session although the cache does not answer.
func (s *services) loadSlowly(t *testing.T, told *states) *request {
	t.Helper()
	r := s.request(t, "A")
	r.st.Trace = told.trace()
	r.l, _ = r.st.Load(r.ctx, id)
	if r.l == nil {
		t.Fatal("no session")
	}
	return r
}

func TestThreeTimeoutsInARowOpenTheBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.silence("", "cache")
		told := &states{}
		for i := range tripAfter {
			begin := time.Now()
			expect(t, "is open", len(told.all), 0)
			s.loadSlowly(t, told)
			expect(t, "loads in", time.Since(begin), DefaultCacheTimeout)
			expect(t, "calls of the cache", s.countOf("A", "cache"), i+1)
		}
		expect(t, "is open", told.is(true), true)
		s.forgetCalls()
		begin := time.Now()
		r := s.opened(t, "A") // and reports nothing
		must(t, r.settle())
		expect(t, "loads in", time.Since(begin), 0)
		expect(t, "calls of the cache", s.count("cache"), 0)
		expect(t, "is from the cache", r.l.IsCached(), false)
	})
}

func TestWhatSaysNothingOfTheCacheDoesNotOpenTheBreaker(t *testing.T) {
	answer := func(err error) func(s *services) {
		return func(s *services) {
			s.hook(func(c step) error {
				if c.who == "A" && c.is("cache.get") && !c.done {
					return err
				}
				return nil
			})
		}
	}
	silence := func(s *services) { s.silence("A", "cache") }
	within := func(d time.Duration) func(ctx context.Context) (context.Context, context.CancelFunc) {
		return func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
	}
	type ctxFunc = func(ctx context.Context) (context.Context, context.CancelFunc)
	for name, test := range map[string]struct {
		cache  func(s *services)
		ctx    ctxFunc
		backup bool
		want   bool
	}{
		"failed connections":                     {answer(tier.ErrUnreachable), nil, true, true},
		"failed connections, with a deadline":    {answer(tier.ErrUnreachable), within(time.Millisecond), true, true},
		"other failures":                         {answer(errDown), nil, true, false},
		"no turn":                                {answer(errors.Join(tier.ErrBusy, context.DeadlineExceeded)), nil, true, false},
		"a request's deadline":                   {silence, within(2*DefaultCacheTimeout - time.Millisecond), true, false},
		"a longer deadline":                      {silence, within(2 * DefaultCacheTimeout), true, true},
		"without a backup, a request's deadline": {silence, within(DefaultCacheTimeout - time.Millisecond), false, false},
		"without a backup, a longer deadline":    {silence, within(DefaultCacheTimeout + time.Millisecond), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				test.cache(s)
				told := &states{}
				for range 2 * tripAfter {
					r := s.request(t, "A")
					r.st.Trace = told.trace()
					if !test.backup {
						r.st.Backup = nil
					}
					ctx := r.ctx
					if test.ctx != nil {
						var cancel context.CancelFunc
						ctx, cancel = test.ctx(ctx)
						defer cancel()
					}
					_, _ = r.st.Load(ctx, id)
				}
				expect(t, "is open", told.is(true), test.want)
			})
		})
	}
}

func TestACallThatIsAnsweredBeginsTheCountAgain(t *testing.T) {
	for name, test := range map[string]struct {
		between func(s *services) context.Context
		want    bool // that the breaker is open after it and one more timeout
	}{
		"well":          {func(*services) context.Context { return nil }, false},
		"with an error": {func(s *services) context.Context { s.fail("A", "cache"); return nil }, false},
		"not made": {func(s *services) context.Context {
			s.hook(func(c step) error { return tier.ErrBusy })
			return nil
		}, true},
		"not waited for": {func(s *services) context.Context {
			s.silence("A", "cache")
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Millisecond, cancel)
			return ctx
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				told := &states{}
				s.silence("A", "cache")
				for range tripAfter - 1 {
					s.loadSlowly(t, told)
				}
				s.well()
				ctx := test.between(s)
				r := s.request(t, "A")
				if ctx == nil {
					ctx = r.ctx
				}
				_, _ = r.st.Load(context.WithValue(ctx, whoKey{}, "A"), id)
				s.well()
				s.silence("A", "cache")
				s.loadSlowly(t, told)
				expect(t, "is open", told.is(true), test.want)
			})
		})
	}
}

func TestABreakerIsOneCachesOnOneInstance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, other := created(t, "a=1"), created(t, "a=1")
		tripped(t, s)
		other.forgetCalls()
		other.opened(t, "A")
		expect(t, "calls of another cache", other.count("cache"), 1)
		r := s.request(t, "B").on(instance.Instance{Name: 2})
		_, _ = r.st.Load(r.ctx, id)
		expect(t, "calls of another instance", s.countOf("B", "cache"), 1)
	})
}

func TestAnOpenBreakerIsClosedByTheFirstAnswerOfAProbe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		told := tripped(t, s)
		time.Sleep(2*(probeEvery+DefaultCacheTimeout) + time.Millisecond)
		expect(t, "probes", s.count("cache.get"), 2)
		for _, c := range s.calls {
			expect(t, "is of", c.id, probeID)
		}
		s.well()
		s.opened(t, "A")
		expect(t, "calls of a request", s.countOf("A", "cache.get "+id), 0)
		time.Sleep(probeEvery)
		synctest.Wait()
		expect(t, "is closed", told.is(true, false), true)
		expect(t, "is from the cache", s.opened(t, "A").l.IsCached(), true)
		s.forgetCalls()
		time.Sleep(time.Minute)
		expect(t, "probes since", s.count("cache"), 0)
	})
}

func TestAProbeEndsWhenNobodyAsksAndBeginsAgainWhenSomebodyDoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		tripped(t, s)
		time.Sleep(probeIdle + 2*probeEvery)
		synctest.Wait()
		s.forgetCalls()
		time.Sleep(5 * time.Minute)
		expect(t, "probes", s.count("cache"), 0)
		s.well()
		s.opened(t, "A")
		expect(t, "calls of the first that asks", s.countOf("A", "cache.get"), 0)
		time.Sleep(probeEvery)
		synctest.Wait()
		expect(t, "is from the cache", s.opened(t, "A").l.IsCached(), true)
	})
}

func TestDrainWaitsForAProbeThatIsUnderWayAndNotForTheNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		tripped(t, s)
		expect(t, "before the first", took(func() { drain(t) }), 0)
		time.Sleep(probeEvery)
		synctest.Wait()
		expect(t, "during it", took(func() { drain(t) }), DefaultCacheTimeout)
	})
}

func TestOneGoroutineProbesHoweverManyRequestsAsk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		tripped(t, s)
		for range 100 {
			s.opened(t, "B")
		}
		time.Sleep(3 * (probeEvery + DefaultCacheTimeout))
		expect(t, "probes", s.count("cache.get"), 3)
	})
}

// App Engine refuses calls in the name of a request that has ended.
func TestAProbeThatIsRefusedInARequestsNameIsMadeInNobodys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		told := &states{}
		s.silence("A", "cache")
		for range tripAfter {
			r := s.request(t, "A")
			r.st.Trace = told.trace()
			r.st.Background = func(context.Context) context.Context {
				return context.WithValue(context.Background(), whoKey{}, "nobody")
			}
			_, _ = r.st.Load(r.ctx, id)
		}
		expect(t, "is open", told.is(true), true)
		time.Sleep(probeEvery + DefaultCacheTimeout)
		synctest.Wait()
		expect(t, "is closed", told.is(true, false), true)
	})
}

func TestAProbeWhoseGoroutineIsEndedBeginsAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		tripped(t, s)
		s.at("A", "cache.get "+probeID, false, before(runtime.Goexit))
		time.Sleep(probeEvery + DefaultCacheTimeout)
		synctest.Wait()
		s.well()
		s.opened(t, "B")
		time.Sleep(probeEvery)
		synctest.Wait()
		expect(t, "is from the cache", s.opened(t, "B").l.IsCached(), true)
	})
}

// What the cache is not told while the breaker is open, it is told afterwards.
func TestWhileTheBreakerIsOpenTheBackupDoesAndTheCacheIsToldLater(t *testing.T) {
	for name, test := range map[string]struct {
		f    func(r *request) error
		want string
	}{
		"update":       {func(r *request) error { return r.update("a=2") }, "a=2"},
		"asynchronous": {func(r *request) error { return r.updateAsync("a=2") }, "a=2"},
		"remove":       {(*request).remove, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				tripped(t, s)
				r := s.opened(t, "A")
				begin := time.Now()
				expectErr(t, name, test.f(r), tier.ErrNotPublished)
				expect(t, "it took", time.Since(begin), 0)
				expect(t, "calls of the cache", s.count("cache"), 0)
				expect(t, "the old item", s.cached(), "a=1")
				s.well()
				drain(t)
				expect(t, "now", s.request(t, "B").see(), test.want)
				if test.want == "-" {
					s.expectRemoved(t)
				} else {
					s.expectKept(t, test.want)
				}
			})
		})
	}
}

func TestWhileTheBreakerIsOpenSessionsMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		tripped(t, s)
		r := s.opened(t, "A")
		begin := time.Now()
		_, err := r.move("a=2")
		expectErr(t, "move", err, tier.ErrNotPublished)
		expect(t, "it took", time.Since(begin), 0)
		expect(t, "calls of the cache", s.count("cache"), 0)
		s.well()
		s.expectMoved(t, s.request(t, "A"), "a=2")
	})
}

func TestWhileTheBreakerIsOpenSessionsAreCreated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=0")
		tripped(t, s)
		s.purge()
		s.flush()
		must(t, s.request(t, "A").create("a=1"))
		expect(t, "reports", len(s.reports), 0)
		expect(t, "calls of the cache", s.count("cache"), 0)
		s.well()
		s.expectKept(t, "a=1")
	})
}

func TestWithoutABackupAnOpenBreakerAnswersAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		r := s.withoutBackup(t, "B").load()
		tripped(t, s)
		begin := time.Now()
		l, err := s.withoutBackup(t, "A").st.Load(r.ctx, id)
		expectErr(t, "load", err, tier.ErrUnavailable)
		if l != nil {
			t.Errorf("got %q", l.Value())
		}
		expectErr(t, "change", r.update("a=2"), tier.ErrNotSaved)
		expectErr(t, "removal", r.remove(), tier.ErrNotSaved)
		_, err = r.move("a=2")
		expectErr(t, "move", err, tier.ErrNotSaved)
		expect(t, "it took", time.Since(begin), 0)
		s.well()
		drain(t) // the removal goes on
		expect(t, "now", r.see(), "-")
	})
}
