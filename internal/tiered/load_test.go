//go:build go1.25

package tiered

import (
	"errors"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestWhatTheCacheHasIsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		l := s.opened(t, "A").l
		expect(t, "session", shown(l.Value()), "a=1")
		expect(t, "from the cache", l.IsCached(), true)
		expect(t, "ends", l.Ends(), time.Now().Add(timeout))
		s.flush()
		l = s.opened(t, "A").l
		expect(t, "session", shown(l.Value()), "a=1")
		expect(t, "from the cache", l.IsCached(), false)
	})
}

func TestASessionIsThereUntilItEnds(t *testing.T) {
	for name, lose := range map[string]func(*services){"cached": func(*services) {}, "evicted": (*services).flush} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				lose(s)
				time.Sleep(timeout - time.Microsecond)
				expect(t, "just before its end", s.request(t, "A").see(), "a=1")
				time.Sleep(time.Microsecond)
				expect(t, "at its end", s.request(t, "A").see(), "-")
			})
		})
	}
}

func TestACacheThatKeepsAnItemTooLongShowsNoSessionPastItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.items[id].ends = s.items[id].ends.Add(time.Hour)
		time.Sleep(timeout)
		expect(t, "at its end", s.request(t, "A").see(), "-")
	})
}

func TestACacheThatFailsIsMadeUpForByTheBackup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("A", "cache")
		r := s.request(t, "A")
		l, err := r.st.Load(r.ctx, id)
		expectErr(t, "load", err, errDown)
		if l == nil || shown(l.Value()) != "a=1" || errors.Is(err, tier.ErrUnavailable) {
			t.Fatalf("got %v, %v; want the session", l, err)
		}
		// Its item may be what is cached.
		r.l = l
		must(t, r.settle())
		expect(t, "adds", s.count("cache.add"), 0)
	})
}

func TestWithoutBothServicesItCannotBeToldWhetherThereIsASession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.fail("A", "cache", "backup")
		r := s.request(t, "A")
		l, err := r.st.Load(r.ctx, id)
		expectErr(t, "load", err, tier.ErrUnavailable)
		expectErr(t, "load", err, errDown)
		if l != nil {
			t.Errorf("got %v", l)
		}
		s.well()
		s.fail("A", "backup")
		s.flush()
		_, err = r.st.Load(r.ctx, id)
		expectErr(t, "load of what was evicted", err, tier.ErrUnavailable)
		_, err = r.st.LoadBackup(r.ctx, id)
		expectErr(t, "load from the backup", err, tier.ErrUnavailable)
	})
}

func TestADamagedItemIsReportedAndReplaced(t *testing.T) {
	for name, damage := range map[string]func(*tier.Item){
		"a byte":        func(it *tier.Item) { it.Value[1] ^= 1 },
		"unknown flags": func(it *tier.Item) { it.Flags = 7 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				damage(&s.items[id].Item)
				r := s.request(t, "A")
				l, err := r.st.Load(r.ctx, id)
				if l == nil || err == nil || errors.Is(err, tier.ErrUnavailable) || shown(l.Value()) != "a=1" {
					t.Fatalf("got %v, %v; want the backup's session and why it was asked", l, err)
				}
				r.l = l
				must(t, r.settle())
				expect(t, "then cached", s.cached(), "a=1")
			})
		})
	}
}

// An instance that runs another version of the app may be able to.
func TestAnItemThatThisInstanceCannotReadIsReportedAndLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.items[id].Value = []byte("!")
		r := s.request(t, "A")
		l, err := r.st.Load(r.ctx, id)
		expectErr(t, "load", err, errUnreadable)
		if l == nil || errors.Is(err, tier.ErrUnavailable) || shown(l.Value()) != "a=1" {
			t.Fatalf("got %v, %v; want the backup's session and why it was asked", l, err)
		}
		r.l = l
		must(t, r.settle())
		expect(t, "then cached", s.cached(), "undecodable")
		s.purge()
		l, err = r.st.Load(r.ctx, id)
		expectErr(t, "load where the backup has none", err, tier.ErrUndecodable)
		r.st.Backup = nil
		_, err = r.st.Load(r.ctx, id)
		expectErr(t, "load without a backup", err, tier.ErrUndecodable)
		if l != nil {
			t.Errorf("got %v", l)
		}
	})
}

func TestADamagedItemWithoutABackupIsNoSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.items[id].Flags = 7
		r := s.request(t, "A")
		r.st.Backup = nil
		if l, err := r.st.Load(r.ctx, id); l != nil || err == nil || errors.Is(err, tier.ErrUnavailable) {
			t.Errorf("got %v, %v; want no session, and why", l, err)
		}
	})
}

func TestADamagedRecordIsNotCachedAndCanBeRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		s.flush()
		s.records[id].Value[0] ^= 1
		r := s.opened(t, "A")
		expect(t, "the bytes as they are", string(r.l.Value()), string(s.records[id].Value))
		expectErr(t, "what speaks against it", r.l.Err(), errDamaged)
		expectErr(t, "what speaks against it", r.l.Err(), tier.ErrUndecodable)
		must(t, r.settle())
		expect(t, "cached", s.cached(), "-")
		must(t, r.remove())
		s.expectRemoved(t)
	})
}

func TestLoadBackupDoesNotAskTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := created(t, "a=1")
		must(t, s.opened(t, "A").update("a=2"))
		r := s.request(t, "B")
		s.forgetCalls()
		l, err := r.st.LoadBackup(r.ctx, id)
		if err != nil || l == nil || shown(l.Value()) != "a=2" || s.count("cache") != 0 {
			t.Errorf("got %v, %v, %v", l, err, s.calls)
		}
		r.st.Backup = nil
		if l, err := r.st.LoadBackup(r.ctx, id); l != nil || err != nil {
			t.Errorf("without a backup: got %v, %v", l, err)
		}
	})
}

// unread fails the test when the bytes of a session are looked into.
type unread struct {
	wordForm
	t *testing.T
}

func (u unread) Inspect(v []byte) (Info, error) {
	u.t.Errorf("%q was looked into", v)
	return u.wordForm.Inspect(v)
}

func (u unread) Merge(into, from []byte, take func(string) bool) ([]byte, error) {
	u.t.Errorf("%q and %q were merged", into, from)
	return u.wordForm.Merge(into, from, take)
}

// What a visitor sends as an id shows no session of another one.
func TestBytesOfAnotherIDAreRefusedBeforeAnybodyLooksIntoThem(t *testing.T) {
	const another = "another"
	for name, legacy := range map[string]bool{"with a record": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := created(t, "a=1")
				s.items[another] = s.items[id]
				if !legacy {
					s.records[another] = s.records[id]
				}
				r := s.request(t, "A")
				r.id, r.st.Form = another, unread{t: t}
				l, err := r.st.Load(r.ctx, another)
				expectErr(t, "load", err, errOtherKey)
				if legacy {
					if l != nil {
						t.Errorf("got %q", l.Value())
					}
					return
				}
				expectErr(t, "what speaks against the record", l.Err(), tier.ErrUndecodable)
				expectErr(t, "what speaks against the record", l.Err(), errOtherKey)
				r.l = l
				must(t, r.settle())
				expectErr(t, "change", r.update("b=1"), errOtherKey)
				expectErr(t, "change", r.updateAsync("b=1"), errOtherKey)
				_, err = r.move("b=1")
				expectErr(t, "move", err, errOtherKey)
				must(t, r.remove())
				s.expectRemovedAs(t, another)
				s.expectKept(t, "a=1")
			})
		})
	}
}
