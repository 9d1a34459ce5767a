//go:build go1.25

package live

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestIDsAreThoseThatBothServicesTake(t *testing.T) {
	for name, test := range map[string]struct {
		cache  tier.Cache
		backup tier.Backup
		id     string
		want   bool
	}{
		"any":                   {nil, nil, "any", true},
		"empty":                 {nil, nil, "", false},
		"of a hash":             {nil, nil, "h:of something", false},
		"of an owner":           {nil, nil, "owner:of something", false},
		"nearly of a hash":      {nil, nil, "h.of something", true},
		"as the cache says":     {onlyShort{}, nil, "short", true},
		"not as the cache says": {onlyShort{}, nil, "rather long", false},
		"as the backup says":    {nil, onlyShortToo{}, "short", true},
		"as one of them says":   {onlyShort{}, onlyShortToo{}, "five!!", false},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, "is valid", New(Tiers{Cache: test.cache, Backup: test.backup}, Options{}).ValidID(test.id), test.want)
		})
	}
}

type onlyShort struct{ tier.Cache }

func (onlyShort) ValidID(id string) bool { return len(id) < 10 }

type onlyShortToo struct{ tier.Backup }

func (onlyShortToo) ValidID(id string) bool { return len(id) < 6 }

func TestRemoveIDRemovesWhereThereIsASession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.request(t, nil)
		must(t, u.store.RemoveID(u.ctx, id))
		expect(t, "the backup has", s.kept(id), "removed")
		expect(t, "others see", s.seen(t, id), "-")
		s.forgetCalls()
		must(t, u.store.RemoveID(u.ctx, "nobody's"))
		expect(t, "the backup has", s.kept("nobody's"), "-")
		expect(t, "writes", s.count("cache.set")+s.count("cache.add")+s.count("backup.put"), 0)
		s.fail("cache", "backup")
		expectErr(t, "where it cannot be told", u.store.RemoveID(u.ctx, id), tier.ErrUnavailable)
		s.well()
	})
}

func TestRemoveIDRemovesWhatNobodyCanRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=unreadable")
		s.cache.Flush()
		u := s.request(t, nil)
		must(t, u.store.RemoveID(u.ctx, id))
		expect(t, "the backup has", s.kept(id), "removed")
	})
}

// How long a session lives.

func TestASessionThatIsUsedLivesAndIsSavedOnceARefresh(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		for range 5 * 60 {
			time.Sleep(time.Minute)
			must(t, s.opened(t).close())
		}
		if n := s.count("backup.update"); n < 5*60/3-1 || n > 5*60/3+1 {
			t.Errorf("it was saved %d times in five hours, want once in three minutes", n)
		}
		// It lives for its timeout after its last use, also after one that was not saved.
		time.Sleep(time.Minute)
		must(t, s.opened(t).close())
		time.Sleep(timeout - time.Second)
		expect(t, "just before its end", s.seen(t, id), "a=1")
		time.Sleep(timeout / 10)
		expect(t, "a refresh later", s.seen(t, id), "-")
		s.cache.Flush()
		expect(t, "after a flush", s.seen(t, id), "-")
	})
}

func TestALongerTimeoutIsSavedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		u.idle = 10 * timeout
		must(t, u.close())
		expect(t, "ends", s.opened(t).copy.Ends(), time.Now().Add(11*timeout))
		// A shorter one takes nothing back.
		u = s.opened(t)
		u.idle = time.Minute
		must(t, u.set("b=1").close())
		expect(t, "ends", s.opened(t).copy.Ends(), time.Now().Add(11*timeout))
	})
}

// maxLifetime limits sessions to an hour.
func maxLifetime(o *options) { o.MaxLifetime = time.Hour }

func (s *services) limited(t *testing.T) *user {
	t.Helper()
	u := s.request(t, maxLifetime)
	must(t, u.open())
	u.born = time.Now() // as an adapter says that does not know
	return u
}

func TestNoSessionLivesLongerThanMaxLifetime(t *testing.T) {
	for name, change := range map[string]string{"used": "", "changed": "n=1"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				u := s.request(t, maxLifetime)
				must(t, u.copy.Add(true))
				u.born = time.Now()
				must(t, u.set("a=1").close())
				begin := time.Now()
				for time.Since(begin) < 59*time.Minute {
					time.Sleep(59 * time.Second)
					u := s.limited(t)
					expect(t, "exists", u.copy.Exists(), true)
					must(t, u.set(change).close())
				}
				u = s.limited(t)
				expect(t, "it ends", u.copy.Ends(), begin.Add(time.Hour))
				time.Sleep(time.Until(begin.Add(time.Hour)))
				expect(t, "at its end", s.seen(t, id), "-")
			})
		})
	}
}

func TestASessionThatNoUseMakesLiveLongerIsNotSavedForItsUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		u := s.request(t, maxLifetime)
		must(t, u.copy.Add(true))
		u.born = time.Now()
		must(t, u.set("a=1").close())
		for time.Since(u.born) < 50*time.Minute {
			time.Sleep(time.Minute)
			must(t, s.limited(t).close())
			if s.limited(t).copy.Ends().Equal(u.born.Add(time.Hour)) {
				break
			}
		}
		// From the first use on after which the services keep it until its end.
		expect(t, "was used last", time.Since(u.born), 27*time.Minute)
		s.forgetCalls()
		for time.Since(u.born) < 59*time.Minute {
			time.Sleep(time.Minute)
			must(t, s.limited(t).close())
		}
		expect(t, "calls of the backup", s.count("backup"), 0)
		// With a shorter timeout what counts is its use.
		u = s.limited(t)
		u.idle = 10 * time.Second
		must(t, u.close())
		expect(t, "was used last", s.limited(t).copy.Used(), time.Now())
	})
}

func TestANewIDDoesNotMakeASessionYoung(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		u := s.request(t, maxLifetime)
		must(t, u.copy.Add(true))
		begin := time.Now()
		u.born = begin
		must(t, u.set("a=1").close())
		time.Sleep(20 * time.Minute)
		u = s.limited(t)
		must(t, u.copy.Regenerate("new"))
		must(t, u.set("b=1").save())
		time.Sleep(20 * time.Minute)
		u = s.request(t, maxLifetime)
		u.copy = u.store.Copy("new")
		must(t, u.open())
		must(t, u.set("c=1").save())
		expect(t, "it ends", u.copy.Ends(), begin.Add(time.Hour))
	})
}

func TestASessionOfWhichNobodyKnewWhenItBeganBeginsWithItsFirstChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		time.Sleep(10 * time.Minute)
		u := s.limited(t)
		must(t, u.set("b=1").save())
		begin := time.Now()
		for time.Since(begin) < 59*time.Minute {
			time.Sleep(10*time.Minute - time.Second)
			must(t, s.limited(t).close())
		}
		expect(t, "it ends", s.limited(t).copy.Ends(), begin.Add(time.Hour))
	})
}

// Another instance may have another limit, or none.
func TestASessionThatAnotherInstanceLetLiveLongerIsOver(t *testing.T) {
	for name, evicted := range map[string]bool{"cached": false, "evicted": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				u := s.request(t, nil)
				must(t, u.copy.Add(true))
				u.born = time.Now()
				must(t, u.set("a=1").save())
				for range 4 {
					time.Sleep(15*time.Minute - time.Millisecond)
					must(t, s.opened(t).close())
				}
				if evicted {
					s.cache.Flush()
				}
				u = s.limited(t)
				expect(t, "shortly before", u.about(), "exists, is stored")
				time.Sleep(4 * time.Millisecond)
				u = s.limited(t)
				expect(t, "it knows", u.about(), "")
				expect(t, "the other instance sees", s.seen(t, id), "a=1")
			})
		})
	}
}

func TestASessionThatAClockAheadHasUsedIsSavedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		u.ahead = 26 * 365 * 24 * time.Hour
		must(t, u.set("a=2").save())
		u = s.opened(t)
		s.forgetCalls()
		must(t, u.close())
		expect(t, "saves", s.count("backup.update"), 1)
		u = s.opened(t)
		expect(t, "ends", u.copy.Ends(), time.Now().Add(timeout+timeout/10))
		s.forgetCalls()
		must(t, u.close())
		expect(t, "further calls", s.count(""), 0)
	})
}

func TestASessionForEverIsNotSavedAgainAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		u := s.request(t, nil)
		must(t, u.copy.Add(true))
		u.idle = math.MaxInt64
		must(t, u.set("a=1").save())
		time.Sleep(time.Hour)
		u = s.opened(t)
		u.idle = math.MaxInt64
		s.forgetCalls()
		must(t, u.close())
		expect(t, "calls", s.count(""), 0)
	})
}

func TestNoTimeOverflows(t *testing.T) {
	const longest = time.Duration(math.MaxInt64)
	for name, l := range map[string]Lifetime{
		"the longest":  {Idle: longest, Refresh: longest},
		"the shortest": {Idle: math.MinInt64, Refresh: math.MinInt64},
		"none":         {},
		"no refresh":   {Idle: longest, Refresh: -1},
	} {
		for _, limit := range []time.Duration{0, time.Hour, longest} {
			t.Run(name, func(t *testing.T) {
				l.Used, l.Born = time.Now(), time.Now()
				s := New(Tiers{}, Options{MaxLifetime: limit})
				ends := s.storedEnd(l)
				if l.Idle > 0 && ends.Before(l.Used) || ends.Sub(l.Used) > 2*forever {
					t.Errorf("it ends %v", ends)
				}
			})
		}
	}
}

func TestAReportOfTheProtocolIsHandedOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		var reported []error
		u := s.request(t, func(o *options) { o.Report = func(_ string, err error) { reported = append(reported, err) } })
		s.fail("cache")
		must(t, u.copy.Add(true))
		must(t, u.set("a=1").save()) // the backup has it
		if len(reported) != 1 || !strings.Contains(reported[0].Error(), errDown.Error()) {
			t.Errorf("reported was %v", reported)
		}
		s.well()
	})
}

func TestDrainOfNothingEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	must(t, Drain(ctx))
}

func TestServicesThatAreNotComparableAreRefused(t *testing.T) {
	for name, edit := range map[string]func(o *options){
		"cache": func(o *options) {
			o.Cache = struct {
				tier.Cache
				_ func()
			}{Cache: o.Cache}
		},
		"backup": func(o *options) {
			o.Backup = struct {
				tier.Backup
				_ func()
			}{Backup: o.Backup}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				s.forgetCalls()
				u := s.request(t, edit)
				refused := func(what string, err error) {
					t.Helper()
					expectErr(t, what, err, tier.ErrUnavailable)
					expectErr(t, what, err, errIncomparable)
				}
				_ = u.open()
				expect(t, "exists", u.copy.Exists(), false)
				refused("open", u.copy.Err())
				refused("save", u.save())
				d := u.draft()
				d.Again = true
				refused("another copy", u.copy.Again().Save(u.ctx, d))
				refused("a new session", u.copy.store.Fresh("new").Save(u.ctx, d))
				refused("a session of another store", u.copy.store.Unknown("other").Save(u.ctx, d))
				refused("new id", u.copy.Regenerate("new"))
				refused("removal", u.copy.Remove(u.ctx))
				refused("removal of an id", u.copy.store.RemoveID(u.ctx, id))
				expect(t, "calls", s.count(""), 0)
			})
		})
	}
}
