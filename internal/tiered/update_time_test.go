//go:build go1.25

package tiered_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
)

func TestAChangeWaitsForTheOwnerOfWhatIsAheadForTwoSeconds(t *testing.T) {
	for name, test := range map[string]struct {
		after time.Duration // the owner ends
		took  time.Duration
		want  string
	}{
		"the owner ends": {time.Second, time.Second, "a0 b1"},
		// Either may win then, as the package documentation says.
		"the owner ends late": {time.Minute, 2 * time.Second, "a1 b1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, s := created(t, "a0")
				s.hook(down("backup"))
				if err := st.Update(ctx(), id, load(t, st), record("a1")); !errors.Is(err, errDown) {
					t.Errorf("got %v, want the error of the backup", err)
				}
				s.hook(nil)
				l := load(t, st)
				release := locked(t, st, s, "a1 b1")
				ended := make(chan error, 1)
				time.AfterFunc(test.after, func() { ended <- release() })
				begin := time.Now()
				must(t, st.Update(ctx(), id, l, record("a0"))) // undoes what is ahead
				if took := time.Since(begin); took < test.took || took > test.took+200*time.Millisecond {
					t.Errorf("the change took %v, want %v", took, test.took)
				}
				must(t, <-ended)
				expectKept(t, st, s, test.want)
			})
		})
	}
}

func TestATransactionIsTriedAgainAsOftenAsItMakesSense(t *testing.T) {
	for name, test := range map[string]struct {
		answer error
		op     string
		want   int
		err    error
	}{
		"the service fails":  {errDown, "backup.commit", 2, errDown},
		"others were faster": {tiered.ErrContention, "backup.commit", 26, tiered.ErrContention},
		"it is too large":    {tiered.ErrTooLarge, "backup.commit", 1, tiered.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, s := created(t, "a0")
				l := load(t, st)
				s.hook(func(_ context.Context, c call) error {
					if c.op == test.op && !c.done {
						return test.answer
					}
					return nil
				})
				if err := st.Update(ctx(), id, l, record("a1")); !errors.Is(err, test.err) {
					t.Errorf("got %v, want %v", err, test.err)
				}
				if n := s.count(test.op); n != test.want {
					t.Errorf("tried %d times, want %d", n, test.want)
				}
			})
		})
	}
}
