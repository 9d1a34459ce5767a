//go:build go1.25

package gaesession_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

func TestNoSessionOutlivesMaxLifetime(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		o.MaxLifetime = time.Hour
		gaetest.InSimulatedTime(t, func(t *testing.T) {
			r := newSimulatedRequest(s, o)
			sess := session.NewSessionOptions(&session.SessOptions{Timeout: 20 * time.Minute})
			r.Add(sess)
			r.Close()
			for range 5 {
				time.Sleep(10 * time.Minute)
				changeInBubble(t, s, o, sess.ID(), attrs{"used": time.Now().String()})
			}
			time.Sleep(9 * time.Minute)
			if readInBubble(t, s, o, sess.ID()) == nil {
				t.Error("59 minutes old: no session")
			}
			drain(t)
			time.Sleep(2 * time.Minute)
			if got := readInBubble(t, s, o, sess.ID()); got != nil {
				t.Errorf("61 minutes old: got %v", got)
			}
		})
	})
}

// While Memcache is silent, the session comes from Datastore.
func TestTheCacheHasTheTimeThatCacheTimeoutSays(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	for timeout, want := range map[time.Duration]time.Duration{0: 500 * time.Millisecond, 50 * time.Millisecond: 50 * time.Millisecond} {
		gaetest.InSimulatedTime(t, func(t *testing.T) {
			r := newSimulatedRequest(s, options{CacheTimeout: timeout}, (&silence{match: gaetest.Memcache}).hook())
			begin := time.Now()
			if r.Get(id) == nil {
				t.Error("no session:", r.errs.all())
			}
			if took := time.Since(begin); took < want || took > want+20*time.Millisecond {
				t.Errorf("took %v, want hardly more than %v", took, want)
			}
		})
	}
}

func TestTraceIsToldWhatTheStoreDoes(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"n": 0})
	var mu sync.Mutex
	var told []string
	sessions := map[string]bool{}
	tell := func(id, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		sessions[id] = true
		told = append(told, fmt.Sprintf(format, args...))
	}
	change(t, s, options{Trace: &tier.Trace{
		Call: func(_ context.Context, c tier.Call) {
			tell(c.Session, "%s %s: %s, %v", c.Service, c.Operation, c.Outcome, c.Err)
		},
		Loaded: func(_ context.Context, l tier.Load) { tell(l.Session, "from %s", l.From) },
		Saved: func(_ context.Context, c tier.Save) {
			tell(c.Session, "saved %d, %t, %v", c.Changes, c.Bytes > 0, c.Err)
		},
	}}, id, attrs{"n": 1})
	want := "cache get: found, <nil>; from cache; backup update: stored, <nil>; saved 1, true, <nil>; cache compare-and-swap: stored, <nil>"
	if got := strings.Join(told, "; "); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if len(sessions) != 1 || sessions[id] || sessions[""] {
		t.Errorf("told of sessions %v, want one, by a hash of its id", sessions)
	}
}

func TestTheErrorsOfTheStoreAreThoseOfTier(t *testing.T) {
	for got, want := range map[error]error{
		gaesession.ErrRemoved: tier.ErrRemoved, gaesession.ErrUnavailable: tier.ErrUnavailable, gaesession.ErrUndecodable: tier.ErrUndecodable,
		gaesession.ErrNotBackedUp: tier.ErrNotBackedUp, gaesession.ErrNotPublished: tier.ErrNotPublished, gaesession.ErrNotSaved: tier.ErrNotSaved,
		gaesession.ErrTooLarge: tier.ErrTooLarge, gaesession.ErrInvalidID: tier.ErrInvalidID,
	} {
		if got != want {
			t.Errorf("got another error than %v", want)
		}
	}
}
