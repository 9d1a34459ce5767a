// Package demotest runs the demos in tests, as their commands do.
package demotest

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"regexp"
	"sync"
	"testing"
)

// A Process is a demo that runs.
type Process struct {
	URL  string
	Stop func() error // as a signal does; returns what run has returned
}

// Start runs a demo until Stop is called, or the test ends. It waits for the line in
// which the demo says where it is.
func Start(tb testing.TB, run func(ctx context.Context, out io.Writer) error) Process {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, in)
		in.CloseWithError(err)
		done <- err
	}()
	tb.Cleanup(cancel)
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		tb.Fatalf("the demo did not start: %v", err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	u := regexp.MustCompile(`http://[^/\s]+`).FindString(line)
	if u == "" {
		tb.Fatalf("the demo does not say where it is: %q", line)
	}
	return Process{u, sync.OnceValue(func() error { cancel(); return <-done })}
}

// Client returns a client that keeps cookies.
func Client(tb testing.TB) *http.Client {
	tb.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &http.Client{Jar: jar}
}
