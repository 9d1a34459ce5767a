package gobcodec

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/icza/session"
)

func FuzzUnmarshal(f *testing.F) {
	for _, data := range damaged(f) {
		f.Add(data[len(sessions.Head):], true)
		f.Add(data, false)
	}
	good := plainBytes(f, sessionWith(fourScalars))
	f.Fuzz(func(t *testing.T, data []byte, withHead bool) {
		if withHead {
			data = append(bytes.Clone(sessions.Head), data...)
		}
		agree(t, data)
		agree(t, good)
	})
}

func FuzzMarshal(f *testing.F) {
	f.Add("key", "text", int64(-5), 1.5, true)
	f.Add("", "\xff", int64(math.MinInt64), math.NaN(), false)
	f.Fuzz(func(t *testing.T, key, text string, n int64, x float64, b bool) {
		a := attrs{key: text, "n": n, "i": int(n), "i8": int8(n), "u": uint64(n), "x": x, "y": float32(x), "b": b}
		s := session.NewSessionOptions(&session.SessOptions{CAttrs: attrs{key: n}, Attrs: a, Timeout: time.Duration(n)})
		for _, s := range []session.Session{
			s, sessionWith(attrs{key: text}), sessionWith(attrs{key: item{Name: text, Price: x}}),
		} {
			got, err := Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if want := plainBytes(t, s); len(got) != len(want) || len(s.Attrs()) == 1 && !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
			agree(t, got)
		}
	})
}
