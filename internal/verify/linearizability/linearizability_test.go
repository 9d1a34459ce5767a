package linearizability

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

var (
	operations = flag.Int("linearizability.ops", 2000, "operations of a run on gaelocal; a tenth of it on Google's server")
	seed       = flag.Uint64("linearizability.seed", 0, "seed of the clients; 0: a new one")
)

func newRun(s *gaetest.Service) *run {
	r := &run{service: s, seed: *seed, operations: *operations, delay: 2 * time.Millisecond}
	if r.seed == 0 {
		r.seed = uint64(time.Now().UnixNano())
	}
	return r
}

func TestHistoriesAreLinearizable(t *testing.T) {
	for _, mode := range []struct {
		name     string
		async    float64
		evicting bool
	}{
		{"synchronous", 0, false},
		{"synchronous, evicting", 0, true},
		{"asynchronous", 1, false},
		{"asynchronous, evicting", 1, true},
		{"mixed", 0.5, false},
		{"mixed, evicting", 0.5, true},
	} {
		t.Run(mode.name, func(t *testing.T) {
			on := gaetest.OnEach
			if mode.async != 0.5 {
				on = onLocal // Google's server takes its time
			}
			on(t, func(t *testing.T, s *gaetest.Service) {
				r := newRun(s)
				r.async, r.evicting = mode.async, mode.evicting
				if strings.HasSuffix(t.Name(), "google") {
					r.operations /= 10
				}
				history := r.do(t)
				for _, wrong := range r.promised(history) {
					t.Errorf("seed %d: %s", r.seed, wrong)
				}
				verdict := linearize(history)
				t.Logf("%s; %s", r.describe(history), verdict)
				if verdict.result == porcupine.Illegal {
					t.Errorf("seed %d: %s", r.seed, verdict.explain(t))
				}
			})
		})
	}
}

func onLocal(t *testing.T, f func(t *testing.T, s *gaetest.Service)) {
	t.Run("gaelocal", func(t *testing.T) { f(t, gaetest.Local(t)) })
}

func (r *run) describe(history []porcupine.Operation) string {
	kinds := map[kind]int{}
	for _, op := range history {
		kinds[kindOf(op)]++
	}
	return fmt.Sprintf("seed %d: %d operations on %d sessions (%d reads, %d changes, %d refused, %d unsure, %d logouts), %d evictions, errors %v",
		r.seed, len(history), r.born, kinds[read], kinds[write], kinds[refused], kinds[unsure], kinds[logout], len(r.losses), r.errs)
}
