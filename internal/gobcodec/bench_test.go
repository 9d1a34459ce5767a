package gobcodec

import (
	"testing"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"
)

// The sessions of the benchmarks: without and with definitions inside the value.
var benchSessions = []struct {
	name string
	make func() session.Session
}{
	{"scalars", fourScalars},
	{"struct", func() session.Session {
		return sessionWith(map[string]any{"user": "alice@example.com", "visits": 42, "item": item{Name: "book", Price: 9.5}})
	}},
}

func BenchmarkUnmarshal(b *testing.B) {
	for _, s := range benchSessions {
		data := plainBytes(b, s.make())
		b.Run(s.name+"/plain", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				if err := memcache.Gob.Unmarshal(data, session.NewSession()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/kept", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				if _, err := UnmarshalSession(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMarshal(b *testing.B) {
	for _, s := range benchSessions {
		v := s.make()
		b.Run(s.name+"/plain", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				if _, err := memcache.Gob.Marshal(v); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/kept", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				if _, err := Marshal(v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
