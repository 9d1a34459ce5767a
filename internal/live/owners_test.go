//go:build go1.25

package live

import (
	"testing"
	"time"
)

// owned is the draft of an app whose sessions have owners: their attribute u.
func (u *user) owned() Draft {
	d := u.draft()
	d.Owner = func(value []byte) (owner, label string, err error) {
		s, err := parse(value)
		owner, _ = s.Attrs["u"].(string)
		return owner, "", err
	}
	d.NewID = func() (string, error) { return "after the login", nil }
	return d
}

func TestALoginBeginsTheLifetimeAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const most = 10 * timeout
		s := newServices()
		limited := func(o *Options) { o.MaxLifetime = most }
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
