//go:build go1.25

package live

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// The states of a copy, and what each operation does in each of them.

// states make a request whose copy is in that state. The services have the session
// "a=1" in those that say so.
var states = map[string]func(t *testing.T) *user{
	"unopened, there is one": func(t *testing.T) *user { return created(t, "a=1").request(t, nil) },
	"unopened, there is none": func(t *testing.T) *user {
		return newServices().request(t, nil)
	},
	"none": func(t *testing.T) *user {
		u := newServices().request(t, nil)
		must(t, u.open())
		return u
	},
	"fresh": func(t *testing.T) *user {
		u := newServices().request(t, nil)
		must(t, u.copy.Add(true))
		u.set("a=1")
		return u
	},
	"stored": func(t *testing.T) *user { return created(t, "a=1").opened(t) },
	"removed": func(t *testing.T) *user {
		u := created(t, "a=1").opened(t)
		must(t, u.copy.Remove(u.ctx))
		return u
	},
	"removing": func(t *testing.T) *user {
		u := created(t, "a=1").opened(t)
		u.s.fail("cache", "backup")
		expectErr(t, "removal", u.copy.Remove(u.ctx), tier.ErrNotSaved)
		synctest.Wait() // the background tries it at once, and then in a while
		u.s.well()
		return u
	},
	"removed by another": func(t *testing.T) *user {
		u := created(t, "a=1").opened(t)
		must(t, u.s.opened(t).copy.Remove(u.ctx))
		expectErr(t, "a save", u.set("z=1").close(), tier.ErrRemoved)
		return u
	},
	"unavailable": func(t *testing.T) *user {
		u := created(t, "a=1").request(t, nil)
		u.s.fail("cache", "backup")
		expectErr(t, "open", u.open(), tier.ErrUnavailable)
		u.s.well()
		return u
	},
	"undecodable": func(t *testing.T) *user {
		u := created(t, "a=unreadable").request(t, nil)
		expectErr(t, "open", u.open(), tier.ErrUndecodable)
		return u
	},
}

func TestWhatEachOperationDoesInEachState(t *testing.T) {
	const (
		exists     = "exists, is stored"
		freshAlone = "exists"
		isRemoved  = "is removed"
		unknown    = "error"
		nothing    = ""
	)
	newID := "another id"
	for _, test := range []struct {
		state     string
		operation string
		err       error
		about     string // what the request knows then
		kept      string // what the backup has then
		calls     bool   // some are made
	}{
		{"unopened, there is one", "nothing", nil, nothing, "a=1", false},
		{"unopened, there is one", "open", nil, exists, "a=1", true},
		{"unopened, there is one", "change", nil, nothing, "a=1", false},
		{"unopened, there is one", "add new", nil, freshAlone, "a=1", false},
		{"unopened, there is one", "add known", nil, exists, "a=1", false},
		{"unopened, there is one", "add known, change", nil, exists, "a=1 b=2", true},
		{"unopened, there is one", "settle", nil, nothing, "a=1", false},
		{"unopened, there is one", "remove", nil, isRemoved, "removed", true},

		{"unopened, there is none", "open", nil, nothing, "-", true},
		{"unopened, there is none", "change", nil, nothing, "-", false},
		{"unopened, there is none", "add new", nil, freshAlone, "-", false},
		{"unopened, there is none", "add new, change", nil, exists, "b=2", true},
		{"unopened, there is none", "add known, change", nil, exists, "b=2", true},
		{"unopened, there is none", "settle", nil, nothing, "-", false},
		{"unopened, there is none", "remove", nil, isRemoved, "removed", true},

		{"none", "nothing", nil, nothing, "-", false},
		{"none", "open", nil, nothing, "-", false},
		{"none", "save", nil, nothing, "-", false},
		{"none", "change", nil, nothing, "-", false},
		{"none", "add new, change", nil, exists, "b=2", true},
		{"none", "add known, change", nil, exists, "b=2", true},
		{"none", "settle", nil, nothing, "-", false},
		{"none", "regenerate, add new, change", nil, exists, "-", true},

		{"fresh", "nothing", nil, freshAlone, "-", false},
		{"fresh", "open", nil, freshAlone, "-", false},
		{"fresh", "save", nil, exists, "a=1", true},
		{"fresh", "change", nil, exists, "a=1 b=2", true},
		{"fresh", "add new", nil, freshAlone, "-", false},
		{"fresh", "add known", nil, freshAlone, "-", false},
		{"fresh", "settle", nil, freshAlone, "-", false},
		{"fresh", "remove", nil, isRemoved, "-", false},
		{"fresh", "remove, change", tier.ErrRemoved, isRemoved, "-", false},
		{"fresh", "regenerate", nil, freshAlone, "-", false},
		{"fresh", "regenerate, change", nil, exists, "-", true},

		{"stored", "nothing", nil, exists, "a=1", false},
		{"stored", "open", nil, exists, "a=1", false},
		{"stored", "save", nil, exists, "a=1", false},
		{"stored", "change", nil, exists, "a=1 b=2", true},
		{"stored", "add new", nil, exists, "a=1", false},
		{"stored", "add known", nil, exists, "a=1", false},
		{"stored", "add known, change", nil, exists, "a=1 b=2", true},
		{"stored", "settle", nil, exists, "a=1", false},
		{"stored", "remove", nil, isRemoved, "removed", true},
		{"stored", "remove, change", tier.ErrRemoved, isRemoved, "removed", true},
		{"stored", "regenerate", nil, exists, "a=1", false},
		{"stored", "regenerate, save", nil, exists, "removed", true},
		{"stored", "regenerate, change", nil, exists, "removed", true},
		{"stored", "regenerate, remove", nil, isRemoved, "removed", true},

		{"removed", "nothing", nil, isRemoved, "removed", false},
		{"removed", "open", nil, isRemoved, "removed", false},
		{"removed", "save", tier.ErrRemoved, isRemoved, "removed", false},
		{"removed", "close", nil, isRemoved, "removed", false},
		{"removed", "change, close", nil, isRemoved, "removed", false},
		{"removed", "change", tier.ErrRemoved, isRemoved, "removed", false},
		{"removed", "add new", tier.ErrRemoved, isRemoved, "removed", false},
		{"removed", "add known", tier.ErrRemoved, isRemoved, "removed", false},
		{"removed", "settle", nil, isRemoved, "removed", false},
		{"removed", "remove", nil, isRemoved, "removed", false},
		{"removed", "regenerate", tier.ErrRemoved, isRemoved, "removed", false},

		{"removing", "open", nil, isRemoved, "-", false},
		{"removing", "change", tier.ErrRemoved, isRemoved, "-", false},
		{"removing", "add known", tier.ErrRemoved, isRemoved, "-", false},
		{"removing", "remove", nil, isRemoved, "removed", true},
		{"removing", "regenerate", tier.ErrRemoved, isRemoved, "-", false},

		{"removed by another", "close", nil, isRemoved, "removed", false}, // it was told
		{"removed by another", "save", tier.ErrRemoved, isRemoved, "removed", false},
		{"removed by another", "change", tier.ErrRemoved, isRemoved, "removed", false},
		{"removed by another", "add known", tier.ErrRemoved, isRemoved, "removed", false},
		{"removed by another", "remove", nil, isRemoved, "removed", false},

		{"unavailable", "open", nil, unknown, "a=1", false},
		{"unavailable", "save", tier.ErrUnavailable, unknown, "a=1", false},
		{"unavailable", "change", tier.ErrUnavailable, unknown, "a=1", false},
		{"unavailable", "settle", nil, unknown, "a=1", false},
		{"unavailable", "remove", nil, isRemoved, "removed", true},
		{"unavailable", "regenerate", tier.ErrUnavailable, unknown, "a=1", false},

		{"undecodable", "open", nil, unknown, "a=unreadable", false},
		{"undecodable", "change", tier.ErrUndecodable, unknown, "a=unreadable", false},
		{"undecodable", "settle", nil, unknown, "a=unreadable", false},
		{"undecodable", "remove", nil, isRemoved, "removed", true},
		{"undecodable", "regenerate", tier.ErrUndecodable, unknown, "a=unreadable", false},
	} {
		t.Run(test.state+": "+test.operation, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				u := states[test.state](t)
				u.s.forgetCalls()
				operations := map[string]func() error{
					"nothing":    func() error { return nil },
					"open":       u.open,
					"save":       u.save,
					"close":      u.close,
					"change":     func() error { return u.set("b=2").save() },
					"add new":    func() error { return u.copy.Add(true) },
					"add known":  func() error { return u.copy.Add(false) },
					"settle":     func() error { return u.copy.Settle(u.ctx) },
					"remove":     func() error { return u.copy.Remove(u.ctx) },
					"regenerate": func() error { return u.copy.Regenerate(newID) },
				}
				err := u.all(operations, test.operation)
				expectErr(t, test.operation, err, test.err)
				expect(t, "it knows", u.about(), test.about)
				expect(t, "calls", u.s.count("") > 0, test.calls)
				if test.state != "removing" || test.operation == "remove" { // what goes on in the background does so
					expect(t, "the backup has", u.s.kept(id), test.kept)
				}
			})
		})
	}
}

// all runs the operations of a list, and returns the error of the last one.
func (u *user) all(operations map[string]func() error, list string) (err error) {
	u.t.Helper()
	for _, name := range strings.Split(list, ", ") {
		if err != nil && !errors.Is(err, tier.ErrRemoved) {
			u.t.Errorf("before %s: %v", name, err)
		}
		f := operations[name]
		if f == nil {
			u.t.Fatalf("no operation %q", name)
		}
		err = f()
	}
	return err
}

func TestACopyThatWasOpenedIsNotOpenedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.request(t, nil)
		must(t, u.open())
		expect(t, "reads", s.count("cache.get"), 1)
		must(t, s.opened(t).set("a=2").save())
		s.forgetCalls()
		must(t, u.open())
		expect(t, "reads", s.count(""), 0)
		expect(t, "sees", shown(u.attrs), "a=1")
	})
}

func TestASessionThatTheCacheHasUnreadableIsReadFromTheBackup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		u := s.opened(t)
		s.fail("backup")
		expectErr(t, "change", u.set("a=unreadable").save(), tier.ErrNotBackedUp) // in the cache alone
		s.well()
		u = s.request(t, nil)
		expectErr(t, "open", u.open(), errUnreadable)
		expect(t, "it knows", u.about(), "exists, is stored")
		expect(t, "sees", shown(u.attrs), "a=1")
	})
}

func TestWhetherThereIsASessionIsToldAfterEachOutage(t *testing.T) {
	for name, test := range map[string]struct {
		fails []string
		lose  bool
		want  error
		about string
	}{
		"the cache":                 {[]string{"cache"}, false, errDown, "exists, is stored"},
		"the backup":                {[]string{"backup"}, false, nil, "exists, is stored"},
		"the backup, and evicted":   {[]string{"backup"}, true, tier.ErrUnavailable, "error"},
		"both":                      {[]string{"cache", "backup"}, false, tier.ErrUnavailable, "error"},
		"nothing, and evicted":      {nil, true, nil, "exists, is stored"},
		"the cache, and is evicted": {[]string{"cache"}, true, errDown, "exists, is stored"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				if test.lose {
					s.cache.Flush()
				}
				s.fail(test.fails...)
				u := s.request(t, nil)
				expectErr(t, "open", u.open(), test.want)
				expect(t, "it knows", u.about(), test.about)
				s.well()
			})
		})
	}
}

// Copies of one session.

func TestCopiesOfOneSessionAreOpenedEach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		one := s.opened(t)
		must(t, s.opened(t).set("b=1").save())
		two := one.with(one.copy.Again())
		must(t, two.open())
		expect(t, "the other one sees", shown(two.attrs), "a=1 b=1")
		must(t, one.set("c=1").save())
		must(t, two.set("d=1").save())
		s.expectKept(t, id, "a=1 b=1 c=1 d=1")
	})
}

func TestCopiesOfOneSessionKnowThatItIsRemoved(t *testing.T) {
	for name, how := range map[string]func(c *Copy) *Copy{"clone": (*Copy).Clone, "again": (*Copy).Again} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				one := s.opened(t)
				two := one.with(how(one.copy))
				must(t, two.open())
				must(t, one.copy.Remove(one.ctx))
				expect(t, "the other one knows", two.about(), "is removed")
				expectErr(t, "its change", two.set("b=1").save(), tier.ErrRemoved)
				must(t, two.copy.Remove(two.ctx))
				expect(t, "the backup has", s.kept(id), "removed")
			})
		})
	}
}

func TestACopyThatIsToldOfARemovalTellsTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		one := s.opened(t)
		two := one.with(one.copy.Clone())
		must(t, s.opened(t).copy.Remove(one.ctx))
		expectErr(t, "a change", one.set("b=1").save(), tier.ErrRemoved)
		expect(t, "the other one knows", two.about(), "is removed")
		again := one.with(one.copy.Again())
		s.forgetCalls()
		must(t, again.open())
		expect(t, "a third one knows", again.about(), "is removed")
		expect(t, "calls", s.count(""), 0)
	})
}

func TestACopyThatDoesNotFindTheSessionKnowsThatItIsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		one := s.opened(t)
		must(t, s.opened(t).copy.Remove(one.ctx))
		two := one.with(one.copy.Again())
		must(t, two.open())
		expect(t, "it knows", two.about(), "is removed")
		expectErr(t, "a change of the other one", one.set("b=1").save(), tier.ErrRemoved)
	})
}

// Both were there before anybody had saved the session.
func TestASecondCopyOfANewSessionIsMergedIntoIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		one := s.request(t, nil)
		must(t, one.copy.Add(true))
		two := one.with(one.copy.Again())
		must(t, one.set("a=1").save())
		must(t, two.set("b=1").save())
		s.expectKept(t, id, "a=1 b=1")
	})
}

func TestTheSettleOfASessionThatIsGoneIsARemoval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("backup")
		expectErr(t, "change", s.opened(t).set("a=2").save(), tier.ErrNotBackedUp)
		s.well()
		time.Sleep(time.Minute)
		u := s.opened(t)
		must(t, s.backup.Put(u.ctx, id, tier.Record{Expires: time.Now().Add(time.Hour)}))
		must(t, u.copy.Settle(u.ctx)) // that it is removed is no failure
		expect(t, "it knows", u.about(), "is removed")
	})
}

func TestASessionIsSettledOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.cache.Flush()
		u := s.opened(t)
		must(t, u.close())
		if s.count("cache.swap") != 1 {
			t.Error("it was not put into the cache")
		}
		s.cache.Flush()
		s.forgetCalls()
		must(t, u.close())
		must(t, u.copy.Settle(u.ctx))
		expect(t, "calls", s.count(""), 0)
	})
}

func TestASettleThatFailedIsNotTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("backup")
		expectErr(t, "change", s.opened(t).set("a=2").save(), tier.ErrNotBackedUp)
		time.Sleep(time.Minute)
		u := s.opened(t)
		s.forgetCalls()
		expectErr(t, "settle", u.copy.Settle(u.ctx), errDown)
		calls := s.count("")
		must(t, u.copy.Settle(u.ctx))
		must(t, u.close())
		expect(t, "further calls", s.count("")-calls, 0)
	})
}
