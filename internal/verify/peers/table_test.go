package peers

import (
	"context"
	"fmt"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A load is a mix of requests. Of a hundred, that many change the session, and the
// others read it; or all are logins.
type load struct {
	name    string
	changes int
	logins  bool
	most    float64 // the budget: times the time of a peer, with 16 clients; 0: none
}

var loads = []load{
	{name: "reads", most: 0.9},
	{name: "95/5", changes: 5, most: 0.9},
	{name: "changes", changes: 100, most: 1},
	{name: "logins", logins: true},
}

// A cost is what a request of a round took.
type cost struct{ time, cpu, allocs float64 } // time and cpu in µs

// costs are those of the rounds, by store.
type costs map[string][]cost

// TestTable compares the stores: time, CPU of this process and allocations of a
// request, of each load, by one client and by 16, each with a session of its own.
// Every round has all stores in turn, another one first each time. Lost updates and
// resurrections are counted between the rounds.
//
// With -peers.rounds it judges the budgets: the median of the ratios of the rounds.
func TestTable(t *testing.T) {
	requests := 960 // a round
	if *rounds == 0 {
		requests = 32
	}
	n := max(*rounds, 1)
	apps := newApps(t, newServer(t).addr, time.Minute)
	if *overHTTP {
		for _, a := range apps {
			server := httptest.NewServer(a.handler)
			t.Cleanup(server.Close)
			a.server = server.Listener.Addr().String()
		}
	}
	lost, back, overlaps := map[string]int{}, map[string]int{}, 0
	for _, clients := range []int{1, 16} {
		all := map[string]costs{} // by load
		for _, l := range loads {
			t.Run(fmt.Sprintf("%s, clients=%d", l.name, clients), func(t *testing.T) {
				c := costs{}
				for round := range n {
					for i := range apps {
						a := apps[(round+i)%len(apps)]
						c[a.name] = append(c[a.name], measure(t, a, l, clients, requests))
					}
					overlaps++
					for _, a := range apps {
						updates, sessions := count(t, a, 1)
						lost[a.name], back[a.name] = lost[a.name]+updates, back[a.name]+sessions
					}
				}
				all[l.name] = c
				if *rounds > 0 && !*overHTTP && l.most > 0 && clients == 16 {
					judge(t, apps, c, l.most)
				}
			})
		}
		t.Logf("clients=%d, %d rounds of %d requests\n%s", clients, n, requests, table(apps, all))
	}
	for _, a := range apps {
		t.Logf("| %s | %d of %d | %d of %d |", a.name, lost[a.name], overlaps*overlapping, back[a.name], overlaps)
	}
}

// measure makes the requests of a round.
func measure(t *testing.T, a *app, l load, clients, requests int) cost {
	t.Helper()
	browsers := make([]*client, clients)
	for i := range browsers {
		browsers[i] = login(t, a)
		browsers[i].server = a.server
	}
	var failed atomic.Int64
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, began := cpuTime(t), time.Now()
	var all sync.WaitGroup
	for i, c := range browsers {
		all.Add(1)
		go func() {
			defer all.Done()
			for k := i; k < requests; k += clients {
				if res := l.request(context.Background(), c, k/clients+i); !res.ok() {
					failed.Add(1)
				}
			}
		}()
	}
	all.Wait()
	took, cpu := time.Since(began), cpuTime(t)-cpu
	runtime.ReadMemStats(&after)
	if failed.Load() > 0 {
		t.Errorf("%s: %d of %d requests failed", a.name, failed.Load(), requests)
	}
	each := func(sum float64) float64 { return sum / float64(requests) }
	return cost{
		each(float64(took.Nanoseconds()) / 1000), each(float64(cpu.Nanoseconds()) / 1000),
		each(float64(after.Mallocs - before.Mallocs)),
	}
}

// request makes the k-th request of a client.
func (l load) request(ctx context.Context, c *client, k int) response {
	switch {
	case l.logins:
		return (&client{c.app, map[string]string{}, c.server}).do(ctx, "/login", "")
	case l.changes > 0 && k%(100/l.changes) == 0:
		return c.do(ctx, "/add", "visits")
	}
	return c.do(ctx, "/read", "visits")
}

// cpuTime is the CPU time this process has used. Unlike the time that has passed it
// leaves out what others take, the server too.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// table shows, as docs/performance.md does, what the stores cost, and then the ratios
// of time and of CPU: the median, for time also where eight rounds of ten were.
func table(apps []*app, all map[string]costs) string {
	var b strings.Builder
	line := func(first string, cell func(costs) string) {
		b.WriteString("| " + first + " |")
		for _, l := range loads {
			text := "" // -run left it out
			if c := all[l.name]; c != nil {
				text = cell(c)
			}
			b.WriteString(" " + text + " |")
		}
		b.WriteByte('\n')
	}
	heading := func(what string) {
		b.WriteString("\n| " + what + " |")
		for _, l := range loads {
			b.WriteString(" " + l.name + " |")
		}
		b.WriteString("\n|" + strings.Repeat("---|", len(loads)+1) + "\n")
	}
	heading("µs, µs of CPU")
	for _, a := range apps {
		line(a.name, func(c costs) string {
			return fmt.Sprintf("%.0f, %.0f", median(c.each(a.name, timeOf)), median(c.each(a.name, cpuOf)))
		})
	}
	heading("allocations")
	for _, a := range apps {
		line(a.name, func(c costs) string { return fmt.Sprintf("%.0f", median(c.each(a.name, allocsOf))) })
	}
	heading("ratios of time, of CPU")
	for _, a := range apps {
		for _, peer := range a.beside {
			line(a.name+" / "+peer, func(c costs) string {
				r := c.ratios(a.name, peer, timeOf)
				slices.Sort(r)
				return fmt.Sprintf("%.2f (%.2f–%.2f), %.2f", median(r), r[len(r)/10], r[len(r)-1-len(r)/10], median(c.ratios(a.name, peer, cpuOf)))
			})
		}
	}
	return b.String()
}

func timeOf(c cost) float64   { return c.time }
func cpuOf(c cost) float64    { return c.cpu }
func allocsOf(c cost) float64 { return c.allocs }

// each returns what of says of the rounds of a store.
func (c costs) each(store string, of func(cost) float64) (values []float64) {
	for _, round := range c[store] {
		values = append(values, of(round))
	}
	return values
}

// ratios are those of two stores, round by round.
func (c costs) ratios(store, peer string, of func(cost) float64) (r []float64) {
	theirs := c.each(peer, of)
	for i, ours := range c.each(store, of) {
		r = append(r, ours/theirs[i])
	}
	return r
}

func judge(t *testing.T, apps []*app, c costs, most float64) {
	t.Helper()
	for _, a := range apps {
		for _, peer := range a.beside {
			if r := median(c.ratios(a.name, peer, timeOf)); r > most {
				t.Errorf("%s takes %.2f times the time of %s, want %.1f at most", a.name, r, peer, most)
			}
		}
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
