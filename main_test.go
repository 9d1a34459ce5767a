package gaesession_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

type options = gaesession.MemcacheStoreOptions

// A request is one request of an app: a store, the calls it makes and the
// errors it reports.
type request struct {
	*gaetest.Request
	session.Store
	errs *errorLog
}

// newRequest opens a store for one request on the service.
func newRequest(s *gaetest.Service, o options, hooks ...gaetest.Hook) *request {
	return newRequestContext(s.Context(), s, o, hooks...)
}

func newRequestContext(ctx context.Context, s *gaetest.Service, o options, hooks ...gaetest.Hook) *request {
	r := &request{Request: s.NewRequestContext(ctx, hooks...), errs: &errorLog{}}
	o.OnError = r.errs.add
	// A busy machine may take longer than the default.
	o.CacheTimeout = cmp.Or(o.CacheTimeout, time.Minute)
	o.BackupTimeout = cmp.Or(o.BackupTimeout, time.Minute)
	r.Store = gaesession.NewMemcacheStoreOptions(r.Context(), &o)
	return r
}

// An errorLog is what OnError got.
type errorLog struct {
	mu   sync.Mutex
	errs []error
}

func (l *errorLog) add(_ context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

func (l *errorLog) all() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

func (l *errorLog) list() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.errs)
}

func (l *errorLog) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = nil
}

// login saves a session with these attributes and returns its id.
func login(t testing.TB, s *gaetest.Service, o options, attrs map[string]any) string {
	t.Helper()
	r := newRequest(s, o)
	sess := session.NewSessionOptions(&session.SessOptions{Attrs: attrs})
	r.Add(sess)
	r.Close()
	if err := r.errs.all(); err != nil {
		t.Fatalf("login: %v", err)
	}
	return sess.ID()
}

// change sets attributes of a session in a request of its own; nil deletes.
func change(t testing.TB, s *gaetest.Service, o options, id string, attrs map[string]any) {
	t.Helper()
	r := newRequest(s, o)
	sess := r.Get(id)
	if sess == nil {
		t.Fatalf("no session to change: %v", r.errs.all())
	}
	for name, v := range attrs {
		sess.SetAttr(name, v)
	}
	r.Close()
	if err := r.errs.all(); err != nil {
		t.Fatalf("change: %v", err)
	}
}

// read returns the attributes that a new request sees; nil: no session.
func read(t testing.TB, s *gaetest.Service, o options, id string) map[string]any {
	t.Helper()
	r := newRequest(s, o)
	defer func() {
		r.Close()
		if err := r.errs.all(); err != nil {
			t.Errorf("read: %v", err)
		}
	}()
	sess := r.Get(id)
	if sess == nil {
		return nil
	}
	return sess.Attrs()
}

// logout removes a session in a request of its own.
func logout(t testing.TB, s *gaetest.Service, o options, id string) {
	t.Helper()
	r := newRequest(s, o)
	sess := r.Get(id)
	if sess == nil {
		t.Fatalf("no session to remove: %v", r.errs.all())
	}
	r.Remove(sess)
	r.Close()
	if err := r.errs.all(); err != nil {
		t.Fatalf("logout: %v", err)
	}
}

// drain waits for the background saves. One ends after a minute at the latest.
func drain(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := gaesession.Drain(ctx); err != nil {
		t.Fatalf("drain: %v", err)
	}
}
