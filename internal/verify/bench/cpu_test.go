//go:build unix

package bench

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/gobcodec"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// What a request costs in CPU and allocations without the network: its calls
// are answered with the recorded bytes of a real request. It includes a save in
// the background.
//
//	cpu-ns/request  of this process, garbage collection included
//	ns/op           what has passed meanwhile
//
// "by hand" is what a read and a change cannot cost less than: their calls, one
// decoding and one encoding, and nothing that would keep a promise.
func BenchmarkRequestCPU(b *testing.B) {
	for _, row := range rowsOfBudget() {
		for _, o := range openers {
			b.Run(row.name+"/store="+o.name, func(b *testing.B) {
				benchmarkCPU(b, record(b, row, requestOf(b, row, o.opener)))
			})
		}
		if f := byHand[row.name]; f != nil {
			b.Run(row.name+"/store=by hand", func(b *testing.B) { benchmarkCPU(b, record(b, row, f(b))) })
		}
	}
}

func benchmarkCPU(b *testing.B, request func()) {
	b.ReportAllocs()
	b.ResetTimer()
	begin := cpuTime()
	for range b.N {
		request()
	}
	b.ReportMetric(float64(cpuTime()-begin)/float64(b.N), "cpu-ns/request")
}

var rounds = flag.Int("rounds", 0, "measure the CPU budget in that many rounds")

// The budget: a change takes at most 1.2 times the CPU of its calls made by
// hand, a cached read at most 80 allocations.
func TestRequestsKeepTheirCPUBudget(t *testing.T) {
	const (
		maxAllocs  = 80
		maxRatio   = 1.2
		iterations = 5000 // of a side in a round
	)
	for _, row := range rowsOfBudget() {
		if byHand[row.name] == nil {
			continue
		}
		t.Run(row.name, func(t *testing.T) {
			us := record(t, row, requestOf(t, row, ours))
			hand := record(t, row, byHand[row.name](t))
			allocs := testing.AllocsPerRun(100, us)
			t.Logf("%.0f allocations, %.0f by hand", allocs, testing.AllocsPerRun(100, hand))
			if row.name == "read" && allocs > maxAllocs {
				t.Errorf("a read made %.0f allocations, want %d at most", allocs, maxAllocs)
			}
			if *rounds == 0 {
				return
			}
			var times, handTimes, ratios []float64 // times in µs
			for round := range *rounds {
				// Which side comes first changes, as the machine does meanwhile.
				sides := []func(){us, hand}
				took := map[int]float64{}
				for _, i := range []int{round % 2, 1 - round%2} {
					took[i] = cpuOf(iterations, sides[i])
				}
				times, handTimes = append(times, took[0]), append(handTimes, took[1])
				ratios = append(ratios, took[0]/took[1])
			}
			t.Logf("%d rounds: %s µs of CPU, by hand %s µs, ratio %s", *rounds, spread(times), spread(handTimes), spread(ratios))
			if row.name == "change" && median(ratios) > maxRatio {
				t.Errorf("a change takes %.2f times its calls made by hand, want %.1f at most", median(ratios), maxRatio)
			}
		})
	}
}

// cpuOf returns the µs of CPU that a request takes.
func cpuOf(iterations int, request func()) float64 {
	runtime.GC()
	begin := cpuTime()
	for range iterations {
		request()
	}
	return float64((cpuTime() - begin).Nanoseconds()) / 1000 / float64(iterations)
}

// spread is the median, and in brackets the lowest and the highest value.
func spread(values []float64) string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(values), slices.Min(values), slices.Max(values))
}

// cpuTime is the CPU time this process has used. Unlike ns/op it leaves out
// what other processes take.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // its arguments are valid
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A requestFunc makes one request for the session with that id.
type requestFunc func(ctx context.Context, id string)

func requestOf(tb testing.TB, row rowOfBudget, opener opener) requestFunc {
	open, finish := opener(tb, row.o)
	return func(ctx context.Context, id string) {
		store := open(ctx)
		row.do(store, id)
		store.Close()
		finish()
	}
}

// byHand has the requests of two rows, made without a store.
var byHand = map[string]func(tb testing.TB) requestFunc{
	"read": func(tb testing.TB) requestFunc {
		return func(ctx context.Context, id string) {
			item, err := memcache.Get(ctx, id)
			must(tb, err)
			_, err = gobcodec.UnmarshalSession(item.Value)
			must(tb, err)
		}
	},
	"change": func(tb testing.TB) requestFunc {
		return func(ctx context.Context, id string) {
			item, err := memcache.Get(ctx, id)
			must(tb, err)
			sess, err := gobcodec.UnmarshalSession(item.Value)
			must(tb, err)
			value, err := gobcodec.Marshal(sess)
			must(tb, err)
			must(tb, datastore.RunInTransaction(ctx, func(ctx context.Context) error {
				key := datastore.NewKey(ctx, kind, id, 0, nil)
				put := make(chan error, 1)
				go func() {
					_, err := datastore.Put(ctx, key, &gaesession.SessEntity{Expires: sess.Accessed(), Value: value})
					put <- err
				}()
				var e gaesession.SessEntity
				must(tb, datastore.Get(ctx, key, &e))
				return <-put
			}, nil))
			item.Value = value
			must(tb, memcache.CompareAndSwap(ctx, item))
		}
	},
}

func must(tb testing.TB, err error) {
	if err != nil {
		tb.Fatal(err)
	}
}

// record makes the request of a row once on the service. The result makes it
// again, with the answers it got.
func record(tb testing.TB, row rowOfBudget, request requestFunc) func() {
	s := gaetest.Local(tb)
	id := row.prepare(tb, s)
	var rec recording
	request(appengine.WithAPICallFunc(s.Context(), rec.record), id)
	if tb.Failed() {
		tb.FailNow()
	}
	p := &replay{rec: &rec}
	ctx := appengine.WithAPICallFunc(s.Context(), p.call)
	return func() {
		p.made, p.sets = 0, 0
		request(ctx, id)
	}
}

// A recording is the calls of one request and what was answered.
type recording struct {
	mu    sync.Mutex
	calls []recorded
	set   [][]byte // the values of memcache.Set, in order
}

type recorded struct {
	service, method string
	answer          []byte
	err             error

	// A memcache.Get whose answer is what this request has set, which is never
	// the same twice: a lease, or a value with times.
	echo   int // of which Set, counted from 1; 0: of none
	offset int // where the value stands in the answer
}

// record makes a call and keeps its answer.
func (r *recording) record(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	err := appengine.APICall(ctx, service, method, in, out)
	c := recorded{service: service, method: method, err: err}
	if err == nil {
		if c.answer, err = proto.Marshal(protoadapt.MessageV2Of(out)); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch service + "." + method {
	case "memcache.Set":
		r.set = append(r.set, valueSet(in))
	case "memcache.Get":
		for i, value := range r.set {
			if at := bytes.Index(c.answer, value); at >= 0 {
				c.echo, c.offset = i+1, at
			}
		}
	}
	r.calls = append(r.calls, c)
	return c.err
}

// valueSet is the value in a request of memcache.Set.
func valueSet(in protoadapt.MessageV1) []byte {
	m := protoadapt.MessageV2Of(in).ProtoReflect()
	item := m.Get(field(m, "item")).List().Get(0).Message()
	return item.Get(field(item, "value")).Bytes()
}

func field(m protoreflect.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}

// A replay answers the calls of one more request of the same kind.
type replay struct {
	rec  *recording
	mu   sync.Mutex
	made uint64 // bits of the recorded calls that have been answered
	set  [8][]byte
	sets int
}

func (p *replay) call(_ context.Context, service, method string, in, out protoadapt.MessageV1) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.rec.calls {
		c := &p.rec.calls[i]
		if p.made&(1<<i) != 0 || c.method != method || c.service != service {
			continue
		}
		p.made |= 1 << i
		if c.err != nil {
			return c.err
		}
		if method == "Set" {
			p.set[p.sets] = valueSet(in)
			p.sets++
		}
		answer := c.answer
		if c.echo > 0 {
			value := p.set[c.echo-1]
			if len(value) != len(p.rec.set[c.echo-1]) {
				return fmt.Errorf("the recorded value has %d bytes, not %d", len(p.rec.set[c.echo-1]), len(value))
			}
			answer = slices.Clone(answer)
			copy(answer[c.offset:], value)
		}
		return proto.Unmarshal(answer, protoadapt.MessageV2Of(out))
	}
	return fmt.Errorf("%s.%s was not recorded", service, method)
}
