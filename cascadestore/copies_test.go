package cascadestore_test

import (
	"errors"
	"net/http"
	"runtime"
	"testing"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Several session values of one session in one request.

// onTwoCopies runs f with two values of one session, which come from one request,
// and with another browser that has its cookie.
func onTwoCopies(t *testing.T, f func(t *testing.T, a *app, other *browser, r *http.Request, w http.ResponseWriter, one, two *sessions.Session)) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		b := a.login(t, values{"n": 0})
		other := b.clone()
		b.Visit(func(w http.ResponseWriter, r *http.Request) {
			one, two := again(t, a, r), again(t, a, r)
			if one == two || one.ID != two.ID {
				t.Fatal("not two values of one session")
			}
			f(t, a, other, r, w, one, two)
		})
		drain(t)
	})
}

func TestTwoCopiesOfASessionAreMerged(t *testing.T) {
	onTwoCopies(t, func(t *testing.T, a *app, other *browser, r *http.Request, w http.ResponseWriter, one, two *sessions.Session) {
		one.Values["one"], two.Values["two"] = 1, 2
		for _, s := range []*sessions.Session{one, two, one} {
			if err := s.Save(r, w); err != nil {
				t.Error(err)
			}
		}
		other.expectNow(t, "after both", values{"n": 0, "one": 1, "two": 2})
	})
}

func TestWhatOneCopyRemovesTheOtherDoesNotSave(t *testing.T) {
	onTwoCopies(t, func(t *testing.T, a *app, other *browser, r *http.Request, w http.ResponseWriter, one, two *sessions.Session) {
		one.Options.MaxAge = -1
		if err := one.Save(r, w); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := two.Save(r, w); !errors.Is(err, cascadestore.ErrRemoved) {
				t.Errorf("unchanged: got %v, want ErrRemoved", err)
			}
			two.Values["two"] = 2
		}
		if c := w.Header().Values("Set-Cookie"); len(c) != 1 {
			t.Errorf("got cookies %q, want one, which ends at once", c)
		}
		other.expectNow(t, "after all", nil)
	})
}

func TestWhatOneCopyMovesTheOtherSavesUnderTheNewID(t *testing.T) {
	onTwoCopies(t, func(t *testing.T, a *app, other *browser, r *http.Request, w http.ResponseWriter, one, two *sessions.Session) {
		old := one.ID
		if err := a.store.RegenerateID(r, one); err != nil {
			t.Error(err)
		}
		one.Values["one"] = 1
		if err := one.Save(r, w); err != nil {
			t.Error(err)
		}
		two.Values["two"] = 2
		if err := two.Save(r, w); err != nil {
			t.Error(err)
		}
		if one.ID == old || two.ID != one.ID {
			t.Errorf("ids: is the first a new one: %t; is the second the same: %t", one.ID != old, two.ID == one.ID)
		}
		other.expectNow(t, "by the old id", nil)
		other.setCookie(sign(t, a.store.Codecs[0], sessionName, one.ID))
		other.expectNow(t, "by the new id", values{"n": 0, "one": 1, "two": 2})
	})
}

func TestEverySaveOfARemovedSessionIsErrRemoved(t *testing.T) {
	onEach(t, anyBackend, func(t *testing.T, a *app, backends int) {
		for _, byOthers := range []bool{false, true} {
			b := a.login(t, values{"n": 0})
			other := b.clone()
			v := b.Visit(func(w http.ResponseWriter, r *http.Request) {
				b.with(r, func(s *sessions.Session) error {
					if byOthers {
						other.mustLogout(t)
					} else {
						s.Options.MaxAge = -1
						if err := s.Save(r, w); err != nil {
							t.Error(err)
						}
						w.Header().Del("Set-Cookie")
						s.Options.MaxAge = 60
					}
					s.Values["n"] = 1
					for range 3 {
						if err := s.Save(r, w); !errors.Is(err, cascadestore.ErrRemoved) {
							t.Errorf("by others: %t: got %v, want ErrRemoved", byOthers, err)
						}
					}
					return nil
				})
			})
			if c := v.Response.Cookies(); len(c) > 0 {
				t.Errorf("by others: %t: got cookies %v, want none", byOthers, c)
			}
			other.expect(t, backends, nil)
		}
	})
}

// A WebSocket may look at its session for hours.
func TestALongRequestDoesNotGrow(t *testing.T) {
	a := newApp(t, gaetest.Local(t), cascadestore.AllBackends)
	a.store.SetMaxLength(0)
	b := a.login(t, values{"text": text(4000)})
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	b.Visit(func(w http.ResponseWriter, r *http.Request) {
		look := func(times int) {
			for range times {
				if s := again(t, a, r); s.IsNew {
					t.Fatal("the session is gone")
				}
				if _, err := a.store.New(r, "of-nobody"); err != nil {
					t.Fatal(err)
				}
			}
		}
		look(100)
		before := heap()
		const times = 1500
		look(times)
		if grown := heap() - before; grown > times*500 {
			t.Errorf("%d calls of New keep %d KiB", times, grown>>10)
		}
		runtime.KeepAlive(r)
	})
}
