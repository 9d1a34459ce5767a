//go:build !race

package gobcodec

import "testing"

// The race detector makes sync.Pool forget at random, so allocations are counted without it.
func TestKeptDecodersAndEncodersAllocateLittle(t *testing.T) {
	s := fourScalars()
	data := plainBytes(t, s)
	for _, c := range []struct {
		what string
		most float64
		do   func() error
	}{
		{"UnmarshalSession", 37, func() error { _, err := UnmarshalSession(data); return err }},
		{"Marshal", 20, func() error { _, err := Marshal(s); return err }},
	} {
		got := testing.AllocsPerRun(200, func() {
			if err := c.do(); err != nil {
				t.Error(err)
			}
		})
		if got > c.most {
			t.Errorf("%s: got %v allocations, want at most %v", c.what, got, c.most)
		}
	}
}
