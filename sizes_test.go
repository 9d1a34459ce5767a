package gaesession_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier/tiertest"
)

// A cache that takes less than the backup, and changes that it has alone.

// onASmallCache runs f with a cache that takes 1500 bytes, and with the options of
// a request that makes a session larger than that: synchronous or not.
func onASmallCache(t *testing.T, f func(t *testing.T, s *gaetest.Service, cache *tiertest.MemoryCache, large, async options)) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		cache := tiertest.NewCache()
		cache.Limit = 1500
		o.Cache = cache
		f(t, s, cache, o, options{AsyncDatastoreSave: true, Cache: cache})
	})
}

func TestAnAcknowledgedChangeIsSeenWhileItIsBeingSaved(t *testing.T) {
	onASmallCache(t, func(t *testing.T, s *gaetest.Service, cache *tiertest.MemoryCache, o, async options) {
		id := login(t, s, o, attrs{"user": "ann"})
		large := newRequest(s, o)
		sess := large.Get(id)
		gate, hook := gaetest.Hold(gaetest.Datastore)
		small := newRequest(s, async, hook)
		small.Get(id).SetAttr("b", 1)
		small.Close()
		if err := small.errs.all(); err != nil {
			t.Fatal(err)
		}
		<-gate.Arrived()
		sess.SetAttr("a", strings.Repeat("x", 2000))
		large.Close()
		if err := large.errs.all(); err != nil {
			t.Error(err)
		}
		want := attrs{"user": "ann", "a": strings.Repeat("x", 2000), "b": 1}
		expectAttrs(t, "while the background save is under way", read(t, s, o, id), want)
		gate.Open()
		drain(t)
		cache.Flush()
		expectAttrs(t, "after a flush", read(t, s, o, id), want)
	})
}

func TestAChangeThatOnlyTheCacheHasSurvivesALargeOne(t *testing.T) {
	onASmallCache(t, func(t *testing.T, s *gaetest.Service, cache *tiertest.MemoryCache, o, async options) {
		id := login(t, s, o, attrs{"user": "ann"})
		large := newRequest(s, o)
		sess := large.Get(id)
		up := s.Break(gaetest.Datastore)
		small := newRequest(s, async, gaetest.Fail(gaetest.Datastore))
		small.Get(id).SetAttr("b", 1)
		small.Close()
		drain(t)
		up()
		sess.SetAttr("a", strings.Repeat("x", 2000))
		large.Close()
		drain(t)
		if err := large.errs.all(); err != nil {
			t.Error(err)
		}
		want := attrs{"user": "ann", "a": strings.Repeat("x", 2000), "b": 1}
		expectAttrs(t, "from both", read(t, s, o, id), want)
		cache.Flush()
		expectAttrs(t, "after a flush", read(t, s, o, id), want)
	})
}

// Two changes fit each, and not together. One of them is refused before anything
// is acknowledged.
func TestAnAcknowledgedChangeIsNotRefusedLater(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{AsyncDatastoreSave: true}
		half := strings.Repeat("x", 600<<10)
		id := login(t, s, o, attrs{"user": "ann"})
		s.Flush()
		first := newRequest(s, o)
		mine := first.Get(id) // from Datastore
		read(t, s, o, id)     // puts it back into Memcache
		gate, hook := gaetest.Hold(gaetest.Datastore)
		second := newRequest(s, o, hook)
		second.Get(id).SetAttr("b", half)
		closed := make(chan struct{})
		go func() { second.Close(); close(closed) }()
		<-gate.Arrived()
		mine.SetAttr("a", half)
		first.Close()
		acknowledged := map[string]bool{"a": first.errs.all() == nil}
		select {
		case <-closed:
			acknowledged["b"] = second.errs.all() == nil
		default:
		}
		gate.Open()
		<-closed
		drain(t)
		got := read(t, s, o, id)
		for name, r := range map[string]*request{"a": first, "b": second} {
			switch err := r.errs.all(); {
			case (acknowledged[name] || err == nil) && got[name] != half:
				t.Errorf("%s was acknowledged, and is not there", name)
			case err != nil && (!errors.Is(err, gaesession.ErrTooLarge) || got[name] != nil):
				t.Errorf("%s reported %v; is it there: %t", name, err, got[name] != nil)
			}
		}
	})
}

// Larger than half of the 128 KiB that a change leaves free in Datastore.
func TestWhileDatastoreIsDownASessionOfUpTo64KiBLivesOn(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		for size, lives := range map[int]bool{60 << 10: true, 70 << 10: false} {
			id := login(t, s, o, attrs{"n": 0})
			up := s.Break(gaetest.Datastore)
			r := newRequest(s, o, gaetest.Fail(gaetest.Datastore))
			r.Get(id).SetAttr("big", strings.Repeat("x", size))
			r.Close()
			drain(t)
			up()
			want := attrs{"n": 0}
			sentinel := gaesession.ErrNotSaved
			if lives {
				want["big"], sentinel = strings.Repeat("x", size), gaesession.ErrNotBackedUp
			}
			if err := r.errs.all(); !errors.Is(err, sentinel) {
				t.Errorf("%d KiB: got %v, want %v", size>>10, err, sentinel)
			}
			if got := read(t, s, o, id); !reflect.DeepEqual(got, want) {
				t.Errorf("%d KiB: is it there: %t, want %t", size>>10, got["big"] != nil, lives)
			}
		}
	})
}

func TestAChangeLeaves128KiBFreeInDatastore(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"n": 0})
		r := newRequest(s, o)
		r.Get(id).SetAttr("big", strings.Repeat("x", 900<<10))
		r.Close()
		if err := r.errs.all(); !errors.Is(err, gaesession.ErrTooLarge) {
			t.Errorf("900 KiB: got %v, want ErrTooLarge", err)
		}
		change(t, s, o, id, attrs{"big": strings.Repeat("x", 890<<10)})
		change(t, s, o, id, attrs{"big": strings.Repeat("x", 890<<10), "n": 1})
	})
}
