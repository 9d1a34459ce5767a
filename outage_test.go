//go:build go1.25

package gaesession_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Services that do not answer, and requests whose time is over.

// A silence is when calls that match get no answer, until it is over.
type silence struct {
	match func(gaetest.Call) bool
	over  atomic.Bool
}

func (s *silence) hook() gaetest.Hook {
	return gaetest.Hook{Before: func(ctx context.Context, c gaetest.Call) error {
		if s.over.Load() || !s.match(c) {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}
}

// end ends the silence, and waits until the background has told the services what
// they are to be told.
func (s *silence) end(t *testing.T) {
	t.Helper()
	s.over.Store(true)
	time.Sleep(2 * time.Minute)
	drain(t)
}

// newRequestIn is newSimulatedRequest with another context made of the request's.
func newRequestIn(s *gaetest.Service, o options, with func(context.Context) context.Context, hooks ...gaetest.Hook) *request {
	r := newSimulatedRequest(s, o, hooks...)
	o.OnError = r.errs.add
	r.Store = gaesession.NewMemcacheStoreOptions(with(r.Context()), &o)
	return r
}

// onOneInstance makes a request one of several on the same instance.
func onOneInstance(ctx context.Context) context.Context {
	return instance.With(ctx, instance.Instance{Name: "one"})
}

func TestARequestAnswersInTimeWhileMemcacheIsSilent(t *testing.T) {
	s := gaetest.Local(t)
	for _, test := range []struct {
		name     string
		deadline time.Duration // 0: none
		do       func(r *request, id string)
		within   time.Duration
	}{
		{"read", 0, func(r *request, id string) { r.Get(id) }, 520 * time.Millisecond},
		{"read, with a deadline", 600 * time.Millisecond, func(r *request, id string) { r.Get(id) }, 320 * time.Millisecond},
		{"change", 0, func(r *request, id string) { r.Get(id).SetAttr("n", 1) }, 550 * time.Millisecond},
		{"logout", 0, func(r *request, id string) { r.Remove(r.Get(id)) }, 550 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := login(t, s, options{}, attrs{"n": 0})
			gaetest.InSimulatedTime(t, func(t *testing.T) {
				memcache := &silence{match: gaetest.Memcache}
				begin := time.Now()
				r := newRequestIn(s, options{}, func(ctx context.Context) context.Context {
					if test.deadline == 0 {
						return ctx
					}
					ctx, cancel := context.WithTimeout(ctx, test.deadline)
					t.Cleanup(cancel)
					return ctx
				}, memcache.hook())
				test.do(r, id)
				r.Close()
				if took := time.Since(begin); took > test.within {
					t.Errorf("took %v, want at most %v", took, test.within)
				}
				if r.errs.all() == nil {
					t.Error("nothing was reported")
				}
				memcache.end(t)
			})
			want := map[string]attrs{"change": {"n": 1}, "logout": nil}
			if w, changed := want[test.name]; changed {
				expectSession(t, s, options{}, id, w)
			}
		})
	}
}

func TestAReadWithADeadlineFindsItsSessionWhileMemcacheIsSilent(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		for _, deadline := range []time.Duration{50 * time.Millisecond, 600 * time.Millisecond, 2 * time.Second, time.Minute} {
			r := newRequestIn(s, options{}, func(ctx context.Context) context.Context {
				ctx, cancel := context.WithTimeout(ctx, deadline)
				t.Cleanup(cancel)
				return ctx
			}, (&silence{match: gaetest.Memcache}).hook())
			if r.Get(id) == nil {
				t.Errorf("deadline of %v: no session: %v", deadline, r.errs.all())
			}
		}
	})
}

func TestAChangeEndsInTimeWhileDatastoreIsSilent(t *testing.T) {
	s := gaetest.Local(t)
	for o, sentinel := range map[*options]error{
		{}:                               gaesession.ErrNotBackedUp,
		{BackupTimeout: time.Second}:     gaesession.ErrNotBackedUp,
		{BackupTimeout: 7 * time.Second}: gaesession.ErrNotBackedUp,
	} {
		id := login(t, s, options{}, attrs{"n": 0})
		gaetest.InSimulatedTime(t, func(t *testing.T) {
			r := newSimulatedRequest(s, *o, (&silence{match: gaetest.Datastore}).hook())
			begin := time.Now()
			r.Get(id).SetAttr("n", 1)
			r.Close()
			limit := o.BackupTimeout
			if limit == 0 {
				limit = 5 * time.Second
			}
			if took := time.Since(begin); took < limit || took > limit+50*time.Millisecond {
				t.Errorf("took %v, want hardly more than %v", took, limit)
			}
			if err := r.errs.all(); !errors.Is(err, sentinel) {
				t.Errorf("got %v, want %v", err, sentinel)
			}
			expectAttrs(t, "meanwhile", readInBubble(t, s, options{}, id), attrs{"n": 1})
		})
	}
}

func TestADeadlineIsOverrunByASecondAtMost(t *testing.T) {
	s := gaetest.Local(t)
	for name, match := range map[string]func(gaetest.Call) bool{
		"Memcache":  gaetest.Memcache,
		"Datastore": gaetest.Datastore,
		"both":      func(gaetest.Call) bool { return true },
	} {
		for _, o := range []options{{}, {AsyncDatastoreSave: true}, {CacheTimeout: time.Minute, BackupTimeout: time.Minute}} {
			t.Run(fmt.Sprintf("%s, asynchronous: %t, %v", name, o.AsyncDatastoreSave, o.CacheTimeout), func(t *testing.T) {
				id := login(t, s, o, attrs{"n": 0})
				gaetest.InSimulatedTime(t, func(t *testing.T) {
					services := &silence{match: func(c gaetest.Call) bool { return c.Index > 1 && match(c) }}
					r := newRequestIn(s, o, func(ctx context.Context) context.Context {
						ctx, cancel := context.WithTimeout(ctx, time.Second)
						t.Cleanup(cancel)
						return ctx
					}, services.hook())
					begin := time.Now()
					sess := r.Get(id)
					sess.SetAttr("n", 1)
					r.Close()
					sess.SetAttr("n", 2)
					r.Close()
					r.Close() // the deferred one
					if took := time.Since(begin); took > 2*time.Second+50*time.Millisecond {
						t.Errorf("took %v, want at most two seconds", took)
					}
					services.end(t)
				})
			})
		}
	}
}

func TestASecondCloseReportsNothingAgain(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		for name, down := range map[string]func(gaetest.Call) bool{
			"Datastore": gaetest.Datastore,
			"both":      func(c gaetest.Call) bool { return c.Index > 1 },
		} {
			o.Retries = 1
			id := login(t, s, o, attrs{"n": 0})
			up := s.Break(down)
			r := newRequest(s, o, gaetest.Fail(down))
			sess := r.Get(id)
			sess.SetAttr("n", 1)
			r.Close()
			drain(t)
			first, calls := len(r.errs.list()), len(r.Calls())
			r.Close()
			drain(t)
			up()
			if second := len(r.errs.list()); first == 0 || second != first || len(r.Calls()) != calls {
				t.Errorf("%s: %d reports after the first Close, and %d after the second; calls %v", name, first, second, r.Calls()[calls:])
			}
		}
	})
}

func TestARequestThatWaitsForOthersKeepsItsDeadline(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		// The first transaction takes 0.4 s, so that the others wait; the next one
		// takes four seconds.
		var begun atomic.Int64
		slow := gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
			if c.Method == "BeginTransaction" {
				time.Sleep(map[bool]time.Duration{true: 400 * time.Millisecond, false: 4 * time.Second}[begun.Add(1) == 1])
			}
			return nil
		}}
		var others sync.WaitGroup
		for i := range 2 {
			r := newRequestIn(s, options{}, onOneInstance, slow)
			r.Get(id).SetAttr(fmt.Sprint("other", i), i)
			others.Add(1)
			go func() {
				defer others.Done()
				r.Close()
				if err := r.errs.all(); err != nil {
					t.Error(err)
				}
			}()
			time.Sleep(100 * time.Millisecond)
		}
		r := newRequestIn(s, options{}, func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(onOneInstance(ctx), time.Second)
			t.Cleanup(cancel)
			return ctx
		}, slow)
		r.Get(id).SetAttr("mine", 1)
		begin := time.Now()
		r.Close()
		if took := time.Since(begin); took > 2*time.Second+50*time.Millisecond {
			t.Errorf("took %v, want at most a second more than the deadline of one", took)
		}
		if err := r.errs.all(); !errors.Is(err, gaesession.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", err)
		}
		others.Wait()
		drain(t)
	})
	got := read(t, s, options{}, id)
	delete(got, "mine") // may or may not be there
	expectAttrs(t, "what the others saved", got, attrs{"n": 0, "other0": 0, "other1": 1})
}

func TestBackgroundSavesAreBounded(t *testing.T) {
	s := gaetest.Local(t)
	o := options{AsyncDatastoreSave: true}
	var ids [40]string
	for i := range ids {
		ids[i] = login(t, s, o, attrs{"n": 0})
	}
	gaetest.InSimulatedTime(t, func(t *testing.T) {
		var now, most, saves atomic.Int64
		slow := gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
			if c.Method == "BeginTransaction" {
				saves.Add(1)
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Second)
				now.Add(-1)
			}
			return nil
		}}
		for i, id := range ids {
			r := newRequestIn(s, o, onOneInstance, slow)
			r.Get(id).SetAttr("n", i+1)
			r.Close()
			if err := r.errs.all(); err != nil {
				t.Error(err)
			}
		}
		drain(t)
		if most.Load() != 16 || saves.Load() != int64(len(ids)) {
			t.Errorf("%d saves, %d of them at once; want %d and 16", saves.Load(), most.Load(), len(ids))
		}
	})
	s.Flush()
	for i, id := range ids {
		expectAttrs(t, "after a flush", read(t, s, o, id), attrs{"n": i + 1})
	}
}

// net/http ends the context of a request whose client has gone away.
func TestALogoutIsFinishedWhenTheClientIsGone(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		gaetest.AtEachCall(t, func(t *testing.T, k int) bool {
			id := login(t, s, o, attrs{"n": 0})
			ctx, cancel := context.WithCancel(s.Context())
			defer cancel()
			var reached atomic.Bool
			r := newRequestContext(ctx, s, o, gaetest.Hook{Before: func(ctx context.Context, c gaetest.Call) error {
				if c.Index == k+1 { // the first call loads the session
					reached.Store(true)
					cancel()
				}
				return ctx.Err()
			}})
			r.Remove(r.Get(id))
			r.Close()
			drain(t)
			if err := r.errs.all(); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			expectSession(t, s, o, id, nil)
			return reached.Load()
		})
	})
}
