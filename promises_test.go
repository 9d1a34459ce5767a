package gaesession_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The promises of the package documentation, one section each. Where a test
// goes through the calls of a request one by one, it holds the request at its
// first call, then at its second, and so on until the request has no such call.

type attrs = map[string]any

var modes = []struct {
	name string
	o    options
}{
	{"synchronous", options{}},
	{"asynchronous", options{AsyncDatastoreSave: true}},
	{"only Memcache", options{OnlyMemcache: true}},
}

// onEach runs f in every mode on every service.
func onEach(t *testing.T, f func(t *testing.T, s *gaetest.Service, o options)) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) { f(t, s, mode.o) })
		})
	}
}

// backedUp is onEach without OnlyMemcache, for promises that need Datastore.
func backedUp(t *testing.T, f func(t *testing.T, s *gaetest.Service, o options)) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		if !o.OnlyMemcache {
			f(t, s, o)
		}
	})
}

// expectSession reads the session as it is now, and after a flush.
func expectSession(t testing.TB, s *gaetest.Service, o options, id string, want attrs) {
	t.Helper()
	expectAttrs(t, "from Memcache", read(t, s, o, id), want)
	if o.OnlyMemcache {
		return
	}
	drain(t)
	expectAttrs(t, "after background saves", read(t, s, o, id), want)
	s.Flush()
	expectAttrs(t, "after flush", read(t, s, o, id), want)
	expectAttrs(t, "after refill", read(t, s, o, id), want)
}

// atEachCall calls try with 1, 2, … until it says that the request has no such
// call.
func atEachCall(t *testing.T, try func(t *testing.T, k int) (reached bool)) {
	t.Helper()
	for k := 1; ; k++ {
		reached := false // as after -failfast, which runs no further subtests
		t.Run(fmt.Sprintf("call %d", k), func(t *testing.T) { reached = try(t, k) })
		if !reached {
			if k < 2 {
				t.Error("the request made no call")
			}
			return
		}
	}
}

// P1: no lost update.

func TestOverlappingChangesOfDifferentAttributesAllSurvive(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"n": 0})
		want := attrs{"n": 0}
		var loaded, saved sync.WaitGroup
		const requests = 6
		loaded.Add(requests)
		for i := range requests {
			name := fmt.Sprintf("attr%d", i)
			want[name] = i
			saved.Add(1)
			go func() {
				defer saved.Done()
				r := newRequest(s, o)
				sess := r.Get(id)
				loaded.Done()
				loaded.Wait() // nobody saves before all have loaded
				sess.SetAttr(name, i)
				r.Close()
				if err := r.errs.all(); err != nil {
					t.Errorf("request %d: %v", i, err)
				}
			}()
		}
		saved.Wait()
		expectSession(t, s, o, id, want)
	})
}

func TestChangeSurvivesAnotherOneAtAnyOfItsCalls(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		for _, evicted := range []bool{false, true} {
			if evicted && o.OnlyMemcache {
				continue
			}
			t.Run(fmt.Sprintf("evicted=%v", evicted), func(t *testing.T) {
				atEachCall(t, func(t *testing.T, k int) bool {
					id := login(t, s, o, attrs{"n": 0, "gone": true})
					if evicted {
						s.Flush()
					}
					reached, hook := gaetest.Interpose(k, func() {
						change(t, s, o, id, attrs{"theirs": "b", "gone": nil})
					})
					r := newRequest(s, o, hook)
					r.Get(id).SetAttr("mine", "a")
					r.Close()
					if err := r.errs.all(); err != nil {
						t.Error(err)
					}
					drain(t)
					if !reached.Load() {
						return false
					}
					expectSession(t, s, o, id, attrs{"n": 0, "theirs": "b", "mine": "a"})
					return true
				})
			})
		}
	})
}

func TestOnTheSameAttributeTheLastOneSavedWins(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"k": 0})
		first, last := newRequest(s, o), newRequest(s, o)
		one, two := first.Get(id), last.Get(id)
		two.SetAttr("k", 2)
		one.SetAttr("k", 1)
		first.Close()
		drain(t)
		last.Close()
		if err := errors.Join(first.errs.all(), last.errs.all()); err != nil {
			t.Error(err)
		}
		expectSession(t, s, o, id, attrs{"k": 2})
	})
}

func TestALateBackgroundSaveDoesNotUndoALaterChange(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{AsyncDatastoreSave: true}
		// Held at each call of the background save in turn.
		atEachCall(t, func(t *testing.T, k int) bool {
			id := login(t, s, o, attrs{"k": 0})
			gate, hook := gaetest.Hold(gaetest.At(2 + k)) // after a get and a compare-and-swap
			early := newRequest(s, o, hook)
			early.Get(id).SetAttr("k", 1)
			early.Close()
			arrived := waitFor(t, gate.Arrived())
			late := newRequest(s, o)
			late.Get(id).SetAttr("k", 2)
			done := make(chan struct{})
			go func() { late.Close(); close(done) }()
			<-done
			gate.Open()
			drain(t)
			if err := errors.Join(early.errs.all(), late.errs.all()); err != nil {
				t.Error(err)
			}
			expectSession(t, s, o, id, attrs{"k": 2})
			return arrived
		})
	})
}

// waitFor reports whether the held call arrives before the background saves are
// done without it.
func waitFor(t *testing.T, arrived <-chan gaetest.Call) bool {
	t.Helper()
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		if gaesession.Drain(ctx) == nil {
			close(done)
		}
	}()
	select {
	case <-arrived:
		return true
	case <-done:
		return false
	}
}

// P2: no resurrection.

func TestRemovedSessionStaysRemovedWhenARequestIsInFlight(t *testing.T) {
	inFlight := map[string]func(session.Session){
		"change":  func(sess session.Session) { sess.SetAttr("mine", "a") },
		"read":    func(session.Session) {},
		"refresh": session.Session.Access,
	}
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		for name, use := range inFlight {
			for _, evicted := range []bool{false, true} {
				if evicted && o.OnlyMemcache {
					continue
				}
				o := o
				if name == "refresh" {
					o.RefreshInterval = -1
				}
				t.Run(fmt.Sprintf("%s, evicted=%v", name, evicted), func(t *testing.T) {
					atEachCall(t, func(t *testing.T, k int) bool {
						id := login(t, s, o, attrs{"n": 0})
						other := login(t, s, o, attrs{"n": 0})
						if evicted {
							s.Flush()
						}
						var loaded bool
						reached, hook := gaetest.Interpose(k, func() { logout(t, s, o, id) })
						r := newRequest(s, o, hook)
						if sess := r.Get(id); sess != nil {
							loaded = true
							use(sess)
						}
						hasOther := r.Get(other)
						hasOther.SetAttr("other", "saved")
						r.Close()
						drain(t)
						if !reached.Load() {
							return false
						}
						err := r.errs.all()
						if err != nil && !errors.Is(err, gaesession.ErrRemoved) {
							t.Error(err)
						}
						if loaded && name == "change" && k == 2 && err == nil {
							t.Error("no ErrRemoved was reported for a change after the removal")
						}
						expectSession(t, s, o, id, nil)
						expectSession(t, s, o, other, attrs{"n": 0, "other": "saved"})
						return true
					})
				})
			}
		}
	})
}

// P4 and P6: Memcache may vanish, requests may die, between any two calls.

func TestNothingSavedIsLostWhenMemcacheIsFlushedAtAnyCall(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		atEachCall(t, func(t *testing.T, k int) bool {
			id := login(t, s, o, attrs{"n": 0})
			reached, hook := gaetest.Interpose(k, s.Flush)
			r := newRequest(s, o, hook)
			r.Get(id).SetAttr("n", 1)
			r.Close()
			drain(t)
			if err := r.errs.all(); err != nil {
				t.Error(err)
			}
			expectSession(t, s, o, id, attrs{"n": 1})
			return reached.Load()
		})
	})
}

func TestACrashAtAnyCallLosesNothingThatWasSaved(t *testing.T) {
	requests := []struct {
		name    string
		evicted bool
		do      func(r *request, id string)
	}{
		{"change", false, func(r *request, id string) { r.Get(id).SetAttr("mine", 1) }},
		{"change, evicted", true, func(r *request, id string) { r.Get(id).SetAttr("mine", 1) }},
		{"read, evicted", true, func(r *request, id string) { r.Get(id) }},
		{"logout", false, func(r *request, id string) { r.Remove(r.Get(id)) }},
	}
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		for _, req := range requests {
			t.Run(req.name, func(t *testing.T) {
				atEachCall(t, func(t *testing.T, k int) bool {
					id := login(t, s, o, attrs{"n": 0})
					change(t, s, o, id, attrs{"saved": "before"})
					drain(t)
					if req.evicted {
						s.Flush()
					}
					crash, hook := gaetest.CrashAt(k)
					hook = forGood(hook)
					done := make(chan struct{})
					go func() {
						defer close(done)
						defer func() { recover() }() // the request may go on with nil
						r := newRequest(s, o, hook)
						req.do(r, id)
						r.Close()
						if err := gaesession.Drain(context.Background()); err != nil {
							t.Error(err)
						}
					}()
					var crashed bool
					select {
					case <-crash.Crashed():
						crashed = true
					case <-done:
					}

					now := read(t, s, o, id)
					switch {
					case now == nil && req.name == "logout":
					case now == nil || now["saved"] != "before" || now["n"] != 0:
						t.Errorf("after the crash: got %v, want what was saved before", now)
					default:
						// Others go on, and what they save is there.
						if req.name == "logout" {
							break // or find it removed
						}
						change(t, s, o, id, attrs{"saved": "after"})
						for _, from := range []string{"Memcache", "Datastore"} {
							if from == "Datastore" && !o.AsyncDatastoreSave {
								s.Flush()
							}
							if got := read(t, s, o, id); got["saved"] != "after" || got["n"] != 0 {
								t.Errorf("from %s: got %v, want saved: after", from, got)
							}
						}
					}
					if now != nil {
						logout(t, s, o, id)
						expectAttrs(t, "after logout", read(t, s, o, id), nil)
						s.Flush()
						expectAttrs(t, "after logout and flush", read(t, s, o, id), nil)
					}
					crash.Release()
					<-done
					drain(t)
					if now != nil {
						expectAttrs(t, "after the crashed request's end", read(t, s, o, id), nil)
					}
					return crashed
				})
			})
		}
	})
}

// forGood makes the errors of a hook ones that nobody retries: a request that has
// died makes no further attempts, and nothing goes on in the background.
func forGood(h gaetest.Hook) gaetest.Hook {
	return gaetest.Hook{
		Before: func(ctx context.Context, c gaetest.Call) error {
			if err := h.Before(ctx, c); err != nil {
				return retry.Permanent(err)
			}
			return nil
		},
		After: h.After,
	}
}

// P5: Datastore may be down.

func TestSessionsLiveOnInMemcacheWhileDatastoreIsDown(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		down := gaetest.Fail(gaetest.Datastore)
		id := login(t, s, o, attrs{"n": 0, "gone": true})
		up := s.Break(gaetest.Datastore)
		during := func(what string, change attrs, want attrs) {
			t.Helper()
			r := newRequest(s, o, down)
			sess := r.Get(id)
			if sess == nil {
				t.Fatalf("%s: no session: %v", what, r.errs.all())
			}
			for name, v := range change {
				sess.SetAttr(name, v)
			}
			r.Close()
			drain(t)
			if r.errs.all() == nil {
				t.Errorf("%s: no error was reported", what)
			}
			r = newRequest(s, options{RefreshInterval: 1 << 40}, down)
			expectAttrs(t, what, r.Get(id).Attrs(), want)
		}
		during("first change", attrs{"n": 1, "gone": nil}, attrs{"n": 1})
		during("second change", attrs{"m": 1}, attrs{"n": 1, "m": 1})

		up()
		// The next save brings Datastore up to date, with all of it.
		expectAttrs(t, "up again", read(t, s, o, id), attrs{"n": 1, "m": 1})
		change(t, s, o, id, attrs{"k": 1})
		expectSession(t, s, o, id, attrs{"n": 1, "m": 1, "k": 1})
	})
}

// Datastore is down for so long that the session's entity expires meanwhile, and
// when it is up again the purge comes before the session's next request.
func TestSessionsOutliveTheirEntityWhileDatastoreIsDown(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		for _, purged := range []bool{false, true} {
			{
				id := login(t, s, o, attrs{"n": 0})
				up := s.Break(gaetest.Datastore)
				r := newRequest(s, o, gaetest.Fail(gaetest.Datastore))
				r.Get(id).SetAttr("n", 1)
				r.Close()
				drain(t)
				up()
				if r.errs.all() == nil {
					t.Error("no error was reported while Datastore was down")
				}
				expireEntity(t, s, id, 6*time.Minute)
				if purged {
					if got, err := gaesession.PurgeExpired(s.Context(), ""); got.Deleted != 1 || err != nil {
						t.Fatalf("purge: got %+v, %v, want one deleted", got, err)
					}
				}
				change(t, s, o, id, attrs{"m": 1})
				drain(t)
				expectSession(t, s, o, id, attrs{"n": 1, "m": 1})
			}
		}
	})
}

func TestALoginWhileDatastoreIsDownIsSavedByTheNextChange(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		r := newRequest(s, o, gaetest.Fail(gaetest.Datastore))
		sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs{"n": 0}})
		r.Add(sess)
		r.Close()
		if r.errs.all() == nil {
			t.Error("no error was reported")
		}
		expectAttrs(t, "meanwhile", read(t, s, o, sess.ID()), attrs{"n": 0})
		change(t, s, o, sess.ID(), attrs{"m": 1})
		expectSession(t, s, o, sess.ID(), attrs{"n": 0, "m": 1})
	})
}

func TestADatastoreThatIsDownForOneChangeHidesNoOtherChange(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		atEachCall(t, func(t *testing.T, k int) bool {
			o := options{Retries: 1}
			id := login(t, s, o, attrs{"n": 0})
			reached, hook := gaetest.Interpose(k, func() { change(t, s, o, id, attrs{"theirs": 1}) })
			r := newRequest(s, o, hook, gaetest.Fail(gaetest.Datastore))
			r.Get(id).SetAttr("mine", 1)
			r.Close()
			if r.errs.all() == nil {
				t.Error("no error was reported")
			}
			got := read(t, s, o, id)
			if reached.Load() && got["theirs"] != 1 {
				t.Errorf("got %v: a saved change is missing", got)
			}
			delete(got, "mine") // may or may not be there
			if reached.Load() {
				expectAttrs(t, "other attributes", got, attrs{"n": 0, "theirs": 1})
			}
			return reached.Load()
		})
	})
}

func TestRequestsWorkWhileMemcacheIsDown(t *testing.T) {
	backedUp(t, func(t *testing.T, s *gaetest.Service, o options) {
		o.Retries = 1
		var up atomic.Bool
		down := gaetest.Fail(func(c gaetest.Call) bool { return c.IsMemcache() && !up.Load() })
		id := login(t, s, o, attrs{"n": 0})
		s.Flush()
		for i := 1; i <= 2; i++ {
			r := newRequest(s, o, down)
			sess := r.Get(id)
			if sess == nil {
				t.Fatalf("no session: %v", r.errs.all())
			}
			expectAttrs(t, "read", sess.Attrs(), attrs{"n": i - 1})
			sess.SetAttr("n", i)
			r.Close()
			if r.errs.all() == nil {
				t.Error("no error was reported")
			}
		}
		up.Store(true) // before publishing is given up, which goes on in the background
		expectSession(t, s, o, id, attrs{"n": 2})
	})
}

func TestLogoutWorksWhileOneServiceIsDown(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		o := options{Retries: 1}
		for name, down := range map[string]func(gaetest.Call) bool{"Memcache": gaetest.Memcache, "Datastore": gaetest.Datastore} {
			id := login(t, s, o, attrs{"n": 0})
			if name == "Memcache" {
				s.Flush() // else the item stays, and the error says so
			}
			r := newRequest(s, o)
			sess := r.Get(id)
			r = newRequest(s, o, gaetest.Fail(down))
			r.Remove(sess)
			r.Close()
			if r.errs.all() == nil {
				t.Errorf("%s down: no error was reported", name)
			}
			expectAttrs(t, name+" down: after logout", read(t, s, o, id), nil)
		}
	})
}

// A failing or ambiguous call is retried, and nothing is seen of it.

func TestOneFailingCallIsRetried(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		for name, fail := range map[string]func(func(gaetest.Call) bool) gaetest.Hook{"not made": gaetest.Fail, "answer lost": gaetest.FailAfter} {
			t.Run(name, func(t *testing.T) {
				atEachCall(t, func(t *testing.T, k int) bool {
					id := login(t, s, o, attrs{"n": 0})
					reached, hook := gaetest.Interpose(k, func() {})
					r := newRequest(s, o, hook, fail(gaetest.At(k)))
					r.Get(id).SetAttr("n", 1)
					r.Close()
					drain(t)
					if err := r.errs.all(); err != nil {
						t.Error(err)
					}
					expectSession(t, s, o, id, attrs{"n": 1})
					return reached.Load()
				})
			})
		}
	})
}
