package scsstore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/scsstore"
	"github.com/gaesession/gaesession/tier"
)

func TestTheSentinelsAreThoseOfEveryStore(t *testing.T) {
	for ours, theirs := range map[error]error{
		scsstore.ErrRemoved: tier.ErrRemoved, scsstore.ErrUnavailable: tier.ErrUnavailable,
		scsstore.ErrUndecodable: tier.ErrUndecodable, scsstore.ErrNotBackedUp: tier.ErrNotBackedUp,
		scsstore.ErrNotPublished: tier.ErrNotPublished, scsstore.ErrNotSaved: tier.ErrNotSaved,
		scsstore.ErrTooLarge: tier.ErrTooLarge, scsstore.ErrInvalidID: tier.ErrInvalidID,
	} {
		if ours != theirs {
			t.Errorf("got %v, want %v", ours, theirs)
		}
	}
}

func TestASessionThatIsTooLargeIsAnErrorAndLeavesWhatWasSaved(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		v := b.use(func(ctx context.Context) { a.manager.Put(ctx, "big", text(1<<20)) })
		if !errors.Is(v.err, scsstore.ErrTooLarge) || len(v.Response.Cookies()) > 0 {
			t.Errorf("got %v and cookies %v, want ErrTooLarge and none", v.err, v.Response.Cookies())
		}
		b.expect(t, values{"n": 0})
		b.mustChange(t, values{"big": text(500000)})
		b.expect(t, values{"n": 0, "big": text(500000)})
	})
}

// A manifold is made of more types than gobstream takes.
type manifold [][][][][][][][][][][][][][][][][][]int

func init() { gob.Register(manifold{}) }

func TestASessionOfTypesThatCannotBeReadIsTooLarge(t *testing.T) {
	a := newApp(t, gaetest.Local(t), nil)
	b := a.login(t, values{"n": 0})
	if err := b.change(values{"more": manifold{}}); !errors.Is(err, scsstore.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	b.expect(t, values{"n": 0})
}

// Neither what is returned nor what is reported or logged contains a token.
func TestATokenIsInNoErrorAndInNoLog(t *testing.T) {
	for name, report := range map[string]bool{"OnError": true, "the log": false} {
		t.Run(name, func(t *testing.T) {
			log := captureDefaultLog(t)
			a := newApp(t, gaetest.Local(t), nil)
			if !report {
				a.use(scsstore.New(nil, nil, nil))
			}
			b := a.login(t, values{"n": 0})
			token := b.token()
			telling := fmt.Errorf("no such key: scs.%s: %w", token, gaetest.ErrFailed)
			failing := func(match func(gaetest.Call) bool) gaetest.Hook {
				return gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
					if match(c) {
						return telling
					}
					return nil
				}}
			}
			_, err := b.read(failing(gaetest.Memcache)) // Datastore makes up for it
			_, read := b.read(failing(func(gaetest.Call) bool { return true }))
			changed := b.change(values{"n": 1}, failing(func(c gaetest.Call) bool { return c.Index > 1 }))
			kept := b.change(values{"n": 2}, failing(gaetest.Datastore))
			if err != nil || kept != nil {
				t.Errorf("got %v and %v", err, kept)
			}
			if !errors.Is(read, gaetest.ErrFailed) || !errors.Is(changed, gaetest.ErrFailed) {
				t.Errorf("got %v and %v, want the services' error", read, changed)
			}
			b.mustLogout(t)
			drain(t)
			all := fmt.Sprint(read, changed, a.reported, log)
			if strings.Contains(all, token) {
				t.Errorf("the token is in %s", all)
			}
			if report != (len(a.reported) > 1) || report == strings.Contains(log.String(), "level=ERROR") {
				t.Errorf("reported %v, and logged %v", a.reported, log)
			}
		})
	}
}

func TestAPanicOfOnErrorIsLogged(t *testing.T) {
	log := captureDefaultLog(t)
	a := newApp(t, gaetest.Local(t), nil)
	a.use(scsstore.New(nil, nil, &scsstore.Options{OnError: func(context.Context, error) { panic("oh") }}))
	b := a.login(t, values{"n": 0})
	if got, err := b.read(gaetest.Fail(gaetest.Memcache)); err != nil || got["n"] != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	drain(t)
	if !strings.Contains(log.String(), "panic: oh") || !strings.Contains(log.String(), gaetest.ErrFailed.Error()) {
		t.Errorf("logged %v", log)
	}
}

func TestNoGoroutineOutlivesItsRequest(t *testing.T) {
	a := newApp(t, gaetest.Local(t), nil)
	b := a.login(t, values{"n": 0})
	check := gaetest.Goroutines(t)
	b.mustChange(t, values{"n": 1})
	if err := b.change(values{"n": 2}, gaetest.Fail(gaetest.Datastore)); err != nil {
		t.Error(err)
	}
	b.mustLogout(t)
	check()
}

// Goroutines of a request share its session, as scs allows.
func TestGoroutinesOfARequestMayUseItsSession(t *testing.T) {
	a := newApp(t, gaetest.Local(t), nil)
	b := a.login(t, values{"n": 0})
	want := values{"n": 0}
	err := b.use(func(ctx context.Context) {
		var all sync.WaitGroup
		for i := range 8 {
			key := fmt.Sprint(i)
			want[key] = i
			all.Add(1)
			go func() {
				defer all.Done()
				a.manager.Put(ctx, key, i)
				if _, _, err := a.manager.Commit(ctx); err != nil {
					t.Error(err)
				}
			}()
		}
		all.Wait()
	}).err
	if err != nil {
		t.Error(err)
	}
	b.expect(t, want)
}

// A logBuffer may be written to by several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func captureDefaultLog(t testing.TB) *logBuffer {
	t.Helper()
	l := &logBuffer{}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(l, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return l
}
