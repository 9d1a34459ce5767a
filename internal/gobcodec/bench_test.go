package gobcodec

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"
)

// BenchmarkBesidePlainGob measures this package and plain gob in turns, as then
// other work on the machine slows down both. It reports how many times as fast
// this package is: the median and the quartiles.
func BenchmarkBesidePlainGob(b *testing.B) {
	book := item{"book", 9.5, []string{"a"}}
	many, manyAndStruct, nested := attrs{}, attrs{"item": book}, attrs{}
	for i := range 24 {
		name := fmt.Sprint("attribute", i)
		many[name], manyAndStruct[name] = i, i
		nested[name] = attrs{"number": i, "text": "text", "map": attrs{"float": 1.5}}
	}
	for _, bench := range []struct {
		name string
		o    session.SessOptions
	}{
		{"4 scalars", session.SessOptions{Attrs: fourScalars}},
		{"24 scalars", session.SessOptions{Attrs: many}},
		{"a struct", session.SessOptions{Attrs: attrs{"user": "alice@example.com", "visits": 42, "item": book}}},
		{"24 scalars and a struct", session.SessOptions{Attrs: manyAndStruct}},
		{"24 constant scalars and a struct", session.SessOptions{CAttrs: many, Attrs: attrs{"item": book}}},
		{"a nested map", session.SessOptions{Attrs: attrs{"map": nested}}},
		{"100 KB", session.SessOptions{Attrs: attrs{"text": strings.Repeat("x", 100<<10)}}},
	} {
		s := session.NewSessionOptions(&bench.o)
		data := plainBytes(b, s)
		b.Run(bench.name+"/Marshal", func(b *testing.B) {
			inTurns(b, func() error { _, err := memcache.Gob.Marshal(s); return err },
				func() error { _, err := Marshal(s); return err })
		})
		b.Run(bench.name+"/Unmarshal", func(b *testing.B) {
			inTurns(b, func() error { return memcache.Gob.Unmarshal(data, session.NewSession()) },
				func() error { _, err := UnmarshalSession(data); return err })
		})
	}
}

func inTurns(b *testing.B, plain, ours func() error) {
	measure := func(do func() error) float64 {
		start := time.Now()
		for range 10 {
			if err := do(); err != nil {
				b.Fatal(err)
			}
		}
		return float64(time.Since(start)) / 10
	}
	var plains, all, ratios []float64
	for i := range b.N {
		var p, o float64
		if i%2 == 0 {
			p, o = measure(plain), measure(ours)
		} else {
			o, p = measure(ours), measure(plain)
		}
		plains, all, ratios = append(plains, p), append(all, o), append(ratios, p/o)
	}
	for _, sorted := range [][]float64{plains, all, ratios} {
		slices.Sort(sorted)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(plains[b.N/2], "ns-plain")
	b.ReportMetric(all[b.N/2], "ns-ours")
	b.ReportMetric(ratios[b.N/4], "x-q1")
	b.ReportMetric(ratios[b.N/2], "x-median")
	b.ReportMetric(ratios[b.N*3/4], "x-q3")
}
