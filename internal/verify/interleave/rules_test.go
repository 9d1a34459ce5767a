//go:build go1.25

package interleave

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var rulesFlag = flag.Bool("explore.rules", false, "leave each rule of the protocol out of the code, and find out")

// A rule of the protocol is marked in one of ruleFiles, by a comment of the form
// //rule: name before the statement, or the case of a switch, that keeps it.
type rule struct {
	name string
	says string
	// by is what is there without the rule; empty: nothing.
	by string

	// Where it shows: in a scenario with so many events, of these kinds...
	scenario string
	events   string
	kinds    string // "": flush and fail
	// ... or in a test of package tiered.
	test string
}

// Schedules with two switches show all that schedules show: ten need none, ten need
// one, and "fill" needs two. Until three violations of each that is 6,600 schedules,
// and 12,300 without a bound.
var rules = []rule{
	{
		name: "touch", says: "what a request has not changed does not win",
		by:       "st.value = c.Value\nfor i := range st.cells { st.cells[i].at = at }",
		scenario: "cached change:a+change:b", events: "0",
	},
	{
		name: "later", says: "the later change wins, whoever merges last",
		by:       "if b[0].at != c.at { c, changed = b[0], true }",
		scenario: "cached async:a+delete:a", events: "0",
	},
	{
		name: "lease", says: "a refill replaces the lease that it took before it read, and nothing else",
		by: "if now, gerr := s.get(ctx, id); gerr == nil && !now.is(absent) { mine = now }\n" +
			"_, _, err = s.swap(ctx, id, mine, fill)",
		scenario: "evicted read+change:a", events: "0",
	},
	{
		name: "fill", says: "somebody's lease is never replaced by a value",
		by:       "case seen.is(lease):\nif e := s.entryOf(id, committed); e != nil { return e, nil }",
		scenario: "cached change:a+change:b+read", events: "1",
	},
	{
		name: "publish", says: "what is published is joined with what is there",
		by:       "n, changed, err := committed.clone().markSaved(), true, error(nil)",
		scenario: "cached async:a+change:b", events: "0",
	},
	{
		name: "unsaved", says: "what is later than what was committed stays unsaved",
		by:       "case c.unsaved:\nn.cells[i].unsaved, changed, progress = false, true, true",
		scenario: "cached async:a+async:b", events: "1",
	},
	{
		name: "second-marker", says: "a second marker ends a refill that has read the record before",
		by:       "markErr := error(nil)",
		scenario: "evicted read+logout", events: "1",
	},

	// What only the cache has, and what fits.
	{
		name: "rescue", says: "what only the item has is committed before the item goes",
		scenario: "cached async:a#300+change:b#9000 small", events: "1", kinds: "crash",
	},
	{
		name: "alone", says: "what is larger than half the reserve does not live in the cache alone",
		by:   "case e == nil:\nreturn nil, errNotCached",
		test: "TestWhatIsLargerThanHalfTheReserveDoesNotLiveInTheCacheAlone",
	},
	{
		name: "reserve", says: "a change leaves the reserve free",
		by:   "return nil",
		test: "TestAChangeThatTakesFromTheReserveIsRefusedBeforeAnythingIsWritten",
	},

	// Clocks that are ahead.
	{
		name: "due", says: "an attempt that is due later than the interval is due now",
		by:   "return now >= st.next",
		test: "TestAnAttemptThatIsPutOffForLongerThanAnyIntervalIsDue",
	},
	{
		name: "swept", says: "an hour that began in the future begins again",
		by:   "case st.swept == 0:\nst.swept = now\nfor i := range st.cells { st.cells[i].aged = false }",
		test: "TestADeletionIsForgottenAfterAnHourOrTwo",
	},
	{
		name: "distrust", says: "a session that was used in the future was used now",
		by:   "if now == 0 || true { return }",
		test: "TestASessionEndsThatAClockAheadHasUsed",
	},
	{
		name: "last-stamp", says: "the last stamp is followed by none",
		test: "TestTheLastStampIsFollowedByNone",
	},

	// Moves.
	{
		name: "seal", says: "no asynchronous change while the session moves",
		scenario: "cached async:a+regenerate bare", events: "0",
	},
	{
		name: "move-unsaved", says: "what only the item has moves along",
		by:   "_ = sealed",
		test: "TestAMoveTakesAlongWhatOthersHaveSaved",
	},
	{
		name: "move-empties", says: "the session ends under the old id in the step in which it begins under the new one",
		scenario: "cached read+regenerate cascade", events: "0",
	},
	{
		name: "move-marker", says: "the cache learns that the session has moved",
		by:       "err := m.fill(ctx)",
		scenario: "cached read+regenerate cascade", events: "0",
	},
	{
		name: "move-recognised", says: "an attempt that seemed to fail is recognised",
		by:       "if m != nil { return false, nil }",
		scenario: "cached read+regenerate cascade", events: "1", kinds: "lost",
	},
	{
		name: "move-watched", says: "there is no session under an id that nobody was told",
		by:       "err := error(nil)",
		scenario: "cached read+regenerate cascade", events: "1", kinds: "cut",
	},
	{
		name: "move-resealed", says: "a move that is given up does not end a seal that another one relies on",
		by:   "if s.Cache == nil || m.from == \"\" {\nreturn\n}",
		test: "TestAMoveThatIsGivenUpLeavesTheSessionSealedForAnother",
	},

	// Owners.
	{
		name: "owner-lists", says: "a session is listed in the update in which it gets its owner",
		scenario: "cached read+enter owned bare", events: "0",
	},
	{
		name: "owner-ending", says: "sessions are ending in the index before they are removed",
		scenario: "cached regenerate+endall owned bare", events: "0",
	},
	{
		name: "owner-mover", says: "a session that is ending does not move",
		scenario: "cached regenerate+endall owned bare", events: "0",
	},
	{
		name: "owner-old", says: "the old id of a session that has moved stays listed until the cache knows",
		by:       "x = slices.DeleteFunc(x, func(l listing) bool { return l.id == m.from })",
		scenario: "cached regenerate+endall owned bare", events: "1", kinds: "crash",
	},
	{
		name: "owner-oldest", says: "the oldest of an owner's sessions are the first to end",
		by:       "return append(ended, living...)[len(ids)-n:]",
		scenario: "cached enter+enter owned most=2 sessions", events: "0",
	},
	{
		name: "login-moves", says: "a session that gets another owner gets another id",
		scenario: "cached read+own sessions", events: "0",
	},
	{
		name: "login-again", says: "a login to a session that is gone takes nothing of it along",
		by:       "value, err := ch.Value, error(nil)",
		scenario: "cached own+logout sessions", events: "0",
	},
	{
		name: "purge-index", says: "a purge deletes an index only if it still has expired",
		by:       "err = datastore.DeleteMulti(ctx, batch)",
		scenario: "lapsed purge+own sessions", events: "0",
	},
}

var ruleFiles = []string{"../../tiered/*.go", "../../live/*.go", "../../gae/*.go"}

var marker = regexp.MustCompile(`^//rule: (\S+)$`)

// A marked is what a rule's marker is before.
type marked struct {
	file       string
	start, end int
}

// findMarked returns what the markers are before, by their name.
func findMarked(t *testing.T) map[string][]marked {
	t.Helper()
	var files []string
	for _, pattern := range ruleFiles {
		of, err := filepath.Glob(pattern)
		if err != nil || len(of) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		files = append(files, of...)
	}
	found := map[string][]marked{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := gotoken.NewFileSet()
		tree, err := parser.ParseFile(set, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range tree.Comments {
			for _, c := range group.List {
				if m := marker.FindStringSubmatch(c.Text); m != nil {
					of := marked{file: file}
					if s := statementAfter(tree, c.End()); s != nil {
						of.start, of.end = set.Position(s.Pos()).Offset, set.Position(s.End()).Offset
					}
					found[m[1]] = append(found[m[1]], of)
				}
			}
		}
	}
	return found
}

// statementAfter returns the outermost of the statements that begin first after
// a position.
func statementAfter(tree ast.Node, pos gotoken.Pos) (first ast.Stmt) {
	ast.Inspect(tree, func(n ast.Node) bool {
		if s, ok := n.(ast.Stmt); ok && s.Pos() > pos && (first == nil || s.Pos() < first.Pos()) {
			first = s
		}
		return true
	})
	return first
}

// without returns the source of a file without a rule.
func without(t *testing.T, r rule, of marked) []byte {
	t.Helper()
	code, err := os.ReadFile(of.file)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(code[:of.start], []byte(r.by), code[of.end:])
}

func TestEveryRuleIsMarkedOnce(t *testing.T) {
	found := findMarked(t)
	for _, r := range rules {
		of := found[r.name]
		delete(found, r.name)
		if len(of) != 1 {
			t.Errorf("%s: marked %d times", r.name, len(of))
			continue
		}
		if of[0].end == 0 {
			t.Errorf("%s: no statement after its marker", r.name)
			continue
		}
		if _, err := parser.ParseFile(gotoken.NewFileSet(), of[0].file, without(t, r, of[0]), 0); err != nil {
			t.Errorf("%s: left out, this is no code: %v", r.name, err)
		}
		if _, err := parseScenario(r.scenario); err != nil && r.test == "" {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	for name := range found {
		t.Errorf("%s: marked, and no rule", name)
	}
}

func TestARuleLeftOutIsCaught(t *testing.T) {
	if !*rulesFlag {
		t.Skip("no -explore.rules")
	}
	found := findMarked(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			of := found[r.name]
			if len(of) != 1 {
				t.Fatalf("marked %d times", len(of))
			}
			overlay := overlayOf(t, of[0].file, without(t, r, of[0]))
			if r.test != "" {
				catchByTest(t, r, overlay)
				return
			}
			catchInSchedules(t, r, overlay)
		})
	}
}

// overlayOf has a file replaced while something is built.
func overlayOf(t *testing.T, file string, code []byte) (overlay string) {
	t.Helper()
	original, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	patched, overlay := filepath.Join(dir, filepath.Base(file)), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: patched}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{patched: code, overlay: replace} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlay
}

func build(t *testing.T, overlay, pkg string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "without.test")
	out, err := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}

var failure = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

func catchByTest(t *testing.T, r rule, overlay string) {
	out, err := exec.Command(build(t, overlay, "../../tiered"), "-test.run="+r.test, "-test.timeout=2m").CombinedOutput()
	failed := failure.FindAllSubmatch(out, -1)
	if err == nil || len(failed) == 0 {
		t.Fatalf("without %q no test of package tiered fails: %v\n%s", r.says, err, out)
	}
	t.Logf("without %q: %s", r.says, failed[0][1])
}

func catchInSchedules(t *testing.T, r rule, overlay string) {
	binary := build(t, overlay, ".")
	kinds := r.kinds
	if kinds == "" {
		kinds = "flush fail"
	}
	began := time.Now()
	out, err := exec.Command(binary, "-test.run=^TestPromisesHoldInEverySchedule$", "-test.timeout=2m",
		"-explore.scenario="+r.scenario, "-explore.events="+r.events, "-explore.kinds="+kinds, "-explore.time=1m", "-explore.switches=2").CombinedOutput()
	took := time.Since(began).Round(time.Millisecond)
	found := regexp.MustCompile(`after (\d) switches\s+-explore.trace='([^']*)'`).FindSubmatch(out)
	if err == nil || found == nil {
		t.Fatalf("without %q nothing is found in %v: %v\n%s", r.says, took, err, out)
	}
	t.Logf("without %q, found in %v with %s switches: %s", r.says, took, found[1], found[2])
	out, err = exec.Command(binary, "-test.run=^TestReplay$", fmt.Sprintf("-explore.trace=%s", found[2])).CombinedOutput()
	if err == nil {
		t.Errorf("not found again when the trace was replayed: %s", out)
	}
}
