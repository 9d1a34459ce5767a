//go:build go1.25

package live

import (
	"testing"
	"time"
)

// owned is the draft of an app whose sessions have owners: their attribute u.
func (u *user) owned() Draft {
	d := u.draft()
	d.Owner = func(value []byte) (string, error) {
		s, err := parse(value)
		owner, _ := s.Attrs["u"].(string)
		return owner, err
	}
	d.NewID = func() (string, error) { return "after the login", nil }
	return d
}

func TestALoginBeginsTheLifetimeAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const most = 10 * timeout
		s := newServices()
		limited := func(o *options) { o.MaxLifetime = most }
		u := s.request(t, limited)
		u.copy = u.store.Fresh(id)
		u.born, u.idle = time.Now(), 2*most
		must(t, u.set("a=1").copy.Save(u.ctx, u.owned()))
		time.Sleep(most - time.Second)
		u = s.request(t, limited)
		u.idle = 2 * most
		must(t, u.open())
		must(t, u.set("u=ada").copy.Save(u.ctx, u.owned()))
		time.Sleep(time.Minute)
		expect(t, "a minute after the login", s.seen(t, "after the login"), "a=1 u=ada")
	})
}

func TestTheLabelIsAskedWhereTheListOfTheOwnersSessionsIsToBeChanged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServices()
		u := s.request(t, nil)
		u.copy = u.store.Fresh(id)
		saves := func(edit string, want int) {
			t.Helper()
			asked := 0
			d := u.owned()
			d.Label = func([]byte) (string, error) { asked++; return "", nil }
			must(t, u.set(edit).copy.Save(u.ctx, d))
			expect(t, "asked after "+edit, asked, want)
		}
		saves("a=1", 0) // nobody's
		saves("u=ada", 1)
		saves("a=2", 0)
		must(t, u.copy.Regenerate("another id"))
		saves("a=3", 1)
		saves("a=4", 0)
		load := func() {
			u = s.request(t, nil)
			u.copy = u.store.Copy("another id")
			must(t, u.open())
		}
		load()
		saves("a=5", 0)
		time.Sleep(timeout)
		saves("a=6", 0)
		time.Sleep(timeout)
		saves("a=7", 1) // it would live for longer than is listed
		load()
		saves("a=8", 0)
	})
}
