package gaesession_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// sentinels are the errors that say what became of a session or a change.
var sentinels = []error{
	gaesession.ErrUnavailable, gaesession.ErrUndecodable, gaesession.ErrNotBackedUp, gaesession.ErrNotPublished,
	gaesession.ErrNotSaved, gaesession.ErrRemoved, gaesession.ErrTooLarge, gaesession.ErrInvalidID,
}

func TestAnErrorTellsWhatBecameOfASession(t *testing.T) {
	none := errors.New("none of these errors")
	load := func(r *request, id string) { r.Get(id) }
	change := func(r *request, id string) {
		if sess := r.Get(id); sess != nil {
			sess.SetAttr("n", 1)
		}
	}
	logout := func(r *request, id string) { r.Remove(r.Get(id)) }
	newLogin := func(r *request, _ string) { r.Add(session.NewSession()) }
	memcacheDown := func(c gaetest.Call) bool { return c.IsMemcache() }
	datastoreDown := gaetest.Datastore
	bothDown := func(gaetest.Call) bool { return true }
	afterLoad := func(match func(gaetest.Call) bool) func(gaetest.Call) bool {
		return func(c gaetest.Call) bool { return c.Index > 1 && match(c) }
	}
	for name, test := range map[string]struct {
		do   func(r *request, id string)
		down func(gaetest.Call) bool
		want error // nil: nothing is reported
		seen any   // attribute n by the next request, when the services are up; nil: no session
	}{
		"load, Memcache is down":    {load, memcacheDown, none, 0},
		"load, Datastore is down":   {load, datastoreDown, nil, 0},
		"load, both are down":       {load, bothDown, gaesession.ErrUnavailable, 0},
		"change, Datastore is down": {change, datastoreDown, gaesession.ErrNotBackedUp, 1},
		"change, Memcache is down":  {change, afterLoad(memcacheDown), gaesession.ErrNotPublished, 1},
		"change, both are down":     {change, afterLoad(bothDown), gaesession.ErrNotSaved, 0},
		"logout, Datastore is down": {logout, datastoreDown, gaesession.ErrNotBackedUp, nil},
		"logout, Memcache is down":  {logout, afterLoad(memcacheDown), gaesession.ErrNotPublished, nil},
		"logout, both are down":     {logout, afterLoad(bothDown), gaesession.ErrNotSaved, nil},
		"login, Datastore is down":  {newLogin, datastoreDown, gaesession.ErrNotBackedUp, 0},
		"login, Memcache is down":   {newLogin, memcacheDown, none, 0},
		"login, both are down":      {newLogin, bothDown, gaesession.ErrNotSaved, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := gaetest.Local(t)
			o := options{Retries: 1}
			id := login(t, s, o, attrs{"n": 0})
			up := s.Break(test.down) // in the background as well
			r := newRequest(s, o, gaetest.Fail(test.down))
			test.do(r, id)
			r.Close()
			err := r.errs.all()
			up()
			if (err == nil) != (test.want == nil) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			for _, sentinel := range sentinels {
				if errors.Is(err, sentinel) != (sentinel == test.want) {
					t.Errorf("got %v, want %v alone", err, test.want)
				}
			}
			if err != nil && test.want != gaesession.ErrNotSaved && strings.Contains(err.Error(), "nothing was written") {
				t.Errorf("got %q, though one of the services has it", err)
			}
			// The request's instance tells the services what they have to know.
			if derr := gaesession.Drain(r.Context()); derr != nil {
				t.Error(derr)
			}
			got := read(t, s, o, id)
			if (got == nil) != (test.seen == nil) || got != nil && got["n"] != test.seen {
				t.Errorf("the next request sees %v, want n=%v", got, test.seen)
			}
		})
	}
}

func TestTheChangeAfterOneThatWasNotSavedSavesBoth(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		o.Retries = 1
		id := login(t, s, o, attrs{"n": 0})
		down := func(c gaetest.Call) bool { return c.Index > 1 }
		up := s.Break(down)
		var isUp atomic.Bool
		r := newRequest(s, o, gaetest.Fail(func(c gaetest.Call) bool { return !isUp.Load() && down(c) }))
		sess := r.Get(id)
		sess.SetAttr("first", 1)
		r.Close()
		drain(t)
		if err := r.errs.all(); !errors.Is(err, gaesession.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", err)
		}
		up()
		isUp.Store(true)
		r.errs.reset()
		r.Close()
		expectAttrs(t, "after another Close", read(t, s, o, id), attrs{"n": 0})
		sess.SetAttr("second", 2)
		r.Close()
		if err := r.errs.all(); err != nil {
			t.Error(err)
		}
		expectSession(t, s, o, id, attrs{"n": 0, "first": 1, "second": 2})
	})
}
