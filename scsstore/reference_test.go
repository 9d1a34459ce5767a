package scsstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/scsstore"
)

// The reference for how a store of scs behaves is scs's own memory store: the same
// requests, one after the other, go to it and to a Store, and after each one
// everything that can be seen has to be the same.

// A world is a store and browsers.
type world struct {
	manager  *scs.SessionManager
	wrap     func(next http.Handler) http.Handler
	context  func() context.Context
	browsers [3]string // their tokens
}

// seen is what can be seen of a request.
type seen struct {
	Found   bool
	Values  values
	Errs    []string
	Cookies []seenCookie
}

type seenCookie struct {
	HasValue, IsNew, IsPersistent bool
}

// A step is something that an app does.
type step struct {
	name string
	do   func(m *scs.SessionManager, ctx context.Context, w http.ResponseWriter, other string) error
}

var steps = []step{
	{"put", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		m.Put(ctx, "n", m.GetInt(ctx, "n")+1)
		return nil
	}},
	{"put bytes", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		m.Put(ctx, "bytes", append(m.GetBytes(ctx, "bytes"), 'x'))
		return nil
	}},
	{"pop", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		m.Pop(ctx, "n")
		return nil
	}},
	{"clear", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		return m.Clear(ctx)
	}},
	{"renew", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		return m.RenewToken(ctx)
	}},
	{"destroy", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		return m.Destroy(ctx)
	}},
	{"commit", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		_, _, err := m.Commit(ctx)
		return err
	}},
	{"remember", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		m.RememberMe(ctx, m.GetInt(ctx, "n")%2 == 0)
		return nil
	}},
	{"merge", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, other string) error {
		return m.MergeSession(ctx, other)
	}},
	{"end", func(m *scs.SessionManager, ctx context.Context, _ http.ResponseWriter, _ string) error {
		m.SetDeadline(ctx, time.Now().Add(-time.Minute))
		return nil
	}},
	{"write", func(_ *scs.SessionManager, _ context.Context, w http.ResponseWriter, _ string) error {
		_, err := fmt.Fprint(w, "written")
		return err
	}},
}

// request makes a request in which an app takes these steps.
func (w *world) request(b, other int, taken []step) (s seen) {
	note := func(err error) {
		if err != nil {
			s.Errs = append(s.Errs, err.Error())
		}
	}
	w.manager.ErrorFunc = func(_ http.ResponseWriter, _ *http.Request, err error) { note(err) }
	r := httptest.NewRequestWithContext(w.context(), http.MethodGet, "/", nil)
	r.AddCookie(&http.Cookie{Name: w.manager.Cookie.Name, Value: w.browsers[b]})
	rw := httptest.NewRecorder()
	w.wrap(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		a := &app{manager: w.manager}
		s.Found = w.manager.Token(r.Context()) != ""
		s.Values = a.seen(r.Context())
		for _, st := range taken {
			note(st.do(w.manager, r.Context(), rw, w.browsers[other]))
		}
	})).ServeHTTP(rw, r)
	for _, c := range rw.Result().Cookies() {
		s.Cookies = append(s.Cookies, seenCookie{c.Value != "", c.Value != w.browsers[b], c.MaxAge > 0})
		w.browsers[b] = c.Value
	}
	return s
}

func TestAStoreBehavesAsTheMemoryStoreOfSCSDoes(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, plain := range []bool{false, true} {
			for seed := range uint64(8) {
				random := rand.New(rand.NewPCG(seed, 0))
				theirs, ours := *newManager, *newManager
				store := scsstore.New(nil, nil, nil)
				ours.Store, theirs.Store = store, memstore.NewWithCleanupInterval(0)
				for _, m := range []*scs.SessionManager{&theirs, &ours} {
					m.Cookie.Persist = seed%2 == 0
					m.HashTokenInStore = seed%4 < 2
					if seed%3 == 0 {
						m.IdleTimeout = time.Hour
					}
				}
				reference := &world{manager: &theirs, wrap: theirs.LoadAndSave, context: context.Background}
				tested := &world{manager: &ours, wrap: ours.LoadAndSave, context: func() context.Context { return s.NewRequest().Context() }}
				if !plain {
					tested.wrap = func(next http.Handler) http.Handler { return store.Handler(&ours, next) }
				}
				var did []string
				for range 40 {
					b, other := random.IntN(3), random.IntN(3)
					var taken []step
					what := fmt.Sprint("browser ", b, ":")
					for range random.IntN(4) {
						st := steps[random.IntN(len(steps))]
						taken = append(taken, st)
						what += " " + st.name
					}
					did = append(did, what)
					want, got := reference.request(b, other, taken), tested.request(b, other, taken)
					if !reflect.DeepEqual(got, want) {
						t.Fatalf("seed %d, plain %v: after %q: got\n%+v\nwant\n%+v", seed, plain, did, got, want)
					}
				}
			}
		}
	})
}
