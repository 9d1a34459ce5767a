package gae_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
)

const (
	calls          = 90 // at most at once
	datastoreCalls = 60
)

// held is a service whose calls wait until they are let go, or their context ends.
type held struct {
	context.Context
	arrived chan struct{}
	one     chan struct{} // lets one call go
	all     chan struct{} // closed: lets all of them go
	calling sync.WaitGroup
	release func()
}

func hold(t *testing.T) *held {
	h := &held{arrived: make(chan struct{}, 1000), one: make(chan struct{}), all: make(chan struct{})}
	h.Context = appengine.WithAPICallFunc(gaetest.Local(t).Context(), func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		h.arrived <- struct{}{}
		select {
		case <-h.one:
		case <-h.all:
		case <-ctx.Done():
			return ctx.Err()
		}
		return appengine.APICall(ctx, service, method, in, out)
	})
	h.release = sync.OnceFunc(func() {
		close(h.all)
		h.calling.Wait()
	})
	t.Cleanup(h.release)
	return h
}

// start makes n calls, and returns when all of them are under way.
func (h *held) start(t *testing.T, n int, call func(context.Context) error) {
	for range n {
		h.calling.Add(1)
		go func() {
			defer h.calling.Done()
			if err := call(h); err != nil {
				t.Error(err)
			}
		}()
	}
	for range n {
		select {
		case <-h.arrived:
		case <-time.After(10 * time.Second):
			t.Fatal("a call waits, although there is a place for it")
		}
	}
}

func get(ctx context.Context) error   { _, err := gae.Memcache{}.Get(ctx, "id"); return err }
func load(ctx context.Context) error  { _, err := backup.Get(ctx, "id"); return err }
func write(ctx context.Context) error { return backup.Put(ctx, "id", tier.Record{Expires: time.Now()}) }

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// under returns a context with the end of ctx and the services of h.
func (h *held) under(ctx context.Context) context.Context { return joined{ctx, h.Context} }

// joined has the end of one context and the values of another.
type joined struct {
	context.Context
	values context.Context
}

func (j joined) Value(key any) any { return j.values.Value(key) }

// A call with a context that has ended does not wait: it finds a place, and the
// service is asked, or it finds none.
func TestNoMoreThan90CallsAreUnderWay(t *testing.T) {
	m := gae.Memcache{}
	operations := map[string]func(context.Context) error{
		"get":  get,
		"set":  func(ctx context.Context) error { return m.Set(ctx, "id", tier.Item{}, time.Hour) },
		"add":  func(ctx context.Context) error { _, err := m.Add(ctx, "id", tier.Item{}, time.Hour); return err },
		"load": load, "write": write,
		"update": func(ctx context.Context) error {
			return backup.Update(ctx, []string{"id"}, nil, replacing(&tier.Record{}))
		},
	}
	h := hold(t)
	h.start(t, calls-1, get)
	if err := get(ended()); !errors.Is(err, context.Canceled) || errors.Is(err, tier.ErrBusy) {
		t.Errorf("the last place: got %v, want it to be free", err)
	}
	h.start(t, 1, get)
	for name, call := range operations {
		err := call(h.under(ended()))
		if !errors.Is(err, tier.ErrBusy) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s, while %d calls are under way: got %v, want ErrBusy and the context's error", name, calls, err)
		}
		if name == "update" && !errors.Is(err, tier.ErrNotWritten) {
			t.Errorf("got %v, want ErrNotWritten", err)
		}
	}
	if n := len(h.arrived); n > 0 {
		t.Errorf("%d calls were made", n)
	}
	h.release()
	for name, call := range operations {
		if err := call(gaetest.Local(t).Context()); err != nil {
			t.Errorf("%s, after the calls: %v", name, err)
		}
	}
}

func TestDatastoreLeavesPlacesToMemcache(t *testing.T) {
	h := hold(t)
	h.start(t, datastoreCalls-1, load)
	h.start(t, 1, func(ctx context.Context) error {
		return backup.Update(ctx, []string{"id"}, nil, replacing(&tier.Record{Expires: time.Now()}))
	})
	for name, call := range map[string]func(context.Context) error{"load": load, "write": write} {
		if err := call(h.under(ended())); !errors.Is(err, tier.ErrBusy) {
			t.Errorf("%s, while Datastore's calls are under way: got %v, want ErrBusy", name, err)
		}
	}
	h.start(t, calls-datastoreCalls, get)
	if err := get(h.under(ended())); !errors.Is(err, tier.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
}

func TestWaitingForAPlaceEndsWithTheDeadlineOrAPlace(t *testing.T) {
	h := hold(t)
	h.start(t, calls, get)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err := get(h.under(ctx))
	if !errors.Is(err, tier.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want ErrBusy and the end of the deadline", err)
	}
	if !strings.Contains(fmt.Sprint(err), "too many calls are under way") {
		t.Errorf("the text %q does not say what it waited for", err)
	}
	waiting := make(chan error)
	go func() { waiting <- get(gaetest.Local(t).Context()) }()
	h.one <- struct{}{}
	if err := <-waiting; err != nil {
		t.Errorf("a place was free, and the call that waited got %v", err)
	}
}

// Transactions that take two places each must not wait for one another's.
func TestManyTransactionsAtOnceEnd(t *testing.T) {
	ctx := gaetest.Local(t).Context()
	const n = 3 * datastoreCalls
	begun := make(chan struct{}, n)
	all := make(chan struct{})
	ctx = appengine.WithAPICallFunc(ctx, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		if err := appengine.APICall(ctx, service, method, in, out); err != nil || method != "BeginTransaction" {
			return err
		}
		begun <- struct{}{}
		return nil
	})
	var updates sync.WaitGroup
	for i := range n {
		updates.Add(1)
		go func() {
			defer updates.Done()
			err := backup.Update(ctx, []string{fmt.Sprint("id", i)}, &tier.Guess{Token: []byte("wrong"), Next: &tier.Record{Expires: time.Now()}}, func([]*tier.Record) ([]*tier.Record, error) {
				<-all // that there are places for have begun
				return []*tier.Record{{Expires: time.Now()}}, nil
			})
			if err != nil {
				t.Error(err)
			}
		}()
	}
	for range datastoreCalls / 2 {
		<-begun
	}
	close(all)
	updates.Wait()
}

// The test has a process of its own, since connections to other servers count.
func TestCallsLeaveNoGoroutines(t *testing.T) {
	const env = "GAE_COUNT_GOROUTINES"
	if os.Getenv(env) == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestCallsLeaveNoGoroutines$")
		child.Env = append(os.Environ(), env+"=yes")
		if out, err := child.CombinedOutput(); err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	const clients, each = 130, 20
	ctx := gaetest.Local(t).Context()
	var all sync.WaitGroup
	for range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for range each {
				if err := get(ctx); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	all.Wait()
	stacks := make([]byte, 64<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	// A few remain of the time until there were enough connections. Without a
	// limit nearly every call leaves one.
	if n := strings.Count(string(stacks), "internal.limitDial"); n > 300 {
		t.Errorf("%d goroutines wait for a connection, for %d calls that have all ended", n, clients*each)
	}
}
