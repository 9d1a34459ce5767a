package cascadestore_test

import (
	"testing"
	"time"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

// Sessions that the original package has saved go on. What it stores does not
// say when anything was changed: everything that this package saves is later.

// original returns a browser whose session the original package saves with save.
func (a *app) original(t testing.TB, id string, save func() error) *browser {
	t.Helper()
	if err := save(); err != nil {
		t.Fatal(err)
	}
	b := a.newBrowser()
	b.setCookie(sign(t, a.store.Codecs[0], sessionName, id))
	return b
}

func TestSessionsOfTheOriginalGoOn(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		ctx := a.Service.Context()
		for _, evicted := range []bool{false, true} {
			if evicted && backends&cascadestore.DistributedBackends != cascadestore.DistributedBackends {
				continue
			}
			id := map[bool]string{true: "EVICTED", false: "CACHED"}[evicted]
			old := oldlib.Cascade{OnlyMemcache: backends&durable == 0}
			b := a.original(t, id, func() error { return old.Save(ctx, id, values{"n": 0, 1: "one", "gone": true}) })
			if evicted {
				a.Service.Flush()
			}
			b.expectNow(t, "as the original left it", values{"n": 0, 1: "one", "gone": true})
			other := b.clone()
			b.mustChange(t, values{"n": 1, "gone": nil})
			other.mustChange(t, values{"m": 1})
			b.expect(t, backends, values{"n": 1, 1: "one", "m": 1})
			if idIn(t, a, b.cookie()) != id {
				t.Error("the session has another id")
			}
			old2 := b.clone()
			b.mustLogout(t)
			old2.expect(t, backends, nil)
		}
	})
}

func TestSessionsThatTheOriginalKeptInMemcacheAloneGetTheirEntity(t *testing.T) {
	onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
		const id = "MEMCACHE-ALONE"
		b := a.original(t, id, func() error {
			return oldlib.Cascade{OnlyMemcache: true}.Save(a.Service.Context(), id, values{"n": 0, "m": 0})
		})
		b.expectNow(t, "read", values{"n": 0, "m": 0})
		b.mustChange(t, values{"n": 1})
		b.expect(t, backends, values{"n": 1, "m": 0})
	})
}

func TestWhereTheServicesDifferTheEntityOfTheOriginalDecides(t *testing.T) {
	for name, item := range map[string]values{
		"same keys":            {"n": "item", "m": "item"},
		"a key less":           {"n": "item"},
		"another key":          {"n": "item", "m": "item", "x": "item"},
		"other keys":           {"x": "item"},
		"the item has nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, cascadestore.DistributedBackends, func(t *testing.T, a *app, backends int) {
				ctx := a.Service.Context()
				const id = "DIFFERENT"
				b := a.original(t, id, func() error { return oldlib.Cascade{OnlyMemcache: true}.Save(ctx, id, item) })
				putEntity(t, ctx, id, &entity{gobOf(t, values{"n": "entity", "m": "entity"}), time.Now().Add(time.Hour)})
				b.mustChange(t, values{"new": 1})
				b.expect(t, backends, values{"n": "entity", "m": "entity", "new": 1})
			})
		})
	}
}

func TestAnExpiredSessionOfTheOriginalIsNone(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		putEntity(t, s.Context(), "EXPIRED", &entity{gobOf(t, values{"n": 0}), time.Now().Add(-time.Second)})
		b := a.newBrowser()
		b.setCookie(sign(t, a.store.Codecs[0], sessionName, "EXPIRED"))
		b.expectNow(t, "expired", nil)
	})
}

func TestTheOriginalReadsWhatIsSavedHere(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		a := newApp(t, s, cascadestore.DistributedBackends)
		b := a.login(t, values{"n": 0})
		b.mustChange(t, values{"m": 1})
		id := idIn(t, a, b.cookie())
		for _, when := range []string{"Memcache", "Datastore"} {
			got, err := oldlib.Cascade{}.Load(s.Context(), id)
			if err != nil || len(got) != 2 || got["n"] != 0 || got["m"] != 1 {
				t.Errorf("from %s: got %v, %v; want n and m", when, got, err)
			}
			s.Flush()
		}
	})
}
