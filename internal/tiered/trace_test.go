//go:build go1.25

package tiered

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/sessionid"
	"github.com/gaesession/gaesession/tier"
)

// What a trace is told.

// told is what it was, in one line each.
type told struct {
	mu    sync.Mutex
	lines []string
	errs  []error
}

func (o *told) add(err error, format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, fmt.Sprintf(format, args...))
	if err != nil {
		o.errs = append(o.errs, err)
	}
}

// lasts is how long each call of the services takes.
const lasts = 10 * time.Millisecond

func (o *told) trace(t *testing.T, id string) *tier.Trace {
	session := func(s string) {
		if s != sessionid.Hash(id) {
			t.Errorf("a session is called %q, want %q", s, sessionid.Hash(id))
		}
	}
	return &tier.Trace{
		Call: func(_ context.Context, c tier.Call) {
			session(c.Session)
			if c.Outcome != "skipped" && c.Outcome != "error" && c.Duration < lasts {
				t.Errorf("%s %s took %v", c.Service, c.Operation, c.Duration)
			}
			o.add(c.Err, "%s %s: %s", c.Service, c.Operation, c.Outcome)
		},
		Loaded: func(_ context.Context, l tier.Load) { session(l.Session); o.add(nil, "loaded from %s", l.From) },
		Saved: func(_ context.Context, s tier.Save) {
			session(s.Session)
			o.add(s.Err, "saved %d, written %v", s.Changes, s.Bytes > 0)
		},
	}
}

func TestATraceIsToldOfCallsLoadsAndSaves(t *testing.T) {
	const id = "aVisitorsIDThatNobodyMayRead"
	for name, test := range map[string]struct {
		f    func(s *services, r *request)
		want []string
	}{
		"a cached session": {func(_ *services, r *request) { r.see() }, []string{"cache get: found", "loaded from cache"}},
		"an evicted one":   {func(s *services, r *request) { s.flush(); r.see() }, []string{"cache get: none", "backup get: found", "loaded from backup"}},
		"none": {func(s *services, r *request) { s.flush(); delete(s.records, id); r.see() }, []string{
			"cache get: none", "backup get: none", "loaded from none"}},
		"one that cannot be told": {func(s *services, r *request) { s.fail("A", "cache", "backup"); _, _ = r.st.Load(r.ctx, id) }, []string{
			"cache get: error", "backup get: error", "loaded from unknown"}},
		"one that cannot be read": {func(s *services, r *request) {
			s.items[id].Value = []byte("!")
			s.items[id].Token = 77
			delete(s.records, id)
			_, _ = r.st.Load(r.ctx, id)
		}, []string{"cache get: found", "backup get: none", "loaded from unknown"}},
		"a silent cache": {func(s *services, r *request) {
			s.silence("A", "cache")
			_, _ = r.st.Load(r.ctx, id)
			_, _ = r.st.Load(r.ctx, id)
		}, []string{
			"cache get: error", "backup get: found", "loaded from backup",
			"cache get: skipped", "backup get: found", "loaded from backup"}},
		"a change": {func(_ *services, r *request) { must(r.t, r.load().update("a=2")) }, []string{
			"cache get: found", "loaded from cache", "backup update: stored", "saved 1, written true", "cache compare-and-swap: stored"}},
		"a change that changes nothing": {func(_ *services, r *request) {
			r.load()
			_, err := r.st.Update(r.ctx, id, r.l, &Change{Value: r.l.Value()})
			must(r.t, err)
		}, []string{"cache get: found", "loaded from cache", "backup update: stored", "saved 1, written false"}},
		"a change that others were faster than": {func(s *services, r *request) {
			r.load()
			other := s.request(r.t, "B")
			other.id = id
			must(r.t, other.load().update("b=1"))
			must(r.t, r.update("a=2"))
		}, []string{"cache get: found", "loaded from cache", "backup update: stored", "saved 1, written true",
			"cache compare-and-swap: conflict", "cache get: found", "cache compare-and-swap: stored"}},
		"a change of what was evicted since": {func(s *services, r *request) { r.load(); s.flush(); must(r.t, r.update("a=2")) }, []string{
			"cache get: found", "loaded from cache", "backup update: stored", "saved 1, written true", "cache compare-and-swap: absent"}},
		"a change that failed": {func(s *services, r *request) { s.fail("A", "backup"); _ = r.load().update("a=2") }, []string{
			"cache get: found", "loaded from cache", "backup update: error", "saved 1, written false", "cache compare-and-swap: stored"}},
		"a change that is refused": {func(s *services, r *request) { s.large = recordLimit; _ = r.load().update(xs("a", free+1)) }, []string{
			"cache get: found", "loaded from cache", "backup update: error", "saved 1, written false"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				r := s.request(t, "A")
				r.id = id
				must(t, r.create("a=1"))
				s.takes(map[string]time.Duration{"cache.get": lasts, "cache.swap": lasts, "backup.get": lasts, "backup.commit": lasts, "backup.begin": lasts})
				var o told
				r.st.Trace = o.trace(t, id)
				r.st.Retries = 1
				test.f(s, r)
				if !slices.Equal(o.lines, test.want) {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(o.lines, "\n"), strings.Join(test.want, "\n"))
				}
			})
		})
	}
}

func TestNoErrorOfATraceNamesASession(t *testing.T) {
	const id = "aVisitorsIDThatNobodyMayRead"
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.request(t, "A")
		r.id = id
		must(t, r.create("a=1"))
		s.hook(func(c step) error {
			if c.who == "A" && !c.done {
				return fmt.Errorf("no such key: %q", c.id)
			}
			return nil
		})
		var o told
		r.st.Trace = o.trace(t, id)
		_, _ = r.st.Load(r.ctx, id)
		r.l = Unknown()
		_ = r.update("a=2")
		if len(o.errs) < 3 {
			t.Errorf("it was told %v", o.lines)
		}
		for _, err := range o.errs {
			if strings.Contains(err.Error(), id) {
				t.Errorf("%v", err)
			}
		}
	})
}
