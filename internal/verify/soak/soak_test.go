package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/verify/judge"
)

var (
	length   = flag.Duration("soak", 5*time.Second, "how long the clients go on; 2 s at most with -short")
	mode     = flag.String("soak.mode", "mixed", "requests save `sync`, async or mixed")
	seed     = flag.Uint64("soak.seed", 0, "seed of the clients and faults; 0: a new one")
	silences = flag.Bool("soak.silences", false, "the services do not answer for a while, again and again; requests have deadlines, and clients go away")
	logPath  = flag.String("soak.log", "", "append the line of counts and the traces of violations to this `file`")
)

const (
	clients     = 200
	perInstance = 10
	poolSize    = 2000
	hotSessions = 20
	thinkTime   = 100 * time.Millisecond // mean
	killEvery   = 500 * time.Millisecond
	speech      = 2 * time.Second // between two silences, mean
	flushEvery  = time.Second
	failing     = 0.01 // of the calls
	ambiguous   = 0.01

	tracesShown = 5
)

// A soak is one run.
type soak struct {
	mode    string
	server  *gaelocal.Server
	cascade *cascadestore.CascadeStore
	ctx     context.Context // the clients go on until it is done
	pool    [poolSize]atomic.Pointer[record]
	tally   tally
	out     io.Writer // traces
	alive   []*process
	silent  atomic.Pointer[silence]
	stalled atomic.Int64 // nanoseconds for which the process had no processor

	mu     sync.Mutex
	all    []*record
	losses []judge.Loss // Memcache was emptied
	traced int
}

// watch measures for how long the process has no processor: a machine that has
// other work makes requests late, whatever they do.
func (s *soak) watch() {
	const tick = 10 * time.Millisecond
	for last := time.Now(); s.ctx.Err() == nil; {
		time.Sleep(tick)
		at := time.Now()
		if gap := at.Sub(last); gap > 10*tick {
			s.stalled.Add(int64(gap))
		}
		last = at
	}
}

// lost returns when Memcache was emptied.
func (s *soak) lost() []judge.Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.losses)
}

// flush empties Memcache.
func (s *soak) flush() {
	s.mu.Lock()
	i := len(s.losses)
	s.losses = append(s.losses, judge.Loss{Began: now(), Ended: judge.Never})
	s.mu.Unlock()
	s.server.FlushMemcache()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.losses[i].Ended = now()
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

	s := &soak{mode: *mode, server: server, cascade: newCascadeStore(0), out: out}
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
		"%d silences held %d calls; %d requests could not tell, %d changes were in the cache alone, %d not published at once; "+
		"the slowest request took %v, and none ended later than %v after it had to, without the %v in which the process had no processor; "+
		"checked %d sessions live and %d gone: %d violations",
		d, s.mode, *seed, c.requests, c.reads, c.sessions, c.changes, c.logouts, c.errors, c.refused,
		c.faults, c.lies, c.kills, c.killed, c.flushes,
		c.silences, c.held, c.unavailable, c.kept, c.unpublished, c.slowest.Round(time.Millisecond), c.latest.Round(time.Millisecond), time.Duration(s.stalled.Load()).Round(time.Millisecond),
		c.checked, c.gone, c.wrong)
	t.Log(line)
	fmt.Fprintln(out, line)
	if c.wrong > 0 {
		t.Errorf("%d violations, want none", c.wrong)
	}
	if !c.haveAll() {
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

// run lets the clients make requests for a while, and everything go wrong. On a busy
// machine it goes on for a minute, until something of all has happened.
func (s *soak) run(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d+time.Minute)
	defer cancel()
	began := time.Now()
	s.ctx = ctx
	s.server.SetHooks(s.faults())
	if *silences {
		go s.fallSilent()
		go s.watch()
	}
	s.server.SetLatency(func(gaelocal.Call) time.Duration {
		return time.Duration(rand.ExpFloat64() * float64(time.Millisecond))
	})

	var running sync.WaitGroup
	instances := make([]atomic.Pointer[process], clients/perInstance)
	for i := range instances {
		instances[i].Store(newProcess(i, 0))
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
	kill, flush, look := time.NewTicker(killEvery), time.NewTicker(flushEvery), time.NewTicker(10*time.Millisecond)
	defer kill.Stop()
	defer flush.Stop()
	defer look.Stop()
	for generation := 1; ctx.Err() == nil; {
		select {
		case <-kill.C:
			i := rnd.IntN(len(instances))
			// Clients whose goroutines end go to the new one.
			old := instances[i].Swap(newProcess(i, generation))
			generation++
			close(old.over)
			s.count(func(c *counts) { c.kills++ })
		case <-flush.C:
			s.flush()
			s.count(func(c *counts) { c.flushes++ })
			s.noteAll("Memcache was emptied")
		case <-look.C:
			s.count(func(c *counts) {
				if time.Since(began) >= d && c.haveAll() {
					cancel()
				}
			})
		case <-ctx.Done():
		}
	}
	running.Wait()
	for i := range instances {
		s.alive = append(s.alive, instances[i].Load())
	}
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
		Before: func(_ context.Context, c gaelocal.Call) error {
			if err := s.silent.Load().hold(s, c, true); err != nil {
				return err
			}
			if rand.Float64() >= failing {
				return nil
			}
			s.count(func(c *counts) { c.faults++ })
			return errFault
		},
		After: func(_ context.Context, c gaelocal.Call) error {
			if err := s.silent.Load().hold(s, c, false); err != nil {
				return err
			}
			if rand.Float64() >= ambiguous {
				return nil
			}
			s.count(func(c *counts) { c.lies++ })
			return errFault
		},
	}
}

// A silence is a time in which a service does not answer.
type silence struct {
	service string
	over    chan struct{} // closed in the end
}

// hold holds a call until the silence is over, before or after it is applied. In
// the end it is applied, or it is not, whoever has given it up by then.
func (q *silence) hold(s *soak, c gaelocal.Call, before bool) error {
	if q == nil || q.service != c.Service || before && rand.IntN(3) == 0 {
		return nil
	}
	s.count(func(c *counts) { c.held++ })
	<-q.over
	if rand.IntN(2) == 0 {
		return errFault
	}
	return nil
}

// fallSilent makes one service after another silent, until the clients end: for
// less than a cache may take, or for longer than a backup may.
func (s *soak) fallSilent() {
	rnd := rand.New(rand.NewPCG(*seed, 1<<62))
	random := func(mean time.Duration) time.Duration { return time.Duration(rnd.ExpFloat64() * float64(mean)) }
	for s.pause(random(speech)) {
		q := &silence{service: []string{"memcache", "datastore_v3"}[rnd.IntN(2)], over: make(chan struct{})}
		s.silent.Store(q)
		s.count(func(c *counts) { c.silences++ })
		s.noteAll(q.service + " is silent")
		s.pause(min(random([]time.Duration{300 * time.Millisecond, 4 * time.Second}[rnd.IntN(2)]), 12*time.Second))
		s.silent.Store(nil)
		close(q.over)
		s.noteAll(q.service + " answers")
	}
}

// pause waits, and reports whether the clients go on.
func (s *soak) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-s.ctx.Done():
		return false
	}
}

// settle waits until all instances have done their work, and ends the faults.
func (s *soak) settle(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	drain := func() {
		for _, i := range s.alive {
			if err := gaesession.Drain(instance.With(ctx, i.instance())); err != nil {
				t.Fatal(err)
			}
		}
	}
	drain()
	s.server.SetHooks(gaelocal.Hooks{})
	s.server.SetLatency(nil)
	drain() // what is pending
	for _, r := range s.all {
		r.drained()
	}
	s.count(func(c *counts) { c.sessions = len(s.all) })
}

// verify loads every session and asks the judge.
func (s *soak) verify(t *testing.T, from string) {
	const patience = time.Minute // a busy machine is no silent service
	s.cascade = newCascadeStore(patience)
	c := &client{soak: s, name: "end, from " + from, instance: newProcess(-1, 0), patience: patience, rnd: rand.New(rand.NewPCG(*seed, 1<<61))}
	for _, r := range s.all {
		x := c.open(r, 0)
		since := now()
		attrs := x.load(r.id)
		x.close()
		// The logout that was not finished is finished now.
		if err := x.err(); err != nil && (!errors.Is(err, gaesession.ErrRemoved) || r.logout == notRemoved) {
			t.Errorf("load from %s: %v", from, err)
		}
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
