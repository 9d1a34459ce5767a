package gaesession_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/gaetest"
	"github.com/gaesession/gaesession/internal/gobcodec"
)

// What a request costs in CPU and allocations without the network: its calls
// are answered with the recorded bytes of a real request. It includes a save in
// the background.
//
//	cpu-ns/request  of this process, garbage collection included
//	ns/op           what has passed meanwhile
func BenchmarkRequestCPU(b *testing.B) {
	for _, row := range rowsOfBudget() {
		b.Run(row.name, func(b *testing.B) {
			for _, o := range openers {
				b.Run("store="+o.name, func(b *testing.B) { benchmarkRequestCPU(b, row, o.opener) })
			}
		})
	}
}

func benchmarkRequestCPU(b *testing.B, row rowOfBudget, opener opener) {
	open, finish := opener(b, row.o)
	s := gaetest.Local(b)
	id := row.id
	if id == "" {
		id = login(b, s, row.o, fourAttrs)
	}
	if row.evicted {
		s.Flush()
	}
	benchmarkRecorded(b, s, func(ctx context.Context) {
		store := open(ctx)
		row.do(store, id)
		store.Close()
		finish()
	})
}

// benchmarkRecorded runs a request once on the service and then, measured, with
// the answers it got.
func benchmarkRecorded(b *testing.B, s *gaetest.Service, request func(ctx context.Context)) {
	var rec recording
	request(appengine.WithAPICallFunc(s.Context(), rec.record))
	if b.Failed() {
		return
	}
	p := replay{rec: &rec}
	ctx := appengine.WithAPICallFunc(s.Context(), p.call)
	b.ReportAllocs()
	b.ResetTimer()
	begin := cpuTime()
	for range b.N {
		p.made, p.sets = 0, 0
		request(ctx)
	}
	b.ReportMetric(float64(cpuTime()-begin)/float64(b.N), "cpu-ns/request")
}

// What a change cannot cost less than: its eight calls, one after another, its
// decoding and its encoding, and nothing that would keep a promise.
func BenchmarkChangeByHand(b *testing.B) {
	s := gaetest.Local(b)
	id := login(b, s, options{}, fourAttrs)
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	benchmarkRecorded(b, s, func(ctx context.Context) {
		item, err := memcache.Get(ctx, id)
		must(err)
		sess, err := gobcodec.UnmarshalSession(item.Value)
		must(err)
		must(memcache.CompareAndSwap(ctx, item))
		item, err = memcache.Get(ctx, id)
		must(err)
		must(datastore.RunInTransaction(ctx, func(ctx context.Context) error {
			var e gaesession.SessEntity
			key := datastore.NewKey(ctx, "sess_", id, 0, nil)
			must(datastore.Get(ctx, key, &e))
			e.Value, err = gobcodec.Marshal(sess)
			must(err)
			_, err = datastore.Put(ctx, key, &e)
			return err
		}, nil))
		must(memcache.CompareAndSwap(ctx, item))
	})
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
	// the same twice: a lock, or a save with its nonce.
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
			answer = append(make([]byte, 0, len(answer)), answer...)
			copy(answer[c.offset:], value)
		}
		return proto.Unmarshal(answer, protoadapt.MessageV2Of(out))
	}
	return fmt.Errorf("%s.%s was not recorded", service, method)
}
