package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/judge"
)

var (
	length  = flag.Duration("soak", 5*time.Second, "how long the clients go on; 2 s at most with -short")
	mode    = flag.String("soak.mode", "mixed", "requests save `sync`, async or mixed")
	seed    = flag.Uint64("soak.seed", 0, "seed of the clients and faults; 0: a new one")
	logPath = flag.String("soak.log", "", "append the line of counts and the traces of violations to this `file`")
)

const (
	clients     = 200
	perInstance = 10
	sessions    = 2000
	hotSessions = 20
	thinkTime   = 100 * time.Millisecond // mean
	killEvery   = 500 * time.Millisecond
	flushEvery  = time.Second
	failing     = 0.01 // of the calls
	ambiguous   = 0.01

	tracesShown = 5
)

// A soak is one run.
type soak struct {
	mode   string
	server *gaelocal.Server
	ctx    context.Context // the clients go on until it is done
	pool   [sessions]atomic.Pointer[record]
	tally  tally
	out    io.Writer // traces

	mu     sync.Mutex
	all    []*record
	losses []judge.Time // when Memcache was emptied
	traced int
}

// lost returns when Memcache was emptied.
func (s *soak) lost() []judge.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.losses[:len(s.losses):len(s.losses)]
}

// flush empties Memcache.
func (s *soak) flush() {
	before := now()
	s.server.FlushMemcache()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.losses = append(s.losses, before, now())
}

func (s *soak) count(f func(c *counts)) { s.tally.add(f) }

// violation counts one, and writes the session's trace.
func (s *soak) violation(r *record, text string) {
	s.count(func(c *counts) { c.wrong++ })
	r.note("-", "VIOLATION %s", text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.traced++; s.traced <= tracesShown {
		fmt.Fprintf(s.out, "VIOLATION %s\n%s\n", text, r.trace())
	}
}

func TestEveryAcknowledgedChangeSurvives(t *testing.T) {
	d := *length
	if testing.Short() {
		d = min(d, 2*time.Second)
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	out, closeOut := output(t)
	defer closeOut()
	server, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	restore, err := server.Setenv()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		restore()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()

	s := &soak{mode: *mode, server: server, out: out}
	s.run(d)
	s.settle(t)
	for _, from := range []string{"Memcache", "Datastore"} {
		if from == "Datastore" {
			s.flush()
		}
		s.verify(t, from)
	}

	c := &s.tally.counts
	line := fmt.Sprintf("soak %v %s seed %d: %d requests (%d loads) on %d sessions, %d changes and %d logouts acknowledged, "+
		"%d requests reported errors, %d changes refused for a removal; "+
		"%d calls failed, %d answers lost, %d instances killed with %d requests under way, %d flushes; "+
		"checked %d sessions live and %d gone: %d violations",
		d, s.mode, *seed, c.requests, c.reads, c.sessions, c.changes, c.logouts, c.errors, c.refused,
		c.faults, c.lies, c.kills, c.killed, c.flushes, c.checked, c.gone, c.wrong)
	t.Log(line)
	fmt.Fprintln(out, line)
	if c.wrong > 0 {
		t.Errorf("%d violations, want none", c.wrong)
	}
	if c.changes == 0 || c.kills == 0 || c.flushes == 0 || c.faults == 0 || c.lies == 0 {
		t.Errorf("%+v: nothing was tested", c)
	}
}

// output is where counts and traces go: to the log file, or to the test's log.
func output(t *testing.T) (out io.Writer, closeOut func()) {
	if *logPath == "" {
		return testLog{t}, func() {}
	}
	f, err := os.OpenFile(*logPath, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	return f, func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(string(b))
	return len(b), nil
}

// run lets the clients make requests for a while, and everything go wrong.
func (s *soak) run(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	s.ctx = ctx
	s.server.SetHooks(s.faults())
	s.server.SetLatency(func(gaelocal.Call) time.Duration {
		return time.Duration(rand.ExpFloat64() * float64(time.Millisecond))
	})

	var running sync.WaitGroup
	instances := make([]atomic.Pointer[process], clients/perInstance)
	for i := range instances {
		instances[i].Store(&process{name: fmt.Sprintf("i%d.0", i)})
	}
	for i := range clients {
		running.Add(1)
		go func() {
			defer running.Done()
			for generation := 0; ctx.Err() == nil; generation++ {
				c := &client{
					soak: s, instance: instances[i/perInstance].Load(),
					name: fmt.Sprintf("c%d.%d", i, generation),
					rnd:  rand.New(rand.NewPCG(*seed, uint64(i)<<32|uint64(generation))),
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					c.run()
				}()
				<-ended
			}
		}()
	}

	rnd := rand.New(rand.NewPCG(*seed, 1<<63))
	kill, flush := time.NewTicker(killEvery), time.NewTicker(flushEvery)
	defer kill.Stop()
	defer flush.Stop()
	for generation := 1; ctx.Err() == nil; {
		select {
		case <-kill.C:
			i := rnd.IntN(len(instances))
			// Clients whose goroutines end go to the new one.
			old := instances[i].Swap(&process{name: fmt.Sprintf("i%d.%d", i, generation)})
			generation++
			old.gone.Store(true)
			s.count(func(c *counts) { c.kills++ })
		case <-flush.C:
			s.flush()
			s.count(func(c *counts) { c.flushes++ })
			s.noteAll("Memcache was emptied")
		case <-ctx.Done():
		}
	}
	running.Wait()
}

func (s *soak) noteAll(what string) {
	s.mu.Lock()
	all := s.all[:len(s.all):len(s.all)]
	s.mu.Unlock()
	for _, r := range all {
		r.note("-", "%s", what)
	}
}

var errFault = errors.New("a fault")

// faults makes calls fail, whoever makes them.
func (s *soak) faults() gaelocal.Hooks {
	return gaelocal.Hooks{
		Before: func(context.Context, gaelocal.Call) error {
			if rand.Float64() >= failing {
				return nil
			}
			s.count(func(c *counts) { c.faults++ })
			return errFault
		},
		After: func(context.Context, gaelocal.Call) error {
			if rand.Float64() >= ambiguous {
				return nil
			}
			s.count(func(c *counts) { c.lies++ })
			return errFault
		},
	}
}

// settle waits for background saves and ends the faults.
func (s *soak) settle(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := gaesession.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * grace)
	s.server.SetHooks(gaelocal.Hooks{})
	s.server.SetLatency(nil)
	s.count(func(c *counts) { c.sessions = len(s.all) })
}

// verify loads every session and asks the judge.
func (s *soak) verify(t *testing.T, from string) {
	for _, r := range s.all {
		since := now()
		store := gaesession.NewMemcacheStoreOptions(context.Background(), &gaesession.MemcacheStoreOptions{
			OnError: func(_ context.Context, err error) {
				// The logout that was not finished is finished now.
				if !errors.Is(err, gaesession.ErrRemoved) || r.logout == notRemoved {
					t.Errorf("load from %s: %v", from, err)
				}
			},
		})
		var attrs map[string]any
		if sess := store.Get(r.id); sess != nil {
			attrs = sess.Attrs()
		}
		store.Close()
		if err := r.check(s.lost(), since, attrs, false); err != nil {
			s.violation(r, fmt.Sprintf("in the end, from %s: %v", from, err))
		}
		switch {
		case from == "Datastore":
		case r.logout == isRemoved:
			s.count(func(c *counts) { c.gone++ })
		case r.logout == notRemoved:
			s.count(func(c *counts) { c.checked++ })
		}
	}
}
