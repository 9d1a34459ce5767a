package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/gaelocal"

	"github.com/gaesession/gaesession/internal/demo/demotest"
)

func start(t *testing.T, d Demo, args ...string) demotest.Process {
	t.Helper()
	return demotest.Start(t, func(ctx context.Context, out io.Writer) error { return d.Run(ctx, args, out) })
}

// serving returns a demo with this handler.
func serving(h http.HandlerFunc) Demo {
	return Demo{
		Name: "test", Title: "demo of the tests", Keeps: "Sessions", Port: "0", AppID: "demo-test",
		Handler: func(Place) (http.Handler, error) { return appengine.Middleware(h), nil },
	}
}

func get(url string) (body string, err error) {
	res, err := http.Get(url)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(res.Body)
	return string(b), errors.Join(err, res.Body.Close())
}

// counting counts requests in Datastore.
func counting(w http.ResponseWriter, r *http.Request) {
	ctx := appengine.NewContext(r)
	key := datastore.NewKey(ctx, "count", "requests", 0, nil)
	var count struct{ N int }
	err := datastore.Get(ctx, key, &count)
	if err == nil || errors.Is(err, datastore.ErrNoSuchEntity) {
		count.N++
		_, err = datastore.Put(ctx, key, &count)
	}
	fmt.Fprint(w, count.N, err)
}

func TestWhatIsKeptSurvivesARestartUnlessItIsInMemory(t *testing.T) {
	data := filepath.Join(t.TempDir(), "new", "folder")
	for _, test := range []struct{ data, want string }{
		{data, "1 <nil>"}, {data, "2 <nil>"}, {"", "1 <nil>"}, {"", "1 <nil>"}, {data, "3 <nil>"},
	} {
		p := start(t, serving(counting), "-addr", "127.0.0.1:0", "-data", test.data)
		if got, err := get(p.URL); got != test.want || err != nil {
			t.Errorf("data %q: got %q, %v, want %q", test.data, got, err, test.want)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if os.Getenv("API_HOST") != "" {
			t.Error("the process still points at the services")
		}
	}
}

// startAtPort runs a demo at a port that the environment names. Until the demo has
// it somebody else may take it: then another port is tried.
func startAtPort(t *testing.T, d Demo) demotest.Process {
	t.Helper()
	for range 10 {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := free.Addr().String()
		free.Close()
		t.Setenv("PORT", strings.TrimPrefix(address, "127.0.0.1:"))
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx, []string{"-data", ""}, io.Discard) }()
		if err = awaitServer(address, ended); err == nil {
			return demotest.Process{URL: "http://" + address, Stop: func() error { cancel(); return <-ended }}
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	t.Fatal("no port is free for long")
	return demotest.Process{}
}

// awaitServer waits until requests are answered, or returns why the server has
// ended.
func awaitServer(address string, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(time.Millisecond):
		}
		if _, err := get("http://" + address); err == nil {
			return nil
		}
	}
}

func TestTheHandlerIsToldWhereItRuns(t *testing.T) {
	for _, test := range []struct {
		env, services string
		https, local  bool
	}{
		{"standard", "App Engine", true, false},
		{"localdev", "a local App Engine", false, false},
		{"", "gaelocal", false, true},
	} {
		t.Run(test.services, func(t *testing.T) {
			t.Setenv("GAE_ENV", test.env)
			var place Place
			d := serving(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
			inner := d.Handler
			d.Handler = func(p Place) (http.Handler, error) {
				place = p
				return inner(p)
			}
			p := startAtPort(t, d)
			if body, err := get(p.URL); body != "hello" || err != nil {
				t.Errorf("got %q, %v", body, err)
			}
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
			if place.Services != test.services || place.HTTPS != test.https || place.Local != test.local || (place.Faults != nil) != test.local {
				t.Errorf("got %+v", place)
			}
		})
	}
}

// The saves that are still to reach Memcache would wait for it.
func TestMemcacheAnswersAgainWhenTheDemoIsToldToStop(t *testing.T) {
	var faults *Faults
	d := serving(func(w http.ResponseWriter, _ *http.Request) {})
	inner := d.Handler
	d.Handler = func(p Place) (http.Handler, error) {
		faults = p.Faults
		return inner(p)
	}
	waits := make(chan error, 1)
	d.Drain = func(ctx context.Context) error {
		return <-waits
	}
	p := start(t, d, "-addr", "127.0.0.1:0", "-data", "")
	faults.Stop()
	go func() { waits <- memcache.Set(context.Background(), &memcache.Item{Key: "k", Value: []byte("v")}) }()
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// Browsers open connections before they need them.
func TestAConnectionWithoutARequestDoesNotHoldUpTheEnd(t *testing.T) {
	p := start(t, serving(func(w http.ResponseWriter, _ *http.Request) {}), "-addr", "127.0.0.1:0", "-data", "")
	silent, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(p.URL, "http:"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := get(p.URL); err != nil { // which is served after silent was accepted
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestStartFailsWithWhatIsWrong(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inUse := t.TempDir()
	other, err := gaelocal.Start(gaelocal.Options{Data: filepath.Join(inUse, "sessions.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	noFolder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(noFolder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	errHandler := errors.New("no such key")
	failing := serving(nil)
	failing.Handler = func(Place) (http.Handler, error) { return nil, errHandler }
	for _, test := range []struct {
		what string
		demo Demo
		args []string
		want []string
	}{
		{"a port in use", serving(nil), []string{"-data", "", "-addr", l.Addr().String()}, []string{l.Addr().String(), "in use", "-addr"}},
		{"data in use", serving(nil), []string{"-data", inUse, "-addr", "127.0.0.1:0"}, []string{inUse}},
		{"a folder that is none", serving(nil), []string{"-data", filepath.Join(noFolder, "x"), "-addr", "127.0.0.1:0"}, []string{noFolder, "-data"}},
		{"a handler's error", failing, []string{"-data", "", "-addr", "127.0.0.1:0"}, []string{errHandler.Error()}},
		{"an argument", serving(nil), []string{"9090"}, []string{"9090"}},
		{"an unknown flag", serving(nil), []string{"-port", "9090"}, []string{"-port"}},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := test.demo.Run(ctx, test.args, io.Discard)
		cancel()
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got error %v, want one with %q", test.what, err, want)
			}
		}
	}
}

func TestARequestUnderWayIsFinishedAtShutdownAndThenItsSaves(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	var finished, drained atomic.Bool
	d := serving(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		fmt.Fprint(w, "done")
		finished.Store(true)
	})
	errDrain := errors.New("saves that do not end")
	d.Drain = func(ctx context.Context) error {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 3*time.Second || ctx.Err() != nil {
			t.Errorf("drain until %v, %v; want less than 3 s from now", deadline, ctx.Err())
		}
		if !finished.Load() {
			t.Error("drained before the requests ended")
		}
		drained.Store(true)
		return errDrain
	}
	p := start(t, d, "-addr", "127.0.0.1:0", "-data", "")
	type answer struct {
		body string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		body, err := get(p.URL)
		answered <- answer{body, err}
	}()
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop() }()
	for { // until the server takes no more connections
		c, err := net.Dial("tcp", strings.Trim(strings.TrimPrefix(p.URL, "http:"), "/"))
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(release)
	if got := <-answered; got.body != "done" || got.err != nil {
		t.Errorf("request under way: got %q, %v", got.body, got.err)
	}
	if err := <-stopped; !errors.Is(err, errDrain) || !drained.Load() {
		t.Errorf("got %v, drained: %v; want Drain's error", err, drained.Load())
	}
}
