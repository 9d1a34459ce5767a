package gaelocal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/gaelocal"
)

type keptEntity struct {
	Exp time.Time `datastore:"exp"`
	Val []byte    `datastore:"val,noindex"`
}

func TestHooksSeeEveryCall(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	note := func(when string) func(context.Context, gaelocal.Call) error {
		return func(_ context.Context, c gaelocal.Call) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %s.%s %q %v %s", when, c.Service, c.Method, c.Namespace, c.InTransaction, c.Ticket))
			return nil
		}
	}
	startLocal(t, gaelocal.Options{Hooks: gaelocal.Hooks{Before: note("before"), After: note("after")}})
	ctx, err := appengine.Namespace(requestContext("ticket"), "space")
	noError(t, err)
	noError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}))
	key := datastore.NewKey(ctx, "K", "n", 0, nil)
	noError(t, datastore.RunInTransaction(ctx, func(tx context.Context) error {
		_, err := datastore.Put(tx, key, &keptEntity{})
		return err
	}, nil))
	noError(t, datastore.Get(ctx, key, &keptEntity{}))
	want := []string{
		`before memcache.Set "space" false ticket`,
		`after memcache.Set "space" false ticket`,
		`before datastore_v3.BeginTransaction "" false ticket`,
		`after datastore_v3.BeginTransaction "" false ticket`,
		`before datastore_v3.Put "space" true ticket`,
		`after datastore_v3.Put "space" true ticket`,
		`before datastore_v3.Commit "" true ticket`,
		`after datastore_v3.Commit "" true ticket`,
		`before datastore_v3.Get "space" false ticket`,
		`after datastore_v3.Get "space" false ticket`,
	}
	if got := strings.Join(seen, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("hooks saw\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestAnErrorBeforeACallKeepsItFromBeingApplied(t *testing.T) {
	s, ctx := startLocal(t, gaelocal.Options{})
	s.SetHooks(gaelocal.Hooks{Before: func(context.Context, gaelocal.Call) error {
		return &gaelocal.Error{Code: 1, Detail: "out of order"}
	}})
	err := memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")})
	wantError(t, err, "API error 1 (memcache: UNSPECIFIED_ERROR): out of order")
	s.SetHooks(gaelocal.Hooks{})
	if _, err := memcache.Get(ctx, "k"); !errors.Is(err, memcache.ErrCacheMiss) {
		t.Errorf("Get after the failed Set: %v, want a cache miss", err)
	}
}

func TestAnErrorAfterACallLosesTheAnswerOnly(t *testing.T) {
	s, ctx := startLocal(t, gaelocal.Options{})
	s.SetHooks(gaelocal.Hooks{After: func(context.Context, gaelocal.Call) error { return errors.New("line cut") }})
	wantError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}), "line cut")
	s.SetHooks(gaelocal.Hooks{After: func(context.Context, gaelocal.Call) error {
		return &gaelocal.Error{Code: 12, Detail: "too late", RPC: true}
	}})
	err := memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("w")})
	wantError(t, err, "too late")
	if !appengine.IsTimeoutError(err) {
		t.Errorf("IsTimeoutError(%v) = false, want true", err)
	}
	s.SetHooks(gaelocal.Hooks{})
	item, err := memcache.Get(ctx, "k")
	noError(t, err)
	if got := string(item.Value); got != "w" {
		t.Errorf("the item is %q, want %q", got, "w")
	}
}

func TestAHookMayMakeCallsItself(t *testing.T) {
	s, ctx := startLocal(t, gaelocal.Options{})
	s.SetHooks(gaelocal.Hooks{Before: func(hctx context.Context, c gaelocal.Call) error {
		if c.Method == "Get" {
			s.EvictMemcache("", "k")
			s.SetHooks(gaelocal.Hooks{})
			return memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("from the hook")})
		}
		return nil
	}})
	noError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}))
	item, err := memcache.Get(ctx, "k")
	noError(t, err)
	if got, want := string(item.Value), "from the hook"; got != want {
		t.Errorf("the item is %q, want %q", got, want)
	}
}

func TestACallWaitsForItsLatency(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{Latency: func(c gaelocal.Call) time.Duration {
		if c.Method == "Set" {
			return 30 * time.Millisecond
		}
		return 0
	}})
	begun := time.Now()
	noError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}))
	if took := time.Since(begun); took < 30*time.Millisecond {
		t.Errorf("Set took %v, want at least 30ms", took)
	}
}

func TestACallWhoseCallerGivesUpWaitsNoLonger(t *testing.T) {
	s, ctx := startLocal(t, gaelocal.Options{})
	// impatient returns a context that ends when a call is waiting.
	impatient := func() context.Context {
		given, giveUp := context.WithCancel(context.Background())
		s.SetLatency(func(gaelocal.Call) time.Duration {
			giveUp()
			return time.Hour
		})
		return given
	}
	_, err := s.Call(impatient(), "memcache", "Stats", "", nil)
	const cancelled = 10 // which is a timeout to the client library
	if e := (*gaelocal.Error)(nil); !errors.As(err, &e) || e.Code != cancelled || !e.RPC {
		t.Errorf("Call: %v, want one that was cancelled", err)
	}
	r, err := http.NewRequestWithContext(impatient(), http.MethodPost, "http://"+s.Addr()+"/rpc_http",
		bytes.NewReader(remoteRequest("memcache", "Stats", nil)))
	noError(t, err)
	if response, err := http.DefaultClient.Do(r); !errors.Is(err, context.Canceled) {
		t.Errorf("request: %v, %v, want its context's error", response, err)
	}
	// The server's end waits for its calls, so it shows that this one has
	// ended.
	s.SetLatency(nil)
	err = memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")})
	noError(t, err)
}

func TestTheModelOfAppEnginesLatency(t *testing.T) {
	for _, c := range []struct {
		service, method string
		inTransaction   bool
		want            time.Duration
	}{
		{"memcache", "Get", false, 1500 * time.Microsecond},
		{"datastore_v3", "Get", false, 8 * time.Millisecond},
		{"datastore_v3", "Get", true, 8 * time.Millisecond},
		{"datastore_v3", "Put", false, 20 * time.Millisecond},
		{"datastore_v3", "Put", true, 5 * time.Millisecond},
		{"datastore_v3", "Delete", false, 20 * time.Millisecond},
		{"datastore_v3", "BeginTransaction", false, 5 * time.Millisecond},
		{"datastore_v3", "Commit", true, 20 * time.Millisecond},
		{"datastore_v3", "Rollback", true, 5 * time.Millisecond},
		{"datastore_v3", "RunQuery", false, 8 * time.Millisecond},
		{"other", "Get", false, 0},
	} {
		if got := gaelocal.AppEngineLatency(gaelocal.Call{Service: c.service, Method: c.method, InTransaction: c.inTransaction}); got != c.want {
			t.Errorf("%s.%s in transaction %v: %v, want %v", c.service, c.method, c.inTransaction, got, c.want)
		}
	}
}
