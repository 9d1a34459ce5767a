package cascadestore_test

import (
	"net/http"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// How many calls to App Engine's services a request makes.
func TestRequestsKeepTheirNumberOfCalls(t *testing.T) {
	type counts struct{ both, memcache, datastore, request, all int }
	requests := []struct {
		name   string
		evict  bool
		browse func(a *app, b *browser) *visit
		want   counts
	}{
		{"no session cookie", false, func(a *app, _ *browser) *visit { return a.newBrowser().get() }, counts{0, 0, 0, 0, 0}},
		{"forged cookie", false, func(a *app, _ *browser) *visit {
			b := a.newBrowser()
			b.setCookie(forgedCookie(sessionName))
			return b.Visit(func(w http.ResponseWriter, r *http.Request) {
				if _, err := a.store.Get(r, sessionName); err == nil {
					a.t.Error("no error for a forged cookie")
				}
			})
		}, counts{0, 0, 0, 0, 0}},
		{"login", false, func(a *app, _ *browser) *visit { return a.newBrowser().save(values{"n": 1}) }, counts{2, 1, 1, 0, 2}},
		{"read", false, func(_ *app, b *browser) *visit { return b.get() }, counts{1, 1, 1, 0, 1}},
		{"read and save unchanged", false, func(_ *app, b *browser) *visit { return b.save(nil) }, counts{1, 1, 1, 0, 1}},
		{"change", false, func(_ *app, b *browser) *visit { return b.save(values{"n": 1}) }, counts{6, 2, 5, 0, 6}},
		{"read, evicted", true, func(_ *app, b *browser) *visit { return b.get() }, counts{6, 1, 1, 0, 6}},
		{"change, evicted", true, func(_ *app, b *browser) *visit { return b.save(values{"n": 1}) }, counts{12, 2, 5, 0, 12}},
		{"removed elsewhere", false, func(a *app, b *browser) *visit {
			b.clone().mustLogout(a.t)
			return b.get()
		}, counts{1, 1, 1, 0, 1}},
		{"unknown id", false, func(a *app, _ *browser) *visit {
			b := a.newBrowser()
			b.setCookie(sign(a.t, a.store.Codecs[0], sessionName, "UNKNOWN"))
			return b.get()
		}, counts{2, 1, 1, 0, 2}},
		{"logout", false, func(_ *app, b *browser) *visit {
			return b.Visit(func(w http.ResponseWriter, r *http.Request) {
				b.with(r, func(s *sessions.Session) error {
					s.Options.MaxAge = -1
					return s.Save(r, w)
				})
			})
		}, counts{4, 2, 2, 0, 4}},
		{"new id at login", false, func(a *app, b *browser) *visit {
			return b.Visit(func(w http.ResponseWriter, r *http.Request) {
				b.with(r, func(s *sessions.Session) error {
					if err := a.store.RegenerateID(r, s); err != nil {
						return err
					}
					return s.Save(r, w)
				})
			})
		}, counts{10, 3, 5, 0, 10}},
		{"New three times", false, func(a *app, b *browser) *visit {
			return b.Visit(func(_ http.ResponseWriter, r *http.Request) {
				for range 3 {
					if _, err := a.store.New(r, sessionName); err != nil {
						a.t.Error(err)
					}
				}
			})
		}, counts{3, 3, 3, 0, 1}},
	}
	choices := []struct {
		name     string
		backends int
		want     func(counts) int
	}{
		{"both", cascadestore.DistributedBackends, func(c counts) int { return c.both }},
		{"Memcache", cascadestore.MemcacheBackend, func(c counts) int { return c.memcache }},
		{"Datastore", cascadestore.DatastoreBackend, func(c counts) int { return c.datastore }},
		{"request", cascadestore.RequestBackend, func(c counts) int { return c.request }},
		{"all", cascadestore.AllBackends, func(c counts) int { return c.all }},
	}
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, choice := range choices {
			for _, req := range requests {
				if req.evict && choice.backends&cascadestore.DatastoreBackend == 0 {
					continue
				}
				t.Run(choice.name+"/"+req.name, func(t *testing.T) {
					a := newApp(t, s, choice.backends)
					b := a.login(t, values{"n": 0})
					if req.evict {
						s.Flush()
					}
					got := req.browse(a, b).Request.Calls()
					if want := choice.want(req.want); len(got) != want {
						t.Errorf("got %d calls, want %d: %v", len(got), want, got)
					}
				})
			}
		}
	})
}

// with gets the session and hands it to f.
func (b *browser) with(r *http.Request, f func(s *sessions.Session) error) {
	s, err := b.app.store.Get(r, sessionName)
	if err == nil {
		err = f(s)
	}
	if err != nil {
		b.app.t.Error(err)
	}
}

// get makes a request that only reads.
func (b *browser) get() *visit {
	return b.Visit(func(_ http.ResponseWriter, r *http.Request) {
		b.with(r, func(*sessions.Session) error { return nil })
	})
}

// save makes a request that changes and saves.
func (b *browser) save(v values) *visit {
	return b.Visit(func(w http.ResponseWriter, r *http.Request) {
		b.with(r, func(s *sessions.Session) error {
			set(s, v)
			return s.Save(r, w)
		})
	})
}
