package tiertest_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A childResult is how a run of this test binary has ended.
type childResult struct {
	out []byte
	err error
}

// startChild runs tests of this binary in a process of its own, until they fail,
// but attempts times at most. All children run at once, as most of them wait.
func startChild(run, env string, attempts int) <-chan childResult {
	done := make(chan childResult, 1)
	go func() {
		var r childResult
		for ; attempts > 0 && r.err == nil; attempts-- {
			child := exec.Command(os.Args[0], "-test.run="+run, "-test.timeout=2m")
			child.Env = append(os.Environ(), env)
			r.out, r.err = child.CombinedOutput()
		}
		done <- r
	}()
	return done
}

// expectFailure fails t if that test has not failed in the child.
func (r childResult) expectFailure(t *testing.T, name string) {
	t.Helper()
	if r.err == nil {
		t.Fatalf("%s has not seen it:\n%s", name, r.out)
	}
	if !strings.Contains(string(r.out), "--- FAIL: "+name) {
		t.Errorf("%s has not failed, but ended with %v:\n%s", name, r.err, r.out)
	}
}
