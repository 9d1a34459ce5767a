//go:build go1.25

package tiered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Owners.

var alice, bob = OwnerOf("sessid", "alice"), OwnerOf("sessid", "bob")

// owned is a change that says whose the session is.
func (r *request) owned(o Owner, edits string) *Change {
	c := r.change(edits)
	c.Owner = &Ownership{Owner: o, Label: "of " + r.who()}
	return c
}

func (r *request) who() string {
	who, _ := r.ctx.Value(whoKey{}).(string)
	return who
}

// login gives the session that the request has loaded an owner, or creates one.
func (r *request) login(o Owner, edits string) error {
	from, l := r.id, r.l
	if l == nil {
		from, l = "", Unknown()
	}
	if r.m == nil {
		r.m = r.st.NewMove(from, r.to(), l)
	}
	moved, err := r.m.Run(r.ctx, l, r.owned(o, edits))
	if moved != nil {
		r.l, r.id, r.m = moved.Loaded, r.m.To(), nil
	}
	return err
}

func (r *request) end(o Owner) error {
	return r.st.End(r.ctx, o, func(Owned) bool { return true })
}

// index is what an owner's index has: of each session the id, behind it a ! if it
// is ending.
func (s *services) index(t *testing.T, o Owner) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := openIndex(s.records[o.id()])
	must(t, err)
	all := make([]string, len(x))
	for i, l := range x {
		if all[i] = l.id; l.ending {
			all[i] += "!"
		}
	}
	return strings.Join(all, " ")
}

// loggedIn is alice's session of a request A.
func loggedIn(t *testing.T) (*services, *request) {
	t.Helper()
	s := newServices()
	r := s.request(t, "A")
	must(t, r.login(alice, "u=alice"))
	s.forgetCalls()
	return s, r
}

// as is another request that has loaded the session of r.
func (r *request) as(who string) *request {
	r.t.Helper()
	n := r.s.request(r.t, who)
	n.id = r.id
	return n.load()
}

func TestALoginIsListedInTheSameUpdate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		r := s.request(t, "A")
		must(t, r.login(alice, "u=alice"))
		expect(t, "listed", s.index(t, alice), "of-A")
		want := []string{"cache.add", "cache.get", "backup.begin", "backup.txget", "backup.txput", "backup.commit", "cache.swap"}
		for _, op := range want {
			expect(t, op, s.count(op), 1)
		}
		expect(t, "calls", s.count(""), len(want))
		s.expectKeptAs(t, "of-A", "u=alice")
	})
}

func TestALoginToASessionMovesItAndListsIt(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "a=1")
		r := s.opened(t, "A")
		born := r.l.Born()
		time.Sleep(time.Minute)
		must(t, r.login(alice, "u=alice"))
		expect(t, "listed", s.index(t, alice), "of-A")
		expect(t, "it begins again", r.l.Born().After(born), true)
		expect(t, "owner", r.l.Owner(), alice)
		s.expectMoved(t, r, "a=1 u=alice")
	})
}

func TestAnotherOwnerMeansAnotherID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		b := a.as("B")
		must(t, b.login(bob, "u=bob"))
		expect(t, "bob's", s.index(t, bob), "of-B")
		expect(t, "alice's", s.index(t, alice), "of-A!")
		must(t, s.request(t, "C").end(alice))
		expect(t, "bob's session", b.see(), "u=bob")
		expect(t, "alice's", s.index(t, alice), "")
		c := b.as("C")
		must(t, c.login(Owner{}, "-u"))
		expect(t, "nobody's session", c.see(), "")
		must(t, s.request(t, "D").end(bob))
		expect(t, "nobody's session", c.see(), "")
	})
}

func TestANewIDStaysTheOwners(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		born := a.l.Born()
		b := a.as("B")
		_, err := b.move("a=1") // by an instance that does not know the option
		must(t, err)
		expect(t, "listed", s.index(t, alice), "of-A! of-B")
		expect(t, "it began", b.l.Born(), born)
		must(t, s.request(t, "C").end(alice))
		s.expectRemovedAs(t, "of-B")
		s.expectRemovedAs(t, "of-A")
	})
}

func TestTheNextLoginForgetsASessionThatHasMoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		_, err := a.as("B").move("")
		must(t, err)
		must(t, s.request(t, "C").login(alice, ""))
		drain(t)
		expect(t, "listed", s.index(t, alice), "of-B of-C")
	})
}

func TestAllSessionsOfAnOwnerEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		b, c := s.request(t, "B"), s.request(t, "C")
		must(t, b.login(alice, "u=alice"))
		must(t, c.login(bob, "u=bob"))
		flying := a.as("D")
		must(t, s.request(t, "E").end(alice))
		expectErr(t, "a change in flight", flying.update("x=1"), tier.ErrRemoved)
		expectErr(t, "an asynchronous one", b.updateAsync("x=1"), tier.ErrRemoved)
		expect(t, "listed", s.index(t, alice), "")
		s.expectRemovedAs(t, "of-A")
		s.expectRemovedAs(t, "of-B")
		s.expectKeptAs(t, "of-C", "u=bob")
		must(t, s.request(t, "F").end(alice)) // there are none
	})
}

func TestSomeSessionsOfAnOwnerEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := loggedIn(t)
		must(t, s.request(t, "B").login(alice, "u=alice"))
		must(t, s.request(t, "C").st.End(context.Background(), alice, func(l Owned) bool { return l.Key == "of-A" }))
		s.expectRemovedAs(t, "of-A")
		s.expectKeptAs(t, "of-B", "u=alice")
		expect(t, "listed", s.index(t, alice), "of-B")
	})
}

// The mover has loaded the session before, and commits after.
func TestASessionThatIsEndingDoesNotMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		b, c := a.as("B"), a.as("C")
		release, mark := s.hold("E", "backup.put", false), s.hold("E", "cache.set", false)
		ended := started(func() error { return s.request(t, "E").end(alice) })
		expect(t, "listed", s.index(t, alice), "of-A!")
		_, err := b.move("x=1")
		expectErr(t, "move", err, tier.ErrRemoved)
		expectErr(t, "login", c.login(bob, "u=bob"), tier.ErrRemoved)
		release()
		mark()
		must(t, ended())
		s.expectRemovedAs(t, "of-A")
		expect(t, "moved", s.backedUpAs("of-B")+s.backedUpAs("of-C"), "--")
		expect(t, "listed", s.index(t, alice), "")
	})
}

// A mover has committed, and is late with the marker for the old id.
func TestTheOldIDOfASessionThatMovesEndsAsWell(t *testing.T) {
	for name, login := range map[string]bool{"at once": false, "though the owner has logged in again": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, a := loggedIn(t)
				b := a.as("B")
				release := s.hold("B", "cache.set", false)
				moved := started(func() error { _, err := b.move("x=1"); return err })
				if login {
					must(t, s.request(t, "C").login(alice, ""))
					synctest.Wait()
				}
				must(t, s.request(t, "E").end(alice))
				expect(t, "under the old id", s.request(t, "F").seeAs("of-A"), "-")
				expect(t, "under the new id", s.request(t, "F").seeAs("of-B"), "-")
				release()
				must(t, moved())
			})
		})
	}
}

func (r *request) seeAs(id string) string {
	r.t.Helper()
	r.id = id
	return r.see()
}

func TestWhoDiesWhileSessionsEndIsRepeatedByTheNext(t *testing.T) {
	for _, op := range []string{"backup.begin", "backup.commit", "backup.put", "cache.set"} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprint(op, done), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s, _ := loggedIn(t)
					must(t, s.request(t, "B").login(alice, ""))
					s.die("E", op, done)
					_ = s.request(t, "E").end(alice)
					must(t, s.request(t, "F").end(alice))
					s.expectRemovedAs(t, "of-A")
					s.expectRemovedAs(t, "of-B")
				})
			})
		}
	}
}

// endedByADeadRequest is alice's session, which is ending, though whoever was to
// remove it has died.
func endedByADeadRequest(t *testing.T) (*services, *request) {
	t.Helper()
	s, a := loggedIn(t)
	s.die("E", "backup.commit", true)
	_ = s.request(t, "E").end(alice)
	s.well()
	expect(t, "listed", s.index(t, alice), "of-A!")
	expect(t, "it lives", a.as("F").see(), "u=alice")
	return s, a
}

func TestAListingRemovesWhatADeadRequestWasToEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := endedByADeadRequest(t)
		must(t, s.request(t, "B").login(bob, "u=bob"))
		all, err := s.request(t, "B").st.Owned(context.Background(), alice)
		must(t, err)
		expect(t, "sessions", len(all), 0)
		drain(t)
		s.expectRemovedAs(t, "of-A")
		expect(t, "listed", s.index(t, alice), "")
		s.expectKeptAs(t, "of-B", "u=bob")
	})
}

func TestASessionThatIsRefusedANewIDSinceItIsEndingIsRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := endedByADeadRequest(t)
		_, err := a.as("B").move("x=1")
		expectErr(t, "move", err, tier.ErrRemoved)
		s.expectRemovedAs(t, "of-A")
		expect(t, "moved", s.backedUpAs("of-B"), "-")
	})
}

// An app that asks for tier.ErrNotPublished first would take both together for a
// change that is saved.
func TestARefusalThatCannotRemoveTheSessionReportsThatOnItsOwn(t *testing.T) {
	for op, want := range map[string]error{"backup.put": tier.ErrNotBackedUp, "cache.set": tier.ErrNotPublished} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, a := endedByADeadRequest(t)
				b := a.as("B")
				s.fail("B", op)
				_, err := b.move("x=1")
				expectErr(t, "move", err, tier.ErrRemoved)
				if errors.Is(err, want) || len(s.reports) != 1 || !errors.Is(s.reports[0], want) {
					t.Errorf("move: got %v, and reported was %v, want %v reported", err, s.reports, want)
				}
				s.well()
				time.Sleep(time.Minute)
				s.expectRemovedAs(t, "of-A") // by the background
			})
		})
	}
}

func TestAnEndThatFailsSaysSoAndMayBeRepeated(t *testing.T) {
	for op, want := range map[string]error{"backup.txget": tier.ErrNotSaved, "backup.put": tier.ErrNotBackedUp, "cache.set": tier.ErrNotPublished} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, _ := loggedIn(t)
				s.fail("E", op)
				err := s.request(t, "E").end(alice)
				expectErr(t, "end", err, want)
				if strings.Contains(err.Error(), "of-A") {
					t.Errorf("the error names a session: %v", err)
				}
				expect(t, "listed", s.index(t, alice) != "", true)
				s.well()
				must(t, s.request(t, "F").end(alice))
				s.expectRemovedAs(t, "of-A")
				expect(t, "listed", s.index(t, alice), "")
			})
		})
	}
}

func TestALoginThatTheBackupFailsIsNotSaved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("", "backup")
		s.hook(func(c step) error {
			if c.id == "" {
				t.Errorf("%s of a session without an id", c.op)
			}
			return nil
		})
		expectErr(t, "a new session", s.request(t, "A").login(alice, "u=alice"), tier.ErrNotSaved)
		b := s.request(t, "B")
		b.load()
		expectErr(t, "a session that was nobody's", b.login(alice, "u=alice"), tier.ErrNotSaved)
		expect(t, "cached under the old id", s.request(t, "C").see(), "a=1")
		s.well()
		must(t, b.login(alice, "u=alice"))
		s.expectMoved(t, b, "a=1 u=alice")
	})
}

func TestALoginWhoseAnswerIsLost(t *testing.T) {
	for name, known := range map[string]bool{"is recognised": true, "and nobody asks, is removed": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServices()
				r := s.request(t, "A")
				r.st.Retries = 1
				s.at("A", "backup.commit", true, func() error {
					if !known {
						s.fail("A", "backup")
					}
					return errLost
				})
				err := r.login(alice, "u=alice")
				if known {
					must(t, err)
					s.expectKeptAs(t, "of-A", "u=alice")
					return
				}
				expectErr(t, "login", err, tier.ErrNotSaved)
				s.well()
				time.Sleep(watchAfter)
				synctest.Wait()
				s.expectRemovedAs(t, "of-A")
			})
		})
	}
}

func TestASessionThatLivesLongerIsListedForLonger(t *testing.T) {
	for _, kind := range []string{"synchronously", "asynchronously", "without the option", "without a cache"} {
		t.Run(kind, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, a := loggedIn(t)
				updates, until := 0, s.until(t, alice, "of-A")
				for n := range 20 {
					r := a.as(fmt.Sprint("R", n))
					if kind == "without a cache" {
						r.st.Cache = nil
						r.load()
					}
					time.Sleep(timeout / 2)
					c := r.owned(alice, "")
					if kind == "without the option" {
						c.Owner = nil
					}
					save := r.st.Update
					if kind == "asynchronously" {
						save = r.st.UpdateAsync
					}
					_, err := save(r.ctx, r.id, r.l, c)
					must(t, err)
					drain(t)
					if now := s.until(t, alice, "of-A"); now != until {
						updates, until = updates+1, now
					}
					if until < microsOf(s.records["of-A"].Expires) {
						t.Fatal("it lives longer than it is listed")
					}
				}
				if updates < 5 || updates > 10 {
					t.Errorf("the index was changed %d times", updates)
				}
				s.expectKeptAs(t, "of-A", "u=alice")
			})
		})
	}
}

func (s *services) until(t *testing.T, o Owner, id string) micros {
	t.Helper()
	x, err := openIndex(s.records[o.id()])
	must(t, err)
	l := x.find(id)
	if l == nil {
		t.Fatal("it is not listed")
	}
	return l.until
}

func TestASessionOfBeforeTheOptionIsListedWhenItIsSaved(t *testing.T) {
	onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
		s := created(t, "u=alice")
		r := s.opened(t, "A")
		_, err := r.st.Update(r.ctx, r.id, r.l, r.owned(alice, "a=1"))
		must(t, err)
		expect(t, "listed", s.index(t, alice), id)
		must(t, s.request(t, "B").end(alice))
		s.expectRemoved(t)
	})
}

func TestALogoutIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		must(t, a.as("B").remove())
		drain(t)
		expect(t, "listed", s.index(t, alice), "")
		s.expectRemovedAs(t, "of-A")
	})
}

func TestASessionThatMustHaveEndedIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := loggedIn(t)
		time.Sleep(2*timeout + indexGrace + time.Minute)
		must(t, s.request(t, "B").login(alice, ""))
		drain(t)
		expect(t, "listed while there is a record", s.index(t, alice), "of-A of-B")
		s.mu.Lock()
		delete(s.records, "of-A") // purged
		s.mu.Unlock()
		must(t, s.request(t, "C").login(alice, ""))
		drain(t)
		expect(t, "listed", s.index(t, alice), "of-B of-C")
	})
}

func TestTheOldestOfTooManySessionsEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		for _, who := range []string{"A", "B", "C", "D"} {
			r := s.request(t, who)
			r.st.MaxPerOwner = 2
			must(t, r.login(alice, "u=alice"))
			drain(t)
		}
		expect(t, "listed", s.index(t, alice), "of-C of-D")
		s.expectRemovedAs(t, "of-A")
		s.expectRemovedAs(t, "of-B")
		s.expectKeptAs(t, "of-C", "u=alice")
		s.expectKeptAs(t, "of-D", "u=alice")
	})
}

func TestOfTooManySessionsThoseThatDoNotLiveEndFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		for _, who := range []string{"B", "C", "D"} {
			for range 3 { // A is used, and what has begun meanwhile is not
				time.Sleep(timeout / 2)
				r := a.as("R")
				_, err := r.st.Update(r.ctx, r.id, r.l, r.owned(alice, ""))
				must(t, err)
			}
			r := s.request(t, who)
			r.st.MaxPerOwner = 2
			must(t, r.login(alice, "u=alice"))
			drain(t)
		}
		expect(t, "listed", s.index(t, alice), "of-A of-D")
		s.expectKeptAs(t, "of-A", "u=alice")
		s.expectKeptAs(t, "of-D", "u=alice")
	})
}

func TestANewIDIsNoOtherSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		for _, who := range []string{"A", "B"} {
			r := s.request(t, who)
			must(t, r.login(alice, "u=alice"))
			drain(t)
		}
		r := s.request(t, "C")
		r.st.MaxPerOwner = 2
		r.id = "of-B"
		_, err := r.load().move("")
		must(t, err)
		drain(t)
		expect(t, "listed", s.index(t, alice), "of-A of-B! of-C")
		s.expectKeptAs(t, "of-A", "u=alice")
		s.expectKeptAs(t, "of-C", "u=alice")
	})
}

func TestWhoseSessionsLive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		time.Sleep(time.Minute)
		must(t, s.request(t, "B").login(alice, ""))
		must(t, s.request(t, "C").login(alice, ""))
		_, err := a.as("D").move("")
		must(t, err)
		s.mu.Lock()
		s.records["of-C"] = &tier.Record{Expires: time.Now().Add(time.Hour)} // logged out, and the process died
		s.mu.Unlock()
		s.flush()
		all, err := s.request(t, "E").st.Owned(context.Background(), alice)
		must(t, err)
		var got []string
		for _, o := range all {
			got = append(got, o.Key+" "+o.Label)
		}
		expect(t, "living", strings.Join(got, ", "), "of-B of B, of-D of A")
		s.fail("E", "backup")
		_, err = s.request(t, "E").st.Owned(context.WithValue(context.Background(), whoKey{}, "E"), alice)
		expectErr(t, "with the backup down", err, tier.ErrUnavailable)
	})
}

func TestADamagedIndexIsAnError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := loggedIn(t)
		was := s.records[alice.id()].Value
		for n := range was {
			b := slices.Clone(was)
			b[n] ^= 1
			if _, err := openIndex(&tier.Record{Value: b}); !errors.Is(err, tier.ErrUndecodable) {
				t.Errorf("byte %d: got %v", n, err)
			}
			if _, err := openIndex(&tier.Record{Value: was[:n]}); n > 0 && !errors.Is(err, tier.ErrUndecodable) {
				t.Errorf("%d bytes: got %v", n, err)
			}
		}
		s.records[alice.id()].Value = []byte("damaged")
		expectErr(t, "login", s.request(t, "B").login(alice, ""), tier.ErrUndecodable)
		expectErr(t, "end", s.request(t, "B").end(alice), tier.ErrUndecodable)
	})
}

func TestAnIndexThatDoesNotFitLosesLabelsFirst(t *testing.T) {
	s := &Store{Options: Options{Backup: smallBackup{}}}
	var x index
	for n := range 20 {
		x = append(x, listing{id: fmt.Sprint("session", n), until: microsOf(time.Now()), label: strings.Repeat("x", 100)})
	}
	r, err := s.indexRecord(alice, x)
	must(t, err)
	back, err := openIndex(r)
	must(t, err)
	if len(r.Value) > 1000 || back[0].label != "" || back[19].label == "" {
		t.Errorf("%d bytes: %+v", len(r.Value), back)
	}
	_, err = s.indexRecord(alice, append(x, make(index, 50)...))
	expectErr(t, "too many", err, tier.ErrTooLarge)
}

type smallBackup struct{ tier.Backup }

func (smallBackup) MaxValue(string) int { return 1000 }

func TestALabelIsCutBetweenCharacters(t *testing.T) {
	expect(t, "label", cut(strings.Repeat("x", 99)+"äöü"), strings.Repeat("x", 99))
	expect(t, "label", cut("short"), "short")
}

func TestANewIDIsTheSameLogin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, a := loggedIn(t)
		since := time.Now()
		time.Sleep(time.Minute)
		must(t, s.request(t, "B").login(alice, ""))
		_, err := a.as("C").move("") // by an instance that does not know the option
		must(t, err)
		a.id = "of-C"
		d := a.as("D")
		must(t, d.login(alice, "u=alice"))
		all, err := s.request(t, "E").st.Owned(context.Background(), alice)
		must(t, err)
		if len(all) != 2 || all[1] != (Owned{"of-D", refOf("of-A").String(), since, "of A"}) {
			t.Errorf("got %+v, want of-D, since %v", all, since)
		}
	})
}
