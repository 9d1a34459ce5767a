package gobcodec

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/icza/session"
)

func FuzzUnmarshalAgainstPlainGob(f *testing.F) {
	f.Add([]byte{})
	for _, s := range samples() {
		if data := plainBytes(f, s); len(data) < 2000 {
			f.Add(data)
		}
	}
	for _, data := range foreign(f) {
		f.Add(data)
	}
	f.Add(withMapCount(f, "attr", "value", 1<<30))
	good := plainBytes(f, fourScalars())
	f.Fuzz(func(t *testing.T, data []byte) {
		agree(t, data)
		// Whatever came, a good session is read after it.
		if _, err := UnmarshalSession(good); err != nil {
			t.Fatalf("a good session after %x: %v", data, err)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("key", "text", int64(-5), 1.5, true, []byte{1, 2}, byte(0))
	f.Add("", "", int64(0), 0.0, false, []byte{}, byte(1))
	f.Add("k\x00", "\xff", int64(math.MaxInt64), math.NaN(), true, bytes.Repeat([]byte{7}, 300), byte(0xff))
	for i := 2; i < 16; i++ {
		f.Add("key", "text", int64(i), math.Inf(1), true, []byte("b"), byte(i))
	}
	f.Fuzz(func(t *testing.T, key, text string, n int64, x float64, b bool, raw []byte, shape byte) {
		scalars := map[string]any{"t": text, "n": n, "x": x, "b": b, "r": raw, "u": userID(n), "d": time.Duration(n)}
		values := []any{
			text, n, x, b, raw, time.Unix(n%1e10, n%1e9).UTC(), scalars, map[string]any{key: map[string]any{key: text}},
			item{text, x, n}, map[string]any{key: item{text, x, raw}}, cart{Owner: key, Notes: scalars}, []any{text, n, scalars},
			roles{key, text}, secret{"s" + text}, matrix{{int(n), 1}, {2}}, map[int]cart{int(n): {Items: []item{{Name: key, Extra: b}}}},
		}
		one := sessionWith(map[string]any{key: values[shape%16]})
		several := session.NewSessionOptions(&session.SessOptions{
			CAttrs: scalars, Attrs: map[string]any{"1": values[shape%16], "2": values[shape/16], "3": text}, Timeout: time.Duration(n)})
		for _, s := range []session.Session{one, several, one, several} {
			plain := plainBytes(t, s)
			ours, err := Marshal(s)
			if err != nil {
				t.Fatalf("Marshal: %v", err)
			}
			in, err := inspect(ours)
			if err != nil {
				t.Fatalf("inspect: %v", err)
			}
			// Where definitions cut the value into messages, the order of the map has influence on the length.
			if in.keepable && len(ours) != len(plain) {
				t.Fatalf("Marshal: got %d bytes, want %d", len(ours), len(plain))
			}
			want := mustDecode(t, plain)
			wantSame(t, "plain gob reads ours", mustDecode(t, ours), want)
			agree(t, ours)
			agree(t, plain)
		}
	})
}
