//go:build go1.25

package tiered

import (
	"strings"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

func TestWhatIsTooLargeForTheCacheIsInTheBackup(t *testing.T) {
	big := "a=" + strings.Repeat("x", 400)
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
				s := created(t, "a=1")
				s.fits = 300
				must(t, change(s.opened(t, "A"), big))
				expect(t, "cached", s.cached(), "lease")
				expect(t, "now", s.request(t, "judge").see(), big)
				// It fits again.
				must(t, change(s.opened(t, "B"), "a=2"))
				time.Sleep(leaseTTL)
				must(t, s.opened(t, "C").settle())
				expect(t, "cached", s.cached(), "a=2")
				s.expectKept(t, "a=2")
			})
		})
	}
}

func TestWhatIsTooLargeForTheBackupIsRefusedAndChangesNothing(t *testing.T) {
	for name, change := range changes {
		// With its trailer it is 48 bytes longer at least.
		for _, size := range []int{170, 400} {
			t.Run(name, func(t *testing.T) {
				onBoth(t, func(t *testing.T, created func(*testing.T, string) *services) {
					s := created(t, "a=1")
					s.large = 200
					r := s.opened(t, "A")
					expectErr(t, "change", change(r, "a="+strings.Repeat("x", size)), tier.ErrTooLarge)
					drain(t)
					expect(t, "cached", s.cached(), "a=1")
					// The session is what it was, and may be changed.
					must(t, change(r, "a=2"))
					s.expectKept(t, "a=2")
				})
			})
		}
	}
}
