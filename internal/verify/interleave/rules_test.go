//go:build go1.25

package interleave

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var rulesFlag = flag.Bool("explore.rules", false, "leave each rule of the protocol out of the code, and find out")

// A rule of the protocol, what the code is without it, and where that shows. The
// code is patched in a copy that takes the place of the file while a test binary
// is built.
var rules = []struct {
	name     string
	file     string
	old, new string
	scenario string
	events   string
}{
	{
		"touch: what a request has not changed does not win", "update.go",
		"\tst.value = c.Value\n",
		"\tst.value = c.Value\n\tfor i := range st.cells {\n\t\tst.cells[i].at = p.stamp\n\t}\n",
		"cached change:a+change:b", "0",
	},
	{
		"later: the later change wins, whoever merges last", "record.go",
		"case c.at > at && (all", "case c.at != at && (all",
		"cached async:a+delete:a", "0",
	},
	{
		"lease: a refill replaces the lease that it took before it read, and nothing else", "load.go",
		"\t_, _, err = s.swap(ctx, id, mine, fill, ttl)\n",
		"\tif now, gerr := s.get(ctx, id); gerr == nil && now != nil {\n\t\tmine = now\n\t}\n\t_, _, err = s.swap(ctx, id, mine, fill, ttl)\n",
		"evicted read+change:a", "0",
	},
	{
		"fill: a lease is never replaced by a value", "update.go",
		"case seen.own:", "case seen.is(lease):",
		"cached change:a+change:b+read", "1",
	},
	{
		"publish: what is published is joined with what is there", "update.go",
		"n, changed, err := s.published(seen.state, committed)",
		"n, changed, err := committed.saved(), true, error(nil)",
		"cached async:a+change:b", "0",
	},
	{
		"unsaved: what is later than what was committed stays unsaved", "update.go",
		"case c.unsaved && at >= c.at:", "case c.unsaved:",
		"cached async:a+async:b", "1",
	},
	{
		"seal: no asynchronous change while the session moves", "update.go",
		"if async && time.Now().Before(into.sealed) {", "if async && into == nil {",
		"cached async:a+regenerate bare", "0",
	},
}

func TestARuleLeftOutIsCaught(t *testing.T) {
	if !*rulesFlag {
		t.Skip("no -explore.rules")
	}
	for _, r := range rules {
		name, _, _ := strings.Cut(r.name, ":")
		t.Run(name, func(t *testing.T) {
			binary := buildWithout(t, r.file, r.old, r.new)
			began := time.Now()
			out, err := exec.Command(binary, "-test.run=^TestPromisesHoldInEverySchedule$", "-test.timeout=2m",
				"-explore.scenario="+r.scenario, "-explore.events="+r.events, "-explore.kinds=flush fail", "-explore.time=1m").CombinedOutput()
			took := time.Since(began).Round(time.Millisecond)
			found := regexp.MustCompile(`-explore.trace='([^']*)'`).FindSubmatch(out)
			if err == nil || found == nil {
				t.Fatalf("without %q nothing is found in %v: %v\n%s", r.name, took, err, out)
			}
			t.Logf("without %q, found in %v: %s", r.name, took, found[1])
			out, err = exec.Command(binary, "-test.run=^TestReplay$", "-explore.trace="+string(found[1])).CombinedOutput()
			if err == nil {
				t.Errorf("not found again when the trace was replayed: %s", out)
			}
		})
	}
}

// buildWithout returns this test's binary, with one passage of a file of package
// tiered replaced by another.
func buildWithout(t *testing.T, file, passage, by string) (binary string) {
	t.Helper()
	original, err := filepath.Abs(filepath.Join("..", "..", "tiered", file))
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(code), passage); n != 1 {
		t.Fatalf("%s has %d times what is to be replaced, want once: %s", file, n, passage)
	}
	dir := t.TempDir()
	patched, overlay := filepath.Join(dir, file), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: patched}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{patched: strings.Replace(string(code), passage, by, 1), overlay: string(replace)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary = filepath.Join(dir, "interleave.test")
	out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}
