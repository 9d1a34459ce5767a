//go:build go1.25

package gaesession_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Clocks that are ahead. In a bubble it is the year 2000: that is the right clock
// here, and the process outside is an instance whose clock is decades ahead.

// flushInBubble empties Memcache.
func flushInBubble(t *testing.T, s *gaetest.Service) {
	t.Helper()
	if err := memcache.Flush(newSimulatedRequest(s, options{}).Context()); err != nil {
		t.Fatal(err)
	}
}

// readInBubble returns what a request sees; nil: no session.
func readInBubble(t *testing.T, s *gaetest.Service, o options, id string) attrs {
	t.Helper()
	r := newSimulatedRequest(s, o)
	sess := r.Get(id)
	r.Close()
	if err := r.errs.all(); err != nil {
		t.Errorf("read: %v", err)
	}
	if sess == nil {
		return nil
	}
	return sess.Attrs()
}

func changeInBubble(t *testing.T, s *gaetest.Service, o options, id string, change attrs) {
	t.Helper()
	r := newSimulatedRequest(s, o)
	sess := r.Get(id)
	if sess == nil {
		t.Fatalf("no session to change: %v", r.errs.all())
	}
	for name, v := range change {
		sess.SetAttr(name, v)
	}
	r.Close()
	if err := r.errs.all(); err != nil {
		t.Errorf("change: %v", err)
	}
}

func TestASessionEndsAfterAClockWasAhead(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"user": "ann"}) // times out after 30 minutes
	s.Flush()
	synctest.Test(t, func(t *testing.T) {
		expectAttrs(t, "at once", readInBubble(t, s, options{}, id), attrs{"user": "ann"})
		time.Sleep(20 * time.Minute)
		changeInBubble(t, s, options{}, id, attrs{"n": 1})
		time.Sleep(20 * time.Minute)
		expectAttrs(t, "20 minutes after its last change", readInBubble(t, s, options{}, id), attrs{"user": "ann", "n": 1})
		time.Sleep(time.Hour)
		for _, when := range []string{"an hour later", "and after a flush"} {
			expectAttrs(t, when, readInBubble(t, s, options{}, id), nil)
			flushInBubble(t, s)
		}
	})
}

func TestASessionEndsThatAClockAheadHasUsedAfterTheHeader(t *testing.T) {
	const day = 24 * time.Hour
	c := newClient(t, &gaesession.Sessions{Cookie: gaesession.Cookie{MaxAge: 100 * day}})
	synctest.Test(t, func(t *testing.T) {
		c.login(30 * day)
		time.Sleep(20 * day)
		c.do(func(w http.ResponseWriter, r *http.Request) {
			sendHeader(w)
			sess, err := c.app.Get(r)
			if sess == nil || err != nil {
				t.Fatalf("got %v, %v", sess, err)
			}
			sess.SetAttr("n", 1)
		})
	})
	// Here the clock is right again.
	synctest.Test(t, func(t *testing.T) {
		c.visit(false)
		time.Sleep(40 * day) // a timeout, and three RefreshIntervals
		c.do(func(_ http.ResponseWriter, r *http.Request) {
			if sess, err := c.app.Get(r); sess != nil || err != nil {
				t.Errorf("got %v, %v, want no session", sess, err)
			}
		})
	})
}

func TestDeletionsAreForgottenAfterAClockWasAhead(t *testing.T) {
	s := gaetest.Local(t)
	id := login(t, s, options{}, attrs{"a": 1})
	synctest.Test(t, func(t *testing.T) {
		size := func() int { return len(entityOf(t, newSimulatedRequest(s, options{}).Context(), id).Value) }
		changeInBubble(t, s, options{}, id, attrs{"a": 2})
		was := size()
		for i := range 48 {
			changeInBubble(t, s, options{}, id, attrs{fmt.Sprint("n", i): 1})
			changeInBubble(t, s, options{}, id, attrs{fmt.Sprint("n", i): nil})
			time.Sleep(25 * time.Minute)
		}
		changeInBubble(t, s, options{}, id, attrs{"a": 3})
		if now := size(); now > was+200 {
			t.Errorf("20 hours later a session of one attribute has %d bytes, and had %d", now, was)
		}
	})
}

// Stamps end in 2112.
func TestAChangeAfterTheLastStampIsRefused(t *testing.T) {
	s := gaetest.Local(t)
	sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"a": 1}})
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.UnixMicro(1<<52 - 1)))
		r := newSimulatedRequest(s, options{})
		r.Add(sess)
		r.Close()
		if err := r.errs.all(); err != nil {
			t.Fatalf("at the last stamp: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		for range 3 {
			r := newSimulatedRequest(s, options{})
			found := r.Get(sess.ID())
			if found == nil {
				t.Fatal("no session")
			}
			found.SetAttr("a", 2)
			r.Close()
			if r.errs.all() == nil {
				t.Error("a change after the last stamp was acknowledged")
			}
		}
		expectAttrs(t, "after all", newSimulatedRequest(s, options{}).Get(sess.ID()).Attrs(), attrs{"a": 1})
	})
}

func TestASaveAfterTheEndIsReported(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"n": 0})
		gaetest.InSimulatedTime(t, func(t *testing.T) {
			r := newSimulatedRequest(s, o)
			r.Get(id).SetAttr("paid", true)
			time.Sleep(45 * time.Minute)
			r.Close()
			drain(t)
			if err := r.errs.all(); !errors.Is(err, gaesession.ErrRemoved) {
				t.Errorf("got %v, want ErrRemoved", err)
			}
			expectAttrs(t, "afterwards", readInBubble(t, s, o, id), nil)
		})
	})
}
