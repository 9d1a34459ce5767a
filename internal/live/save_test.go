//go:build go1.25

package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// What a save comes to.

func TestASaveWithoutAChangeMakesNoCall(t *testing.T) {
	for name, save := range saves {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				u := s.opened(t)
				s.forgetCalls()
				must(t, save(u))
				must(t, save(u))
				expect(t, "calls", s.count(""), 0)
				must(t, save(u.set("a=2")))
				s.forgetCalls()
				must(t, save(u))
				must(t, save(u))
				expect(t, "calls after a change", s.count(""), 0)
			})
		})
	}
}

var saves = map[string]func(u *user) error{"close": (*user).close, "save": (*user).save}

func TestOnlyWhatChangedIsSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1 b=1 c=1")
		one, two := s.opened(t), s.opened(t)
		must(t, one.set("a=2 -c").save())
		must(t, two.set("b=2").save())
		s.expectKept(t, id, "a=2 b=2")
	})
}

// Apps change values in place.
func TestAValueThatIsChangedInPlaceIsSaved(t *testing.T) {
	for name, save := range saves {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				u := s.opened(t)
				list := []any{"x", "y"}
				u.attrs["list"] = list
				must(t, save(u))
				list[0] = "z"
				must(t, save(u))
				s.expectKept(t, id, "a=1 list=[z y]")
				u = s.opened(t)
				u.attrs["list"].([]any)[1] = "z"
				must(t, save(u))
				s.expectKept(t, id, "a=1 list=[z z]")
			})
		})
	}
}

// What counts is what is stored: JSON has one kind of numbers.
func TestAValueThatTheFormKeepsAsAnotherIsSavedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		u.attrs["n"] = 7
		must(t, u.save())
		s.forgetCalls()
		u.attrs["n"] = 7
		must(t, u.save())
		expect(t, "calls", s.count(""), 0)
		s.expectKept(t, id, "a=1 n=7")
	})
}

func TestASessionThatCannotBeEncodedIsNotSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		u.attrs["f"] = func() {}
		if err := u.save(); err == nil || !strings.Contains(err.Error(), "json") {
			t.Errorf("got %v", err)
		}
		delete(u.attrs, "f")
		must(t, u.set("b=1").save())
		s.expectKept(t, id, "a=1 b=1")
	})
}

// A save that failed.

// What a change that failed is, and what the next save of it does, is what the
// services say of it.
func TestASaveThatFailed(t *testing.T) {
	type outage = func(s *services)
	down := func(ops ...string) outage { return func(s *services) { s.fail(ops...) } }
	lost := func(op string) outage { return func(s *services) { s.lose(op) } }
	for name, test := range map[string]struct {
		outage  outage
		evicted bool
		err     error
		now     string // that others see
		backup  string
	}{
		"backed up, not published":    {down("cache"), false, tier.ErrNotPublished, "a=1", "a=2"},
		"in the cache alone":          {down("backup"), false, tier.ErrNotBackedUp, "a=2", "a=1"},
		"nowhere":                     {down("cache", "backup"), false, tier.ErrNotSaved, "a=1", "a=1"},
		"nowhere, as it was evicted":  {down("backup"), true, tier.ErrNotSaved, "a=1", "a=1"},
		"somewhere, and not answered": {lost("backup.update"), true, tier.ErrNotSaved, "a=2", "a=2"},
	} {
		for then, again := range map[string]func(u *user) error{"close": (*user).close, "save": (*user).save} {
			t.Run(name+", then "+then, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=1")
					if test.evicted {
						s.cache.Flush()
					}
					u := s.opened(t)
					test.outage(s)
					expectErr(t, "save", u.set("a=2").save(), test.err)
					expect(t, "it knows", u.about(), "exists, is stored")
					expect(t, "the backup has", s.kept(id), test.backup)
					s.forgetCalls()
					isNotSaved := test.err == tier.ErrNotSaved
					err := again(u)
					if isNotSaved && then == "save" {
						expectErr(t, "again", err, test.err)
					} else {
						must(t, err)
						expect(t, "calls", s.count("backup.update"), 0)
					}
					s.well()
					drain(t)
					if err := again(u); err != nil {
						t.Errorf("when all is well: %v", err)
					}
					want := "a=2"
					if isNotSaved && then == "close" {
						want = test.backup // it was reported, and that was all
					}
					time.Sleep(time.Minute)
					must(t, s.opened(t).copy.Settle(u.ctx))
					s.expectKept(t, id, want)
				})
			})
		}
	}
}

// What may have been saved keeps its time: it is not saved over what others have
// changed since. What was surely not saved is changed now.
func TestASaveThatIsTriedAgainAppliesOnce(t *testing.T) {
	for name, test := range map[string]struct {
		outage func(s *services)
		want   string
	}{
		"it was made":      {func(s *services) { s.lose("backup.update") }, "a=3"},
		"it may have been": {func(s *services) { s.fail("backup.update") }, "a=3"},
		"it was surely not": {func(s *services) {
			s.hook(func(op, _ string, _ bool) error {
				if op == "backup.update" {
					return fmt.Errorf("%w: %w", tier.ErrNotWritten, errDown)
				}
				return nil
			})
		}, "a=2"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				s.cache.Flush()
				u := s.opened(t)
				test.outage(s)
				expectErr(t, "save", u.set("a=2").save(), tier.ErrNotSaved)
				s.well()
				drain(t)
				time.Sleep(time.Millisecond)
				must(t, s.opened(t).set("a=3").save())
				must(t, u.save())
				s.expectKept(t, id, test.want)
			})
		})
	}
}

func TestAFurtherChangeSavesWhatHasFailedAsWell(t *testing.T) {
	for name, outage := range map[string]func(s *services){
		"it was made": func(s *services) { s.lose("backup.update") },
		"it was not":  func(s *services) { s.fail("cache", "backup") },
	} {
		for how, save := range saves {
			t.Run(name+", "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s := created(t, "a=1")
					s.cache.Flush()
					u := s.opened(t)
					outage(s)
					expectErr(t, "save", u.set("a=2").save(), tier.ErrNotSaved)
					s.well()
					must(t, save(u.set("b=1")))
					s.expectKept(t, id, "a=2 b=1")
				})
			})
		}
	}
}

func TestANewSessionThatWasNotSavedIsTriedAgain(t *testing.T) {
	for name, outage := range map[string]func(s *services){
		"it was made":     func(s *services) { s.fail("cache"); s.lose("backup.insert") },
		"it was not":      func(s *services) { s.fail("cache", "backup") },
		"nobody can tell": func(s *services) { s.lose("cache.add"); s.fail("backup") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				u := s.request(t, nil)
				must(t, u.copy.Add(true))
				outage(s)
				expectErr(t, "save", u.set("a=1").save(), tier.ErrNotSaved)
				must(t, u.close())
				s.well()
				drain(t)
				must(t, u.save())
				expect(t, "it knows", u.about(), "exists, is stored")
				s.expectKept(t, id, "a=1")
			})
		})
	}
}

func TestAChangeThatMetARemovalIsRefusedOnceForEachChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		must(t, s.opened(t).copy.Remove(u.ctx))
		expectErr(t, "a change", u.set("a=2").close(), tier.ErrRemoved)
		must(t, u.close())
		expectErr(t, "another one", u.set("a=3").close(), tier.ErrRemoved)
		must(t, u.close())
		expectErr(t, "the app's save", u.save(), tier.ErrRemoved)
		must(t, u.close())
		expect(t, "the backup has", s.kept(id), "removed")
	})
}

// Asynchronous saves.

func async(o *options) { o.Async = true }

func TestWithAsyncAChangeIsBackedUpLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.request(t, async)
		must(t, u.open())
		goOn := make(chan bool)
		s.hook(func(op, _ string, done bool) error {
			if op == "backup.update" && !done {
				<-goOn
			}
			return nil
		})
		must(t, u.set("a=2").save())
		synctest.Wait()
		expect(t, "others see", s.seen(t, id), "a=2")
		expect(t, "the backup has", s.kept(id), "a=1")
		close(goOn)
		s.expectKept(t, id, "a=2")
		must(t, u.set("b=1").save())
		s.expectKept(t, id, "a=2 b=1")
	})
}

// Sizes.

func limited(bytes int) func(o *options) {
	return func(o *options) { o.MaxLength = bytes }
}

func TestTheAppsLimitRefusesWhatIsLargerThanItAndThanItWas(t *testing.T) {
	x := strings.Repeat("x", 100)
	for name, test := range map[string]struct {
		was, edits string
		limit      int
		move       bool
		want       error
	}{
		"no limit":                  {"a=1", "a=" + x, 0, false, nil},
		"smaller":                   {"a=1", "b=1", 100, false, nil},
		"larger":                    {"a=1", "b=" + x, 100, false, tier.ErrTooLarge},
		"as large as it was":        {"a=1 b=" + x, "b=" + strings.Repeat("y", 100), 100, false, nil},
		"smaller than it was":       {"a=1 b=" + x, "-a", 100, false, nil},
		"larger than it was":        {"a=1 b=" + x, "c=1", 100, false, tier.ErrTooLarge},
		"a refresh":                 {"a=1 b=" + x, "", 100, false, nil},
		"a new id":                  {"a=1 b=" + x, "c=1", 100, true, nil},
		"a new id, larger than all": {"a=1", "b=" + x, 100, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, test.was)
				u := s.request(t, limited(test.limit))
				must(t, u.open())
				if test.move {
					must(t, u.copy.Regenerate("new"))
				}
				time.Sleep(10 * time.Minute) // a refresh is due
				s.forgetCalls()
				err := u.set(test.edits).save()
				expectErr(t, "save", err, test.want)
				if test.want == nil {
					must(t, err)
					s.expectKept(t, u.copy.ID(), shown(u.attrs))
					return
				}
				expect(t, "calls", s.count(""), 0)
				must(t, u.close()) // it was reported
				expectErr(t, "again", u.save(), test.want)
				s.expectKept(t, id, test.was)
			})
		})
	}
}

func TestTheAppsLimitRefusesANewSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		u := s.request(t, limited(50))
		must(t, u.copy.Add(true))
		expectErr(t, "save", u.set("a="+strings.Repeat("x", 100)).save(), tier.ErrTooLarge)
		expect(t, "calls", s.count(""), 0)
		must(t, u.set("a=1").save())
		s.expectKept(t, id, "a=1")
	})
}

func TestTheAppsLimitRefusesNoMerge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		one, two := s.request(t, limited(130)), s.request(t, limited(130))
		must(t, one.open())
		must(t, two.open())
		x := strings.Repeat("x", 80)
		must(t, one.set("b="+x).save())
		must(t, two.set("c="+x).save())
		u := s.request(t, limited(130))
		must(t, u.open())
		expect(t, "both are seen", shown(u.attrs), "a=1 b="+x+" c="+x)
		must(t, u.set("-b").save())
		must(t, u.set("d=1").save())
		s.expectKept(t, id, "a=1 c="+x+" d=1")
	})
}

func TestWhatAServiceRefusesAsTooLargeIsReportedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.backup.Limit = 4000
		u := s.opened(t)
		expectErr(t, "save", u.set("a="+strings.Repeat("x", 5000)).close(), tier.ErrTooLarge)
		must(t, u.close())
		must(t, u.set("a=2").close())
		s.expectKept(t, id, "a=2")
	})
}

// Its own MaxAge.

func seconds(n int32) *int32 { return &n }

func TestASessionsOwnMaxAgeStaysWithIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		if _, ok := u.copy.MaxAge(); ok {
			t.Error("it has one already")
		}
		u.max = seconds(60)
		must(t, u.save())
		s.forgetCalls()
		must(t, u.save())
		expect(t, "calls without a change of it", s.count(""), 0)
		for _, evicted := range []bool{false, true} {
			if drain(t); evicted {
				s.cache.Flush()
			}
			u = s.opened(t)
			got, ok := u.copy.MaxAge()
			expect(t, "it has one", ok, true)
			expect(t, "MaxAge", got, 60)
			must(t, u.set("b=1").save()) // which says nothing of it
			got, _ = s.opened(t).copy.MaxAge()
			expect(t, "MaxAge after another change", got, 60)
		}
		one, two := s.opened(t), s.opened(t)
		one.max, two.max = seconds(7), seconds(8)
		must(t, one.save())
		time.Sleep(time.Millisecond)
		must(t, two.save())
		must(t, s.opened(t).set("c=1").save())
		got, _ := s.opened(t).copy.MaxAge()
		expect(t, "of two the later one", got, 8)
	})
}

// Without services.

func TestWithoutServicesASessionLivesAsLongAsItsRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u := (&services{}).request(t, func(o *options) { o.Cache, o.Backup = nil, nil })
		must(t, u.open())
		expect(t, "it knows", u.about(), "")
		must(t, u.copy.Add(true))
		u.max = seconds(60)
		must(t, u.set("a=1").save())
		expect(t, "it knows", u.about(), "exists, is stored")
		expect(t, "ends", u.copy.Ends(), time.Now().Add(timeout+timeout/10))
		got, _ := u.copy.MaxAge()
		expect(t, "MaxAge", got, 60)
		must(t, u.copy.Regenerate("new"))
		must(t, u.set("b=1").save())
		expect(t, "its id", u.copy.ID(), "new")
		must(t, u.copy.Remove(u.ctx))
		expectErr(t, "a change", u.set("c=1").save(), tier.ErrRemoved)
	})
}

// Contexts.

func TestASaveOfARequestThatHasEndedLosesNothing(t *testing.T) {
	for name, save := range saves {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				u := s.opened(t)
				ctx, cancel := context.WithCancel(u.ctx)
				free := u.ctx
				cancel()
				u.ctx = ctx
				err := save(u.set("a=2"))
				if !errors.Is(err, tier.ErrNotBackedUp) {
					t.Fatalf("got %v, want that it lives in the cache", err)
				}
				u.ctx = free
				expect(t, "others see", s.seen(t, id), "a=2")
				must(t, s.opened(t).set("b=1").save())
				s.expectKept(t, id, "a=2 b=1")
			})
		})
	}
}

func TestAChangeThatFailedIsSavedWhenItIsMadeAgainLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		s.fail("cache", "backup")
		expectErr(t, "save", u.set("a=2").close(), tier.ErrNotSaved)
		s.well()
		must(t, u.set("a=3").close())
		must(t, u.set("a=2").close())
		s.expectKept(t, id, "a=2")
	})
}
